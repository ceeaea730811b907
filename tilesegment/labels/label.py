"""Label files of any kind, read by regions as whole numbers that stand for classes, before anything is decided."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageOps

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.images.zarr_metadata import node
from tilesegment.masks import open_mask
from tilesegment.masks.reader import recorded_classes
from tilesegment.metadata import LabelClass

BLOCK = 2048  # side in pixels of the squares in which labels are read
_MOST_NOTES = 3

Kind = Literal["grey", "palette", "colour"]


@dataclass(frozen=True)
class Label:
    """An open label file.

    Attributes:
        shape: (height, width).
        planes: of a stack, else 1.
        kind: what `read` hands out: grey values, indices of a palette, or red * 65536 + green * 256 + blue.
        jpeg: whether it was compressed with loss.
        read: the values of a region of a plane, (h, w).
        colours: `#rrggbb` by value, where the file tells them.
        names: of classes by value, where the file tells them.
        classes: where the file is a mask that was predicted: its values are ids of these, or their colours.
        notes: what the user should know of how the file is read, a sentence each.
    """

    shape: tuple[int, int]
    planes: int
    kind: Kind
    jpeg: bool
    read: Callable[[Region, int], np.ndarray]
    colours: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    classes: tuple[LabelClass, ...] | None = None
    notes: tuple[str, ...] = ()

    def blocks(self) -> Iterator[tuple[int, Region]]:
        """Planes and regions that cover the label once."""
        for z in range(self.planes):
            for region in Region.of_shape(self.shape).squares(BLOCK):
                yield z, region


@contextmanager
def open_label(path: Path, voc: bool = False, *, strict: bool = False, invert: bool = False) -> Iterator[Label]:
    """Open a label file. A palette of greys is applied, as it is a compressed grey image, unless `voc`.

    Args:
        path: a file or a Zarr folder.
        voc: the indices of a palette are the classes, as in Pascal VOC.
        strict: a missing block of a predicted mask is an error and not background; one that was erased by hand is
            missing too.
        invert: as in `open_image`.

    Raises:
        DataError: it has neither one channel nor 8-bit colours.
        ImageError, MaskError: it cannot be read, or is a mask that is not finished.
    """
    classes = recorded_classes(path, probabilities=False)
    if classes is not None and path.is_dir():
        mask = open_mask(path)
        if strict:
            shape, planes = mask.spec.shape, mask.spec.depth or 1
            yield Label(shape, planes, "grey", False, lambda r, z: mask.read(r, 0, z), classes=classes)
            return
    # a TIFF that was predicted may be large: it is read by regions, as ids whatever its palette
    tiff = classes is not None and path.suffix.lower() in (".tif", ".tiff")
    palette = None if tiff else _indexed(path, greys_too=voc or classes is not None)
    if palette is not None:
        yield palette if classes is None else _as_predicted(palette, classes)
        return
    with open_image(path, invert=invert) as source:
        is_grey = source.channels == 1 or (source.channels == 2 and source.format == "PNG")  # with alpha
        if not is_grey and (source.channels not in (3, 4) or source.stored_dtype != np.uint8):
            raise DataError(
                f"label {path.name} has {source.channels} channels of {source.stored_dtype}; expected one channel "
                "with a value a class, or 8-bit RGB with a colour a class"
            )
        names, colours = _image_label(path) if path.is_dir() else ({}, {})
        kind: Kind = "grey" if is_grey else "colour"
        jpeg = source.format == "JPEG"
        shown = (colours, names, classes, source.stored_notes)
        yield Label(source.shape, source.depth or 1, kind, jpeg, _reader(source), *shown)


def _reader(source: ImageSource) -> Callable[[Region, int], np.ndarray]:
    def values(region: Region, z: int) -> np.ndarray:
        """Grey values as they are, colours as whole numbers."""
        pixels = source.read_stored(region, 0, z)
        if len(pixels) <= 2:
            return pixels[0]
        red, green, blue = pixels[:3].astype(np.int32)
        return red << 16 | green << 8 | blue

    return values


def _as_predicted(palette: Label, classes: tuple[LabelClass, ...]) -> Label:
    """A mask with a palette as ids of `classes`; as colours where a program has written another palette."""
    if all(palette.colours[number] == one.colour for number, one in enumerate(classes)):
        return replace(palette, classes=classes)
    table = np.array([int(colour[1:], 16) for _, colour in sorted(palette.colours.items())], np.int32)
    read = palette.read
    return replace(palette, kind="colour", read=lambda r, z: table[read(r, z)], colours={}, classes=classes)


def _indexed(path: Path, greys_too: bool) -> Label | None:
    """A PNG, TIFF or GIF with a palette, which `open_image` hands out in colours or not at all; None if it is none."""
    if path.is_dir():
        return None
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
    except Exception:  # whatever Pillow cannot read: open_image tells what is the matter with it
        return None
    if any(frame.ndim != 2 or frame.shape != frames[0].shape for frame in frames):
        return None
    table = np.zeros((256, 3), np.uint8)
    table[: len(entries) // 3] = np.array(entries, np.uint8).reshape(-1, 3)[:256]
    if not greys_too and (table == table[:, :1]).all():
        grey = table[:, 0]
        return Label(frames[0].shape, len(frames), "grey", False, lambda r, z: grey[frames[z][r.slices]])
    colours = {index: "#" + bytes(row).hex() for index, row in enumerate(table)}
    return Label(frames[0].shape, len(frames), "palette", False, lambda r, z: frames[z][r.slices], colours)


def _image_label(path: Path) -> tuple[dict[int, str], dict[int, str]]:
    """Names and colours by value from the `image-label` object of an OME-Zarr label, 0.4 and 0.5."""
    found = node(path)
    attributes: Any = found[1] if found else {}
    ome = attributes.get("ome", attributes)
    document = ome.get("image-label") if isinstance(ome, dict) else None
    if not isinstance(document, dict):
        return {}, {}
    names, colours = {}, {}
    lists = [document.get(part) for part in ("properties", "colors")]
    for entry in [entry for part in lists if isinstance(part, list) for entry in part if isinstance(entry, dict)]:
        value = entry.get("label-value")
        if type(value) is not int:
            continue
        if isinstance(entry.get("name"), str) and entry["name"].strip():
            names[value] = " ".join(entry["name"].split())
        rgba = entry.get("rgba")
        if isinstance(rgba, list) and len(rgba) >= 3 and all(type(v) is int and 0 <= v <= 255 for v in rgba):
            colours[value] = "#" + bytes(rgba[:3]).hex()
    return names, colours


def first_notes(notes: Sequence[str]) -> tuple[str, ...]:
    """The first of many notes on files, and how many more there are."""
    more = (f"the same, or alike, of {len(notes) - _MOST_NOTES} more files",) if len(notes) > _MOST_NOTES else ()
    return (*notes[:_MOST_NOTES], *more)
