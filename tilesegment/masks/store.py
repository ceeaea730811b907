"""One level of a mask on disk: an array that is written block by block, each block once, and read by region.

The invariant: a block is stored (as one shard, or in Zarr 2 as whole chunks) if and only if it is done. Each object is
written whole; blocks of background are stored too, so nothing that is missing is taken for background. Another
kind of store would replace: put (`BlockArray._store`), put if absent (`create_array`), get (`BlockArray.read`,
`_is_whole`) and list (`_objects`). Only `writer` renames and deletes whole folders.

A shard is its chunks, each compressed and with a checksum, one after the other, and at the end an index: offset and
length of every chunk in row-major order, both 2^64 - 1 for one outside the array, and the index's own checksum, as in
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/. zarr reads this, but takes three times as long
to write it.
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from tilesegment.errors import MaskError, one_line
from tilesegment.files import make_folder, write_files
from tilesegment.geometry import Region
from tilesegment.masks.spec import Grid
from tilesegment.ome_zarr.arrays import open_for_reading

# level 5 makes a real mask a tenth smaller, and takes five times as long
_COMPRESSOR = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
# runs of equal ids are what makes them small: unshuffled they take two thirds of the space and half the time
_COMPRESSOR_OF_IDS = Blosc(cname="zstd", clevel=1, shuffle=Blosc.NOSHUFFLE)
_ABSENT = 2**64 - 1
_MOST_OBJECTS = 10**8  # one byte each in a survey


@contextmanager
def reporting(deed: str, path: Path) -> Iterator[None]:
    """Turn an OSError into a MaskError: `cannot <deed> <path>: <reason>`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise MaskError(f"cannot {deed} {path}: {reason}; check space and permissions, then run it again") from error


def gone(folder: Path) -> MaskError:
    """Return the error for a mask in progress that is no longer in `folder`."""
    return MaskError(f"{folder} is gone: the mask was finished or removed by another run; run it again to see which")


@dataclass(frozen=True)
class Survey:
    """State of the stored objects of an array.

    Attributes:
        done: bool (planes, rows, columns): whether each block is stored and whole.
        damaged: stored objects that are not whole, in order. Their blocks are not done; writing these replaces them.
    """

    done: np.ndarray
    damaged: tuple[Path, ...]


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
        """Yield region and plane of every block, plane by plane, row by row."""
        return self.grid.blocks()

    def objects(self, region: Region, z: int) -> list[Path]:
        """Return the files that hold `region` of plane `z`."""
        return self.grid.objects(self.path, region, z)

    def survey(self) -> Survey:
        """Find the blocks that are done, and what is damaged; see `survey`."""
        return survey(self.path, self.grid)

    def write(self, region: Region, pixels: np.ndarray, z: int) -> None:
        """Store block `region`, clipped to the array, of plane `z`: (h, w) uint8, or (C, h, w) probabilities."""
        side = self.grid.block
        top, left = region.y0 // side * side, region.x0 // side * side
        block = Region(top, left, top + side, left + side).intersect(Region.of_shape(self.grid.shape))
        assert region == block, f"{region} is not the block {block}"
        assert (pixels.shape, pixels.dtype) == ((*self._lead, *region.shape), self.grid.dtype)
        with reporting("write", self.path):
            self._store(dict(zip(self.objects(region, z), encode(pixels, self.grid), strict=True)))

    def read(self, region: Region, z: int) -> np.ndarray:
        """Return `region` of plane `z`: (h, w) uint8, or (C, h, w) of the array's dtype for probabilities."""
        assert Region.of_shape(self.grid.shape).contains(region)
        assert z in range(self.grid.depth or 1)
        advice = "delete this file, or all of a finished mask, and run it again"
        for file in self.objects(region, z):
            if not file.is_file() or file.stat().st_size == 0:  # a loss of power leaves empty ones
                raise MaskError(f"{file} is missing or empty; {advice}")
        try:
            return np.asarray(self.array[self._index(region, z)]).reshape(*self._lead, *region.shape)
        except Exception as error:  # each codec has its own errors
            names = ", ".join(str(path) for path in self.objects(region, z)[:4])
            raise MaskError(f"cannot read {names}: {one_line(error, 200)}; {advice}") from error

    def _store(self, files: Mapping[Path, bytes]) -> None:
        # a late block, of a worker whose run has ended, must not revive a finished mask, nor get into another one
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


