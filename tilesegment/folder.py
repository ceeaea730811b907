"""Many images into one folder: their list, the names of their masks, a log of each, and a summary of all."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from tilesegment.errors import PlanError, one_line
from tilesegment.geometry import Block
from tilesegment.model import write_atomically
from tilesegment.outcome import Errand, Listener, Outcome, Progress
from tilesegment.run import Outputs

FORMATS = ("zarr", "tif", "png", "jpg")
_COLUMNS = ("image", "mask", "state", "blocks", "resumed", "skipped", "megapixels", "seconds", "mismatch", "error")
_EVERY = 60.0  # seconds between two lines of progress in a log


def read_list(path: str | Path) -> list[tuple[str, str | None]]:
    """Images and, where the list says so, their masks.

    A CSV file has a column `image` and may have a column `out`; any other file names an image a line, but for empty
    lines and such that begin with #. Names are as on a command line: relative to the working folder.

    Raises:
        PlanError: there is no such list, it is not text, or names no image.
    """
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise PlanError(
            f"the list {path} cannot be read ({error}); give a text file, an image a line, or a CSV"
        ) from error
    if "\0" in text:
        raise PlanError(f"the list {path} holds NUL bytes; give a text file, an image a line, or a CSV")
    if Path(path).suffix.lower() == ".csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        if rows and "image" not in rows[0]:
            raise PlanError(f"the list {path} has no column 'image'; its columns are {', '.join(map(str, rows[0]))}")
        found = [(row["image"].strip(), (row.get("out") or "").strip() or None) for row in rows if row["image"]]
    else:
        lines = (line.strip() for line in text.splitlines())
        found = [(line, None) for line in lines if line and not line.startswith("#")]
    if not found:
        raise PlanError(f"the list {path} names no image")
    return found


def errands_into(
    folder: str | Path, images: Iterable[tuple[str, str | None]], file_format: str, shared: Outputs
) -> list[Errand]:
    """An errand for each image: `slides/a.tif` goes to `FOLDER/a.zarr`, or to the name of its own that it came with.

    Args:
        folder: of the masks.
        images: path, and the name of its mask in the folder or None.
        file_format: of `FORMATS`, for masks without a name of their own.
        shared: what else is asked for; its `mask` is replaced.

    Raises:
        PlanError: two images would be written to one file.
    """
    errands: dict[Path, Errand] = {}
    for image, name in images:
        out = Path(folder) / (name if name is not None else f"{_stem(image)}.{file_format}")
        if out in errands:
            raise PlanError(
                f"{errands[out].image} and {image} would both be written to {out}; give a list with the columns image "
                "and out, or do them apart"
            )
        errands[out] = Errand(image, replace(shared, mask=out))
    return list(errands.values())


class Records(Listener):
    """Keeps a log of each image and the summary of all, in the folder of the masks.

    Args:
        folder: made if it is not there.
        part: of a job in parts, whose summary has a name of its own.

    Raises:
        PlanError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, part: tuple[int, int] | None = None) -> None:
        self.folder, name = Path(folder), "summary.csv" if part is None else f"summary-{part[0]}-of-{part[1]}.csv"
        self.summary = self.folder / name
        self._rows: list[Sequence[object]] = []
        self._said = 0.0
        try:
            (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError(
                f"the folder {folder} cannot be made ({error.strerror}); choose another --out-dir"
            ) from error

    def begun(self, outcome: Outcome) -> None:
        """The plan goes into the log."""
        assert outcome.order is not None
        plan = "; ".join(f"{name}: {value}" for name, value in outcome.order.lines())
        self._log(outcome, f"begun with {outcome.model}; {plan}")
        if outcome.resumed or outcome.repaired:
            self._log(outcome, f"{outcome.resumed} blocks are there already, {outcome.repaired} were damaged")

    def progressed(self, outcome: Outcome, progress: Progress) -> None:
        """A line in the log, now and then."""
        if progress.seconds - self._said >= _EVERY:
            self._said = progress.seconds
            self._log(outcome, f"{outcome.blocks} blocks, {outcome.pixels / 1e6:,.1f} Mpx stored")

    def failed(self, outcome: Outcome, block: Block, error: Exception) -> None:
        """The error goes into the log."""
        self._log(outcome, f"block at {block.write} failed: {error}")

    def ended(self, outcome: Outcome) -> None:
        """The end goes into the log and the summary, which is complete as far as it goes at any time."""
        error = one_line(outcome.errors[0]) if outcome.errors else ""
        self._log(outcome, f"{outcome.state} after {outcome.seconds:,.1f} s" + (f": {error}" if error else ""))
        mismatch = None if outcome.ending is None else outcome.ending.mismatch
        blocks = (outcome.blocks, outcome.resumed, outcome.skipped)
        counts = (*blocks, round(outcome.pixels / 1e6, 3), round(outcome.seconds, 2))
        self._rows.append((outcome.errand.image, outcome.errand.outputs.mask, outcome.state, *counts, mismatch, error))
        text = io.StringIO()
        csv.writer(text).writerows([_COLUMNS, *self._rows])
        write_atomically(self.summary, text.getvalue().encode())

    def _log(self, outcome: Outcome, text: str) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        name = Path(outcome.errand.outputs.mask).name
        with (self.folder / "logs" / f"{name}.log").open("a", encoding="utf-8") as file:
            file.write(f"{now} {text}\n")


def _stem(image: str) -> str:
    """The name of an image without its format, `a` of `a.ome.tif`."""
    name = Path(image).name
    lower = name.lower()
    for ending in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if lower.endswith(ending):
            return name[: -len(ending)]
    return Path(name).stem
