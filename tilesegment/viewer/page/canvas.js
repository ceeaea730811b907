// OpenSeadragon: the image and the layers over it as tiles, and where a pixel is on the screen.

const SIDE = 512; // of a tile, as in tiling.py
const PATIENCE = 4000; // ms that old tiles stay until the new ones are all there

// How an image is shown, in the view and in a second one beside it.
export function viewerOptions() {
  const { OpenSeadragon } = window;
  return {
    drawer: "canvas",
    imageSmoothingEnabled: false,
    subPixelRoundingForTransparency: { "*": OpenSeadragon.SUBPIXEL_ROUNDING_OCCURRENCES.ALWAYS },
    showNavigationControl: false,
    gestureSettingsMouse: { clickToZoom: false, dblClickToZoom: false, flickEnabled: false },
    gestureSettingsPen: { clickToZoom: false, dblClickToZoom: false },
    gestureSettingsTouch: { clickToZoom: false, dblClickToZoom: false },
    visibilityRatio: 0.2,
    minZoomImageRatio: 0.5,
    maxZoomPixelRatio: 64,
    zoomPerScroll: 1.3,
    animationTime: 0.25,
    springStiffness: 9,
    blendTime: 0,
    preserveImageSizeOnResize: true,
    imageLoaderLimit: 6,
    maxImageCacheCount: 300,
    maxTilesPerFrame: 4,
    timeout: 120000,
    crossOriginPolicy: false,
  };
}

export function open(app) {
  app.osd = window.OpenSeadragon({
    ...viewerOptions(),
    element: document.getElementById("viewer"),
    showNavigator: true,
    navigatorAutoFade: false,
    navigatorPosition: "BOTTOM_RIGHT",
    navigatorSizeRatio: 0.16,
  });
  // the page has keys of its own
  app.osd.addHandler("canvas-key", (event) => {
    event.preventDefaultAction = true;
  });
  const canvas = app.osd.canvas;
  canvas.setAttribute("role", "application");
  canvas.setAttribute("aria-label", "Image: drag to move, scroll to zoom, ? for keys");
  app.add = (number, options) => add(app, number, options);
  app.redraw = (number) => redraw(app, number);
  app.remove = (number) => remove(app, number);
  app.toPixel = (event) => toPixel(app, event);
  app.toScreen = (pixel) => toScreen(app, pixel);
  app.scale = () => scale(app);
  app.showRegion = (region, now) => showRegion(app, region, now);
  app.goTo = (pixel, size, now) => goTo(app, pixel, size, now);
  app.setZ = (z) => setZ(app, z);
}

export function source(app, number) {
  const layer = app.layer(number);
  const [height, width] = layer.shape;
  let zooms = 1;
  while (Math.ceil(Math.max(height, width) / 2 ** (zooms - 1)) > SIDE) zooms += 1;
  return {
    width,
    height,
    tileSize: SIDE,
    tileOverlap: 0,
    minLevel: 0,
    maxLevel: zooms - 1,
    getTileUrl: tileAddress(app, number, zooms),
  };
}

// The look, versions and plane of now: an item keeps them until it is drawn anew.
function tileAddress(app, number, zooms) {
  const look = new URLSearchParams(app.looks.get(number) ?? {});
  const version = app.versions.get(number);
  const z = app.layer(number).depth === null ? 0 : app.plane;
  return (level, column, row) => {
    const zoom = zooms - 1 - level;
    const query = new URLSearchParams(look);
    if (version) query.set("v", version(zoom, row, column));
    return `${app.base}tile/${number}/${z}/${zoom}/${row}/${column}${query.size ? `?${query}` : ""}`;
  };
}

// Add a layer at its place, above those with smaller numbers. Returns a promise of its TiledImage.
function add(app, number, { opacity = 1, preload = false } = {}) {
  const { placement } = app.layer(number);
  const { width } = app.scene.image;
  const below = [...app.items].filter(([other]) => other <= number).map(([, item]) => app.osd.world.getIndexOfItem(item));
  return new Promise((resolve, reject) => {
    app.osd.addTiledImage({
      tileSource: source(app, number),
      index: Math.max(-1, ...below) + 1,
      x: placement.x / width,
      y: placement.y / width,
      width: placement.width / width,
      opacity,
      preload,
      success: ({ item }) => {
        if (!preload) app.items.set(number, item);
        resolve(item);
      },
      error: ({ message }) => reject(new Error(message)),
    });
  });
}

const turns = new WeakMap(); // of an app: how often each layer was drawn anew

// Draw a layer anew after its look, version or plane has changed; the old tiles stay until the new ones are there.
async function redraw(app, number) {
  if (!app.items.has(number)) return;
  if (!turns.has(app)) turns.set(app, new Map());
  const turn = (turns.get(app).get(number) ?? 0) + 1;
  turns.get(app).set(number, turn);
  const item = await add(app, number, { opacity: 0, preload: true });
  await loaded(item);
  const old = app.items.get(number);
  if (turns.get(app).get(number) !== turn || !old) {
    app.osd.world.removeItem(item);
    return;
  }
  item.setOpacity(old.getOpacity());
  item.setPreload(false);
  app.items.set(number, item);
  app.osd.world.removeItem(old);
  app.emit("layer-changed", number);
}

function loaded(item) {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, PATIENCE);
    const done = () => {
      clearTimeout(timer);
      resolve();
    };
    if (item.getFullyLoaded()) done();
    else item.addOnceHandler("fully-loaded-change", done);
  });
}

function remove(app, number) {
  const item = app.items.get(number);
  if (!item) return;
  app.items.delete(number);
  app.osd.world.removeItem(item);
}

// Of a mouse event, or of a point {x, y} of the viewer's element: pixel {y, x} of level 0, not rounded.
function toPixel(app, event) {
  const { Point } = window.OpenSeadragon;
  let point = event.position ?? event;
  if (event.clientX !== undefined) {
    const box = app.osd.element.getBoundingClientRect();
    point = { x: event.clientX - box.left, y: event.clientY - box.top };
  }
  const found = app.items.get(0).viewerElementToImageCoordinates(new Point(point.x, point.y));
  return { y: found.y, x: found.x };
}

function toScreen(app, { y, x }) {
  const { Point } = window.OpenSeadragon;
  const found = app.items.get(0).imageToViewerElementCoordinates(new Point(x, y));
  return { x: found.x, y: found.y };
}

// Pixels of the screen per pixel of the image.
function scale(app) {
  return app.items.get(0).viewportToImageZoom(app.osd.viewport.getZoom(true));
}

function showRegion(app, { y0, x0, y1, x1 }, now = false) {
  app.osd.viewport.fitBounds(app.items.get(0).imageToViewportRectangle(x0, y0, x1 - x0, y1 - y0), now);
}

// Put a pixel into the middle, at `size` pixels of the screen per pixel of the image.
function goTo(app, { y, x }, size = null, now = false) {
  const { Point } = window.OpenSeadragon;
  const image = app.items.get(0);
  if (size) app.osd.viewport.zoomTo(image.imageToViewportZoom(size), null, now);
  app.osd.viewport.panTo(image.imageToViewportCoordinates(new Point(x, y)), now);
}

function setZ(app, z) {
  const plane = Math.min(Math.max(Math.round(z), 0), (app.scene.image.depth ?? 1) - 1);
  if (plane === app.plane) return;
  app.plane = plane;
  for (const number of app.items.keys()) if (app.layer(number).depth !== null) redraw(app, number);
  app.emit("z", plane);
  app.touch();
}
