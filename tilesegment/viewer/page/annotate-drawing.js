// The annotations in memory: features as they lie in the file, classes, and steps that can be undone.
import { boundsOf, listsOf } from "./annotate-geometry.js";

const PALETTE = [
  [213, 94, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [240, 228, 66], [120, 80, 200],
];
const NO_CLASS = [128, 128, 128];
const MOST_STEPS = 500;
const MOST_CLASSES = 1000;
const isColour = (value) =>
  Array.isArray(value) && value.length === 3 && value.every((one) => Number.isInteger(one) && one >= 0 && one <= 255);

/** A random id of the form that QuPath reads (a UUID); crypto.randomUUID is missing where the page is not on loopback. */
function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = [...bytes].map((one) => one.toString(16).padStart(2, "0")).join("");
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");
}

export const classNameOf = (feature) => {
  const classification = feature.properties?.classification;
  const name = classification?.name ?? classification?.names?.join?.(": ");
  return typeof name === "string" && name ? name : null;
};

function colourOf(feature) {
  const { color, colorRGB } = feature.properties?.classification ?? {};
  if (isColour(color)) return color;
  return Number.isInteger(colorRGB) ? [(colorRGB >> 16) & 255, (colorRGB >> 8) & 255, colorRGB & 255] : null;
}

const planeOf = (feature) => Number(feature.geometry?.plane?.z ?? feature.properties?.plane?.z ?? 0);

/** What is drawn of a feature: its lists of positions and their bounds; null for what the page cannot draw. */
export function shownOf(feature) {
  const lists = listsOf(feature.geometry);
  const bounds = lists && boundsOf(lists);
  if (!bounds) return null;
  const isArea = lists.some((one) => one.isRing);
  return { lists, bounds, isArea, isPoints: feature.geometry.type.endsWith("Point"), plane: planeOf(feature) };
}

export class Drawing {
  /** `suggested`: classes {name, color} of the masks, offered where the file names none. */
  constructor(suggested) {
    this.suggested = suggested;
    this.texts = new WeakMap(); // a feature never changes: its text is made once
    this.load({ type: "FeatureCollection", features: [] });
  }

  /** Take a document in place of what there was; nothing can be undone then. */
  load(document) {
    const { features, ...others } = document;
    this.others = others;
    this.entries = new Map(); // a number that rises in the order of the file -> {feature, shown}
    this.nextKey = 0;
    for (const feature of features) this.put(this.nextKey++, feature);
    this.classes = this.findClasses();
    [this.done, this.undone] = [[], []];
    this.saved = new Map(); // of features that are not stored yet: key -> the feature that is stored, or null
  }

  put(key, feature) {
    if (feature) this.entries.set(key, { feature, shown: shownOf(feature) });
    else this.entries.delete(key);
  }

  findClasses() {
    const found = new Map();
    const add = (name, color) => {
      if (typeof name === "string" && name && !found.has(name) && found.size < MOST_CLASSES) found.set(name, color);
    };
    const stated = this.others.tilesegment?.classes;
    for (const one of Array.isArray(stated) ? stated : []) if (isColour(one?.color)) add(one.name, one.color);
    for (const { feature } of this.entries.values()) add(classNameOf(feature), colourOf(feature));
    for (const one of this.suggested) add(one.name, one.color);
    if (!found.size) ["class 1", "class 2"].forEach((name) => add(name, null));
    return [...found].map(([name, color], number) => ({ name, color: color ?? PALETTE[number % PALETTE.length] }));
  }

  colour(feature) {
    const name = classNameOf(feature);
    return this.classes.find((one) => one.name === name)?.color ?? colourOf(feature) ?? NO_CLASS;
  }

  newFeature(geometry, { name, color }) {
    return {
      type: "Feature", id: newId(), geometry, properties: { objectType: "annotation", classification: { name, color } },
    };
  }

