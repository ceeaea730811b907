"""Zarr arrays on a server: what a read needs is fetched at once, then decoded from memory.

A library fetches chunk by chunk, and the index of a shard once for each of them: with 20 ms to the server that takes
most of the time. Here the chunks that a read touches are found first, by the indexes of their shards, which are kept;
then all of them are fetched together, each once, and decoded as the chunks of an array without shards.
"""

import io
import math
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from typing import Any, TypeAlias

import numpy as np
import zarr
from google_crc32c import value as crc32c
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec
from zarr.core.array import AsyncArray
from zarr.core.buffer import cpu
from zarr.core.chunk_grids import RegularChunkGrid
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding
from zarr.core.metadata import ArrayV3Metadata
from zarr.storage import MemoryStore, StorePath

from tilesegment.errors import DeniedError
from tilesegment.ome_zarr.arrays import settled
from tilesegment.ome_zarr.node import Node
from tilesegment.stores import Location, joined, store_at

CONNECTIONS = 16  # objects that are fetched at a time
_MOST_INDEXES = 64 << 20  # bytes of the indexes that are kept
_MOST_COMING = 256 << 20  # bytes of the chunks that are on their way, once decoded
_WHOLE = 0.75  # share of a shard's chunks from which on it is fetched whole, which saves the request for its index
_ABSENT = 2**64 - 1

Place = tuple[int, ...]  # of a chunk or shard, counted in chunks or shards along each dimension
Span = tuple[int, int]  # of bytes in a shard
Coming: TypeAlias = dict[Place, Future[bytes | None]]  # chunks, None for those that are not stored


