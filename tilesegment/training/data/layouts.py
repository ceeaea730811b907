"""Pair images with labels: find the layout of a folder of labelled images."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

from tilesegment.errors import DataError
from tilesegment.images import is_zarr
from tilesegment.labels.files import (
    Listing,
    core_of,
    is_folder_of_files,
    is_label_name,
    list_images,
    match_stems,
    some_of,
    stem_of,
)
from tilesegment.training.data import drawn
from tilesegment.training.data.pairs import Layout, Pair, words_of

# names of folders, in any case
_IMAGES = ("images", "imgs", "image", "img", "imagestr")
_LABELS = ("labels", "masks", "label", "mask", "labelstr")
_VOC_IMAGES = ("jpegimages",)
_VOC_LABELS = ("segmentationclasspng", "segmentationclass")  # in labelme's export the latter may hold .npy
_MASKS_OF = ("{}_masks", "{}_labels")  # train/ and train_masks/
_TRAIN = ("train", "training", "data")
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test", "testing")
_RESULTS = re.compile(r"_(cp_)?(outlines|flows)$")  # what Cellpose writes beside its masks
_CHANNEL = re.compile(r"(.+)_(\d{4})$")  # nnU-Net's name of one channel of a case
_EXPECTED = (
    "images/ and labels/ with files of equal names (also imgs/ and masks/, train/ and train_masks/, JPEGImages/ and "
    "SegmentationClass/), NAME and NAME_mask (or NAME_masks, image_NAME and mask_NAME) in one folder, NAME-volume.tif "
    "and NAME-labels.tif, NAME.geojson or labelme's NAME.json beside NAME.png, COCO's annotations.json, or NAME.zarr "
    "with a label in it"
)


def find_layout(path: Path) -> Layout:
    """Find the labelled images in the folder `path`, or in its folder train/, training/ or data/.

    Those in a folder val/, valid/ or validation/ beside them are held out.

    Raises:
        DataError: no known layout, an image without a label, or a label without an image.
        ImageError: a Zarr store with damaged metadata.
    """
    if not path.is_dir():
        found = f"{path} is a file; name the folder" if path.exists() else f"there is no folder {path}; name the one"
        raise DataError(f"{found} that holds {_EXPECTED}")
    for name in ("", *_TRAIN):
        layout = _found(path, name)
        if layout is not None:
            return _with_validation(path, layout)
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir())
    lacking = "labels" if _named(path, _IMAGES) else "images"
    raise DataError(f"{path} has no folder {lacking}/; expected {_EXPECTED}; found {some_of(names, 6) or 'nothing'}")


def folders_of(path: Path) -> tuple[Path, Path] | None:
    """Return the folder of images and that of labels or outlines in the folder `path`, if it has one of each."""
    images, labels = _named(path, _IMAGES), _named(path, (*_LABELS, *drawn.ANNOTATIONS))
    return (images[0], labels[0]) if len(images) == len(labels) == 1 else None


def _found(path: Path, name: str) -> Layout | None:
    """The labelled images in the folder NAME/ of `path`, or in images/NAME/; "" is `path` itself."""
    if not name:
        return _within(path)
    layout = _part(path, name) or drawn.coco(path, name)
    for folder in _named(path, (name,)):
        inner = None if layout else _within(folder)
        layout = replace(inner, words=f"{folder.name}/ with {inner.words}") if inner else layout
    return layout


def _within(folder: Path) -> Layout | None:
    """The labelled images in a folder."""
    layout = _folders(folder) or _one_folder(folder) or _zarr(folder)
    return layout or drawn.beside_images(folder) or drawn.coco(folder)


def _with_validation(path: Path, layout: Layout) -> Layout:
    """Add the held-out images of val/ to the layout, and a note on test/, which training never uses."""
    unused = [f"{folder.name}/ is not used" for folder in _named(path, _TEST)]
    layout = replace(layout, words="; ".join([layout.words, *unused]))
    for name in _VALIDATION:
        held_out = _found(path, name)
        if held_out is not None:
            return replace(
                layout,
                words=f"{layout.words}; held out: {held_out.words}",
                held_out=tuple(replace(pair, name=f"{name}/{pair.name}") for pair in held_out.pairs),
                warnings=layout.warnings + held_out.warnings,
            )
    left = [f"{f} holds no labelled images that are found and is left out" for f in _named(path, _VALIDATION)]
    beside = _named(path.resolve().parent, _VALIDATION) if path.resolve().name.lower() in _TRAIN[:2] else []
    left += [f"{f.name}/ beside {path}/ is not used; name the folder of both to hold it out" for f in beside]
    return replace(layout, warnings=(*layout.warnings, *left))


def _named(path: Path, names: Sequence[str]) -> list[Path]:
    """The folders in `path`, except Zarr stores, with one of these names, in the order of the names.

    Raises:
        DataError: two names differ only in case.
    """
    folders = [one for one in sorted(path.iterdir()) if one.name.lower() in names and is_folder_of_files(one)]
    for one, other in pairwise(folders):
        if one.name.lower() == other.name.lower():
            raise DataError(f"{path} holds {one.name}/ and {other.name}/; keep one of both")
    return sorted(folders, key=lambda one: names.index(one.name.lower()))


def _part(path: Path, name: str) -> Layout | None:
    """The labelled images in images/NAME/ and labels/NAME/, or in NAME/ and NAME_masks/."""
    inner = [[part for one in _named(path, names) for part in _named(one, (name,))] for names in (_IMAGES, _LABELS)]
    beside = [_named(path, names) for names in ((name,), [form.format(name) for form in _MASKS_OF])]
    found = next((one for one in (inner, beside) if one[0] and one[1]), None)
    return _layout(path, found[0][0], found[1][0]) if found else None


def _folders(folder: Path) -> Layout | None:
    """A folder of images beside one of labels."""
    images, labels = _named(folder, _IMAGES), _named(folder, _LABELS)
    if images and labels:
        if len(images) + len(labels) > 2:
            several = "/, ".join(sorted(one.name for one in (images if len(images) > 1 else labels)))
            raise DataError(
                f"{folder} holds {several}/; keep one folder of images and one of labels, move the others away"
            )
        parts = [{part.name.lower() for part in _named(one[0], _TRAIN)} for one in (images, labels)]
        return None if parts[0] & parts[1] else _layout(folder, images[0], labels[0])
    images, labels = _named(folder, _VOC_IMAGES), _named(folder, _VOC_LABELS)
    return _layout(folder, images[0], labels[0], voc=True) if images and labels else None


def _layout(folder: Path, images: Path, labels: Path, *, voc: bool = False) -> Layout:
    """The pairs in two folders; in Pascal VOC images may lack a label."""
    listings = list_images(images), list_images(labels)
    if listings[0].images and not (listings[1].images or listings[1].folders):
        if layout := drawn.coco(folder):
            return layout
        listings = listings[0], drawn.list_drawn(labels, listings[0].images)
    pairs, alone = _paired(*listings)
    if alone and not voc:
        expected = f"{labels / stem_of(alone[0])}.*"
        raise DataError(f"{alone[0]} has no label; expected {expected}, or remove it ({len(alone)} such)")
    if not pairs:
        raise DataError(f"{labels if listings[0].images else images} is empty; expected labelled images")
    words = f"{images.relative_to(folder)}/ and {labels.relative_to(folder)}/, paired by name" + " (Pascal VOC)" * voc
    channels = max(len(pair.images) for pair in pairs)
    words += f", a file for each of {channels} channels" * (channels > 1)
    warnings = [note for listing in listings for note in listing.notes([pair.name for pair in pairs])]
    warnings += [f"{path} has no label and is left out ({len(alone)} such)" for path in alone[:1]]
    told = _class_names(folder) if voc else _nnunet_labels(folder)
    ignore = told.pop("ignore", None)
    return Layout(words, pairs, (), voc, {value: name for name, value in told.items()}, ignore, tuple(warnings))


def _paired(images: Listing, labels: Listing) -> tuple[tuple[Pair, ...], list[Path]]:
    """The pairs in two folders, and the images without a label."""
    for listing in (images, labels):
        if not listing.images and listing.folders:
            inner = listing.folders[0]
            raise DataError(f"{inner} is a folder; expected the images themselves in {listing.folder}, move them up")
    there = _with_channels(images.images, labels.images)
    by_image: dict[str, Path] = {}
    for stem, image in match_stems(labels.images, there).items():
        path = labels.images[stem]
        if image is None:
            raise DataError(f"{path} has no image; expected {images.folder / core_of(stem)}.*, or remove it")
        if image in by_image:
            raise DataError(f"{there[image][0]} has two labels, {by_image[image].name} and {path.name}; keep one")
        by_image[image] = path
    alone = [paths[0] for stem, paths in there.items() if stem not in by_image]
    return tuple(Pair(stem, there[stem], by_image[stem]) for stem in sorted(by_image)), alone


def _with_channels(images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """The images, with the channels of an nnU-Net case (case_0000, case_0001, label case) joined."""
    cases: dict[str, list[str]] = {}
    for stem in sorted(images):
        found = _CHANNEL.match(stem)
        if found is not None and stem not in labels and found[1] in labels and found[1] not in images:
            cases.setdefault(found[1], []).append(stem)
    joined: dict[str, tuple[Path, ...]] = {stem: (path,) for stem, path in images.items()}
    for case, stems in cases.items():
        if len(stems) == 1:
            continue
        lacking = [name for name in (f"{case}_{number:04}" for number in range(len(stems))) if name not in stems]
        if lacking:
            raise DataError(
                f"the case {case} has {len(stems)} channels, but no {lacking[0]}.*; add it, or renumber them"
            )
        joined[case] = tuple(images[stem] for stem in stems)
        for stem in stems:
            del joined[stem]
    return joined


def _one_folder(folder: Path) -> Layout | None:
    """Images and labels in one folder, distinguished by their names: Cellpose's NAME_masks, mask_NAME, ..."""
    listing = list_images(folder)
    files = {stem: path for stem, path in listing.images.items() if not _RESULTS.search(stem) and path.is_file()}
    parts = [{s: path for s, path in files.items() if is_label_name(s) == is_label} for is_label in (False, True)]
    images, labels = (replace(listing, images=part, folders=()) for part in parts)
    if not any(match_stems(labels.images, images.images).values()):
        return None
    pairs, alone = _paired(images, labels)
    left = [f"{some_of([path.name for path in alone])}: no label, left out"] if alone else []
    return Layout(words_of(pairs), pairs, warnings=(*listing.notes([pair.name for pair in pairs]), *left))


