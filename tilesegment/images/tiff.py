"""TIFF in its many kinds: tiled, striped, compressed, BigTIFF, stacks, pyramids, OME-TIFF, ImageJ, SVS, other slides.

tifffile reads the directory and decodes single strips and tiles; this module decides which of them are read, so
that a tiled image is never read whole, and compares claims of the header with the file before it believes them.
"""

import logging
import math
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import tifffile
from tifffile import TiffFile, TiffPage, TiffPageSeries

from tilesegment.errors import ImageError, one_line
from tilesegment.geometry import Region
from tilesegment.images.byte_ranges import ByteRanges, DiskFile, RemoteFile
from tilesegment.images.layout import Choices, Layout, arrange, chosen_series, note_on_inversion
from tilesegment.images.openers import opener_of
from tilesegment.images.pixels import stored_type
from tilesegment.images.source import ImageSource, Level, Shown
from tilesegment.images.tiff_description import check_claims, read_ome, tiff_frame
from tilesegment.images.tiff_planes import (
    Plane,
    SegmentedPlane,
    Segments,
    contiguous_start,
    open_planes,
    orientation_of,
    pages_of,
    segment_count,
    stored_segments,
)
from tilesegment.images.tiff_slide import about, believed_frame, kind_of, without_associated
from tilesegment.metadata import MARK, Frame, reduction

_JPEG = {6, 7, 33007, 34892}
_CONVERT = "convert it to grey or RGB"
_MOST_SAID = 3  # warnings of tifffile that are passed on
_LOGGER, _LISTENING = logging.getLogger("tifffile"), threading.Lock()


@dataclass(frozen=True)
class _TiffLevel:
    """One resolution."""

    layout: Layout  # of its array
    stacked: int  # how many of the first dimensions count `planes`, row-major; the others are those of a page
    samples: slice  # of a page, that are used
    planes: Sequence[Plane]

    def read(self, region: Region, z: int) -> np.ndarray:
        """Read the pixels of `region`, (C, h, w), in the order of bytes they are stored in."""
        pixels = [plane.read(region)[self.samples] for plane in self._used(z)]
        return pixels[0] if len(pixels) == 1 else np.concatenate(pixels)

    def announce(self, region: Region, z: int) -> None:
        """Begin to fetch what lies on a server: `region` is read soon."""
        for plane in self._used(z):
            plane.announce(region)

    def _used(self, z: int) -> list[Plane]:
        """Return the planes that hold the channels of plane `z`."""
        index = self.layout.index(Region(0, 0, 0, 0), z)[: self.stacked]
        numbers = np.arange(len(self.planes)).reshape(self.layout.shape[: self.stacked])[index].ravel().tolist()
        return [self.planes[number] for number in numbers]


