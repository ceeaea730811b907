"""The stored planes of a TIFF, read region by region: row by row where they lie raw, else by strips or tiles."""

import os
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from tifffile import TiffFile, TiffFrame, TiffPage

from tilesegment.errors import ImageError
from tilesegment.geometry import Region

MAX_SEGMENT = 1 << 30  # bytes of a strip or tile once decoded
STRIP_CACHE = 1 << 29  # bytes of decoded strips kept: those beside a row of blocks, which each block of the row needs
_DESCRIPTION = 270  # tag


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
        dtype = np.dtype(self.key.parent.byteorder + np.dtype(self.key.dtype).char)
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
    """Reads and decodes strips and tiles of one open file; safe in several threads.

    Strips are kept in a cache, least recently used out first: blocks are read row by row, and a strip spans the image,
    so that without it each would be decoded once for every block of a row.
    """

    def __init__(self, page: TiffPage) -> None:
        self._file = page.parent.filehandle
        self._file_lock = threading.Lock()
        self._cache: OrderedDict[int, np.ndarray] = OrderedDict()
        self._cached_bytes = 0
        self._cache_lock = threading.Lock()
        # threads that need the same strip decode it once, threads that need different ones do so at the same time
        self._decoding = [threading.Lock() for _ in range(64)]

    def get(self, plane: "SegmentedPlane", index: int) -> np.ndarray | None:
        """Strip or tile `index` of `plane`, (h, w, samples); None if it is not stored."""
        offset = plane.offsets[index]
        if not offset or not plane.counts[index]:
            return None
        if plane.key.is_tiled:
            return self._decode(plane, index)
        with self._decoding[index % 64]:
            with self._cache_lock:
                if offset in self._cache:
                    self._cache.move_to_end(offset)
                    return self._cache[offset]
            strip = self._decode(plane, index)
            self._keep(offset, strip)
        return strip

    def _keep(self, offset: int, strip: np.ndarray) -> None:
        with self._cache_lock:
            self._cache[offset] = strip
            self._cached_bytes += strip.nbytes
            while self._cached_bytes > STRIP_CACHE:
                _, dropped = self._cache.popitem(last=False)
                self._cached_bytes -= dropped.nbytes

    def _decode(self, plane: "SegmentedPlane", index: int) -> np.ndarray:
        with self._file_lock:
            self._file.seek(plane.offsets[index])
            data = self._file.read(plane.counts[index])
        tables = {"jpegtables": plane.jpegtables, "jpegheader": plane.key.jpegheader}
        try:
            decoded, _, _ = plane.key.decode(data, index, **tables)
        except Exception as error:  # each codec has its own; `ImageSource.read` makes it ours
            raise ValueError(f"{'tile' if plane.key.is_tiled else 'strip'} {index}: {error}") from error
        assert decoded is not None  # only for segments without data
        return decoded[0]


@dataclass(frozen=True)
class SegmentedPlane:
    """A plane of strips or tiles that have to be decoded. Those that are not stored are 0, as in sparse slides.

    Attributes:
        key: the page that says how all pages of its series are stored.
        offsets, counts: where each strip or tile lies in the file, in bytes.
        jpegtables: what all its JPEG tiles share.
        segments: what reads and decodes them.
    """

    key: TiffPage
    offsets: tuple[int, ...]
    counts: tuple[int, ...]
    jpegtables: bytes | None
    segments: Segments

    def read(self, region: Region) -> np.ndarray:
        """The pixels of `region`, (samples, h, w), from the strips or tiles that it touches."""
        separate, _, height, width, interleaved = self.key.shaped
        rows, columns = segment_shape(self.key)
        down, across = -(-height // rows), -(-width // columns)
        pixels = np.zeros((separate * interleaved, *region.shape), self.key.dtype)
        for sample in range(separate):
            part = pixels[sample * interleaved : (sample + 1) * interleaved]
            for row in range(region.y0 // rows, -(-region.y1 // rows)):
                for column in range(region.x0 // columns, -(-region.x1 // columns)):
                    segment = self.segments.get(self, (sample * down + row) * across + column)
                    if segment is not None:
                        _paste(part, region, segment, row * rows, column * columns)
        return pixels


def _paste(pixels: np.ndarray, region: Region, segment: np.ndarray, top: int, left: int) -> None:
    """Copy what `segment` (h, w, samples) at `top`, `left` has of `region` into `pixels` (samples, h, w)."""
    own = Region(top, left, top + segment.shape[0], left + segment.shape[1])
    shared = own.intersect(region)
    target, source = shared.within(region).slices, shared.within(own).slices
    pixels[:, *target] = np.moveaxis(segment[source], -1, 0)


def segment_shape(page: TiffPage) -> tuple[int, int]:
    """(height, width) of a page's tiles or strips."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def check_pages(path: str, tiff: TiffFile) -> None:
    """Compare the directory with what tifffile made of it, which drops pages and descriptions that it cannot read.

    Raises:
        ImageError: the last page that can be read names another one, or the description, which says what the pages are,
            lies beyond the end of the file.
    """
    file, kind, position = tiff.filehandle, tiff.tiff, tiff.pages.next_page_offset
    if position is not None:
        file.seek(position)
        if file.read(kind.offsetsize) != bytes(kind.offsetsize):
            raise ImageError(f"{path} is truncated or damaged: its chain of pages does not end: copy it again")
    first = tiff.pages.first
    file.seek(first.offset)
    (count,) = struct.unpack(kind.tagnoformat, file.read(kind.tagnosize))
    entries = file.read(count * kind.tagsize)
    codes = [struct.unpack_from(f"{kind.byteorder}H", entries, i * kind.tagsize)[0] for i in range(count)]
    if _DESCRIPTION in codes and _DESCRIPTION not in first.tags:
        raise ImageError(f"{path} is truncated or damaged: its description cannot be read: copy it again")


def check_segments(path: str, key: TiffPage, page: TiffPage | TiffFrame, size: int) -> None:
    """Compare what `page` claims with the `size` of the file in bytes.

    Raises:
        ImageError: strips or tiles are missing from its directory, or lie beyond the end of the file.
    """
    separate, _, height, width, _ = key.shaped
    rows, columns = segment_shape(key)
    expected = separate * -(-height // rows) * -(-width // columns)
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
