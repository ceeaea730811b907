// Geometries of GeoJSON in pixels of level 0, (x, y): their lists of positions, hits, changes. No geometry is changed in
// place: functions return new ones, so that undo is a matter of keeping the old.

// A position is [x, y]; a list is {positions, isRing}: of a ring the last position repeats the first.
const DEPTHS = { Point: 0, MultiPoint: 1, LineString: 1, MultiLineString: 2, Polygon: 2, MultiPolygon: 3 };

/** All lists of positions of a geometry; null if it is not as GeoJSON has it. A point is a list of one. */
export function listsOf(geometry) {
  if (geometry?.type === "GeometryCollection") {
    if (!Array.isArray(geometry.geometries)) return null;
    const parts = geometry.geometries.map(listsOf);
    return parts.includes(null) ? null : parts.flat();
  }
  const depth = DEPTHS[geometry?.type];
  if (depth === undefined) return null;
  const found = [];
  return collect(depth === 0 ? [geometry.coordinates] : geometry.coordinates, Math.max(depth, 1), isArea(geometry), found)
    ? found : null;
}

function collect(value, depth, isRing, found) {
  if (!Array.isArray(value)) return false;
  if (depth > 1) return value.every((one) => collect(one, depth - 1, isRing, found));
  if (!value.every((one) => Array.isArray(one) && Number.isFinite(one[0]) && Number.isFinite(one[1]))) return false;
  if (value.length) found.push({ positions: value, isRing });
  return true;
}

const isArea = (geometry) => geometry?.type === "Polygon" || geometry?.type === "MultiPolygon";
/** Whether its vertices can be moved and parts of it erased. */
export const isSimple = (geometry) => geometry?.type in DEPTHS;

/** {x0, y0, x1, y1} of lists; null if there are none. */
export function boundsOf(lists) {
  let [x0, y0, x1, y1] = [Infinity, Infinity, -Infinity, -Infinity];
  for (const { positions } of lists) {
    for (const [x, y] of positions) {
      if (x < x0) x0 = x;
      if (x > x1) x1 = x;
      if (y < y0) y0 = y;
      if (y > y1) y1 = y;
    }
  }
  return x0 > x1 ? null : { x0, y0, x1, y1 };
}

export const meet = (a, b) => a.x0 <= b.x1 && b.x0 <= a.x1 && a.y0 <= b.y1 && b.y0 <= a.y1;

/** Whether a place lies in an area, by the even-odd rule, as it is filled and as it is rasterised. */
export function contains(lists, [x, y]) {
  let inside = false;
  for (const { positions, isRing } of lists) {
    if (!isRing) continue;
    for (let i = 0, j = positions.length - 1; i < positions.length; j = i++) {
      const [xi, yi] = positions[i];
      const [xj, yj] = positions[j];
      if (yi > y !== yj > y && x < xi + ((y - yi) * (xj - xi)) / (yj - yi)) inside = !inside;
    }
  }
  return inside;
}

/** The square of the distance of a place to a segment. */
function toSegment([x, y], [xa, ya], [xb, yb]) {
  const [dx, dy] = [xb - xa, yb - ya];
  const long = dx * dx + dy * dy;
  const t = long ? Math.max(0, Math.min(1, ((x - xa) * dx + (y - ya) * dy) / long)) : 0;
  return (xa + t * dx - x) ** 2 + (ya + t * dy - y) ** 2;
}

/** The distance of a place to lines, outlines and points. */
export function distance(lists, place) {
  let least = Infinity;
  for (const { positions } of lists) {
    for (let i = 0; i < positions.length; i++) {
      least = Math.min(least, toSegment(place, positions[i], positions[Math.min(i + 1, positions.length - 1)]));
    }
  }
  return Math.sqrt(least);
}