def create_array(path: Path, grid: Grid) -> BlockArray:
    """Open the array in folder `path`, making it if it is not there yet."""
    if not _metadata(path, grid).exists():
        with reporting("create", path):
            make_folder(path, path.parent)
            write_files({path / name: content for name, content in _documents(grid).items()})
    return open_array(path, grid)


def open_array(path: Path, grid: Grid) -> BlockArray:
    """Open the array in folder `path`, which must be cut as `grid` says."""
    try:
        array = open_for_reading(path, zarr_format=grid.format)
    except Exception as error:  # zarr has a dozen ways to refuse metadata
        raise MaskError(f"cannot open the array {path}: {one_line(error, 200)}; compute the mask again") from error
    found = (array.shape, array.chunks, array.shards, array.dtype)
    if found != (grid.full, *grid.cut, grid.dtype):
        raise MaskError(f"the array {path} is not the one that its group describes; compute the mask again")
    return BlockArray(array, path, grid, _made(path, grid))


def _documents(grid: Grid) -> dict[str, bytes]:
    """Return the files of an array's metadata, as zarr writes them."""
    used, options = _compressor(grid), dict[str, Any]()
    if grid.format == 3:
        shuffle: Any = "bitshuffle" if used.shuffle == Blosc.BITSHUFFLE else "noshuffle"
        codec = BloscCodec(typesize=grid.dtype.itemsize, cname=used.cname, clevel=used.clevel, shuffle=shuffle)
        # blosc does not notice flipped bits
        options = {"compressors": [codec, Crc32cCodec()], "dimension_names": list(grid.axes)}
    else:
        options = {"compressors": used, "chunk_key_encoding": {"name": "v2", "separator": "/"}}
    files: dict[str, Any] = {}
    zarr.create_array(
        store=MemoryStore(files),
        shape=grid.full,
        chunks=grid.cut[0],
        shards=grid.cut[1],
        dtype=grid.dtype,
        fill_value=0,
        zarr_format=grid.format,  # type: ignore[arg-type]
        **options,
    )
    return {name: content.to_bytes() for name, content in files.items()}


def _compressor(grid: Grid) -> Blosc:
    return _COMPRESSOR_OF_IDS if grid.dtype == np.uint32 else _COMPRESSOR


def _metadata(path: Path, grid: Grid) -> Path:
    return path / ("zarr.json" if grid.format == 3 else ".zarray")


def _made(path: Path, grid: Grid) -> tuple[int, int] | None:
    """Return what distinguishes the array from a later one in its place; None if there is none."""
    try:
        found = os.stat(_metadata(path, grid))
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_mtime_ns


def encode(pixels: np.ndarray, grid: Grid) -> list[bytes]:
    """Return the stored objects of a block (h, w) or (C, h, w), in the order of `Grid.objects`."""
    if grid.format == 2:
        return [data for _, data in _chunks(pixels, grid)]
    side = grid.block // grid.chunk
    index = np.full((grid.channels or 1, side, side, 2), _ABSENT, "<u8")
    parts, end = [], 0
    for place, data in _chunks(pixels, grid):
        parts += [data, _checksum(data)]
        index[place] = end, len(data) + 4
        end += len(data) + 4
    tail = index.tobytes()
    return [b"".join([*parts, tail, _checksum(tail)])]


