"""One level of a mask in an object store: one block is one PUT, which is atomic, and a present object is a done block.

Until the mask is finished its array has no metadata there, so that no reader takes it for an array.
"""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import zarr
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from tilesegment.errors import MaskError, one_line
from tilesegment.geometry import Region
from tilesegment.masks.blocks import DAMAGED, BlockArray, Survey, check_array, object_counts, reporting, survey_of
from tilesegment.masks.encoding import array_documents, is_chunk, is_index, metadata_name, tail_bytes
from tilesegment.masks.spec import Grid
from tilesegment.stores import Entry, Location, Store, store_at

_AT_ONCE = 8  # requests
_HEAD = 16  # bytes of a chunk that are looked at
_Given = TypeVar("_Given")
_Found = TypeVar("_Found")


def in_parallel(function: Callable[[_Given], _Found], given: Iterable[_Given]) -> list[_Found]:
    """Return `function` of each, several at a time: requests take time, not work."""
    given = list(given)
    if len(given) == 1:
        return [function(given[0])]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(function, given))


@dataclass(frozen=True)
class RemoteArray(BlockArray):
    """An array of objects below `path`; `documents` are its metadata, stored or still to be stored.

    `check` raises a MaskError when the mask is not in progress any more: called before a block is stored.
    """

    path: Location
    documents: Mapping[str, bytes]
    check: Callable[[], None]

    def survey(self, *, deep: bool = False) -> Survey:
        counts, store = object_counts(self.path, self.grid), store_at(self.path)
        whole, damaged = np.zeros(counts, bool), list[tuple[tuple[int, ...], Location]]()
        with reporting("look through", self.path):
            found = [(place, one) for one in store.list(self.grid.root) if (place := self._place(one, counts))]
            are_whole = in_parallel(lambda item: self._is_whole(store, item[1], deep), found)
        for (place, entry), is_whole in zip(found, are_whole, strict=True):
            whole[place] = is_whole
            if not is_whole:
                damaged.append((place, self.path / entry.key))
        return survey_of(self.grid, whole, damaged)

    def _place(self, entry: Entry, counts: tuple[int, ...]) -> tuple[int, ...] | None:
        """Return the place of an object in the array; None for others."""
        parts = entry.key.split("/")[bool(self.grid.root) :]
        if len(parts) != len(counts) or not all(part.isdecimal() and part.isascii() for part in parts):
            return None
        place = tuple(map(int, parts))
        return place if all(number < count for number, count in zip(place, counts, strict=True)) else None

    def _is_whole(self, store: Store, entry: Entry, deep: bool) -> bool:
        """Return whether an object has the size it must have at least; `deep`, the length that it states."""
        size, tail = entry.size, tail_bytes(self.grid) if self.grid.format == 3 else 0
        if size <= max(tail, _HEAD) or not deep:
            return size > max(tail, _HEAD)
        try:
            (part,) = store.get_ranges(entry.key, [(size - tail, size) if tail else (0, _HEAD)])
        except FileNotFoundError:  # another process has just removed the mask
            return False
        return is_index(part, size - tail) if tail else is_chunk(part, size, self.grid)

    def _store(self, objects: Mapping[str, bytes]) -> None:
        self.check()
        store = store_at(self.path)
        in_parallel(lambda item: store.put(*item), objects.items())

    def _array_of(self, region: Region, z: int) -> zarr.Array:
        store = store_at(self.path)

        def fetch(key: str) -> tuple[str, bytes]:
            try:
                content = store.get(key)
            except FileNotFoundError:
                content = b""
            if not content:
                raise MaskError(f"{self.path / key} is missing or empty; {DAMAGED}")
            return key, content

        with reporting("read", self.path):
            fetched = in_parallel(fetch, self.grid.keys(region, z))
        return _in_memory({**self.documents, **dict(fetched)}, self.grid)


def begun_array(path: Location, grid: Grid, check: Callable[[], None]) -> RemoteArray:
    """Return the array at `path` of a mask in progress."""
    return RemoteArray(path, grid, array_documents(grid), check)


def finished_array(path: Location, grid: Grid) -> RemoteArray:
    """Open the array at `path` of a finished mask, which must be cut as `grid` says.

    Raises:
        MaskError: it is not, or there is none.
    """
    name = metadata_name(grid)
    try:
        document = store_at(path).get(name)
        check_array(_in_memory({name: document}, grid), path, grid)
    except MaskError:
        raise
    except FileNotFoundError as error:
        raise MaskError(f"the array {path} is missing; compute the mask again") from error
    except OSError:
        raise
    except Exception as error:  # zarr has a dozen ways to refuse metadata
        raise MaskError(f"cannot open the array {path}: {one_line(error, 200)}; compute the mask again") from error
    return RemoteArray(path, grid, {name: document}, _refuse)


def _refuse() -> None:
    raise AssertionError("a finished mask is not written to")


def _in_memory(objects: Mapping[str, bytes], grid: Grid) -> zarr.Array:
    files = {key: cpu.Buffer.from_bytes(content) for key, content in objects.items()}
    return zarr.open_array(MemoryStore(files), mode="r", zarr_format=grid.format)  # type: ignore[arg-type]
