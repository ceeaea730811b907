"""Which image belongs to which label: the ways in which people keep labelled images, found in a folder."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tilesegment.errors import DataError
from tilesegment.labels import Listing, is_folder_of_files, list_images, match_stems, stem_of
from tilesegment.labels.files import core_of, is_label_name
from tilesegment.ome_zarr.node import is_zarr

# names of folders, in any case
_IMAGES = ("images", "imgs", "image", "img", "imagestr")
_LABELS = ("labels", "masks", "label", "mask", "labelstr")
_VOC = ("jpegimages", "segmentationclasspng", "segmentationclass")  # in labelme's export the latter may hold .npy
_MASKS_OF = ("{}_masks", "{}_labels")  # train/ and train_masks/
_TRAIN = ("train", "training", "data")
_VALIDATION = ("val", "valid", "validation")
_TEST = ("test", "testing")
_RESULTS = re.compile(r"_(cp_)?(outlines|flows)$")  # what Cellpose writes beside its masks
_CHANNEL = re.compile(r"(.+)_(\d{4})$")  # nnU-Net's name of one channel of a case
_EXPECTED = (
    "images/ and labels/ with files of equal names (also imgs/ and masks/, train/ and train_masks/, JPEGImages/ and "
    "SegmentationClass/), NAME and NAME_mask (or NAME_masks, image_NAME and mask_NAME) in one folder, NAME-volume.tif "
    "and NAME-labels.tif, or NAME.zarr with a label in it"
)


@dataclass(frozen=True)
class Pair:
    """An image and its label.

    Attributes:
        name: stem of the image's file, or of the case if it has a file per channel; `val/stem` in a folder val/.
        images: the file, or the folder of a Zarr image; of nnU-Net's cases the files of all channels in their order.
        label: a file, or the folder of a Zarr image.
    """

    name: str
    images: tuple[Path, ...]
    label: Path


@dataclass(frozen=True)
class Layout:
    """How a data set is kept.

    Attributes:
        words: for the user.
        pairs: sorted by name.
        held_out: those that are kept apart, in a folder val/.
        voc: labels are those of Pascal VOC: the indices of a palette are the classes, 255 means not labelled.
        names: of the classes by value, where a file tells them.
        ignore: the value that means "not labelled", where a file tells it.
        warnings: what was left out or decided, a sentence each.
    """

    words: str
    pairs: tuple[Pair, ...]
    held_out: tuple[Pair, ...] = ()
    voc: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    ignore: int | None = None
    warnings: tuple[str, ...] = ()

    @property
    def both(self) -> tuple[tuple[Pair, ...], tuple[Pair, ...]]:
        """Those to train on, unless more are held out, and those that are held out."""
        return self.pairs, self.held_out

    @property
    def every(self) -> tuple[Pair, ...]:
        """All pairs."""
        return self.pairs + self.held_out


def find_layout(path: Path) -> Layout:
    """The labelled images in the folder `path`, or in its folder train/, training/ or data/.

    Those in a folder val/, valid/ or validation/ beside them are held out.

    Raises:
        DataError: no layout that is known, an image without its label or the other way round.
        ImageError: a Zarr store with damaged metadata.
    """
    if not path.exists():
        raise DataError(f"there is no folder {path}; name the one that holds {_EXPECTED}")
    if path.is_file():
        raise DataError(f"{path} is a file; name the folder that holds {_EXPECTED}")
    for name in ("", *_TRAIN):
        layout = _found(path, name)
        if layout is not None:
            return _with_validation(path, layout)
    raise DataError(_unknown(path))


def _found(path: Path, name: str) -> Layout | None:
    """The labelled images in the folder of `path` with this name, or in images/NAME/; "" is `path` itself."""
    folder = _subfolders(path).get(name) if name else path
    layout = _part(path, name) if name else None
    for find in (_folders, _one_folder, _zarr):
        layout = layout or (find(folder) if folder is not None else None)
    if layout is None or folder is None or folder == path or not layout.pairs[0].label.is_relative_to(folder):
        return layout
    return replace(layout, words=f"{folder.name}/ with {layout.words}")


def _with_validation(path: Path, layout: Layout) -> Layout:
    """The same with the images of val/, which are held out; test/ is named, which no training may use."""
    tests = [f"{folder.name}/ is not used" for folder in _named(path, _TEST)]
    layout = replace(layout, words="; ".join([layout.words, *tests]))
    for name in _VALIDATION:
        held_out = _found(path, name)
        if held_out is not None:
            pairs = tuple(replace(pair, name=f"{name}/{pair.name}") for pair in held_out.pairs)
            words = f"{layout.words}; held out: {held_out.words}"
            return replace(layout, words=words, held_out=pairs, warnings=layout.warnings + held_out.warnings)
    left = [f"{f} holds no labelled images that are found and is left out" for f in _named(path, _VALIDATION)]
    beside = _named(path.resolve().parent, _VALIDATION) if path.resolve().name.lower() in _TRAIN[:2] else []
    left += [f"{f.name}/ beside {path}/ is not used; name the folder of both to hold it out" for f in beside]
    return replace(layout, warnings=(*layout.warnings, *left))


def _named(path: Path, names: Sequence[str]) -> list[Path]:
    """The folders in `path` that have one of these names."""
    return [folder for name, folder in _subfolders(path).items() if name in names]


def _subfolders(path: Path) -> dict[str, Path]:
    """The folders in `path` that are no Zarr stores by their names in lower case."""
    if not path.is_dir():
        return {}
    found: dict[str, Path] = {}
    for folder in sorted(path.iterdir()):
        if folder.is_dir() and not folder.name.startswith(".") and is_folder_of_files(folder):
            if folder.name.lower() in found and folder.name.lower() in (*_IMAGES, *_LABELS, *_TRAIN, *_VALIDATION):
                raise DataError(f"{path} holds {found[folder.name.lower()].name}/ and {folder.name}/; keep one of both")
            found[folder.name.lower()] = folder
    return found


def _unknown(path: Path) -> str:
    """What to say of a folder in no layout that is known."""
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir()) if path.is_dir() else []
    found = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    lacking = "labels" if set(_subfolders(path)) & set(_IMAGES) else "images"
    return f"{path} has no folder {lacking}/; expected {_EXPECTED}; found {found}"


def _part(path: Path, name: str) -> Layout | None:
    """The labelled images in images/NAME/ and labels/NAME/, or in NAME/ and NAME_masks/."""
    images, labels = (_named(path, names) for names in (_IMAGES, _LABELS))
    if len(images) == len(labels) == 1:
        inner = [_subfolders(one).get(name) for one in (images[0], labels[0])]
        if inner[0] is not None and inner[1] is not None:
            return _layout(path, inner[0], inner[1])
    there, masks = _named(path, (name,)), _named(path, [form.format(name) for form in _MASKS_OF])
    return _layout(path, there[0], masks[0]) if there and masks else None


def _folders(folder: Path) -> Layout | None:
    """A folder of images beside one of labels."""
    images, labels = (_named(folder, names) for names in (_IMAGES, _LABELS))
    if images and labels and len(images) + len(labels) > 2:
        several = "/, ".join(one.name for one in (images if len(images) > 1 else labels))
        raise DataError(f"{folder} holds {several}/; keep one folder of images and one of labels, move the others away")
    if images and labels:
        parts = {*_subfolders(images[0])} & {*_subfolders(labels[0])} & {*_TRAIN}
        return None if parts else _layout(folder, images[0], labels[0])
    voc = _named(folder, _VOC[:1]), [one for name in _VOC[1:] for one in _named(folder, (name,))]
    return _layout(folder, voc[0][0], voc[1][0], voc=True) if voc[0] and voc[1] else None


def _layout(folder: Path, images: Path, labels: Path, *, voc: bool = False) -> Layout:
    """The pairs in two folders."""
    listed = list_images(images), list_images(labels)
    pairs, alone = _paired(*listed, lenient=voc)
    left = tuple(f"{path} has no label and is left out ({len(alone)} such)" for path in alone[:1])
    names = [str(one.relative_to(folder)) for one in (images, labels)]
    words = f"{names[0]}/ and {names[1]}/, paired by name" + " (Pascal VOC)" * voc
    channels = max(len(pair.images) for pair in pairs)
    words += f", a file for each of {channels} channels" * (channels > 1)
    notes = (*listed[0].notes([p.name for p in pairs]), *listed[1].notes([p.name for p in pairs]), *left)
    told = {name: value for value, name in _class_names(folder).items()} if voc else _nnunet_labels(folder)
    ignore = told.pop("ignore", None)
    return Layout(words, pairs, (), voc, {value: name for name, value in told.items()}, ignore, notes)


def _paired(images: Listing, labels: Listing, *, lenient: bool) -> tuple[tuple[Pair, ...], list[Path]]:
    """The pairs in two folders, and the images without a label, which there may be only where `lenient`."""
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
    if alone and not lenient:
        expected = f"{labels.folder / alone[0].stem}.*"
        raise DataError(f"{alone[0]} has no label; expected {expected}, or remove it ({len(alone)} such)")
    if not by_image:
        raise DataError(f"{(labels if there else images).folder} is empty; expected labelled images")
    return tuple(Pair(stem, there[stem], by_image[stem]) for stem in sorted(by_image)), alone


def _with_channels(images: Mapping[str, Path], labels: Mapping[str, Path]) -> dict[str, tuple[Path, ...]]:
    """The images, those of nnU-Net's cases of several channels (case_0000, case_0001, label case) as one each."""
    cases: dict[str, list[str]] = {}
    for stem in sorted(images):
        found = _CHANNEL.match(stem)
        if found is not None and stem not in labels and found[1] in labels and found[1] not in images:
            cases.setdefault(found[1], []).append(stem)
    joined: dict[str, tuple[Path, ...]] = {stem: (path,) for stem, path in images.items()}
    for case, stems in cases.items():
        if len(stems) == 1:
            continue
        expected = [f"{case}_{number:04}" for number in range(len(stems))]
        if stems != expected:
            lacking = next(one for one in expected if one not in stems)
            raise DataError(f"the case {case} has {len(stems)} channels, but no {lacking}.*; add it, or renumber them")
        joined[case] = tuple(images[stem] for stem in stems)
        for stem in stems:
            del joined[stem]
    return joined


