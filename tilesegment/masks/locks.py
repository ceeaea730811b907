"""Who may write a mask in progress: a lock on a file of it that is never replaced, which dies with the process.

Level 0's metadata is that file. A run holds it alone; the parts of one job share it. Where there are no such locks
(Windows, some network file systems) all goes on without: whoever writes a block writes the same, and in one piece.
"""

import errno
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tilesegment.errors import MaskError
from tilesegment.masks.disk import group_file, reporting

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_PATIENCE = 1.0  # seconds; who begins or ends a mask holds it for a moment, who writes blocks for long
_PAUSE = 0.05  # seconds
_UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def lock_file(folder: Path) -> Path | None:
    """The file of the mask in `folder` that is locked; None if there is none, or no mask."""
    found = [folder / "0" / name for name in ("zarr.json", ".zarray") if (folder / "0" / name).is_file()]
    return found[0] if found else None


def gone(folder: Path) -> MaskError:
    """The error of whoever goes on writing the mask in `folder`, which is not there any more."""
    return MaskError(f"{folder} is gone: the mask was finished or removed by another run; run it again to see which")


@contextmanager
def held(folder: Path, *, shared: bool = False, wait: bool = False) -> Iterator[bool]:
    """Holds the mask in `folder`, and yields whether it still is there: another process may have just renamed it.

    Args:
        folder: the mask.
        shared: whether others may hold it too, who share it.
        wait: until whoever has it lets go of it, however long that takes.

    Raises:
        MaskError: another process has it, or it cannot be locked.
    """
    file = lock_file(folder)
    if file is None or fcntl is None:
        yield file is not None
        return
    with reporting("lock", folder):
        handle = _opened(file)
    if handle is None:
        yield False
        return
    try:
        with reporting("lock", folder):
            taken = not _locked(handle, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, wait)
        if taken:
            raise MaskError(
                f"another run is writing {folder}; wait for it, or stop it; parts of one job need --part, all of them"
            )
        yield _is(file, handle)
    finally:
        _close(handle)


@contextmanager
def in_turn(group: Path) -> Iterator[None]:
    """Waits until no other process is here with the Zarr group in this folder, and keeps others out while it is.

    What is locked is the group's metadata. Where that cannot be, all goes on without.
    """
    file = group_file(group)
    while True:
        handle = None
        if file is not None and fcntl is not None:
            with suppress(OSError):  # the image may be read-only, apart from its labels
                handle = os.open(file, os.O_RDWR)
        if handle is None or file is None:
            yield
            return
        try:
            _locked(handle, fcntl.LOCK_EX, wait=True)
            # whoever had it may have replaced the file: then others lock the new one
            if _is(file, handle):
                yield
                return
        finally:
            _close(handle)


def _opened(file: Path) -> int | None:
    try:
        # network file systems lock alone only what may be written
        return os.open(file, os.O_RDWR)
    except FileNotFoundError:
        return None


def _locked(handle: int, kind: int, wait: bool) -> bool:
    """Locks a file; False if another process has it."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            fcntl.flock(handle, kind if wait else kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(_PAUSE)
        except OSError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            return True


def _close(handle: int) -> None:
    try:
        # closing is not enough: a process that was forked meanwhile has the handle too
        fcntl.flock(handle, fcntl.LOCK_UN)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def _is(file: Path, handle: int) -> bool:
    """Whether `file` still is the one that was opened as `handle`."""
    try:
        return os.path.samestat(os.stat(file), os.fstat(handle))
    except FileNotFoundError:
        return False
