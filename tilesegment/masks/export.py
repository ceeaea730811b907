"""Writes a stored mask as one file: a pyramidal OME-TIFF or a PNG with a palette, or a JPEG in the classes' colours."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import tifffile
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tilesegment.errors import one_line
from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray
from tilesegment.masks.disk import MARK
from tilesegment.masks.exported import CLASSES
from tilesegment.masks.record import digest
from tilesegment.masks.spec import MaskSpec

_TILE = 512  # pixels a side of a TIFF's tiles
_BAND = 8192  # pixels along x that are read at once, whole tiles
_CLASSIC_LIMIT = 1 << 31  # bytes before compression from which a TIFF gets 64-bit offsets; few readers lack them


def export(kind: str, levels: list[BlockArray], spec: MaskSpec, record: Mapping[str, Any], path: Path) -> None:
    """Writes the mask in `levels` to `path` as `kind`: `tiff`, `png` or `jpeg`.

    Its record goes along, as JSON in the OME-XML or in a text chunk; with JPEG, whose comments are short, its digest.
    The pixels of a TIFF and of a PNG are the class ids; a palette gives them the classes' colours in any viewer. The
    OME-XML also holds the classes' names by id, for other programs.
    """
    if kind == "tiff":
        _export_tiff(levels, spec, json.dumps(record), path)
    else:
        _export_picture(kind, levels[0], spec, record, path)


def _export_tiff(levels: list[BlockArray], spec: MaskSpec, record: str, path: Path) -> None:
    size = (spec.depth or 1) * spec.shape[0] * spec.shape[1]
    metadata: dict[str, Any] = {"axes": levels[0].grid.axes.upper()}
    metadata["MapAnnotation"] = [{MARK: record}, {"Namespace": CLASSES} | _names(spec)]
    metadata["UUID"] = str(uuid5(NAMESPACE_URL, record))  # tifffile's own would hold this computer's address
    metadata |= _placement(spec)
    colours = _palette(spec).T.astype(np.uint16) * 257  # a TIFF's go to 65,535
    with tifffile.TiffWriter(path, bigtiff=size > _CLASSIC_LIMIT, ome=True) as tiff:
        for number, level in enumerate(levels):
            options: dict[str, Any] = {"subfiletype": 1, "metadata": None}
            if number == 0:
                options = {"subifds": len(levels) - 1, "metadata": metadata}
            if spec.pixel_size is not None:
                per_centimetre = 1e4 / 2**number
                resolution = (per_centimetre / spec.pixel_size.x, per_centimetre / spec.pixel_size.y)
                options |= {"resolution": resolution, "resolutionunit": "CENTIMETER"}
            tiff.write(
                _tiles(level),
                shape=level.grid.full,
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                compression="zlib",
                photometric="palette",
                colormap=colours,
                **options,
            )


def _placement(spec: MaskSpec) -> dict[str, Any]:
    """Size and position of pixels and planes as OME-XML has them: in micrometres, positions else in pixels."""
    frame = spec.placed()
    sizes: dict[str, float] = {}
    places: dict[str, list[float] | list[str]] = {}
    planes = range(spec.depth or 1)
    for axis, spacing in (("X", frame.x), ("Y", frame.y), ("Z", frame.z)):
        is_known = spacing.unit is not None
        if is_known:
            sizes[f"PhysicalSize{axis}"] = spacing.scale
        first, step = (spacing.origin, spacing.scale) if is_known else (spacing.origin / spacing.scale, 1.0)
        places[f"Position{axis}"] = [first + (z * step if axis == "Z" else 0.0) for z in planes]
        places[f"Position{axis}Unit"] = ["µm" if is_known else "pixel"] * len(planes)
    is_moved = any(spacing.origin for spacing in (frame.z, frame.y, frame.x))
    return sizes | ({"Plane": places} if is_moved else {})


def _names(spec: MaskSpec) -> dict[str, str]:
    """The name of each class by its id, as XML can hold it."""
    return {str(n): one_line(one.name) for n, one in enumerate(spec.classes)}


def _palette(spec: MaskSpec) -> np.ndarray:
    """The colours of the ids 0 to 255, (256, 3) uint8; black for ids that are no class."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(spec.classes)] = [one.rgb for one in spec.classes]
    return colours


def _tiles(level: BlockArray) -> Iterator[np.ndarray]:
    """The tiles of a level, each full-sized, plane by plane and row by row as TIFF stores them."""
    height, width = level.grid.shape
    whole = Region.of_shape(level.grid.shape)
    for z in range(level.grid.depth or 1):
        for y in range(0, height, _TILE):
            for x in range(0, width, _BAND):
                ids = level.read(Region(y, x, y + _TILE, x + _BAND).intersect(whole), z)
                ids = np.pad(ids, ((0, _TILE - ids.shape[0]), (0, -ids.shape[1] % _TILE)))
                yield from (ids[:, left : left + _TILE] for left in range(0, ids.shape[1], _TILE))


def _export_picture(kind: str, level: BlockArray, spec: MaskSpec, record: Mapping[str, Any], path: Path) -> None:
    ids = level.read(Region.of_shape(spec.shape), 0)
    colours = _palette(spec)
    if kind == "png":
        picture = Image.fromarray(ids)
        picture.putpalette(colours[: len(spec.classes)].tobytes())
        text = PngInfo()
        text.add_text(MARK, json.dumps(record))
        size = spec.pixel_size
        inch = None if size is None else (25_400 / size.x, 25_400 / size.y)
        picture.save(path, format="PNG", pnginfo=text, dpi=inch)
    else:
        comment = f"{MARK} {digest(record)}"
        Image.fromarray(colours[ids]).save(path, format="JPEG", quality=95, subsampling=0, comment=comment)
