const $ = id => document.getElementById(id);

// ---- msgpack, with arrays as the server packs them: a map whose keys are bytes ----
const utf8 = new TextEncoder(), text = new TextDecoder();
const KINDS = { "|u1": Uint8Array, "|b1": Uint8Array, "|i1": Int8Array, "<i2": Int16Array, "<u2": Uint16Array,
  "<i4": Int32Array, "<u4": Uint32Array, "<f4": Float32Array, "<f8": Float64Array, "<i8": BigInt64Array,
  "<u8": BigUint64Array };
function pack(value) {
  const out = [];
  const big = (n, size) => { for (let i = size - 1; i >= 0; i--) out.push(Math.floor(n / 2 ** (8 * i)) % 256); };
  const real = x => { out.push(0xcb, ...new Uint8Array(new Float64Array([x]).buffer).reverse()); };
  const bytes = (b, codes) => { out.push(codes); big(b.length, 4); for (const one of b) out.push(one); };
  const put = v => {
    if (v === null || v === undefined) out.push(0xc0);
    else if (v === true || v === false) out.push(v ? 0xc3 : 0xc2);
    else if (typeof v === "number" && Number.isSafeInteger(v) && v >= 0) { out.push(0xcf); big(v, 8); }
    else if (typeof v === "number") real(v);
    else if (typeof v === "string") bytes(utf8.encode(v), 0xdb);
    else if (v instanceof Uint8Array) bytes(v, 0xc6);
    else if (Array.isArray(v)) { out.push(0xdd); big(v.length, 4); v.forEach(put); }
    else if (v instanceof Map) { out.push(0xdf); big(v.size, 4); v.forEach((item, key) => { put(key); put(item); }); }
    else put(new Map(Object.entries(v)));
  };
  put(value);
  return new Uint8Array(out);
}
function rows(array) {  // float32 [k, A]
  const data = new Uint8Array(new Float32Array(array.flat()).buffer), key = name => utf8.encode(name);
  return new Map([[key("__ndarray__"), true], [key("dtype"), "<f4"], [key("shape"), [array.length, array[0].length]],
    [key("data"), data]]);
}
function unpack(buffer) {
  const view = new DataView(buffer);
  let at = 0;
  const take = (name, size) => { const v = view[name](at); at += size; return v; };
  const raw = n => { const v = new Uint8Array(buffer, at, n); at += n; return v; };
  const list = n => Array.from({ length: n }, read);
  const map = n => {
    const made = {};
    for (let i = 0; i < n; i++) { let k = read(); if (k instanceof Uint8Array) k = "b:" + text.decode(k); made[k] = read(); }
    if ("b:__ndarray__" in made) {
      const dtype = made["b:dtype"], name = dtype instanceof Uint8Array ? text.decode(dtype) : dtype;
      return { shape: made["b:shape"], data: new KINDS[name](made["b:data"].slice().buffer) };
    }
    return "b:__npgeneric__" in made ? made["b:data"] : made;
  };
  function read() {
    const c = take("getUint8", 1);
    if (c < 0x80) return c;
    if (c < 0x90) return map(c & 15);
    if (c < 0xa0) return list(c & 15);
    if (c < 0xc0) return text.decode(raw(c & 31));
    if (c >= 0xe0) return c - 256;
    switch (c) {
      case 0xc0: return null;
      case 0xc2: return false;
      case 0xc3: return true;
      case 0xc4: return raw(take("getUint8", 1));
      case 0xc5: return raw(take("getUint16", 2));
      case 0xc6: return raw(take("getUint32", 4));
      case 0xca: return take("getFloat32", 4);
      case 0xcb: return take("getFloat64", 8);
      case 0xcc: return take("getUint8", 1);
      case 0xcd: return take("getUint16", 2);
      case 0xce: return take("getUint32", 4);
      case 0xcf: return Number(take("getBigUint64", 8));
      case 0xd0: return take("getInt8", 1);
      case 0xd1: return take("getInt16", 2);
      case 0xd2: return take("getInt32", 4);
      case 0xd3: return Number(take("getBigInt64", 8));
      case 0xd9: return text.decode(raw(take("getUint8", 1)));
      case 0xda: return text.decode(raw(take("getUint16", 2)));
      case 0xdb: return text.decode(raw(take("getUint32", 4)));
      case 0xdc: return list(take("getUint16", 2));
      case 0xdd: return list(take("getUint32", 4));
      case 0xde: return map(take("getUint16", 2));
      case 0xdf: return map(take("getUint32", 4));
      default: throw new Error("unknown msgpack code " + c);
    }
  }
  return read();
}

// ---- the connection: requests out, answers by number; `lost` is called where it ends ----
let socket = null, hello = null, number = 0;
const waiting = new Map();
function ask(op, fields = {}) {
  return new Promise((resolve, reject) => {
    if (!socket || socket.readyState !== WebSocket.OPEN) return reject(new Error("not connected"));
    const id = number++;
    waiting.set(id, { resolve, reject });
    socket.send(pack({ id, op, ...fields }));
  });
}
function connect(world) {
  return new Promise((resolve, reject) => {
    const query = world ? "?" + new URLSearchParams({ world }) : "";
    const mine = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/session" + query);
    waiting.forEach(one => one.reject(new Error("another world was chosen")));
    waiting.clear();
    socket?.close();
    socket = mine;
    socket.binaryType = "arraybuffer";
    socket.onmessage = event => {
      if (socket !== mine) return;
      const answer = unpack(event.data);
      if (answer.id === undefined) { hello = answer; return resolve(); }
      const { resolve: done, reject: failed } = waiting.get(answer.id);
      waiting.delete(answer.id);
      if (answer.error) failed(new Error(answer.error.message)); else done(answer.result);
    };
    socket.onclose = event => {
      const why = new Error(event.reason || "the connection is closed");
      if (socket === mine) {
        waiting.forEach(one => one.reject(why));
        waiting.clear();
        lost(why);
      }
      reject(why);
    };
  });
}
function tell(what, bad = false) { $("status").textContent = what; $("status").className = bad ? "bad" : ""; }
