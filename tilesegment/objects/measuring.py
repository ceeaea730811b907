"""Measure the objects of a block: integer sums that are added to those of other blocks.

The pixels of an object in a row are runs, and sums over a run are closed formulas, so the work grows with the runs.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tilesegment.geometry import Region
from tilesegment.objects.convexity import convex_areas
from tilesegment.objects.grey import Grey, grey_of_runs
from tilesegment.objects.runs import Runs
from tilesegment.objects.sums import Sums, group, starts_of

MARGIN = 2
"""Pixels around a block that its perimeters depend on."""

_STRIP = 1 << 18  # pixels that are looked at together
# scikit-image's perimeter: 1 + 2 * (border pixels beside) + 10 * (border pixels at the corners), to a weight's index
_WEIGHTS = ((5, 7, 15, 17, 25, 27), (21, 33), (13, 23))
_KIND = np.full(50, len(_WEIGHTS), np.uint8)
for _index, _codes in enumerate(_WEIGHTS):
    _KIND[list(_codes)] = _index


@dataclass
class _Runs:
    """Runs of objects, neighbouring pixels of one object in a row, sorted by object, then in raster order.

    Attributes:
        raster: (r,) index of each run in raster order.
        y: (r,) int64, row in the block.
        start: (r,) int64, x of the first pixel in the block.
        stop: (r,) int64, x after the last one.
        starts: (n,) where the runs of each object start.
        ids: (n,) uint32, objects.
    """

    raster: np.ndarray
    y: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    starts: np.ndarray
    ids: np.ndarray


def measure_block(
    ids: np.ndarray,
    region: Region,
    z: int,
    whole: np.ndarray | None = None,
    image: np.ndarray | None = None,
    *,
    volume: bool = False,
    runs: Runs | None = None,
) -> Sums:
    """Measure the objects in a block of a label image.

    Args:
        ids: (h + 4, w + 4) uint32, the objects of `region` and of a margin of 2 pixels around it; 0 is no object, as
            are all pixels outside the image.
        region: the block, in pixels of the image, whose sides are below 2^30.
        z: its plane.
        whole: bool, indexed by id: True for objects none of whose pixels lie outside `region`. The rows of the others
            are kept for their convex hulls; None keeps the rows of all.
        image: (C, h, w) grey values of `region`, uint8, uint16 or float32; None if there is no image.
        volume: whether objects extend over planes: then they get neither perimeters nor convex hulls.
        runs: those of `region` in `ids`, if they are known already.

    Returns:
        Sums of the objects in `region`.
    """
    assert ids.dtype == np.uint32 and ids.shape == (region.height + 2 * MARGIN, region.width + 2 * MARGIN)
    assert image is None or image.shape[1:] == region.shape
    core = ids[MARGIN:-MARGIN, MARGIN:-MARGIN]
    by_object = _by_object(Runs.of(core) if runs is None else runs)
    if not len(by_object.ids):
        return Sums.empty() if image is None else Sums.empty(len(image), image.dtype)
    area, sums, products = _moments(by_object, region, z)
    first, box = _places(by_object, region, z)
    none = np.zeros(len(by_object.ids), np.int64)
    flat = not volume
    row_ids, rows = _rows(by_object, region, z) if flat else (by_object.ids[:0], np.zeros((0, 4), np.int32))
    kept = np.ones(len(row_ids), bool) if whole is None else ~whole[row_ids]
    return Sums(
        ids=by_object.ids,
        area=area,
        first=first,
        box=box,
        sums=sums,
        products=products,
        borders=_borders(ids, by_object.ids) if flat else np.zeros((len(by_object.ids), 3), np.int64),
        convex=_convex(row_ids[~kept], rows[~kept], by_object.ids) if flat else none,
        row_ids=row_ids[kept],
        rows=rows[kept],
        grey=Grey.empty(len(by_object.ids), 0, np.uint8) if image is None else _grey(image, core, by_object),
    )


def _strips(height: int, width: int) -> Iterator[tuple[int, int]]:
    """Cut a block into strips of rows y0:y1 that fit into a processor's cache."""
    rows = max(1, _STRIP // width)
    for y in range(0, height, rows):
        yield y, min(y + rows, height)


def _by_object(runs: Runs) -> _Runs:
    """Sort the runs by their objects."""
    order, starts, ids = group(runs.value)
    start, stop = (ends[order].astype(np.int64) for ends in (runs.start, runs.stop))
    y = start // runs.shape[1]
    return _Runs(order, y, start - y * runs.shape[1], stop - y * runs.shape[1], starts, ids)


def _moments(runs: _Runs, region: Region, z: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return area (n,), sums (n, 3) and products (n, 6) as `Sums` defines them."""
    a, b, y = runs.start, runs.stop, runs.y
    n = b - a
    x = n * (a + b - 1) // 2
    xx = ((b - 1) * b * (2 * b - 1) - (a - 1) * a * (2 * a - 1)) // 6
    of_block = (np.add.reduceat(terms, runs.starts) for terms in (n, n * y, x, n * y * y, xx, y * x))
    area, y, x, yy, xx, yx = of_block
    # from the block's coordinates to those of the image, modulo 2^64
    y0, x0 = region.y0, region.x0
    yx = yx + y0 * x + x0 * y + y0 * x0 * area
    yy, xx = yy + 2 * y0 * y + y0 * y0 * area, xx + 2 * x0 * x + x0 * x0 * area
    y, x = y + y0 * area, x + x0 * area
    sums = np.stack([z * area, y, x], axis=1)
    return area, sums, np.stack([z * z * area, yy, xx, z * y, z * x, yx], axis=1)


def _places(runs: _Runs, region: Region, z: int) -> tuple[np.ndarray, np.ndarray]:
    """Return first pixels (n, 3) and boxes (n, 6) as `Sums` defines them."""
    last = np.append(runs.starts[1:], len(runs.y)) - 1
    y0, x0 = runs.y[runs.starts] + region.y0, runs.start[runs.starts] + region.x0
    y1 = runs.y[last] + 1 + region.y0
    low = np.minimum.reduceat(runs.start, runs.starts) + region.x0
    high = np.maximum.reduceat(runs.stop, runs.starts) + region.x0
    planes = np.full(len(y0), z)
    first = np.stack([planes, y0, x0], axis=1).astype(np.int32)
    return first, np.stack([planes, y0, low, planes + 1, y1, high], axis=1).astype(np.int32)


def _rows(runs: _Runs, region: Region, z: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of all objects as `Sums` defines them: ids (m,) and z, y, first x, last x (m, 4)."""
    owners = np.repeat(runs.ids, np.diff(runs.starts, append=len(runs.y)))
    starts = starts_of(owners, runs.y)
    last = np.append(starts[1:], len(owners)) - 1
    y, first = runs.y[starts] + region.y0, runs.start[starts] + region.x0
    rows = np.stack([np.full(len(y), z), y, first, runs.stop[last] - 1 + region.x0], axis=1)
    return owners[starts], rows.astype(np.int32)


def _convex(row_ids: np.ndarray, rows: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return the convex area of the objects that rows are given of, 0 for the others of `ids`."""
    areas = np.zeros(len(ids), np.int64)
    starts = starts_of(row_ids)
    areas[np.searchsorted(ids, row_ids[starts])] = convex_areas(starts, *rows[:, 1:].T)
    return areas


def _borders(ids: np.ndarray, objects: np.ndarray) -> np.ndarray:
    """Count the border pixels by their weight in scikit-image's perimeter, (n, 3), of `ids` with the margin."""
    counts = np.zeros(3 * len(objects), np.int64)
    for y0, y1 in _strips(ids.shape[0] - 2 * MARGIN, ids.shape[1] - 2 * MARGIN):
        owner, kind = _border_pixels(ids[y0 : y1 + 2 * MARGIN])
        counts += np.bincount(_index_of(owner, objects) * 3 + kind, minlength=len(counts))
    return counts.reshape(-1, 3)


def _border_pixels(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the border pixels inside the margin that have a weight: their object and the index of the weight.

    A pixel is on the border of its object if the one above, below, left or right of it is not of that object. Its
    weight depends on which of its eight neighbours are border pixels of the same object.
    """
    across, down = ids[1:-1, 1:] != ids[1:-1, :-1], ids[1:, 1:-1] != ids[:-1, 1:-1]
    border = across[:, 1:] | across[:, :-1]
    border |= down[1:]
    border |= down[:-1]
    width = ids.shape[1] - 2
    edge = (ids[1:-1, 1:-1] * border).ravel()  # the object that a pixel is on the border of, or 0
    corner = np.flatnonzero(border[1:-1, 1:-1])
    corner += corner // (width - 2) * 2  # the index in `edge` of the upper left neighbour
    owner = edge[width + 1 :].take(corner)
    corner, owner = corner[owner != 0], owner[owner != 0]
    code = np.ones(len(corner), np.uint8)
    for y, x in np.ndindex(3, 3):
        if (y, x) != (1, 1):
            same = edge[y * width + x :].take(corner) == owner
            code += same * np.uint8(2 if 1 in (y, x) else 10)
    kind = _KIND[code]
    weighed = kind < len(_WEIGHTS)
    return owner[weighed], kind[weighed]


def _index_of(values: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """Return where the values are among the sorted ids, which hold them all."""
    low, high = int(ids[0]), int(ids[-1])
    if high - low > 4 * (len(values) + 1024):
        return np.searchsorted(ids, values)
    table = np.zeros(high - low + 1, np.int64)
    table[ids - np.uint32(low)] = np.arange(len(ids))
    return table[values - np.uint32(low)]


def _grey(image: np.ndarray, core: np.ndarray, runs: _Runs) -> Grey:
    """Measure the grey values of the objects in the block."""
    length = np.empty(len(runs.raster), np.int64)
    length[runs.raster] = runs.stop - runs.start
    stops = np.cumsum(length)
    parts, pixels, first = [], 0, 0
    for y0, y1 in _strips(*core.shape):
        inside = core[y0:y1] != 0
        before, pixels = pixels, pixels + int(np.count_nonzero(inside))
        if pixels > before:
            last = int(np.searchsorted(stops, pixels)) + 1
            starts = (stops - length)[first:last] - before
            parts.append(grey_of_runs(image[:, y0:y1], inside, starts))
            first = last
    return Grey.merge(parts, lambda operation, rows: operation.reduceat(rows[runs.raster], runs.starts, axis=0))
