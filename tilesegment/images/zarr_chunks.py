"""The stored objects (chunks or shards) that an index of a Zarr array touches: looked at before zarr reads them.

Whatever lies where a chunk should and is none is damage, where zarr would take it for a missing chunk, that is for
background: an empty file, a folder, a link to what is not there.
"""

import gc
import math
import os
import stat
from itertools import product
from pathlib import Path

import numpy as np

from tilesegment.ome_zarr.keys import has_chunk
from tilesegment.ome_zarr.reading import declared, open_with_zarr, open_with_zarrs

Index = tuple[int | slice, ...]


class Chunks:
    """The array in a folder, read by index.

    Attributes:
        array: as zarr has it, its chunks under the names that they are stored under.
        notes: what a user should know of how it is stored, one sentence each.
    """

    def __init__(self, folder: Path) -> None:
        self.array = open_with_zarr(folder)
        self._folder = folder
        self.notes = self._said()
        # of a part of a chunk it does not notice that the chunk is too long or too short, so it is given whole ones
        self._whole = open_with_zarrs(folder)

    def _said(self) -> tuple[str, ...]:
        name = self.array.metadata.encode_chunk_key((0,) * self.array.ndim)
        if declared(self._folder).metadata != self.array.metadata:
            return (f"{self._folder} has chunks named as {name}, other than its metadata say: they are read as stored",)
        if not has_chunk(self._folder, self.array.metadata):
            return (f"{self._folder} stores no chunk: all its pixels are the fill value {self.array.fill_value}",)
        return ()

    def read(self, index: Index) -> np.ndarray:
        """What the array holds at `index`; where no chunk is stored, its fill value.

        Raises:
            ValueError: a stored object is damaged; it is named.
        """
        spans = _spans(index)
        places = list(product(*_touched(spans, self.array.shards or self.array.chunks)))
        keys = [self.array.metadata.encode_chunk_key(place) for place in places]
        there = [key for key in keys if _is_stored(self._folder, key)]
        array = self._whole if self._whole is not None and self._is_whole(spans) else self.array
        try:
            pixels = np.asarray(array[spans])
            # what vanishes in the meantime is background to zarr, too
            for key in there:
                if not _is_stored(self._folder, key):
                    raise ValueError(f"{key} vanished while it was read")
            return pixels[tuple(0 if isinstance(at, int) else slice(None) for at in index)]
        except MemoryError:
            raise
        except Exception as error:  # each codec has its own, which does not say where
            reason = str(error)
        # out of the handler, which holds on to all that was decoded; so do the tasks of zarr, in circles
        gc.collect()
        raise ValueError(self._damage(places) or reason)

    def _damage(self, places: list[tuple[int, ...]]) -> str:
        """Which of the stored objects is damaged and why; empty if each by itself is not."""
        stored = self.array.shards or self.array.chunks
        for place in places:
            try:
                self.array[tuple(slice(i * side, (i + 1) * side) for i, side in zip(place, stored, strict=True))]
            except Exception as error:
                return f"{self.array.metadata.encode_chunk_key(place)}: {error}"
        return ""

    def decoded_bytes(self, index: Index) -> int:
        """Bytes of the chunks (not the shards) that `index` touches, once decoded."""
        touched = math.prod(len(places) for places in _touched(_spans(index), self.array.chunks))
        return touched * math.prod(self.array.chunks) * self.array.dtype.itemsize

    def _is_whole(self, spans: tuple[slice, ...]) -> bool:
        return not any(
            span.start % side or span.stop % side for span, side in zip(spans, self.array.chunks, strict=True)
        )


def _spans(index: Index) -> tuple[slice, ...]:
    """`index` without integers."""
    return tuple(slice(at, at + 1) if isinstance(at, int) else at for at in index)


def _touched(spans: tuple[slice, ...], sides: tuple[int, ...]) -> list[range]:
    """Along each dimension, the numbers of the pieces of length `sides` that `spans` touch."""
    return [range(span.start // side, -(-span.stop // side)) for span, side in zip(spans, sides, strict=True)]


def _is_stored(root: Path, key: str) -> bool:
    """Whether `key` is a file; if not, it is nothing at all, in folders that there are.

    Raises:
        ValueError: it is something else, or an empty file.
    """
    try:
        found = os.stat(os.path.join(root, key))
    except (FileNotFoundError, NotADirectoryError):
        _check_missing(root, key)
        return False
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{key} is not a file that can be read")
    if not found.st_size:
        raise ValueError(f"{key} is an empty file")
    return True


def _check_missing(root: Path, key: str) -> None:
    path = root
    for name in key.split("/"):
        if not path.is_dir():
            raise ValueError(f"{path.relative_to(root)} is no folder of chunks")
        path /= name
        if not os.path.lexists(path):
            return
    raise ValueError(f"{key} is not a file that can be read")
