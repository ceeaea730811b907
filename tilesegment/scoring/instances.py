"""Read prediction and truth as ids of objects: ids as they are, outlines rasterised, regions of classes numbered."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from skimage.measure import label as label_regions

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.labels.geojson import is_geojson
from tilesegment.labels.label import Label, LabelOptions, check_same_size, open_label
from tilesegment.labels.outlines import Outlines, label_of, read_outlines
from tilesegment.labels.scanning import (
    MOST_CLASSES,
    PIECES_OF_CLASS,
    Pieces,
    Scan,
    distinct,
    look_like_objects,
    pieces_of,
)
from tilesegment.masks.reader import recorded_classes
from tilesegment.scoring.inputs import Pair

VOID = -1  # replaces the ignored value of the truth
_LARGEST = 4096 * 4096  # pixels of the largest plane whose regions are numbered here
_SIDE = 1024  # of the blocks that are looked at
_SAMPLES = 16  # files that are looked at, and blocks with objects, of prediction and truth each

_T = TypeVar("_T")


@dataclass(frozen=True)
class Reading:
    """What the values of the files of one side, prediction or truth, stand for."""

    kind: Literal["ids", "classes"]  # the objects of classes are the 4-connected regions of each class but 0
    certain: bool  # whether the files say so, or many values that lie in one piece each
    note: str | None  # what the user should know


def read_as(what: str, paths: Sequence[Path], options: LabelOptions) -> Reading:
    """Look at some blocks of files, and decide what their values stand for; `what` is "prediction" or "truth".

    Raises:
        ImageError, MaskError: a file cannot be read.
        DataError: its values are neither ids nor classes.
    """
    if all(map(is_geojson, paths)):
        return Reading("ids", True, None)
    for path in paths:
        classes = recorded_classes(path, probabilities=False)
        if classes is not None:
            names = ", ".join(one.name for one in classes[1:])
            return Reading(
                "classes", True, f"the {what} holds classes: its objects are the 4-connected regions of {names}"
            )
        if recorded_classes(path, probabilities=True) is not None:
            raise _no_ids(path)
    scans = list(_sample(what, _spread(paths, _SAMPLES)[:_SAMPLES], options))
    values = {value for one in scans for value in one.values if value != 0}
    pieces = Pieces.of(block for one in scans for block in one.blocks)
    if look_like_objects(scans):
        return Reading("ids", not any(one.names for one in scans), None)
    if not values:
        return Reading("ids", False, None)
    if len(values) == 1:
        held = f"one value besides 0, {values.pop()}"
    elif pieces.number > PIECES_OF_CLASS * pieces.values:
        if len(values) > MOST_CLASSES:
            raise DataError(
                f"the {what} holds {len(values)} values in {pieces.number / pieces.values:.0f} connected pieces each, "
                f"such as {', '.join(map(str, sorted(values)[:3]))}; expected ids of objects, or up to {MOST_CLASSES} "
                "classes: save labels as PNG or TIFF, not as JPEG, and without smoothing"
            )
        held = f"values in {pieces.number / pieces.values:.0f} connected pieces each"
    else:
        return Reading("ids", False, f"the values of the {what} are read as ids of objects")
    return Reading("classes", False, f"the {what} holds {held}: its objects are the 4-connected regions of each value")


def _sample(what: str, paths: Sequence[Path], options: LabelOptions) -> Iterator[Scan]:
    """Scan some blocks that are not empty, of each file, for their values and connected pieces."""
    for path in paths:
        with open_label(path, options) as label:
            found = Scan.of(f"{what} {path}", path.name, label)
            blocks = [(z, r) for z in range(label.planes) for r in Region.of_shape(label.shape).squares(_SIDE)]
            filled, most = 0, -(-_SAMPLES // len(paths))
            for z, region in _spread(blocks, most):
                pixels = label.read(region, z)
                if what == "truth" and options.ignore is not None:
                    pixels = np.where(pixels == options.ignore, 0, pixels)
                held = distinct(pixels)
                if not (held == np.rint(held)).all():  # NaN too
                    raise _no_ids(path)
                found.values.update(map(int, held))
                found.blocks.append(pieces_of(pixels, held))
                filled += bool((held != 0).any())
                if filled == most:
                    break
            yield found


def _no_ids(path: Path) -> DataError:
    return DataError(
        f"{path} holds numbers that are not whole, such as probabilities; objects are scored of masks and of ids: "
        "write a mask with tileseg predict, or ids with tileseg objects"
    )


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """Reorder items so that the first `count` are spread evenly over all."""
    step = max(len(items) // count, 1)
    return [item for first in range(step) for item in items[first::step]]


@contextmanager
def open_objects(
    pair: Pair, prediction: Reading, truth: Reading, options: LabelOptions
) -> Iterator[tuple[Label, Label]]:
    """Open prediction and truth as ids of objects, 0 for background; the truth is VOID where it is ignored.

    Raises:
        ImageError, MaskError: one of them, or the image, cannot be read, or is not finished.
        DataError: they differ in size, have several channels instead of one, or are too large for regions of classes.
    """
    names = f"prediction {pair.prediction}", f"truth {pair.truth}"
    with ExitStack() as stack:
        image = None
        if pair.image is not None:
            source = stack.enter_context(open_image(pair.image, invert=options.invert))
            image = f"image {source.path}", source.shape, source.depth or 1
        files = (pair.prediction, prediction), (pair.truth, truth)
        opened: list[Label | Outlines] = [
            read_outlines(path) if is_geojson(path) else stack.enter_context(open_label(path, options))
            for path, _ in files
        ]
        shape, planes = _size_of(opened, image)
        labels = [
            label_of(one, shape, planes, name) if isinstance(one, Outlines) else one
            for one, name in zip(opened, names, strict=True)
        ]
        check_same_size(names[0], labels[0].shape, labels[0].planes, names[1], labels[1])
        if image is not None:
            check_same_size(*image, names[1], labels[1])
        ignored = None, options.ignore
        yield tuple(  # type: ignore[misc]
            _as_ids(label, path, reading, void)
            for label, (path, reading), void in zip(labels, files, ignored, strict=True)
        )


def _size_of(
    opened: Sequence[Label | Outlines], image: tuple[str, tuple[int, int], int] | None
) -> tuple[tuple[int, int], int]:
    """Height, width and planes: of a label image, else of the image, else of what holds all outlines."""
    for one in opened:
        if isinstance(one, Label):
            return one.shape, one.planes
    if image is not None:
        return image[1:]
    outlines = [one for one in opened if isinstance(one, Outlines)]
    heights, widths = zip(*(one.extent for one in outlines), strict=True)
    return (max(heights), max(widths)), max(int(one.planes.max(initial=0)) for one in outlines) + 1


def _as_ids(label: Label, path: Path, reading: Reading, ignore: int | None) -> Label:
    """Read a label as ids; VOID where its value is `ignore`."""
    outlines = is_geojson(path)
    numbered: dict[int, np.ndarray] = {}  # the last plane

    def values(region: Region, z: int) -> np.ndarray:
        pixels = label.read(region, z)
        if ignore is None or outlines:
            return pixels
        kept = pixels.astype(np.int64) if pixels.dtype.kind in "ui" else pixels
        return np.where(pixels == ignore, VOID, kept)

    def regions(region: Region, z: int) -> np.ndarray:
        if z not in numbered:
            numbered.clear()
            classes = values(Region.of_shape(label.shape), z)
            void = classes == VOID if ignore is not None else np.zeros(classes.shape, bool)
            ids = label_regions(np.where(void, 0, classes), background=0, connectivity=1)
            numbered[z] = np.where(void, VOID, ids)
        return numbered[z][region.slices]

    if reading.kind == "ids" or outlines:
        return replace(label, read=values)
    if label.shape[0] * label.shape[1] > _LARGEST:
        raise DataError(
            f"{path} holds classes in {label.shape[0]} x {label.shape[1]} pixels; their regions are numbered here up "
            f"to 4096 x 4096: run tileseg objects {path} --out labels.zarr first, and give that file"
        )
    return replace(label, read=regions)
