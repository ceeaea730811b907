// Objects: their outlines from near, dots from afar, and what is known of the one under the cursor. Of a million objects
// only those of the tiles in the view are fetched.

import { element } from "./controls.js";

const SIDE = 512; // of a tile, as in tiling.py
const AT_ONCE = 4; // requests for tiles
const KEPT = 120; // tiles
const PAUSE = 70; // ms between two questions for the object under the cursor
const FIRST = 6; // measurements that are shown before the rest
const LINE = 1.5; // pixels of the screen

export function start(app) {
  const layers = app.scene.layers.filter((one) => one.kind === "objects");
  const masks = app.scene.layers.filter((one) => one.kind === "classes" || one.kind === "ids");
  if (!layers.length && !masks.length) return;
  const overlay = new Overlay(app, layers);
  const pointer = new Pointer(app, layers, masks, overlay);
  for (const layer of layers) if (!layer.ready) wait(app, layer, () => overlay.draw());
  app.on("z", () => {
    pointer.clear();
    overlay.draw();
  });
  app.on("look-changed", () => overlay.draw());
  app.on("opacity-changed", () => overlay.draw());
}

// A large file is indexed while the page is open.
async function wait(app, layer, ready) {
  app.say(`${layer.name} is being read …`);
  try {
    const found = await app.fetchJson(`objects/${layer.number}`);
    if (!found.ready) {
      setTimeout(() => wait(app, layer, ready), 1000);
      return;
    }
    Object.assign(layer, found);
    app.say(`${layer.name}: ${found.count.toLocaleString("en")} objects`);
    app.renewLayer?.(layer.number);
    ready();
  } catch (error) {
    app.say(error.message, true);
  }
}

const isShown = (app, layer) => layer.ready !== false && (app.states?.get(layer.number)?.visible ?? true);
const hiddenIn = (app, layer) => [...(app.states?.get(layer.number)?.hidden ?? [])].sort((a, b) => a - b).join(",");
const colourOf = (layer, number) => layer.classes?.[number]?.colour ?? layer.plain ?? "#e69f00";

class Overlay {
  constructor(app, layers) {
    this.app = app;
    this.layers = layers;
    this.tiles = new Map(); // address -> {state, kind, paths, picture, count}
    this.waiting = [];
    this.running = 0;
    this.before = new Map(); // number of a layer -> tiles that were drawn last, until new ones are there
    this.canvas = element("canvas", { id: "objects", ariaHidden: "true" });
    this.canvas.style.cssText = "position:absolute;inset:0;width:100%;height:100%;pointer-events:none";
    app.osd.canvas.append(this.canvas);
    for (const event of ["update-viewport", "resize", "open"]) app.osd.addHandler(event, () => this.draw());
    app.paint((context, ratio) => this.paint(context, ratio));
    this.draw();
  }

  draw() {
    if (this.isDue) return;
    this.isDue = true;
    requestAnimationFrame(() => {
      this.isDue = false;
      const ratio = window.devicePixelRatio || 1;
      const { clientWidth, clientHeight } = this.app.osd.element;
      const [width, height] = [Math.round(clientWidth * ratio), Math.round(clientHeight * ratio)];
      if (this.canvas.width !== width) this.canvas.width = width;
      if (this.canvas.height !== height) this.canvas.height = height;
      const context = this.canvas.getContext("2d");
      context.setTransform(1, 0, 0, 1, 0, 0);
      context.clearRect(0, 0, width, height);
      this.waiting = [];
      this.paint(context, ratio);
      this.fetch();
    });
  }

  paint(context, ratio) {
    const [origin, right, down] = [[0, 0], [0, 1000], [1000, 0]].map(([y, x]) => this.app.toScreen({ y, x }));
    const part = (to, axis) => ((to[axis] - origin[axis]) / 1000) * ratio;
    const view = [part(right, "x"), part(right, "y"), part(down, "x"), part(down, "y"), origin.x * ratio, origin.y * ratio];
    const scale = Math.hypot(view[0], view[1]);
    context.save();
    context.imageSmoothingEnabled = false;
    context.lineJoin = "round";
    for (const layer of this.layers) {
      if (!isShown(this.app, layer)) continue;
      context.globalAlpha = this.app.states?.get(layer.number)?.opacity ?? 1;
      context.setTransform(...view);
      context.lineWidth = (LINE * ratio) / scale;
      for (const tile of this.wanted(layer, scale / ratio)) this.paintTile(context, layer, tile);
    }
    if (this.marked) {
      context.setTransform(...view);
      context.globalAlpha = 1;
      context.strokeStyle = "#ffffff";
      context.lineWidth = (2 * LINE * ratio) / scale;
      context.stroke(this.marked);
      context.strokeStyle = "#000000";
      context.lineWidth = ((LINE / 2) * ratio) / scale;
      context.stroke(this.marked);
    }
    context.restore();
  }

  paintTile(context, layer, tile) {
    if (tile.picture) context.drawImage(tile.picture, tile.x, tile.y, tile.width, tile.height);
    for (const [number, path] of tile.paths ?? []) {
      context.strokeStyle = colourOf(layer, number);
      context.stroke(path);
    }
  }

