// Where one looks: moving and zooming, coordinates and values under the cursor, scale bar, going to a place, the link.

const PAUSE = 80; // ms between two questions for values
const ROOM = 140; // pixels of the screen that the scale bar takes at most

export function start(app) {
  tools(app);
  cursor(app);
  scaleBar(app);
  goDialog(app);
  link(app);
}

function tools(app) {
  const { viewport } = app.osd;
  const zoom = (factor) => {
    viewport.zoomBy(factor);
    viewport.applyConstraints();
  };
  app.tool("+", "+ =", "Zoom in", () => zoom(1.5));
  app.tool("−", "-", "Zoom out", () => zoom(1 / 1.5));
  app.tool("Fit", "0", "Show the whole image", () => viewport.goHome());
  app.tool("1:1", "x", "One pixel of the image on one of the screen", () => {
    viewport.zoomTo(app.items.get(0).imageToViewportZoom(1 / (window.devicePixelRatio || 1)));
  });
  const pan = (x, y) => {
    const { Point } = window.OpenSeadragon;
    viewport.panBy(viewport.deltaPointsFromPixels(new Point(x * 120, y * 120)));
    viewport.applyConstraints();
  };
  app.key("ArrowLeft", "Move left", () => pan(-1, 0));
  app.key("ArrowRight", "Move right", () => pan(1, 0));
  app.key("ArrowUp", "Move up", () => pan(0, -1));
  app.key("ArrowDown", "Move down", () => pan(0, 1));
}

function cursor(app) {
  const { height, width } = app.scene.image;
  const where = document.getElementById("where");
  const values = document.getElementById("values");
  let wanted = null;
  let isAsking = false;

  async function ask() {
    if (isAsking) return;
    isAsking = true;
    while (wanted) {
      const { y, x } = wanted;
      wanted = null;
      try {
        const found = await app.fetchJson(`value?y=${y}&x=${x}&z=${app.plane}`);
        if (!isOutside) values.textContent = words(app, found);
        app.emit("values", found);
      } catch (error) {
        values.textContent = error.message;
      }
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
    isAsking = false;
  }

  let isOutside = true;
  app.osd.element.addEventListener("pointermove", (event) => {
    const pixel = app.toPixel(event);
    const [y, x] = [Math.floor(pixel.y), Math.floor(pixel.x)];
    isOutside = y < 0 || x < 0 || y >= height || x >= width;
    where.textContent = isOutside ? "" : `y ${y}, x ${x}`;
    app.emit("cursor", isOutside ? null : pixel);
    if (isOutside) values.textContent = "";
    wanted = isOutside ? null : { y, x };
    if (wanted) ask();
  });
  app.osd.element.addEventListener("pointerleave", () => {
    isOutside = true;
    wanted = null;
    where.textContent = "";
    values.textContent = "";
    app.emit("cursor", null);
  });
}

function words(app, found) {
  const known = found.filter((one) => one.value !== null);
  const named = app.scene.layers.length > 1;
  return known.map((one) => (named ? `${app.layer(one.layer).name}: ` : "") + word(one.value)).join("; ");
}

function word(value) {
  if (Array.isArray(value)) return value.map(word).join(", ");
  if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6)));
  return String(value?.text ?? value);
}

// The longest of 1, 2, 5, 10, ... micrometres, or pixels, that has room.
export function bar(app) {
  const { mpp } = app.layer(0);
  const perUnit = app.scale() / (mpp ? mpp.x : 1);
  const most = ROOM / perUnit;
  const power = 10 ** Math.floor(Math.log10(most));
  const length = power * (most / power >= 5 ? 5 : most / power >= 2 ? 2 : 1);
  const [size, unit] = !mpp ? [length, "px"] : length >= 1000 ? [length / 1000, "mm"] : length < 1 ? [length * 1000, "nm"] : [length, "µm"];
  return { pixels: length * perUnit, text: `${Number(size.toPrecision(3))} ${unit}` };
}

function scaleBar(app) {
  const box = document.getElementById("scale");
  const zoomed = document.getElementById("zoomed");
  const update = () => {
    const { pixels, text } = bar(app);
    box.hidden = false;
    box.style.width = `${pixels}px`;
    box.firstElementChild.textContent = text;
    zoomed.textContent = `${Number((app.scale() * 100).toPrecision(3))} %`;
    app.emit("moved");
  };
  app.osd.addHandler("update-viewport", update);
  update();
}

function goDialog(app) {
  const dialog = document.getElementById("go");
  const input = document.getElementById("go-to");
  const wrong = document.getElementById("go-wrong");
  app.tool("Go to", "g", "Go to coordinates", () => {
    wrong.textContent = "";
    dialog.showModal();
    input.select();
  });
  dialog.querySelector("form").addEventListener("submit", (event) => {
    if (event.submitter?.value !== "go") return;
    const said = go(app, input.value);
    if (said) event.preventDefault();
    wrong.textContent = said;
  });
}

// Returns what is wrong, empty if nothing is.
function go(app, text) {
  const { height, width } = app.scene.image;
  const numbers = (text.match(/\d+(\.\d+)?/g) ?? []).map(Number);
  if (/^\s*\d+\s*:\s*\d+\s*,\s*\d+\s*:\s*\d+\s*$/.test(text)) {
    const [y0, y1, x0, x1] = numbers;
    if (y0 >= y1 || x0 >= x1 || y1 > height || x1 > width) return `Regions lie within 0:${height},0:${width}`;
    app.showRegion({ y0, x0, y1, x1 });
    return "";
  }
  if (!/^\s*\d+(\.\d+)?\s*[,; ]\s*\d+(\.\d+)?\s*$/.test(text)) return "Give two numbers, such as 1200, 3400";
  const [y, x] = numbers;
  if (y >= height || x >= width) return `y is less than ${height}, x less than ${width}`;
  app.goTo({ y, x }, Math.max(app.scale(), 1));
  return "";
}

function link(app) {
  const { viewport } = app.osd;
  const read = () => {
    const middle = app.items.get(0).viewportToImageCoordinates(viewport.getCenter(false));
    const size = app.items.get(0).viewportToImageZoom(viewport.getZoom(false));
    return [middle.y.toFixed(1), middle.x.toFixed(1), Number(size.toPrecision(5))].join(",");
  };
  app.remember("at", read, (text) => {
    const [y, x, size] = text.split(",").map(Number);
    if ([y, x, size].every(Number.isFinite) && size > 0) app.goTo({ y, x }, size, true);
  });
  app.osd.addHandler("animation-finish", () => app.touch());
  app.tool("Link", "l", "Copy the link to this place", async () => {
    const address = app.link();
    try {
      await navigator.clipboard.writeText(address);
      app.say("The link is copied");
    } catch {
      app.say(address);
    }
  });
}
