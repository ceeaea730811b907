"""Reads the class ids of a mask that was exported as TIFF or PNG, level by level and region by region."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image
from tifffile import TiffFile, TiffPage

from tilesegment.errors import MaskError, one_line
from tilesegment.geometry import Region
from tilesegment.masks.exported import KINDS, read_exported
from tilesegment.masks.spec import MaskSpec, spec_from_record

_INDEXED = ("P", "L")  # modes of a PNG whose values are the ids


@dataclass(frozen=True)
class TiffLevel:
    """One level of the mask in the TIFF file `path`."""

    path: Path
    number: int
    shape: tuple[int, int]

    def read(self, region: Region, z: int) -> np.ndarray:
        """The class ids of `region` of plane `z`, (h, w) uint8.

        Raises:
            MaskError: some of it is damaged.
        """
        ids = np.empty(region.shape, np.uint8)
        try:
            with TiffFile(self.path, _multifile=False) as tiff:
                page = _page(tiff, self.number, z)
                for tile, pixels in _tiles(page, region):
                    both = tile.intersect(region)
                    ids[both.within(region).slices] = pixels[both.within(tile).slices]
        except Exception as error:  # tifffile and its codecs have dozens of ways to refuse a file
            raise MaskError(f"{self.path} is damaged ({one_line(error, 200)}): compute the mask again") from error
        return ids


@dataclass(frozen=True)
class PngLevel:
    """The mask in the PNG file `path`, which is decoded whole at the first read."""

    path: Path
    shape: tuple[int, int]
    _lock: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def read(self, region: Region, z: int) -> np.ndarray:
        """The class ids of `region`, (h, w) uint8; `z` is 0.

        Raises:
            MaskError: the file is damaged.
        """
        with self._lock:
            return self._ids[region.slices]

    @cached_property
    def _ids(self) -> np.ndarray:
        try:
            with Image.open(self.path, formats=("PNG",)) as picture:
                return np.asarray(picture)
        except (OSError, SyntaxError, ValueError) as error:
            raise MaskError(f"{self.path} is damaged ({one_line(error, 200)}): compute the mask again") from error


def open_exported(path: Path) -> tuple[MaskSpec, tuple[TiffLevel, ...] | tuple[PngLevel, ...]] | None:
    """What a TIFF or PNG that we wrote is, and its levels; None if it is none, or was changed since to another kind.

    Raises:
        MaskError: its record is damaged.
    """
    record = read_exported(path) if path.is_file() else None
    if record is None or "digest" in record:
        return None
    spec = spec_from_record(record)
    if KINDS[path.suffix.lower()] == "png":
        with Image.open(path, formats=("PNG",)) as picture:
            fits = picture.mode in _INDEXED and (picture.height, picture.width) == spec.shape
        return (spec, (PngLevel(path, spec.shape),)) if fits else None
    with TiffFile(path, _multifile=False) as tiff:
        pages = [_page(tiff, number, 0) for number in range(1 + len(tiff.pages.first.pages or ()))]
        shapes = [(page.imagelength, page.imagewidth) for page in pages]
        ours = all(page.is_tiled and page.dtype == np.uint8 and page.samplesperpixel == 1 for page in pages)
        if not ours or shapes[0] != spec.shape or len(tiff.pages) != (spec.depth or 1):
            return None
    return spec, tuple(TiffLevel(path, number, shape) for number, shape in enumerate(shapes))


def _page(tiff: TiffFile, level: int, z: int) -> TiffPage:
    page = tiff.pages[z].aspage()
    if level:
        assert page.pages is not None, "the first plane has this level"
        page = page.pages[level - 1].aspage()
    return page


def _tiles(page: TiffPage, region: Region) -> Iterator[tuple[Region, np.ndarray]]:
    """Region and ids (h, w) of each tile of a page that meets `region`."""
    height, width = page.tilelength, page.tilewidth
    across = -(-page.imagewidth // width)
    for row in range(region.y0 // height, -(-region.y1 // height)):
        for column in range(region.x0 // width, -(-region.x1 // width)):
            number = row * across + column
            page.parent.filehandle.seek(page.dataoffsets[number])
            data = page.parent.filehandle.read(page.databytecounts[number])
            pixels = page.decode(data, number)[0]
            assert pixels is not None, "every tile of a mask is stored"
            tile = Region(row * height, column * width, row * height + height, column * width + width)
            yield tile.intersect(Region(0, 0, page.imagelength, page.imagewidth)), pixels[0, :, :, 0]