def _one_folder(folder: Path) -> Layout | None:
    """Images and labels in one folder, told by what is added to their names: Cellpose's NAME_masks, mask_NAME, ..."""
    listing = list_images(folder)
    files = {stem: path for stem, path in listing.images.items() if not _RESULTS.search(stem) and path.is_file()}
    labels = {stem: path for stem, path in files.items() if is_label_name(stem)}
    images = {stem: path for stem, path in files.items() if stem not in labels}
    found = match_stems(labels, images)
    if not any(found.values()):
        return None
    pairs: dict[str, Pair] = {}
    for stem, image in found.items():
        if image is None:
            raise DataError(f"{labels[stem]} has no image; expected {folder / core_of(stem)}.*, or remove it")
        if image in pairs:
            both = f"{pairs[image].label.name} and {labels[stem].name}"
            raise DataError(f"{images[image]} has two labels, {both}; keep one")
        pairs[image] = Pair(image, (images[image],), labels[stem])
    ordered = tuple(pairs[image] for image in sorted(pairs))
    words = ", ".join(f"{p.images[0].name} and {p.label.name}" for p in ordered[:2])
    words += f" and {len(ordered) - 2} more such pairs" if len(ordered) > 2 else ""
    alone = [images[image] for image in sorted(images) if image not in pairs]
    left = tuple(f"{path.name} {_lacking(path, ordered)} and is left out" for path in alone[:3])
    left += (f"{len(alone) - 3} more images have no label and are left out",) if len(alone) > 3 else ()
    return Layout(words, ordered, warnings=(*listing.notes(pairs), *left))


