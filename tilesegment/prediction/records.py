"""Records of a run of many images in the folder of the masks: one log per image, and a summary."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from tilesegment.errors import MaskError, PlanError, one_line
from tilesegment.files import write_atomically
from tilesegment.geometry import Block
from tilesegment.masks.target import absolute
from tilesegment.prediction.inputs import SUMMARY
from tilesegment.prediction.result import Listener, Progress, Result
from tilesegment.prediction.settings import Outputs
from tilesegment.stores import Location, Place

_COUNTS = ("blocks", "resumed", "skipped", "megapixels", "seconds")
_COLUMNS = ("image", "mask", "state", *_COUNTS, "mismatch", "error", "model")
_EVERY = 60.0  # seconds between two lines of progress in a log


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Name the file that cannot be written. A name that is too long is reported for its mask already."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise MaskError(f"{file} cannot be written ({error.strerror}): check the folder and its space") from error


def _objects_of(result: Result) -> dict[str, object]:
    """Return what the summary says of objects: how many, of which class, and their density in the tissue."""
    found = result.objects
    if found is None:
        return {}
    known: dict[str, object] = {"objects": found.count}
    known |= {f"objects {name}": count for name, count in found.by_class.items()}
    return known | {f"per mm2 {name}": round(density, 4) for name, density in found.per_mm2.items()}


class Records(Listener):
    """Write one log per image, and a summary, to the folder of the masks.

    Args:
        folder: created if missing.
        part: of a job in parts, each of which writes its own summary.
        images: with their outputs; the folders of their masks are created if they lie in `folder`.

    Raises:
        PlanError: the folder cannot be made.
    """

    def __init__(
        self, folder: str | Path, part: tuple[int, int] | None = None, images: Iterable[tuple[str | Path, Outputs]] = ()
    ) -> None:
        self.folder, name = Path(folder), SUMMARY if part is None else f"summary-{part[0]}-of-{part[1]}.csv"
        self.summary = self.folder / name
        self._rows: list[dict[str, object]] = []
        self._has_objects = any(outputs.objects for _, outputs in images)
        self._said = 0.0
        try:
            (self.folder / "logs").mkdir(parents=True, exist_ok=True)
            for parent in {absolute(outputs.mask).parent for _, outputs in images}:
                if isinstance(parent, Path) and Path(os.path.abspath(folder)) in Path(os.path.abspath(parent)).parents:
                    parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError(
                f"the folder {folder} cannot be made ({error.strerror}); choose another --out-dir"
            ) from error

    def begun(self, result: Result) -> None:
        """Log the plan."""
        plan = "; ".join(f"{name}: {value}" for name, value in result.decided.lines())
        self._log(result, f"begun with {result.model}; {plan}")
        for note in result.notes:
            self._log(result, f"note: {note}")
        if result.blocks_resumed or result.blocks_repaired:
            self._log(
                result, f"{result.blocks_resumed} blocks are there already, {result.blocks_repaired} were damaged"
            )

    def progressed(self, result: Result, progress: Progress) -> None:
        """Log the progress now and then."""
        if progress.seconds - self._said >= _EVERY:
            self._said = progress.seconds
            self._log(result, f"{result.blocks} blocks, {result.pixels / 1e6:,.1f} Mpx stored")

    def failed(self, result: Result, block: Block, error: Exception) -> None:
        """Log the error."""
        self._log(result, f"block at {block.write} failed: {error}")

    def ended(self, result: Result) -> None:
        """Log the end, and rewrite the summary of all images so far."""
        error = one_line(result.errors[0]) if result.errors else ""
        self._log(result, f"{result.state} after {result.seconds:,.1f} s" + (f": {error}" if error else ""))
        if result.objects is not None:
            self._log(result, f"{result.objects.count} objects in {result.objects.seconds:,.1f} s")
        blocks = (result.blocks, result.blocks_resumed, result.blocks_skipped)
        counts = (*blocks, round(result.pixels / 1e6, 3), round(result.seconds, 2))
        row = (result.image, result.outputs.mask, result.state, *counts, result.mismatch, error, result.model)
        self._rows.append(dict(zip(_COLUMNS, row, strict=True)) | _objects_of(result))
        # the classes, and with them the columns of objects, are known once an image is done
        columns = [*_COLUMNS, *(["objects"] if self._has_objects else [])]
        columns = list(dict.fromkeys([*columns, *(name for one in self._rows for name in one)]))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns)
        writer.writeheader()
        writer.writerows(self._rows)
        with _naming(self.summary):
            write_atomically(self.summary, text.getvalue().encode())

    def _log(self, result: Result, text: str) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file = self._log_of(absolute(result.outputs.mask))
        with _naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as log:
                log.write(f"{now} {text}\n")

    def _log_of(self, mask: Place) -> Path:
        """Return the log of a mask: logs/ mirrors the folder, or the root or bucket for a mask elsewhere."""
        folder = Path(os.path.abspath(self.folder))
        if isinstance(mask, Location):
            inside = Path(mask.root, mask.key)
        else:
            inside = mask.relative_to(folder if folder in mask.parents else mask.anchor)
        return self.folder / "logs" / inside.with_name(f"{inside.name}.log")
