"""Open what is shown over an image: masks, probabilities and label images, of any format, finished or in progress."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from tilesegment.errors import DataError, MaskError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.images.source import Level
from tilesegment.labels.label import Label, LabelOptions, open_label
from tilesegment.labels.scanning import MOST_CLASSES, Scan, distinct, look_like_objects
from tilesegment.masks import MaskSpec, find_mask, open_mask, read_record
from tilesegment.masks.reader import Mask, recorded_classes
from tilesegment.masks.spec import spec_from_record
from tilesegment.masks.target import absolute
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.ome_zarr.node import read_node
from tilesegment.stores import Location, Place
from tilesegment.viewer.growing import NOT_YET, Growing, find_growing
from tilesegment.viewer.layer import Placement
from tilesegment.viewer.mask_pixels import Pixels
from tilesegment.viewer.placing import check_place, found_place, recorded_place

_LOOKED_AT = 1024  # pixels along a side of the smallest level that are looked at to tell classes from ids
_WINDOWS, _WINDOW = 4, 256  # else so many squares along each axis, of so many pixels


@dataclass(frozen=True)
class ClassEntry:
    """A class of a mask.

    Attributes:
        id: what its pixels hold, 0 to 255.
        name, colour: what it is called and how it is drawn, `#rrggbb`.
        stored: what the file holds.
    """

    id: int
    name: str
    colour: str
    stored: int

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue, each 0 to 255."""
        return LabelClass("", self.colour).rgb


@dataclass(frozen=True)
class Opened:
    """An open mask, probabilities or label image.

    Attributes:
        kind: `classes`, `probabilities` or `ids`.
        pixels: what is stored; of classes their ids (uint8).
        placement: where it lies on the image.
        first_plane: plane of the image that is its plane 0; None if it lies on every plane.
        classes: of classes and probabilities.
        has_others: whether ids that are none of `classes` are values, too; else nothing is there.
        unit: what stands for a probability of 1.
        notes: for people.
        close: closes its files.
        growing: if it is in progress.
    """

    kind: str
    pixels: Pixels
    placement: Placement
    first_plane: int | None
    classes: tuple[ClassEntry, ...] = ()
    has_others: bool = False
    unit: float = 1.0
    notes: tuple[str, ...] = ()
    close: Callable[[], None] = lambda: None
    growing: Growing | None = None


def open_over(path: str | Place, image: ImageSource) -> Opened:
    """Open what is shown over `image`.

    Raises:
        ImageError, MaskError: it cannot be read, is none of these, or does not lie on the image.
    """
    place = absolute(path)
    record = read_record(place)
    if record is None or record.get("state") == "partial":
        growing = find_growing(place)
        if growing is not None:
            return _growing(growing, image)
    mask = find_mask(place)
    if mask is not None:
        return _mask(mask, image)
    if read_node(place, MaskError) is None if isinstance(place, Location) else not place.exists():
        open_mask(place)  # says what is wrong
    return _of_image(place, image)


def _checked(placement: Placement, image: ImageSource, place: Place, spec: MaskSpec) -> Placement:
    check_place(placement, image, str(place), str(spec.fingerprint.get("image", "")))
    return placement


def _plane(spec: MaskSpec, image: ImageSource) -> int | None:
    """Return the plane of the image that is plane 0 of a mask of ours; None on an image without planes."""
    return None if image.depth is None else spec.first_plane


def _entries(classes: Sequence[LabelClass]) -> tuple[ClassEntry, ...]:
    return tuple(ClassEntry(number, one.name, one.colour, number) for number, one in enumerate(classes))


