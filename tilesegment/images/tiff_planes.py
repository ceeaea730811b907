"""The stored planes of a TIFF, read region by region: row by row if they are raw, else by strips or tiles."""

import math
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from tifffile import TiffFrame, TiffPage, TiffPageSeries

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.byte_ranges import ByteRanges
from tilesegment.images.pieces import PieceReader, Take
from tilesegment.images.raw import read_rows
from tilesegment.threads import thread_count

MAX_SEGMENT = 1 << 30  # bytes of a strip or tile once decoded
_MOST_AT_A_TIME = 8  # strips or tiles that a thread takes
_ORIENTATION = 274  # tag


@dataclass(frozen=True)
class RawPlane:
    """A plane that is stored as it would lie in memory; its rows are read one by one, in the file's byte order."""

    key: TiffPage  # says how the plane is stored
    offset: int  # of its first byte in the file
    file: ByteRanges

    def read(self, region: Region) -> np.ndarray:
        """Read the pixels of `region`, (samples, h, w)."""
        separate, _, height, width, interleaved = self.key.shaped
        dtype = np.dtype(self.key.dtype).newbyteorder(self.key.parent.byteorder)
        part = np.empty((separate, *region.shape, interleaved), dtype)
        pixel = interleaved * dtype.itemsize
        for sample in range(separate):
            first = (sample * height + region.y0) * width + region.x0
            lengths = region.height, region.width * pixel
            rows = read_rows(self.file, self.offset + first * pixel, width * pixel, lengths)
            part[sample] = rows.view(dtype).reshape(part.shape[1:])
        return part.transpose(0, 3, 1, 2).reshape(separate * interleaved, *region.shape)

    def announce(self, region: Region) -> None:
        """Do nothing: rows come in one go, and are read once."""


