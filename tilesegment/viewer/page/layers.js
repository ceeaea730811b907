// Masks over the image: which are shown, how opaque, which classes, filled or as outlines, heat maps, differences.

import { start as startCompare } from "./compare.js";
import { element, field, later } from "./controls.js";

const OPACITY = { classes: 0.5, probabilities: 0.7, ids: 0.5, difference: 0.7, objects: 1 };
const DRAWN = { fill: "Filled", outline: "Outlines" };
const GROUNDS = { clear: "Improbable is clear", solid: "Cover the image" };

export async function start(app) {
  const layers = app.scene.layers.filter((one) => one.kind in OPACITY);
  if (!layers.length) return;
  document.head.append(element("link", { rel: "stylesheet", href: "page/layers.css" }));
  const states = layers.map(initial);
  // of a truth and what is compared with it, the first difference alone is shown at first
  const difference = layers.find((one) => one.kind === "difference");
  if (difference) {
    for (const one of states) one.visible = one.number === difference.number || app.layer(one.number).kind === "objects";
  }
  app.states = new Map(states.map((one) => [one.number, one]));
  const usual = new Map(states.map((one) => [one.number, written(one)]));
  const isUsual = (one) => written(one) === usual.get(one.number);
  let updates = [];
  app.remember("layers", () => (states.every(isUsual) ? null : states.map(written).join(";")), (text) => {
    for (const part of text.split(";")) read(app, part);
    for (const update of updates) update();
  });
  for (const state of states) app.looks.set(state.number, look(app, state));
  app.showLayer = (number, visible) => {
    app.states.get(number).visible = visible;
    for (const update of updates) update();
  };
  const panel = app.panel("Layers");
  const made = states.map((state) => controls(app, state));
  panel.append(...made.map((one) => one.box));
  updates = made.map((one) => one.update);
  // the classes of objects are known once their file is indexed
  app.renewLayer = (number) => made[states.findIndex((one) => one.number === number)].renew();
  await Promise.all(states.map((state) => settle(app, state)));
  startCompare(app, states);
}

const adding = new Set(); // numbers of layers

// Show a layer as opaque as it is to be; it is added when it is shown for the first time.
async function settle(app, state) {
  const { number } = state;
  if (app.layer(number).kind === "objects") return; // drawn by objects.js
  if (!app.items.has(number) && state.visible && !adding.has(number)) {
    adding.add(number);
    await app.add(number, { opacity: state.opacity });
    adding.delete(number);
  }
  app.items.get(number)?.setOpacity(state.visible ? state.opacity : 0);
}

function initial(layer) {
  const hidden = layer.hidden ?? (layer.kind === "classes" ? [0] : []);
  const more = { shown: "foreground", map: layer.maps?.[0] ?? "", ground: "clear", low: 0, high: 1, alone: "all" };
  const known = layer.classes?.map((one) => one.id) ?? [];
  return {
    number: layer.number,
    visible: true,
    opacity: OPACITY[layer.kind],
    hidden: new Set(hidden.filter((id) => known.includes(id))),
    draw: "fill",
    ...more,
  };
}

// The parameters of the address of a tile, see the layers in mask_layers.py and difference_layer.py.
function look(app, state) {
  const { kind } = app.layer(state.number);
  if (kind === "probabilities") {
    return { class: state.shown, map: state.map, ground: state.ground, low: state.low, high: state.high };
  }
  const found = kind === "objects" ? {} : { draw: state.draw };
  if (kind === "classes" || kind === "difference" || kind === "objects") found.hidden = [...state.hidden].join(",");
  if (kind === "difference") found.class = state.alone;
  return found;
}

// --- as text in the link
function written(state) {
  const { number, visible, opacity, hidden, draw, shown, map, ground, low, high, alone } = state;
  const sorted = [...hidden].sort((a, b) => a - b).join("_");
  return [number, visible ? 1 : 0, opacity, sorted, draw, shown, map, ground, low, high, alone].join("*");
}

function read(app, text) {
  const parts = text.split("*");
  const state = app.states.get(Number(parts[0]));
  if (!state || parts.length !== 11) return;
  const layer = app.layer(state.number);
  const known = layer.classes?.map((one) => one.id) ?? [];
  const share = (given, before) => (Number(given) >= 0 && Number(given) <= 1 ? Number(given) : before);
  state.visible = parts[1] === "1";
  state.opacity = share(parts[2], state.opacity);
  state.hidden = new Set(parts[3].split("_").filter(Boolean).map(Number).filter((id) => known.includes(id)));
  if (parts[4] in DRAWN) state.draw = parts[4];
  if (["foreground", ...known.map(String)].includes(parts[5])) state.shown = parts[5];
  if (layer.maps?.includes(parts[6])) state.map = parts[6];
  if (parts[7] in GROUNDS) state.ground = parts[7];
  state.low = share(parts[8], 0);
  state.high = share(parts[9], 1);
  if (["all", ...(layer.compared ?? []).map((one) => String(one.id))].includes(parts[10])) state.alone = parts[10];
}

