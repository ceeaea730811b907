"""The claim on a mask in progress: a lock on level 0's metadata, a file that is never replaced.

One run holds it alone; the parts of one job share it. Where the file system has no locks, masks are written without:
whoever writes a block writes the same bytes, whole.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tilesegment.errors import MaskError
from tilesegment.files import locked
from tilesegment.masks.disk import reporting


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
    if file is None:
        yield False
        return
    with ExitStack() as claim:
        try:
            with reporting("lock", folder):
                is_there = claim.enter_context(locked(file, shared=shared, wait=wait))
        except MaskError as error:
            if not isinstance(error.__cause__, BlockingIOError):
                raise
            raise MaskError(
                f"another run is writing {folder}; wait for it, or stop it; parts of one job need --part, all of them"
            ) from None
        yield is_there
