// The image's own controls: plane, channels with colour and contrast, what is known of it.

import { element, field, later } from "./controls.js";

const MOST = 8; // channels that are mixed at once, as in colours.py

export function start(app) {
  if ((app.scene.image.depth ?? 1) > 1) planes(app);
  channels(app);
  about(app);
}

function planes(app) {
  const last = app.scene.image.depth - 1;
  const { input, row } = field("Plane z", { type: "range", min: 0, max: last, value: app.plane });
  const number = element("input", { type: "number", min: 0, max: last, value: app.plane, ariaLabel: "Plane z as a number" });
  row.append(number);
  app.panel("Image").append(row);
  const set = later(60, (z) => app.setZ(z));
  input.addEventListener("input", () => {
    number.value = input.value;
    set(Number(input.value));
  });
  number.addEventListener("change", () => app.setZ(Number(number.value)));
  app.on("z", (z) => {
    input.value = z;
    number.value = z;
  });
  app.key(", PageUp", "Plane before", () => app.setZ(app.plane - 1));
  app.key(". PageDown", "Next plane", () => app.setZ(app.plane + 1));
  app.remember("z", () => String(app.plane), (text) => app.setZ(Number(text) || 0));
}

function channels(app) {
  const layer = app.layer(0);
  const state = layer.channels.map((one) => ({ ...one }));
  const panel = app.panel("Image");
  const list = element("div");
  let asStored = layer.is_colour;

  const change = later(120, () => {
    const shown = state.filter((one) => one.visible);
    if (asStored) app.looks.delete(0);
    else app.looks.set(0, { channels: shown.map(text).join(",") });
    app.redraw(0);
    app.touch();
  });
  const widgets = state.map((one) => channel(app, one, state, change));
  list.append(...widgets.map((one) => one.box));
  if (layer.is_colour) {
    const { input, row } = field("Colours as stored", { type: "checkbox", checked: true });
    const show = () => {
      asStored = input.checked;
      list.hidden = asStored;
    };
    input.addEventListener("change", () => {
      show();
      change();
    });
    panel.append(row);
    show();
    app.remember("channels", () => (asStored ? null : state.map(kept).join(",")), (given) => {
      input.checked = false;
      show();
      apply(given);
    });
  } else {
    app.remember("channels", () => (changed(state, layer.channels) ? state.map(kept).join(",") : null), apply);
  }
  panel.append(list);

  function apply(given) {
    for (const part of given.split(",")) {
      const match = /^(\d+):([0-9a-f]{6}):([-+.0-9e]+):([-+.0-9e]+):([01])$/.exec(part);
      const one = match && state[Number(match[1])];
      if (!one) continue;
      Object.assign(one, { colour: match[2], low: Number(match[3]), high: Number(match[4]), visible: match[5] === "1" });
    }
    for (const one of widgets) one.update();
    change();
  }
}

const text = (one) => `${one.number}:${one.colour}:${one.low}:${one.high}`;
const kept = (one) => `${text(one)}:${one.visible ? 1 : 0}`;
const changed = (state, before) => state.some((one, n) => kept(one) !== kept(before[n]));

// Controls of one channel: shown or not, colour, the values that are black and full colour.
function channel(app, one, all, change) {
  const usual = { low: one.low, high: one.high };
  const { input: visible, row } = field(one.name, { type: "checkbox" });
  const colour = element("input", { type: "color", ariaLabel: `Colour of ${one.name}` });
  row.append(colour);
  const ends = ["low", "high"].map((end) => contrast(one, end, usual, change));
  const auto = button("Auto", `Auto contrast of ${one.name}`, () => range(usual));
  const full = button("Full", `Full range of ${one.name}`, () => range({ low: one.least, high: one.greatest }));
  const box = element("fieldset", {}, element("legend", { className: "unseen" }), row, ...ends.map((end) => end.row));
  box.firstChild.textContent = one.name;
  box.append(element("div", { className: "row" }, auto, full));

  function range(given) {
    Object.assign(one, given);
    update();
    change();
  }
  function update() {
    visible.checked = one.visible;
    colour.value = `#${one.colour}`;
    for (const end of ends) end.update();
  }
  visible.addEventListener("change", () => {
    if (visible.checked && all.filter((other) => other.visible).length >= MOST) {
      visible.checked = false;
      app.say(`At most ${MOST} channels are shown at once`, true);
      return;
    }
    one.visible = visible.checked;
    change();
  });
  colour.addEventListener("input", () => {
    one.colour = colour.value.slice(1);
    change();
  });
  update();
  return { box, update };
}

function contrast(one, end, usual, change) {
  const span = usual.high - usual.low;
  const [low, high] = [Math.max(one.least, usual.low - span), Math.min(one.greatest, usual.high + 2 * span)];
  const isWhole = Number.isInteger(one.greatest) && one.greatest >= 255;
  const step = isWhole ? 1 : (high - low) / 1000;
  const label = end === "low" ? "Black" : "White";
  const { input: slider, row } = field(label, { type: "range", min: low, max: high, step });
  const number = element("input", { type: "number", step: "any", ariaLabel: `${label} of ${one.name}, as a number` });
  slider.setAttribute("aria-label", `${label} of ${one.name}`);
  row.append(number);
  slider.addEventListener("input", () => set(Number(slider.value)));
  number.addEventListener("change", () => {
    if (number.value !== "" && Number.isFinite(Number(number.value))) set(Number(number.value));
  });
  function set(value) {
    one[end] = value;
    update();
    change();
  }
  function update() {
    slider.value = one[end];
    number.value = Number(one[end].toPrecision(6));
  }
  return { row, update };
}

function button(label, what, action) {
  return element("button", { type: "button", text: label, ariaLabel: what, onclick: action });
}

function about(app) {
  const { image } = app.scene;
  const layer = app.layer(0);
  const list = element("dl");
  const add = (name, value) => list.append(element("dt", { text: name }), element("dd", { text: value }));
  add("Size", `${image.height} × ${image.width} px (y, x)${image.depth ? `, ${image.depth} planes` : ""}`);
  add("Pixel", layer.mpp ? `${rounded(layer.mpp.y)}${layer.mpp.y === layer.mpp.x ? "" : ` × ${rounded(layer.mpp.x)}`} µm` : "size unknown");
  add("Format", `${layer.format}, ${layer.channels.length} × ${layer.dtype}`);
  for (const note of layer.notes) add("Note", note);
  app.panel("About").append(list);
}

const rounded = (value) => String(Number(value.toPrecision(4)));
