// The controls of annotations: tools, classes, steps, what became of the file.
import { element, field } from "./controls.js";

export const TOOLS = [
  ["select", "Select", "q", "Select an annotation: drag its vertices, or all of it"],
  ["polygon", "Polygon", "a", "Draw a polygon: click its corners, end on the first one"],
  ["box", "Box", "r", "Draw a box of whole pixels: drag it"],
  ["free", "Freehand", "f", "Draw an area freehand: drag around it"],
  ["point", "Point", "d", "Draw a point (dot): click"],
  ["erase", "Eraser", "e", "Erase from the annotations of this class: drag around what goes"],
];
const TOLD = { loaded: "", saving: "Saving …", unsaved: "Not saved", refused: "Not saved", changed: "Not saved" };
const hex = (color) => `#${color.map((one) => one.toString(16).padStart(2, "0")).join("")}`;
const rgb = (text) => [1, 3, 5].map((at) => parseInt(text.slice(at, at + 2), 16));

export class Panel {
  /** acts: use(tool), undo(), redo(), remove(), step(by), choose(n), add(), rename(n, name), colour(n, rgb), drop(n), ... */
  constructor(app, drawing, state, acts) {
    Object.assign(this, { app, drawing, state, acts });
    const panel = app.panel("Annotations");
    const button = (text, title, action) => element("button", { type: "button", text, title, onclick: action });
    this.tools = new Map();
    const tools = element("div", { className: "annotate-buttons", role: "toolbar", ariaLabel: "Tools to draw" });
    for (const [tool, label, key, what] of TOOLS) {
      this.tools.set(tool, button(label, `${what} (${key})`, () => acts.use(tool)));
      tools.append(this.tools.get(tool));
    }
    this.undo = button("Undo", "Undo (Ctrl+Z)", () => acts.undo());
    this.redo = button("Redo", "Redo (Ctrl+Shift+Z)", () => acts.redo());
    this.remove = button("Delete", "Delete the selected annotation (Delete)", () => acts.remove());
    const before = button("◂", "Annotation before ([)", () => acts.step(-1));
    const next = button("▸", "Next annotation (])", () => acts.step(1));
    before.setAttribute("aria-label", "Annotation before");
    next.setAttribute("aria-label", "Next annotation");
    const steps = element("div", { className: "annotate-buttons" }, this.undo, this.redo, this.remove, before, next);
    this.classes = element("div");
    const add = button("Add class", "Add a class of your own", () => acts.add());
    const classes = element("fieldset", {}, element("legend", { text: "Classes" }), this.classes, add);
    this.chosen = element("p");
    this.object = element("div", { hidden: true });
    this.told = element("p", { role: "status" });
    this.conflict = this.makeConflict(button);
    const told = [this.conflict, this.chosen, this.object];
    panel.append(tools, steps, ...told, classes, this.shown(), this.snapped(), this.told);
    const section = panel.closest("details");
    section.parentElement.prepend(section); // who draws looks here most
  }

  shown() {
    const { input, row } = field("Show annotations", { type: "checkbox", checked: true });
    input.addEventListener("change", () => this.acts.hide(!input.checked));
    this.visible = input;
    return row;
  }

  snapped() {
    const { input, row } = field("Vertices on corners of pixels", { type: "checkbox" });
    input.addEventListener("change", () => {
      this.state.isSnapped = input.checked;
    });
    return row;
  }

  makeConflict(button) {
    const said = element("p");
    const both = button("Load, and add what I drew", "Keep both: what is not saved is put onto it", () => this.acts.reload(true));
    const theirs = button("Load, drop what I drew", "What is not saved here is lost", () => this.acts.reload(false));
    const box = element("div", { role: "alert", className: "annotate-conflict", hidden: true }, said, both, theirs);
    Object.assign(box, { said, theirs, both });
    return box;
  }

  /** What became of the last step: see annotate-file.js. */
  tell(told, message) {
    const time = new Date().toLocaleTimeString();
    this.told.textContent = told === "saved" ? `Saved, ${time}` : TOLD[told] + (message ? `: ${message}` : "");
    this.told.classList.toggle("annotate-wrong", !["loaded", "saved", "saving"].includes(told));
    this.conflict.hidden = told !== "changed";
    if (told !== "changed") return;
    const isUnsaved = this.drawing.saved.size > 0;
    this.told.textContent = isUnsaved ? "Not saved" : "";
    this.conflict.said.textContent = `${message}. Nothing is saved until it is loaded.`;
    this.conflict.both.textContent = isUnsaved ? "Load, and add what I drew" : "Load";
    this.conflict.theirs.hidden = !isUnsaved;
    this.conflict.scrollIntoView({ block: "nearest" });
    this.app.say(message, true);
  }

  /** Show what is selected, what can be undone, and the classes. */
  update() {
    const { drawing, state } = this;
    for (const [tool, button] of this.tools) button.setAttribute("aria-pressed", String(tool === state.tool));
    this.undo.disabled = !drawing.done.length;
    this.redo.disabled = !drawing.undone.length;
    const entry = drawing.entries.get(state.selected);
    this.remove.disabled = !entry;
    this.chosen.textContent = entry ? this.describe(entry) : `${drawing.entries.size} annotations`;
    this.visible.checked = !state.hidden;
    this.updateClasses();
  }

  describe({ feature, shown }) {
    const count = shown.lists.reduce((sum, { positions, isRing }) => sum + positions.length - isRing, 0);
    const name = feature.properties?.classification?.name ?? "no class";
    return `Selected: ${feature.geometry.type} of ${name}, ${count} ${count === 1 ? "vertex" : "vertices"}`;
  }

  updateClasses() {
    const { classes } = this.drawing;
    const key = JSON.stringify([classes, this.state.current]);
    if (key === this.shownClasses) return;
    this.shownClasses = key;
    const focused = this.classes.contains(document.activeElement) ? document.activeElement.dataset.place : null;
    this.classes.replaceChildren(...classes.map((one, number) => this.row(one, number)));
    if (focused) this.classes.querySelector(`[data-place="${focused}"]`)?.focus();
  }

  row({ name, color }, number) {
    const key = number < 9 ? String(number + 1) : "";
    const radio = element("input", {
      type: "radio", name: "annotate-class", checked: number === this.state.current,
      ariaLabel: `Draw in ${name}`, title: key ? `Draw in ${name} (${key})` : `Draw in ${name}`,
    });
    radio.addEventListener("change", () => this.acts.choose(number));
    const text = element("input", { type: "text", value: name, maxLength: 200, ariaLabel: `Name of ${name}`, className: "grow" });
    text.addEventListener("change", () => this.acts.rename(number, text.value.trim()));
    const colour = element("input", { type: "color", value: hex(color), ariaLabel: `Colour of ${name}` });
    colour.addEventListener("change", () => this.acts.colour(number, rgb(colour.value)));
    const drop = element("button", {
      type: "button", text: "×", ariaLabel: `Remove ${name}`, title: "Remove a class in which nothing is drawn",
      onclick: () => this.acts.drop(number),
    });
    [radio, text, colour, drop].forEach((one, n) => {
      one.dataset.place = `${number}-${n}`;
    });
    return element("div", { className: "row" }, radio, element("kbd", { text: key || "·", ariaHidden: "true" }), colour, text, drop);
  }

  /** Offer an object of a mask to be corrected; null takes the offer back. */
  offer(what, act) {
    this.object.hidden = !what;
    if (!what) return;
    const take = element("button", { type: "button", text: `Correct ${what}`, title: "Take over its outline (c)", onclick: act });
    this.object.replaceChildren(take);
  }
}