def _mask(mask: Mask, image: ImageSource) -> Opened:
    """Open a finished mask of classes."""
    spec, place = mask.spec, mask.path
    placement, plane = _checked(recorded_place(spec), image, place, spec), _plane(spec, image)
    if mask.format == "TIFF":  # whose pieces an image source keeps between reads
        source = open_image(place)
        if source.channels == 1:
            pixels = _single(source)
            return Opened("classes", pixels, placement, plane, _entries(spec.classes), close=source.close)
        source.close()
    shapes = [level.shape for level in mask.levels]
    # smaller sides are rounded: halvings are whole numbers
    levels = [Level(shape, (_power(spec.shape, shape),) * 2) for shape in shapes]
    pixels = Pixels(levels, spec.depth or 1, np.dtype(np.uint8), None, mask.read, spec.block)
    return Opened("classes", pixels, placement, plane, _entries(spec.classes))


def _power(full: tuple[int, int], shape: tuple[int, int]) -> float:
    """Return the power of two by which a level was reduced."""
    large = int(np.argmax(full))
    return float(1 << max(round(np.log2(full[large] / shape[large])), 0))


def _growing(growing: Growing, image: ImageSource) -> Opened:
    """Open what is in progress."""
    spec = growing.spec
    placement = _checked(recorded_place(spec), image, growing.path, spec)
    pixels = growing.pixels()
    unit = 255.0 if pixels.dtype == np.uint8 else 1.0
    classes = () if growing.kind == "ids" else _entries(spec.classes)
    return Opened(growing.kind, pixels, placement, _plane(spec, image), classes, unit=unit, growing=growing)


def _single(source: ImageSource) -> Pixels:
    """Return the pixels of an image of one channel."""
    return Pixels(
        source.levels,
        source.depth or 1,
        source.stored_dtype,
        None,
        lambda region, level, z: source.read_stored(region, level, z)[0],
    )


def _of_image(place: Place, image: ImageSource) -> Opened:
    """Open probabilities, ids of objects, or a label image of another program."""
    with ExitStack() as files:
        source = files.enter_context(open_image(place))
        record = read_record(place)
        spec = None if record is None or "layout" not in record else spec_from_record(record)
        if spec is None:
            # it lies on every plane if it has none itself
            placement, plane = found_place(source, image), None if source.depth is None else 0
        else:
            placement, plane = _checked(recorded_place(spec), image, place, spec), _plane(spec, image)
        found = (
            _probabilities(place, source, placement, plane)
            if source.channels not in (1, 3, 4) or recorded_classes(place, probabilities=True) is not None
            else _labels(place, source, placement, plane, is_ids=spec is not None, files=files)
        )
        return replace(found, close=files.pop_all().close)


def _probabilities(place: Place, source: ImageSource, placement: Placement, plane: int | None) -> Opened:
    known = recorded_classes(place, probabilities=True)
    if source.stored_dtype.kind != "f" and known is None:
        raise MaskError(
            f"{place} holds {source.channels} channels of {source.stored_dtype}: name a mask, a label image of one "
            "channel, or probabilities from 0 to 1"
        )
    pixels = Pixels(source.levels, source.depth or 1, source.stored_dtype, source.channels, source.read_stored)
    colours = default_colours(max(source.channels, 2))
    classes = (
        _entries(known)
        if known is not None
        else tuple(ClassEntry(n, f"channel {n}", colours[n], n) for n in range(source.channels))
    )
    unit = 255.0 if source.stored_dtype == np.uint8 else 1.0
    return Opened("probabilities", pixels, placement, plane, classes, unit=unit, notes=tuple(source.notes))


def _labels(
    place: Place, source: ImageSource, placement: Placement, plane: int | None, *, is_ids: bool, files: ExitStack
) -> Opened:
    """Open ids of objects of ours, or a label image of another program, whose values tell which it is."""
    if is_ids:
        return Opened("ids", _single(source), placement, plane)
    try:
        label = files.enter_context(open_label(place, LabelOptions(strict=True)))
    except DataError as error:
        raise MaskError(f"{place} is no mask: {error}") from error
    pixels = _single(source)
    if label.kind != "grey":  # a palette, or colours, decoded whole or region by region
        wide = np.dtype(np.int32 if label.kind == "colour" else np.uint8)
        levels = (Level(label.shape, (1.0, 1.0)),)
        pixels = Pixels(levels, label.planes, wide, None, lambda region, level, z: label.read(region, z))
    return _told_apart(place, source, label, pixels, placement, plane)


