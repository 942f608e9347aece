// ---- charts: lines over the newest steps ----
const tint = name => getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
const short = value => value >= 100 || value === 0 ? value.toFixed(0) : value.toPrecision(3);
const SHOWN = 200;

// lines: name to values, the name a colour of the page.  limit: a dashed line, or null.  low, top: the scale's ends, top null for the data's.
function chart(canvas, lines, { limit = null, low: least = 0, top = null, unit = "" } = {}) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  canvas.width = width * ratio; canvas.height = height * ratio;
  const c = canvas.getContext("2d");
  c.scale(ratio, ratio);
  c.font = "12px system-ui, sans-serif";
  const shown = Object.entries(lines).map(([name, values]) => [name, values.slice(-SHOWN)]);
  const highest = Math.max(limit || 0, 1e-9, ...shown.flatMap(([, values]) => values.filter(Number.isFinite)));
  const most = top || highest, count = Math.max(2, ...shown.map(([, values]) => values.length));
  const left = 44, low = height - 8, right = width - 8;
  const y = value => low - (low - 12) * (value - least) / (most - least || 1), x = n => left + (right - left) * n / (count - 1);
  c.fillStyle = tint("soft");
  c.strokeStyle = tint("line");
  for (const part of [0, .5, 1]) {
    const value = least + part * (most - least);
    c.beginPath(); c.moveTo(left, y(value)); c.lineTo(right, y(value)); c.stroke();
    c.fillText(short(value) + unit, 2, y(value) + 4);
  }
  if (limit) {
    c.setLineDash([5, 4]); c.strokeStyle = tint("bad"); c.beginPath();
    c.moveTo(left, y(limit)); c.lineTo(right, y(limit)); c.stroke(); c.setLineDash([]);
  }
  for (const [name, values] of shown) {
    c.strokeStyle = c.fillStyle = tint(name); c.lineWidth = 2; c.beginPath();
    let open = false;
    values.forEach((value, n) => {
      if (!Number.isFinite(value)) { open = false; return; }
      if (open) c.lineTo(x(n), y(value)); else c.moveTo(x(n), y(value));
      open = true;
    });
    c.stroke();
    const last = values[values.length - 1];
    if (Number.isFinite(last)) { c.beginPath(); c.arc(x(values.length - 1), y(last), 3, 0, 7); c.fill(); }
  }
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", shown.map(([name, v]) => `${name} ${short(v[v.length - 1] || 0)}${unit}`).join(", "));
}

// Paint pixels `[H, W, 3]` onto a canvas, as sharp as they are.
function paint(canvas, pixels, height, width) {
  const small = new OffscreenCanvas(width, height), inside = small.getContext("2d");
  const image = inside.createImageData(width, height);
  for (let i = 0, j = 0; i < pixels.length; i += 3, j += 4) {
    image.data[j] = pixels[i]; image.data[j + 1] = pixels[i + 1]; image.data[j + 2] = pixels[i + 2];
    image.data[j + 3] = 255;
  }
  inside.putImageData(image, 0, 0);
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
  return context;
}