// --- controls of one layer
function controls(app, state) {
  const layer = app.layer(state.number);
  const box = element("fieldset", { className: "layer" }, element("legend", { className: "unseen", text: layer.name }));
  const updates = [];
  const change = later(80, () => {
    app.looks.set(state.number, look(app, state));
    app.redraw(state.number);
    app.emit("look-changed", state.number);
    app.touch();
  });
  const opaque = () => {
    settle(app, state);
    app.emit("opacity-changed", state.number);
    app.touch();
  };

  const { input: visible, row } = field(layer.name, { type: "checkbox" });
  visible.addEventListener("change", () => {
    state.visible = visible.checked;
    opaque();
  });
  row.classList.add("name");
  const { input: opacity, row: opacityRow } = field("Opacity", { type: "range", min: 0, max: 1, step: 0.05 });
  opacity.addEventListener("input", () => {
    state.opacity = Number(opacity.value);
    opaque();
  });
  updates.push(() => {
    visible.checked = state.visible;
    opacity.value = state.opacity;
  });
  box.append(row, opacityRow);
  const inner = element("div", { className: "look" });
  let ofParts = [];
  const fill = () => {
    const made = [...parts(layer, state, change)];
    const notes = (layer.notes ?? []).map((text) => element("p", { className: "note", text }));
    inner.replaceChildren(...made.map((part) => part.box), ...notes);
    ofParts = made.map((part) => part.update);
  };
  fill();
  updates.push(() => ofParts.forEach((one) => one()));
  box.append(inner);

  let before = JSON.stringify(look(app, state));
  const update = () => {
    for (const one of updates) one();
    opaque();
    const now = JSON.stringify(look(app, state));
    if (now !== before) change();
    before = now;
  };
  update();
  const renew = () => {
    fill();
    update();
  };
  return { box, update, renew };
}

function* parts(layer, state, change) {
  if (layer.draw) yield choice("Drawn", Object.entries(DRAWN), state, "draw", change);
  if (layer.kind === "probabilities") {
    const shown = [["foreground", "any but the first"], ...layer.classes.map((one) => [String(one.id), one.name])];
    yield choice("Probability of", shown, state, "shown", change);
    yield choice("Colours", layer.maps.map((one) => [one, one]), state, "map", change);
    yield choice("Ground", Object.entries(GROUNDS), state, "ground", change);
    yield slider("From", state, "low", change);
    yield slider("To", state, "high", change);
    return;
  }
  if (layer.compared?.length > 2) {
    const all = [["all", "all"], ...layer.compared.map((one) => [String(one.id), one.name])];
    yield choice("Class", all, state, "alone", change);
  }
  if (layer.classes?.length) yield classes(layer, state, change);
}

function choice(label, options, state, name, change) {
  const select = element("select", { ariaLabel: label });
  for (const [value, text] of options) select.append(element("option", { value, text }));
  select.addEventListener("change", () => {
    state[name] = select.value;
    change();
  });
  const named = element("label", { className: "row" }, element("span", { className: "grow", text: label }), select);
  return { box: named, update: () => (select.value = state[name]) };
}

function slider(label, state, name, change) {
  const { input, row } = field(label, { type: "range", min: 0, max: 1, step: 0.01 });
  input.addEventListener("input", () => {
    state[name] = Number(input.value);
    change();
  });
  return { box: row, update: () => (input.value = state[name]) };
}

function classes(layer, state, change) {
  const box = element("div", { className: "classes", role: "group", ariaLabel: `Classes of ${layer.name}` });
  const inputs = layer.classes.map((one) => {
    const { input, row } = field(one.name, { type: "checkbox" });
    const swatch = element("span", { className: "swatch", ariaHidden: "true" });
    swatch.style.backgroundColor = one.colour;
    input.after(swatch);
    input.addEventListener("change", () => {
      if (input.checked) state.hidden.delete(one.id);
      else state.hidden.add(one.id);
      change();
    });
    box.append(row);
    return [one.id, input];
  });
  return {
    box,
    update: () => {
      for (const [id, input] of inputs) input.checked = !state.hidden.has(id);
    },
  };
}
