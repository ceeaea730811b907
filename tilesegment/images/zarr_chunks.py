"""A Zarr array read by index, in a folder or on a server.

The stored objects (chunks or shards) of a folder are checked before zarr reads them.

An empty file, a folder or a broken link in place of a chunk is damage; zarr would take it for a missing chunk, that is
for background.
"""

import gc
import math
import os
import stat
from itertools import product
from pathlib import Path
from typing import Protocol

import numpy as np
import zarr

from tilesegment.ome_zarr.arrays import open_stored, with_zarrs
from tilesegment.ome_zarr.fetched import FetchedArray, touched
from tilesegment.ome_zarr.node import Node
from tilesegment.stores import Location

Index = tuple[int | slice, ...]


class Chunks(Protocol):
    """An array that is read by index."""

    @property
    def dtype(self) -> np.dtype:
        """Type of the pixels as stored."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided about its chunks."""

    @property
    def received(self) -> int | None:
        """How many bytes came from a server; None for a folder."""

    @property
    def requests(self) -> int:
        """How many requests were sent to a server."""

    def side(self, dimension: int) -> int:
        """Return the length of a chunk."""

    def read(self, index: Index) -> np.ndarray:
        """Read what the array holds at `index`; where no chunk is stored, its fill value."""

    def announce(self, index: Index) -> None:
        """Begin to fetch what lies on a server: `index` is read soon."""

    def decoded_bytes(self, index: Index) -> int:
        """Return the size of the chunks (not the shards) that `index` touches, once decoded."""

    def close(self) -> None:
        """Forget what is kept."""


def open_chunks(place: str | Location, node: Node) -> Chunks:
    """Open the array at `place`, whose metadata is `node`."""
    return FolderChunks(place) if isinstance(place, str) else FetchedChunks(place, node)


class FolderChunks:
    """The array in a folder."""

    def __init__(self, folder: str | Path) -> None:
        self._folder = str(folder)
        self._array, note = open_stored(Path(folder))
        # zarrs does not notice a chunk that is too long or too short if it reads a part of it, so it reads whole ones
        self._fast = with_zarrs(self._array)
        self.dtype = self._array.dtype
        self.notes = (note,) if note else ()

    @property
    def received(self) -> None:
        """Return None: nothing comes from a server."""
        return None

    @property
    def requests(self) -> int:
        """Return 0."""
        return 0

    def side(self, dimension: int) -> int:
        """Return the length of a chunk."""
        return int(self._array.chunks[dimension])

    def read(self, index: Index) -> np.ndarray:
        """Read what the array holds at `index`; where no chunk is stored, its fill value."""
        spans = _spans(index)
        places = list(product(*touched(spans, self._array.shards or self._array.chunks)))
        keys = [self._array.metadata.encode_chunk_key(place) for place in places]
        stored = [key for key in keys if self._is_stored(key)]
        whole = not any(s.start % side or s.stop % side for s, side in zip(spans, self._array.chunks, strict=True))
        array = self._fast if self._fast is not None and whole else self._array
        try:
            pixels = np.asarray(array[spans])
            # zarr takes chunks that vanish meanwhile for background, too
            for key in stored:
                if not self._is_stored(key):
                    raise ValueError(f"{key} vanished while it was read")
            return _without_integers(pixels, index)
        except MemoryError:
            raise
        except Exception as error:  # each codec has its own errors, which do not name the chunk
            reason = str(error)
        # outside the handler, which keeps decoded data alive, as do reference cycles of zarr's tasks
        gc.collect()
        raise ValueError(self._damage(places) or reason)

    def announce(self, index: Index) -> None:
        """Do nothing: it lies on a disk."""

    def _damage(self, places: list[tuple[int, ...]]) -> str:
        """Return which of the stored objects is damaged and why; empty if each by itself is not."""
        sides = self._array.shards or self._array.chunks
        for place in places:
            try:
                self._array[tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, sides, strict=True))]
            except Exception as error:
                return f"{self._array.metadata.encode_chunk_key(place)}: {error}"
        return ""

    def decoded_bytes(self, index: Index) -> int:
        """Return the size of the chunks (not the shards) that `index` touches, once decoded."""
        return _decoded_bytes(self._array, index)

    def close(self) -> None:
        """Keep nothing."""

    def _is_stored(self, key: str) -> bool:
        """Return whether `key` is a file, False if it is missing; anything else is an error."""
        try:
            found = os.stat(f"{self._folder}/{key}")
        except (FileNotFoundError, NotADirectoryError):
            path = Path(self._folder)
            for name in key.split("/"):
                if not path.is_dir():
                    raise ValueError(f"{path.relative_to(self._folder)} is no folder of chunks") from None
                path /= name
                if not os.path.lexists(path):
                    return False
            raise ValueError(f"{key} is not a file that can be read") from None
        if not stat.S_ISREG(found.st_mode) or not found.st_size:
            raise ValueError(f"{key} is {'an empty file' if stat.S_ISREG(found.st_mode) else 'not a file'}")
        return True


class FetchedChunks:
    """The array on a server."""

    def __init__(self, place: Location, node: Node) -> None:
        self._fetched = FetchedArray(place, node)
        self.dtype, self.notes = self._fetched.array.dtype, self._fetched.notes

    @property
    def received(self) -> int | None:
        """Return how many bytes came from the server."""
        return self._fetched.store.bytes_read

    @property
    def requests(self) -> int:
        """Return how many requests were sent."""
        return self._fetched.store.requests

    def side(self, dimension: int) -> int:
        """Return the length of a chunk."""
        return int(self._fetched.array.chunks[dimension])

    def read(self, index: Index) -> np.ndarray:
        """Read what the array holds at `index`."""
        return _without_integers(self._fetched.read(_spans(index)), index)

    def announce(self, index: Index) -> None:
        """Begin to fetch it."""
        self._fetched.announce(_spans(index))

    def decoded_bytes(self, index: Index) -> int:
        """Return the size of the chunks that `index` touches."""
        return _decoded_bytes(self._fetched.array, index)

    def close(self) -> None:
        """Forget what is kept."""
        self._fetched.close()


def _spans(index: Index) -> tuple[slice, ...]:
    """Return `index` without integers."""
    return tuple(slice(at, at + 1) if isinstance(at, int) else at for at in index)


def _without_integers(pixels: np.ndarray, index: Index) -> np.ndarray:
    """Return what was read at the spans of `index` without the dimensions of its integers."""
    return pixels[tuple(0 if isinstance(at, int) else slice(None) for at in index)]


def _decoded_bytes(array: zarr.Array, index: Index) -> int:
    chunks = math.prod(len(places) for places in touched(_spans(index), array.chunks))
    return chunks * math.prod(array.chunks) * array.dtype.itemsize
