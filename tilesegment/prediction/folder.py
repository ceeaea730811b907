"""Many images into one folder: their list, the names of their masks, a log of each, and a summary of all."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from tilesegment.errors import MaskError, PlanError, one_line
from tilesegment.files import write_atomically
from tilesegment.geometry import Block
from tilesegment.images import IMAGE_SUFFIXES, begins_as_image, is_zarr
from tilesegment.masks.disk import is_ours
from tilesegment.masks.exported import read_exported
from tilesegment.prediction.outcome import Errand, Listener, Outcome, Progress
from tilesegment.prediction.run import Outputs
from tilesegment.preview import is_picture_of_ours

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
        found = _rows(path, text)
    else:
        lines = (line.strip() for line in text.splitlines())
        found = [(line, None) for line in lines if line and not line.startswith("#")]
    if not found:
        raise PlanError(f"the list {path} names no image")
    return found


def _rows(path: str | Path, text: str) -> list[tuple[str, str | None]]:
    """Images and masks in the columns `image` and `out` of a CSV, in any case.

    Raises:
        PlanError: there is no such column, or two, or a row has more fields than there are columns.
    """
    head, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    columns = [name.strip().lower() for name in head]
    if columns.count("image") != 1 or columns.count("out") > 1:
        raise PlanError(
            f"the list {path} has the columns {', '.join(head)}; expected one image and at most one out, with commas "
            "between them"
        )
    found = []
    for number, row in enumerate(rows, 2):
        if len(row) > len(columns):
            raise PlanError(f"line {number} of {path} has {len(row)} fields for {len(columns)} columns: quote commas")
        fields = {name: field.strip() for name, field in zip(columns, row, strict=False)}
        if fields.get("image"):
            found.append((fields["image"], fields.get("out") or None))
    return found


@dataclass(frozen=True)
class Found:
    """The images of a folder.

    Attributes:
        images: their paths, sorted by name.
        left_out: names of what else is in the folder, without hidden files.
    """

    images: tuple[str, ...]
    left_out: tuple[str, ...]


def is_folder_of_images(path: str) -> bool:
    """Whether `path` is a folder that is no image itself, as a Zarr store is."""
    return os.path.isdir(path) and not path.rstrip("/").endswith(".zarr") and not is_zarr(Path(path))


def images_in(folder: str) -> Found:
    """The images in a folder; its own folders are not searched, and masks and pictures that we wrote are no images.

    Raises:
        PlanError: there are none, or the folder cannot be read.
    """
    try:
        entries = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except OSError as error:
        raise PlanError(f"the folder {folder} cannot be read ({error.strerror}): see to its permissions") from error
    taken = {name: _is_to_predict(Path(folder, name)) for name in entries}
    images = tuple(os.path.join(folder, name) for name in entries if taken[name])
    left_out = tuple(name for name in entries if not taken[name])
    if not images:
        there = shortened(left_out) or "nothing"
        raise PlanError(
            f"{folder} holds no image that can be read, but {there}; name images, or the folder they are in"
        )
    return Found(images, left_out)


def shortened(names: Sequence[str]) -> str:
    """Some of the names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_to_predict(path: Path) -> bool:
    """Whether a file or folder is, by its content or its name, an image that is not one of our outputs."""
    if path.is_dir():
        return (path.suffix == ".zarr" or is_zarr(path)) and not is_ours(path)
    if path.suffix.lower() in IMAGE_SUFFIXES or begins_as_image(path):
        return read_exported(path) is None and not is_picture_of_ours(path)
    return False


