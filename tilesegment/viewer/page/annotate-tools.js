// What the pointer does: select and correct, polygon, box, freehand, point, eraser. Positions are [x, y] in pixels of
// level 0, rounded to a thousandth; what is drawn is what is stored.
import { shownOf } from "./annotate-drawing.js";
import * as geometry from "./annotate-geometry.js";

const NEAR = 8; // pixels of the screen, around vertices and edges
const STILL = 4; // pixels that a click may move
const SAME = 3; // a second click so near ends a polygon
const STEP = 2; // between positions of freehand
const LOOSE = 0.5; // by which freehand is simplified
const SMALLEST = 0.01; // square pixels of an area

export class Tools {
  /**
   * state: shared with the view, see there, and `tool`, `color()`, `isSnapped`.
   * acts: add(geometry), erase(geometry), replace(key, geometry), select(key), redraw(), say(text).
   */
  constructor(app, drawing, state, acts) {
    Object.assign(this, { app, drawing, state, acts, press: null, cursor: null, isPanning: false });
    const { osd } = app;
    const on = (name, act) => osd.addHandler(name, (event) => act(event));
    on("canvas-press", (event) => this.pressed(event));
    on("canvas-drag", (event) => this.dragged(event));
    on("canvas-drag-end", (event) => this.keep(event));
    on("canvas-release", (event) => this.released(event));
    on("canvas-pinch", () => this.cancel());
    osd.element.addEventListener("pointermove", (event) => this.hovered(event));
    addEventListener("keydown", (event) => this.space(event, true));
    addEventListener("keyup", (event) => this.space(event, false));
  }

  use(tool) {
    this.cancel();
    this.state.tool = tool;
    this.app.osd.element.dataset.tool = tool;
    if (tool !== "select") this.acts.select(null);
  }

  /** Drop what is being drawn; returns whether there was anything. */
  cancel() {
    const { draft, edited } = this.state;
    Object.assign(this.state, { draft: null, edited: null });
    this.press = null;
    this.acts.redraw();
    return Boolean(draft || edited);
  }

  // --- places
  /** The position [x, y] of an event, within the image; on corners of pixels if asked for. */
  at(event, isWhole = this.state.isSnapped) {
    const { y, x } = this.app.toPixel(event.position ? { x: event.position.x, y: event.position.y } : event);
    return this.round([x, y], isWhole);
  }

  round([x, y], isWhole = this.state.isSnapped) {
    const { height, width } = this.app.scene.image;
    const places = isWhole ? 1 : 1000;
    const within = (value, end) => Math.min(Math.max(Math.round(value * places) / places, 0), end);
    return [within(x, width), within(y, height)];
  }

  /** Pixels of the image that `count` pixels of the screen span. */
  reach(count) {
    return count / this.app.scale();
  }

  // --- events
  pressed(event) {
    const { originalEvent, position } = event;
    if (originalEvent.button > 0 || this.isPanning) return;
    this.press = { x: position.x, y: position.y, place: this.at(event), exact: this.exact(event), isDrag: false };
    const { tool } = this.state;
    if (tool === "box") this.start([this.at(event, true)]);
    else if (tool === "free" || tool === "erase") this.start([this.press.place]);
    else if (tool === "select") this.grab();
  }

  exact(event) {
    const { y, x } = this.app.toPixel({ x: event.position.x, y: event.position.y });
    return [x, y];
  }

  dragged(event) {
    if (!this.press) return;
    const { tool, draft, edited } = this.state;
    this.press.isDrag ||= Math.hypot(event.position.x - this.press.x, event.position.y - this.press.y) > STILL;
    if (tool === "box" && draft) {
      const [first, here] = [draft.from, this.at(event, true)];
      draft.positions = geometry.box(first, here).coordinates[0].slice(0, -1);
    } else if ((tool === "free" || tool === "erase") && draft) {
      const here = this.at(event);
      const [x, y] = draft.positions.at(-1);
      if (Math.hypot(here[0] - x, here[1] - y) >= this.reach(STEP)) draft.positions.push(here);
    } else if (this.press.grip) {
      if (this.press.isDrag) this.edit(event);
    } else {
      return; // moves the image
    }
    event.preventDefaultAction = true;
    if (draft || edited || this.press.grip) this.acts.redraw();
  }

  keep(event) {
    if (this.state.tool === "box" || this.state.tool === "free" || this.state.tool === "erase" || this.press?.grip) {
      event.preventDefaultAction = true;
    }
  }

  released(event) {
    const { press } = this;
    this.press = null;
    if (!press) return;
    const { tool, draft, edited } = this.state;
    const isStill = Math.hypot(event.position.x - press.x, event.position.y - press.y) <= STILL && !press.isDrag;
    if (tool === "polygon" && isStill) this.corner(press.place);
    else if (tool === "point" && isStill) this.acts.add({ type: "Point", coordinates: press.place });
    else if (tool === "box" && draft) this.end(draft.positions);
    else if ((tool === "free" || tool === "erase") && draft) this.endFree(draft.positions);
    else if (tool === "select" && edited) this.endEdit();
    else if (tool === "select" && isStill) this.acts.select(this.hit(press.exact));
  }

  hovered(event) {
    const { tool, draft } = this.state;
    if (tool !== "polygon" || !draft) return;
    draft.positions = [...draft.corners, this.at(event)];
    this.acts.redraw();
  }

  /** While the space bar is held, dragging moves the image whatever the tool. */
  space(event, isDown) {
    if (event.code !== "Space" || event.target.closest?.("input, button, select, textarea, summary, dialog")) return;
    event.preventDefault();
    this.isPanning = isDown;
  }

