"""Labelled images as people keep them: a folder with `images/` and `labels/`, files paired by their stems."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import DataError, ImageError
from tilesegment.geometry import Region
from tilesegment.header import Normalisation
from tilesegment.images import open_image
from tilesegment.metadata import LabelClass, PixelSize, default_colours

# more distinct values than this is no set of classes but a grey image, a smoothed mask or one saved as JPEG
_MOST_CLASSES = 32
_LARGEST = 65_535  # of uint16; a float label beyond it is no class either


@dataclass(frozen=True)
class Section:
    """One labelled image.

    Attributes:
        name: stem of its file, with the plane's number where the file is a stack.
        image: (C, H, W) in the file's dtype.
        label: (H, W) uint8 class ids.
    """

    name: str
    image: np.ndarray
    label: np.ndarray


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one kind.

    Attributes:
        sections: in the order of their names.
        classes: in the order of their values in the label files.
        pixel_size: of the images, where all agree.
    """

    sections: tuple[Section, ...]
    classes: tuple[LabelClass, ...]
    pixel_size: PixelSize | None

    def split(self, share: float) -> tuple[tuple[Section, ...], tuple[Section, ...]]:
        """Sections to train on, and the last `share` of them, held out.

        The held-out ones are one contiguous range: neighbours in a stack are nearly the same image, a random split
        would test on what was trained on.
        """
        held = min(round(share * len(self.sections)), len(self.sections) - 1)
        if share > 0 and len(self.sections) > 1:
            held = max(held, 1)
        cut = len(self.sections) - held
        return self.sections[:cut], self.sections[cut:]

    def shares(self) -> tuple[float, ...]:
        """Part of all labelled pixels that each class has."""
        counts = np.sum([np.bincount(s.label.ravel(), minlength=len(self.classes)) for s in self.sections], axis=0)
        return tuple(float(count) for count in counts / counts.sum())


def open_dataset(folder: str | Path, names: Sequence[str] | None = None) -> Dataset:
    """Reads the labelled images in `folder`: `images/` and `labels/` with equal stems.

    Args:
        folder: holds the two folders. A file may be a stack; then its label is one, too.
        names: of the classes, in the order of their values in the labels.

    Raises:
        DataError: no such folders, an image without its label or the other way round, sizes that differ, labels that
            hold no classes, images of several kinds.
        ImageError: a file that cannot be read.
    """
    pairs = _pairs(Path(folder))
    loaded = [(stem, *_load(image), *_load(label)) for stem, image, label in pairs]
    raw: list[tuple[str, np.ndarray, np.ndarray]] = []
    for stem, planes, _, labels, _ in loaded:
        if len(planes) != len(labels):
            raise DataError(f"{stem}: {len(planes)} planes in the image, {len(labels)} in its label; expected as many")
        for z, (image, label) in enumerate(zip(planes, labels, strict=True)):
            raw.append((stem if len(planes) == 1 else f"{stem}[{z}]", image, label))
    _check(raw)
    values = _values(raw)
    sizes = {pixel_size for _, _, pixel_size, _, _ in loaded}
    sections = tuple(Section(n, i, np.searchsorted(values, lab[0]).astype(np.uint8)) for n, i, lab in raw)
    return Dataset(sections, _classes(values, names), sizes.pop() if len(sizes) == 1 else None)


def normalisation_of(sections: Sequence[Section]) -> Normalisation:
    """Mean and standard deviation of each channel over all pixels of `sections`."""
    flat = np.concatenate([s.image.reshape(len(s.image), -1) for s in sections], axis=1)
    mean, std = flat.mean(1, dtype=np.float64), flat.std(1, dtype=np.float64)
    if not np.all(np.isfinite(std)) or std.min() <= 0:
        raise DataError("the training images are constant or hold NaN in a channel; there is nothing to learn from")
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)), str(flat.dtype))


