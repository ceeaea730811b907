"""Objects on a server through obstore: S3 and what speaks like it, Google Cloud, Azure, plain http.

obstore repeats what fails at once, or for minutes. Here requests are repeated after pauses, so that a connection may
be cut for ten seconds, and given up after half a minute.
"""

import io
import os
import threading
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from typing import Any, TypeVar

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import AzureStore, GCSStore, HTTPStore, S3Store

from tilesegment.errors import StoreError
from tilesegment.stores.faults import BEYOND_THE_END, explained, is_passing, is_without_ranges, status_of
from tilesegment.stores.location import Location
from tilesegment.stores.store import Entry, joined

PAUSES = (0.5, 3.0, 10.0)  # seconds before each repetition
_DEADLINE = 30.0  # seconds after which nothing is repeated
_STALLED = timedelta(seconds=8)  # without a byte of a reply
_UPLOAD = timedelta(seconds=30)  # until the reply to what is stored
_ENVIRONMENT = ("AWS_", "GOOGLE_", "AZURE_")

_T = TypeVar("_T")


class RemoteStore:
    """The objects below the key of a location."""

    def __init__(self, place: Location) -> None:
        self.place = place
        self.requests = self.bytes_read = 0
        self._lock = threading.Lock()
        self._reader, self._writer = clients_of(place)

    def get(self, key: str) -> bytes:
        """Return the content of an object."""
        content = self._ask(key, lambda path: bytes(obstore.get(self._reader, path).bytes()))
        self._count(0, len(content))
        return content

    def get_ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each span; spans that are close come in one request, up to ten of which run at once."""
        groups = joined(spans)
        parts = self._parts(key, groups) if groups else []
        self._count(0, sum(map(len, parts)))
        starts, found = [start for start, _ in groups], []
        for start, stop in spans:
            number = bisect_right(starts, start) - 1
            empty = stop <= start or number < 0
            found.append(b"" if empty else parts[number][start - starts[number] : stop - starts[number]])
        return found

    def _parts(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of spans, each with a request of its own."""

        def fetch(path: str) -> list[bytes]:
            starts, stops = zip(*spans, strict=True)
            parts = obstore.get_ranges(self._reader, path, starts=starts, ends=stops, coalesce=0)
            return [bytes(part) for part in parts]

        try:
            return self._ask(key, fetch, len(spans))
        except StoreError as error:
            if status_of(error.__cause__ or error) != BEYOND_THE_END:
                raise
        size = self.head(key).size  # that of a server which does not answer a span behind the end with nothing
        inside = [(start, stop) for start, stop in spans if start < size]
        parts = self._parts(key, inside) if len(inside) < len(spans) and inside else []
        return parts + [b""] * (len(spans) - len(parts))

    def get_end(self, key: str, size: int) -> bytes:
        """Return the last bytes of an object."""
        if self.place.scheme == "az" or not size:  # which has no ranges that count from the end
            whole = self.head(key).size
            return self.get_ranges(key, [(max(whole - size, 0), whole)])[0]
        options: Any = {"range": {"suffix": size}}
        content = self._ask(key, lambda path: bytes(obstore.get(self._reader, path, options=options).bytes()))
        self._count(0, len(content))
        return content

    def head(self, key: str) -> Entry:
        """Return what is known of an object."""
        return _entry(self._ask(key, lambda path: obstore.head(self._reader, path)), key)

    def put(self, key: str, data: bytes) -> None:
        """Store an object with one request."""
        self._ask(key, lambda path: obstore.put(self._writer, path, data, use_multipart=False))

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object with one request, unless there is one."""
        tries = 0

        def store(path: str) -> bool:
            nonlocal tries
            tries += 1
            try:
                obstore.put(self._writer, path, data, mode="create", use_multipart=False)
            except AlreadyExistsError:
                return False
            return True

        # the reply to an earlier try may be what was lost
        return self._ask(key, store) or (tries > 1 and self.get(key) == data)

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects, many with one request where the server can."""
        paths = [(self.place / key).key for key in keys]
        if paths:
            self._ask("", lambda _: obstore.delete(self._writer, paths))

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the folders directly in `prefix`."""
        self._check_listing()
        found = self._ask(prefix, lambda path: obstore.list_with_delimiter(self._reader, path or None))
        return sorted(name.rpartition("/")[2] for name in found["common_prefixes"])

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the objects in the folder `prefix`."""
        self._check_listing()
        start, pages, last = len(self.place.key) + bool(self.place.key), None, ""

        def next_page(path: str) -> Sequence[Mapping[str, Any]]:
            nonlocal pages
            try:
                # after a failure a listing begins again behind what it gave
                pages = pages or iter(obstore.list(self._reader, path or None, offset=last or None, chunk_size=1000))
                return next(pages, ())
            except BaseException:
                pages = None
                raise

        while page := self._ask(prefix, next_page):
            for meta in page:
                yield _entry(meta, meta["path"][start:])
            last = page[-1]["path"]

    def _ask(self, key: str, request: Callable[[str], _T], requests: int = 1) -> _T:
        """Return what `request` returns for the whole key; repeat it where its failure may pass."""
        place, begun, pauses = self.place / key, time.monotonic(), iter(PAUSES)
        while True:
            self._count(requests, 0)
            try:
                return request(place.key)
            except (BaseError, OSError, ValueError) as error:
                if is_without_ranges(error):
                    raise io.UnsupportedOperation(f"{place} is on a server that only sends whole files") from error
                pause = next(pauses, None) if is_passing(error) else None
                waited = time.monotonic() - begun
                if pause is None or waited + pause > _DEADLINE:
                    raise explained(error, place, waited) from error
            time.sleep(pause)

    def _check_listing(self) -> None:
        if self.place.scheme.startswith("http"):
            raise io.UnsupportedOperation(f"{self.place} cannot be listed: plain http has no listing")

    def _count(self, requests: int, size: int) -> None:
        with self._lock:
            self.requests += requests
            self.bytes_read += size