def _told_apart(
    place: Place, source: ImageSource, label: Label, pixels: Pixels, placement: Placement, plane: int | None
) -> Opened:
    """Tell classes from ids, by the names in the file, else by a part of the pixels."""
    parts = _some(pixels)
    if pixels.dtype.kind == "f":
        found = np.concatenate([part.ravel() for part in parts])
        if not (found == np.rint(found)).all():
            if found.min() < 0 or found.max() > 1:
                low, high = found.min(), found.max()
                raise MaskError(f"{place} holds numbers from {low:.4g} to {high:.4g}: no ids, nor probabilities")
            levels = Pixels(source.levels, source.depth or 1, source.stored_dtype, 1, source.read_stored)
            return Opened("probabilities", levels, placement, plane, (ClassEntry(0, "channel 0", "#e69f00", 0),))
        read = pixels.read
        pixels = replace(pixels, dtype=np.dtype(np.int64), read=lambda r, level, z: read(r, level, z).astype(np.int64))
        parts = [part.astype(np.int64) for part in parts]
    values = sorted({value for part in parts for value in distinct(part).tolist()})
    if not label.names and label.kind == "grey" and _are_ids(place, label, values, parts):
        return Opened("ids", pixels, placement, plane)
    is_small = pixels.dtype == np.uint8 or pixels.dtype == np.bool_
    classes = _classes(label, values, as_stored=is_small)
    if not is_small:
        pixels = _as_places(pixels, classes)
    return Opened("classes", pixels, placement, plane, classes, has_others=is_small, notes=label.notes)


def _are_ids(place: Place, label: Label, values: list[int], parts: Sequence[np.ndarray]) -> bool:
    if len(values) > MOST_CLASSES or min(values) < 0:
        return True
    scan = Scan.of(str(place), str(place), label)
    for part in parts:
        scan.add(part)
    return look_like_objects([scan])


def _classes(label: Label, values: Sequence[int], *, as_stored: bool) -> tuple[ClassEntry, ...]:
    """Return the classes of a label image: the values that were seen, and those that it names.

    Their ids are the values, or their places among them.
    """
    stored = sorted({*values, *label.names})[:NOT_YET]
    colours, found = default_colours(max(len(stored), 2)), []
    for number, value in enumerate(stored):
        drawn, name = label.colours.get(value, colours[number]), label.names.get(value, f"value {value}")
        if label.kind == "colour":
            drawn = name = f"#{value:06x}"
        found.append(ClassEntry(value if as_stored else number, name, drawn, value))
    return tuple(found)


def _as_places(pixels: Pixels, classes: tuple[ClassEntry, ...]) -> Pixels:
    """Return pixels that hold the ids of the classes, 255 for values that are none."""
    stored, read = np.array([one.stored for one in classes], np.int64), pixels.read

    def placed(region: Region, level: int, z: int) -> np.ndarray:
        values = read(region, level, z)
        places = np.searchsorted(stored, values).clip(max=len(stored) - 1)
        return np.where(stored[places] == values, places, NOT_YET).astype(np.uint8)

    return replace(pixels, dtype=np.dtype(np.uint8), read=placed)


def _some(pixels: Pixels) -> list[np.ndarray]:
    """Read the smallest level if it is small, else squares spread over the finest."""
    height, width = pixels.levels[-1].shape
    if max(height, width) <= _LOOKED_AT:
        return [pixels.read(Region(0, 0, height, width), len(pixels.levels) - 1, 0)]
    height, width = pixels.shape
    whole, parts = Region(0, 0, height, width), []
    for y in np.linspace(0, max(height - _WINDOW, 0), _WINDOWS).astype(int).tolist():
        for x in np.linspace(0, max(width - _WINDOW, 0), _WINDOWS).astype(int).tolist():
            parts.append(pixels.read(Region(y, x, y + _WINDOW, x + _WINDOW).intersect(whole), 0, 0))
    return parts
