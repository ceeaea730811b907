"""A mask as one file: a pyramidal OME-TIFF or a PNG, whose pixels are the class ids and whose palette colours them.

The mask's record is kept as JSON in the OME-XML or in a text chunk, so that the file can be read back as a mask.
"""

import json
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5
from xml.etree import ElementTree

import numpy as np
import zarr
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from tifffile import TiffFile, TiffPage, TiffWriter

from tilesegment.errors import MaskError, one_line
from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray
from tilesegment.masks.spec import MaskSpec, spec_from_record
from tilesegment.metadata import MARK, part_of_frame

KINDS = {".tif": "tiff", ".tiff": "tiff", ".png": "png"}
_CLASSES = f"{MARK}/classes"  # namespace of the annotation with the names of the classes by id
_TILE = 512  # side of a TIFF's tiles, pixels
_BAND = 8192  # pixels along x that are read at once, whole tiles
_CLASSIC_LIMIT = 1 << 31  # bytes before compression from which a TIFF gets 64-bit offsets; few readers lack them
_TEXT_LIMIT = 1 << 24  # bytes; a thousand times what a record takes
_PNG_END = b"IEND\xaeB`\x82"


def export(levels: Sequence[BlockArray], spec: MaskSpec, record: Mapping[str, Any], path: Path) -> None:
    """Write the mask in `levels` to `path`, `.tif`, `.tiff` or `.png`."""
    write = _write_png if KINDS[path.suffix.lower()] == "png" else _write_tiff
    write(levels, spec, json.dumps(record), path)


def _write_png(levels: Sequence[BlockArray], spec: MaskSpec, record: str, path: Path) -> None:
    picture = Image.fromarray(levels[0].read(Region.of_shape(spec.shape), 0))
    picture.putpalette(_palette(spec)[: len(spec.classes)].tobytes())
    text = PngInfo()
    text.add_text(MARK, record)
    size = spec.pixel_size
    picture.save(path, format="PNG", pnginfo=text, dpi=None if size is None else (25_400 / size.x, 25_400 / size.y))


def _write_tiff(levels: Sequence[BlockArray], spec: MaskSpec, record: str, path: Path) -> None:
    size = (spec.depth or 1) * spec.shape[0] * spec.shape[1]
    names = {str(n): one_line(one.name) for n, one in enumerate(spec.classes)}  # as XML can hold them
    metadata: dict[str, Any] = {"axes": levels[0].grid.axes.upper()}
    metadata["MapAnnotation"] = [{MARK: record}, {"Namespace": _CLASSES} | names]
    metadata["UUID"] = str(uuid5(NAMESPACE_URL, record))  # tifffile's own would hold this computer's address
    metadata |= _placement(spec)
    colours = _palette(spec).T.astype(np.uint16) * 257  # a TIFF's go to 65,535
    with TiffWriter(path, bigtiff=size > _CLASSIC_LIMIT, ome=True) as tiff:
        for number, level in enumerate(levels):
            options: dict[str, Any] = {"subfiletype": 1, "metadata": None}
            if number == 0:
                options = {"subifds": len(levels) - 1, "metadata": metadata}
            if spec.pixel_size is not None:
                per_centimetre = 1e4 / 2**number
                resolution = (per_centimetre / spec.pixel_size.x, per_centimetre / spec.pixel_size.y)
                options |= {"resolution": resolution, "resolutionunit": "CENTIMETER"}
            tiff.write(
                _full_tiles(level),
                shape=level.grid.full,
                dtype=np.uint8,
                tile=(_TILE, _TILE),
                compression="zlib",
                photometric="palette",
                colormap=colours,
                **options,
            )


def _placement(spec: MaskSpec) -> dict[str, Any]:
    """Return size and position of pixels and planes as OME-XML has them: micrometres, otherwise pixels of the image."""
    first = (spec.first_plane, *spec.offset)
    frame = part_of_frame(spec.frame, scale=spec.scale, first=first, size=spec.pixel_size)
    sizes: dict[str, float | str] = {}
    places: dict[str, list[float] | list[str]] = {}
    planes = range(spec.depth or 1)
    for axis, spacing in (("X", frame.x), ("Y", frame.y), ("Z", frame.z)):
        is_known = spacing.unit is not None
        # without a unit, pixels of another size than the image's are given in pixels of the image
        is_scaled = not is_known and spec.scale != (1, 1) and axis != "Z"
        if is_known or is_scaled:
            sizes[f"PhysicalSize{axis}"] = spacing.scale
        if is_scaled:
            sizes[f"PhysicalSize{axis}Unit"] = "pixel"
        is_given = is_known or is_scaled
        start, step = (spacing.origin, spacing.scale) if is_given else (spacing.origin / spacing.scale, 1.0)
        places[f"Position{axis}"] = [start + (z * step if axis == "Z" else 0.0) for z in planes]
        places[f"Position{axis}Unit"] = ["µm" if is_known else "pixel"] * len(planes)
    is_moved = any(spacing.origin for spacing in (frame.z, frame.y, frame.x))
    return sizes | ({"Plane": places} if is_moved else {})


def _palette(spec: MaskSpec) -> np.ndarray:
    """Return the colours of the ids 0 to 255, (256, 3) uint8; black for ids that are no class."""
    colours = np.zeros((256, 3), np.uint8)
    colours[: len(spec.classes)] = [one.rgb for one in spec.classes]
    return colours