  // --- drawing
  start(positions) {
    const color = this.state.tool === "erase" ? [255, 255, 255] : this.state.color();
    this.state.draft = { positions, from: positions[0], corners: positions, isClosed: true, color };
    this.acts.redraw();
  }

  /** A corner of a polygon: a click on the first, or a second one on the last, ends it. */
  corner(place) {
    const corners = this.state.draft?.corners;
    if (!corners) return this.start([place]);
    const far = ([x, y]) => Math.hypot(x - place[0], y - place[1]) / this.reach(1);
    if (corners.length > 2 && far(corners[0]) <= NEAR) return this.finish();
    if (far(corners.at(-1)) <= SAME) return corners.length > 2 && this.finish();
    this.state.draft.corners = [...corners, place];
    this.state.draft.positions = this.state.draft.corners;
    return this.acts.redraw();
  }

  /** End the polygon that is being drawn. */
  finish() {
    const corners = this.state.draft?.corners;
    if (this.state.tool !== "polygon" || !corners) return false;
    this.end(corners);
    return true;
  }

  /** Take back the last corner of the polygon that is being drawn. */
  back() {
    const { draft, tool } = this.state;
    if (tool !== "polygon" || !draft) return false;
    if (draft.corners.length < 2) return this.cancel();
    draft.corners = draft.corners.slice(0, -1);
    draft.positions = draft.corners;
    this.acts.redraw();
    return true;
  }

  endFree(positions) {
    const kept = geometry.simplified(positions, this.reach(LOOSE));
    if (this.state.tool === "erase") this.acts.erase(this.area(kept));
    else this.end(kept);
    this.state.draft = null;
    this.acts.redraw();
  }

  end(positions) {
    this.state.draft = null;
    const found = this.area(positions);
    if (found) this.acts.add(found);
    else this.acts.say("Too small to be an area: nothing is drawn");
    this.acts.redraw();
  }

  area(positions) {
    const distinct = positions.filter(([x, y], n) => n === 0 || x !== positions[n - 1][0] || y !== positions[n - 1][1]);
    if (distinct.length < 3 || geometry.doubleArea(distinct) < 2 * SMALLEST) return null;
    return geometry.polygon(distinct);
  }

  // --- correcting
  /** The topmost annotation at a place, or null. */
  hit(place) {
    const near = this.reach(NEAR);
    const around = { x0: place[0] - near, x1: place[0] + near, y0: place[1] - near, y1: place[1] + near };
    let found = null;
    for (const [key, { shown }] of this.drawing.within(around, this.app.z())) {
      if (geometry.contains(shown.lists, place) || geometry.distance(shown.lists, place) <= near) found = key;
    }
    return this.state.hidden ? null : found;
  }

  /** Take hold of a vertex, of the middle of an edge, or of the whole of what is selected. */
  grab() {
    const entry = this.drawing.entries.get(this.state.selected);
    if (!entry?.shown || !geometry.isSimple(entry.feature.geometry) || this.state.hidden) return;
    const { lists, isPoints } = entry.shown;
    const place = this.press.exact;
    const [vertex, middle] = [geometry.nearestVertex, isPoints ? () => null : geometry.nearestMiddle].map((nearest) =>
      nearest(lists, place, this.reach(NEAR)),
    );
    if (vertex) this.press.grip = { kind: "vertex", ...vertex };
    else if (middle) this.press.grip = { kind: "middle", ...middle };
    else if (geometry.contains(lists, place)) this.press.grip = { kind: "whole" };
    else return;
    Object.assign(this.press.grip, { geometry: entry.feature.geometry, bounds: entry.shown.bounds });
  }

  edit(event) {
    const { grip, exact } = this.press;
    const here = this.at(event);
    let next;
    if (grip.kind === "vertex") next = geometry.withVertex(grip.geometry, grip, here);
    else if (grip.kind === "middle") next = geometry.withNewVertex(grip.geometry, grip, here);
    else next = geometry.moved(grip.geometry, this.shift(exact, this.exact(event), grip.bounds));
    const { feature } = this.drawing.entries.get(this.state.selected);
    this.state.edited = { key: this.state.selected, geometry: next, shown: shownOf({ ...feature, geometry: next }) };
  }

  /** By how much an annotation moves: it stays in the image, and vertices on corners of pixels stay on corners. */
  shift([xa, ya], [xb, yb], { x0, y0, x1, y1 }) {
    const { height, width } = this.app.scene.image;
    const within = (value, low, high) => Math.round(Math.min(Math.max(value, Math.min(low, 0)), Math.max(high, 0)));
    return [within(xb - xa, -x0, width - x1), within(yb - ya, -y0, height - y1)];
  }

  endEdit() {
    const { key, geometry: next } = this.state.edited;
    this.state.edited = null;
    this.acts.replace(key, next);
  }

  /** Delete the vertex of what is selected that is nearest to the cursor; returns whether there was one. */
  dropVertex(pixel) {
    const entry = this.drawing.entries.get(this.state.selected);
    if (!entry?.shown || !pixel || !geometry.isSimple(entry.feature.geometry)) return false;
    const vertex = geometry.nearestVertex(entry.shown.lists, [pixel.x, pixel.y], this.reach(NEAR));
    const next = vertex && geometry.withoutVertex(entry.feature.geometry, vertex);
    if (next) this.acts.replace(this.state.selected, next);
    return Boolean(next);
  }
}