class FetchedArray:
    """The array at a location, opened for reading.

    Attributes:
        store: where it is; it counts requests and bytes.
        array: zarr's, for its metadata only: `shape`, `dtype`, `chunks`, `shards`.
        notes: on its chunks.
    """

    def __init__(self, place: Location, node: Node) -> None:
        self.store = store_at(place)
        self.array, note = self._opened(node)
        self.notes = (note,) if note else ()
        self._layout = _Shards.of(self.array)
        self._indexes: OrderedDict[str, np.ndarray] = OrderedDict()
        self._asking: dict[str, threading.Lock] = {}  # for indexes
        self._coming: Coming = {}
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(CONNECTIONS, "fetch")

    def close(self) -> None:
        """Forget what is kept."""
        self._pool.shutdown(cancel_futures=True)
        self._indexes.clear()
        self._coming.clear()

    def announce(self, spans: tuple[slice, ...]) -> None:
        """Begin to fetch the chunks within `spans`, for a read to come; nothing if many are on their way already."""
        with self._lock:
            chunks = [at for at in product(*touched(spans, self.array.chunks)) if at not in self._coming]
            size = math.prod(self.array.chunks) * self.array.dtype.itemsize
            if (len(self._coming) + len(chunks)) * size <= _MOST_COMING:
                self._coming |= self._begin(chunks)

    def read(self, spans: tuple[slice, ...]) -> np.ndarray:
        """Return what the array holds within `spans`; where the server has no chunk, the fill value.

        Raises:
            OSError: the server does not answer, or refuses.
            ValueError: a chunk is damaged; it is named.
        """
        chunks = list(product(*touched(spans, self.array.chunks)))
        contents = self._fetch(chunks)
        try:
            return self._decoded(contents, spans)
        except MemoryError:
            raise
        except Exception as error:  # each codec has its own errors, which do not name the chunk
            reason = str(error)
        for chunk in chunks:
            try:
                self._decoded(contents, tuple(slice(i * n, (i + 1) * n) for i, n in self._sides(chunk)))
            except Exception as error:
                raise ValueError(f"{self._name(chunk)}: {error}") from error
        raise ValueError(reason)

    def _fetch(self, chunks: Sequence[Place]) -> dict[Place, bytes]:
        """Return the stored ones of `chunks`, each fetched once; some may be on their way."""
        with self._lock:
            coming = {chunk: self._coming.pop(chunk) for chunk in chunks if chunk in self._coming}
        coming |= self._begin([chunk for chunk in chunks if chunk not in coming])
        found = {chunk: one.result() for chunk, one in coming.items()}
        contents = {chunk: content for chunk, content in found.items() if content is not None}
        for chunk, content in contents.items():
            if not content:  # to zarr this is a missing one
                raise ValueError(f"{self._name(chunk)} is empty")
        return contents

    def _begin(self, chunks: Sequence[Place]) -> Coming:
        """Begin to fetch chunks, one request of one thread for all that lie close to each other."""
        coming: Coming = {chunk: Future() for chunk in chunks}
        if self._layout is None:
            for chunk in chunks:
                self._submit({chunk: coming[chunk]}, partial(self._fetch_alone, chunk))
            return coming
        shards: dict[Place, Coming] = {}
        for chunk in chunks:
            shards.setdefault(self._layout.shard_of(chunk), {})[chunk] = coming[chunk]
        for shard, wanted in shards.items():
            self._submit(wanted, partial(self._begin_shard, shard, wanted))
        return coming

    def _submit(self, wanted: Coming, fetch: Callable[[], Mapping[Place, bytes | None]]) -> None:
        """Let a thread call `fetch`, which returns some of the chunks `wanted` and begins to fetch the others."""

        def work() -> None:
            try:
                for chunk, content in fetch().items():
                    wanted[chunk].set_result(content)
            except BaseException as error:
                for one in wanted.values():
                    if not one.done():
                        one.set_exception(error)

        self._pool.submit(work)

    def _fetch_alone(self, chunk: Place) -> dict[Place, bytes | None]:
        """Return a chunk that is an object of its own, if it is stored."""
        return {chunk: self._found(self._name(chunk))}

    def _begin_shard(self, shard: Place, wanted: Coming) -> dict[Place, bytes | None]:
        """Return those chunks of a shard that are not stored, or all if it comes whole; begin to fetch the others."""
        layout, key = self._layout, self.array.metadata.encode_chunk_key(shard)
        assert layout is not None
        content, index = self._content_and_index(shard, len(wanted))
        spans = {chunk: layout.span(index, chunk) if index.size else None for chunk in wanted}
        stored = {chunk: span for chunk, span in spans.items() if span is not None}
        found: dict[Place, bytes | None] = {chunk: None for chunk, span in spans.items() if span is None}
        if content is not None:
            return found | self._checked(key, stored, [content[start:stop] for start, stop in stored.values()])
        for group in _close(stored):
            self._submit({chunk: wanted[chunk] for chunk in group}, partial(self._fetch_ranges, key, group))
        return found

    def _fetch_ranges(self, key: str, spans: Mapping[Place, Span]) -> dict[Place, bytes | None]:
        """Return chunks of a shard that lie close to each other."""
        return self._checked(key, spans, self.store.get_ranges(key, list(spans.values())))

    def _content_and_index(self, shard: Place, count: int) -> tuple[bytes | None, np.ndarray]:
        """Return the index of a shard, empty if there is none, and all of it if it came, as for most of its chunks."""
        layout, key = self._layout, self.array.metadata.encode_chunk_key(shard)
        assert layout is not None
        content, index = None, self._kept(key)
        if index is None:
            with self._asking.setdefault(key, threading.Lock()):  # others may need it, too
                index = self._kept(key)
                if index is None:
                    is_most = count >= _WHOLE * layout.stored_in(shard, self.array)
                    content, index = self._whole(key) if is_most else self._index(key)
                    self._keep(key, index)
            self._asking.pop(key, None)
        return content, index

    def _checked(self, key: str, spans: Mapping[Place, Span], parts: Sequence[bytes]) -> dict[Place, bytes | None]:
        """Return the parts of a shard by their chunks.

        Raises:
            ValueError: one is too short.
        """
        for (chunk, (start, stop)), part in zip(spans.items(), parts, strict=True):
            if len(part) != stop - start:
                raise ValueError(f"{key} is truncated: chunk {chunk} has {len(part)} of {stop - start} bytes")
        return dict(zip(spans, parts, strict=True))

    def _whole(self, key: str) -> tuple[bytes | None, np.ndarray]:
        """Fetch a shard, None where there is none, and return its index, too."""
        layout, content = self._layout, self._found(key)
        assert layout is not None
        return content, np.empty(0) if content is None else layout.index_in(key, content)

    def _index(self, key: str) -> tuple[bytes | None, np.ndarray]:
        """Fetch the index of a shard, empty where there is no shard; of a server without ranges the content, too."""
        layout = self._layout
        assert layout is not None
        try:
            if layout.at_start:
                (stored,) = self.store.get_ranges(key, [(0, layout.index_bytes)])
            else:
                stored = self.store.get_end(key, layout.index_bytes)
            return None, layout.index_of(key, stored)
        except FileNotFoundError:
            return None, np.empty(0)
        except io.UnsupportedOperation:
            content = self.store.get(key)
            return content, layout.index_in(key, content)

    def _kept(self, key: str) -> np.ndarray | None:
        with self._lock:
            return self._indexes.get(key)

    def _keep(self, key: str, index: np.ndarray) -> None:
        with self._lock:
            self._indexes[key] = index
            while sum(one.nbytes for one in self._indexes.values()) > _MOST_INDEXES:
                self._indexes.popitem(last=False)

    def _decoded(self, contents: dict[Place, bytes], spans: tuple[slice, ...]) -> np.ndarray:
        """Decode the part of the array within `spans`, all of whose stored chunks are in `contents`."""
        metadata: Any = self.array.metadata if self._layout is None else self._layout.unsharded
        stored: dict[str, Any] = {
            metadata.encode_chunk_key(at): cpu.Buffer.from_bytes(data) for at, data in contents.items()
        }
        place = StorePath(MemoryStore(stored, read_only=True))
        array = zarr.Array(AsyncArray(metadata, place, config=self.array.async_array.config))
        return np.asarray(array[spans])

    def _found(self, key: str) -> bytes | None:
        """Return the content of an object; None only if the server says that there is none."""
        try:
            return self.store.get(key)
        except FileNotFoundError:
            return None

    def _name(self, chunk: Place) -> str:
        """Return the key of a chunk, or of the shard that holds it."""
        place = chunk if self._layout is None else self._layout.shard_of(chunk)
        return str(self.array.metadata.encode_chunk_key(place))

    def _sides(self, chunk: Place) -> Iterator[tuple[int, int]]:
        return zip(chunk, self.array.chunks, strict=True)

    def _opened(self, node: Node) -> tuple[zarr.Array, str]:
        stored: dict[str, Any] = {name: cpu.Buffer.from_bytes(content) for name, content in node.files.items()}
        array = zarr.open_array(MemoryStore(stored, read_only=True), mode="r")
        try:
            return settled(array, (one.key for one in self.store.list()), self.store.place)
        except (io.UnsupportedOperation, DeniedError):
            return settled(array, self._first_chunks(array), self.store.place, is_listed=False)

    def _first_chunks(self, array: zarr.Array) -> Iterator[str]:
        """Yield under which of all the names that it may have the first chunk is stored: one at most."""
        first = ["0"] * array.ndim
        names = (before + sign.join(first) for before, sign in (("c/", "/"), ("", "."), ("", "/"), ("c.", ".")))
        for name in dict.fromkeys([array.metadata.encode_chunk_key((0,) * array.ndim), *names]):
            try:
                self.store.head(name)
            except (FileNotFoundError, DeniedError):
                continue
            yield name
            return