def _lacking(image: Path, pairs: tuple[Pair, ...]) -> str:
    """What an image has none of, in words: the label that would be named as those of the others are."""
    stem, label = pairs[0].name, pairs[0].label
    core = core_of(stem)
    return f"has no {label.stem.replace(core, core_of(image.stem), 1)}{label.suffix}"


def _class_names(folder: Path) -> dict[int, str]:
    """Names by id from labelme's class_names.txt, a line each; `__ignore__`, which has no id, may come first."""
    path = folder / "class_names.txt"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    names = [line.strip() for line in lines if line.strip() != "__ignore__"]
    return {number: name for number, name in enumerate(names) if name}


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
        if folder.parent.name == "labels" and is_zarr(folder.parent.parent):
            pair = Pair(stem_of(folder.parent.parent), (folder.parent.parent,), folder)
        else:
            pair = _zarr_pair(folder)
        return Layout(f"{pair.images[0].name} with labels/{pair.label.name} in it", (pair,))
    stores = [p for p in sorted(folder.iterdir()) if p.suffix == ".zarr" and p.is_dir() and is_zarr(p)]
    if not stores:
        return None
    pairs = [_zarr_pair(store) for store in stores]
    return Layout("OME-Zarr images with labels/ in them", tuple(sorted(pairs, key=lambda pair: pair.name)))


def _zarr_pair(store: Path) -> Pair:
    """The image in the folder `store` and its only label."""
    folder = store / "labels"
    names = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and is_zarr(p)] if folder.is_dir() else []
    if not names:
        raise DataError(f"{store} has no label; expected one in {folder}/, or remove the image")
    if len(names) > 1:
        raise DataError(f"{store} has the labels {', '.join(names)}; name one as the data: {folder / names[0]}")
    return Pair(stem_of(store), (store,), folder / names[0])