  // The tiles of the view that are there; those that are not are asked for, and others drawn meanwhile.
  wanted(layer, scale) {
    const { height, width } = this.app.scene.image;
    let last = 0;
    while (Math.ceil(Math.max(height, width) / 2 ** last) > SIDE) last += 1;
    const zoom = Math.min(Math.max(Math.ceil(-Math.log2(scale)), 0), last);
    const side = SIDE * 2 ** zoom;
    const { clientWidth, clientHeight } = this.app.osd.element;
    const corners = [[0, 0], [clientWidth, clientHeight], [0, clientHeight], [clientWidth, 0]].map(([x, y]) => this.app.toPixel({ x, y }));
    const range = (axis, length) => {
      const values = corners.map((one) => one[axis]);
      const first = Math.max(Math.floor(Math.min(...values) / side), 0);
      return [first, Math.min(Math.floor(Math.max(...values) / side), Math.ceil(length / side) - 1)];
    };
    const [top, bottom] = range("y", height);
    const [left, right] = range("x", width);
    const query = `z=${this.app.z()}&hidden=${hiddenIn(this.app, layer)}`;
    const found = [];
    let isWhole = true;
    for (let row = top; row <= bottom; row += 1) {
      for (let column = left; column <= right; column += 1) {
        const address = `${layer.number}/${zoom}/${row}/${column}?${query}`;
        const tile = this.tiles.get(address);
        if (tile?.state === "there") {
          this.tiles.delete(address); // used last, dropped last
          this.tiles.set(address, tile);
          found.push(tile);
          continue;
        }
        isWhole = false;
        if (!tile) this.waiting.push({ address, layer, zoom, row, column, query, side });
      }
    }
    if (isWhole) {
      this.before.set(layer.number, { query, tiles: found });
      return found;
    }
    const before = this.before.get(layer.number);
    return before?.query === query ? [...before.tiles, ...found] : found;
  }

  fetch() {
    while (this.running < AT_ONCE && this.waiting.length) {
      const one = this.waiting.shift();
      if (this.tiles.has(one.address)) continue;
      this.running += 1;
      this.load(one).finally(() => {
        this.running -= 1;
        this.draw();
      });
    }
  }

  async load({ address, layer, zoom, row, column, query, side }) {
    const tile = { state: "asked" };
    this.tiles.set(address, tile);
    try {
      const { height, width } = this.app.scene.image;
      const found = await this.app.fetchJson(`objects/${layer.number}/tile/${zoom}/${row}/${column}?${query}`);
      tile.count = found.count;
      if (found.kind === "many") {
        const hidden = hiddenIn(this.app, layer);
        tile.picture = new Image();
        tile.picture.src = `${this.app.base}tile/${layer.number}/${this.app.z()}/${zoom}/${row}/${column}?hidden=${hidden}`;
        await tile.picture.decode();
        // the last pixels of a tile may reach beyond the image
        [tile.y, tile.x] = [row * side, column * side];
        [tile.height, tile.width] = [tile.picture.naturalHeight * 2 ** zoom, tile.picture.naturalWidth * 2 ** zoom];
      } else tile.paths = paths(found.objects ?? []);
      tile.state = "there";
    } catch (error) {
      this.tiles.delete(address);
      this.app.say(error.message, true);
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
    while (this.tiles.size > KEPT) this.tiles.delete(this.tiles.keys().next().value);
  }

  mark(path) {
    this.marked = path;
    this.draw();
  }
}

// One path of all outlines of each class.
function paths(objects) {
  const found = new Map();
  for (const one of objects) {
    if (!found.has(one.class)) found.set(one.class, new Path2D());
    found.get(one.class).addPath(pathOf(one));
  }
  return found;
}

function pathOf({ coordinates, box }) {
  const path = new Path2D();
  if (!coordinates) {
    const [y0, x0, y1, x1] = box;
    path.rect(x0, y0, x1 - x0, y1 - y0);
    return path;
  }
  for (const line of lines(coordinates)) {
    for (let n = 0; n < line.length; n += 1) path[n ? "lineTo" : "moveTo"](line[n][0], line[n][1]);
    if (line.length === 1) path.arc(line[0][0], line[0][1], 3, 0, 7);
  }
  return path;
}

// Lists of points, however deep they are nested.
function lines(coordinates) {
  if (!Array.isArray(coordinates) || !coordinates.length) return [];
  if (typeof coordinates[0] === "number") return [[coordinates]];
  if (typeof coordinates[0]?.[0] === "number") return [coordinates];
  return coordinates.flatMap(lines);
}

class Pointer {
  constructor(app, layers, masks, overlay) {
    this.app = app;
    this.layers = layers;
    this.masks = masks;
    this.overlay = overlay;
    this.card = element("div", { id: "object-card", role: "status", hidden: true });
    document.querySelector("main").append(this.card);
    this.wanted = null;
    this.isAsking = false;
    app.osd.element.addEventListener("pointermove", (event) => (this.at = { x: event.clientX, y: event.clientY }));
    app.on("cursor", (pixel) => this.ask(pixel));
    app.osd.addHandler("canvas-drag", () => this.clear());
    app.osd.addHandler("canvas-click", (event) => {
      const isDrawing = (app.annotator?.state.tool ?? "select") !== "select";
      if (event.quick && !isDrawing) this.choose(app.toPixel(event));
    });
    app.key("o", "What is known of the object in the middle; choose it", () => this.middle());
  }

