"""Images to predict and the places of their masks: from lists and folders."""

import csv
import io
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from tilesegment.draw import is_picture_of_ours
from tilesegment.errors import PlanError
from tilesegment.images import IMAGE_SUFFIXES, begins_as_image, is_image_folder, is_zarr, unread_among, unread_format
from tilesegment.images.companions import companions, slide_file
from tilesegment.images.datasets import split_dataset
from tilesegment.masks import read_record
from tilesegment.masks.target import absolute
from tilesegment.prediction.settings import Outputs, Settings
from tilesegment.stores import Location, Place, is_url, place_of

SUMMARY = "summary.csv"
# what objects are written to beside the masks of many images, by the suffix that is given
OBJECT_ENDINGS = {one: one for one in (".geojson", ".geojson.gz", ".csv", ".parquet")} | {".zarr": "-objects.zarr"}
# columns of a list with a setting of the image alone, and that setting
OWN = {"mpp": "source_mpp", "diameter": "diameter", "roi": "roi", "skip_empty": "skip_empty"}
_FILES = ("roi", "skip_empty")
_DOUBLE = (".ome.tiff", ".ome.tif", ".ome.zarr")  # suffixes of two parts


class Listed(NamedTuple):
    """An image of a list; the name of its mask, if given; and settings of its own, by the name of their field."""

    image: str
    out: str | None = None
    own: Mapping[str, Any] = {}


def read_list(path: str | Path) -> tuple[list[Listed], tuple[str, ...]]:
    """Read a list of images, perhaps with settings of their own, and the columns that are not used.

    Paths are relative to the working folder.

    A CSV file has a column `image`, and may have `out`, the mask, `mpp`, the size of the image's pixels in micrometres,
    `diameter`, that of its objects in pixels, `roi`, a GeoJSON file of its areas, and `skip_empty`. Any other file
    names one image per line; empty lines and lines that begin with # are skipped.

    Raises:
        PlanError: the list is missing, is not text, has other columns, holds a size that is none, or names no image.
    """
    expected = "give a text file, one image per line, or a CSV"
    try:
        text = Path(path).read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise PlanError(f"the list {path} cannot be read ({error}); {expected}") from error
    if "\0" in text:
        raise PlanError(f"the list {path} holds NUL bytes; {expected}")
    unused: tuple[str, ...] = ()
    if Path(path).suffix.lower() == ".csv":
        found, unused = _rows(path, text)
    else:
        lines = (line.strip() for line in text.splitlines())
        found = [Listed(line) for line in lines if line and not line.startswith("#")]
    if not found:
        raise PlanError(f"the list {path} names no image")
    return found, unused


def _rows(path: str | Path, text: str) -> tuple[list[Listed], tuple[str, ...]]:
    """Return the rows of a CSV, and its columns that are not used; columns may be in any order and case."""
    head, *rows = list(csv.reader(io.StringIO(text))) or [[]]
    columns = [name.strip().lower() for name in head]
    if columns.count("image") != 1 or any(columns.count(name) > 1 for name in ("out", *OWN)):
        raise PlanError(
            f"the list {path} has the columns {', '.join(head)}; expected one image and at most one "
            f"{', one '.join(('out', *OWN))}, separated by commas"
        )
    found = []
    for number, row in enumerate(rows, 2):
        where = f"line {number} of {path}"
        if len(row) > len(columns):
            raise PlanError(f"{where} has {len(row)} fields for {len(columns)} columns: quote commas")
        fields = {name: field.strip() for name, field in zip(columns, row, strict=False)}
        if fields.get("image"):
            given = {name: fields[name] for name in OWN if fields.get(name)}
            own = {OWN[name]: text if name in _FILES else _size(where, name, text) for name, text in given.items()}
            found.append(Listed(fields["image"], fields.get("out") or None, own))
    return found, tuple(name.strip() for name in head if name.strip().lower() not in ("", "image", "out", *OWN))


def _size(where: str, column: str, text: str) -> float:
    """Return a size of a list.

    Raises:
        PlanError: it is no positive number.
    """
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not (math.isfinite(size) and size > 0):
        unit = {"mpp": "micrometres, such as 0.25", "diameter": "pixels, such as 30"}[column]
        raise PlanError(f"{where}: {column} is {text}; write a positive number of {unit}, or nothing")
    return size


def own_settings(listed: Iterable[Listed], settings: Settings) -> dict[str, Mapping[str, Any]]:
    """Return what is set for single images, by their paths.

    Raises:
        PlanError: it contradicts the settings of all, or that of the same image on another line.
    """
    found: dict[str, Mapping[str, Any]] = {}
    for one in listed:
        try:
            replace(settings, **one.own)
        except PlanError as error:
            raise PlanError(f"{one.image} of the list: {error}") from error
        if found.setdefault(one.image, one.own) != one.own:
            raise PlanError(f"the list names {one.image} twice, with different settings; keep one of the lines")
    return {image: own for image, own in found.items() if own}


class Found(NamedTuple):
    """What a folder holds, hidden entries excepted.

    Attributes:
        images: sorted paths.
        unread: one sentence for each format of images that is known but not read.
        left_out: names of all else.
    """

    images: tuple[str, ...]
    unread: tuple[str, ...]
    left_out: tuple[str, ...]


