// Several layers compared: blinked one after the other, or side by side in a second view that moves with the first.

import { source, viewerOptions } from "./canvas.js";
import { element, field } from "./controls.js";

const PERIOD = 800; // ms that a blinking layer is shown

export function start(app, states) {
  blink(app, states);
  sideBySide(app, states);
}

// Each time one layer alone; those that are compared are the ones that are shown when it begins.
function blink(app, states) {
  const panel = app.panel("Compare");
  panel.classList.add("compare");
  let shown = [];
  let at = 0;
  let timer = null;

  function begin() {
    const before = states.filter((one) => one.visible);
    shown = (before.length > 1 ? before : states).map((one) => one.number);
    at = -1;
  }
  function next() {
    if (!shown.length) begin();
    at = (at + 1) % (shown.length + (shown.length === 1 ? 1 : 0));
    for (const number of shown) app.showLayer(number, number === shown[at]);
    app.say(at < shown.length ? app.layer(shown[at]).name : "no layer");
  }
  function end() {
    for (const number of shown) app.showLayer(number, true);
    shown = [];
    app.say("");
  }
  const { input, row } = field("Blink", { type: "checkbox" });
  const toggle = (isOn) => {
    input.checked = isOn;
    clearInterval(timer);
    timer = null;
    if (isOn) {
      next();
      timer = setInterval(next, PERIOD);
    } else end();
  };
  input.addEventListener("change", () => toggle(input.checked));
  app.key("b", "Blink layers", () => toggle(!input.checked));
  app.key("v", "Next layer alone", () => {
    if (timer === null) next();
  });
  app.key("V", "All these layers again", () => {
    if (timer === null) end();
  });
  panel.append(row);
}

function sideBySide(app, states) {
  const panel = app.panel("Compare");
  const select = element("select", { ariaLabel: "Side by side with" });
  select.append(element("option", { value: "", text: "off" }), element("option", { value: "0", text: "image alone" }));
  for (const { number } of states) select.append(element("option", { value: number, text: app.layer(number).name }));
  panel.append(element("label", { className: "row" }, element("span", { className: "grow", text: "Side by side with" }), select));
  const main = document.querySelector("main");
  let second = null;

  select.addEventListener("change", () => {
    close();
    if (select.value !== "") open(Number(select.value));
    app.touch();
  });
  app.remember("beside", () => select.value || null, (text) => {
    if (![...select.options].some((one) => one.value === text)) return;
    select.value = text;
    select.dispatchEvent(new Event("change"));
  });

  function close() {
    second?.destroy();
    second = null;
    document.getElementById("second")?.remove();
    main.querySelector(".side")?.remove();
    main.classList.remove("split");
  }

  function open(number) {
    const box = element("div", { id: "second" });
    document.getElementById("viewer").after(box);
    main.classList.add("split");
    second = window.OpenSeadragon({ ...viewerOptions(), element: box, showNavigator: false });
    second.addHandler("canvas-key", (event) => {
      event.preventDefaultAction = true;
    });
    second.canvas.setAttribute("role", "application");
    second.canvas.setAttribute("aria-label", `Image beside: ${app.layer(number).name}`);
    const name = element("div", { className: "side", text: app.layer(number).name });
    box.append(name);
    for (const one of number === 0 ? [0] : [0, number]) add(one);
    linked(app.osd, second);
  }

  function add(number) {
    const { placement } = app.layer(number);
    const { width } = app.scene.image;
    const state = states.find((one) => one.number === number);
    const viewer = second;
    viewer.addTiledImage({
      tileSource: source(app, number),
      x: placement.x / width,
      y: placement.y / width,
      width: placement.width / width,
      opacity: state ? state.opacity : 1,
      success: ({ item }) => {
        item.userData = { number };
        follow(viewer, app.osd);
      },
    });
  }

  // a new look, version or plane
  const renew = (number) => {
    if (!second) return;
    const old = itemOf(second, number);
    if (!old) return;
    second.world.removeItem(old);
    add(number);
  };
  app.on("layer-changed", renew);
  app.on("opacity-changed", (number) => {
    const state = states.find((one) => one.number === number);
    if (second) itemOf(second, number)?.setOpacity(state.opacity);
  });
}

function itemOf(viewer, number) {
  for (let n = 0; n < viewer.world.getItemCount(); n += 1) {
    const item = viewer.world.getItemAt(n);
    if (item.userData?.number === number) return item;
  }
  return null;
}

// Two views show the same place: that leads which was touched last; keys and buttons move the first.
function linked(first, second) {
  let leader = first;
  for (const [one, other] of [[first, second], [second, first]]) {
    for (const event of ["canvas-press", "canvas-scroll", "canvas-pinch"]) one.addHandler(event, () => (leader = one));
    const lead = () => {
      if (leader === one && other.world && other.isOpen()) follow(other, one);
    };
    one.addHandler("viewport-change", lead);
    second.addOnceHandler("destroy", () => one.removeHandler("viewport-change", lead));
  }
  const keys = () => (leader = first);
  document.addEventListener("keydown", keys, true);
  document.getElementById("tools").addEventListener("click", keys, true);
  second.addOnceHandler("destroy", () => {
    document.removeEventListener("keydown", keys, true);
    document.getElementById("tools").removeEventListener("click", keys, true);
  });
}

function follow(viewer, other) {
  viewer.viewport.zoomTo(other.viewport.getZoom(true), null, true);
  viewer.viewport.panTo(other.viewport.getCenter(true), true);
}
