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
from tilesegment.images.axes import Layout, arrange, is_thin
from tilesegment.images.contents import chosen_series, inverted_in_vain, others_note
from tilesegment.images.pieces import MOST_KEPT
from tilesegment.images.pixels import stored_type
from tilesegment.images.source import ImageSource, Level, Shown
from tilesegment.images.tiff_contents import (
    check_claims,
    images_of,
    in_words,
    pages_of,
    planes_of,
    warning_notes,
    warnings_of_tifffile,
)
from tilesegment.images.tiff_directory import check_alike, check_pages
from tilesegment.images.tiff_metadata import check_description, tiff_format, tiff_frame
from tilesegment.images.tiff_pages import (
    Plane,
    SegmentedPlane,
    Segments,
    check_segment_size,
    check_segments,
    contiguous_start,
    fill_value,
    lies_raw,
    orientation_of,
    raw_planes,
    segment_count,
    stored_segments,
)
from tilesegment.metadata import MARK, Frame, reduction

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
    """A series of a TIFF with its pyramid: the largest (the first of equals), or the one that is chosen.

    Pages of a stack are z planes, turned as their orientation tag says. Tiles that a sparse slide does not store are
    GDAL's no-data value, else 0. Values are as stored: an image where 0 is white is inverted only if that is asked for.
    Of an OME-TIFF in several files only the pages of this file are seen.
    """

    def __init__(
        self,
        path: str,
        tiff: TiffFile,
        segments: Segments,
        levels: list[_TiffLevel],
        dtype: np.dtype,
        frame: Frame,
        shown: Shown,
    ) -> None:
        first = levels[0].layout
        (height, width), planes = first.plane, [level.layout.plane for level in levels]
        described = tuple(Level(plane, (reduction(height, plane[0]), reduction(width, plane[1]))) for plane in planes)
        super().__init__(path, tiff_format(tiff), described, first.depth, first.channels, dtype, frame, shown)
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


def open_tiff(path: str, axes: str | None, select: Mapping[str, int], series: int | None, invert: bool) -> TiffSource:
    """Open a TIFF; arguments as in `open_image`.

    Raises:
        ImageError: it is damaged, truncated, or stored in a way that is not supported.
    """
    with warnings_of_tifffile() as said:
        # _multifile: the XML may name files anywhere on this machine, which are not for us to open
        tiff = TiffFile(path, _multifile=False)
        try:
            check_description(path, tiff)
            check_pages(path, tiff)
            images = images_of(path, tiff)
            notes = [*check_claims(path, tiff, images)]
            default = max(range(len(images)), key=lambda n: _area(images[n]))  # the first of equals
            contents = tuple(map(in_words, images)) if len(images) > 1 else ()
            number = chosen_series(path, series, contents or ("",), default)
            notes += () if series is not None else others_note(path, contents, number)
            chosen = images[number]
            segments = Segments(tiff)
            levels = _levels(path, chosen, segments, axes, select, notes)
            notes += _thin_note(path, chosen) if axes is None else ()
            white = _white(path, chosen.keyframe, invert, notes)
            shown = Shown(orientation_of(chosen.keyframe), white, (*notes, *warning_notes(path, said)), contents)
            return TiffSource(path, tiff, segments, levels, chosen.dtype, tiff_frame(tiff, chosen), shown)
        except BaseException:
            tiff.close()
            raise


def _area(series: TiffPageSeries) -> int:
    return int(series.keyframe.imagelength * series.keyframe.imagewidth)


def _thin_note(path: str, series: TiffPageSeries) -> tuple[str, ...]:
    """What is said of pages so narrow that their width may count channels, where the file does not say what it is."""
    if series.axes[:1] not in ("I", "Q") or len(series.shape) != 3 or not is_thin(series.shape):
        return ()
    planes, height, width = series.shape
    return (
        f"{path} is read as {planes} planes of {height} x {width}: if these are {planes} x {height} pixels of {width} "
        "channels, save them as one page",
    )


