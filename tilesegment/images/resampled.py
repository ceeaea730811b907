"""An image at any pixel size: one more level, each pixel of which is defined by pixels of a stored one.

Pixel i of an axis covers [i * step, (i + 1) * step) pixels of level 0. The nearest stored level that is as fine or
finer is averaged over that interval, pixels at its ends by the share that lies in it; where even level 0 is coarser,
values are interpolated between the centres of its pixels, the outermost ones repeated beyond the edge. The axes are
independent, rows come before columns. Weights and the order of the sums depend on the number of the pixel alone: a
region read apart equals the crop of the whole level, bit by bit.
"""

from dataclasses import dataclass
from math import ceil

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images.identity import Identity
from tilesegment.images.source import ImageSource, Level, Shown

_SNAP = 1e-6  # pixels: so near to an edge, a boundary lies on it
READ = 1 << 24  # values that are read at once
AT_ONCE = 1 << 17  # values of an intermediate result: they stay in a core's cache


@dataclass(frozen=True)
class _Taps:
    """The stored pixels that the pixels start .. stop - 1 of an axis are made of: K of each, some of weight 0.

    Attributes:
        index: (K, n) their numbers.
        weight: (K, n) float64, of sum 1 over K.
    """

    index: np.ndarray
    weight: np.ndarray

    @property
    def start(self) -> int:
        return int(self.index.min())

    @property
    def stop(self) -> int:
        return int(self.index.max()) + 1