class TiffSource(ImageSource):
    """A series of a TIFF with its pyramid.

    Pages of a stack are z planes. Tiles that a sparse slide does not store are GDAL's no-data value, else 0. Of an
    OME-TIFF in several files only the pages of this file are seen.
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
        first, planes = levels[0].layout, [level.layout.plane for level in levels]
        (height, width), (kind, _) = first.plane, kind_of(tiff)
        described = [Level(plane, (reduction(height, plane[0]), reduction(width, plane[1]))) for plane in planes]
        super().__init__(path, kind, described, first.depth, first.channels, dtype, frame, shown)
        self._tiff, self._segments, self._levels = tiff, segments, levels
        self._file = segments.file

    @property
    def cache_bytes(self) -> int:
        """Size of the strips and tiles that reads to come will need, at most as many as the image has."""
        is_decoded = isinstance(self._levels[0].planes[0], SegmentedPlane)
        return min(self._segments.pieces.most_kept, self._bytes) if is_decoded else 0

    def keep_at_most(self, most: int) -> None:
        """Keep fewer pieces than a prediction needs."""
        self._segments.pieces.most_kept = most

    @property
    def decoded_bytes(self) -> int:
        """Size of the strips and tiles decoded; what lies raw does not count. On a server: what came."""
        return self._file.received if isinstance(self._file, RemoteFile) else self._segments.pieces.decoded_bytes

    @property
    def requests(self) -> int:
        """Requests sent to the server."""
        return self._file.requests if isinstance(self._file, RemoteFile) else 0

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        return self._levels[level].read(region, z)

    def _announce(self, region: Region, level: int, z: int) -> None:
        if isinstance(self._file, RemoteFile):
            self._levels[level].announce(region, z)

    def close(self) -> None:
        """Close the file and drop decoded strips and tiles."""
        self._levels = []
        self._segments.close()
        self._tiff.close()
        if isinstance(self._file, RemoteFile):
            self._file.close()


def open_tiff(given: str | RemoteFile, choices: Choices) -> ImageSource:
    """Open a TIFF, by its path or on a server; one of Ventana with OpenSlide, which stitches its tiles."""
    path = given if isinstance(given, str) else given.name
    with _warnings_of_tifffile() as said:
        # _multifile: the XML may name files anywhere on this machine, which must not be opened
        tiff = TiffFile(cast(Any, given), _multifile=False)
        try:
            if tiff.is_bif:  # whose tiles overlap
                tiff.close()
                if isinstance(given, RemoteFile):
                    raise ImageError(f"{path} is a Ventana slide (BIF), which is not read from a server: download it")
                return opener_of(path, "openslide:open_openslide", "wsi")(path, choices)
            ome = read_ome(path, tiff)
            stored = _images_of(path, tiff, said)
            notes = check_claims(path, tiff, ome, stored)
            images = without_associated(tiff, stored)
            contents = [_in_words(one) for one in images] if len(images) > 1 else []
            areas = [int(one.keyframe.imagelength * one.keyframe.imagewidth) for one in images]
            number, others = chosen_series(path, choices.series, contents, areas.index(max(areas)))
            chosen, notes, segments = images[number], notes + others, Segments(_bytes_of(tiff, given))
            levels = _levels(path, chosen, segments, choices, notes)
            white = _white(path, chosen.keyframe, choices.invert, notes)
            # the orientation has its own note
            different = [text for text in dict.fromkeys(said) if "ORIENTATION" not in text]
            more = f" (and {len(different) - _MOST_SAID} more)" if len(different) > _MOST_SAID else ""
            if different:
                notes.append(f"{path}: tifffile warns: {'; '.join(different[:_MOST_SAID])}{more}")
            frame = believed_frame(path, tiff, tiff_frame(tiff, ome, chosen), notes)
            shown = Shown(orientation_of(chosen.keyframe), white, notes, contents, about(tiff, stored))
            return TiffSource(path, tiff, segments, levels, chosen.dtype, frame, shown)
        except BaseException:
            tiff.close()
            raise


def _bytes_of(tiff: TiffFile, given: str | RemoteFile) -> ByteRanges:
    return DiskFile(tiff.filehandle.fileno()) if isinstance(given, str) else given


class _Listener(logging.Handler):
    """Keeps warnings logged in the thread that created it."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []
        self._thread = threading.get_ident()

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line of the message."""
        if record.thread == self._thread:
            self.said.append(one_line(record.getMessage(), 200))


@contextmanager
def _warnings_of_tifffile() -> Iterator[list[str]]:
    """Collect what tifffile warns of in this thread, even where all logs are disabled, as by the command line."""
    listener = _Listener()
    with _LISTENING:
        _LOGGER.addHandler(listener)
        _LOGGER.isEnabledFor = lambda level: level >= logging.WARNING  # type: ignore[method-assign]
        try:
            yield listener.said
        finally:
            del _LOGGER.isEnabledFor
            _LOGGER.removeHandler(listener)


def _images_of(path: str, tiff: TiffFile, said: list[str]) -> list[TiffPageSeries]:
    """Return the images of a file."""
    file, kind, position = tiff.filehandle, tiff.tiff, tiff.pages.next_page_offset
    if position is not None:
        file.seek(position)
        if file.read(kind.offsetsize) != bytes(kind.offsetsize):
            raise ImageError(f"{path} is truncated or damaged: its chain of pages does not end: copy it again")
    if any("TiffTag 270 " in text for text in said):
        raise ImageError(f"{path} is truncated or damaged: its description cannot be read: copy it again")
    try:
        series = list(tiff.series)
    except RuntimeError as error:
        if "keyframe" not in str(error):
            raise
        raise ImageError(
            f"{path} describes its pages as one stack, but they are not alike ({one_line(error, 200)}): "
            "export its images to separate files"
        ) from error
    if not series:
        raise ImageError(f"{path} holds no image: it is damaged")
    return series


def _in_words(series: TiffPageSeries) -> str:
    """Describe an image of a file."""
    sizes = " x ".join(map(str, series.shape))
    words = f"{sizes} ({','.join(series.axes.lower())}) {series.dtype}"
    return f"{one_line(series.name, 40)}, {words}" if series.name else words


def _white(path: str, page: TiffPage, invert: bool, notes: list[str]) -> int | None:
    """Return the value from which to subtract a page's values, if they count from white and are to be inverted."""
    if int(page.photometric) != 0:
        notes += note_on_inversion(path, invert)
        return None
    if not invert:
        notes.append(f"{path} says that 0 is white (MINISWHITE): values are read as stored; --invert inverts them")
        return None
    kind = np.dtype(page.dtype).kind
    if kind == "f":
        raise ImageError(f"{path} holds floats of which 0 is white, with no largest to invert them by: convert it")
    notes.append(f"{path} says that 0 is white (MINISWHITE): its values are inverted")
    return -1 if kind == "i" else 255 if page.bitspersample == 1 else (1 << page.bitspersample) - 1


