"""What is stored of a block, as bytes: encoded, and told whether it is whole; and the metadata of its array.

A shard is its chunks, each compressed and with a checksum, one after the other, and at the end an index: offset and
length of every chunk in row-major order, both 2^64 - 1 for one outside the array, and the index's own checksum, as in
https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/. zarr reads this, but takes three times as long
to write it.
"""

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import zarr
from google_crc32c import value as crc32c
from numcodecs import Blosc
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import MemoryStore

from tilesegment.geometry import Region
from tilesegment.masks.spec import Grid

# level 5 makes a real mask a tenth smaller, and takes five times as long
_COMPRESSOR = Blosc(cname="zstd", clevel=1, shuffle=Blosc.BITSHUFFLE)
# runs of equal ids are what makes them small: unshuffled they take two thirds of the space and half the time
_COMPRESSOR_OF_IDS = Blosc(cname="zstd", clevel=1, shuffle=Blosc.NOSHUFFLE)
_ABSENT = 2**64 - 1


def metadata_name(grid: Grid) -> str:
    """Return the name of the object with the array's metadata."""
    return "zarr.json" if grid.format == 3 else ".zarray"


def array_documents(grid: Grid) -> dict[str, bytes]:
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


def encode(pixels: np.ndarray, grid: Grid) -> list[bytes]:
    """Return the stored objects of a block (h, w) or (C, h, w), in the order of `Grid.keys`."""
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


def tail_bytes(grid: Grid) -> int:
    """Return the bytes of a shard's index and its checksum."""
    return 16 * (grid.channels or 1) * (grid.block // grid.chunk) ** 2 + 4


def is_index(tail: bytes, size: int) -> bool:
    """Return whether `tail` is the index of a shard whose chunks take `size` bytes."""
    if tail[-4:] != _checksum(tail[:-4]):
        return False
    numbers = struct.unpack(f"<{len(tail) // 8}Q", tail[:-4])
    chunks = [(start, length) for start, length in zip(numbers[::2], numbers[1::2], strict=True) if start != _ABSENT]
    ends = max((start + length for start, length in chunks), default=0)
    return ends == size == sum(length for _, length in chunks)


def is_chunk(head: bytes, size: int, grid: Grid) -> bool:
    """Return whether `head` is blosc's header of a chunk whose file has `size` bytes."""
    if len(head) < 16:
        return False
    version, _, _, typesize, decoded, block, encoded = struct.unpack("<4B3I", head)
    itemsize = grid.dtype.itemsize
    expected = (2, itemsize, grid.chunk**2 * itemsize, size)
    return (version, typesize, decoded, encoded) == expected and 0 < block <= decoded
