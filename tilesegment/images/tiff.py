"""TIFF in its many kinds: tiled, striped, compressed, BigTIFF, stacks, pyramids, OME-TIFF, ImageJ, SVS, other slides.

tifffile reads the directory and decodes single strips and tiles; which of them are read is decided here, so that a
tiled image is never read whole and a claim of the header is compared with the file before it is believed.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tifffile
from tifffile import TiffFile, TiffPage, TiffPageSeries

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.axes import Layout, arrange
from tilesegment.images.pieces import MOST_KEPT
from tilesegment.images.source import ImageSource, Level, presented
from tilesegment.images.tiff_metadata import check_description, tiff_format, tiff_pixel_size
from tilesegment.images.tiff_pages import (
    Plane,
    SegmentedPlane,
    Segments,
    check_pages,
    check_segment_size,
    check_segments,
    lies_raw,
    raw_planes,
)
from tilesegment.metadata import PixelSize

_JPEG = {6, 7, 33007, 34892}
_CONVERT = "convert it to grey or RGB"


@dataclass(frozen=True)
class _TiffLevel:
    """One resolution.

    Attributes:
        layout: of its array.
        stacked: how many of the first dimensions count `planes`, row-major; the others are those of a page.
        samples: which samples of a page are used.
        planes: its pages.
    """

    layout: Layout
    stacked: int
    samples: slice
    planes: tuple[Plane, ...]

    def read(self, region: Region, z: int) -> np.ndarray:
        """The pixels of `region`, (C, h, w), in the order of bytes they are stored in."""
        index = self.layout.index(region, z)[: self.stacked]
        numbers = np.arange(len(self.planes)).reshape(self.layout.shape[: self.stacked])[index]
        pixels = [self.planes[number].read(region)[self.samples] for number in np.ravel(numbers)]
        return pixels[0] if len(pixels) == 1 else np.concatenate(pixels)


class TiffSource(ImageSource):
    """The largest series of a TIFF (the first of equals) with its pyramid.

    Pages of a stack are z planes. Tiles that a sparse slide does not store are 0. Values are as stored: an image where
    0 is white is not inverted. Of an OME-TIFF in several files only the pages of this file are seen.
    """

    def __init__(
        self,
        path: str,
        tiff: TiffFile,
        segments: Segments,
        levels: list[_TiffLevel],
        dtype: np.dtype,
        size: PixelSize | None,
    ) -> None:
        first = levels[0].layout
        (height, width), planes = first.plane, [level.layout.plane for level in levels]
        described = tuple(Level(plane, (_ratio(height, plane[0]), _ratio(width, plane[1]))) for plane in planes)
        super().__init__(path, tiff_format(tiff), described, first.depth, first.channels, dtype, size)
        self._tiff = tiff
        self._segments = segments
        self._levels = levels

    @property
    def cache_bytes(self) -> int:
        """Strips and tiles that reads to come will need, at most as many as the image has."""
        return min(MOST_KEPT, self._bytes) if isinstance(self._levels[0].planes[0], SegmentedPlane) else 0

    @property
    def decoded_bytes(self) -> int:
        """Of strips and tiles; what lies raw is not counted."""
        return self._segments.pieces.decoded_bytes

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        return self._levels[level].read(region, z)

    def close(self) -> None:
        """Close the file and drop decoded strips and tiles."""
        self._levels = []
        self._segments.close()
        self._tiff.close()


def _ratio(full: int, reduced: int) -> float:
    """Pixels of level 0 per pixel of a level: a whole number where one explains the sizes, as they are rounded."""
    whole = round(full / reduced)
    return float(whole) if whole and reduced in (full // whole, -(-full // whole)) else full / reduced


def open_tiff(path: str, axes: str | None, select: Mapping[str, int]) -> TiffSource:
    """Open a TIFF; `axes` and `select` as in `open_image`.

    Raises:
        ImageError: it is damaged, truncated, or stored in a way that is not supported.
    """
    # _multifile: the XML may name files anywhere on this machine, which are not for us to open
    tiff = TiffFile(path, _multifile=False)
    try:
        check_description(path, tiff)
        check_pages(path, tiff)
        if not tiff.series:
            raise ImageError(f"{path} holds no image: it is damaged")
        series = max(tiff.series, key=lambda s: s.keyframe.imagelength * s.keyframe.imagewidth)
        segments = Segments(tiff)
        levels = _levels(path, series, segments, axes, select)
        return TiffSource(path, tiff, segments, levels, series.dtype, tiff_pixel_size(tiff, series))
    except BaseException:
        tiff.close()
        raise


def _levels(
    path: str, series: TiffPageSeries, segments: Segments, axes: str | None, select: Mapping[str, int]
) -> list[_TiffLevel]:
    """Levels of the pyramid down to the first that differs from level 0 in more than its size."""
    levels: list[_TiffLevel] = []
    for stored in series.levels:
        _check_kind(path, stored.keyframe)
        layout = _layout(path, stored, axes, select)
        if levels and (
            (layout.axes, layout.depth, layout.channels, stored.dtype)
            != (levels[0].layout.axes, levels[0].layout.depth, levels[0].layout.channels, series.dtype)
        ):
            break
        levels.append(_level(path, stored, segments, layout))
    return levels


def _layout(path: str, series: TiffPageSeries, axes: str | None, select: Mapping[str, int]) -> Layout:
    # versions of tifffile differ in which dimensions of length 1 they leave out
    kept = [i for i, axis in enumerate(series.axes) if axis in "YX" or series.shape[i] > 1]
    shape = tuple(series.shape[i] for i in kept)
    if axes is not None:
        return arrange(path, tuple(axes), shape, select)
    names = "".join(series.axes[i] for i in kept).lower()
    if "z" not in names:  # tifffile calls the pages of a stack I (images) or Q (unknown)
        stack = next((letter for letter in "iq" if letter in names), "z")
        names = names.replace(stack, "z", 1)
    return arrange(path, tuple(names), shape, select)


def _check_kind(path: str, page: TiffPage) -> None:
    """Refuse what cannot be decoded, or not into grey, RGB or channels, before any of it is read."""
    if page.dtype is None or 0 in page.shaped:
        raise ImageError(
            f"{path} is an image of {page.imagelength} x {page.imagewidth} pixels of {page.bitspersample} bits: "
            "there is nothing to read"
        )
    presented(path, page.dtype)
    if page.compression != 1 and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise ImageError(f"{path} uses TIFF compression {int(page.compression)}, which cannot be decoded: convert it")
    photometric = int(page.photometric)
    if photometric == 3:
        raise ImageError(f"{path} has a colour map (palette), which is not applied: {_CONVERT}")
    if photometric not in (0, 1, 2) and not (photometric == 6 and page.compression in _JPEG):
        name = getattr(page.photometric, "name", photometric)
        raise ImageError(f"{path} has colours of kind {name}, which is not supported: {_CONVERT}")
    if page.imagedepth != 1:
        raise ImageError(f"{path} has volumetric pages, which are not supported: write one page a plane")


def _level(path: str, series: TiffPageSeries, segments: Segments, layout: Layout) -> _TiffLevel:
    """The planes of a level, and which samples of them `layout` uses."""
    page = series.keyframe
    stacked = next(k for k in range(len(layout.shape)) if math.prod(layout.shape[k:]) == page.size)
    inner = dict(zip(layout.axes[stacked:], layout.shape[stacked:], strict=True))
    order = [axis for axis in inner if axis in "yx"]
    sample = next((axis for axis in inner if axis not in "yx"), None)
    count = page.shaped[0] * page.shaped[4]
    if (
        order != ["y", "x"]
        or layout.plane != (page.imagelength, page.imagewidth)
        or inner.get(sample or "", 1) != count
    ):
        raise ImageError(
            f"{path} stores pages of {' x '.join(map(str, page.shape))}, which axes {','.join(layout.axes)} do not fit"
            ": give --axes whose y and x are those of a page"
        )
    first = layout.fixed.get(sample or "", 0)
    samples = slice(None) if sample is not None and sample == layout.channel else slice(first, first + 1)
    planes = _planes(path, series, segments)
    assert len(planes) == math.prod(layout.shape[:stacked])
    return _TiffLevel(layout, stacked, samples, planes)


def _planes(path: str, series: TiffPageSeries, segments: Segments) -> tuple[Plane, ...]:
    """One for each page of the series, compared with the file's size."""
    key, size = series.keyframe, series.keyframe.parent.filehandle.size
    if start := series.dataoffset:
        # one page may stand for a whole stack, as in ImageJ's: the planes lie one after the other
        number = math.prod(series.shape) // key.size
        if start + number * key.nbytes > size:
            raise ImageError(
                f"{path} is truncated: it has {size} of {start + number * key.nbytes} bytes: copy it again"
            )
        return raw_planes(key, [start + i * key.nbytes for i in range(number)])
    pages = [page for page in series if page is not None]
    if len(pages) < len(series):
        raise ImageError(f"{path} lacks some of the planes that its metadata lists: export it as one file")
    for page in pages:
        check_segments(path, key, page, size)
    if key.is_final and all(lies_raw(key, page) for page in pages):
        return raw_planes(key, [page.dataoffsets[0] for page in pages])
    check_segment_size(path, key)
    return tuple(
        SegmentedPlane(key, tuple(page.dataoffsets), tuple(page.databytecounts), page.jpegtables, segments)
        for page in pages
    )
