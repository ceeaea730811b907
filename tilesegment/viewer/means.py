"""An image at any zoom: means of the coarsest stored level that is fine enough."""

from math import ceil

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images.resampled import ResampledSource, base_level
from tilesegment.images.source import ImageSource


class Zoom:
    """One zoom of an image, whose pixels span 2 ** zoom pixels of level 0.

    Attributes:
        step: pixels of level 0 per pixel.
        base: number of the stored level that is read.
        factor: (y, x) pixels of that level per pixel.
    """

    def __init__(self, source: ImageSource, zoom: int) -> None:
        self._source, self.step = source, 1 << zoom
        self.base = base_level(source, (self.step, self.step))
        scale = source.levels[self.base].scale
        self.factor = (_near(self.step / scale[0]), _near(self.step / scale[1]))

    @property
    def bytes_per_pixel(self) -> float:
        """Bytes that are read for one pixel."""
        return self.factor[0] * self.factor[1] * self._source.channels * self._source.stored_dtype.itemsize

    def read(self, region: Region, z: int) -> np.ndarray:
        """Read pixels of this zoom, (C, h, w) in the image's type; integers are rounded."""
        if any(factor != int(factor) for factor in self.factor):
            resampled = ResampledSource(self._source, (self.step, self.step))
            return resampled.read(region, resampled.own, z)
        (fy, fx), shape = (int(factor) for factor in self.factor), self._source.levels[self.base].shape
        needed = Region(region.y0 * fy, region.x0 * fx, region.y1 * fy, region.x1 * fx).intersect(
            Region.of_shape(shape)
        )
        if needed.area == 0:  # sides of levels are rounded down: the last pixel repeats the one before
            resampled = ResampledSource(self._source, (self.step, self.step))
            return resampled.read(region, resampled.own, z)
        pixels = means(self._source.read(needed, self.base, z), (fy, fx))
        missing = (region.height - pixels.shape[1], region.width - pixels.shape[2])
        return np.pad(pixels, ((0, 0), (0, missing[0]), (0, missing[1])), mode="edge") if any(missing) else pixels


def means(pixels: np.ndarray, factor: tuple[int, int]) -> np.ndarray:
    """Return means of `factor` (y, x) pixels, those at the end of what there is of them.

    Args:
        pixels: (C, H, W) uint8, uint16 or float32.

    Returns:
        (C, ceil(H / y), ceil(W / x)) of the same type; integers are rounded, halves up.
    """
    if factor == (1, 1):
        return pixels
    (fy, fx), (_, height, width) = factor, pixels.shape
    sums = _sums(_sums(pixels, fy, 1), fx, 2)
    rows = np.minimum(fy, height - np.arange(ceil(height / fy)) * fy)
    columns = np.minimum(fx, width - np.arange(ceil(width / fx)) * fx)
    counts = rows[:, None] * columns
    if pixels.dtype.kind == "f":
        with np.errstate(invalid="ignore", over="ignore"):  # infinity may be among them
            return (sums / counts.astype(np.float32)).astype(np.float32)
    counts = counts.astype(sums.dtype)
    return ((sums + counts // 2) // counts).astype(pixels.dtype)


def _sums(values: np.ndarray, factor: int, axis: int) -> np.ndarray:
    """Sums of `factor` neighbours along an axis, of fewer at its end."""
    if factor == 1:
        return values
    kind = np.float32 if values.dtype.kind == "f" else np.uint32
    count = ceil(values.shape[axis] / factor)
    shape = tuple(count if n == axis else side for n, side in enumerate(values.shape))
    sums: np.ndarray = np.zeros(shape, kind)
    for offset in range(min(factor, values.shape[axis])):
        index = [slice(None)] * 3
        index[axis] = slice(offset, None, factor)
        part = values[tuple(index)]
        index[axis] = slice(0, part.shape[axis])
        with np.errstate(invalid="ignore", over="ignore"):
            sums[tuple(index)] += part
    return sums


def _near(factor: float) -> float:
    """Return the whole number that a factor differs from by rounding alone, else the factor."""
    return float(round(factor)) if abs(factor / max(round(factor), 1) - 1) < 1e-9 else factor
