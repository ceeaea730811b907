// Annotations on a canvas above the tiles: areas filled and outlined, lines, points, handles of what is selected.

const FILL = 0.25;
const LINE = 2; // pixels of the screen
const POINT = 5;
const HANDLE = 4;
const MOST_HANDLES = 2000; // of what is selected: more would hide it
const TINY = 2; // pixels of the screen: what is smaller is drawn as a dot
const SMALL = 10; // and as an area without outline, so that ten thousand are drawn at once
const DENSE = 0.7;
const css = (color, alpha = 1) => `rgb(${color.join(" ")} / ${alpha})`;

export class View {
  /** drawing: what is drawn; state: {selected, hidden, edited: {key, lists} or null, draft: {positions, isClosed, color}}. */
  constructor(app, drawing, state) {
    Object.assign(this, { app, drawing, state, paths: new WeakMap(), isAsked: false });
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.canvas.className = "annotate-canvas";
    app.osd.canvas.append(this.canvas);
    app.osd.addHandler("update-viewport", () => this.paint());
    app.on("z", () => this.redraw());
    app.paint((context) => context.drawImage(this.canvas, 0, 0, context.canvas.width, context.canvas.height));
  }

  /** Paint with the next frame. */
  redraw() {
    if (this.isAsked) return;
    this.isAsked = true;
    requestAnimationFrame(() => {
      this.isAsked = false;
      this.paint();
    });
  }

  paint() {
    const { clientWidth: width, clientHeight: height } = this.app.osd.element;
    const ratio = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
    if (this.canvas.width !== w || this.canvas.height !== h) Object.assign(this.canvas, { width: w, height: h });
    const context = this.canvas.getContext("2d");
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, w, h);
    this.place(ratio);
    const [a, b] = [this.app.toPixel({ x: 0, y: 0 }), this.app.toPixel({ x: width, y: height })];
    const bounds = { x0: Math.min(a.x, b.x), x1: Math.max(a.x, b.x), y0: Math.min(a.y, b.y), y1: Math.max(a.y, b.y) };
    const { selected, edited, draft, hidden } = this.state;
    if (!hidden) {
      for (const [key, entry] of this.drawing.within(bounds, this.app.z())) {
        if (key !== edited?.key) this.one(context, entry.shown, this.drawing.colour(entry.feature), key === selected);
      }
    }
    const chosen = this.drawing.entries.get(selected);
    if (edited) this.one(context, edited.shown, this.drawing.colour(chosen.feature), true);
    if (draft) this.draft(context, draft);
  }

  /** Where pixels of the image lie on the canvas: it is an affine map, found from three places. */
  place(ratio) {
    const at = (x, y) => this.app.toScreen({ y, x });
    const { height, width } = this.app.scene.image;
    const [o, p, q] = [at(0, 0), at(width, 0), at(0, height)];
    this.map = [(p.x - o.x) / width, (p.y - o.y) / width, (q.x - o.x) / height, (q.y - o.y) / height, o.x, o.y].map(
      (value) => value * ratio,
    );
    this.scale = Math.hypot(this.map[0], this.map[1]);
    this.ratio = ratio;
  }

  /** Let the context draw in pixels of the image, with an origin near what is drawn: single precision blurs far ones. */
  from(context, x, y) {
    const [a, b, c, d, e, f] = this.map;
    context.setTransform(a, b, c, d, a * x + c * y + e, b * x + d * y + f);
  }

  one(context, shown, color, isSelected) {
    const { x0, y0, x1, y1 } = shown.bounds;
    const unit = this.ratio / this.scale; // a pixel of the screen
    this.from(context, x0, y0);
    if (Math.max(x1 - x0, y1 - y0) < TINY * unit && shown.isArea && !isSelected) {
      context.fillStyle = css(color);
      context.fillRect(-unit, -unit, 2 * unit, 2 * unit);
      return;
    }
    const path = this.pathOf(shown);
    const isSmall = Math.max(x1 - x0, y1 - y0) < SMALL * unit && !isSelected;
    if (shown.isArea) {
      context.fillStyle = css(color, isSmall ? DENSE : FILL);
      context.fill(path, "evenodd");
      if (isSmall) return;
    }
    context.lineJoin = "round";
    for (const [line, paint] of [[isSelected ? LINE + 3 : LINE + 1.5, "rgb(255 255 255 / 0.75)"], [LINE, css(color)]]) {
      [context.lineWidth, context.strokeStyle] = [line * unit, paint];
      context.stroke(path);
    }
    this.points(context, shown, color, unit, isSelected);
  }

  /** A path of lines and outlines, from the corner of its bounds; made once. */
  pathOf(shown) {
    if (this.paths.has(shown)) return this.paths.get(shown);
    const path = new Path2D();
    const { x0, y0 } = shown.bounds;
    for (const { positions, isRing } of shown.lists) {
      if (shown.isPoints) continue;
      positions.forEach(([x, y], n) => (n ? path.lineTo(x - x0, y - y0) : path.moveTo(x - x0, y - y0)));
      if (isRing) path.closePath();
    }
    this.paths.set(shown, path);
    return path;
  }

  points(context, shown, color, unit, isSelected) {
    const count = shown.lists.reduce((sum, { positions }) => sum + positions.length, 0);
    if (!shown.isPoints && !(isSelected && count <= MOST_HANDLES)) return;
    const { x0, y0 } = shown.bounds;
    [context.lineWidth, context.strokeStyle] = [1.5 * unit, shown.isPoints ? "#fff" : css(color)];
    context.fillStyle = shown.isPoints ? css(color) : "#fff";
    const radius = (shown.isPoints ? POINT + 2 * isSelected : HANDLE) * unit;
    for (const { positions, isRing } of shown.lists) {
      for (let n = 0; n < positions.length - isRing; n++) {
        context.beginPath();
        context.arc(positions[n][0] - x0, positions[n][1] - y0, radius, 0, 2 * Math.PI);
        context.fill();
        context.stroke();
      }
    }
  }

  draft(context, { positions, isClosed, color }) {
    if (!positions.length) return;
    const [x0, y0] = positions[0];
    const unit = this.ratio / this.scale;
    const path = new Path2D();
    positions.forEach(([x, y], n) => (n ? path.lineTo(x - x0, y - y0) : path.moveTo(0, 0)));
    if (isClosed) path.closePath();
    this.from(context, x0, y0);
    context.fillStyle = css(color, FILL);
    context.fill(path, "evenodd");
    for (const [line, paint] of [[LINE + 1.5, "rgb(255 255 255 / 0.75)"], [LINE, css(color)]]) {
      [context.lineWidth, context.strokeStyle] = [line * unit, paint];
      context.stroke(path);
    }
    context.beginPath();
    context.arc(0, 0, HANDLE * unit, 0, 2 * Math.PI);
    context.fillStyle = "#fff";
    context.fill();
    context.stroke();
  }
}