class Segments:
    """Decodes strips and tiles of one open file, several at a time, and keeps some; safe in several threads."""

    def __init__(self, file: ByteRanges) -> None:
        self.pieces = PieceReader()
        self.file = file
        self._threads = thread_count()
        self._pool = ThreadPoolExecutor(self._threads, "decode")

    def each(self, work: Callable[[int], None], indices: Sequence[int]) -> None:
        """Do the work for each strip or tile, in threads that take some at a time: else they wait for one another."""
        count = max(1, min(_MOST_AT_A_TIME, len(indices) // (4 * self._threads)))

        def several(start: int) -> None:
            for index in indices[start : start + count]:
                work(index)

        list(self._pool.map(several, range(0, len(indices), count)))

    def close(self) -> None:
        """Drop what is kept, once nothing is being decoded."""
        self._pool.shutdown(cancel_futures=True)
        self.pieces.close()


@dataclass(frozen=True)
class SegmentedPlane:
    """A plane of strips or tiles to decode. Those that are not stored hold the no-data value (GDAL's, else 0)."""

    key: TiffPage  # says how all pages of its series are stored
    page: TiffPage | TiffFrame  # says where its strips or tiles lie
    segments: Segments

    def read(self, region: Region) -> np.ndarray:
        """Read the pixels of `region`, (samples, h, w), from the strips or tiles that it touches."""
        separate, *_, interleaved = self.key.shaped
        # samples lie as decoded: to copy them apart takes ten times as long
        samples = np.full((separate, *region.shape, interleaved), self.key.nodata, self.key.dtype)
        for sample in range(separate):

            def decode(needed: list[Region], take: Take, sample: int = sample) -> None:
                stored = self._stored(needed, sample)
                self.segments.pieces.decoded_bytes += len(stored) * _segment_bytes(self.key)
                data = self.segments.file.fetch([self._span(index) for index in stored])

                def finish(index: int) -> None:
                    take(stored[index], self._decode(index, data(self._span(index))))

                self.segments.each(finish, list(stored))

            self.segments.pieces.read(np.moveaxis(samples[sample], -1, 0), region, self._plane(sample), decode)
        return np.moveaxis(samples, -1, 1).reshape(separate * interleaved, *region.shape)

    def announce(self, region: Region) -> None:
        """Begin to fetch what lies on a server: `region` is read soon."""
        for sample in range(self.key.shaped[0]):
            expected = self.segments.pieces.expect(region, self._plane(sample))
            self.segments.file.announce([self._span(index) for index in self._stored(expected, sample)])

    def _plane(self, sample: int) -> tuple[Hashable, tuple[int, int], tuple[int, int]]:
        """Describe the plane of a sample, or of all that lie together, to the reader of its pieces."""
        _, _, height, width, _ = self.key.shaped
        return (id(self), sample), (height, width), _segment_shape(self.key)

    def _stored(self, needed: list[Region], sample: int) -> dict[int, Region]:
        """Return those of some strips or tiles that are stored, by their numbers."""
        _, (height, width), (rows, columns) = self._plane(sample)
        down, across = -(-height // rows), -(-width // columns)
        numbers = {(sample * down + own.y0 // rows) * across + own.x0 // columns: own for own in needed}
        offsets, counts = self.page.dataoffsets, self.page.databytecounts
        return {index: own for index, own in numbers.items() if offsets[index] and counts[index]}

    def _span(self, index: int) -> tuple[int, int]:
        """Return where in the file a strip or tile lies."""
        start = self.page.dataoffsets[index]
        return start, start + self.page.databytecounts[index]

    def _decode(self, index: int, data: bytes) -> np.ndarray:
        """Decode a strip or tile, (samples, h, w)."""
        tables = {"jpegtables": self.page.jpegtables, "jpegheader": self.key.jpegheader}
        try:
            decoded, _, _ = self.key.decode(data, index, **tables)
        except Exception as error:  # each codec has its own errors; `ImageSource.read` wraps them
            raise ValueError(f"{'tile' if self.key.is_tiled else 'strip'} {index}: {error}") from error
        assert decoded is not None  # only for segments without data
        return np.moveaxis(decoded[0], -1, 0)


Plane: TypeAlias = RawPlane | SegmentedPlane


def _segment_shape(page: TiffPage) -> tuple[int, int]:
    """Return the (height, width) of a page's tiles or strips."""
    if page.is_tiled:
        return page.tilelength, page.tilewidth
    return min(page.rowsperstrip, page.imagelength), page.imagewidth


def _segment_bytes(page: TiffPage) -> int:
    return int(math.prod(_segment_shape(page)) * page.shaped[4] * np.dtype(page.dtype).itemsize)


def segment_count(page: TiffPage) -> int:
    """Return how many strips or tiles a page has."""
    separate, _, height, width, _ = page.shaped
    rows, columns = _segment_shape(page)
    return int(separate * -(-height // rows) * -(-width // columns))


def stored_segments(page: TiffPage | TiffFrame) -> int:
    """Return how many strips or tiles of a page are stored."""
    return int(np.count_nonzero(np.asarray(page.dataoffsets, bool) & np.asarray(page.databytecounts, bool)))


def orientation_of(page: TiffPage) -> int:
    """Return the orientation of a page, 1 to 8."""
    tag = page.tags.get(_ORIENTATION)
    return int(tag.value) if tag is not None and isinstance(tag.value, int) else 1


def pages_of(series: TiffPageSeries) -> list[TiffPage | TiffFrame]:
    """Return the pages of a series that exist; no more than its shape asks for."""
    return [page for page in series if page is not None][: planes_of(series)]


def planes_of(series: TiffPageSeries) -> int:
    """Return how many pages the shape of a series asks for."""
    return max(math.prod(series.shape) // max(series.keyframe.size, 1), 1)


def contiguous_start(series: TiffPageSeries) -> int | None:
    """Return the offset of the planes of a series if they are stored raw, one after the other; else None."""
    start = series.dataoffset
    return start if start and all(series.keyframe.databytecounts) else None


def open_planes(path: str, series: TiffPageSeries, segments: Segments) -> Sequence[Plane]:
    """Return the planes of a series, after comparing each page with the file's size."""
    key, size, number = series.keyframe, series.keyframe.parent.filehandle.size, planes_of(series)
    if (start := contiguous_start(series)) is not None:
        # one page may stand for a whole stack, as in ImageJ's
        if start + number * key.nbytes > size:
            raise ImageError(
                f"{path} is truncated: it has {size} of {start + number * key.nbytes} bytes: copy it again"
            )
        return [RawPlane(key, start + i * key.nbytes, segments.file) for i in range(number)]
    pages = pages_of(series)
    if len(pages) < number:
        raise ImageError(
            f"{path} lacks {number - len(pages)} of the {number} planes that its metadata lists: it is truncated, or "
            "the others are in other files: copy it again, or export it as one file"
        )
    for page in pages:
        _check_page(path, key, page, size)
    if key.is_final and all(_lies_raw(key, page) for page in pages):
        return [RawPlane(key, page.dataoffsets[0], segments.file) for page in pages]
    if _segment_bytes(key) > MAX_SEGMENT:
        raise ImageError(
            f"{path} is stored in {_kind(key)} of {_segment_bytes(key) / 2**30:.1f} GiB; at most 1 is supported: "
            "convert it to a tiled TIFF or OME-Zarr"
        )
    return [SegmentedPlane(key, page, segments) for page in pages]


def _kind(page: TiffPage) -> str:
    return "tiles" if page.is_tiled else "strips"


def _check_page(path: str, key: TiffPage, page: TiffPage | TiffFrame, size: int) -> None:
    """Compare what `page` claims with the `size` of the file in bytes, and with the key page of the series."""
    expected = segment_count(key)
    if min(len(page.dataoffsets), len(page.databytecounts)) < expected:
        raise ImageError(
            f"{path} claims {key.imagelength} x {key.imagewidth} pixels in {expected} {_kind(key)} but lists "
            f"{len(page.dataoffsets)}: its header is damaged"
        )
    end = max(offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=False))
    if end > size:
        raise ImageError(f"{path} is truncated: it has {size} bytes but {_kind(key)} up to byte {end}: copy it again")
    if page.offset == key.offset:
        return
    # tifffile believes a description that says that all pages are alike, and reads no more of most than their offsets
    whole = page.aspage() if isinstance(page, TiffFrame) else page
    for name, facts in _ALIKE.items():
        if facts(key) != facts(whole):
            raise ImageError(
                f"{path} has pages of one stack that differ in their {name} ({facts(key)} and {facts(whole)}): export "
                "its images to separate files"
            )


# what all pages of a stack have in common
_ALIKE: dict[str, Callable[[TiffPage], Any]] = {
    "size": lambda page: page.shaped,
    "type": lambda page: (page.dtype, page.bitspersample, page.fillorder),
    "compression": lambda page: (page.compression, page.predictor),
    "colours": lambda page: page.photometric,
    "tiles or strips": _segment_shape,
    "orientation": orientation_of,
}


def _lies_raw(key: TiffPage, page: TiffPage | TiffFrame) -> bool:
    """Return whether the strips of a `page` without compression are all there and follow each other."""
    offsets, counts = page.dataoffsets, page.databytecounts
    if not all(offsets) or not all(counts) or sum(counts) != key.nbytes:
        return False
    return all(o + c == following for o, c, following in zip(offsets, counts, offsets[1:], strict=False))
