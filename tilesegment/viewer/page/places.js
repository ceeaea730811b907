// A list of places to look at: where a model is least sure. One steps through them, and ticks those that are done.

import { element } from "./controls.js";

const AROUND = 2.5; // times a place that is seen around it
const KEPT = "tileseg-places-"; // in what the browser remembers

export async function start(app) {
  if (!app.scene.places) return;
  const list = new List(app, await app.fetchJson("places"));
  app.key("n", "Next place", () => list.step(1));
  app.key("p", "Place before", () => list.step(-1));
  app.places = list; // for tests and the console
}

class List {
  constructor(app, { name, digest, places }) {
    this.app = app;
    this.places = places;
    this.key = KEPT + digest;
    this.current = -1;
    this.done = new Set(remembered(this.key));
    const panel = app.panel("Places");
    this.count = element("p", {});
    const steps = element(
      "div",
      { className: "row" },
      element("button", { type: "button", text: "← Before", title: "Place before (p)", onclick: () => this.step(-1) }),
      element("button", { type: "button", text: "Next →", title: "Next place (n)", onclick: () => this.step(1) }),
    );
    this.rows = places.map((place, number) => this.row(place, number));
    panel.append(element("p", { text: name }), this.count, steps, element("ol", { id: "places" }, ...this.rows));
    this.frame = element("div", { id: "place-frame", hidden: true });
    app.osd.canvas.append(this.frame);
    app.on("moved", () => this.draw());
    app.on("z", () => this.draw());
    app.paint((context, ratio) => this.paint(context, ratio));
    this.tell();
  }

  row(place, number) {
    const score = place.score === null ? "" : ` · ${place.score.toFixed(3)}`;
    const tick = element("input", {
      type: "checkbox",
      checked: this.done.has(place.rank),
      "aria-label": `Place ${place.rank} is done`,
      onchange: () => this.tick(place, tick.checked),
    });
    const go = element("button", {
      type: "button",
      className: "grow",
      text: `${place.name}${score}`,
      title: `y ${place.y}, x ${place.x}${place.plane === null ? "" : `, plane ${place.plane}`}`,
      onclick: () => this.go(number),
    });
    return element("li", { className: "row" }, tick, go);
  }

  step(by) {
    const count = this.places.length;
    this.go(this.current < 0 ? (by > 0 ? 0 : count - 1) : (this.current + by + count) % count);
  }

  go(number) {
    this.rows[this.current]?.querySelector("button").removeAttribute("aria-current");
    this.current = number;
    const place = this.places[number];
    const button = this.rows[number].querySelector("button");
    button.setAttribute("aria-current", "true");
    button.scrollIntoView({ block: "nearest" });
    if (place.plane !== null) this.app.setZ(place.plane);
    const [down, along] = [(place.height * (AROUND - 1)) / 2, (place.width * (AROUND - 1)) / 2];
    this.app.showRegion({
      y0: place.y - down,
      x0: place.x - along,
      y1: place.y + place.height + down,
      x1: place.x + place.width + along,
    });
    this.app.say(`Place ${place.name}`);
    this.draw();
  }

  tick(place, isDone) {
    if (isDone) this.done.add(place.rank);
    else this.done.delete(place.rank);
    try {
      localStorage.setItem(this.key, JSON.stringify([...this.done]));
    } catch {
      this.app.say("The browser remembers nothing: ticks last until the page is closed", true);
    }
    this.tell();
  }

  tell() {
    const done = this.places.filter((place) => this.done.has(place.rank)).length;
    this.count.textContent = `${done} of ${this.places.length} done`;
  }

  // Where the current place is on the screen; null if it is not to be seen.
  box() {
    const place = this.places[this.current];
    if (!place || (place.plane !== null && place.plane !== this.app.z())) return null;
    const from = this.app.toScreen({ y: place.y, x: place.x });
    const to = this.app.toScreen({ y: place.y + place.height, x: place.x + place.width });
    return { x: from.x, y: from.y, width: to.x - from.x, height: to.y - from.y };
  }

  draw() {
    const box = this.box();
    this.frame.hidden = box === null;
    if (!box) return;
    const { style } = this.frame;
    style.transform = `translate(${box.x}px, ${box.y}px)`;
    style.width = `${box.width}px`;
    style.height = `${box.height}px`;
  }

  paint(context, ratio) {
    const box = this.box();
    if (!box) return;
    for (const [colour, width] of [["#000", 4], ["#ffd400", 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width * ratio;
      context.strokeRect(box.x * ratio, box.y * ratio, box.width * ratio, box.height * ratio);
    }
  }
}

function remembered(key) {
  try {
    const ranks = JSON.parse(localStorage.getItem(key) ?? "[]");
    return Array.isArray(ranks) ? ranks : [];
  } catch {
    return [];
  }
}
