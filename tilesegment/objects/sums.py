"""What blocks know of their objects: additive measurements, exact, so that all cuts give the same sums.

Sums of coordinates and of their products are int64 modulo 2^64: they wrap around far from the origin of a huge image,
but the moments about an object's own centre, which are what is asked for, come out right.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields

import numpy as np

from tilesegment.objects.convexity import convex_areas
from tilesegment.objects.grey import Grey

_ADDED = ("area", "sums", "products", "borders", "convex")


@dataclass
class Sums:
    """Measurements of the pixels of n objects, sorted by id: of whole objects, or of their parts in a block.

    Coordinates are those of the image or stack; axis order (z, y, x).

    Attributes:
        ids: (n,) uint32, increasing.
        area: (n,) int64, pixels.
        first: (n, 3) int32, first pixel in raster order.
        box: (n, 6) int32, z0, y0, x0, z1, y1, x1, half-open.
        sums: (n, 3) int64, sums of z, y, x modulo 2^64.
        products: (n, 6) int64, sums of zz, yy, xx, zy, zx, yx modulo 2^64.
        borders: (n, 3) int64, border pixels that scikit-image's perimeter weighs 1, sqrt(2) and (1 + sqrt(2)) / 2.
        convex: (n,) int64, pixels in the convex hull; 0 for objects that have rows below.
        row_ids: (m,) uint32, the objects of rows, increasing; of those that may go on in other blocks.
        rows: (m, 4) int32, z, y, first x, last x; sorted by z and y within an object.
        grey: grey values in the channels of an image; without an image it has none.
    """

    ids: np.ndarray
    area: np.ndarray
    first: np.ndarray
    box: np.ndarray
    sums: np.ndarray
    products: np.ndarray
    borders: np.ndarray
    convex: np.ndarray
    row_ids: np.ndarray
    rows: np.ndarray
    grey: Grey

    def __len__(self) -> int:
        return len(self.ids)

    @classmethod
    def empty(cls, channels: int = 0, dtype: np.dtype | type = np.uint8) -> "Sums":
        """No objects, in an image of `channels` and `dtype`."""
        ids, none = np.zeros(0, np.uint32), np.zeros(0, np.int64)
        threes, sixes = np.zeros((0, 3), np.int64), np.zeros((0, 6), np.int64)
        first, box, rows = (np.zeros((0, width), np.int32) for width in (3, 6, 4))
        grey = Grey.empty(0, channels, dtype)
        return cls(ids, none, first, box, threes, sixes, threes, none, ids, rows, grey)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as named arrays, for `numpy.savez`."""
        return {name: value for name, value in vars(self).items() if name != "grey"} | self.grey.to_arrays()

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Sums":
        """Return what `to_arrays` gave."""
        own = {field.name: arrays[field.name] for field in fields(cls) if field.name != "grey"}
        return cls(**own, grey=Grey.from_arrays(arrays))

    def take(self, chosen: slice) -> "Sums":
        """The objects in `chosen`, a slice of step 1: a table of many objects is made in batches."""
        own = {name: value[chosen] for name, value in vars(self).items() if name not in ("row_ids", "rows", "grey")}
        ids = own["ids"]
        start, end = (
            (np.searchsorted(self.row_ids, ids[0]), np.searchsorted(self.row_ids, ids[-1], side="right"))
            if len(ids)
            else (0, 0)
        )
        return Sums(**own, row_ids=self.row_ids[start:end], rows=self.rows[start:end], grey=self.grey.take(chosen))

    def convex_areas(self) -> np.ndarray:
        """Return (n,) int64, pixels in the convex hull of each object; all its pieces must have been merged."""
        areas = self.convex.copy()
        if len(self.row_ids):
            starts = starts_of(self.row_ids)
            _, y, first, last = self.rows.T
            areas[np.searchsorted(self.ids, self.row_ids[starts])] = convex_areas(starts, y, first, last)
        return areas


def merge(pieces: Iterable[Sums]) -> Sums:
    """Add up the pieces of each object; the order of the pieces makes no difference.

    Args:
        pieces: of all blocks, of the same image: equal channels and types. Merged ones can be merged again.

    Memory grows with the number of objects and of rows of objects that cross blocks.
    """
    parts = list(pieces)
    if not parts:
        return Sums.empty()
    parts = [part for part in parts if len(part)] or parts[:1]

    def column(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name) for part in parts])

    order, starts, ids = group(column("ids"))
    if not len(ids):
        return parts[0]

    def add(operation: np.ufunc, rows: np.ndarray) -> np.ndarray:
        return operation.reduceat(rows[order], starts, axis=0)

    box = column("box")
    return Sums(
        ids=ids,
        first=_earliest(column("first")[order], starts),
        box=np.concatenate([add(np.minimum, box[:, :3]), add(np.maximum, box[:, 3:])], axis=1),
        **{name: add(np.add, column(name)) for name in _ADDED},
        **dict(zip(("row_ids", "rows"), _merge_rows(column("row_ids"), column("rows")), strict=True)),
        grey=Grey.merge([part.grey for part in parts], add),
    )


def group(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the order that sorts uint32 ids, where each group starts in it, and the id of each group.

    Within a group the order is that of the ids given.
    """
    assert len(ids) < 1 << 32
    # to sort 64-bit integers is much faster than to find their order
    keys = ids.astype(np.uint64) << np.uint64(32) | np.arange(len(ids), dtype=np.uint64)
    keys.sort()
    ids = (keys >> np.uint64(32)).astype(np.uint32)
    starts = starts_of(ids)
    return keys.astype(np.uint32), starts, ids[starts]


def starts_of(*columns: np.ndarray) -> np.ndarray:
    """Return the indices of rows that differ from the row before in any column, the first one included."""
    differs = np.zeros(len(columns[0]), bool)
    differs[:1] = True
    for column in columns:
        differs[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(differs)


def _earliest(points: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Return the first point in raster order, (z, y, x), of each group of points."""
    sizes = np.diff(starts, append=len(points))
    highest = np.iinfo(points.dtype).max
    still = np.ones(len(points), bool)
    earliest = np.empty((len(starts), 3), points.dtype)
    for axis in range(3):
        values = np.where(still, points[:, axis], highest)
        earliest[:, axis] = np.minimum.reduceat(values, starts)
        still &= values == np.repeat(earliest[:, axis], sizes)
    return earliest


def _merge_rows(ids: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort the rows of objects and join those that are the same row in several blocks."""
    if not len(ids):
        return ids, rows
    order = np.lexsort((rows[:, 1], rows[:, 0], ids))
    ids, rows = ids[order], rows[order]
    starts = starts_of(ids, rows[:, 0], rows[:, 1])
    joined = rows[starts]
    joined[:, 2] = np.minimum.reduceat(rows[:, 2], starts)
    joined[:, 3] = np.maximum.reduceat(rows[:, 3], starts)
    return ids[starts], joined