/** The vertex nearest to a place within `reach`: {list, index}, or null. The last of a ring is its first. */
export function nearestVertex(lists, [x, y], reach) {
  let [found, least] = [null, reach * reach];
  lists.forEach(({ positions, isRing }, list) => {
    for (let index = 0; index < positions.length - isRing; index++) {
      const far = (positions[index][0] - x) ** 2 + (positions[index][1] - y) ** 2;
      if (far <= least) [found, least] = [{ list, index }, far];
    }
  });
  return found;
}

/** The middle of an edge nearest to a place within `reach`: {list, index} of the vertex before, or null. */
export function nearestMiddle(lists, [x, y], reach) {
  let [found, least] = [null, reach * reach];
  lists.forEach(({ positions }, list) => {
    for (let index = 0; index + 1 < positions.length; index++) {
      const [a, b] = [positions[index], positions[index + 1]];
      const far = ((a[0] + b[0]) / 2 - x) ** 2 + ((a[1] + b[1]) / 2 - y) ** 2;
      if (far <= least) [found, least] = [{ list, index }, far];
    }
  });
  return found;
}

/** A copy of a simple geometry whose lists `change` may alter; what QuPath says of its shape (an ellipse) is left out. */
function changed(geometry, change) {
  const { isEllipse, bbox, ...copy } = structuredClone(geometry);
  const lists = listsOf(copy);
  change(lists);
  for (const { positions, isRing } of lists) if (isRing) positions[positions.length - 1] = [...positions[0]];
  if (copy.type === "Point") [copy.coordinates] = lists[0].positions;
  return copy;
}

export const moved = (geometry, [dx, dy]) =>
  changed(geometry, (lists) => {
    for (const { positions } of lists) {
      for (const one of positions) [one[0], one[1]] = [one[0] + dx, one[1] + dy];
    }
  });

export const withVertex = (geometry, { list, index }, [x, y]) =>
  changed(geometry, (lists) => {
    const { positions } = lists[list];
    positions[index] = [x, y, ...positions[index].slice(2)];
  });

export const withNewVertex = (geometry, { list, index }, place) =>
  changed(geometry, (lists) => lists[list].positions.splice(index + 1, 0, [...place]));

/** Without a vertex; null if too few are left of its ring or line. */
export function withoutVertex(geometry, { list, index }) {
  const { positions, isRing } = listsOf(geometry)[list];
  if (positions.length <= (isRing ? 4 : geometry.type === "MultiPoint" ? 1 : 2)) return null;
  return changed(geometry, (lists) => {
    lists[list].positions.splice(index, 1);
  });
}

/** Twice the area of a ring that is not closed, without sign. */
export function doubleArea(positions) {
  let sum = 0;
  for (let i = 0, j = positions.length - 1; i < positions.length; j = i++) {
    sum += positions[j][0] * positions[i][1] - positions[i][0] * positions[j][1];
  }
  return Math.abs(sum);
}

/** Leave out positions that lie within `tolerance` of the line between those that are kept (Douglas and Peucker). */
export function simplified(positions, tolerance) {
  const keep = new Uint8Array(positions.length);
  keep[0] = keep[positions.length - 1] = 1;
  const spans = [[0, positions.length - 1]];
  while (spans.length) {
    const [first, last] = spans.pop();
    let [farthest, far] = [0, tolerance * tolerance];
    for (let i = first + 1; i < last; i++) {
      const one = toSegment(positions[i], positions[first], positions[last]);
      if (one > far) [farthest, far] = [i, one];
    }
    if (farthest) {
      keep[farthest] = 1;
      spans.push([first, farthest], [farthest, last]);
    }
  }
  return positions.filter((_, i) => keep[i]);
}

export function polygon(positions) {
  return { type: "Polygon", coordinates: [[...positions, [...positions[0]]]] };
}

export function box([xa, ya], [xb, yb]) {
  const [x0, x1, y0, y1] = [Math.min(xa, xb), Math.max(xa, xb), Math.min(ya, yb), Math.max(ya, yb)];
  return polygon([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]);
}
