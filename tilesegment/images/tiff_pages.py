"""The stored planes of a TIFF, read region by region: row by row where they lie raw, else by strips or tiles."""

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage, TiffPageSeries

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.pieces import PieceReader, Take
from tilesegment.images.tiff_directory import ORIENTATION
from tilesegment.threads import thread_count

MAX_SEGMENT = 1 << 30  # bytes of a strip or tile once decoded
_GDAL_NODATA = 42113  # tag


class Plane(Protocol):
    """One page's pixels."""

    def read(self, region: Region) -> np.ndarray:
        """The pixels of `region`, (samples, h, w)."""


@dataclass(frozen=True)
class RawPlane:
    """A plane that lies in the file as it would in memory, its rows read one by one.

    Not memory-mapped: what was read once would count as resident memory, which then grows with the image, and a file
    that is cut short while it is read would end the process.

    Attributes:
        key: the page that says how the plane is stored.
        offset: of its first byte in the file.
    """

    key: TiffPage
    offset: int

    def read(self, region: Region) -> np.ndarray:
        """The pixels of `region`, (samples, h, w), in the file's byte order."""
        separate, _, height, width, interleaved = self.key.shaped
        dtype = np.dtype(self.key.dtype).newbyteorder(self.key.parent.byteorder)
        part = np.empty((separate, *region.shape, interleaved), dtype)
        file, pixel = self.key.parent.filehandle.fileno(), interleaved * dtype.itemsize
        for sample in range(separate):
            for y in range(region.height):
                row = (sample * height + region.y0 + y) * width + region.x0
                data = os.pread(file, region.width * pixel, self.offset + row * pixel)
                part[sample, y] = np.frombuffer(data, dtype).reshape(region.width, interleaved)
        return part.transpose(0, 3, 1, 2).reshape(separate * interleaved, *region.shape)


def raw_planes(key: TiffPage, offsets: list[int]) -> tuple[RawPlane, ...]:
    """The planes that start at the bytes `offsets` of a file; `key` says how they are stored."""
    return tuple(RawPlane(key, offset) for offset in offsets)


