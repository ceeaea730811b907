"""Files replaced whole or not at all, temporary names, syncing and locks.

All files are replaced through here: whatever fails or is killed, a reader finds the old file or the new one.
Failures are left as OSError for the caller to explain.
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE = 1.0  # seconds to wait for a lock: beginning or ending a mask takes a moment, writing blocks takes long
_PAUSE = 0.05  # seconds
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of some network file systems


def temporary_name(path: Path) -> Path:
    """Return a hidden name beside `path` that no other process uses, on any host; see `sweep`."""
    return path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")


@contextmanager
def replacing(*paths: Path, durable: bool = True) -> Iterator[tuple[Path, ...]]:
    """Yield a temporary name for each of `paths`, to be written there; then sync them and rename them into place.

    If the body or a write fails, the temporary files are deleted and what stood at `paths` stays. Without `durable`
    they are not synced: a loss of power may leave a damaged file, but no killed process does.

    Raises:
        OSError: a file cannot be written.
    """
    temporaries = tuple(temporary_name(path) for path in paths)
    try:
        yield temporaries
        for temporary in temporaries if durable else ():
            sync(temporary)
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
    except BaseException:
        for temporary in temporaries:
            if os.path.lexists(temporary):
                with suppress(OSError):  # the error that is under way says more
                    temporary.unlink()
        raise
    for folder in {path.parent for path in paths} if durable else ():
        sync(folder)


def write_atomically(path: Path, content: bytes, *, durable: bool = True) -> None:
    """Write a file whole or not at all; `durable` as in `replacing`.

    Raises:
        OSError: it cannot be written; an existing file is left as it is.
    """
    with replacing(path, durable=durable) as (temporary,):
        temporary.write_bytes(content)


def write_files(files: Mapping[Path, bytes]) -> None:
    """Write several files as `write_atomically` does; none is replaced before all are on the disk."""
    with replacing(*files) as temporaries:
        for temporary, content in zip(temporaries, files.values(), strict=True):
            temporary.write_bytes(content)


def sync(path: Path) -> None:
    """Make a file, or the names in a folder, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that cannot sync a folder
            raise
    finally:
        os.close(handle)


def make_folder(path: Path, root: Path) -> None:
    """Make the folder `path` below `root`, durably.

    Raises:
        FileNotFoundError: there is no `root`.
    """
    if path != root and not path.is_dir():
        make_folder(path.parent, root)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sweep(path: Path) -> None:
    """Delete what killed processes left under temporary names of `path`."""
    left = re.compile(rf"\.{re.escape(path.name)}\.[0-9a-f]{{16}}\.partial")
    for found in [entry for entry in path.parent.iterdir() if left.fullmatch(entry.name)]:
        _delete(found)


def sweep_inside(folder: Path) -> None:
    """Delete what killed processes left under temporary names in `folder`, at any depth."""
    for found in list(folder.rglob("*.partial")):
        _delete(found)


def delete_folder(folder: Path, path: Path) -> None:
    """Delete a folder so that it is gone at once: what an interruption leaves has a temporary name of `path`.

    Raises:
        OSError: it cannot be moved out of the way.
    """
    aside = temporary_name(path)
    os.replace(folder, aside)
    _delete(aside)


def _delete(path: Path) -> None:
    # a temporary name is in no one's way: what cannot be deleted is left to the next run
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


# filelock offers shared claims only through an SQLite database, creates the file that it locks, and does not notice
# that this file was renamed or replaced in the meantime
@contextmanager
def locked(file: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Lock an existing file until the context or the process ends; yield whether `file` is still the file locked.

    It is not when another process has just replaced or renamed it, or its folder. On file systems without locks the
    body runs unlocked.

    Args:
        file: must be writable, as network file systems lock nothing else.
        shared: others may hold it at the same time, if they share it too.
        wait: as long as it takes, not about a second.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be locked.
    """
    try:
        opened = file.open("r+b", buffering=0)
    except FileNotFoundError:
        yield False
        return
    with opened as handle:
        try:
            _lock(handle.fileno(), fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
            yield _is_same(file, handle.fileno())
        finally:
            # closing is not enough: a process that was forked meanwhile has the handle too
            with _without_locks():
                fcntl.flock(handle, fcntl.LOCK_UN)


@contextmanager
def in_turn(file: Path | None) -> Iterator[None]:
    """Wait until no other process is in here with `file`, which may be replaced meanwhile, and keep others out.

    Where it cannot be locked, as in a read-only folder, or is None, the body runs unlocked.
    """
    while True:
        if file is None or not os.access(file, os.R_OK | os.W_OK):
            yield
            return
        with locked(file, wait=True) as is_there:
            if is_there:
                yield
                return


def _lock(handle: int, kind: int, wait: bool) -> None:
    deadline = time.monotonic() + _PATIENCE
    with _without_locks():
        while True:
            try:
                return fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_PAUSE)


@contextmanager
def _without_locks() -> Iterator[None]:
    """Go on where the file system has no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


def _is_same(file: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False
