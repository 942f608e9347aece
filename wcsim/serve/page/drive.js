// ---- the page: what its controls do ----
let looping = false;
async function loop() {
  if (looping) return;
  looping = true;
  try {
    while (places.length && (playing || holding || poll())) {
      const began = performance.now();
      await tick();
      const left = 1000 / hello.fps - (performance.now() - began);
      await new Promise(done => setTimeout(done, Math.max(0, left)));
    }
  } finally { looping = false; }
}
function pause() { playing = holding = false; buttons(); }
function buttons() { $("play").textContent = playing ? "Pause" : "Play"; $("play").setAttribute("aria-pressed", playing); }
function enable() {
  const on = places.length > 0;
  for (const id of ["play", "step", "reset", "branch"]) $(id).disabled = !on;
  $("undo").disabled = !on || past.length < 2;
  $("save").disabled = $("record").disabled = !on || past.length + gone < 2;
  $("driver").disabled = !on;
  $("start").disabled = false;
}
function lost(why) {
  places = [];
  pause();
  enable();
  tell(why.message + "; press Start to connect again", true);
}
function takeOver() { $("driver").value = ""; }
async function save() {
  await idle();
  say("writing the video ...");
  const made = await ask("film", { sessions: places.map(place => place.session), names: places.map(place => place.name) });
  const name = `${hello.world}-seed${$("seed").value}`;
  download(made.mp4, `${name}.mp4`, "video/mp4");
  download(made.npz, `${name}.npz`, "application/octet-stream");
  say(`saved ${name}.mp4 and .npz`);
}
async function record() {  // on the server, and as two links here
  await idle();
  say("recording ...");
  const name = $("name").value, names = places.map(place => place.name);
  const of = names.includes($("of").value) ? $("of").value : names[0];
  const made = await ask("record", { sessions: places.map(place => place.session), names, of, name });
  const link = (bytes, file, type, words) => {
    const one = document.createElement("a");
    one.href = URL.createObjectURL(new Blob([bytes], { type }));
    one.download = file;
    one.textContent = `${words} (${(bytes.length / 1024).toFixed(0)} KiB)`;
    return one;
  };
  for (const old of $("recorded").children) URL.revokeObjectURL(old.href);
  const episodes = made.episodes === 1 ? "1 episode" : `${made.episodes} episodes`;
  $("recorded").replaceChildren(link(made.zip, `${name}.zip`, "application/zip", `Dataset, ${episodes}`),
    link(made.mp4, `${name}-${made.episodes}.mp4`, "video/mp4", "Video of this drive"));
  say(`recorded: ${name} has ${episodes}`);
}
function download(bytes, name, type) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([bytes], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
function address() {  // all that makes this start, to be shared
  const query = new URLSearchParams({ world: hello.world, seed: $("seed").value, steps: $("steps").value, cache: $("cache").value });
  for (const id of ["uncached", "truth"]) if (!$(id).checked) query.set(id, "no");
  history.replaceState(null, "", "?" + query);
}
async function share() {
  await navigator.clipboard.writeText(location.href);
  say("the address is copied: it opens this start");
}
function say(what) { $("said").textContent = what; }
function show() {
  document.title = `${hello.world} - wcsim`;
  $("world").textContent = hello.world;
  $("about").textContent = hello.description;
  $("msnote").textContent = `deadline ${(1000 / hello.fps).toFixed(0)} ms (dashed)`;
  const q = leading();
  $("errnote").textContent = q ? `${q.name.replaceAll("_", " ")}, ${q.kind === "angle" ? "degrees" : q.unit}` : "";
  $("truthbox").hidden = !hello.truth;
  const query = new URLSearchParams(location.search);
  if (!$("cache").options.length) {
    for (const name of hello.caches.filter(one => one !== "none")) $("cache").add(new Option(name));
    for (const name of hello.worlds) $("choice").add(new Option(name));
    $("choicebox").hidden = hello.worlds.length < 2;
    $("cache").value = hello.caches.includes(query.get("cache")) ? query.get("cache") : "wcsim";
    for (const id of ["uncached", "truth"]) $(id).checked = query.get(id) !== "no";
    if (query.get("seed")) $("seed").value = query.get("seed");
    $("steps").value = query.get("steps") || hello.default_steps;
  } else $("steps").value = hello.default_steps;
  $("steps").max = hello.limits.denoise_steps;
  $("choice").value = hello.world;
  $("driver").replaceChildren(new Option("you", ""), ...hello.drivers.map(name => new Option(name)));
  $("of").replaceChildren(...Object.entries(TITLES).filter(([name]) => name !== "truth" || hello.truth).map(([name, title]) => new Option(title, name)));
  $("kept").hidden = !hello.keeps;
  scheme();
  tell("connected");
}
const guarded = work => async event => {
  event?.preventDefault?.();
  try { await work(); } catch (error) { pause(); tell(error.message, true); enable(); }
};
const on = (id, kind, work) => $(id).addEventListener(kind, guarded(work));
on("setup", "submit", begin);
on("choice", "change", begin);
on("cache", "change", refine);
on("steps", "change", async () => { if ($("steps").checkValidity()) await refine(); });
on("share", "click", share);
on("play", "click", async () => { playing = !playing; buttons(); if (playing) await loop(); });
on("step", "click", () => tick());
on("undo", "click", async () => { pause(); await undo(); });
on("reset", "click", async () => { pause(); await idle(); await reset(); });
on("save", "click", async () => { pause(); await save(); });
on("keep", "submit", async () => { pause(); await record(); });
on("driver", "change", async () => { if ($("driver").value && !playing) { playing = true; buttons(); await loop(); } });
on("branch", "click", async () => { pause(); await branch(); });
addEventListener("keydown", event => {
  if (event.target.matches("input, select") || event.ctrlKey || event.metaKey || event.altKey || !places.length) return;
  const keys = { " ": "play", s: "step", u: "undo", r: "reset", b: "branch" };
  if (event.key in KEYS && (KEYS[event.key][0] !== "switch" || axis("switch") >= 0) && axis(KEYS[event.key][0]) >= 0) {
    event.preventDefault();
    takeOver();
    nudge(...KEYS[event.key]);
    draw();
  } else if (event.key in keys && !(event.key === " " && event.target.matches("button"))) {
    event.preventDefault();
    $(keys[event.key]).click();
  }
});
let polling = null;
addEventListener("gamepadconnected", () => {
  say("gamepad: the stick drives, A switches, B undoes, X steps, Y resets, Start plays");
  polling ||= setInterval(() => { if (places.length && poll()) { takeOver(); guarded(loop)(); } }, 50);
});
addEventListener("resize", () => { if (hello && places.length) draw(); });
guarded(async () => { await connect(new URLSearchParams(location.search).get("world")); show(); await begin(); })();
