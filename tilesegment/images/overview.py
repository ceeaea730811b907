"""An overview of an image: a plane of it at a size that one looks at, and where its pixels lie."""

from dataclasses import dataclass
from math import ceil

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource

SIDE = 2048  # pixels of an overview, at most: on a slide of 100,000 pixels one of its pixels is 12 micrometres


@dataclass(frozen=True)
class Overview:
    """The overview of an image: where its pixels lie.

    Attributes:
        shape: (h, w).
        scale: (y, x) pixels of level 0 that one of its pixels spans.
        level: number of the stored level that it is made of, the smallest that is large enough.
        factor: pixels of that level per pixel, along each axis.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]
    level: int
    factor: int

    @classmethod
    def of(cls, source: ImageSource) -> "Overview":
        """Choose the overview of an image, without reading a pixel."""
        number = max((n for n, level in enumerate(source.stored_levels) if max(level.shape) >= SIDE // 2), default=0)
        level = source.levels[number]
        factor = ceil(max(level.shape) / SIDE)
        height, width = level.shape
        scale = (level.scale[0] * factor, level.scale[1] * factor)
        return cls((ceil(height / factor), ceil(width / factor)), scale, number, factor)

    def read(self, source: ImageSource, z: int) -> np.ndarray:
        """Read the overview of a plane, part by part: (C, h, w) float32 of means."""
        whole = Region.of_shape(source.levels[self.level].shape)
        side = max(SIDE // self.factor, 1) * self.factor
        rows = []
        for y in range(0, whole.height, side):
            parts = (Region(y, x, y + side, x + side).intersect(whole) for x in range(0, whole.width, side))
            read = [reduced(source.read(part, self.level, z), self.factor) for part in parts]
            rows.append(np.concatenate(read, axis=2))
        return np.concatenate(rows, axis=1)


def grid_lines(
    shape: tuple[int, int], scale: tuple[float, float], whole: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return where rows and columns of a smaller image begin and end in level 0.

    Args:
        shape, scale: of the smaller image: (h, w), and (y, x) pixels of level 0 that one of its pixels spans.
        whole: (H, W) of level 0, where the last row and column end, as sides of levels are rounded.

    Returns:
        (h + 1,) and (w + 1,) float64: row i covers lines[i] to lines[i + 1].
    """
    rows, columns = (np.append(np.arange(n) * step, size) for n, step, size in zip(shape, scale, whole, strict=True))
    return rows, columns


def reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` pixels, (C, H, W) -> (C, ceil(H / factor), ceil(W / factor)) float32."""
    channels, height, width = pixels.shape
    padded = np.pad(pixels, ((0, 0), (0, -height % factor), (0, -width % factor)), mode="edge")
    cells = padded.reshape(channels, ceil(height / factor), factor, ceil(width / factor), factor)
    return cells.mean((2, 4), dtype=np.float32)