def _white(path: str, page: TiffPage, invert: bool, notes: list[str]) -> int | None:
    """The value that a page's are subtracted from, if it counts from white and is to be inverted."""
    if int(page.photometric) != 0:
        if invert:
            notes += inverted_in_vain(path)
        return None
    if not invert:
        notes.append(f"{path} says that 0 is white (MINISWHITE): values are read as stored; --invert turns them round")
        return None
    assert page.dtype is not None
    if page.dtype.kind == "f":
        raise ImageError(f"{path} holds floats of which 0 is white: there is no largest to invert them by: convert it")
    notes.append(f"{path} says that 0 is white (MINISWHITE): its values are inverted")
    if page.dtype.kind == "i":
        return -1
    return 255 if page.bitspersample == 1 else (1 << page.bitspersample) - 1


def _levels(
    path: str,
    series: TiffPageSeries,
    segments: Segments,
    axes: str | None,
    select: Mapping[str, int],
    notes: list[str],
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
        level = _level(path, stored, segments, layout)
        if not _is_stored(path, stored, len(levels), notes):
            break
        levels.append(level)
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
    stored_type(path, page.dtype)
    if page.compression != 1 and page.compression not in tifffile.TIFF.DECOMPRESSORS:
        raise ImageError(f"{path} uses TIFF compression {int(page.compression)}, which cannot be decoded: convert it")
    photometric = int(page.photometric)
    if photometric == 3 and not _is_our_mask(page.parent):
        raise ImageError(f"{path} has a colour map (palette), which is not applied: {_CONVERT}")
    if photometric not in (0, 1, 2, 3) and not (photometric == 6 and page.compression in _JPEG):
        name = getattr(page.photometric, "name", photometric)
        raise ImageError(f"{path} has colours of kind {name}, which is not supported: {_CONVERT}")
    if page.imagedepth != 1:
        raise ImageError(f"{path} has volumetric pages, which are not supported: write one page a plane")


def _is_our_mask(tiff: TiffFile) -> bool:
    """Whether the file is a mask that we wrote, whose palette shows class ids: they are what is read."""
    return f'<M K="{MARK}">' in (tiff.ome_metadata or "")


def _is_stored(path: str, series: TiffPageSeries, level: int, notes: list[str]) -> bool:
    """Whether any of a level is stored; adds to `notes` what is not.

    Raises:
        ImageError: nothing of a plane of level 0 is stored, as where a file was not written to its end.
    """
    key, pages = series.keyframe, pages_of(series)
    kind, expected = "tiles" if key.is_tiled else "strips", segment_count(key)
    stored = [expected] if contiguous_start(series) is not None else [stored_segments(page) for page in pages]
    empty = [number for number, count in enumerate(stored) if count == 0]
    if level and len(empty) == len(stored):
        notes.append(f"{path} stores nothing of level {level} and below: these are left out")
        return False
    if level == 0 and empty:
        planes = f" of {len(empty)} of {len(stored)} planes (the first is {empty[0]})" if len(stored) > 1 else ""
        raise ImageError(
            f"{path} stores none of the {expected} {kind}{planes}: it was not written to its end: export it again"
        )
    if level == 0 and sum(stored) < expected * len(stored):
        total = expected * len(stored)
        value = f"{fill_value(key):g}"
        notes.append(f"{path} does not store {total - sum(stored):,} of {total:,} {kind}: their pixels are {value}")
    return True


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
    number = planes_of(series)
    if (start := contiguous_start(series)) is not None:
        # one page may stand for a whole stack, as in ImageJ's: the planes lie one after the other
        if start + number * key.nbytes > size:
            raise ImageError(
                f"{path} is truncated: it has {size} of {start + number * key.nbytes} bytes: copy it again"
            )
        return raw_planes(key, [start + i * key.nbytes for i in range(number)])
    pages = pages_of(series)
    if len(pages) < number:
        raise ImageError(
            f"{path} lacks {number - len(pages)} of the {number} planes that its metadata lists: it is truncated, or "
            "the others are in other files: copy it again, or export it as one file"
        )
    for page in pages:
        check_segments(path, key, page, size)
        check_alike(path, key, page)
    if key.is_final and all(lies_raw(key, page) for page in pages):
        return raw_planes(key, [page.dataoffsets[0] for page in pages])
    check_segment_size(path, key)
    fill = fill_value(key)
    return tuple(
        SegmentedPlane(key, tuple(page.dataoffsets), tuple(page.databytecounts), page.jpegtables, fill, segments)
        for page in pages
    )
