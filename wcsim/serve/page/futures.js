// ---- futures: branches of the cached world under sampled actions, side by side ----
let futures = [];
function forget() {
  futures = [];
  $("futures").replaceChildren();
}
function normal() { return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()); }

// Places walk from where they are, changes are drawn anew, every four steps; a switch is thrown once or not at all.
function sampled(ticks, spread) {
  const { axes, places } = hello.driving, every = 4;
  const columns = hand.target.map((from, i) => {
    if (axes[i] === "switch") {
      const other = from === hello.action.high[i] ? hello.action.low[i] : hello.action.high[i], when = Math.floor(Math.random() * ticks * 2);
      return Array.from({ length: ticks }, (_, t) => t < when ? from : other);
    }
    const knots = [from];
    while (knots.length < ticks / every + 2) knots.push(bounded(i, (places[i] ? knots[knots.length - 1] : 0) + normal() * spread * range(i)));
    return Array.from({ length: ticks }, (_, t) => {
      const n = Math.floor(t / every), share = (t + 1) / every - n;
      return places[i] ? knots[n] + (knots[n + 1] - knots[n]) * share : knots[n + 1];
    });
  });
  return Array.from({ length: ticks }, (_, t) => columns.map(column => column[t]));
}
async function branch() {
  await idle();
  if (!places.length) return;
  const mine = epoch, ticks = Number($("ahead").value), spread = Number($("spread").value), count = Number($("count").value);
  work(true);
  let sessions = [];
  try {
    forget();
    ({ sessions } = await ask("branch", { session: places[0].session, count }));
    const made = sessions.map((session, n) => future(n, sampled(ticks, spread)));
    futures = made;
    $("futures").replaceChildren(...made.map(one => one.button));
    for (let t = 0; t < ticks && mine === epoch; t++) {
      const told = await Promise.all(sessions.map((session, n) => ask("step", { session, actions: rows([made[n].plan[t]]) })));
      made.forEach((one, n) => seenAhead(one, told[n].ticks[0]));
      say(`${count} futures, ${t + 1} of ${ticks} steps`);
    }
    made.forEach(one => { one.button.disabled = false; });
    const best = made.reduce((a, b) => b.progress > a.progress ? b : a);
    if (best.progress > Math.min(...made.map(one => one.progress))) best.button.classList.add("best");
  } finally {
    work(false);
    if (socket.readyState === WebSocket.OPEN) for (const session of sessions) await ask("close", { session }).catch(() => {});
  }
}
function future(n, plan) {
  const button = document.createElement("button"), told = document.createElement("span"), picture = canvas(`future ${n + 1}`);
  button.className = "future";
  button.disabled = true;
  button.append(picture, told);
  button.addEventListener("click", guarded(() => follow(plan)));
  return { button, told, picture, plan, progress: 0 };
}
function seenAhead(one, tick) {
  const [height, width] = hello.frame_size;
  paint(one.picture, tick.pixels.data, height, width);
  one.progress = tick.estimate.progress.data[0] || 0;
  one.told.textContent = `${hello.state.progress} ${(100 * one.progress).toFixed(0)}%`;
}
async function follow(plan) {  // play a future's actions in all places
  pause();
  await idle();
  forget();
  const mine = epoch;
  for (const action of plan) {
    if (mine !== epoch) return;
    hand.target = action.map((v, i) => hello.driving.places[i] ? v : 0);
    await tick(action);
  }
}
