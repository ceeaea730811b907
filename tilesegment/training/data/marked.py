"""Find which files say what was drawn on which image, where only what was drawn counts."""

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tilesegment.errors import DataError
from tilesegment.images.datasets import split_dataset
from tilesegment.labels.annotations import is_annotation
from tilesegment.labels.files import is_folder_of_files, is_label_name, list_images, match_stems, some_of, stem_of
from tilesegment.training.data.drawn import list_drawn
from tilesegment.training.data.layouts import find_layout, folders_of
from tilesegment.training.data.pairs import Layout, Pair, words_of

PLACED = re.compile(r"@(\d{1,9}),(\d{1,9})$")  # NAME@Y,X: where in the image NAME the first pixel lies
_COLUMNS = ("image", "labels")


@dataclass(frozen=True)
class Marked:
    """An image and the files that say what was drawn on it.

    Attributes:
        name: stem of the image's file.
        images: its files; several are its channels.
        labels: each a file or Zarr folder, and its image's `file_name` in a COCO file.
    """

    name: str
    images: tuple[Path, ...]
    labels: tuple[tuple[Path, str | None], ...]


@dataclass(frozen=True)
class MarkedLayout:
    """The images of a data set; other attributes as in `pairs.Layout`."""

    words: str
    images: tuple[Marked, ...]
    held_out: tuple[str, ...] = ()  # names of images
    names: Mapping[int, str] | None = None
    ignore: int | None = None
    warnings: tuple[str, ...] = ()


def is_list(path: Path) -> bool:
    """Whether a path is that of a list of images and labels by its name."""
    return path.suffix.lower() == ".csv" and path.is_file()


def find_marked(path: Path, labels: Path | None) -> MarkedLayout:
    """Find images and what was drawn on them.

    Args:
        path: an image, a folder of images, or a list: a CSV with the columns image and labels.
        labels: a file of what was drawn on the image, or a folder with such files, named as the images are; None where
            a folder holds both.

    Raises:
        DataError: there is no such file, or an image or its labels are missing.
    """
    if is_list(path):
        if labels is not None:
            raise DataError(f"--labels {labels} and the list {path}, which names labels itself; leave --labels out")
        return _listed(path)
    for one in (path, *([] if labels is None else [labels])):
        if not Path(split_dataset(str(one))[0]).exists():
            raise DataError(f"there is no {one}; name an existing file or folder")
    if not is_folder_of_files(path):
        if labels is None:
            raise DataError(f"{path} is an image; say by --labels FILE what was drawn on it")
        return _of_image(path, labels)
    if labels is None:
        return _of_folder(path)
    if not is_folder_of_files(labels):
        raise DataError(f"--labels {labels} is a file, and {path} a folder of images; name the folder of their labels")
    return _paired(path, labels)


def _of_image(path: Path, labels: Path) -> MarkedLayout:
    """An image and its file of labels, or those of a folder that are named as it is."""
    name = stem_of(path)
    if not is_folder_of_files(labels):
        return MarkedLayout(f"{path.name} and {labels.name}", (Marked(name, (path,), ((labels, None),)),))
    own = tuple(one for one, image in _matched({name: path}, _labels_in(labels, {name: path})).items() if image)
    if not own:
        raise DataError(f"{labels} holds no labels of {path.name}; expected {name}.*, or {name}@Y,X.* for a part of it")
    words = f"{path.name} and {some_of([one.name for one in own])} in {labels.name}/"
    return MarkedLayout(words, (Marked(name, (path,), tuple((one, None) for one in own)),))


def _of_folder(path: Path) -> MarkedLayout:
    """The images and labels in a folder: in two folders of it, beside each other, or in any layout of `layouts`."""
    folders = folders_of(path)
    if folders is not None:
        return _paired(*folders)
    stems = list_images(path).images
    own = {stem: one for stem, one in stems.items() if not (PLACED.search(stem) or is_label_name(stem))}
    labels = [one for stem, one in stems.items() if stem not in own]
    labels += list_drawn(path, own).images.values() if own else []
    if own and labels:
        return _together(own, labels, "")
    return _of_layout(find_layout(path))