def _entry(meta: Mapping[str, Any], key: str) -> Entry:
    return Entry(key, meta["size"], meta["e_tag"] or meta["version"] or meta["last_modified"].isoformat())


def clients_of(place: Location) -> tuple[Any, Any]:
    """Return obstore's clients of a bucket, container or host, to read and to write with; shared, with connections."""
    environment = tuple(sorted(item for item in os.environ.items() if item[0].startswith(_ENVIRONMENT)))
    try:
        return _clients(place.scheme, place.root, place.options, environment, os.getpid())
    except (BaseError, ValueError) as error:
        raise explained(error, place, 0.0) from error


@lru_cache(maxsize=32)
def _clients(scheme: str, root: str, options: tuple[tuple[str, str], ...], _: object, __: int) -> tuple[Any, Any]:
    """Open the clients; what else they depend on, environment and process, only tells them apart."""
    return _client(scheme, root, dict(options), _STALLED), _client(scheme, root, dict(options), _UPLOAD)


def _client(scheme: str, root: str, options: dict[str, str], patience: timedelta) -> Any:
    # a request may take as long as it needs, if only bytes come
    client: Any = {"allow_http": True, "read_timeout": patience, "timeout": timedelta(hours=1)}
    common: Any = {"client_options": client, "retry_config": {"max_retries": 0}}
    if scheme.startswith("http"):
        return HTTPStore(f"{scheme}://{root}", **common)
    if options.get("anonymous") == "true":
        common["skip_signature"] = True
    endpoint = options.get("endpoint")
    if scheme == "s3":
        named = {"endpoint": endpoint, "region": options.get("region")}
        return S3Store(root, **common, **_given(named))
    if scheme == "gs":
        return GCSStore(root, **common, **_given({"base_url": endpoint}))
    assert scheme == "az"
    if not options.get("account") and not os.environ.get("AZURE_STORAGE_ACCOUNT_NAME"):
        raise StoreError(
            f"az://{root} needs the name of its storage account: set AZURE_STORAGE_ACCOUNT_NAME, or give "
            "--store-option account=NAME"
        )
    return AzureStore(root, **common, **_given({"endpoint": endpoint, "account_name": options.get("account")}))


def _given(options: Mapping[str, str | None]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}
