"""One level of a mask on disk: an array that is written block by block, each block once, and read by region.

The invariant: a block is stored (as one shard, or in Zarr 2 as whole chunks) if and only if it is done. Each object is
written in one piece; blocks of background are stored too, so nothing that is missing is taken for background.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.codecs import BloscCodec, Crc32cCodec

from tilesegment.errors import MaskError
from tilesegment.files import make_folder, sync, temporary_name, write_files
from tilesegment.geometry import Region
from tilesegment.masks.disk import reporting
from tilesegment.masks.encoding import COMPRESSOR, encode
from tilesegment.masks.grid import Grid
from tilesegment.masks.locks import gone
from tilesegment.masks.survey import Survey, survey
from tilesegment.ome_zarr.arrays import open_for_reading


@dataclass(frozen=True)
class BlockArray:
    """An array in folder `path`. Threads and processes may write different blocks at a time, and may pickle it."""

    array: zarr.Array
    path: Path
    grid: Grid
    made: tuple[int, int] | None

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width)."""
        return self.grid.shape

    def blocks(self) -> Iterator[tuple[Region, int]]:
        """Region and plane of every block, plane by plane, row by row."""
        return self.grid.blocks()

    def objects(self, region: Region, z: int) -> list[Path]:
        """The files that hold `region` of plane `z`."""
        return self.grid.objects(self.path, region, z)

    def survey(self) -> Survey:
        """Which blocks are done, and what is damaged: a hundred thousand blocks take seconds.

        Raises:
            MaskError: the array cannot be looked through, or a symbolic link leads out of it.
        """
        return survey(self.path, self.grid)

    def missing(self, region: Region, z: int) -> list[Path]:
        """Of the files that hold `region`, those that are not there or empty: a loss of power leaves such."""
        return [path for path in self.objects(region, z) if not path.is_file() or path.stat().st_size == 0]

    def write(self, region: Region, pixels: np.ndarray, z: int) -> None:
        """Stores one block durably.

        Args:
            region: the block, clipped to the array.
            pixels: (h, w) uint8, or (C, h, w) float32 for probabilities.
            z: plane.

        Raises:
            MaskError: it cannot be stored, or the array is not there any more.
        """
        side = self.grid.block
        top, left = region.y0 // side * side, region.x0 // side * side
        block = Region(top, left, top + side, left + side).intersect(Region.of_shape(self.grid.shape))
        assert region == block, f"{region} is not the block {block}"
        assert (pixels.shape, pixels.dtype) == ((*self._lead, *region.shape), self.grid.dtype)
        with reporting("write", self.path):
            self._store(dict(zip(self.objects(region, z), encode(pixels, self.grid), strict=True)))

    def read(self, region: Region, z: int) -> np.ndarray:
        """`region` of plane `z`: (h, w) uint8, or (C, h, w) float32 for probabilities.

        Raises:
            MaskError: some of it is missing or damaged.
        """
        assert Region.of_shape(self.grid.shape).contains(region)
        assert z in range(self.grid.depth or 1)
        advice = "delete this file, or all of a finished mask, and run it again"
        if missing := self.missing(region, z):
            raise MaskError(f"{missing[0]} is missing or empty; {advice}")
        try:
            return np.asarray(self.array[self._index(region, z)]).reshape(*self._lead, *region.shape)
        except Exception as error:  # each codec has errors of its own
            names = ", ".join(str(path) for path in self.objects(region, z)[:4])
            reason = (str(error) or repr(error)).splitlines()[0]
            raise MaskError(f"cannot read {names}: {reason}; {advice}") from error

    def _store(self, files: dict[Path, bytes]) -> None:
        # a late block, of a worker whose run has ended, must not revive a mask that was finished, nor get into another
        if _made(self.path, self.grid) != self.made:
            raise gone(self.path)
        try:
            write_files(files)
        except FileNotFoundError:
            for folder in {path.parent for path in files}:
                make_folder(folder, self.path)
            write_files(files)

    @property
    def _lead(self) -> tuple[int, ...]:
        return () if self.grid.channels is None else (self.grid.channels,)

    def _index(self, region: Region, z: int) -> Any:
        ys, xs = region.slices
        return tuple({"c": slice(None), "z": slice(z, z + 1), "y": ys, "x": xs}[axis] for axis in self.grid.axes)


def open_array(path: Path, grid: Grid) -> BlockArray:
    """The array in folder `path`, which must be cut as `grid` says.

    Raises:
        MaskError: there is none, or another one.
    """
    try:
        array = open_for_reading(path, zarr_format=grid.format)
    except Exception as error:  # zarr has a dozen ways to refuse metadata
        reason = (str(error) or repr(error)).splitlines()[0]
        raise MaskError(f"cannot open the array {path}: {reason}; compute the mask again") from error
    found = (array.shape, array.chunks, array.shards, array.dtype)
    if found != (grid.full, grid.chunks, grid.shards, grid.dtype):
        raise MaskError(f"the array {path} is not the one that its group describes; compute the mask again")
    return BlockArray(array, path, grid, _made(path, grid))


def create_array(path: Path, grid: Grid) -> BlockArray:
    """The array in folder `path`, made if it is not there yet; its folder's folder is a Zarr group.

    Of several processes that make it at once, one does, and its metadata stays the same file ever after.

    Raises:
        MaskError: it cannot be made, or there is another one.
    """
    if not _metadata(path, grid).exists():
        with reporting("create", path):
            _make_array(path, grid)
    return open_array(path, grid)


def _make_array(path: Path, grid: Grid) -> None:
    made = temporary_name(path)
    try:
        made.mkdir()  # zarr would make the folders above it too
        _create_array(made, grid)
        try:
            os.rename(made, path)
        except OSError:
            if not path.is_dir():
                raise
            if not _metadata(path, grid).exists():  # lost: the blocks are still there
                os.replace(_metadata(made, grid), _metadata(path, grid))
                sync(path)
        sync(path.parent)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _create_array(path: Path, grid: Grid) -> None:
    cname, level = COMPRESSOR.cname, COMPRESSOR.clevel
    options: dict[str, Any]
    if grid.format == 3:
        codec = BloscCodec(typesize=grid.dtype.itemsize, cname=cname, clevel=level, shuffle="bitshuffle")
        # blosc does not notice flipped bits
        options = {"compressors": [codec, Crc32cCodec()], "dimension_names": list(grid.axes), "shards": grid.shards}
    else:
        options = {"compressors": COMPRESSOR, "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    zarr.create_array(
        store=path,
        shape=grid.full,
        chunks=grid.chunks,
        dtype=grid.dtype,
        fill_value=0,
        zarr_format=grid.format,  # type: ignore[arg-type]
        **options,
    )
    sync(_metadata(path, grid))
    sync(path)


def _metadata(path: Path, grid: Grid) -> Path:
    return path / ("zarr.json" if grid.format == 3 else ".zarray")


def _made(path: Path, grid: Grid) -> tuple[int, int] | None:
    """What tells the array from one that was made anew in its place; None if there is none."""
    try:
        found = os.stat(_metadata(path, grid))
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns
