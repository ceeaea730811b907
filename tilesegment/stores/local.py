"""Objects as files below a folder."""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tilesegment.files import make_folder, sync, temporary_name, write_atomically
from tilesegment.stores.store import Entry


class LocalStore:
    """The files below the folder `place`, which is made when it is first written to."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.requests = self.bytes_read = 0
        self._lock = threading.Lock()

    def get(self, key: str) -> bytes:
        """Return the content of a file."""
        with _missing(self._file(key)) as path:
            content = path.read_bytes()
        self._count(1, len(content))
        return content

    def get_ranges(self, key: str, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of each span."""
        with _missing(self._file(key)) as path, path.open("rb") as file:
            parts = [os.pread(file.fileno(), stop - start, start) for start, stop in spans]
        self._count(1, sum(map(len, parts)))
        return parts

    def get_end(self, key: str, size: int) -> bytes:
        """Return the last bytes of a file."""
        with _missing(self._file(key)) as path, path.open("rb") as file:
            start = max(os.fstat(file.fileno()).st_size - size, 0)
            content = os.pread(file.fileno(), size, start)
        self._count(1, len(content))
        return content

    def head(self, key: str) -> Entry:
        """Return what is known of a file."""
        self._count(1, 0)
        with _missing(self._file(key)) as path:
            return _entry(key, path.stat())

    def put(self, key: str, data: bytes) -> None:
        """Write a file atomically."""
        write_atomically(self._made(key), data)
        self._count(1, 0)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """Write a file atomically unless there is one."""
        path = self._made(key)
        temporary = temporary_name(path)
        self._count(1, 0)
        try:
            temporary.write_bytes(data)
            sync(temporary)
            os.link(temporary, path)  # unlike a renamed file, a link does not replace what is there
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
        sync(path.parent)
        return True

    def delete(self, keys: Iterable[str]) -> None:
        """Delete files."""
        for key in keys:
            self._count(1, 0)
            self._file(key).unlink(missing_ok=True)

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Return the names of the folders directly in `prefix`."""
        self._count(1, 0)
        folder = self.place / prefix
        return sorted(one.name for one in folder.iterdir() if one.is_dir()) if folder.is_dir() else []

    def list(self, prefix: str = "") -> Iterator[Entry]:
        """Yield the files in the folder `prefix`, without those that are being written."""
        self._count(1, 0)
        for folder, _, names in os.walk(self.place / prefix):
            for name in names:
                path = Path(folder, name)
                if not (name.startswith(".") and name.endswith(".partial")):
                    try:
                        yield _entry(path.relative_to(self.place).as_posix(), path.stat())
                    except FileNotFoundError:  # deleted meanwhile
                        continue

    def _file(self, key: str) -> Path:
        path = self.place / key
        assert ".." not in Path(key).parts, f"{key} leads upwards"
        return path

    def _made(self, key: str) -> Path:
        """Return the path of a file whose folder is there."""
        path = self._file(key)
        if not self.place.is_dir():
            self.place.mkdir(parents=True, exist_ok=True)
        make_folder(path.parent, self.place)
        return path

    def _count(self, requests: int, size: int) -> None:
        with self._lock:
            self.requests += requests
            self.bytes_read += size


@contextmanager
def _missing(path: Path) -> Iterator[Path]:
    """Take for missing, as a server does, what lies below a file, and a folder."""
    try:
        if path.is_dir():
            raise FileNotFoundError(f"{path} does not exist as an object: it is a folder")
        yield path
    except NotADirectoryError as error:
        raise FileNotFoundError(f"{path} does not exist") from error


def _entry(key: str, state: os.stat_result) -> Entry:
    return Entry(key, state.st_size, f"{state.st_mtime_ns}-{state.st_ino}-{state.st_size}")