class ResampledSource(ImageSource):
    """An image with one more level, at `step`; the others, and all else, are those of the image.

    The level's sides are rounded up: its last pixels average what there is of theirs. Integers are rounded to the
    nearest, halves to the even one. Nothing of it is stored: there `read_stored` gives what `read` does.

    Attributes:
        own: number of the level, after all that are stored.
        base: number of the stored level that it is computed from.
        step: (y, x) pixels of level 0 that one of its pixels spans.
        factor: (y, x) the same in pixels of level `base`.
    """

    def __init__(self, source: ImageSource, step: tuple[float, float]) -> None:
        """Wrap an image, which is closed with this; `step` is positive."""
        assert min(step) > 0
        self._source, self.step, self.own = source, step, len(source.levels)
        self.base = base_level(source, step)
        scale = source.levels[self.base].scale
        self.factor = (_whole(step[0] / scale[0]), _whole(step[1] / scale[1]))
        height, width = (max(ceil(side / one - _SNAP), 1) for side, one in zip(source.shape, step, strict=True))
        levels = (*source.levels, Level((height, width), step))
        shown = Shown(contents=source.contents)
        super().__init__(source.path, source.format, levels, source.depth, source.channels, source.dtype, shown=shown)
        self.store_options, self.is_stored = source.store_options, source.is_stored
        self.stored_dtype, self.orientation = source.stored_dtype, source.orientation
        self.frame, self.pixel_size = source.frame, source.pixel_size
        self.notes, self.stored_notes = source.notes, source.stored_notes

    def identity(self) -> Identity:
        """That of the image."""
        return self._source.identity()

    @property
    def stored_levels(self) -> tuple[Level, ...]:
        return self._source.levels

    @property
    def cache_bytes(self) -> int:
        """As of the image, and what resampling holds for a moment."""
        return self._source.cache_bytes + 2 * READ * self.dtype.itemsize

    def keep_at_most(self, most: int) -> None:
        """Keep fewer pieces of the image."""
        self._source.keep_at_most(most)

    @property
    def decoded_bytes(self) -> int:
        return self._source.decoded_bytes

    def read(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """Read as every image does; the level `own` is computed."""
        return super().read(region, level, z) if level == self.own else self._source.read(region, level, z)

    def read_stored(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """Read as every image does; the level `own` as `read` does."""
        if level == self.own:
            assert Region.of_shape(self.levels[level].shape).contains(region), f"{region} outside level {level}"
            return self._read(region, level, z)
        return self._source.read_stored(region, level, z)

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        columns = self._taps(1, region.x0, region.x1)
        pixels = np.empty((self.channels, *region.shape), self.dtype)
        width = self.channels * (columns.stop - columns.start)
        band = max(int(READ / max(width, 1) / max(self.factor[0], 1)), 1)
        for y in range(region.y0, region.y1, band):
            rows = self._taps(0, y, min(y + band, region.y1))
            read = Region(rows.start, columns.start, rows.stop, columns.stop)
            stored = self._source.read(read, self.base, z)
            with np.errstate(invalid="ignore"):  # infinity may be among float32
                _weigh(stored, rows, columns, pixels[:, y - region.y0 : y - region.y0 + band])
        return pixels

    def _announce(self, region: Region, level: int, z: int) -> None:
        if level != self.own:
            self._source.announce(region, level, z)
            return
        rows, columns = self._taps(0, region.y0, region.y1), self._taps(1, region.x0, region.x1)
        self._source.announce(Region(rows.start, columns.start, rows.stop, columns.stop), self.base, z)

    def _taps(self, axis: int, start: int, stop: int) -> _Taps:
        make = _averaged if self.factor[axis] >= 1 else _interpolated
        return make(start, stop, self.factor[axis], self._source.levels[self.base].shape[axis])

    def close(self) -> None:
        """Close the image."""
        self._source.close()


def at_scale(source: ImageSource, step: tuple[float, float] | None) -> ImageSource:
    """Return the image with one more level at `step`; the image itself without a step."""
    return source if step is None else ResampledSource(source, step)


def base_level(source: ImageSource, step: tuple[float, float]) -> int:
    """Return the number of the coarsest stored level that is as fine as `step` along both axes; 0 if none is."""
    levels = source.stored_levels
    fine = (n for n, one in enumerate(levels) if all(s <= t + _SNAP for s, t in zip(one.scale, step, strict=True)))
    return max(fine, key=lambda n: levels[n].scale, default=0)


def _whole(factor: float) -> float:
    """Return a whole number for one that differs from it by rounding alone."""
    return float(round(factor)) if round(factor) and abs(factor / round(factor) - 1) < 1e-12 else factor


def _averaged(start: int, stop: int, step: float, size: int) -> _Taps:
    """Pixels of an axis of `size` over which the mean is taken, where a pixel spans `step` >= 1 of them."""
    edges = np.arange(start, stop + 1) * step
    edges = np.where(np.abs(edges - np.rint(edges)) < _SNAP, np.rint(edges), edges)
    # sides of levels are rounded down: nothing may be left for the last pixel but its neighbour
    low, high = np.minimum(edges[:-1], size - 1), np.minimum(edges[1:], size)
    first, last = np.floor(low).astype(np.int64), np.ceil(high).astype(np.int64) - 1
    count = int(step) if step == int(step) else ceil(step) + 1
    index = first + np.arange(count)[:, None]
    share = np.clip(np.minimum(high, index + 1) - np.maximum(low, index), 0, None)
    # what has no share is not read: it could be NaN
    return _Taps(np.minimum(index, last), share / share.sum(0))


def _interpolated(start: int, stop: int, step: float, size: int) -> _Taps:
    """Pixels of an axis of `size` between whose centres lies that of a pixel, which spans `step` < 1 of them."""
    centre = (np.arange(start, stop) + 0.5) * step - 0.5
    before = np.floor(centre)
    share = centre - before
    after = np.where(share > 0, before + 1, before)
    index = np.clip(np.stack([before, after]).astype(np.int64), 0, size - 1)
    return _Taps(index, np.stack([1 - share, share]))


def _weigh(stored: np.ndarray, rows: _Taps, columns: _Taps, pixels: np.ndarray) -> None:
    """Fill `pixels` (C, h, w) with weighted sums of `stored` (C, H, W), which begins at the first taps.

    In float32 for integers, in float64 for float32, so that the mean of equal values is that value.
    """
    accurate = np.float32 if pixels.dtype.kind == "u" else np.float64
    by_row, by_column = rows.weight.astype(accurate), columns.weight.astype(accurate)
    at_row, at_column = rows.index - rows.start, columns.index - columns.start
    band = max(AT_ONCE // max(stored.shape[2], pixels.shape[2]), 1)
    for channel in range(len(pixels)):
        for y in range(0, pixels.shape[1], band):
            part = slice(y, y + band)
            middle = _sum(stored[channel], at_row[:, part], by_row[:, part, None], 0)
            done = _sum(middle, at_column, by_column[:, None, :], 1)
            pixels[channel, part] = np.rint(done, out=done) if pixels.dtype.kind == "u" else done


def _sum(values: np.ndarray, index: np.ndarray, weight: np.ndarray, axis: int) -> np.ndarray:
    """Add the taps of an axis, the first one first."""
    total: np.ndarray = values.take(index[0], axis) * weight[0]
    for one, share in zip(index[1:], weight[1:], strict=True):
        part = values.take(one, axis) * share
        total += part
    return total
