// ---- the hand: pointer, wheel, keys, buttons and gamepad become an action, by the task's own scheme ----
// hello.driving says of each number of an action which axis it is, and whether it is a place to hold; else it is a change,
// and rests at 0.  With a camera, the robot is drawn to where the pointer is in the picture.
const hand = { target: [], impulse: [], at: null, pad: [0, 0, 0, 0] };
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const axis = name => hello.driving.axes.indexOf(name);
const range = i => hello.action.high[i] - hello.action.low[i];
const bounded = (i, value) => clamp(value, hello.action.low[i], hello.action.high[i]);
const FLAT = ["x", "y"], SPACE = ["x", "y", "height"];

function begins(estimate) {  // where the robot is, or the middle, or no change
  const { low, high } = hello.action, { axes, places } = hello.driving;
  const robot = hello.state.quantities.find(q => q.role === "robot" && q.kind === "position" && q.size === low.length);
  const at = robot && Array.from(estimate[robot.name]);
  const known = at && at.every((v, i) => v >= low[i] && v <= high[i]);
  hand.target = low.map((v, i) => !places[i] ? 0 : known ? at[i] : axes[i] === "switch" ? v : (v + high[i]) / 2);
  hand.impulse = low.map(() => 0);
  hand.at = null;
}
function point(u, v) {  // shares of the picture
  hand.at = [clamp(u, 0, 1), clamp(v, 0, 1)];
  FLAT.forEach((name, side) => {
    const i = axis(name);
    if (i >= 0 && hello.driving.places[i]) hand.target[i] = hello.action.low[i] + range(i) * hand.at[side];
  });
}
const release = () => { hand.at = null; };
function nudge(name, sign) {
  const i = axis(name), side = FLAT.indexOf(name), camera = hello.driving.camera.length;
  if (i < 0 || !hand.target.length) return;
  if (hello.driving.axes[i] === "switch") flip(i);
  else if (hello.driving.places[i]) hand.target[i] = bounded(i, hand.target[i] + sign * range(i) / 24);
  else if (camera && side >= 0) {
    hand.at ||= shown(places[0].estimate) || [.5, .5];
    hand.at[side] = clamp(hand.at[side] + sign / 16, 0, 1);
  } else push(i, sign);
}
function push(i, sign) {
  const { places } = hello.driving;
  if (places[i]) hand.target[i] = bounded(i, hand.target[i] + sign * range(i) / 24);
  else hand.impulse[i] = clamp(hand.impulse[i] + sign * .5, -2, 2);
}
function flip(i) {
  const { low, high } = hello.action;
  hand.target[i] = hand.target[i] > (low[i] + high[i]) / 2 ? low[i] : high[i];
}