def _levels(
    path: str, series: TiffPageSeries, segments: Segments, choices: Choices, notes: list[str]
) -> list[_TiffLevel]:
    """Open the levels of the pyramid down to the first that differs from level 0 in more than its size."""
    levels: list[_TiffLevel] = []
    for stored in series.levels:
        _check_kind(path, stored.keyframe)
        layout = _layout(path, stored, choices)
        first = levels[0].layout if levels else layout
        same = (layout.axes, layout.depth, layout.channels) == (first.axes, first.depth, first.channels)
        if not same or stored.dtype != series.dtype:
            break
        level = _level(path, stored, segments, layout)
        if not _is_stored(path, stored, len(levels), notes):
            break
        levels.append(level)
    return levels


def _layout(path: str, series: TiffPageSeries, choices: Choices) -> Layout:
    # versions of tifffile differ in which dimensions of length 1 they leave out
    kept = [i for i, axis in enumerate(series.axes) if axis in "YX" or series.shape[i] > 1]
    names = "".join(series.axes[i] for i in kept).lower()
    if "z" not in names:  # tifffile calls the pages of a stack I (images) or Q (unknown)
        names = names.replace(next((letter for letter in "iq" if letter in names), "z"), "z", 1)
    shape = tuple(series.shape[i] for i in kept)
    return arrange(path, tuple(names if choices.axes is None else choices.axes), shape, choices.select)


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
    # in our own masks the values under the palette are class ids
    if photometric == 3 and f'<M K="{MARK}">' not in (page.parent.ome_metadata or ""):
        raise ImageError(f"{path} has a colour map (palette), which is not applied: {_CONVERT}")
    if photometric not in (0, 1, 2, 3) and not (photometric == 6 and page.compression in _JPEG):
        name = getattr(page.photometric, "name", photometric)
        raise ImageError(f"{path} has colours of kind {name}, which is not supported: {_CONVERT}")
    if page.imagedepth != 1:
        raise ImageError(f"{path} has volumetric pages, which are not supported: write one page per plane")


def _is_stored(path: str, series: TiffPageSeries, level: int, notes: list[str]) -> bool:
    """Return whether any of a level is stored; note what is missing."""
    key, expected = series.keyframe, segment_count(series.keyframe)
    kind, is_raw = "tiles" if key.is_tiled else "strips", contiguous_start(series) is not None
    stored = [expected] if is_raw else [stored_segments(page) for page in pages_of(series)]
    empty = [number for number, count in enumerate(stored) if count == 0]
    if level and len(empty) == len(stored):
        notes.append(f"{path} stores nothing of level {level} and below: these are left out")
        return False
    if level == 0 and empty:
        planes = f" of {len(empty)} of {len(stored)} planes (the first is {empty[0]})" if len(stored) > 1 else ""
        raise ImageError(
            f"{path} stores none of the {expected} {kind}{planes}: it was not written to its end: export it again"
        )
    total = expected * len(stored)
    if level == 0 and sum(stored) < total:
        missing = f"{total - sum(stored):,} of {total:,} {kind}"
        notes.append(f"{path} does not store {missing}: their pixels are {key.nodata:g}")
    return True


def _level(path: str, series: TiffPageSeries, segments: Segments, layout: Layout) -> _TiffLevel:
    """Return the planes of a level, and which samples of them `layout` uses."""
    page = series.keyframe
    stacked = next(k for k in range(len(layout.shape)) if math.prod(layout.shape[k:]) == page.size)
    inner = dict(zip(layout.axes[stacked:], layout.shape[stacked:], strict=True))
    sample = next((axis for axis in inner if axis not in "yx"), None)
    fits = [axis for axis in inner if axis in "yx"] == ["y", "x"]
    fits = fits and layout.plane == (page.imagelength, page.imagewidth)
    if not fits or inner.get(sample or "", 1) != page.shaped[0] * page.shaped[4]:
        raise ImageError(
            f"{path} stores pages of {' x '.join(map(str, page.shape))}, which axes {','.join(layout.axes)} do not fit"
            ": give --axes whose y and x are those of a page"
        )
    first = layout.fixed.get(sample or "", 0)
    samples = slice(None) if sample is not None and sample == layout.channel else slice(first, first + 1)
    planes = open_planes(path, series, segments)
    assert len(planes) == math.prod(layout.shape[:stacked])
    return _TiffLevel(layout, stacked, samples, planes)