  /** One step: features by key (null deletes), and classes where they change. */
  change(features, classes = this.classes) {
    const before = new Map();
    for (const key of features.keys()) before.set(key, this.entries.get(key)?.feature ?? null);
    this.done.push({ before, after: features, classesBefore: this.classes, classesAfter: classes });
    if (this.done.length > MOST_STEPS) this.done.shift();
    this.undone = [];
    this.apply(features, classes);
  }

  apply(features, classes) {
    for (const [key, feature] of features) {
      if (!this.saved.has(key)) this.saved.set(key, this.entries.get(key)?.feature ?? null);
      this.put(key, feature);
    }
    this.classes = classes;
  }

  add(feature) {
    const key = this.nextKey++;
    this.change(new Map([[key, feature]]));
    return key;
  }

  undo() {
    const step = this.done.pop();
    if (!step) return false;
    this.undone.push(step);
    this.apply(step.before, step.classesBefore);
    return true;
  }

  redo() {
    const step = this.undone.pop();
    if (!step) return false;
    this.done.push(step);
    this.apply(step.after, step.classesAfter);
    return true;
  }

  /** Give a class another name or colour, with all that is drawn in it. */
  changeClass(number, change) {
    const old = this.classes[number];
    const next = { ...old, ...change };
    const features = new Map();
    for (const [key, { feature }] of this.entries) {
      if (classNameOf(feature) === old.name) features.set(key, this.inClass(feature, next));
    }
    this.change(features, this.classes.map((one, n) => (n === number ? next : one)));
  }

  addClass(name) {
    const color = PALETTE[this.classes.length % PALETTE.length];
    this.change(new Map(), [...this.classes, { name, color }]);
  }

  removeClass(number) {
    this.change(new Map(), this.classes.filter((_, n) => n !== number));
  }

  inClass(feature, { name, color }) {
    const { names, colorRGB, ...others } = feature.properties?.classification ?? {};
    const classification = { ...others, name, color };
    return { ...feature, properties: { ...feature.properties, classification } };
  }

  countIn(name) {
    let count = 0;
    for (const { feature } of this.entries.values()) count += classNameOf(feature) === name;
    return count;
  }

  /** What is drawn in a plane, within bounds: [key, entry], in the order of the file. */
  *within(bounds, plane) {
    for (const one of this.entries) {
      const { shown } = one[1];
      if (shown && shown.plane === plane && shown.bounds.x0 <= bounds.x1 && bounds.x0 <= shown.bounds.x1
        && shown.bounds.y0 <= bounds.y1 && bounds.y0 <= shown.bounds.y1) yield one;
    }
  }

  /** The whole document as text: all features, also those that the page cannot draw, in the order of the file. */
  text() {
    const others = { ...this.others, tilesegment: { ...this.others.tilesegment, classes: this.classes } };
    const keys = [...this.entries.keys()].sort((a, b) => a - b);
    return `${JSON.stringify(others).slice(0, -1)},"features":[${keys.map((key) => this.textOf(key)).join(",\n")}]}`;
  }

  textOf(key) {
    const { feature } = this.entries.get(key);
    if (!this.texts.has(feature)) this.texts.set(feature, JSON.stringify(feature));
    return this.texts.get(feature);
  }

  /** What is not stored yet: [feature that is stored or null, feature now or null]. */
  unsaved() {
    return [...this.saved].map(([key, before]) => [before, this.entries.get(key)?.feature ?? null]);
  }

  /** Take the document of another browser, and put what is not stored yet onto it as one step. */
  loadBeneath(document) {
    const [mine, classes] = [this.unsaved(), this.classes];
    this.load(document);
    const identity = (feature) => feature.id ?? JSON.stringify(feature);
    const keys = new Map([...this.entries].map(([key, { feature }]) => [identity(feature), key]));
    const features = new Map();
    for (const [before, now] of mine) {
      const there = keys.get(identity(before ?? now));
      if (now) features.set(there ?? this.nextKey++, now);
      else if (there !== undefined) features.set(there, null);
    }
    const known = new Set(this.classes.map((one) => one.name));
    this.change(features, [...this.classes, ...classes.filter((one) => !known.has(one.name))]);
  }
}