def images_in(folder: str) -> Found:
    """Find the images in a folder, not in those below; masks and pictures that we wrote do not count.

    Of a slide in several files only the one that stands for it is named.

    Raises:
        PlanError: there are none, or the folder cannot be read.
    """
    try:
        entries = sorted(entry for entry in os.listdir(folder) if not entry.startswith("."))
    except OSError as error:
        raise PlanError(f"the folder {folder} cannot be read ({error.strerror}): check its permissions") from error
    found = [name for name in entries if _is_to_predict(Path(folder, name))]
    beside = set[str]()
    for name in found:
        if name not in beside:
            main = slide_file(os.path.join(folder, name))
            beside |= {os.path.basename(one) for one in (main, *companions(main))} - {os.path.basename(main)}
    images = tuple(name for name in found if name not in beside)
    others = [name for name in entries if name not in beside and name not in images]
    unread = unread_among(others)
    if not images:
        there = "; ".join(unread) or shortened(others) or "nothing"
        raise PlanError(f"{folder} holds no image that can be read, but {there}; name images, or their folder")
    left_out = tuple(name for name in others if unread_format(name) is None)
    return Found(tuple(os.path.join(folder, name) for name in images), tuple(unread), left_out)


def shortened(names: Sequence[str]) -> str:
    """Return some of the names, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_to_predict(path: Path) -> bool:
    """Whether a file or folder is, by its content or its name, an image that is not one of our outputs."""
    if path.is_dir():
        return is_image_folder(path) and read_record(path) is None
    if path.suffix.lower() in IMAGE_SUFFIXES or begins_as_image(path):
        return read_record(path) is None and not is_picture_of_ours(path)
    return False


def place_masks(
    folder: str | Path | None, images: Iterable[tuple[str, str | None]], file_format: str, shared: Outputs
) -> list[tuple[str, Outputs]]:
    """Give each image its outputs: `slides/a.tif` goes to `FOLDER/a.zarr`, or to the name that a list gives it.

    Args:
        folder: of the masks; None where each image comes with the name of its mask.
        images: path, and the name of its mask, in the folder or with it, or None.
        file_format: zarr, tif or png, for masks without a given name.
        shared: what else is asked for; its `mask` is replaced, and its `objects`, of which only the suffixes are given.

    Raises:
        PlanError: two images would be written to one file, a mask has no name, or objects are no suffixes.
    """
    if is_url(str(folder)):
        raise PlanError(f"--out-dir {folder} is no folder on a disk, where logs go; name masks in a list, column out")
    placed: dict[str, tuple[str, Outputs]] = {}
    for image, name in images:
        out = _place(folder, image, name, file_format)
        taken = str(absolute(out))
        if taken in placed:
            other, _ = placed[taken]
            raise PlanError(
                f"{other} and {image} would both be written to {out}; give a list with the columns image and out"
            )
        placed[taken] = (image, replace(shared, mask=out))
    if not shared.objects:
        return list(placed.values())
    return _place_objects(folder, list(placed.values()))


def _place_objects(folder: str | Path | None, placed: list[tuple[str, Outputs]]) -> list[tuple[str, Outputs]]:
    """Replace the suffixes of the objects by files beside the masks, under their stems.

    Raises:
        PlanError: something else than suffixes was given, or two files would have one name.
    """
    taken = {str(absolute(outputs.mask)): image for image, outputs in placed}
    if folder is not None:
        taken[os.path.abspath(Path(folder) / SUMMARY)] = "the summary"
    found = []
    for image, outputs in placed:
        mask = place_of(outputs.mask)
        if isinstance(mask, Location):
            raise PlanError(f"objects cannot be written beside {mask}, to a store: run tileseg objects on it later")
        files = [mask.with_name(_stem(str(mask)) + _ending(given)) for given in outputs.objects]
        for file in map(os.path.abspath, files):
            if file in taken:
                raise PlanError(
                    f"objects of {image} would be written to {file}, and so would those of, or the mask of, "
                    f"{taken[file]}; give a list with the columns image and out, or another suffix to --objects"
                )
            taken[file] = image
        found.append((image, replace(outputs, objects=tuple(files), keep_object_record=True)))
    return found


def _ending(given: str | Path) -> str:
    if str(given) not in OBJECT_ENDINGS:
        raise PlanError(
            f"--objects is {given}; of many images it takes what their names end in: {', '.join(OBJECT_ENDINGS)}"
        )
    return OBJECT_ENDINGS[str(given)]


def _place(folder: str | Path | None, image: str, name: str | None, file_format: str) -> Place:
    if name is not None and is_url(name):
        return place_of(name)
    if folder is None:
        if name is None:
            raise PlanError(f"the list names no mask for {image}; fill its column out, or name a folder with --out-dir")
        return Path(name)
    if name is None:
        return Path(folder) / f"{_stem(image)}.{file_format}"
    # a list may name the masks as they will be called from here
    return Path(name) if Path(os.path.abspath(folder)) in Path(os.path.abspath(name)).parents else Path(folder) / name


def _stem(image: str) -> str:
    """Return the name of an image without its format, `a` of `a.ome.tif`; of a part `a_0`, of `a.zarr/0`, `a.h5:/0`."""
    file, dataset = split_dataset(os.path.abspath(image))
    path, parts = Path(file), [name for name in dataset.split("/") if name]
    while path.parent.suffix == ".zarr" or is_zarr(path.parent):
        parts.insert(0, path.name)
        path = path.parent
    # folders of DICOM are called 1.2.840
    suffix = "" if os.path.isdir(path) and path.suffix != ".zarr" else path.suffix
    ending = next((one for one in _DOUBLE if path.name.lower().endswith(one)), suffix)
    return "_".join([path.name[: len(path.name) - len(ending)], *parts])
