// Masks that are being predicted: how far they are, and their tiles drawn anew where blocks were stored.

import { element } from "./controls.js";

const TITLE = "In progress";
const SECOND = 1000;
const PAUSE = 5 * SECOND; // after an answer that is none

export function start(app) {
  const rows = new Map(); // number of a layer in progress -> its row in the panel
  const state = { isPolling: false };
  // what changed when the page was opened may be complete by now: it is drawn anew once more
  const go = (layers) => {
    for (const { number, changes } of layers) if (changes && !rows.has(number)) rows.set(number, row(app, number));
    if (!state.isPolling) poll(app, rows, state);
  };
  app.on("z", () => go([app.layer(0)])); // of another plane the view from afar may have to be computed
  go(app.scene.layers);
}

async function poll(app, rows, state) {
  state.isPolling = true;
  let wait = SECOND;
  try {
    const { layers } = await app.fetchJson("progress");
    await show(app, rows, layers);
    if (layers.length === 0) {
      state.isPolling = false; // nothing changes any more
      return;
    }
  } catch (error) {
    app.say(`How far the masks are is not known: ${error.message}`, true);
    wait = PAUSE;
  }
  setTimeout(() => poll(app, rows, state), wait);
}

async function show(app, rows, layers) {
  const redrawn = [];
  for (const found of layers) {
    const number = found.layer;
    if (!rows.has(number)) rows.set(number, row(app, number));
    const { box, bar, text, seen } = rows.get(number);
    bar.max = found.total;
    bar.value = found.done;
    text.textContent = app.layer(number).kind === "image" ? overview(found) : told(found);
    if (seen === found.version) continue;
    rows.get(number).seen = found.version;
    app.versions.set(number, versions(app.layer(number), found));
    redrawn.push(app.redraw(number));
    box.dataset.version = found.version;
  }
  for (const [number, { box }] of rows) {
    if (layers.some((found) => found.layer === number)) continue;
    rows.delete(number);
    box.remove();
    app.versions.set(number, () => "done");
    redrawn.push(app.redraw(number));
    if (app.layer(number).kind !== "image") app.say(`${app.layer(number).name} is complete`);
  }
  if (rows.size > 0 || redrawn.length > 0) app.panel(TITLE).parentElement.hidden = rows.size === 0;
  await Promise.all(redrawn);
}

function row(app, number) {
  const { name } = app.layer(number);
  const bar = element("progress", { ariaLabel: `Progress of ${name}` });
  const text = element("span", { className: "soft" });
  const box = element("div", { className: "progress" }, element("div", { text: name }), bar, text);
  const panel = app.panel(TITLE);
  panel.append(box);
  panel.parentElement.parentElement.prepend(panel.parentElement); // before all controls
  return { box, bar, text, seen: null };
}

// Of an image without small levels of its own.
function overview({ done, total }) {
  return `Computing the view from afar: ${Math.floor((100 * done) / total)} %`;
}

function told({ done, total, rate, left }) {
  const share = `${Math.floor((100 * done) / total)} %, ${done.toLocaleString("en")} of ${total.toLocaleString("en")} blocks`;
  const speed = rate ? `, ${rate.toPrecision(3)} Mpx/s` : "";
  return `${share}${speed}${left === null ? "" : `, ${time(left)} left`}`;
}

function time(seconds) {
  if (seconds < 90) return `${Math.ceil(seconds)} s`;
  if (seconds < 90 * 60) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

// The version of each tile: the number of blocks that are done where it lies, so that only tiles that grew are asked for.
function versions(layer, { version, cells }) {
  if (!cells) return () => version;
  const { side, counts } = cells;
  return (zoom, row, column) => {
    const span = 512 * 2 ** zoom;
    const touched = (index, length) => [Math.floor((index * span) / side), Math.min(Math.ceil(((index + 1) * span) / side), length)];
    const [top, bottom] = touched(row, counts.length);
    const [left, right] = touched(column, counts[0].length);
    let sum = 0;
    for (let y = top; y < bottom; y += 1) for (let x = left; x < right; x += 1) sum += counts[y][x];
    return sum;
  };
}
