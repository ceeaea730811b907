"""Objects in the memory of this process: memory://NAME is the same store wherever it is opened."""

import threading
from collections.abc import Iterable, Iterator, Sequence

from tilesegment.stores.location import Location
from tilesegment.stores.store import Entry

_STORES: dict[str, dict[str, tuple[bytes, int]]] = {}  # by name: contents, and how often each was replaced
_LOCK = threading.Lock()


class MemoryStore:
    """The objects of memory://NAME below a key."""

    def __init__(self, place: Location) -> None:
        self.place = place
        self.requests = self.bytes_read = 0
        with _LOCK:
            self._objects = _STORES.setdefault(place.root, {})

    def get(self, key: str) -> bytes:
        """Return the content of an object."""
        with _LOCK:
            content, _ = self._found(key)
            self.bytes_read += len(content)
        return content

    def get_ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each span."""
        with _LOCK:
            content, _ = self._found(key)
            parts = [content[start:stop] for start, stop in spans]
            self.bytes_read += sum(map(len, parts))
        return parts

    def get_end(self, key: str, size: int) -> bytes:
        """Return the last bytes of an object."""
        with _LOCK:
            content, _ = self._found(key)
            content = content[-size:] if size else b""
            self.bytes_read += len(content)
        return content

    def head(self, key: str) -> Entry:
        """Return what is known of an object."""
        with _LOCK:
            content, version = self._found(key)
        return Entry(key, len(content), str(version))

    def put(self, key: str, data: bytes) -> None:
        """Store an object."""
        with _LOCK:
            self._put(key, data)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object unless there is one."""
        with _LOCK:
            if self._whole(key) in self._objects:
                self.requests += 1
                return False
            self._put(key, data)
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects."""
        with _LOCK:
            for key in keys:
                self.requests += 1
                self._objects.pop(self._whole(key), None)

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the folders directly in `prefix`."""
        start = len(prefix.strip("/")) + 1 if prefix else 0
        parts = [entry.key[start:].split("/") for entry in self.list(prefix)]
        return sorted({names[0] for names in parts if len(names) > 1})

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the objects in the folder `prefix`."""
        folder = self._whole(prefix)
        start, skipped = folder + "/" if folder else "", len(self._whole("")) + bool(self.place.key)
        with _LOCK:
            self.requests += 1
            found = [(key, one) for key, one in self._objects.items() if key.startswith(start)]
        yield from (Entry(key[skipped:], len(content), str(version)) for key, (content, version) in found)

    def _whole(self, key: str) -> str:
        return (self.place / key).key

    def _found(self, key: str) -> tuple[bytes, int]:
        self.requests += 1
        try:
            return self._objects[self._whole(key)]
        except KeyError:
            raise FileNotFoundError(f"{self.place / key} does not exist") from None

    def _put(self, key: str, data: bytes) -> None:
        self.requests += 1
        _, version = self._objects.get(self._whole(key), (b"", 0))
        self._objects[self._whole(key)] = bytes(data), version + 1
