// What all modules of the page share: the scene, events, requests, the side panel, keys, and the link to the place.

const WAIT = 200; // ms after a change, before the link is written

export class App {
  constructor(scene, base) {
    this.scene = scene;
    this.base = base; // of every request, ends with a slash
    this.osd = null;
    this.items = new Map(); // number of a layer -> TiledImage
    this.looks = new Map(); // number of a layer -> {parameter: text}, see looks.py and image_layer.py
    this.versions = new Map(); // number of a layer in progress -> function of zoom, row, column: version of a tile
    this.keys = new Map();
    this.painters = [];
    this.plane = 0;
    this._handlers = new Map();
    this._remembered = new Map();
    this._told = new URLSearchParams(location.hash.slice(1));
    window.addEventListener("hashchange", () => this._read());
  }

  // --- events: z, cursor {y, x} or null, values [{layer, value}], layer-changed number, moved
  on(name, handler) {
    if (!this._handlers.has(name)) this._handlers.set(name, []);
    this._handlers.get(name).push(handler);
  }

  emit(name, ...what) {
    for (const handler of this._handlers.get(name) ?? []) handler(...what);
  }

  // --- requests
  async fetchJson(path, options = {}) {
    const response = await fetch(this.base + path, options);
    const text = await response.text();
    let answer = null;
    try {
      answer = text ? JSON.parse(text) : null;
    } catch {
      answer = null;
    }
    if (!response.ok) {
      const error = new Error(answer?.error ?? `${response.status} ${response.statusText}`);
      error.status = response.status;
      error.answer = answer;
      throw error;
    }
    return answer;
  }

  layer(number) {
    return this.scene.layers[number];
  }

  z() {
    return this.plane;
  }

  // --- what the user sees besides the image
  say(text, isWrong = false) {
    const said = document.getElementById("said");
    said.textContent = text;
    said.classList.toggle("wrong", isWrong);
  }

  // A section of the side panel; the same one when it is asked for again.
  panel(title) {
    const id = `panel-${title.toLowerCase().replace(/[^a-z0-9]+/g, "-")}`;
    const known = document.getElementById(id);
    if (known) return known;
    const section = document.createElement("details");
    section.open = true;
    const summary = document.createElement("summary");
    summary.textContent = title;
    const inner = document.createElement("div");
    inner.id = id;
    section.append(summary, inner);
    document.getElementById("panel").append(section);
    return inner;
  }

  // A button in the toolbar, and its key.
  tool(label, key, what, action) {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.title = key ? `${what} (${key})` : what;
    if (label.length < 3) button.setAttribute("aria-label", what);
    button.addEventListener("click", () => action());
    document.getElementById("tools").append(button);
    if (key) this.key(key, what, action);
    return button;
  }

  // `key` is that of a KeyboardEvent, or several with spaces in between; `what` stands in the help.
  key(key, what, action) {
    for (const one of key.split(" ")) {
      if (this.keys.has(one)) console.error(`the key ${one} is taken: ${this.keys.get(one).what}; ${what}`);
      this.keys.set(one, { what, action, all: key });
    }
  }

  // Called with the context of the canvas, of which `ratio` pixels are one of the screen, when a PNG is made.
  paint(painter) {
    this.painters.push(painter);
  }

  // --- the link: `read` returns a text or null, `apply` takes what the link says
  remember(name, read, apply) {
    this._remembered.set(name, { read, apply });
    if (this._told.has(name)) apply(this._told.get(name));
  }

  touch() {
    clearTimeout(this._timer);
    this._timer = setTimeout(() => this._write(), WAIT);
  }

  link() {
    this._write();
    return location.href;
  }

  _write() {
    const told = new URLSearchParams();
    for (const [name, { read }] of this._remembered) {
      const text = read();
      if (text !== null && text !== undefined) told.set(name, text);
    }
    this._hash = `#${told}`;
    history.replaceState(null, "", this._hash);
  }

  _read() {
    if (location.hash === this._hash) return;
    this._told = new URLSearchParams(location.hash.slice(1));
    for (const [name, { apply }] of this._remembered) if (this._told.has(name)) apply(this._told.get(name));
  }
}
