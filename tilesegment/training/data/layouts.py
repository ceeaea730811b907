"""Which image belongs to which label: the ways in which people keep labelled images, found in a folder."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from tilesegment.errors import DataError
from tilesegment.images.zarr_metadata import node

_IMAGES = ("images", "imgs", "image", "img", "imagesTr")
_LABELS = ("labels", "masks", "label", "mask", "labelsTr")
_SUFFIXED = ("train", ("train_masks", "train_labels"))
_VOC = ("JPEGImages", ("SegmentationClassPNG", "SegmentationClass"))  # in labelme's export the latter may hold .npy
_NESTED = ("train", "training", "data")
# what may be added to the stem of a label, and of an image (nnU-Net's first channel)
_LABEL_SUFFIXES = ("_mask", "_masks", "_label", "_labels", "_seg", "_segmentation")
_IMAGE_SUFFIXES = ("_0000", "_image", "_img")
_NOT_IMAGES = {".txt", ".json", ".csv", ".xml", ".md", ".db", ".ini", ".yaml", ".yml", ".npy"}
_EXPECTED = (
    "images/ and labels/ with files of equal names (also imgs/ and masks/, train/ and train_masks/, JPEGImages/ and "
    "SegmentationClass/), NAME-volume.tif and NAME-labels.tif, or NAME.zarr with a label in it"
)


@dataclass(frozen=True)
class Pair:
    """An image and its label, each a file or the folder of a Zarr image, under the stem of the image's file."""

    name: str
    image: Path
    label: Path