def _chunks(pixels: np.ndarray, grid: Grid) -> Iterator[tuple[tuple[int, int, int], bytes]]:
    """Yield (channel, row, column) and bytes of every chunk of a block, each full-sized, row by row."""
    # zarr has switched blosc's threads off: with them, the bytes of a chunk differ from run to run
    side = grid.chunk
    for channel, plane in enumerate(pixels.reshape(-1, *pixels.shape[-2:])):
        for part in Region.of_shape(plane.shape).squares(side):
            chunk = np.zeros((side, side), grid.dtype)
            chunk[: part.height, : part.width] = plane[part.slices]
            yield (channel, part.y0 // side, part.x0 // side), _compressor(grid).encode(chunk)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", crc32c(data))


def survey(path: Path, grid: Grid) -> Survey:
    """Survey the array in folder `path` without decoding it: 100,000 blocks take seconds."""
    planes, *plane = grid.count(grid.stored)
    counts = grid.sizes(1, planes, *plane)
    if math.prod(counts) > _MOST_OBJECTS:
        raise MaskError(f"{path} is cut into more than {_MOST_OBJECTS:,} stored objects; use larger blocks")
    root, damaged = grid.root(path), []
    whole = np.zeros(counts, bool)
    with reporting("look through", path):
        for folder in (path, root):
            _refuse_link(folder, folder.is_symlink())
        for place, entry in _objects(root, counts):
            try:
                # anything but a file would fail or block when opened
                whole[place] = entry.is_file() and _is_whole(entry.path, grid)
            except FileNotFoundError:  # another process has just finished or removed the mask
                continue
            if not whole[place]:
                damaged.append((place, Path(entry.path)))
    done = whole.reshape(planes, *plane)
    for axis in (1, 2):
        done = np.logical_and.reduceat(done, range(0, done.shape[axis], grid.block // grid.stored), axis=axis)
    return Survey(done, tuple(file for _, file in sorted(damaged)))


def _objects(folder: str | Path, counts: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], os.DirEntry[str]]]:
    """Yield place and entry of everything below `folder` that is named as a stored object."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            _refuse_link(entry.path, entry.is_symlink())
            if not (entry.name.isdecimal() and entry.name.isascii() and int(entry.name) < counts[0]):
                continue
            number = int(entry.name)
            if len(counts) == 1:
                yield (number,), entry
            else:
                for place, found in _objects(entry.path, counts[1:]):
                    yield (number, *place), found


def _refuse_link(path: str | Path, is_link: bool) -> None:
    if is_link:
        raise MaskError(f"{path} is a symbolic link, which is not followed; put what it points to in its place")


def _is_whole(path: str, grid: Grid) -> bool:
    """Return whether a stored object has the length that it states; its chunks are not read."""
    with open(path, "rb", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if grid.format == 2:
            file.seek(0)
            return _is_chunk(file.read(16), size, grid)
        tail = 16 * (grid.channels or 1) * (grid.block // grid.chunk) ** 2 + 4
        if size <= tail:
            return False
        file.seek(size - tail)
        return _is_index(file.read(tail), size - tail)


def _is_index(tail: bytes, size: int) -> bool:
    """Return whether `tail` is the index of a shard whose chunks take `size` bytes."""
    if tail[-4:] != _checksum(tail[:-4]):
        return False
    numbers = struct.unpack(f"<{len(tail) // 8}Q", tail[:-4])
    chunks = [(start, length) for start, length in zip(numbers[::2], numbers[1::2], strict=True) if start != _ABSENT]
    ends = max((start + length for start, length in chunks), default=0)
    return ends == size == sum(length for _, length in chunks)


def _is_chunk(head: bytes, size: int, grid: Grid) -> bool:
    """Return whether `head` is blosc's header of a chunk whose file has `size` bytes."""
    if len(head) < 16:
        return False
    version, _, _, typesize, decoded, block, encoded = struct.unpack("<4B3I", head)
    itemsize = grid.dtype.itemsize
    expected = (2, itemsize, grid.chunk**2 * itemsize, size)
    return (version, typesize, decoded, encoded) == expected and 0 < block <= decoded
