"""One level of a mask: an array that is written block by block, each block once, and read by region.

The invariant: a block is stored (as one shard, or in Zarr 2 as whole chunks) if and only if it is done. Each object is
written whole; blocks of background are stored too, so nothing that is missing is taken for background. `FolderArray`
keeps the objects in a folder on a disk, `RemoteArray` in
an object store.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr

from tilesegment.errors import MaskError, StoreError, one_line
from tilesegment.geometry import Region
from tilesegment.masks.encoding import encode
from tilesegment.masks.spec import Grid
from tilesegment.stores import Place

_MOST_OBJECTS = 10**8  # one byte each in a survey
DAMAGED = "delete this file, or all of a finished mask, and run it again"


@contextmanager
def reporting(deed: str, path: Place) -> Iterator[None]:
    """Turn an OSError into a MaskError: `cannot <deed> <path>: <reason>`."""
    try:
        yield
    except StoreError as error:  # says all of it
        raise MaskError(str(error)) from error
    except OSError as error:
        reason = error.strerror or str(error)
        raise MaskError(f"cannot {deed} {path}: {reason}; check space and permissions, then run it again") from error


@dataclass(frozen=True)
class Survey:
    """State of the stored objects of an array.

    Attributes:
        done: bool (planes, rows, columns): whether each block is stored and whole.
        damaged: stored objects that are not whole, in order. Their blocks are not done; writing these replaces them.
    """

    done: np.ndarray
    damaged: tuple[Place, ...]


@dataclass(frozen=True)
class BlockArray(ABC):
    """An array at `path`. Threads and processes may write different blocks at a time, and may pickle it."""

    path: Place
    grid: Grid

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.grid.shape

    def blocks(self) -> Iterator[tuple[Region, int]]:
        """Yield region and plane of every block, plane by plane, row by row."""
        return self.grid.blocks()

    def objects(self, region: Region, z: int) -> list[Place]:
        """Return where the objects that hold `region` of plane `z` are stored."""
        return [self.path / key for key in self.grid.keys(region, z)]

    @abstractmethod
    def survey(self, *, deep: bool = False) -> Survey:
        """Find the blocks that are done, and what is damaged.

        Nothing is decoded. In a store the ends of the objects, which tell how long they are, are read only if `deep`.
        """

    def write(self, region: Region, pixels: np.ndarray, z: int) -> None:
        """Store block `region`, clipped to the array, of plane `z`: (h, w) uint8, or (C, h, w) probabilities."""
        side = self.grid.block
        top, left = region.y0 // side * side, region.x0 // side * side
        block = Region(top, left, top + side, left + side).intersect(Region.of_shape(self.grid.shape))
        assert region == block, f"{region} is not the block {block}"
        assert (pixels.shape, pixels.dtype) == ((*self._lead, *region.shape), self.grid.dtype)
        with reporting("write", self.path):
            self._store(dict(zip(self.grid.keys(region, z), encode(pixels, self.grid), strict=True)))

    def read(self, region: Region, z: int) -> np.ndarray:
        """Return `region` of plane `z`: (h, w) uint8, or (C, h, w) of the array's dtype for probabilities."""
        assert Region.of_shape(self.grid.shape).contains(region)
        assert z in range(self.grid.depth or 1)
        array = self._array_of(region, z)
        try:
            return np.asarray(array[self._index(region, z)]).reshape(*self._lead, *region.shape)
        except Exception as error:  # each codec has its own errors
            names = ", ".join(str(path) for path in self.objects(region, z)[:4])
            raise MaskError(f"cannot read {names}: {one_line(error, 200)}; {DAMAGED}") from error

    @abstractmethod
    def _store(self, objects: Mapping[str, bytes]) -> None:
        """Store objects under their keys, each whole or not at all."""

    @abstractmethod
    def _array_of(self, region: Region, z: int) -> zarr.Array:
        """Return an array from which `region` of plane `z` can be read.

        Raises:
            MaskError: one of its objects is missing or empty.
        """

    @property
    def _lead(self) -> tuple[int, ...]:
        return () if self.grid.channels is None else (self.grid.channels,)

    def _index(self, region: Region, z: int) -> Any:
        ys, xs = region.slices
        return tuple({"c": slice(None), "z": slice(z, z + 1), "y": ys, "x": xs}[axis] for axis in self.grid.axes)


def check_array(array: zarr.Array, path: Place, grid: Grid) -> None:
    """Check that the array is cut as `grid` says."""
    found = (array.shape, array.chunks, array.shards, array.dtype)
    if found != (grid.full, *grid.cut, grid.dtype):
        raise MaskError(f"the array {path} is not the one that its group describes; compute the mask again")


def object_counts(path: Place, grid: Grid) -> tuple[int, ...]:
    """Return the number of stored objects along each axis of the array."""
    planes, *plane = grid.count(grid.stored)
    counts = grid.sizes(1, planes, *plane)
    if math.prod(counts) > _MOST_OBJECTS:
        raise MaskError(f"{path} is cut into more than {_MOST_OBJECTS:,} stored objects; use larger blocks")
    return counts


def survey_of(grid: Grid, whole: np.ndarray, damaged: Iterable[tuple[tuple[int, ...], Place]]) -> Survey:
    """Return the survey of an array from its stored objects.

    Args:
        grid: of the array.
        whole: bool, one for each of them, as `object_counts` counts them.
        damaged: place of each that is not whole in `whole`, and where it is stored.
    """
    done = whole.reshape(grid.count(grid.stored))
    for axis in (1, 2):
        done = np.logical_and.reduceat(done, range(0, done.shape[axis], grid.block // grid.stored), axis=axis)
    return Survey(done, tuple(path for _, path in sorted(damaged, key=lambda one: one[0])))
