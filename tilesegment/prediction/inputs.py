"""Which images are predicted, and where each goes: lists, folders of images, one folder of masks."""

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tilesegment.draw import is_picture_of_ours
from tilesegment.errors import PlanError
from tilesegment.images import IMAGE_SUFFIXES, begins_as_image, is_zarr
from tilesegment.masks import read_record
from tilesegment.prediction.settings import Outputs

FORMATS = ("zarr", "tif", "png")


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
        return (path.suffix == ".zarr" or is_zarr(path)) and read_record(path) is None
    if path.suffix.lower() in IMAGE_SUFFIXES or begins_as_image(path):
        return read_record(path) is None and not is_picture_of_ours(path)
    return False


def place_masks(
    folder: str | Path | None, images: Iterable[tuple[str, str | None]], file_format: str, shared: Outputs
) -> list[tuple[str, Outputs]]:
    """Each image with its outputs: `slides/a.tif` goes to `FOLDER/a.zarr`, or to the name that a list gives it.

    Args:
        folder: of the masks; None where each image comes with the name of its mask.
        images: path, and the name of its mask, in the folder or with it, or None.
        file_format: of `FORMATS`, for masks without a name of their own.
        shared: what else is asked for; its `mask` is replaced.

    Raises:
        PlanError: two images would be written to one file, or it is not said where one goes.
    """
    placed: dict[str, tuple[str, Outputs]] = {}
    for image, name in images:
        out = _place(folder, image, name, file_format)
        if os.path.abspath(out) in placed:
            other, _ = placed[os.path.abspath(out)]
            raise PlanError(
                f"{other} and {image} would both be written to {out}; give a list with the columns image "
                "and out, or do them apart"
            )
        placed[os.path.abspath(out)] = (image, replace(shared, mask=out))
    return list(placed.values())


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
