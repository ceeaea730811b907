"""What a preview shows over an image: a mask of classes, or a label image of objects, and where it lies."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.masks import MaskSpec, find_mask, open_mask, read_record
from tilesegment.masks.reader import recorded_classes
from tilesegment.masks.spec import STORED, digest, resampled_of, spec_from_record
from tilesegment.masks.target import absolute
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.stores import Location

_READING = ("axes", "select", "series", "invert")


@dataclass(frozen=True)
class Place:
    """Which part of which image a mask covers, and how the image was read.

    Attributes:
        image: its path when the mask was made.
        shape: (height, width) of the level that was read.
        level, plane: that were read, the first plane of several.
        region: of that level.
        reading: arguments of `open_image`.
        resampled: (y, x) pixels of level 0 per pixel of a level that was computed; None for a stored one.
        stored: digest of what the image stored; None if unknown.
    """

    image: str
    shape: tuple[int, int]
    level: int
    plane: int
    region: Region
    reading: Mapping[str, Any] = field(default_factory=dict)
    stored: str | None = None
    resampled: tuple[float, float] | None = None


@dataclass(frozen=True)
class Shown:
    """What is drawn over an image.

    Attributes:
        path: where it was read from.
        shape: (height, width).
        planes: of a stack, else 1.
        read: class ids or ids of objects of a region, in its own pixels, of its first plane: (h, w) integers.
        place: where it lies; None if it covers an image of its size.
        classes: what class ids mean; None for ids of objects.
        apart: whether each connected region of equal ids is an object.
        pixel_size: of its own pixels, None if unknown.
        digest: tells it from others.
    """

    path: str
    shape: tuple[int, int]
    planes: int
    read: Callable[[Region], np.ndarray]
    place: Place | None
    classes: tuple[LabelClass, ...] | None
    apart: bool
    pixel_size: PixelSize | None
    digest: str

    @property
    def is_objects(self) -> bool:
        """Whether objects are drawn, not classes."""
        return self.classes is None or self.apart


@contextmanager
def open_shown(path: str | Path | Location, *, objects: bool = False) -> Iterator[Shown]:
    """Open a mask that `predict` wrote, or ids of objects in a label image of any format.

    Args:
        path: of the mask or label image.
        objects: draw each connected region as an object.

    Raises:
        ImageError, MaskError: it cannot be read, or is neither.
    """
    mask, place = find_mask(path), absolute(path)
    is_missing = isinstance(place, Location) or not place.exists()
    if mask is None and (is_missing or recorded_classes(place, probabilities=True) is not None):
        mask = open_mask(place)  # says what is wrong
    if mask is not None:
        level = mask.levels[0]
        yield shown_mask(str(path), lambda region: level.read(region, 0), mask.spec, objects=objects)
        return
    assert isinstance(place, Path)
    with open_image(place) as source:
        yield _label_image(source, str(path), objects)


def shown_mask(path: str, read: Callable[[Region], np.ndarray], spec: MaskSpec, *, objects: bool = False) -> Shown:
    """Describe a mask of classes by its spec; `objects` as in `open_shown`.

    Raises:
        MaskError: it does not say which image it was made of.
    """
    place = _place(spec.fingerprint, path)
    planes = spec.depth or 1
    return Shown(path, spec.shape, planes, read, place, spec.classes, objects, spec.pixel_size, mask_digest(spec))


def mask_digest(spec: MaskSpec) -> str:
    """Return the digest by which a preview identifies its mask, in whatever format the mask is stored."""
    return digest({"layout": spec.layout(), "fingerprint": spec.fingerprint})


def place_on(source: ImageSource, shown: Shown) -> Place:
    """Return where on an image something lies.

    Raises:
        MaskError: the image has another size.
    """
    sizes, depth = [level.shape for level in source.levels], source.depth or 1
    height, width = shown.shape
    if (place := shown.place) is not None:
        fits = place.level < len(sizes) and place.plane < depth and sizes[place.level] == place.shape
        height, width = place.shape
        made = (
            f"it was made of {place.image}, {height} x {width} (y, x), level {place.level}, plane {place.plane}; the "
            "levels of the image are"
        )
    else:
        fits = shown.shape in sizes and shown.planes == depth
        level = sizes.index(shown.shape) if fits else 0
        place = Place(source.path, shown.shape, level, 0, Region.of_shape(shown.shape))
        made = f"it is {height} x {width} (y, x), planes {shown.planes}; the levels of the image are"
    if not fits:
        raise MaskError(
            f"{shown.path} is not a mask of {source.path}: {made} "
            f"{', '.join(f'{h} x {w}' for h, w in sizes[:8])}, planes {depth}"
        )
    return place


def _label_image(source: ImageSource, path: str, objects: bool) -> Shown:
    if source.channels != 1 or source.stored_dtype.kind not in "ui":
        raise MaskError(
            f"{path} holds {source.channels} channels of {source.stored_dtype}: name a mask that predict wrote, or "
            "ids of objects, one channel of integers"
        )
    record = read_record(Path(path))
    spec = None if record is None else spec_from_record(record)
    return Shown(
        path,
        source.shape,
        source.depth or 1,
        lambda region: source.read_stored(region)[0],
        None if spec is None else _find_place(spec.fingerprint),
        None,
        objects,
        source.pixel_size,
        Path(path).name if spec is None else mask_digest(spec),
    )


def _find_place(fingerprint: Mapping[str, Any]) -> Place | None:
    """The place of ids that were made of a mask, whose fingerprint is in theirs; None for other ids."""
    every: Sequence[Any] = (fingerprint, *fingerprint.values())
    made_of = (one for one in every if isinstance(one, Mapping) and "region" in one)
    return next((_place(one, "the label image") for one in made_of), None)


def _place(decided: Mapping[str, Any], path: str) -> Place:
    try:
        height, width = decided["shape"]
        return Place(
            image=str(decided.get("image")),
            shape=(int(height), int(width)),
            level=int(decided["level"]),
            plane=int(decided["planes"][0]),
            region=Region(*decided["region"]),
            reading={name: decided[name] for name in _READING if decided.get(name) is not None},
            stored=decided.get(STORED),
            resampled=resampled_of(decided),
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MaskError(f"{path} does not say which image it was made of ({error!r}); compute it again") from error
