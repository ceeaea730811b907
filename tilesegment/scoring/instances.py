"""Read prediction and truth as ids of objects: ids as they are, outlines rasterised, regions of classes numbered."""

import hashlib
import os
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
from tilesegment.labels.coding import own_values
from tilesegment.labels.geojson import is_geojson
from tilesegment.labels.label import Label, LabelOptions, Read, check_same_size, open_label
from tilesegment.labels.outlines import OutlineLabel, Outlines, label_of, read_outlines
from tilesegment.labels.scanning import (
    MOST_CLASSES,
    PIECES_OF_CLASS,
    Pieces,
    Scan,
    distinct,
    look_like_objects,
    pieces_of,
)
from tilesegment.masks import read_record
from tilesegment.masks.reader import recorded_classes
from tilesegment.masks.spec import spec_from_record
from tilesegment.masks.target import OBJECTS, absolute
from tilesegment.metadata import LabelClass
from tilesegment.objects.find import find_objects
from tilesegment.objects.plan import first_pixel
from tilesegment.objects.settings import ObjectSettings, roles_of
from tilesegment.scoring.inputs import Pair, over, scale_over
from tilesegment.stores import Place

VOID = -1  # replaces the ignored value of the truth
LARGEST = 4096 * 4096  # pixels of the largest plane whose regions are numbered in memory
_SIDE = 1024  # of the blocks that are looked at
_GLANCE = 64  # blocks of a file, at most, where nobody has asked for objects
_SAMPLES = 16  # files that are looked at, and blocks with objects, of prediction and truth each

_T = TypeVar("_T")


@dataclass(frozen=True)
class Reading:
    """What the values of the files of one side, prediction or truth, stand for."""

    kind: Literal["ids", "classes"]  # the objects of classes are the 4-connected regions of each class but 0
    certain: bool  # whether the files say so, or many values that lie in one piece each
    note: str | None  # what the user should know


@dataclass(frozen=True)
class Readings:
    """What the files of both sides hold.

    Attributes:
        prediction, truth: what their values stand for.
        notes: what the user should know of that, one sentence each.
        folder: of files that are needed for a while: the numbered regions of large masks.
    """

    prediction: Reading
    truth: Reading
    notes: tuple[str, ...]
    folder: Path


def read_as(what: str, paths: Sequence[Place], options: LabelOptions, *, at_a_glance: bool = False) -> Reading:
    """Look at some blocks of files, and decide what their values stand for.

    Args:
        what: "prediction" or "truth".
        paths: the files.
        options: how they are opened.
        at_a_glance: look at few blocks even if all of them are empty.

    Raises:
        ImageError, MaskError: a file cannot be read.
        DataError: its values are neither ids nor classes.
    """
    if all(map(is_geojson, paths)):
        return Reading("ids", True, None)
    for path in paths:
        classes = recorded_classes(path, probabilities=False)
        if classes is not None:
            return Reading("classes", True, f"the {what} holds classes: {_objects_of(classes, path)}")
        if _holds_ids(path):
            return Reading("ids", True, None)
        if recorded_classes(path, probabilities=True) is not None:
            raise _no_ids(path)
    scans = list(_sample(what, _spread(paths, _SAMPLES)[:_SAMPLES], options, _GLANCE if at_a_glance else None))
    values = {value for one in scans for value in one.values if value != 0}
    pieces = Pieces.of(block for one in scans for block in one.blocks)
    if look_like_objects(scans):
        return Reading("ids", not any(one.names for one in scans), None)
    if not values:
        return Reading("ids", False, None)
    if len(values) == 1:
        held = f"one value besides 0: {values.pop()}"
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


def _objects_of(classes: tuple[LabelClass, ...], path: Place) -> str:
    """Say which classes make objects."""
    roles = roles_of(ObjectSettings(), classes, str(path))
    taken = ", ".join(classes[number].name for number in roles.taken or ())
    returned = "" if roles.border is None else f", and {classes[roles.border].name} is given back to them"
    return f"its objects are the 4-connected regions of {taken}{returned}"


def _holds_ids(path: Place) -> bool:
    """Whether we wrote ids of objects there."""
    record = read_record(path)
    layout = None if record is None else record.get("layout")
    return isinstance(layout, dict) and layout.get("values") == OBJECTS


