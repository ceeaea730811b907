"""How many pixels of a mask each class has."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from tilesegment.geometry import Region
from tilesegment.masks.spec import MaskSpec

KEY = "class_pixels"
"""Where the record of a finished mask holds the pixels of each class, of all planes of level 0."""

_LARGEST = 1 << 26  # pixels that are counted for a mask whose record holds no count
_SIDE = 4096
_FEW = 16  # classes up to which one comparison each is faster than a histogram


class Level(Protocol):
    """One level of a mask."""

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""

    def read(self, region: Region, z: int) -> np.ndarray:
        """Class ids (h, w) uint8."""


@dataclass(frozen=True)
class Counted:
    """Pixels of each class, in all planes of a level."""

    level: int
    pixels: tuple[int, ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """Of all pixels, 0 to 1."""
        return tuple(count / sum(self.pixels) for count in self.pixels)


class Tally:
    """Counts the pixels of each of `classes` classes; several threads may add to it."""

    def __init__(self, classes: int) -> None:
        self.pixels = np.zeros(classes, np.int64)
        self._lock = threading.Lock()

    def add(self, ids: np.ndarray) -> np.ndarray:
        """Count `ids` (h, w) uint8, and return them."""
        classes = len(self.pixels)
        if classes <= _FEW:
            found = np.array([np.count_nonzero(ids == n) for n in range(1, classes)], np.int64)
            found = np.append(ids.size - found.sum(), found)
        else:
            found = np.bincount(ids.ravel(), minlength=classes)[:classes]
        with self._lock:
            self.pixels += found
        return ids


def counted(spec: MaskSpec, levels: tuple[Level, ...], record: Mapping[str, Any]) -> Counted:
    """The pixels of each class: as recorded when the mask was finished, else counted in the finest level of 64 Mpx.

    Args:
        spec, levels: of the mask.
        record: that the spec was made of.

    Raises:
        MaskError: the level cannot be read.
    """
    depth, (height, width) = spec.depth or 1, spec.shape
    known = record.get(KEY)
    if isinstance(known, list) and len(known) == len(spec.classes) and all(type(n) is int and n >= 0 for n in known):
        pixels = tuple(known)
        if sum(pixels) == depth * height * width:
            return Counted(0, pixels)
    sizes = [depth * level.shape[0] * level.shape[1] for level in levels]
    chosen = next((n for n, size in enumerate(sizes) if size <= _LARGEST), len(levels) - 1)
    tally = Tally(len(spec.classes))
    for z in range(depth):
        for region in Region.of_shape(levels[chosen].shape).squares(_SIDE):
            tally.add(levels[chosen].read(region, z))
    return Counted(chosen, tuple(map(int, tally.pixels)))