// Pixels of the frame under a place of the robot, and how they change with its first two coordinates.
function seen(place) {
  const rows = hello.driving.camera, [height, width] = hello.frame_size;
  const [a, b, depth] = rows.map(row => row[3] + place.reduce((sum, v, i) => sum + row[i] * v, 0));
  const slope = side => [0, 1].map(i => (rows[side][i] - (side ? b : a) / depth * rows[2][i]) / depth);
  return { at: [a / depth / width, b / depth / height], across: slope(0), down: slope(1) };
}
function shown(estimate) {  // where the robot is in the picture, in shares of it; null where it is not known
  if (!hello.driving.camera.length) return null;
  const place = Array.from(estimate[hello.driving.follows]);
  return place.every(Number.isFinite) ? seen(place).at : null;
}
function flat(place, du, dv) {  // the motion, in the robot's own first two coordinates, that looks like pixels du, dv
  const { across: [a, b], down: [c, d] } = seen(place), det = a * d - b * c;
  return Math.abs(det) < 1e-9 ? [0, 0] : [(d * du - b * dv) / det, (a * dv - c * du) / det];
}
function steer(action, estimate) {
  const { places, camera, follows, reach } = hello.driving, [height, width] = hello.frame_size;
  const changes = FLAT.map(axis).filter(i => i >= 0 && !places[i]);
  if (camera.length && changes.length === 2) {
    const place = Array.from(estimate[follows]);
    if (!place.every(Number.isFinite)) return;
    let wish = [0, 0];
    if (hand.at) {
      const at = seen(place).at;
      wish = flat(place, (hand.at[0] - at[0]) * width, (hand.at[1] - at[1]) * height).map(v => v / reach);
    } else if (hand.pad[0] || hand.pad[1]) {
      wish = flat(place, hand.pad[0], hand.pad[1]);
      const size = Math.hypot(...wish) || 1;
      wish = wish.map(v => v / size * Math.hypot(hand.pad[0], hand.pad[1]));
    }
    const most = Math.max(1, ...wish.map(Math.abs));
    changes.forEach((i, n) => { action[i] += wish[n] / most; });
  } else for (const i of changes) {
    const side = FLAT.indexOf(hello.driving.axes[i]);
    if (hand.at) action[i] += (hand.at[side] - .5) * range(i);
    action[i] += hand.pad[side] * range(i) / 2;
  }
}
function wanted(estimate) {  // the next action
  const { axes, places } = hello.driving;
  const pulls = { x: hand.pad[0], y: hand.pad[1], height: hand.pad[2], turn: hand.pad[3] };
  axes.forEach((name, i) => { if (places[i] && pulls[name]) hand.target[i] = bounded(i, hand.target[i] + pulls[name] * range(i) / 16); });
  const action = hello.action.low.map((v, i) => places[i] ? hand.target[i] : 0);
  steer(action, estimate);
  axes.forEach((name, i) => {
    if (places[i]) return;
    const part = clamp(hand.impulse[i], -1, 1);
    hand.impulse[i] -= part;
    action[i] += part * range(i) / 2 + (FLAT.includes(name) ? 0 : (pulls[name] || 0) * range(i) / 2);
  });
  return action.map((v, i) => bounded(i, v));
}
function mark() {  // where the pull is, in shares of the picture
  if (!hello.driving.places[axis("x")]) return hand.at;
  return FLAT.map(name => axis(name) < 0 ? .5 : (hand.target[axis(name)] - hello.action.low[axis(name)]) / range(axis(name)));
}
const WORDS = { height: ["Lower", "Raise"], turn: ["Turn left", "Turn right"] };
const KEYS = { ArrowLeft: ["x", -1], ArrowRight: ["x", 1], ArrowUp: ["y", -1], ArrowDown: ["y", 1], PageUp: ["height", 1],
  PageDown: ["height", -1], q: ["turn", -1], e: ["turn", 1], g: ["switch", 1] };
function scheme() {  // buttons for what the pointer does not move, and a sentence about all of it
  const made = hello.driving.axes.flatMap((name, i) => {
    if (FLAT.includes(name)) return [];
    const button = (label, act) => {
      const one = document.createElement("button");
      one.textContent = label;
      one.addEventListener("click", () => { if (hand.target.length) { act(); draw(); } });
      return one;
    };
    const called = hello.action.names[i].replaceAll("_", " ");
    if (name === "switch") return [button(`Switch ${called}`, () => flip(i))];
    return [0, 1].map(n => button(WORDS[name]?.[n] || `${called} ${"−+"[n]}`, () => push(i, n ? 1 : -1)));
  });
  $("axes").replaceChildren(...made);
  $("axes").hidden = !made.length;
  const told = [["height", "wheel, PageUp and PageDown: height"], ["turn", "q and e: turn"],
    ["switch", "g: " + (hello.action.names[axis("switch")] || "")]].filter(([name]) => axis(name) >= 0).map(([, words]) => words);
  $("scheme").textContent = told.length ? ` Also ${told.join("; ")}.` : "";
}

// ---- gamepad: left stick, right stick for height, shoulders for the turn ----
const PAD = { 1: "undo", 2: "step", 3: "reset", 9: "play" };
let pressed = [];
function poll() {
  const pad = Array.from(navigator.getGamepads?.() || []).find(Boolean);
  if (!pad) { hand.pad = [0, 0, 0, 0]; return false; }
  const dead = value => Math.abs(value || 0) < .15 ? 0 : value, down = n => pad.buttons[n]?.pressed ? 1 : 0;
  hand.pad = [dead(pad.axes[0]), dead(pad.axes[1]), -dead(pad.axes[3]), down(5) - down(4)];
  const now = pad.buttons.map((one, n) => Boolean(down(n)));
  const fresh = now.map((on, n) => on && !pressed[n]);
  pressed = now;
  for (const [n, id] of Object.entries(PAD)) if (fresh[n]) $(id).click();
  if (fresh[0] && hello && axis("switch") >= 0 && hand.target.length) { flip(axis("switch")); draw(); }
  return hand.pad.some(Boolean);
}