def _full_tiles(level: BlockArray) -> Iterator[np.ndarray]:
    """Yield the tiles of a level, each full-sized, plane by plane and row by row as TIFF stores them."""
    height, width = level.shape
    for z in range(level.grid.depth or 1):
        for y in range(0, height, _TILE):
            for x in range(0, width, _BAND):
                ids = level.read(Region(y, x, min(y + _TILE, height), min(x + _BAND, width)), z)
                ids = np.pad(ids, ((0, _TILE - ids.shape[0]), (0, -ids.shape[1] % _TILE)))
                yield from (ids[:, left : left + _TILE] for left in range(0, ids.shape[1], _TILE))


@dataclass(frozen=True)
class TiffLevel:
    """One level of the mask in the TIFF file `path`."""

    path: Path
    number: int
    shape: tuple[int, int]

    def read(self, region: Region, z: int) -> np.ndarray:
        """Return the class ids of `region` of plane `z`, (h, w) uint8."""
        try:
            with TiffFile(self.path, _multifile=False) as tiff:
                level = zarr.open_array(_levels(tiff, z)[self.number].aszarr(), mode="r")
                return np.asarray(level[region.slices])
        except Exception as error:  # tifffile and its codecs have dozens of ways to refuse a file
            raise MaskError(f"{self.path} is damaged ({one_line(error, 200)}): compute the mask again") from error


@dataclass(frozen=True)
class PngLevel:
    """The mask in the PNG file `path`, which is decoded whole at the first read."""

    path: Path
    shape: tuple[int, int]
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def read(self, region: Region, z: int) -> np.ndarray:
        """Return the class ids of `region`, (h, w) uint8; `z` is 0."""
        with self._lock:
            return self._ids[region.slices]

    @cached_property
    def _ids(self) -> np.ndarray:
        try:
            with Image.open(self.path, formats=("PNG",)) as picture:
                return np.asarray(picture)
        except (OSError, SyntaxError, ValueError) as error:
            raise MaskError(f"{self.path} is damaged ({one_line(error, 200)}): compute the mask again") from error


@dataclass(frozen=True)
class Exported:
    """A file that holds the record of a mask.

    Attributes:
        record: of the mask.
        planes: pages of the file.
        levels: from the largest to the smallest; none if the pixels are no class ids, as when another program saved it.
    """

    record: dict[str, Any]
    planes: int
    levels: tuple[TiffLevel, ...] | tuple[PngLevel, ...]

    def ids(self) -> tuple[MaskSpec, tuple[TiffLevel, ...] | tuple[PngLevel, ...]] | None:
        """Return the spec and the levels; None if the pixels are not those of the record."""
        spec = spec_from_record(self.record)
        fits = self.levels and self.levels[0].shape == spec.shape and self.planes == (spec.depth or 1)
        return (spec, self.levels) if fits else None


def read_exported(path: Path) -> Exported | None:
    """Read the record of the mask in the file `path`; None if it is not ours, or is truncated."""
    kind = KINDS.get(path.suffix.lower())
    try:
        found = None if kind is None else _read_png(path) if kind == "png" else _read_tiff(path)
    except Exception:  # tifffile and Pillow have dozens of ways to refuse a file; whatever it is, it is not ours
        return None
    return found if found is not None and isinstance(found.record, dict) else None


def _read_png(path: Path) -> Exported | None:
    with path.open("rb") as file:
        file.seek(-len(_PNG_END), os.SEEK_END)
        if file.read() != _PNG_END:
            return None
    with warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(path, formats=("PNG",)) as picture:  # no pixel is decoded
            text = picture.info.get(MARK)
            holds_ids, shape = picture.mode in ("P", "L"), (picture.height, picture.width)
    if text is None or len(text) > _TEXT_LIMIT:
        return None
    return Exported(json.loads(text), 1, (PngLevel(path, shape),) if holds_ids else ())


def _read_tiff(path: Path) -> Exported | None:
    with TiffFile(path, _multifile=False) as tiff:
        description = tiff.pages.first.tags.get("ImageDescription")
        if description is None or description.count > _TEXT_LIMIT:
            return None
        xml = str(description.value)
        # entities can expand to any size; looking for missing tiles goes through every page of a stack
        if MARK not in xml or "<!DOCTYPE" in xml or "<!ENTITY" in xml or not _holds_all(tiff):
            return None
        text = next((m.text for m in ElementTree.fromstring(xml).iterfind(".//{*}M") if m.get("K") == MARK), None)
        pages = _levels(tiff, 0)
        holds_ids = all(page.is_tiled and page.dtype == np.uint8 and page.samplesperpixel == 1 for page in pages)
        levels = tuple(TiffLevel(path, n, (page.imagelength, page.imagewidth)) for n, page in enumerate(pages))
        return None if text is None else Exported(json.loads(text), len(tiff.pages), levels if holds_ids else ())


def _holds_all(tiff: TiffFile) -> bool:
    """Return whether all tiles of all levels are stored, and lie within the file."""
    pages = [level for page in tiff.pages for level in (page, *(page.pages or ()))]
    tiles = [tile for page in pages for tile in zip(page.dataoffsets, page.databytecounts, strict=True)]
    return all(length > 0 and start + length <= tiff.filehandle.size for start, length in tiles)


def _levels(tiff: TiffFile, z: int) -> list[TiffPage]:
    page = tiff.pages[z].aspage()
    return [page, *(smaller.aspage() for smaller in page.pages or ())]