def lies_raw(key: TiffPage, page: TiffPage | TiffFrame) -> bool:
    """Whether the strips of a `page` without compression are all there and follow each other."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if not all(offsets) or not all(counts) or sum(counts) != key.nbytes:
        return False
    return all(o + c == following for o, c, following in zip(offsets, counts, offsets[1:], strict=False))


class Segments:
    """Reads and decodes strips and tiles of one open file, several at a time; safe in several threads."""

    def __init__(self, tiff: TiffFile) -> None:
        self.pieces = PieceReader()
        self._file = tiff.filehandle.fileno()
        self._pool = ThreadPoolExecutor(thread_count(), "decode")

    def decode(self, plane: "SegmentedPlane", indices: list[int], take: Callable[[int, np.ndarray], None]) -> None:
        """Calls `take` with each of the strips or tiles `indices` of `plane` that is stored, (h, w, samples)."""
        stored = [index for index in indices if plane.offsets[index] and plane.counts[index]]
        if stored:
            rows, columns = segment_shape(plane.key)
            size = rows * columns * plane.key.shaped[4] * np.dtype(plane.key.dtype).itemsize
            self.pieces.decoded_bytes += len(stored) * size
        for _ in self._pool.map(lambda index: take(index, self._decode(plane, index)), stored):
            pass

    def _decode(self, plane: "SegmentedPlane", index: int) -> np.ndarray:
        data = os.pread(self._file, plane.counts[index], plane.offsets[index])
        tables = {"jpegtables": plane.jpegtables, "jpegheader": plane.key.jpegheader}
        try:
            decoded, _, _ = plane.key.decode(data, index, **tables)
        except Exception as error:  # each codec has its own; `ImageSource.read` makes it ours
            raise ValueError(f"{'tile' if plane.key.is_tiled else 'strip'} {index}: {error}") from error
        assert decoded is not None  # only for segments without data
        return decoded[0]

    def close(self) -> None:
        """Drop what is kept, once nothing is being decoded."""
        self._pool.shutdown(cancel_futures=True)
        self.pieces.close()


@dataclass(frozen=True)
class SegmentedPlane:
    """A plane of strips or tiles that have to be decoded. Those that are not stored are `fill`, as in sparse slides.

    Attributes:
        key: the page that says how all pages of its series are stored.
        offsets, counts: where each strip or tile lies in the file, in bytes.
        jpegtables: what all its JPEG tiles share.
        fill: value of the pixels that are not stored.
        segments: what reads and decodes them.
    """

    key: TiffPage
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    jpegtables: bytes | None
    fill: float
    segments: Segments

    def read(self, region: Region) -> np.ndarray:
        """The pixels of `region`, (samples, h, w), from the strips or tiles that it touches."""
        separate, _, height, width, interleaved = self.key.shaped
        rows, columns = segment_shape(self.key)
        down, across = -(-height // rows), -(-width // columns)
        pixels = np.full((separate * interleaved, *region.shape), self.fill, self.key.dtype)
        for sample in range(separate):
            first = sample * down * across

            def decode(needed: list[Region], take: Take, first: int = first) -> None:
                own = {first + piece.y0 // rows * across + piece.x0 // columns: piece for piece in needed}
                self.segments.decode(
                    self, list(own), lambda index, segment: take(own[index], np.moveaxis(segment, -1, 0))
                )

            part = pixels[sample * interleaved : (sample + 1) * interleaved]
            plane = (id(self), sample), (height, width), (rows, columns)
            self.segments.pieces.read(part, region, plane, decode)
        return pixels


def segment_shape(page: TiffPage) -> tuple[int, int]:
    """(height, width) of a page's tiles or strips."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def segment_count(key: TiffPage) -> int:
    """How many strips or tiles a page like `key` has."""
    separate, _, height, width, _ = key.shaped
    rows, columns = segment_shape(key)
    return int(separate * -(-height // rows) * -(-width // columns))


def stored_segments(page: TiffPage | TiffFrame) -> int:
    """How many strips or tiles of a page are there."""
    return int(np.count_nonzero(np.asarray(page.dataoffsets, bool) & np.asarray(page.databytecounts, bool)))


def contiguous_start(series: TiffPageSeries) -> int | None:
    """Where the planes of a series begin that lie one after the other, raw; None if they don't."""
    start = series.dataoffset
    return start if start and all(series.keyframe.databytecounts) else None


def fill_value(page: TiffPage) -> float:
    """The value of pixels that are not stored: what GDAL noted as no data, as near as the type allows, else 0."""
    tag = page.tags.get(_GDAL_NODATA)
    try:
        value = float(str(tag.value).strip(" \0")) if tag is not None else 0.0
    except ValueError:  # what says nothing is taken for not said
        return 0
    assert page.dtype is not None
    if page.dtype.kind == "f":
        limits = np.finfo(page.dtype)
        return value if not math.isfinite(value) else min(max(value, float(limits.min)), float(limits.max))
    if page.dtype.kind == "b":
        return bool(value)
    bounds = np.iinfo(page.dtype)
    return 0 if math.isnan(value) else int(min(max(value, bounds.min), bounds.max))


def orientation_of(page: TiffPage) -> int:
    """How a page's pixels are to be turned, 1 to 8."""
    tag = page.tags.get(ORIENTATION)
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1


def check_segments(path: str, key: TiffPage, page: TiffPage | TiffFrame, size: int) -> None:
    """Compare what `page` claims with the `size` of the file in bytes.

    Raises:
        ImageError: strips or tiles are missing from its directory, or lie beyond the end of the file.
    """
    _, _, height, width, _ = key.shaped
    expected = segment_count(key)
    kind = "tiles" if key.is_tiled else "strips"
    if min(len(page.dataoffsets), len(page.databytecounts)) < expected:
        raise ImageError(
            f"{path} claims {height} x {width} pixels in {expected} {kind} but lists {len(page.dataoffsets)}: "
            "its header is damaged"
        )
    end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False))
    if end > size:
        raise ImageError(f"{path} is truncated: it has {size} bytes but {kind} up to byte {end}: copy it again")


def check_segment_size(path: str, key: TiffPage) -> None:
    """Refuse strips or tiles that would fill the memory once decoded.

    Raises:
        ImageError: more than 1 GiB; the message tells to convert.
    """
    rows, columns = segment_shape(key)
    kind = "tiles" if key.is_tiled else "strips"
    decoded = rows * columns * key.shaped[4] * np.dtype(key.dtype).itemsize
    if decoded > MAX_SEGMENT:
        raise ImageError(
            f"{path} is stored in {kind} of {decoded / 2**30:.1f} GiB; at most 1 is supported: "
            "convert it to a tiled TIFF or OME-Zarr"
        )