def _class_names(folder: Path) -> dict[str, int]:
    """Ids by name from labelme's class_names.txt, one per line; `__ignore__`, which has no id, may come first."""
    path = folder / "class_names.txt"
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.is_file() else []
    names = [line.strip() for line in lines if line.strip() != "__ignore__"]
    return {name: number for number, name in enumerate(names) if name}


def _nnunet_labels(folder: Path) -> dict[str, int]:
    """The labels of nnU-Net's dataset.json, values by names: {"background": 0}, in older ones {"0": "background"}."""
    try:
        labels = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))["labels"]
        pairs = [(name, value) if isinstance(value, int) else (value, int(name)) for name, value in labels.items()]
        return {" ".join(str(name).split()): value for name, value in pairs}
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # none, or one of another kind
        return {}


def _zarr(folder: Path) -> Layout | None:
    """An OME-Zarr image with a label in it, a label of one, or a folder of such images."""
    if is_zarr(folder):
        store = folder.parent.parent
        is_label = folder.parent.name == "labels" and is_zarr(store)
        pair = Pair(stem_of(store), (store,), folder) if is_label else _zarr_pair(folder)
        return Layout(f"{pair.images[0].name} with labels/{pair.label.name} in it", (pair,))
    stores = [path for path in folder.iterdir() if path.suffix == ".zarr" and path.is_dir() and is_zarr(path)]
    pairs = sorted(map(_zarr_pair, stores), key=lambda pair: pair.name)
    return Layout("OME-Zarr images with labels/ in them", tuple(pairs)) if pairs else None


def _zarr_pair(store: Path) -> Pair:
    """The image in the folder `store` and its only label."""
    folder = store / "labels"
    names = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and is_zarr(p)] if folder.is_dir() else []
    if not names:
        raise DataError(f"{store} has no label; expected one in {folder}/, or remove the image")
    if len(names) > 1:
        raise DataError(f"{store} has the labels {', '.join(names)}; name one as the data: {folder / names[0]}")
    return Pair(stem_of(store), (store,), folder / names[0])