  clear() {
    this.wanted = null;
    this.show(null, null);
  }

  async ask(pixel) {
    this.wanted = pixel;
    if (!pixel) this.show(null, null);
    if (this.isAsking) return;
    this.isAsking = true;
    while (this.wanted) {
      const asked = this.wanted;
      this.wanted = null;
      const found = await this.find(asked);
      if (!this.wanted && !this.isGone(asked)) this.show(found, this.at);
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    this.isAsking = false;
  }

  isGone() {
    return !this.app.osd.element.matches(":hover");
  }

  // Of the layers that are shown, the topmost that has an object there; of masks the connected region.
  async find({ y, x }, among = this.layers) {
    for (const layer of [...among].reverse()) {
      if (!isShown(this.app, layer)) continue;
      const hidden = hiddenIn(this.app, layer);
      try {
        const found = await this.app.fetchJson(`objects/${layer.number}/at?y=${y}&x=${x}&z=${this.app.z()}&hidden=${hidden}`);
        if (found) return { layer, ...found };
      } catch (error) {
        this.app.say(error.message, true);
      }
    }
    return null;
  }

  // Choose an object, so that annotations may take it over.
  async choose(pixel, at = this.at) {
    const found = (await this.find(pixel)) ?? (await this.find(pixel, this.masks));
    this.show(found, at);
    this.app.emit("object", found && offered(found));
    return found;
  }

  async middle() {
    const box = this.app.osd.element.getBoundingClientRect();
    const point = { x: box.width / 2, y: box.height / 2 };
    const found = await this.choose(this.app.toPixel(point), { x: box.left + point.x, y: box.top + point.y });
    if (!found) this.app.say("There is no object in the middle of the view");
  }

  show(found, at) {
    if (found?.n === this.shown?.n && found?.layer === this.shown?.layer && found?.n !== null) {
      if (found) this.place(at);
      return;
    }
    this.shown = found;
    this.card.hidden = !found;
    this.overlay.mark(found ? pathOf(found) : null);
    if (!found) return;
    const swatch = element("span", { className: "swatch", ariaHidden: "true" });
    swatch.style.backgroundColor = colourOf(found.layer, classOf(found));
    const title = element("strong", { text: `${found.class ?? "object"} ${found.id}` });
    const rows = measured(found.measurements).map((one) => {
      const unit = one.unit ? ` ${one.unit}` : "";
      return element("tr", {}, element("th", { scope: "row", text: one.name }), element("td", { text: number(one.value) + unit }));
    });
    const table = element("table", {}, element("tbody", {}, ...rows));
    this.card.replaceChildren(element("div", { className: "row" }, swatch, title), table);
    this.place(at);
  }

  place(at) {
    const box = document.querySelector("main").getBoundingClientRect();
    const { offsetWidth, offsetHeight } = this.card;
    const [x, y] = [at.x - box.left + 16, at.y - box.top + 16];
    this.card.style.left = `${x + offsetWidth > box.width ? Math.max(x - offsetWidth - 32, 0) : x}px`;
    this.card.style.top = `${Math.max(Math.min(y, box.height - offsetHeight - 4), 0)}px`;
  }
}

// What most people ask first comes first; where a length is known in micrometres, that in pixels is left out.
function measured(all) {
  const order = ["area", "perimeter", "solidity", "eccentricity", "equivalent_diameter_area", "axis_major_length"];
  const real = new Set(all.filter((one) => one.unit.startsWith("µm")).map((one) => one.name));
  const plain = all.filter((one) => !/^(bbox|centroid)-/.test(one.name) && !(one.unit === "px" && real.has(one.name)));
  const rank = (one) => (order.includes(one.name) ? order.indexOf(one.name) : FIRST);
  return plain.map((one, n) => [rank(one), n, one]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map(([, , one]) => one).slice(0, 14);
}

function number(value) {
  return Number.isInteger(value) ? value.toLocaleString("en") : String(Number(value.toPrecision(4)));
}

const classOf = ({ layer, class: name }) => (layer.classes ?? []).findIndex((one) => one.name === name);

// An object as annotations take it over.
function offered({ layer, id, coordinates, box, ...found }) {
  const [y0, x0, y1, x1] = box;
  const ring = coordinates ?? [[[x0, y0], [x1, y0], [x1, y1], [x0, y1], [x0, y0]]];
  const isSeveral = Array.isArray(ring[0]?.[0]?.[0]);
  return {
    layer: layer.number,
    name: found.class ?? "object",
    colour: colourOf(layer, classOf({ layer, ...found })),
    geometry: { type: isSeveral ? "MultiPolygon" : "Polygon", coordinates: ring },
    text: `${found.class ?? "object"} ${id}`.trim(),
  };
}