@dataclass(frozen=True)
class _Shards:
    """How chunks lie in shards.

    Attributes:
        per_shard: how many chunks a shard has along each dimension.
        index_bytes: of a shard's index: offset and length of each chunk, row-major, and their checksum if it has one.
        at_start: whether the index is at the start of the shard, not at its end.
        is_checked: whether the index has a checksum.
        unsharded: metadata of the same array with each chunk as an object of its own.
    """

    per_shard: tuple[int, ...]
    index_bytes: int
    at_start: bool
    is_checked: bool
    unsharded: ArrayV3Metadata

    @classmethod
    def of(cls, array: zarr.Array) -> "_Shards | None":
        """Return the layout of the shards of an array; None if it has none."""
        metadata = array.metadata
        if array.shards is None or not isinstance(metadata, ArrayV3Metadata):
            return None
        (codec,) = metadata.codecs
        assert isinstance(codec, ShardingCodec)
        match codec.index_codecs:
            case (BytesCodec(), *rest) if all(isinstance(one, Crc32cCodec) for one in rest) and len(rest) < 2:
                is_checked = bool(rest)
            case _:
                raise ValueError("the index of its shards is compressed, or not little-endian")
        per_shard = tuple(s // c for s, c in zip(array.shards, array.chunks, strict=True))
        unsharded = replace(
            metadata,
            chunk_grid=RegularChunkGrid(chunk_shape=array.chunks),
            codecs=codec.codecs,
            chunk_key_encoding=DefaultChunkKeyEncoding(separator="/"),
        )
        size = 16 * math.prod(per_shard) + 4 * is_checked
        return cls(per_shard, size, codec.index_location.value == "start", is_checked, unsharded)

    def shard_of(self, chunk: Place) -> Place:
        """Return the shard that a chunk lies in."""
        return tuple(i // n for i, n in zip(chunk, self.per_shard, strict=True))

    def stored_in(self, shard: Place, array: zarr.Array) -> int:
        """Return how many chunks of a shard lie within the array."""
        counts = (-(-size // side) for size, side in zip(array.shape, array.chunks, strict=True))
        inside = (min(n, count - i * n) for i, n, count in zip(shard, self.per_shard, counts, strict=True))
        return math.prod(inside)

    def index_in(self, key: str, content: bytes) -> np.ndarray:
        """Return the index of a whole shard."""
        return self.index_of(key, content[: self.index_bytes] if self.at_start else content[-self.index_bytes :])

    def index_of(self, key: str, stored: bytes) -> np.ndarray:
        """Return offset and length of each chunk, (*per_shard, 2) uint64."""
        if len(stored) != self.index_bytes:
            raise ValueError(f"{key} is truncated: it has no whole index")
        entries = stored[: len(stored) - 4 * self.is_checked]
        if self.is_checked and crc32c(entries) != int.from_bytes(stored[-4:], "little"):
            raise ValueError(f"{key} is truncated or damaged: the checksum of its index is wrong")
        return np.frombuffer(entries, "<u8").reshape(*self.per_shard, 2)

    def span(self, index: np.ndarray, chunk: Place) -> Span | None:
        """Return where in the shard the bytes of a chunk lie; None if it is not stored."""
        start, size = map(int, index[tuple(i % n for i, n in zip(chunk, self.per_shard, strict=True))])
        return None if start == size == _ABSENT else (start, start + size)


def touched(spans: Iterable[slice], sides: Sequence[int]) -> list[range]:
    """Return, along each dimension, the numbers of the pieces of length `sides` that `spans` touch."""
    return [range(span.start // side, -(-span.stop // side)) for span, side in zip(spans, sides, strict=True)]


def _close(spans: Mapping[Place, Span]) -> list[dict[Place, Span]]:
    """Return the chunks of a shard in groups that each come in one request."""
    groups: list[dict[Place, Span]] = [{} for _ in joined(spans.values())]
    starts = [start for start, _ in joined(spans.values())]
    for chunk, span in spans.items():
        groups[bisect_right(starts, span[0]) - 1][chunk] = span
    return groups
