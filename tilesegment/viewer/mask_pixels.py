"""Pixels of a mask at any zoom: from its stored levels, and from a reduced copy in memory where these do not go far.

The value of a pixel of zoom k is that of the pixel in the middle of what it spans, in the coarsest stored level that is
fine enough: ids stay ids, nothing is blended. A file without small levels is read once, part by part as parts are
looked at, into a copy that is small enough to keep; so no tile reads more than a bounded number of pixels again.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Lock

import numpy as np

from tilesegment.draw.reduction import means
from tilesegment.geometry import Region
from tilesegment.images import Level

MOST_BYTES = 1 << 26  # of the reduced copy of a plane
_PLANES = 2  # whose reduced copies are kept
_LEAST = 4  # pixels that one of the copy spans, at least
_PARTS = 2048  # side of the parts in which a level is reduced
_STRIP = 1 << 22  # pixels that are read at once


@dataclass(frozen=True)
class Pixels:
    """What a mask stores.

    Attributes:
        levels: its resolutions, the finest first.
        depth: number of planes.
        dtype: of what is read.
        channels: of probabilities; None for ids.
        read: the pixels of a region, of a level, of a plane: (h, w), or (C, h, w).
        block: side of the parts that are stored, or not stored yet, as a whole.
        is_stored: whether all of a part of the only level is stored, in a plane: else it is `empty`.
        empty: the value of what is not stored.
    """

    levels: Sequence[Level]
    depth: int
    dtype: np.dtype
    channels: int | None
    read: Callable[[Region, int, int], np.ndarray]
    block: int = _PARTS
    is_stored: Callable[[Region, int], bool] = lambda region, z: True
    empty: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of the finest level."""
        return self.levels[0].shape

    @property
    def lead(self) -> tuple[int, ...]:
        """Axes before y and x."""
        return () if self.channels is None else (self.channels,)


class Sampler:
    """Reads the pixels of a mask at any zoom; several threads may do so at once.

    Args:
        pixels: of the mask.
        mean: a pixel of the reduced copy is the mean of what it spans, as of probabilities; else the middle one.
    """

    def __init__(self, pixels: Pixels, *, mean: bool = False) -> None:
        self.pixels, self._mean = pixels, mean
        self._coarsest = len(pixels.levels) - 1
        height, width = pixels.levels[-1].shape
        size = height * width * (pixels.channels or 1) * pixels.dtype.itemsize
        self._factor = _LEAST
        while size > MOST_BYTES * self._factor**2:
            self._factor *= 2
        self._copies: dict[int, _Copy] = {}
        self._lock = Lock()

    def at(self, ys: np.ndarray, xs: np.ndarray, step: float, z: int) -> np.ndarray:
        """Return the values of a grid of pixels of level 0: (n, m), or (C, n, m).

        Args:
            ys, xs: (n,) and (m,) rows and columns, ascending, float64; at least one each. Those beyond the mask are at
                its edge.
            step: pixels of level 0 that each of them stands for, along a side.
            z: plane.
        """
        levels = self.pixels.levels
        fits = [n for n, level in enumerate(levels) if max(level.scale) <= step * (1 + 1e-6)]
        number = max(fits, default=0)
        level = levels[number]
        rows, columns = (
            np.clip(np.floor(at / scale), 0, side - 1).astype(np.int64)
            for at, scale, side in zip((ys, xs), level.scale, level.shape, strict=True)
        )
        if number == self._coarsest and step / max(level.scale) >= self._factor:
            return self._copy(z).at(rows, columns)
        return _taken(lambda region: self.pixels.read(region, number, z), rows, columns)

    def _copy(self, z: int) -> "_Copy":
        """Return the reduced copy of a plane."""
        with self._lock:
            if z not in self._copies:
                while len(self._copies) >= _PLANES:
                    del self._copies[next(iter(self._copies))]
                self._copies[z] = _Copy(self.pixels, self._coarsest, z, self._factor, self._mean)
            return self._copies[z]


def _taken(read: Callable[[Region], np.ndarray], rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return the pixels in `rows` and `columns`, reading strip by strip what lies around them."""
    x0, x1 = int(columns[0]), int(columns[-1]) + 1
    deep = max(_STRIP // (x1 - x0), 1)
    parts, start = [], 0
    while start < len(rows):
        y0 = int(rows[start])
        stop = int(np.searchsorted(rows, y0 + deep, "left"))
        pixels = read(Region(y0, x0, int(rows[stop - 1]) + 1, x1))
        parts.append(pixels[..., (rows[start:stop] - y0)[:, None], columns - x0])
        start = stop
    return np.concatenate(parts, axis=-2)


@dataclass
class _Copy:
    """A plane of a level, reduced by a factor, which is filled part by part."""

    pixels: Pixels
    level: int
    z: int
    factor: int
    mean: bool
    done: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        height, width = (-(-side // self.factor) for side in self.pixels.levels[self.level].shape)
        self.side = max(self.pixels.block // self.factor, 1) * self.factor
        # zeros take no memory before they are written
        shape = (*self.pixels.lead, height, width)
        self.kept = np.zeros(shape, self.pixels.dtype)
        if self.pixels.empty:
            self.kept[...] = self.pixels.empty

    def at(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the pixels nearest to `rows` and `columns` of the level."""
        for row in range(int(rows[0]) // self.side, int(rows[-1]) // self.side + 1):
            for column in range(int(columns[0]) // self.side, int(columns[-1]) // self.side + 1):
                if (row, column) not in self.done:
                    self._fill(row, column)
        return self.kept[..., (rows // self.factor)[:, None], columns // self.factor]

    def _fill(self, row: int, column: int) -> None:
        """Reduce a part, if it is stored; two threads that do the same write the same."""
        shape = self.pixels.levels[self.level].shape
        y, x = row * self.side, column * self.side
        region = Region(y, x, y + self.side, x + self.side).intersect(Region.of_shape(shape))
        if not self.pixels.is_stored(region, self.z):
            return
        pixels = self.pixels.read(region, self.level, self.z)
        small = means(pixels, self.factor) if self.mean else _middles(pixels, self.factor)
        top, left = y // self.factor, x // self.factor
        self.kept[..., top : top + small.shape[-2], left : left + small.shape[-1]] = small
        self.done.add((row, column))


def _middles(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Return the pixel in the middle of each square; at an edge the last one that there is."""
    rows, columns = (
        np.minimum(np.arange(0, side, factor) + factor // 2, side - 1) for side in (pixels.shape[-2], pixels.shape[-1])
    )
    return pixels[..., rows[:, None], columns]
