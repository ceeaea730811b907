"""Label files of any kind, read by regions as whole numbers that stand for classes, before anything is decided."""

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.images.zarr_metadata import node

MOST_CLASSES = 32  # more distinct values are no set of classes but a grey image, a smoothed mask or one saved as JPEG
BLOCK = 2048  # labels are looked through in squares of this side
_LARGEST = 65_535  # of uint16; a float label beyond it is no class either

Kind = Literal["grey", "palette", "colour"]


@dataclass(frozen=True)
class Label:
    """An open label file.

    Attributes:
        shape: (height, width).
        planes: of a stack, else 1.
        kind: what `read` hands out: grey values, indices of a palette, or red * 65536 + green * 256 + blue.
        jpeg: whether it was compressed with loss.
        colours: `#rrggbb` by value, where the file tells them.
        names: of classes by value, where the file tells them.
        read: the values of a region of a plane, (h, w).
    """

    shape: tuple[int, int]
    planes: int
    kind: Kind
    jpeg: bool
    read: Callable[[Region, int], np.ndarray]
    colours: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)

    def blocks(self) -> Iterator[tuple[int, Region]]:
        """Planes and regions that cover the label once."""
        height, width = self.shape
        for z in range(self.planes):
            for y in range(0, height, BLOCK):
                for x in range(0, width, BLOCK):
                    yield z, Region(y, x, min(y + BLOCK, height), min(x + BLOCK, width))


@dataclass(frozen=True)
class Scan:
    """What all of a label file holds: its distinct values, ascending, int64; the rest as in `Label`."""

    name: str
    values: np.ndarray
    kind: Kind
    colours: Mapping[int, str]
    names: Mapping[int, str]


@contextmanager
def open_label(path: Path, voc: bool) -> Iterator[Label]:
    """Opens a label file. A palette of greys is applied, as it is a compressed grey image, unless `voc`.

    Raises:
        DataError: it has neither one channel nor 8-bit colours.
        ImageError: it cannot be read.
    """
    palette = _indexed(path, voc)
    if palette is not None:
        yield palette
        return
    with open_image(path) as source:
        if source.channels not in (1, 3, 4) or (source.channels > 1 and source.stored_dtype != np.uint8):
            raise DataError(
                f"label {path.name} has {source.channels} channels of {source.stored_dtype}; expected one channel "
                "with a value a class, or 8-bit RGB with a colour a class"
            )
        names, colours = _image_label(path) if path.is_dir() else ({}, {})
        kind: Kind = "grey" if source.channels == 1 else "colour"
        jpeg = source.format == "JPEG"
        yield Label(source.shape, source.depth or 1, kind, jpeg, _reader(source), colours, names)


def _reader(source: ImageSource) -> Callable[[Region, int], np.ndarray]:
    def values(region: Region, z: int) -> np.ndarray:
        """Grey values as they are, colours as whole numbers."""
        pixels = source.read_stored(region, 0, z)
        if len(pixels) == 1:
            return pixels[0]
        red, green, blue = pixels[:3].astype(np.int32)
        return red << 16 | green << 8 | blue

    return values


def _indexed(path: Path, voc: bool) -> Label | None:
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
                    frames.append(np.array(image))
    except Exception:  # whatever Pillow cannot read: open_image tells what is the matter with it
        return None
    if any(frame.ndim != 2 or frame.shape != frames[0].shape for frame in frames):
        return None
    table = np.zeros((256, 3), np.uint8)
    table[: len(entries) // 3] = np.array(entries, np.uint8).reshape(-1, 3)[:256]
    if not voc and (table == table[:, :1]).all():
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


def scan(name: str, label: Label, ignore: int | None) -> Scan:
    """Looks through all of a label, block by block.

    Args:
        name: for messages.
        label: is open.
        ignore: a value that is allowed whatever it is.

    Raises:
        DataError: it holds what cannot be classes.
    """
    found: set[float] = set()
    for z, region in label.blocks():
        found.update(_distinct(label.read(region, z)).tolist())
        if len(found) > MOST_CLASSES + 1:
            break
    _check(name, label, sorted(value for value in found if value != ignore))
    return Scan(name, np.array(sorted(found), np.int64), label.kind, label.colours, label.names)


def _distinct(pixels: np.ndarray) -> np.ndarray:
    if pixels.dtype in (np.uint8, np.uint16):  # counting is several times faster than sorting
        return np.flatnonzero(np.bincount(pixels.ravel()))
    return np.unique(pixels)


def _check(name: str, label: Label, values: list[float]) -> None:
    """Whether `values`, ascending, may stand for classes."""
    if (label.jpeg and len(values) > 2) or (label.kind != "colour" and _smeared(values)):
        listed = ", ".join(f"#{int(v):06x}" if label.kind == "colour" else f"{v:g}" for v in values[:4])
        raise DataError(
            f"label {name} holds {len(values)} values, {listed}, ..., smeared as by JPEG or by smoothing; "
            "export it again as PNG or TIFF, without smoothing, or set each pixel to the nearest class"
        )
    if label.kind == "colour":
        if len(values) > MOST_CLASSES:
            raise DataError(
                f"label {name} holds more than {MOST_CLASSES} colours; expected one a class: "
                "save labels as PNG or TIFF without smoothing"
            )
        return
    whole = all(np.isfinite(value) and value == np.rint(value) for value in values)
    if len(values) > MOST_CLASSES or not whole or (values and (values[0] < 0 or values[-1] > _LARGEST)):
        raise DataError(
            f"label {name} holds {len(values)} values from {values[0]} to {values[-1]}; expected at most "
            f"{MOST_CLASSES} whole ones, one a class: save labels as PNG or TIFF without smoothing"
        )


def _smeared(values: list[float]) -> bool:
    """Whether values lie around 0 and 255 only, at least two around each."""
    low, high = [v for v in values if v <= 32], [v for v in values if v >= 223]
    return len(low) + len(high) == len(values) and len(low) > 1 and len(high) > 1 and values[-1] <= 255