def _sample(what: str, paths: Sequence[Place], options: LabelOptions, most_blocks: int | None) -> Iterator[Scan]:
    """Scan some blocks that are not empty, of each file, for their values and connected pieces."""
    for path in paths:
        with open_label(path, options) as label:
            found = Scan.of(f"{what} {path}", path.name, label)
            blocks = [(z, r) for z in range(label.planes) for r in Region.of_shape(label.shape).squares(_SIDE)]
            filled, most = 0, -(-_SAMPLES // len(paths))
            for z, region in _spread(blocks, most)[:most_blocks]:
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


def _no_ids(path: Place) -> DataError:
    return DataError(
        f"{path} holds numbers that are not whole, such as probabilities; objects are scored of masks and of ids: "
        "write a mask with tileseg predict, or ids with tileseg objects"
    )


def _spread(items: Sequence[_T], count: int) -> list[_T]:
    """Reorder items so that the first `count` are spread evenly over all."""
    step = max(len(items) // count, 1)
    return [item for first in range(step) for item in items[first::step]]


@contextmanager
def open_objects(pair: Pair, readings: Readings, options: LabelOptions) -> Iterator[tuple[Label, Label]]:
    """Open prediction and truth as ids of objects, 0 for background; the truth is VOID where it is ignored.

    Raises:
        ImageError, MaskError: one of them, or the image, cannot be read, or is not finished.
        DataError: they differ in size, or have several channels instead of one.
    """
    names = f"prediction {pair.prediction}", f"truth {pair.truth}"
    with ExitStack() as stack:
        image = None
        if pair.image is not None:
            source = stack.enter_context(open_image(pair.image, invert=options.invert))
            image = f"image {source.path}", source.shape, source.depth or 1
        files = (pair.prediction, readings.prediction), (pair.truth, readings.truth)
        opened: list[Label | Outlines] = [
            read_outlines(path)
            if isinstance(path, Path) and is_geojson(path)
            else stack.enter_context(open_label(path, options))
            for path, _ in files
        ]
        opened = [
            _placed(one, other) if isinstance(one, Outlines) else one
            for one, (other, _) in zip(opened, reversed(files), strict=True)
        ]
        shape, planes = _size_of(opened, image)
        labels = [
            label_of(one, shape, planes, name) if isinstance(one, Outlines) else one
            for one, name in zip(opened, names, strict=True)
        ]
        scale = None if is_geojson(pair.prediction) else scale_over(pair.prediction, *labels)
        if scale is None:
            check_same_size(names[0], labels[0].shape, labels[0].planes, names[1], labels[1])
        if image is not None:
            check_same_size(*image, names[1], labels[1])
        prediction, truth = (
            _as_ids(label, path, reading, void, readings.folder, stack)
            for label, (path, reading), void in zip(labels, files, (None, options.ignore), strict=True)
        )
        yield prediction if scale is None else over(prediction, truth, scale), truth


def _placed(outlines: Outlines, other: Place) -> Outlines:
    """Return outlines, which lie in a whole image, in the pixels of the mask or labels of ours that they meet."""
    record = None if is_geojson(other) else read_record(other)
    if record is None or "layout" not in record:
        return outlines
    spec = spec_from_record(record)
    return outlines.within(first_pixel(spec), spec.scale, spec.first_plane)


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


def _as_ids(label: Label, path: Place, reading: Reading, ignore: int | None, folder: Path, stack: ExitStack) -> Label:
    """Read a label as ids; VOID where its value is `ignore`."""
    ids = label.read
    if reading.kind == "classes" and not isinstance(label, OutlineLabel):
        known = None if label.classes is None else roles_of(ObjectSettings(), label.classes, str(path))
        if label.shape[0] * label.shape[1] > LARGEST or (known is not None and known.needs_finding):
            ids = stack.enter_context(
                open_label(_numbered(path, label, ignore, folder), LabelOptions(strict=True))
            ).read
        else:
            ids = _regions(label, None if known is None else known.taken, ignore)
    if ignore is None or isinstance(label, OutlineLabel):
        return replace(label, read=ids)

    def read(region: Region, z: int) -> np.ndarray:
        found, void = ids(region, z), label.read(region, z) == ignore
        return np.where(void, VOID, found.astype(np.int64) if found.dtype.kind in "ui" else found)

    return replace(label, read=read)


def _regions(label: Label, taken: Sequence[int] | None, ignore: int | None) -> Read:
    """Number the 4-connected regions of each value, of those `taken` or of all but 0 and `ignore`, plane by plane."""
    numbered: dict[int, np.ndarray] = {}  # the last plane

    def read(region: Region, z: int) -> np.ndarray:
        if z not in numbered:
            numbered.clear()
            values = _class_ids(label, z)
            left_out = values == ignore if taken is None else ~np.isin(values, taken)
            numbered[z] = label_regions(np.where(left_out, 0, values), background=0, connectivity=1)
        return numbered[z][region.slices]

    return read


def _class_ids(label: Label, z: int) -> np.ndarray:
    """The values of a plane; of a mask of ours whose palette or colours another program changed, its class ids."""
    pixels = label.read(Region.of_shape(label.shape), z)
    if label.classes is None or label.kind == "grey":
        return pixels
    values, places = np.unique(pixels, return_inverse=True)
    scan = Scan("", label.kind, set(values.tolist()), label.colours, classes=label.classes)
    meant = own_values(scan, "mask")
    return np.array([meant[value] for value in values.tolist()])[places].reshape(pixels.shape)


def _numbered(path: Place, label: Label, ignore: int | None, folder: Path) -> Path:
    """Number the regions of a mask of any size, once: return the file of ids in `folder`.

    Raises:
        MaskError: it is an image in colours, or holds more than whole numbers; or there is no space for the ids.
    """
    ids = folder / f"{hashlib.sha256(os.fsencode(str(absolute(path)))).hexdigest()[:16]}.zarr"
    if not ids.exists():
        classes = None
        if label.classes is None:
            found = {int(value) for z, region in label.blocks() for value in distinct(label.read(region, z))}
            classes = tuple(str(value) for value in sorted(found - {0, ignore}))
        find_objects(path, ids, classes=classes)
    return ids