def errands_into(
    folder: str | Path | None, images: Iterable[tuple[str, str | None]], file_format: str, shared: Outputs
) -> list[Errand]:
    """An errand for each image: `slides/a.tif` goes to `FOLDER/a.zarr`, or to the name of its own that it came with.

    Args:
        folder: of the masks; None where each image comes with the name of its mask.
        images: path, and the name of its mask, in the folder or with it, or None.
        file_format: of `FORMATS`, for masks without a name of their own.
        shared: what else is asked for; its `mask` is replaced.

    Raises:
        PlanError: two images would be written to one file, or it is not said where one goes.
    """
    errands: dict[str, Errand] = {}
    for image, name in images:
        out = _place(folder, image, name, file_format)
        other = errands.get(os.path.abspath(out))
        if other is not None:
            raise PlanError(
                f"{other.image} and {image} would both be written to {out}; give a list with the columns image "
                "and out, or do them apart"
            )
        errands[os.path.abspath(out)] = Errand(image, replace(shared, mask=out))
    return list(errands.values())


def _place(folder: str | Path | None, image: str, name: str | None, file_format: str) -> Path:
    """Where the mask of an image goes."""
    if folder is None:
        if name is None:
            raise PlanError(f"the list names no mask for {image}; fill its column out, or name a folder with --out-dir")
        return Path(name)
    if name is None:
        return Path(folder) / f"{_stem(image)}.{file_format}"
    # a list may name the masks as they will be called from here
    return Path(name) if Path(os.path.abspath(folder)) in Path(os.path.abspath(name)).parents else Path(folder) / name


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    """Say which file cannot be written. One whose name is too long has no mask either, and that is said already."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise MaskError(f"{file} cannot be written ({error.strerror}): check the folder and its space") from error


class Records(Listener):
    """Keeps a log of each image and the summary of all, in the folder of the masks.

    Args:
        folder: made if it is not there.
        part: of a job in parts, whose summary has a name of its own.
        errands: the images; folders that their masks lie in are made below `folder`.

    Raises:
        PlanError: the folder cannot be made.
    """

    def __init__(self, folder: str | Path, part: tuple[int, int] | None = None, errands: Iterable[Errand] = ()) -> None:
        self.folder, name = Path(folder), "summary.csv" if part is None else f"summary-{part[0]}-of-{part[1]}.csv"
        self.summary = self.folder / name
        self._rows: list[Sequence[object]] = []
        self._said = 0.0
        try:
            (self.folder / "logs").mkdir(parents=True, exist_ok=True)
            for parent in {Path(errand.outputs.mask).parent for errand in errands}:
                if Path(os.path.abspath(folder)) in Path(os.path.abspath(parent)).parents:
                    parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise PlanError(
                f"the folder {folder} cannot be made ({error.strerror}); choose another --out-dir"
            ) from error

    def begun(self, outcome: Outcome) -> None:
        """The plan goes into the log."""
        assert outcome.order is not None
        plan = "; ".join(f"{name}: {value}" for name, value in outcome.order.lines())
        self._log(outcome, f"begun with {outcome.model}; {plan}")
        for note in outcome.notes:
            self._log(outcome, f"note: {note}")
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
        with _naming(self.summary):
            write_atomically(self.summary, text.getvalue().encode())

    def _log(self, outcome: Outcome, text: str) -> None:
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        file = self._log_of(Path(outcome.errand.outputs.mask))
        with _naming(file):
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as log:
                log.write(f"{now} {text}\n")

    def _log_of(self, mask: Path) -> Path:
        """Below logs/ as the mask below the folder; of one elsewhere, as below the root."""
        folder, mask = Path(os.path.abspath(self.folder)), Path(os.path.abspath(mask))
        inside = mask.relative_to(folder if folder in mask.parents else mask.anchor)
        return self.folder / "logs" / inside.with_name(f"{inside.name}.log")


def _stem(image: str) -> str:
    """The name of an image without its format, `a` of `a.ome.tif`; of a part of a Zarr `a_0`, of `a.zarr/0`."""
    path = Path(os.path.abspath(image))
    parts: list[str] = []
    while path.parent.suffix == ".zarr" or is_zarr(path.parent):
        parts.insert(0, path.name)
        path = path.parent
    name = path.name
    ending = next((one for one in (".ome.tiff", ".ome.tif", ".ome.zarr") if name.lower().endswith(one)), path.suffix)
    return "_".join([name[: len(name) - len(ending)], *parts])
