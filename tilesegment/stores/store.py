"""The store: objects by key below one place, the same on a disk, in memory and on a server."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from tilesegment.stores.location import Place

_APART = 1 << 15  # bytes: spans that are closer come in one request


@dataclass(frozen=True)
class Entry:
    """A stored object: its key below the place of the store, size in bytes, and a tag that every change changes."""

    key: str
    size: int
    tag: str


class Store(Protocol):
    """Objects by key below `place`; safe in several threads.

    A key is made of names and slashes between them. An object is replaced whole or not at all. A missing object raises
    FileNotFoundError; whatever else fails raises another OSError that says it in one line.

    Attributes:
        requests: sent so far, repeated ones included; of files opened on a disk.
        bytes_read: of the contents that were read so far.
    """

    requests: int
    bytes_read: int

    @property
    def place(self) -> Place:
        """Where the objects are."""

    def get(self, key: str) -> bytes:
        """Return the content of an object."""

    def get_ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes [start, stop) of an object, for each span; fewer where the object ends before.

        Raises:
            UnsupportedOperation: the server only sends whole objects.
        """

    def get_end(self, key: str, size: int) -> bytes:
        """Return the last `size` bytes of an object, or all of a shorter one; raises as `get_ranges`."""

    def head(self, key: str) -> Entry:
        """Return what is known of an object without reading it."""

    def put(self, key: str, data: bytes) -> None:
        """Store an object, in place of what is there."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Store an object unless there is one; return False if there was. Of racing writers one wins.

        After a lost reply the object is read: equal `data` count as ours, so those of other writers must differ.
        """

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the folders directly in the folder `prefix`, sorted; raises as `list`."""

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects; missing ones are no error."""

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the objects in the folder `prefix`, at any depth, in any order; none if there is no such folder.

        Servers list 1,000 with a request, which is sent when the first of them is needed.

        Raises:
            UnsupportedOperation: the server cannot list, as most of http.
        """


def joined(spans: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans that are not empty, sorted, those that are close as one."""
    found: list[tuple[int, int]] = []
    for start, stop in sorted(span for span in spans if span[1] > span[0]):
        if found and start <= found[-1][1] + _APART:
            found[-1] = found[-1][0], max(found[-1][1], stop)
        else:
            found.append((start, stop))
    return found