@dataclass(frozen=True)
class Layout:
    """How a data set is kept.

    Attributes:
        words: for the user.
        pairs: sorted by name.
        voc: labels are those of Pascal VOC: the indices of a palette are the classes, 255 means not labelled.
        names: of the classes by value, where a file tells them.
        warnings: what was left out, a sentence each.
    """

    words: str
    pairs: tuple[Pair, ...]
    voc: bool = False
    names: Mapping[int, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def find_layout(path: Path) -> Layout:
    """The labelled images in the folder `path`, or in its folder train/, training/ or data/.

    Raises:
        DataError: no layout that is known, an image without its label or the other way round.
        ImageError: a Zarr store with damaged metadata.
    """
    if not path.exists():
        raise DataError(f"there is no folder {path}; name the one that holds {_EXPECTED}")
    if path.is_file():
        raise DataError(f"{path} is a file; name the folder that holds {_EXPECTED}")
    for folder in (path, *(path / name for name in _NESTED)):
        for find in (_folders, _volumes, _zarr):
            layout = find(folder) if folder.is_dir() else None
            if layout is not None:
                return layout if folder == path else replace(layout, words=f"{folder.name}/ with {layout.words}")
    raise DataError(_unknown(path))


def _unknown(path: Path) -> str:
    """What to say of a folder in no layout that is known."""
    names = sorted(p.name + "/" * p.is_dir() for p in path.iterdir()) if path.is_dir() else []
    found = ", ".join(names[:6]) + (", ..." if len(names) > 6 else "") if names else "nothing"
    lacking = "labels" if path.is_dir() and any((path / name).is_dir() for name in _IMAGES) else "images"
    return f"{path} has no folder {lacking}/; expected {_EXPECTED}; found {found}"


def _folders(folder: Path) -> Layout | None:
    """A folder of images beside one of labels."""
    there = {p.name for p in folder.iterdir() if p.is_dir()}
    images, labels = ([name for name in names if name in there] for names in (_IMAGES, _LABELS))
    if images and labels and len(images) + len(labels) > 2:
        several = "/, ".join(images if len(images) > 1 else labels)
        raise DataError(f"{folder} holds {several}/; keep one folder of images and one of labels, move the others away")
    for image, candidates in (_VOC, _SUFFIXED):
        label = next((name for name in candidates if name in there), None)
        if not (images and labels) and image in there and label is not None:
            images, labels = [image], [label]
    if not (images and labels):
        return None
    voc = images[0] == _VOC[0]
    pairs, alone = _paired(folder / images[0], folder / labels[0], lenient=voc)
    left = tuple(f"{path} has no label and is left out ({len(alone)} such)" for path in alone[:1])
    words = f"{images[0]}/ and {labels[0]}/, paired by name" + (" (Pascal VOC)" if voc else "")
    return Layout(words, pairs, voc, _class_names(folder) if voc else {}, left)


def _paired(images: Path, labels: Path, *, lenient: bool) -> tuple[tuple[Pair, ...], list[Path]]:
    """The pairs in two folders, and the images without a label, which there may be only where `lenient`."""
    by_stem = _files(images)
    cores = {_core(stem, _IMAGE_SUFFIXES): stem for stem in by_stem}
    by_image: dict[str, Path] = {}
    for stem, path in _files(labels).items():
        core = _core(stem, _LABEL_SUFFIXES)
        image = next((s for s in (stem, core, cores.get(stem), cores.get(core)) if s in by_stem), None)
        if image is None:
            raise DataError(f"{path} has no image; expected {images / core}.*, or remove it")
        if image in by_image:
            raise DataError(f"{by_stem[image]} has two labels, {by_image[image].name} and {path.name}; keep one")
        by_image[image] = path
    alone = [path for stem, path in by_stem.items() if stem not in by_image]
    if alone and not lenient:
        expected = f"{labels / alone[0].stem}.*"
        raise DataError(f"{alone[0]} has no label; expected {expected}, or remove it ({len(alone)} such)")
    if not by_image:
        raise DataError(f"{images if not by_stem else labels} is empty; expected labelled images")
    return tuple(Pair(stem, by_stem[stem], by_image[stem]) for stem in sorted(by_image)), alone


def _files(folder: Path) -> dict[str, Path]:
    """What may be an image in `folder`, by stem, sorted."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() in _NOT_IMAGES or path.name == "Thumbs.db":
            continue
        if path.is_dir() and node(path) is None:
            raise DataError(f"{path} is a folder; expected the images themselves in {folder}, move them up")
        stem = path.stem.removesuffix(".ome")
        if stem in found:
            raise DataError(f"{folder} holds several files of one stem, {stem}; keep one of each")
        found[stem] = path
    return found


def _core(stem: str, suffixes: Sequence[str]) -> str:
    """`stem` without the first of `suffixes` that it ends with."""
    return next((stem.removesuffix(s) for s in suffixes if stem.endswith(s)), stem)


def _class_names(folder: Path) -> dict[int, str]:
    """Names by id from labelme's class_names.txt, a line each; `__ignore__`, which has no id, may come first."""
    path = folder / "class_names.txt"
    if not path.is_file():
        return {}
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    names = [line.strip() for line in lines if line.strip() != "__ignore__"]
    return {number: name for number, name in enumerate(names) if name}


def _volumes(folder: Path) -> Layout | None:
    """The stacks of the ISBI challenges: NAME-volume.tif and NAME-labels.tif."""
    files = {p.name: p for p in sorted(folder.iterdir()) if p.is_file()}
    pairs, alone = [], []
    for name, path in files.items():
        if path.stem.endswith("-volume") and path.suffix in (".tif", ".tiff"):
            label = files.get(name.replace("-volume.", "-labels."))
            if label is None:
                alone.append(f"{name} has no {name.replace('-volume.', '-labels.')} and is left out")
            else:
                pairs.append(Pair(path.stem, path, label))
    if not pairs:
        return None
    return Layout(", ".join(f"{p.image.name} and {p.label.name}" for p in pairs), tuple(pairs), warnings=tuple(alone))


def _zarr(folder: Path) -> Layout | None:
    """An OME-Zarr image with a label in it, a label of one, or a folder of such images."""
    if node(folder) is not None:
        if folder.parent.name == "labels" and node(folder.parent.parent) is not None:
            pair = Pair(_zarr_name(folder.parent.parent), folder.parent.parent, folder)
        else:
            pair = _zarr_pair(folder)
        return Layout(f"{pair.image.name} with labels/{pair.label.name} in it", (pair,))
    stores = [p for p in sorted(folder.iterdir()) if p.suffix == ".zarr" and p.is_dir() and node(p) is not None]
    if not stores:
        return None
    pairs = [_zarr_pair(store) for store in stores]
    return Layout("OME-Zarr images with labels/ in them", tuple(sorted(pairs, key=lambda pair: pair.name)))


def _zarr_name(store: Path) -> str:
    return store.stem.removesuffix(".ome")


def _zarr_pair(store: Path) -> Pair:
    """The image in the folder `store` and its only label."""
    folder = store / "labels"
    names = [p.name for p in sorted(folder.iterdir()) if p.is_dir() and node(p)] if folder.is_dir() else []
    if not names:
        raise DataError(f"{store} has no label; expected one in {folder}/, or remove the image")
    if len(names) > 1:
        raise DataError(f"{store} has the labels {', '.join(names)}; name one as the data: {folder / names[0]}")
    return Pair(_zarr_name(store), store, folder / names[0])
