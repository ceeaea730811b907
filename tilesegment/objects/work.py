"""The work folder: made once, claimed by one run or by the parts of one, gone at the end."""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tilesegment.errors import MaskError
from tilesegment.files import delete_folder, locked, sweep, sync, temporary_name, write_atomically
from tilesegment.masks.store import reporting
from tilesegment.objects.plan import ObjectPlan
from tilesegment.objects.stages import PLAN

_RENAMED = "renamed.json"


def work_folder(output: Path) -> Path:
    """Return the hidden folder in which the objects for `output` are worked out."""
    return output.with_name(f".{output.name}.objects")


def begin_work(folder: Path, plan: ObjectPlan) -> None:
    """Make the work folder, or go on with the one of an earlier run; one of another plan is deleted.

    Raises:
        MaskError: it cannot be made, or another run is using it for another plan.
    """
    with reporting("write to", folder):
        while True:
            if not (folder / PLAN).is_file():
                _make(folder, plan)
            elif (folder / PLAN).read_text() == plan.to_json():
                return
            else:
                with claimed(folder, shared=False):
                    if (folder / PLAN).is_file() and (folder / PLAN).read_text() != plan.to_json():
                        delete_folder(folder, folder)


def _make(folder: Path, plan: ObjectPlan) -> None:
    """Make it under a temporary name and rename it: of several processes, one succeeds."""
    made = temporary_name(folder)
    made.mkdir()
    write_atomically(made / PLAN, plan.to_json().encode())
    try:
        os.rename(made, folder)
        sync(folder.parent)
    except OSError:
        delete_folder(made, made)
        if not (folder / PLAN).is_file():  # else another process was faster
            raise


@contextmanager
def claimed(folder: Path, *, shared: bool, wait: bool = False) -> Iterator[bool]:
    """Keep other runs out of the work folder; yield whether it is still there.

    Args:
        folder: the work folder.
        shared: lets in others that share it, too: the parts of one job.
        wait: until the others are done.

    Raises:
        MaskError: another run holds it.
    """
    with ExitStack() as stack:
        try:
            is_there = stack.enter_context(locked(folder / PLAN, shared=shared, wait=wait))
        except BlockingIOError:
            raise MaskError(
                f"another run works in {folder}; wait for it, or stop it; parts of one job need --part, all of them"
            ) from None
        yield is_there


def end_work(folder: Path) -> None:
    """Delete the work folder, and what killed runs have left of it."""
    with reporting("delete", folder):
        delete_folder(folder, folder)
        sweep(folder)


def record_names(folder: Path, renamed: dict[Path, Path]) -> None:
    """Record which files are about to get which final names, for the run after one that is killed meanwhile."""
    known = {str(path): os.stat(temporary).st_ino for temporary, path in renamed.items()}
    write_atomically(folder / _RENAMED, json.dumps(known).encode())


def written_before(folder: Path, paths: Sequence[Path]) -> set[Path]:
    """Return the outputs that a run which was killed at its very end has written."""
    try:
        known = json.loads((folder / _RENAMED).read_text())
    except FileNotFoundError:
        return set()
    return {path for path in paths if path.is_file() and os.stat(path).st_ino == known.get(str(path))}
