"""The bytes of a stored object, a shard of Zarr 3 or a chunk of Zarr 2: made from pixels, and checked without decoding.

A shard is its chunks, each compressed and with a checksum, one after the other, and at the end an index: the offset and
length of every chunk in row-major order, both 2^64 - 1 for one outside the array, and the index's own checksum, all as
in https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/. zarr reads this, but takes three times as
long to write it.
"""

import os
import struct
from collections.abc import Iterator

import numpy as np
from google_crc32c import value as crc32c
from numcodecs import Blosc

from tilesegment.masks.grid import Grid

# what a chunk is compressed with; of a real mask level 5 makes a tenth less, and takes five times as long
COMPRESSOR = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
_ABSENT = 2**64 - 1
_BINARY = getattr(os, "O_BINARY", 0)  # else Windows reads \r\n as \n


def encode(pixels: np.ndarray, grid: Grid) -> list[bytes]:
    """The stored objects of a block, in the order of `Grid.objects`.

    Args:
        pixels: (h, w) uint8, or (C, h, w) float32 for probabilities; clipped at the array's edge.
        grid: how the array is cut.
    """
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


def is_whole(path: str, grid: Grid) -> bool:
    """Whether the stored object at `path` is as long as it says itself; what is in its chunks is not looked at.

    Raises:
        OSError: it cannot be read.
    """
    handle = os.open(path, os.O_RDONLY | _BINARY)
    try:
        size = os.lseek(handle, 0, os.SEEK_END)
        if grid.format == 2:
            os.lseek(handle, 0, os.SEEK_SET)
            return _is_chunk(os.read(handle, 16), size, grid)
        tail = 16 * (grid.channels or 1) * (grid.block // grid.chunk) ** 2 + 4
        if size <= tail:
            return False
        os.lseek(handle, size - tail, os.SEEK_SET)
        return _is_index(os.read(handle, tail), size - tail)
    finally:
        os.close(handle)


def _chunks(pixels: np.ndarray, grid: Grid) -> Iterator[tuple[tuple[int, int, int], bytes]]:
    """(channel, row, column) and bytes of every chunk of a block, each full-sized, row by row."""
    # zarr has switched blosc's threads off: with them, the bytes of a chunk differ from run to run
    side = grid.chunk
    for channel, plane in enumerate(pixels.reshape(-1, *pixels.shape[-2:])):
        for y in range(0, plane.shape[0], side):
            for x in range(0, plane.shape[1], side):
                part = plane[y : y + side, x : x + side]
                chunk = np.zeros((side, side), grid.dtype)
                chunk[: part.shape[0], : part.shape[1]] = part
                yield (channel, y // side, x // side), COMPRESSOR.encode(chunk)


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", crc32c(data))


def _is_index(tail: bytes, size: int) -> bool:
    """Whether `tail` is the index of a shard whose chunks take `size` bytes."""
    if tail[-4:] != _checksum(tail[:-4]):
        return False
    numbers = struct.unpack(f"<{len(tail) // 8}Q", tail[:-4])
    chunks = [(start, length) for start, length in zip(numbers[::2], numbers[1::2], strict=True) if start != _ABSENT]
    ends = max((start + length for start, length in chunks), default=0)
    return ends == size == sum(length for _, length in chunks)


def _is_chunk(head: bytes, size: int, grid: Grid) -> bool:
    """Whether `head` is blosc's of a chunk whose file has `size` bytes."""
    if len(head) < 16:
        return False
    version, _, _, typesize, decoded, block, encoded = struct.unpack("<4B3I", head)
    itemsize = grid.dtype.itemsize
    expected = (2, itemsize, grid.chunk**2 * itemsize, size)
    return (version, typesize, decoded, encoded) == expected and 0 < block <= decoded
