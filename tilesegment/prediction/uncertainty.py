"""How unsure a model is, from its class probabilities: of pixels, of windows, and which windows to look at.

The invariant: the uncertainty of a pixel is a whole number, so sums over windows are exact, and neither the parts in
which an image is read nor its blocks change a score.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np

from tilesegment.geometry import Region

MEASURES = ("entropy", "margin")
ONE = 1 << 16  # the uncertainty of a pixel of which nothing is known
_CELLS = 4  # along a side of a window, at most: windows overlap by three quarters
_HALF = 2  # a window counts if one pixel in so many does

Read = Callable[[Region, int], np.ndarray]
"""Reads class probabilities of a region of a plane: (K, h, w), uint8 of 0 to 255, or floats."""
Counts = Callable[[Region, int], np.ndarray]
"""Tells of the pixels of a region of a plane whether they count: bool (h, w)."""


def uncertainty(probabilities: np.ndarray, measure: str) -> np.ndarray:
    """Return how unsure a model is of each pixel: 0 is sure, `ONE` the most that is possible.

    Entropy is divided by that of equal probabilities; margin is 1 less the difference between the two largest ones.

    Args:
        probabilities: (K, h, w), K >= 2, float or uint8 (255 is 1).
        measure: of `MEASURES`.

    Returns:
        (h, w) int64.
    """
    assert len(probabilities) > 1 and measure in MEASURES
    unit = probabilities.astype(np.float32)
    unit /= np.maximum(unit.sum(0), np.finfo(np.float32).tiny)  # 0 to 255 do not add up after rounding
    if measure == "margin":
        largest = np.partition(unit, -2, axis=0)
        found = 1 - (largest[-1] - largest[-2])
    else:
        found = -(unit * np.log(np.maximum(unit, np.finfo(np.float32).tiny))).sum(0) / np.log(np.float32(len(unit)))
    return np.rint(np.clip(found, 0, 1) * ONE).astype(np.int64)


def confused_pair(probabilities: np.ndarray, measure: str) -> tuple[int, int]:
    """Return the ids of the two classes between which most of the uncertainty of a window lies, the smaller first.

    `probabilities` is (K, h, w) as in `uncertainty`; of each pixel the two most probable classes count.
    """
    two = np.sort(np.argsort(-probabilities.astype(np.float32), axis=0, kind="stable")[:2], axis=0)
    count = len(probabilities)
    weights = np.bincount((two[0] * count + two[1]).ravel(), uncertainty(probabilities, measure).ravel())
    first, second = divmod(int(weights.argmax()), count)
    return first, second


@dataclass(frozen=True)
class Windows:
    """Windows of a mask with their scores; arrays (n,).

    Attributes:
        y, x: of the first pixel, int64.
        plane: counted from the mask's first, int64.
        score: mean uncertainty of the pixels that count, 0 to 1, float64.
        side: (height, width) of each in pixels of the mask; the last ones are clipped.
        within: what the windows cover.
    """

    y: np.ndarray
    x: np.ndarray
    plane: np.ndarray
    score: np.ndarray
    side: tuple[int, int]
    within: Region

    def __len__(self) -> int:
        return len(self.score)

    def region(self, number: int) -> Region:
        """Return the pixels of a window."""
        y, x = int(self.y[number]), int(self.x[number])
        return Region(y, x, y + self.side[0], x + self.side[1]).intersect(self.within)

    @classmethod
    def joined(cls, planes: list[Self], side: tuple[int, int], within: Region) -> Self:
        """Join the windows of planes."""
        y, x, plane, score = (
            np.concatenate([getattr(one, name) for one in planes]) for name in ("y", "x", "plane", "score")
        )
        return cls(y, x, plane, score, side, within)


@dataclass(frozen=True)
class Cells:
    """The squares of which windows are made, so that each pixel is read once.

    Attributes:
        within: region of the mask that is covered, from whose first pixel cells are counted.
        side: (height, width) of a window.
        cell: (height, width) of a cell, of which a window has a whole number along each axis.
    """

    within: Region
    side: tuple[int, int]
    cell: tuple[int, int]

    @classmethod
    def of(cls, within: Region, side: tuple[int, int]) -> Self:
        """Choose the cells for windows of `side`."""
        height, width = (next(one // n for n in range(_CELLS, 0, -1) if one % n == 0) for one in side)
        return cls(within, side, (height, width))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of cells."""
        return -(-self.within.height // self.cell[0]), -(-self.within.width // self.cell[1])

    def parts(self, side: int) -> Iterator[tuple[Region, tuple[slice, slice]]]:
        """Yield regions of whole cells, of about `side` pixels, that cover all, with the cells that they are."""
        (height, width), (rows, columns) = self.cell, self.shape
        down, along = max(side // height, 1), max(side // width, 1)
        for row in range(0, rows, down):
            for column in range(0, columns, along):
                y, x = self.within.y0 + row * height, self.within.x0 + column * width
                part = Region(y, x, y + down * height, x + along * width).intersect(self.within)
                yield part, (slice(row, row + down), slice(column, column + along))

    def summed(self, values: np.ndarray) -> np.ndarray:
        """Sum values (h, w), which begin with a cell, over its cells: int64."""
        rows, columns = (np.arange(0, size, cell) for size, cell in zip(values.shape, self.cell, strict=True))
        return np.add.reduceat(np.add.reduceat(values, rows, axis=0, dtype=np.int64), columns, axis=1)

    def over_windows(self, cells: np.ndarray) -> np.ndarray:
        """Sum cells (rows, columns) over the windows that begin with each: int64, fewer rows and columns."""
        for axis in (0, 1):
            count = min(self.side[axis] // self.cell[axis], cells.shape[axis])
            total = np.concatenate([np.zeros_like(cells.take([0], axis)), cells.cumsum(axis, dtype=np.int64)], axis)
            stop = total.shape[axis]
            cells = total.take(range(count, stop), axis) - total.take(range(stop - count), axis)
        return cells


def score_windows(
    read: Read,
    cells: Cells,
    plane: int,
    measure: str,
    *,
    counts: Counts | None = None,
    taken: Counts | None = None,
    at_once: int = 2048,
    report: Callable[[Region], None] = lambda region: None,
) -> Windows:
    """Score the windows of a plane, part by part; those without uncertainty are left out.

    Args:
        read: the probabilities.
        cells: of which the windows are made.
        plane: that is read.
        measure: see `uncertainty`.
        counts: the pixels that count; None is all. A window of which fewer than half count is left out.
        taken: pixels of which none may be in a window.
        at_once: side of the parts that are read, in pixels.
        report: is told each part that is done.
    """
    sums, counted, used = (np.zeros(cells.shape, np.int64) for _ in range(3))
    for region, where in cells.parts(at_once):
        found = uncertainty(read(region, plane), measure)
        inside = np.ones(region.shape, bool) if counts is None else counts(region, plane)
        sums[where] = cells.summed(found * inside)
        counted[where] = cells.summed(inside)
        if taken is not None:
            used[where] = cells.summed(taken(region, plane))
        report(region)
    total, pixels, used = (cells.over_windows(one) for one in (sums, counted, used))
    rows, columns = np.nonzero((total > 0) & (used == 0) & (_HALF * pixels >= _areas(cells)))
    score = total[rows, columns] / (pixels[rows, columns] * ONE)
    y, x = cells.within.y0 + rows * cells.cell[0], cells.within.x0 + columns * cells.cell[1]
    return Windows(y, x, np.full(len(y), plane), score, cells.side, cells.within)


def _areas(cells: Cells) -> np.ndarray:
    """Return how many pixels the window that begins with each cell has."""
    ones = (np.diff([*range(0, size, cell), size]) for size, cell in zip(cells.within.shape, cells.cell, strict=True))
    return cells.over_windows(np.multiply.outer(*ones))


def spread(windows: Windows, count: int, distance: float, planes: int = 1, *, nearer: bool = True) -> list[int]:
    """Choose windows of high scores that lie apart, the highest first; of equal ones the first of them.

    The highest is taken, then the highest of those that lie at least `distance` pixels from it along an axis, and so
    on.

    Args:
        windows: to choose from.
        count: how many are wanted; fewer are returned where no more lie apart.
        distance: between two windows of a plane and its neighbours.
        planes: windows less than so many planes apart count as neighbours.
        nearer: where no more are left, halve distance and planes, down to the side of a window and one plane.
    """
    chosen: list[int] = []
    least = float(max(windows.side))
    distance = max(distance, least)
    while len(windows):
        free = np.ones(len(windows), bool)
        for number in chosen:
            free &= ~_near(windows, number, distance, planes)
        while len(chosen) < count and free.any():
            number = int(np.where(free, windows.score, -1).argmax())
            chosen.append(number)
            free &= ~_near(windows, number, distance, planes)
        if not nearer or len(chosen) == count or (distance == least and planes == 1):
            break
        distance, planes = max(distance / 2, least), max(planes // 2, 1)
    return sorted(chosen, key=lambda number: (-windows.score[number], number))


def _near(windows: Windows, number: int, distance: float, planes: int) -> np.ndarray:
    """Whether each window lies near one of them, bool (n,)."""
    apart = np.maximum(abs(windows.y - windows.y[number]), abs(windows.x - windows.x[number]))
    return (apart < distance) & (abs(windows.plane - windows.plane[number]) < planes)
