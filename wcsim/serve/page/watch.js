// ---- runs as they grow: asked for every two seconds, and drawn where something is new ----
const $ = id => document.getElementById(id);
const cards = new Map();
const make = (kind, settings = {}, ...inside) => {
  const one = Object.assign(document.createElement(kind), settings);
  one.append(...inside);
  return one;
};
function card(name) {
  const made = { line: make("p", { className: "note" }), bar: make("progress", { max: 1, hidden: true }),
    curves: make("div", { className: "curves" }), videos: make("div", { className: "videos" }), seen: "", films: new Set() };
  made.kind = make("span", { className: "note" });
  made.section = make("section", { className: "card" }, make("h2", { textContent: name + " " }, made.kind), made.bar, made.line,
    made.curves, made.videos);
  made.section.setAttribute("aria-label", name);
  made.bar.setAttribute("aria-label", `progress of ${name}`);
  return made;
}
function update(run) {
  if (!cards.has(run.name)) cards.set(run.name, card(run.name));
  const here = cards.get(run.name);
  here.kind.textContent = run.kind;
  here.line.textContent = run.line;
  here.bar.hidden = run.share === null;
  if (run.share !== null) here.bar.value = run.share;
  const told = JSON.stringify(run.curves);
  if (told !== here.seen) {
    here.seen = told;
    here.curves.replaceChildren(...Object.keys(run.curves).map(name => make("figure", {}, make("figcaption", { textContent: name }),
      make("canvas"))));
    here.lines = Object.values(run.curves);
  }
  for (const film of run.videos) if (!here.films.has(film.key)) {
    here.films.add(film.key);
    const video = make("video", { controls: true, preload: "metadata", src: `/watch/video/${film.key}` });
    video.setAttribute("aria-label", film.name);
    here.videos.append(make("figure", {}, make("figcaption", { textContent: film.name }), video));
  }
  return here;
}
function curves() {
  for (const here of cards.values()) here.curves.querySelectorAll("canvas").forEach((canvas, n) => {
    chart(canvas, { cached: here.lines[n].map(point => point[1]) }, { low: Math.min(0, ...here.lines[n].map(point => point[1])) });
    canvas.setAttribute("aria-label", `${here.lines[n].length} points, the last ${short(here.lines[n].at(-1)[1])}`);
  });
}
async function look() {
  try {
    const answer = await fetch("/watch/runs");
    if (!answer.ok) throw new Error(await answer.text());
    const { runs, drives } = await answer.json();
    $("drive").hidden = !drives;
    const shown = runs.map(update).map(here => here.section);
    if (shown.some((one, n) => $("runs").children[n] !== one)) $("runs").replaceChildren(...shown);
    curves();
    $("status").textContent = runs.length === 1 ? "1 run" : `${runs.length} runs`;
    $("status").className = "";
  } catch (error) {
    $("status").textContent = `no answer: ${error.message}`;
    $("status").className = "bad";
  }
  setTimeout(look, 2000);
}
addEventListener("resize", curves);
look();
