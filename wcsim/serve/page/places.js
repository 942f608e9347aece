// ---- places: the world cached, the world uncached, the truth ----
const TITLES = { cached: "world, cached", uncached: "world, uncached", truth: "truth" };
let places = [], past = [], gone = 0, playing = false, holding = false, busy = false, epoch = 0;
function work(on) { busy = on; $("places").setAttribute("aria-busy", on); }
let series = { ms: {}, skipped: {}, err: {} };
const idle = async () => { while (busy) await new Promise(done => setTimeout(done, 5)); };
const fidelity = name => ({ steps: Number($("steps").value), cache: name === "uncached" ? "none" : $("cache").value });

async function begin() {
  const mine = ++epoch;
  pause();
  await idle();
  const name = $("choice").value;
  if (!socket || socket.readyState !== WebSocket.OPEN || (name && hello.world !== name)) {
    places = [];
    await connect(name);
    show();
  }
  const old = places;
  places = [];
  forget();
  enable();
  $("start").disabled = true;
  for (const place of old) await ask("close", { session: place.session });
  const wanted = [["cached", { fidelity: fidelity("cached") }]];
  if ($("uncached").checked) wanted.push(["uncached", { fidelity: fidelity("uncached") }]);
  if (hello.truth && $("truth").checked) wanted.push(["truth", { place: "truth" }]);
  const made = [];
  for (const [name, settings] of wanted) {
    const { session } = await ask("open", { record: true, ...settings });
    made.push({ name, session, ...panel(name) });
  }
  places = made;
  $("places").style.setProperty("--count", places.length);
  $("places").replaceChildren(...places.map(place => place.figure));
  address();
  if (mine === epoch) await reset();
}
async function refine() {  // another cache or number of steps, from here on
  if (!places.length) return;
  await idle();
  for (const place of places) if (place.name !== "truth") await ask("fidelity", { session: place.session, fidelity: fidelity(place.name) });
  address();
  say(`from here on ${$("steps").value} steps, cache ${$("cache").value}`);
}
function canvas(label) {
  const made = document.createElement("canvas"), [height, width] = hello.frame_size, scale = Math.max(1, Math.floor(768 / width));
  [made.height, made.width] = [height * scale, width * scale];
  made.setAttribute("role", "img");
  made.setAttribute("aria-label", label);
  return made;
}
function panel(name) {
  const figure = document.createElement("figure"), caption = document.createElement("figcaption");
  const title = document.createElement("b"), told = document.createElement("span"), picture = canvas(TITLES[name]);
  title.textContent = TITLES[name];
  title.style.setProperty("--tint", `var(--${name})`);
  told.className = "note";
  picture.id = "canvas-" + name;
  const follow = event => {
    const box = picture.getBoundingClientRect();
    point((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
    draw();
  };
  picture.addEventListener("pointerdown", event => {
    picture.setPointerCapture(event.pointerId); holding = true; takeOver(); follow(event); loop(); });
  picture.addEventListener("pointermove", event => { if (holding || playing) follow(event); });
  for (const kind of ["pointerup", "pointercancel"]) picture.addEventListener(kind, () => { holding = false; release(); draw(); });
  picture.addEventListener("wheel", event => {
    if (axis("height") < 0) return;
    event.preventDefault();
    nudge("height", event.deltaY < 0 ? 1 : -1);
    draw();
  }, { passive: false });
  caption.append(title, told);
  figure.append(caption, picture);
  return { figure, canvas: picture, told };
}
async function reset() {
  const seed = Math.max(0, Math.floor(Number($("seed").value) || 0));
  const told = await Promise.all(places.map(place => ask("reset", { session: place.session, seed, snapshot: true })));
  series = { ms: {}, skipped: {}, err: {} };
  past = [];
  gone = 0;
  forget();
  places.forEach((place, n) => { arrive(place, told[n].tick); place.snapshot = told[n].snapshot; place.ms = undefined; });
  begins(places[0].estimate);
  remember();
  say("at the start");
  draw();
  enable();
}
function arrive(place, tick) {
  place.pixels = tick.pixels.data;
  place.estimate = Object.fromEntries(Object.entries(tick.estimate.values).map(([name, value]) => [name, value.data]));
  place.progress = tick.estimate.progress.data[0];
  place.skipped = skipped(tick.trace);
}
const skipped = trace => trace ? 1 - trace.blocks.data.reduce((a, b) => a + Number(b), 0) / trace.blocks.data.length / trace.depth : null;
async function tick(planned = null) {  // planned: the action, or null for the hand's
  if (busy || !places.length) return;
  work(true);
  try {
    const action = planned || await driven() || wanted(places[0].estimate);
    const actions = rows([action]);
    const told = await Promise.all(places.map(place => ask("step", { session: place.session, actions, snapshot: true })));
    places.forEach((place, n) => {
      arrive(place, told[n].ticks[0]);
      place.snapshot = told[n].snapshot;
      place.ms = told[n].timing.step;
      if (place.name === "truth") return;
      (series.ms[place.name] ||= []).push(place.ms);
      (series.skipped[place.name] ||= []).push(100 * place.skipped);
    });
    compare();
    remember();
    say("step " + (past.length - 1 + gone));
  } finally { work(false); }
  draw();
  enable();
}
async function driven() {  // the action of the policy that drives; null where a person does
  const driver = $("driver").value;
  if (!driver) return null;
  const action = Array.from((await ask("act", { session: places[0].session, driver })).action.data);
  hand.target = action.map((v, i) => hello.driving.places[i] ? v : 0);
  return action;
}
const leading = () => hello.state.quantities.find(q => q.goal) || hello.state.quantities[0];
function compare() {
  const truth = places.find(place => place.name === "truth"), q = leading();
  if (!truth || !q) return;
  for (const place of places) if (place !== truth) {
    const a = place.estimate[q.name], b = truth.estimate[q.name], turns = q.symmetry || 1;
    let e = Math.hypot(...Array.from(a, (v, i) => v - b[i]));
    if (q.kind === "angle") {
      const turn = (a[0] - b[0]) * turns;
      e = Math.abs(Math.atan2(Math.sin(turn), Math.cos(turn))) * 180 / Math.PI / turns;
    }
    (series.err[place.name] ||= []).push(e);
  }
}
function remember() {
  past.push({ target: [...hand.target], kept: places.map(({ snapshot, progress, ms, skipped, estimate }) => (
    { snapshot, progress, ms, skipped, estimate })) });
  while (past.length > hello.limits.snapshots) { past.shift(); gone++; }
}
async function undo() {
  await idle();
  if (past.length < 2) return;
  past.pop();
  const to = past[past.length - 1];
  const told = await Promise.all(places.map((place, n) => ask("restore", { session: place.session, snapshot: to.kept[n].snapshot })));
  places.forEach((place, n) => { place.pixels = told[n].pixels.data; Object.assign(place, to.kept[n]); });
  hand.target = [...to.target];
  release();
  for (const kind in series) for (const name in series[kind]) series[kind][name].pop();
  say("step " + (past.length - 1 + gone) + ", undone");
  draw();
  enable();
}
function draw() {
  const [height, width] = hello.frame_size, at = mark();
  for (const place of places) {
    if (!place.pixels) continue;
    const context = paint(place.canvas, place.pixels, height, width);
    if (at) {
      context.strokeStyle = "#d4267a";
      context.lineWidth = place.canvas.width / 128;
      context.beginPath();
      const x = at[0] * place.canvas.width, y = at[1] * place.canvas.height, arm = place.canvas.width / 40;
      context.moveTo(x - arm, y); context.lineTo(x + arm, y); context.moveTo(x, y - arm); context.lineTo(x, y + arm);
      context.stroke();
    }
    const parts = [`${hello.state.progress} ${(100 * (place.progress || 0)).toFixed(0)}%`];
    if (place.ms !== undefined && place.name !== "truth") parts.push(`${place.ms.toFixed(0)} ms`);
    if (place.skipped !== null) parts.push(`${(100 * place.skipped).toFixed(0)}% skipped`);
    place.told.textContent = parts.join(", ");
  }
  chart($("ms"), series.ms, { limit: 1000 / hello.fps });
  chart($("skipped"), series.skipped, { top: 100, unit: "%" });
  chart($("err"), series.err);
}
