"""Windows around what was drawn on an image of any size: what is read of it for training.

The image is divided into squares; of each in which something is drawn, the smallest box that holds it is kept, with
context around it. So memory follows what is drawn, not the image.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tilesegment.geometry import Region
from tilesegment.training.data.marks import IGNORE, Read

SIDE = 1024  # of a square, pixels
CONTEXT = 192  # pixels around what is drawn
_MOST_SQUARES = 4096  # of a group, at random


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a plane in which something is drawn.

    Attributes:
        plane, region: of the image, with context.
        label, groups: (h, w) uint8 and int32 as `marks.Read`; nothing is drawn in the context.
    """

    plane: int
    region: Region
    label: np.ndarray
    groups: np.ndarray


def windows(boxes: np.ndarray, shape: tuple[int, int], read: Read, most: int, seed: int = 0) -> Iterator[Window]:
    """Yield the windows of an image, at random places, until they have `most` pixels; each group has its turn.

    Args:
        boxes: of groups, (n, 5) int64: plane, y0, x0, y1, x1 within an image of `shape` (H, W).
        read: what is drawn.
        most: pixels of all windows, about.
        seed: of their order.
    """
    rng = np.random.default_rng(seed)
    turns = deque(iter(_squares(box, rng)) for box in boxes)
    seen: set[tuple[int, int, int]] = set()
    pixels = 0
    while turns and pixels < most:
        squares = turns.popleft()
        for square in squares:
            if square in seen:
                continue
            seen.add(square)
            found = _window(square, shape, read)
            if found is not None:
                pixels += found.region.area
                turns.append(squares)
                yield found
                break


def count_squares(boxes: np.ndarray) -> int:
    """Count the different squares that boxes as those of `windows` touch, up to `_MOST_SQUARES` of each."""
    rng = np.random.default_rng(0)
    return len({square for box in boxes for square in _squares(box, rng)})


def _squares(box: np.ndarray, rng: np.random.Generator) -> list[tuple[int, int, int]]:
    """The squares (plane, row, column) that a box touches, in random order."""
    plane, y0, x0, y1, x1 = box.tolist()
    if y1 <= y0 or x1 <= x0:
        return []
    rows, columns = range(y0 // SIDE, -(-y1 // SIDE)), range(x0 // SIDE, -(-x1 // SIDE))
    count = len(rows) * len(columns)
    chosen = rng.choice(count, min(count, _MOST_SQUARES), replace=False).tolist()
    return [(plane, rows[n // len(columns)], columns[n % len(columns)]) for n in chosen]


def _window(square: tuple[int, int, int], shape: tuple[int, int], read: Read) -> Window | None:
    """The window of a square; None if nothing is drawn there."""
    plane, row, column = square
    whole = Region.of_shape(shape)
    inner = Region(row * SIDE, column * SIDE, (row + 1) * SIDE, (column + 1) * SIDE).intersect(whole)
    label, groups = read(inner, plane)
    box = box_of(groups > 0)
    if box is None:
        return None
    own = box.shift(inner.y0, inner.x0)
    region = widened(own, CONTEXT, whole)
    placed = own.within(region).slices
    wide_label, wide_groups = np.full(region.shape, IGNORE, np.uint8), np.zeros(region.shape, np.int32)
    wide_label[placed], wide_groups[placed] = label[box.slices], groups[box.slices]
    return Window(plane, region, wide_label, wide_groups)


def box_of(some: np.ndarray) -> Region | None:
    """Return the smallest box that holds all true pixels of (h, w) bool; None without any."""
    rows, columns = np.flatnonzero(some.any(1)), np.flatnonzero(some.any(0))
    if not rows.size:
        return None
    return Region(int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1)


def widened(region: Region, by: int, whole: Region) -> Region:
    """Return `region` with `by` pixels more on each side, as far as `whole` goes."""
    return Region(region.y0 - by, region.x0 - by, region.y1 + by, region.x1 + by).intersect(whole)
