"""Labels at another pixel size: each pixel takes the value at its centre, so that classes and ids stay themselves."""

from dataclasses import replace
from math import ceil
from typing import TypeVar

import numpy as np

from tilesegment.geometry import Region
from tilesegment.labels.label import Label

AnyLabel = TypeVar("AnyLabel", bound=Label)

_SNAP = 1e-6  # pixels: so near to an edge, a centre lies on it
READ = 1 << 24  # pixels that are read at once


def resampled_shape(shape: tuple[int, int], scale: tuple[float, float]) -> tuple[int, int]:
    """Return how many pixels, each spanning `scale` (y, x) of those of `shape` (H, W), have their centre within it."""
    height, width = (max(ceil(side / one - 0.5 - _SNAP), 1) for side, one in zip(shape, scale, strict=True))
    return height, width


def at_centres(label: AnyLabel, shape: tuple[int, int], scale: tuple[float, float]) -> AnyLabel:
    """Return `label` as one of `shape` (H, W), in pixels that span `scale` (y, x) of its own.

    Pixel i takes the value at (i + 0.5) * scale: a centre on an edge is that of the pixel to the right or below, one
    beyond the label that of its last pixel.
    """

    def read(region: Region, z: int) -> np.ndarray:
        rows = _centres(region.y0, region.y1, scale[0], label.shape[0])
        columns = _centres(region.x0, region.x1, scale[1], label.shape[1])
        x0, x1 = int(columns[0]), int(columns[-1]) + 1
        band = max(int(READ / (x1 - x0) / max(scale[0], 1)), 1)
        parts = []
        for some in (rows[n : n + band] for n in range(0, len(rows), band)):
            y0, y1 = int(some[0]), int(some[-1]) + 1
            parts.append(label.read(Region(y0, x0, y1, x1), z)[np.ix_(some - y0, columns - x0)])
        return np.concatenate(parts)

    return replace(label, shape=shape, read=read)


def _centres(start: int, stop: int, step: float, size: int) -> np.ndarray:
    """Return the pixels of an axis of `size` in which the centres of the pixels start .. stop - 1 lie, int64."""
    centres = (np.arange(start, stop) + 0.5) * step
    return np.minimum(np.floor(centres + _SNAP).astype(np.int64), size - 1)