def _pairs(folder: Path) -> list[tuple[str, Path, Path]]:
    """Stem, image and label, sorted by stem."""
    found: list[dict[str, Path]] = []
    for part in ("images", "labels"):
        if not (folder / part).is_dir():
            raise DataError(f"{folder} has no folder {part}/; expected images/ and labels/ with files of equal names")
        files = [path for path in sorted((folder / part).iterdir()) if not path.name.startswith(".")]
        by_stem = {path.stem: path for path in files}
        if len(by_stem) < len(files):
            raise DataError(f"{folder / part} holds several files of one stem; keep one of each")
        found.append(by_stem)
    images, labels = found
    for have, lack, what in ((images, labels, "label"), (labels, images, "image")):
        alone = sorted(have.keys() - lack.keys())
        if alone:
            wanted = f"{folder / what}s/{alone[0]}.*"
            raise DataError(f"{have[alone[0]]} has no {what}; expected {wanted}, or remove it ({len(alone)} such)")
    if not images:
        raise DataError(f"{folder / 'images'} is empty; expected labelled images")
    return [(stem, images[stem], labels[stem]) for stem in sorted(images)]


def _load(path: Path) -> tuple[list[np.ndarray], PixelSize | None]:
    """All planes of a file, each (C, H, W), and its pixel size."""
    with open_image(path) as source:
        whole = Region.of_shape(source.shape)
        return [source.read(whole, 0, z) for z in range(source.depth or 1)], source.pixel_size


def _check(raw: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> None:
    """Whether the images are of one kind and fit their labels."""
    first = raw[0][1]
    for name, image, label in raw:
        if (len(image), image.dtype) != (len(first), first.dtype):
            raise DataError(
                f"{name} has {len(image)} channels of {image.dtype}, {raw[0][0]} has {len(first)} of {first.dtype}; "
                "all images must be of one kind"
            )
        if len(label) != 1:
            raise DataError(f"label {name} has {len(label)} channels; expected one grey value a pixel, the class")
        if image.shape[1:] != label.shape[1:]:
            raise DataError(f"label {name} is {_size(label)}, its image {_size(image)}; they must be of one size")
        if image.dtype.kind == "f" and not np.isfinite(image).all():
            raise ImageError(f"image {name} holds NaN or infinity; replace them before training")


def _size(pixels: np.ndarray) -> str:
    return f"{pixels.shape[1]} x {pixels.shape[2]} (y, x)"


def _values(raw: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> np.ndarray:
    """The grey values that stand for classes in all the labels, ascending."""
    values = np.zeros(0, dtype=np.int64)
    for name, _, label in raw:
        here = np.unique(label)
        whole = np.all(np.isfinite(here)) and np.all(here == np.rint(here))
        if here.size > _MOST_CLASSES or not whole or here[0] < 0 or here[-1] > _LARGEST:
            raise DataError(
                f"label {name} holds {here.size} values from {here[0]} to {here[-1]}; expected at most {_MOST_CLASSES} "
                "whole ones, one a class: save labels as PNG or TIFF without smoothing"
            )
        values = np.union1d(values, here.astype(np.int64))
        if values.size > _MOST_CLASSES:
            raise DataError(f"the labels up to {name} hold {values.size} values; allowed: {_MOST_CLASSES} classes")
    if values.size == 1:
        raise DataError(f"all labels hold one value only, {values[0]}; at least two classes are needed")
    return values


def _classes(values: np.ndarray, names: Sequence[str] | None) -> tuple[LabelClass, ...]:
    if names is None:
        names = [f"value {value}" for value in values]
    if len(names) != values.size or len(set(names)) != len(names):
        given, found = ", ".join(names), ", ".join(map(str, values))
        raise DataError(f"classes {given}: expected {values.size} different names, for the label values {found}")
    colours = default_colours(values.size)
    return tuple(LabelClass(n, c, int(v)) for n, c, v in zip(names, colours, values, strict=True))
