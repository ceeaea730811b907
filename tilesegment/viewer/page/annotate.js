// Draw on the image: annotations in classes of one's own, stored as GeoJSON after each step.
import { Drawing } from "./annotate-drawing.js";
import { AnnotationFile } from "./annotate-file.js";
import { boundsOf, isSimple, listsOf, meet } from "./annotate-geometry.js";
import { Panel, TOOLS } from "./annotate-panel.js";
import { Tools } from "./annotate-tools.js";
import { View } from "./annotate-view.js";

export async function start(app) {
  if (!app.scene.annotations) return;
  const annotator = new Annotator(app);
  app.annotator = annotator;
  annotator.keys();
  await annotator.reload(false);
}

/** Classes of the masks that are shown, as {name, color}. */
function suggested(app) {
  const found = app.scene.layers.flatMap((one) => (Array.isArray(one.classes) ? one.classes : []));
  return found.filter((one) => typeof one.name === "string" && one.id !== 0).map(({ name, colour, color }) => ({
    name, color: toRgb(colour ?? color),
  }));
}

function toRgb(colour) {
  if (Array.isArray(colour)) return colour.slice(0, 3);
  const hex = /^#?([0-9a-f]{6})$/i.exec(colour ?? "");
  return hex ? [0, 2, 4].map((at) => parseInt(hex[1].slice(at, at + 2), 16)) : null;
}

class Annotator {
  constructor(app) {
    this.app = app;
    this.drawing = new Drawing(suggested(app));
    this.state = { tool: "select", current: 0, selected: null, hidden: false, isSnapped: false, edited: null, draft: null };
    this.state.color = () => this.current().color;
    this.view = new View(app, this.drawing, this.state);
    this.panel = new Panel(app, this.drawing, this.state, this);
    this.tools = new Tools(app, this.drawing, this.state, {
      add: (geometry) => this.draw(geometry),
      erase: (area) => this.erase(area),
      replace: (key, geometry) => this.replace(key, geometry),
      select: (key) => this.select(key),
      redraw: () => this.view.redraw(),
      say: (text) => app.say(text),
    });
    this.file = new AnnotationFile(`${app.base}annotations`, () => this.drawing.text(), (told, message) => {
      if (told === "saved") this.drawing.saved = new Map();
      this.panel.tell(told, message);
    });
    this.erasing = Promise.resolve();
    app.on("cursor", (pixel) => {
      this.cursor = pixel;
    });
    app.on("z", () => this.select(null));
    app.on("object", (object) => this.offer(object));
  }

  current() {
    return this.drawing.classes[this.state.current] ?? this.drawing.classes[0];
  }

  keys() {
    const { app } = this;
    for (const [tool, , key, what] of TOOLS) app.key(key, what, () => this.use(tool));
    // "1" is the key of the toolbar's 1:1 else
    for (const button of document.querySelectorAll("#tools button")) button.title = button.title.replace(" (1)", "");
    app.key("1 2 3 4 5 6 7 8 9", "Draw in this class; what is selected moves to it", ({ key }) => this.choose(key - 1));
    app.key("Delete Backspace", "Delete the vertex under the cursor, or what is selected", ({ key }) => {
      if (key === "Backspace" && this.tools.back()) return;
      if (!this.tools.dropVertex(this.cursor)) this.remove();
    });
    app.key("Enter", "End the polygon", () => this.tools.finish());
    app.key("Escape", "Drop what is being drawn; select nothing", () => this.tools.cancel() || this.select(null));
    app.key("[", "Annotation before", () => this.step(-1));
    app.key("]", "Next annotation", () => this.step(1));
    app.key("c", "Take over the object and correct it", () => this.takeOver());
    document.addEventListener("keydown", (event) => {
      const isText = event.target.closest?.('input[type="text"], input[type="number"], textarea, dialog');
      if (!(event.ctrlKey || event.metaKey) || event.altKey || isText) return;
      const key = event.key.toLowerCase();
      if (key !== "z" && key !== "y") return;
      event.preventDefault();
      if (key === "y" || event.shiftKey) this.redo();
      else this.undo();
    });
  }

  // --- the file
  /** Load the file; `keeps` puts what is not stored yet onto it. */
  async reload(keeps) {
    const { drawing } = this;
    try {
      const document = await this.file.load();
      if (keeps && drawing.saved.size) drawing.loadBeneath(document);
      else drawing.load(document);
    } catch (error) {
      this.app.say(`Annotations: ${error.message}`, true);
      this.panel.tell("refused", error.message);
      return;
    }
    Object.assign(this.state, { selected: null, edited: null, draft: null });
    if (drawing.saved.size) this.changed();
    else this.shown();
  }

  changed() {
    this.shown();
    this.file.save();
  }

  shown() {
    const { drawing, state } = this;
    if (!drawing.entries.get(state.selected)?.shown) state.selected = null;
    state.current = Math.max(0, Math.min(state.current, drawing.classes.length - 1));
    this.panel.update();
    this.view.redraw();
  }

  // --- steps
  use(tool) {
    this.tools.use(tool);
    this.shown();
  }

  geometryOf(geometry) {
    if (!((this.app.scene.image.depth ?? 1) > 1)) return geometry;
    return { ...geometry, plane: { c: -1, z: this.app.z(), t: 0 } };
  }

  draw(geometry, ofClass = this.current()) {
    this.hide(false);
    const key = this.drawing.add(this.drawing.newFeature(this.geometryOf(geometry), ofClass));
    this.changed();
    return key;
  }

  replace(key, geometry) {
    const { feature } = this.drawing.entries.get(key);
    this.drawing.change(new Map([[key, { ...feature, geometry }]]));
    this.changed();
  }

