"""The work folder: made once, claimed by one run or by the parts of one, gone at the end; and a record of the end.

The record lies beside the work folder. It names the files that are about to get their final names, so that a run which
is killed between any two steps of its end leaves nothing that the next does not understand. Parts leave it there: one
that comes too late, or is started again, reads that nothing is left to do.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tilesegment.errors import MaskError, StoppedError
from tilesegment.files import delete_folder, locked, sweep, sync, temporary_name, write_atomically
from tilesegment.masks.blocks import reporting
from tilesegment.objects.arrays import SUFFIX
from tilesegment.objects.plan import ObjectPlan
from tilesegment.objects.stages import PLAN, results_folder


def work_folder(output: Path) -> Path:
    """Return the hidden folder in which the objects for `output` are worked out."""
    return output.with_name(f".{output.name}.objects")


def record_file(folder: Path) -> Path:
    """Return the file that says how the work in a folder ended."""
    return folder.with_name(f"{folder.name}.done")


def begin_work(folder: Path, plan: ObjectPlan) -> bool:
    """Make the work folder, or go on with the one of an earlier run; one of another plan is deleted.

    Returns:
        Whether one of another plan was deleted.

    Raises:
        MaskError: it cannot be made, or another run is using it for another plan.
    """
    is_anew, wanted = False, plan.to_json()
    with reporting("write to", folder):
        if folder.parent.name == "labels":  # of an image that may not have any yet
            folder.parent.mkdir(exist_ok=True)
        while (there := _plan_in(folder)) != wanted:
            if there is None:
                _make(folder, plan)
                continue
            with claimed(folder, shared=False):
                if _plan_in(folder) not in (None, wanted):
                    record_file(folder).unlink(missing_ok=True)
                    delete_folder(folder, folder)
                    is_anew = True
    return is_anew


def _plan_in(folder: Path) -> str | None:
    """Return the plan of a work folder, as text that may be damaged; None if there is no such folder."""
    try:
        return (folder / PLAN).read_text(errors="replace")
    except FileNotFoundError:
        return None


def _make(folder: Path, plan: ObjectPlan) -> None:
    """Make it under a temporary name and rename it: of several processes, one succeeds."""
    made = temporary_name(folder)
    try:
        made.mkdir()
        results_folder(made, plan).mkdir()
        write_atomically(made / PLAN, plan.to_json().encode())
        os.rename(made, folder)
        sync(folder.parent)
    except OSError:
        if made.exists():
            with suppress(OSError):
                delete_folder(made, folder)
        if _plan_in(folder) is None:  # else another process was faster
            raise


@contextmanager
def claimed(
    folder: Path, *, shared: bool, wait: bool = False, stop: Callable[[], bool] = lambda: False
) -> Iterator[bool]:
    """Keep other runs out of the work folder; yield whether it is still there.

    Args:
        folder: the work folder.
        shared: lets in others that share it, too: the parts of one job.
        wait: until the others are done.
        stop: asked while waiting; if true, that ends.

    Raises:
        MaskError: another run holds it.
        StoppedError: asked to stop while waiting.
    """
    with ExitStack() as stack:
        while True:
            try:
                is_there = stack.enter_context(locked(folder / PLAN, shared=shared))
                break
            except BlockingIOError:
                if not wait:
                    raise MaskError(
                        f"another run works in {folder}; wait for it, or stop it; parts of one job need --part, all of "
                        "them"
                    ) from None
                if stop():
                    raise StoppedError("stopped while other parts were at work") from None
        yield is_there


def sweep_work(folder: Path, files: Sequence[Path]) -> None:
    """Delete what killed runs left under temporary names of the work folder, its record and the outputs `files`."""
    with reporting("write to", folder):
        for path in (folder, record_file(folder), *files):
            sweep(path)


def has_results(folder: Path) -> bool:
    """Whether anything is kept in the work folder."""
    return next(folder.rglob(f"*{SUFFIX}"), None) is not None


def end_work(folder: Path, *, is_there: bool, keep_record: bool) -> None:
    """Delete the work folder, if it is still there for this run, which has claimed it; and its record, if not kept."""
    with reporting("delete", folder):
        if is_there:
            delete_folder(folder, folder)
        if not keep_record:
            record_file(folder).unlink(missing_ok=True)


@dataclass(frozen=True)
class Ending:
    """How the work ended.

    Attributes:
        objects: how many were found.
        by_class: how many of each class.
        files: identity of each file by its final name.
    """

    objects: int
    by_class: dict[str, int]
    files: Mapping[str, Sequence[int]]

    def wrote(self, path: Path) -> bool:
        """Whether `path` is the file that was written then."""
        return path.is_file() and list(self.files.get(str(path), ())) == _identity(path)


def record_ending(folder: Path, settled: str, ending: Ending, renamed: Mapping[Path, Path]) -> None:
    """Record how the work ends.

    Args:
        folder: the work folder.
        settled: all that decides the outputs.
        ending: what was found, without files.
        renamed: final names of the files that are about to get them.
    """
    files = {str(path): _identity(temporary) for temporary, path in renamed.items()}
    known = {"settled": settled, **asdict(ending), "files": files}
    write_atomically(record_file(folder), json.dumps(known).encode())


def ending_of(folder: Path, settled: str) -> Ending | None:
    """Return how the work ended, if all was `settled` so; None if it has not, or nobody knows."""
    try:
        known = json.loads(record_file(folder).read_text())
        if known["settled"] == settled:
            return Ending(int(known["objects"]), dict(known["by_class"]), dict(known["files"]))
    except (OSError, ValueError, LookupError, TypeError):  # a record that cannot be read is none
        pass
    return None


def written_before(folder: Path, files: Sequence[Path]) -> set[Path]:
    """Return those of `files` that the run which ended last has written, whatever its settings were."""
    try:
        before = Ending(0, {}, dict(json.loads(record_file(folder).read_text())["files"]))
        return set(filter(before.wrote, files))
    except (OSError, ValueError, LookupError, TypeError):
        return set()


def _identity(path: Path) -> list[int]:
    found = os.stat(path)
    return [found.st_ino, found.st_size]
