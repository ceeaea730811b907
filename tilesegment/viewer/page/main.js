// The page: opens the image, and then the modules that draw on it. Each module has a function `start(app)`.

import { App } from "./app.js";
import { open } from "./canvas.js";
import { element } from "./controls.js";
import { start as startImage } from "./image.js";
import { bar, start as startPlace } from "./place.js";

const THEMES = ["auto", "light", "dark"];
const EDITED = "input, select, textarea, [contenteditable]";

async function main() {
  const base = new URL(".", location.href).href.split("#")[0];
  const app = new App(null, base);
  window.app = app; // for tests and the console
  if (!window.OpenSeadragon) {
    app.say("OpenSeadragon is missing: run `make page` where tilesegment is installed from", true);
    return;
  }
  try {
    app.scene = await app.fetchJson("scene.json");
  } catch (error) {
    app.say(error.message, true);
    return;
  }
  document.title = `${app.scene.image.name} – tileseg view`;
  document.getElementById("name").textContent = app.scene.image.name;
  document.getElementById("name").title = app.scene.image.name;
  open(app);
  await app.add(0);
  app.osd.viewport.goHome(true);
  startPlace(app);
  frame(app);
  startImage(app);
  for (const name of app.scene.modules) {
    try {
      const module = await import(`./${name}`);
      await module.start(app);
    } catch (error) {
      console.error(error);
      app.say(`${name}: ${error.message}`, true);
    }
  }
  // what is used most comes first
  for (const title of ["Image", "About"]) document.getElementById("panel").append(app.panel(title).parentElement);
  help(app);
  document.addEventListener("keydown", (event) => pressed(app, event));
  document.documentElement.dataset.ready = "true";
  app.emit("ready");
}

function pressed(app, event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.target.closest?.(EDITED) && !(event.target.type === "checkbox" && event.key !== " ")) return;
  const found = app.keys.get(event.key);
  if (!found) return;
  event.preventDefault();
  found.action(event);
}

function frame(app) {
  app.tool("PNG", "s", "Save the view as a PNG", () => savePng(app));
  const minimap = app.tool("Minimap", "m", "Show or hide the minimap", () => {
    const { element: shown } = app.osd.navigator;
    shown.hidden = !shown.hidden;
    minimap.setAttribute("aria-pressed", String(!shown.hidden));
  });
  minimap.setAttribute("aria-pressed", "true");
  const panel = document.getElementById("panel");
  const side = app.tool("Panel", "h", "Show or hide the side panel", () => showPanel(panel.hidden));
  const showPanel = (shown) => {
    panel.hidden = !shown;
    side.setAttribute("aria-pressed", String(shown));
  };
  showPanel(!window.matchMedia("(max-width: 760px)").matches);
  let theme = "auto";
  const themes = app.tool("Theme: auto", "t", "Light or dark, or as the system has it", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    themes.textContent = `Theme: ${theme}`;
    if (theme === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = theme;
  });
}

function help(app) {
  const dialog = document.getElementById("help");
  app.tool("?", "?", "Show the keys", () => {
    dialog.showModal();
    dialog.scrollTop = 0;
  });
  const rows = document.getElementById("keys");
  const seen = new Set();
  for (const { what, all } of app.keys.values()) {
    if (seen.has(what)) continue;
    seen.add(what);
    const keys = element("td", {}, ...all.split(" ").map((key) => element("kbd", { text: key })));
    rows.append(element("tr", {}, keys, element("td", { text: what })));
  }
}

// What is on the screen, with the scale bar, and with what other modules paint over it.
function savePng(app) {
  const drawn = app.osd.drawer.canvas;
  const canvas = element("canvas", { width: drawn.width, height: drawn.height });
  const context = canvas.getContext("2d");
  const ratio = drawn.width / app.osd.element.clientWidth;
  context.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--canvas");
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(drawn, 0, 0);
  for (const painter of app.painters) painter(context, ratio);
  const { pixels, text } = bar(app);
  context.scale(ratio, ratio);
  const [left, bottom] = [12, canvas.height / ratio - 12];
  context.fillStyle = "rgb(0 0 0 / 65%)";
  context.fillRect(left, bottom - 22, pixels, 22);
  context.fillStyle = "#fff";
  context.fillRect(left, bottom - 3, pixels, 3);
  context.font = "13px sans-serif";
  context.textAlign = "center";
  context.fillText(text, left + pixels / 2, bottom - 8);
  canvas.toBlob((blob) => {
    const address = URL.createObjectURL(blob);
    const { y, x } = app.toPixel({ x: app.osd.element.clientWidth / 2, y: app.osd.element.clientHeight / 2 });
    const stem = app.scene.image.name.replace(/[^\w.-]+/g, "_").slice(0, 80);
    element("a", { href: address, download: `${stem}_y${Math.round(y)}_x${Math.round(x)}.png` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 10000);
    app.say("The view is saved as a PNG");
  }, "image/png");
}

main();