def _of_layout(layout: Layout) -> MarkedLayout:
    pairs = [Marked(one.name, one.images, ((one.label, one.entry),)) for one in layout.pairs + layout.held_out]
    held = tuple(one.name for one in layout.held_out)
    return MarkedLayout(layout.words, tuple(pairs), held, layout.names, layout.ignore, layout.warnings)


def _paired(images: Path, labels: Path) -> MarkedLayout:
    found = list_images(images).images
    if not found:
        raise DataError(f"{images} holds no image; name the folder of the images")
    return _together(found, _labels_in(labels, found), f"{images.name}/ and {labels.name}/, paired by name")


def _labels_in(folder: Path, images: Mapping[str, Path]) -> list[Path]:
    return [*list_images(folder).images.values(), *list_drawn(folder, images).images.values()]


def _together(images: Mapping[str, Path], labels: Iterable[Path], words: str) -> MarkedLayout:
    """Give each image its labels; images without any are left out."""
    of: dict[str, list[Path]] = {}
    for label, image in _matched(images, labels).items():
        if image is None:
            raise DataError(f"{label} has no image; expected {PLACED.sub('', stem_of(label))}.*, or remove it")
        of.setdefault(image, []).append(label)
    if not of:
        raise DataError("no image has labels; expected files of labels that are named as the images are")
    marked = tuple(Marked(name, (images[name],), tuple((one, None) for one in sorted(of[name]))) for name in sorted(of))
    left = [images[name].name for name in images if name not in of]
    warnings = (f"{some_of(left)}: no labels, left out",) if left else ()
    return MarkedLayout(words or _words(marked), marked, warnings=warnings)


def _words(marked: Iterable[Marked]) -> str:
    return words_of([Pair(one.name, one.images, path, entry) for one in marked for path, entry in one.labels])


def _matched(images: Mapping[str, Path], labels: Iterable[Path]) -> dict[Path, str | None]:
    """The image of each file of labels, by name; a place in the name does not count."""
    stems = {one: PLACED.sub("", stem_of(one)) for one in labels}
    stems = {
        one: stem if stem in images or not is_annotation(one) else _without_suffix(stem, images)
        for one, stem in stems.items()
    }
    found = match_stems(set(stems.values()), images)
    return {one: found[stem] for one, stem in stems.items()}


def _without_suffix(stem: str, images: Mapping[str, Path]) -> str:
    """The stem of `a.png.geojson`, which QuPath writes for `a.png`."""
    return stem_of(Path(stem)) if stem_of(Path(stem)) in images else stem


def _listed(path: Path) -> MarkedLayout:
    """The images of a CSV; one that is named again has several files of labels."""
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(
            f"the list {path} cannot be read ({error}); give a CSV with the columns image,labels"
        ) from error
    head = [name.strip().lower() for name in rows[0]] if rows else []
    if sorted(head) != sorted(_COLUMNS):
        raise DataError(f"the list {path} has the columns {', '.join(head) or 'none'}; expected image,labels")
    of: dict[Path, list[Path]] = {}
    for number, row in enumerate(rows[1:], 2):
        fields = {name: field.strip() for name, field in zip(head, row, strict=False)}
        if not any(fields.values()):
            continue
        if not (fields.get("image") and fields.get("labels")) or len(row) > len(head):
            raise DataError(f"line {number} of {path} has not one image and one file of labels; write image,labels")
        of.setdefault(Path(fields["image"]), []).append(Path(fields["labels"]))
    for one in (*of, *(label for labels in of.values() for label in labels)):
        if not Path(split_dataset(str(one))[0]).exists():
            raise DataError(f"the list {path} names {one}, which does not exist here; paths count from this folder")
    stems = [stem_of(image) for image in of]
    marked = tuple(
        Marked(
            stem_of(image) if stems.count(stem_of(image)) == 1 else str(image),
            (image,),
            tuple((one, None) for one in labels),
        )
        for image, labels in of.items()
    )
    if not marked:
        raise DataError(f"the list {path} names no image")
    return MarkedLayout(f"{path.name}: {len(marked)} images and their labels", marked)
