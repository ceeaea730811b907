"""Read label files of any kind by region, as whole numbers whose meaning is decided later."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageOps

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.masks import open_mask
from tilesegment.masks.reader import recorded_classes
from tilesegment.metadata import LabelClass
from tilesegment.ome_zarr.node import read_node
from tilesegment.stores import Place

BLOCK = 2048  # side in pixels of the squares in which labels are read
OBJECT_NAMES = ("background", "object")
OBJECTS_NOTE = "ids of objects are read as background and object; where two objects touch, a border 2 px wide is left"
_NOT_LABELLED = -1  # replaces the ignored id when objects become classes

Kind = Literal["grey", "palette", "colour"]
Read = Callable[[Region, int], np.ndarray]


@dataclass(frozen=True)
class Label:
    """An open label file."""

    shape: tuple[int, int]  # (height, width)
    planes: int  # of a stack, else 1
    kind: Kind  # what `read` returns: grey values, palette indices, or red * 65536 + green * 256 + blue
    read: Read  # the values of a region of a plane, (h, w)
    jpeg: bool = False  # compressed with loss
    colours: Mapping[int, str] = field(default_factory=dict)  # `#rrggbb` by value, if the file has them
    names: Mapping[int, str] = field(default_factory=dict)  # of classes by value, if the file has them
    classes: tuple[LabelClass, ...] | None = None  # of a predicted mask: values are ids of these, or their colours
    notes: tuple[str, ...] = ()  # on how the file is read, one sentence each

    def blocks(self) -> Iterator[tuple[int, Region]]:
        """Yield planes and regions that cover the label once."""
        for z in range(self.planes):
            for region in Region.of_shape(self.shape).squares(BLOCK):
                yield z, region


@dataclass(frozen=True)
class LabelOptions:
    """How label files are opened."""

    ignore: int | None = None  # the stored value that means "not labelled"
    instances: bool = False  # values are ids of objects, read as background and object, see `part_objects`
    invert: bool = False  # invert files that declare 0 as white
    voc: bool = False  # palette indices are classes, as in Pascal VOC, even those of grey palettes
    strict: bool = False  # a missing block of a predicted mask is an error; else it is background, as if erased by hand

    @property
    def void(self) -> int | None:
        """The value that means "not labelled" in labels from `open`."""
        return _NOT_LABELLED if self.instances and self.ignore is not None else self.ignore

    @contextmanager
    def open(self, path: Place, name: str) -> Iterator[Label]:
        """Open a label file or a Zarr; `name` is for messages.

        Raises:
            DataError: it has neither one channel nor 8-bit colours, or is a file on a server.
            ImageError, MaskError: it cannot be read, or is an unfinished mask.
        """
        with open_label(path, self) as label:
            yield part_objects(label, name, self.ignore) if self.instances and label.classes is None else label


@contextmanager
def open_label(path: Place, options: LabelOptions) -> Iterator[Label]:
    """Open a label file as stored, without parting objects."""
    classes, is_folder = recorded_classes(path, probabilities=False), _is_folder(path)
    if classes is not None and is_folder:
        mask = open_mask(path)
        if options.strict:
            shape, planes = mask.spec.shape, mask.spec.depth or 1
            yield Label(shape, planes, "grey", lambda r, z: mask.read(r, 0, z), classes=classes)
            return
    # a predicted TIFF may be large: read it by region, as ids whatever its palette
    by_region = is_folder or (classes is not None and path.suffix.lower() in (".tif", ".tiff"))
    indexed = None if by_region else _indexed(str(path), keep_greys=options.voc or classes is not None)
    if indexed is not None:
        yield replace(indexed, classes=classes)
        return
    with open_image(path, invert=options.invert) as source:
        grey = source.channels == 1 or (source.channels == 2 and source.format == "PNG")  # with alpha
        if not grey and (source.channels not in (3, 4) or source.stored_dtype != np.uint8):
            raise DataError(
                f"label {path.name} has {source.channels} channels of {source.stored_dtype}; expected one channel "
                "with one value per class, or 8-bit RGB with one colour per class"
            )
        names, colours = _image_label(path) if is_folder else ({}, {})
        yield Label(
            source.shape,
            source.depth or 1,
            "grey" if grey else "colour",
            _reader(source),
            source.format == "JPEG",
            colours,
            names,
            classes,
            source.stored_notes,
        )


def _is_folder(path: Place) -> bool:
    """Return whether a label is a Zarr; refuse other files on a server, whose palettes are not read there."""
    if isinstance(path, Path):
        return path.is_dir()
    if path.suffix == ".zarr" or read_node(path) is not None:
        return True
    raise DataError(f"{path} is no Zarr: of masks and labels on a server only Zarr is read, so download it")


def _reader(source: ImageSource) -> Read:
    def values(region: Region, z: int) -> np.ndarray:
        pixels = source.read_stored(region, 0, z)
        if len(pixels) <= 2:
            return pixels[0]
        red, green, blue = pixels[:3].astype(np.int32)
        return red << 16 | green << 8 | blue

    return values


def _indexed(path: str, *, keep_greys: bool) -> Label | None:
    """A PNG, TIFF or GIF with a palette, else None; a grey palette is applied unless `keep_greys`."""
    frames: list[np.ndarray] = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=("PNG", "TIFF", "GIF")) as image:
                if image.mode != "P" and image.format != "GIF":
                    return None
                entries = image.getpalette("RGB") or [level for level in range(256) for _ in "rgb"]
                for number in range(getattr(image, "n_frames", 1)):
                    image.seek(number)
                    frames.append(np.array(ImageOps.exif_transpose(image)))
    except Exception:  # open_image reports what is wrong with the file
        return None
    if any(frame.ndim != 2 or frame.shape != frames[0].shape for frame in frames):
        return None
    shape, table = frames[0].shape, np.zeros((256, 3), np.uint8)
    table[: len(entries) // 3] = np.array(entries, np.uint8).reshape(-1, 3)[:256]
    if not keep_greys and (table == table[:, :1]).all():
        return Label(shape, len(frames), "grey", lambda r, z: table[frames[z][r.slices], 0])
    colours = {index: "#" + bytes(row).hex() for index, row in enumerate(table)}
    return Label(shape, len(frames), "palette", lambda r, z: frames[z][r.slices], colours=colours)


def _image_label(path: Place) -> tuple[dict[int, str], dict[int, str]]:
    """Names and colours by value from the `image-label` object of an OME-Zarr label, without invalid entries."""
    node = read_node(path)
    document = None if node is None else node.ome.get("image-label")
    lists = [document.get(part) for part in ("properties", "colors")] if isinstance(document, dict) else []
    names, colours = {}, {}
    for entry in [entry for part in lists if isinstance(part, list) for entry in part if isinstance(entry, dict)]:
        value, name, rgba = (entry.get(key) for key in ("label-value", "name", "rgba"))
        if type(value) is not int:
            continue
        if isinstance(name, str) and name.strip():
            names[value] = " ".join(name.split())
        if isinstance(rgba, list) and len(rgba) >= 3 and all(type(v) is int and 0 <= v <= 255 for v in rgba):
            colours[value] = "#" + bytes(rgba[:3]).hex()
    return names, colours


def part_objects(label: Label, name: str, ignore: int | None) -> Label:
    """Read object ids as two classes: 1 inside objects, 0 elsewhere, and -1 where the label is `ignore`.

    A pixel of an object is 0 if one of its 8 neighbours belongs to another object, so that a border two pixels wide
    parts touching objects, and no connected piece of 1 holds two ids. The result does not depend on the blocks read.
    """
    whole = Region.of_shape(label.shape)

    def read(region: Region, z: int) -> np.ndarray:
        around = Region(region.y0 - 1, region.x0 - 1, region.y1 + 1, region.x1 + 1).intersect(whole)
        ids = label.read(around, z)
        unknown = ids == ignore if ignore is not None else np.zeros(ids.shape, bool)
        ids = np.where(unknown, 0, ids)
        if (ids < 0).any():
            least = ids.min()
            raise DataError(f"{name} holds {least}; expected ids from 0: give --ignore {least} if it means no label")
        values = np.where(unknown, _NOT_LABELLED, inside_objects(ids))
        return values[region.within(around).slices].astype(np.int16)

    return replace(
        label, kind="grey", jpeg=False, read=read, colours={}, names=dict(enumerate(OBJECT_NAMES)), classes=None
    )


def inside_objects(ids: np.ndarray) -> np.ndarray:
    """Return the pixels of objects that touch no other object: (h, w) bool."""
    padded, (height, width) = np.pad(ids, 1), ids.shape
    inside = ids != 0
    for y in range(3):
        for x in range(3):
            neighbour = padded[y : y + height, x : x + width]
            inside &= (neighbour == 0) | (neighbour == ids)
    return inside


def check_same_size(what: str, shape: tuple[int, int], planes: int, name: str, label: Label) -> None:
    """Check that an image, or another label, has the size of `label`.

    Raises:
        DataError: it has another.
    """
    if (shape, planes) != (label.shape, label.planes):
        sizes = [f"{z} x {y} x {x} (z, y, x)" for z, (y, x) in ((planes, shape), (label.planes, label.shape))]
        (height, width), (rows, columns), advice = shape, label.shape, ""
        # sides of resampled images are rounded up
        if planes == label.planes and abs(height * columns - width * rows) <= max(*shape, *label.shape):
            advice = (
                " (if the mask was predicted with --diameter, --mpp or --level: the GeoJSON that predict --objects "
                "writes is in pixels of the image, and can be compared)"
            )
        raise DataError(f"{what} is {sizes[0]}, {name} {sizes[1]}; they must be of one size{advice}")
