"""One level of a mask on disk: an array that is written block by block, each block once, and read by region.

The invariant: a block is stored (as one shard, or in Zarr 2 as whole chunks) if and only if it is done. Blocks of
background are stored too, so nothing that is missing is taken for background.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks.disk import reporting, sync

_CONFIG: Any = {"write_empty_chunks": True}


@dataclass(frozen=True)
class Grid:
    """How an array (channels, z, y, x) is cut; the axes that it lacks are None.

    Attributes:
        shape: (height, width).
        depth: planes along z.
        channels: channels of probabilities (float32); None for class ids (uint8).
        block, chunk: sides in pixels.
        format: Zarr's, 3 (a block is one shard) or 2 (a block is chunks).
    """

    shape: tuple[int, int]
    depth: int | None
    channels: int | None
    block: int
    chunk: int
    format: int

    @property
    def axes(self) -> str:
        """Names of the axes in order, `yx` to `czyx`."""
        return ("" if self.channels is None else "c") + ("" if self.depth is None else "z") + "yx"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.channels is None else np.float32)

    @property
    def stored(self) -> int:
        """Side of a stored object."""
        return self.block if self.format == 3 else self.chunk

    def sizes(self, channels: int | None, depth: int, height: int, width: int) -> tuple[int, ...]:
        """The sizes of those axes that there are."""
        every = {"c": channels, "z": depth, "y": height, "x": width}
        return tuple(every[axis] or 1 for axis in self.axes)

    @property
    def full(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.sizes(self.channels, self.depth or 1, *self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        return self.sizes(1, 1, self.chunk, self.chunk)

    @property
    def shards(self) -> tuple[int, ...] | None:
        return self.sizes(self.channels, 1, self.block, self.block) if self.format == 3 else None


@dataclass(frozen=True)
class BlockArray:
    """An array in folder `path`. Threads and processes may write different blocks at a time, and may pickle it."""

    array: zarr.Array
    path: Path
    grid: Grid

    def blocks(self) -> Iterator[tuple[Region, int]]:
        """Region and plane of every block, plane by plane, row by row."""
        (height, width), side = self.grid.shape, self.grid.block
        whole = Region.of_shape(self.grid.shape)
        for z in range(self.grid.depth or 1):
            for y in range(0, height, side):
                for x in range(0, width, side):
                    yield Region(y, x, y + side, x + side).intersect(whole), z

    def objects(self, region: Region, z: int) -> list[Path]:
        """The files that hold `region` of plane `z`."""
        side, root = self.grid.stored, self.path / "c" if self.grid.format == 3 else self.path
        lead = [str(z) if axis == "z" else "0" for axis in self.grid.axes[:-2]]
        rows, columns = range(region.y0 // side, -(-region.y1 // side)), range(region.x0 // side, -(-region.x1 // side))
        return [root.joinpath(*lead, str(row), str(column)) for row in rows for column in columns]

    def is_done(self, region: Region, z: int) -> bool:
        """Whether all that holds `region` is stored. A file without a byte is none: a loss of power leaves such."""
        return not self.missing(region, z)

    def missing(self, region: Region, z: int) -> list[Path]:
        """Of the files that hold `region`, those that are not there or empty."""
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
        lead = () if self.grid.channels is None else (self.grid.channels,)
        assert (pixels.shape, pixels.dtype) == ((*lead, *region.shape), self.grid.dtype)
        if not _metadata(self.path, self.grid).exists():
            raise MaskError(f"{self.path} is gone: the mask was finished or removed by another run; start it anew")
        files = self.objects(region, z)
        with reporting("write", self.path):
            for path in files:
                # zarr reads an old shard before it replaces it, and fails if it is damaged
                path.unlink(missing_ok=True)
            self.array[self._index(region, z)] = pixels
            for path in files:
                sync(path)
            # folders may be new, so their names are synced too, up to the array's own
            for folder in {folder for path in files for folder in path.parents if folder.is_relative_to(self.path)}:
                sync(folder)

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
            return np.asarray(self.array[self._index(region, z)])
        except Exception as error:  # each codec has errors of its own
            names = ", ".join(str(path) for path in self.objects(region, z)[:4])
            reason = (str(error) or repr(error)).splitlines()[0]
            raise MaskError(f"cannot read {names}: {reason}; {advice}") from error

    def _index(self, region: Region, z: int) -> Any:
        ys, xs = region.slices
        return tuple({"c": slice(None), "z": z, "y": ys, "x": xs}[axis] for axis in self.grid.axes)


def open_array(path: Path, grid: Grid) -> BlockArray:
    """The array in folder `path`, which must be cut as `grid` says.

    Raises:
        MaskError: there is none, or another one.
    """
    try:
        array = zarr.open_array(store=path, mode="r+", zarr_format=grid.format)  # type: ignore[arg-type]
    except Exception as error:  # zarr has a dozen ways to refuse metadata
        reason = (str(error) or repr(error)).splitlines()[0]
        raise MaskError(f"cannot open the array {path}: {reason}; compute the mask again") from error
    found = (array.shape, array.chunks, array.shards, array.dtype)
    if found != (grid.full, grid.chunks, grid.shards, grid.dtype):
        raise MaskError(f"the array {path} is not the one that its group describes; compute the mask again")
    return BlockArray(array.with_config(_CONFIG), path, grid)


def create_array(path: Path, grid: Grid) -> BlockArray:
    """The array in folder `path`, made if it is not there yet; its folder's folder is a Zarr group.

    Raises:
        MaskError: it cannot be made, or there is another one.
    """
    if _metadata(path, grid).exists():
        return open_array(path, grid)
    size = grid.dtype.itemsize
    options: dict[str, Any]
    if grid.format == 3:
        blosc = BloscCodec(typesize=size, cname="zstd", clevel=5 if size == 1 else 3, shuffle="bitshuffle")
        # blosc does not notice flipped bits
        options = {"compressors": [blosc, Crc32cCodec()], "dimension_names": list(grid.axes), "shards": grid.shards}
    else:
        options = {
            "compressors": Blosc(cname="zstd", clevel=5, shuffle=Blosc.BITSHUFFLE),
            "chunk_key_encoding": {"name": "v2", "separator": "/"},
        }
    with reporting("create", path):
        array = zarr.create_array(
            store=path.parent,
            name=path.name,
            shape=grid.full,
            chunks=grid.chunks,
            dtype=grid.dtype,
            fill_value=0,
            zarr_format=grid.format,  # type: ignore[arg-type]
            config=_CONFIG,
            **options,
        )
        sync(_metadata(path, grid))
        sync(path)
    return BlockArray(array, path, grid)


def _metadata(path: Path, grid: Grid) -> Path:
    return path / ("zarr.json" if grid.format == 3 else ".zarray")