  remove() {
    const { selected } = this.state;
    if (selected === null) return;
    this.drawing.change(new Map([[selected, null]]));
    this.changed();
  }

  undo() {
    if (!this.tools.cancel() && this.drawing.undo()) this.changed();
  }

  redo() {
    if (this.drawing.redo()) this.changed();
  }

  select(key) {
    if (this.state.selected === key) return;
    this.state.selected = key;
    this.shown();
  }

  /** Select the annotation before or after this one, and show it. */
  step(by) {
    const keys = [...this.drawing.entries].filter(([, one]) => one.shown).map(([key]) => key).sort((a, b) => a - b);
    if (!keys.length) return;
    const at = keys.indexOf(this.state.selected);
    const key = keys[at < 0 ? (by > 0 ? 0 : keys.length - 1) : (at + by + keys.length) % keys.length];
    const { shown } = this.drawing.entries.get(key);
    if (shown.plane !== this.app.z()) this.app.setZ(shown.plane);
    const { x0, y0, x1, y1 } = shown.bounds;
    const room = Math.max(x1 - x0, y1 - y0, 8);
    this.app.showRegion({ y0: y0 - room, x0: x0 - room, y1: y1 + room, x1: x1 + room });
    this.tools.use("select");
    this.select(key);
    this.shown();
  }

  hide(isHidden) {
    this.state.hidden = isHidden;
    this.shown();
  }

  /** Take an area away from the annotations of this class in this plane. */
  erase(area) {
    if (!area) return;
    const bounds = boundsOf(listsOf(area));
    const { name } = this.current();
    const met = [...this.drawing.within(bounds, this.app.z())].filter(
      ([, { feature, shown }]) => feature.properties?.classification?.name === name && isSimple(feature.geometry) && meet(bounds, shown.bounds),
    );
    if (!met.length) {
      this.app.say(`Nothing of ${name} is drawn there`);
      return;
    }
    this.erasing = this.erasing.then(() => this.eraseFrom(met, area));
  }

  async eraseFrom(met, area) {
    const geometries = met.map(([, { feature }]) => ({ type: feature.geometry.type, coordinates: feature.geometry.coordinates }));
    let left;
    try {
      const body = JSON.stringify({ geometries, area });
      left = (await this.app.fetchJson("annotations/erase", { method: "POST", body })).geometries;
    } catch (error) {
      this.app.say(`Nothing is erased: ${error.message}`, true);
      return;
    }
    const features = new Map();
    met.forEach(([key, { feature }], n) => {
      const isAsSent = this.drawing.entries.get(key)?.feature === feature; // it may have been changed meanwhile
      if (!isAsSent || JSON.stringify(left[n]) === JSON.stringify(geometries[n])) return;
      const { plane } = feature.geometry;
      features.set(key, left[n] && { ...feature, geometry: plane ? { ...left[n], plane } : left[n] });
    });
    if (!features.size) return;
    this.drawing.change(features);
    this.changed();
  }

  // --- classes
  choose(number) {
    const { drawing, state } = this;
    const chosen = drawing.classes[number];
    if (!chosen) return;
    state.current = number;
    const entry = drawing.entries.get(state.selected);
    if (entry && entry.feature.properties?.classification?.name !== chosen.name) {
      drawing.change(new Map([[state.selected, drawing.inClass(entry.feature, chosen)]]));
      this.changed();
    } else {
      this.shown();
    }
  }

  add() {
    const { classes } = this.drawing;
    let number = classes.length + 1;
    while (classes.some((one) => one.name === `class ${number}`)) number += 1;
    this.drawing.addClass(`class ${number}`);
    this.state.current = classes.length;
    this.changed();
  }

  rename(number, name) {
    const { classes } = this.drawing;
    const isWrong = !name || classes.some((one, n) => n !== number && one.name === name);
    if (isWrong) this.app.say(name ? `There is a class ${name} already` : "A class needs a name", true);
    else if (name !== classes[number].name) this.drawing.changeClass(number, { name });
    else return;
    this.panel.shownClasses = null; // a name that is refused is shown as it was
    if (isWrong) this.shown();
    else this.changed();
  }

  colour(number, color) {
    if (String(color) === String(this.drawing.classes[number].color)) return;
    this.drawing.changeClass(number, { color });
    this.changed();
  }

  drop(number) {
    const { name } = this.drawing.classes[number];
    const count = this.drawing.countIn(name);
    if (count || this.drawing.classes.length === 1) {
      this.app.say(count ? `${count} annotations are of ${name}: delete them first` : "One class has to be left", true);
      return;
    }
    this.drawing.removeClass(number);
    this.changed();
  }

  // --- objects of masks
  /** An object that was clicked: {name, colour, geometry, text}; null if none is. */
  offer(object) {
    this.object = object?.geometry ? object : null;
    this.panel.offer(this.object && (object.text ?? "this object"), () => this.takeOver());
  }

  /** Make the outline of the object an annotation of its class, to be corrected. */
  takeOver() {
    const { object } = this;
    if (!object) {
      this.app.say("Click an object of a mask first");
      return;
    }
    const { classes } = this.drawing;
    const name = object.name || "object";
    let ofClass = classes.find((one) => one.name === name);
    const color = toRgb(object.colour) ?? [128, 128, 128];
    const key = this.drawing.nextKey++;
    const known = ofClass ? classes : [...classes, (ofClass = { name, color })];
    this.drawing.change(new Map([[key, this.drawing.newFeature(this.geometryOf(object.geometry), ofClass)]]), known);
    this.use("select");
    this.state.current = known.indexOf(ofClass);
    this.hide(false);
    this.select(key);
    this.offer(null);
    this.changed();
  }
}
