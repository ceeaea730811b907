"""The bytes of a file by ranges, on a disk or on a server."""

import io
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeAlias

from tilesegment.errors import ImageError
from tilesegment.stores import Location, store_at

Span: TypeAlias = tuple[int, int]  # half-open

_PAGE = 1 << 17  # bytes that are fetched for headers, at least
_MOST_PAGES = 256
_MOST_COMING = 256 << 20  # bytes that are on their way
_ANNOUNCED = 3  # blocks whose bytes are fetched at a time
_MOST_WHOLE = 256 << 20  # bytes of a file that is fetched whole from a server without ranges


class ByteRanges(Protocol):
    """The bytes of an open file."""

    def fetch(self, spans: Sequence[Span]) -> Callable[[Span], bytes]:
        """Return a function that gives the bytes of each of `spans`, in any thread.

        Raises:
            OSError: they cannot be read; the function that is returned raises it, too.
        """

    def announce(self, spans: Sequence[Span]) -> None:
        """Begin to fetch what lies on a server: `spans` are asked for soon, together or apart."""


class DiskFile:
    """A file on a disk, which reads each span when its bytes are asked for."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def fetch(self, spans: Sequence[Span]) -> Callable[[Span], bytes]:
        """Return a function that reads."""
        return lambda span: os.pread(self._handle, span[1] - span[0], span[0])

    def announce(self, spans: Sequence[Span]) -> None:
        """Do nothing: a disk needs no time ahead."""


class RemoteFile(io.RawIOBase):
    """A file on a server; as a stream it keeps the pages that were read, for headers.

    Attributes:
        place: its location.
        name: its URL.
        size: in bytes.

    Raises:
        FileNotFoundError: there is no such object.
        OSError: it cannot be read.
    """

    def __init__(self, place: Location) -> None:
        super().__init__()
        self.place, self.name = place, str(place)
        self._store, self._key = store_at(place.parent), place.name
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._whole: bytes | None = None
        self._position = 0
        self._coming: dict[Span, Future[dict[Span, bytes]]] = {}
        self._pool, self._lock = ThreadPoolExecutor(_ANNOUNCED, "fetch"), threading.Lock()
        try:
            (self._pages[0],) = self._store.get_ranges(self._key, [(0, _PAGE)])
        except io.UnsupportedOperation:
            self._read_whole()
        self.size = len(self._pages[0])
        if self._whole is None and self.size == _PAGE:
            self.size = self._store.head(self._key).size

    @property
    def received(self) -> int:
        """How many bytes came from the server."""
        return self._store.bytes_read

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return self._store.requests

    def close(self) -> None:
        """Fetch nothing more."""
        self._pool.shutdown(cancel_futures=True)
        super().close()

    def content(self) -> bytes:
        """Return all of the file."""
        return self._store.get(self._key) if self._whole is None else self._whole

    def fetch(self, spans: Sequence[Span]) -> Callable[[Span], bytes]:
        """Fetch all spans together; return a function that gives their bytes."""
        if self._whole is not None:
            whole = self._whole
            return lambda span: whole[slice(*span)]
        with self._lock:
            coming = {span: self._coming.pop(span) for span in spans if span in self._coming}
        parts = self._fetch([span for span in spans if span not in coming])
        for one in set(coming.values()):
            parts |= one.result()
        return parts.__getitem__

    def announce(self, spans: Sequence[Span]) -> None:
        """Begin to fetch spans together; nothing if many are on their way already."""
        with self._lock:
            new = [span for span in spans if span not in self._coming]
            if self._whole is None and new and sum(b - a for a, b in (*self._coming, *new)) <= _MOST_COMING:
                self._coming |= dict.fromkeys(new, self._pool.submit(self._fetch, new))

    def _fetch(self, spans: Sequence[Span]) -> dict[Span, bytes]:
        """Fetch spans together."""
        parts = dict(zip(spans, self._store.get_ranges(self._key, spans), strict=True))
        for (start, stop), part in parts.items():
            if len(part) != stop - start:
                raise ValueError(f"it ends at byte {start + len(part)}, before byte {stop}: it is truncated")
        return parts

    def _read_whole(self) -> None:
        """Read a file of a server without ranges, if it is small."""
        size = self._store.head(self._key).size
        if size > _MOST_WHOLE:
            raise ImageError(
                f"{self.name} has {size / 2**20:,.0f} MiB, and its server only sends whole files (it ignores ranges): "
                "download it, or serve it from one that knows ranges, as nginx or an object store"
            )
        self._whole = self._pages[0] = self._store.get(self._key)

    # a stream, as libraries read headers

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move the position; nothing is read."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Read from the position on, up to the end of the file."""
        start, view = self._position, memoryview(buffer).cast("B")
        stop = min(start + len(view), self.size)
        if stop <= start:
            return 0
        data = self._between(start, stop)
        view[: len(data)] = data
        self._position = start + len(data)
        return len(data)

    def _between(self, start: int, stop: int) -> bytes:
        if self._whole is not None:
            return self._whole[start:stop]
        numbers = range(start // _PAGE, -(-stop // _PAGE))
        missing = [number for number in numbers if number not in self._pages]
        spans = [(number * _PAGE, min((number + 1) * _PAGE, self.size)) for number in missing]
        fetched = self.fetch(spans) if spans else None
        pages = {n: fetched(span) for n, span in zip(missing, spans, strict=True)} if fetched else {}
        pages |= {number: self._pages[number] for number in numbers if number in self._pages}
        self._pages |= pages
        while len(self._pages) > _MOST_PAGES:
            self._pages.popitem(last=False)
        joined = b"".join(pages[number] for number in numbers)
        return joined[start - numbers[0] * _PAGE : stop - numbers[0] * _PAGE]
