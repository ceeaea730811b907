"""Zooms that the file has no level for: computed once in the background, and kept in a temporary file.

A tile that would have to read too much of the file is not read from it. A thread reduces the image instead, part by
part, first those that are looked at; each part is one tile of the finest such zoom, and is laid into all coarser ones
at once, so that the whole image fills in. Memory is that of one part; the file holds about 1/48 of the image's pixels.
"""

import tempfile
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import prod

import numpy as np

from tilesegment.errors import ImageError, TilesegmentError
from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource
from tilesegment.viewer.layer import Progress
from tilesegment.viewer.means import Zoom, means
from tilesegment.viewer.tiling import SIDE, TileAt, shape_at

MOST_READ = 1 << 24  # bytes of the file's pixels that a tile may need
_MOST_SPANNED = 16  # pixels of the file per pixel of a tile
_STRIP = 1 << 23  # bytes that the thread reads at once; those who read tiles wait for it
MOST_KEPT = 1 << 32  # bytes of all temporary files
_PATIENCE = 0.2  # seconds that the thread lets tiles go first, at most, before each strip
_IDLE = 60.0  # seconds without a request after which the thread pauses
_WANTED = 64  # tiles that were asked for last


def is_too_large(zoom: Zoom) -> bool:
    """Whether a tile of this zoom would read too much of the file."""
    too_many = prod(zoom.factor) > _MOST_SPANNED or zoom.bytes_per_pixel * SIDE * SIDE > MOST_READ
    return too_many and prod(zoom.factor) > 1


class ComputedZooms:
    """The zooms of an image that are computed. All methods may be called from several threads.

    Attributes:
        first, last: zooms; those between that need not be computed are, too.
    """

    def __init__(self, source: ImageSource, zooms: Sequence[Zoom], *, most_kept: int = MOST_KEPT) -> None:
        """`zooms` are all of the image, at least one of which is too large; tiles of `first` fit into `most_kept`."""
        self._source, self._zooms, self._most_kept = source, zooms, most_kept
        needed = [number for number, zoom in enumerate(zooms) if is_too_large(zoom)]
        self.asked, self.last = needed[0], needed[-1]
        self.first = self.asked
        while self.first < self.last and self._bytes_from(self.first) > most_kept:
            self.first += 1
        self._planes: OrderedDict[int, _Plane] = OrderedDict()  # the one that was asked for last is the last
        self._wanted: deque[tuple[int, TileAt]] = deque(maxlen=_WANTED)
        self._lock = threading.Lock()
        self._closed, self._alone = threading.Event(), threading.Event()
        self._alone.set()
        self._ahead = 0
        self._thread: threading.Thread | None = None
        self._last_asked, self._version = 0.0, 0

    def covers(self, zoom: int) -> bool:
        """Whether tiles of a zoom are read here."""
        return self.asked <= zoom <= self.last

    def read(self, at: TileAt, z: int) -> tuple[np.ndarray, np.ndarray]:
        """Return what is known of a tile so far, and have the thread see to the rest.

        Returns:
            (C, h, w) in the image's type, and (h, w) bool: which pixels are known.

        Raises:
            ImageError: there is no room for the temporary file.
        """
        finer = max(self.first - at.zoom, 0)  # zooms by which this tile is finer than what is kept
        region = at.pixels(self._source.shape)
        if finer:
            outer = Region(region.y0 >> finer, region.x0 >> finer, -(-region.y1 >> finer), -(-region.x1 >> finer))
        else:
            outer = region
        plane = self._plane(z)
        pixels, known = plane.read(at.zoom + finer, outer)
        if not known.all():
            self._want(z, at)
        if finer:
            rows = (np.arange(region.y0, region.y1) >> finer) - outer.y0
            columns = (np.arange(region.x0, region.x1) >> finer) - outer.x0
            return pixels[:, rows[:, None], columns], known[rows[:, None], columns]
        return pixels, known

    @contextmanager
    def ahead(self) -> Iterator[None]:
        """Let a tile that is read from the file go before the thread, as both read from the same pieces."""
        with self._lock:
            self._ahead += 1
            self._alone.clear()
        try:
            yield
        finally:
            with self._lock:
                self._ahead -= 1
                if not self._ahead:
                    self._alone.set()

    def progress(self) -> Progress | None:
        """Return how far the plane is that was asked for last, at first 0, and go on with it; None if it is complete.

        Raises:
            ImageError: there is no room for the temporary file.
        """
        if not self._planes:
            self._plane(0)
        with self._lock:
            self._last_asked = time.monotonic()
            plane = next(reversed(self._planes.values()))
            tried, version = plane.tried.copy(), self._version
        if tried.all():
            return None
        self._wake()
        return Progress(int(tried.sum()), tried.size, version, stored=tried[None], block=SIDE << self.first)

    def close(self) -> None:
        """Stop the thread and remove the files."""
        self._closed.set()
        with self._lock:
            thread = self._thread
        if thread is not None:
            thread.join()
        for plane in self._planes.values():
            plane.close()
        self._planes.clear()

    def _bytes_from(self, first: int) -> int:
        """Bytes of a plane whose finest zoom is `first`."""
        height, width = shape_at(self._source.shape, first)
        return height * width * self._source.channels * self._source.dtype.itemsize * 4 // 3

    def _plane(self, z: int) -> "_Plane":
        """Return what is kept of a plane; drop others beyond the limit."""
        with self._lock:
            plane = self._planes.get(z) or _Plane(self._source, self.first, self.last)
            self._planes[z] = plane
            self._planes.move_to_end(z)
            most = max(1, self._most_kept // max(1, self._bytes_from(self.first)))
            while len(self._planes) > most:
                _, dropped = self._planes.popitem(last=False)
                dropped.close()
            return plane

    def _want(self, z: int, at: TileAt) -> None:
        with self._lock:
            self._last_asked = time.monotonic()
            self._wanted.append((z, at))
        self._wake()

    def _wake(self) -> None:
        with self._lock:
            if self._closed.is_set() or (self._thread is not None and self._thread.is_alive()):
                return
            self._thread = threading.Thread(target=self._work, name="overview", daemon=True)
            self._thread.start()

    def _work(self) -> None:
        while not self._closed.is_set() and (part := self._next()) is not None:
            z, plane, row, column = part
            try:
                pixels = self._reduced(z, plane.part(row, column))
            except TilesegmentError:  # a tile that is read from the file says what is wrong
                pixels = None
            if not self._closed.is_set():
                plane.lay(row, column, pixels)
                self._version += 1

    def _next(self) -> "tuple[int, _Plane, int, int] | None":
        """Choose a part of the plane that was asked for last: of a tile that is looked at, else the next one."""
        with self._lock:
            if not self._planes or time.monotonic() - self._last_asked > _IDLE:
                self._thread = None
                return None
            z, plane = next(reversed(self._planes.items()))
            for wanted_z, at in reversed(self._wanted):
                if wanted_z == z and (found := plane.missing(_span(at, self.first))) is not None:
                    return z, plane, *found
            found = plane.missing((slice(None), slice(None)))
            if found is None:
                self._thread = None
                return None
            return z, plane, *found

    def _reduced(self, z: int, region: Region) -> np.ndarray | None:
        """Read a part of zoom `first`, strip by strip; None if it is closed meanwhile."""
        zoom, strips = self._zooms[self.first], []
        for strip in _strips(region, max(1, int(_STRIP / max(1.0, region.width * zoom.bytes_per_pixel)))):
            if self._closed.is_set():
                return None
            self._alone.wait(_PATIENCE)
            strips.append(zoom.read(strip, z))
        return np.concatenate(strips, axis=1)


class _Plane:
    """One plane: its zooms in a file, as tiles of one size.

    Attributes:
        tried: (rows, columns) bool, which parts have been read; each is a tile of the first zoom.
        known: those of them that could be read.
    """

    def __init__(self, source: ImageSource, first: int, last: int) -> None:
        self._first, self._shape = first, source.shape
        self._dtype, self._block = source.dtype, (source.channels, SIDE, SIDE)
        self._grids = {zoom: _grid(source.shape, zoom) for zoom in range(first, last + 1)}
        self.tried, self.known = (np.zeros(self._grids[first], bool) for _ in range(2))
        self._lock = threading.Lock()
        try:
            self._file = tempfile.TemporaryFile(prefix="tileseg-view-")  # noqa: SIM115 - closed in `close`
        except OSError as error:
            raise ImageError(_no_room(error)) from error
        self._failed = ""

    def part(self, row: int, column: int) -> Region:
        """Return the pixels of a part, in those of the first zoom."""
        return TileAt(self._first, row, column).pixels(self._shape)

    def missing(self, span: tuple[slice, slice]) -> tuple[int, int] | None:
        """Return the first part in a span of rows and columns that has not been read; None if all have."""
        tried = self.tried[span]
        where = int(np.argmin(tried)) if tried.size else 0
        if not tried.size or tried.flat[where]:
            return None
        row, column = divmod(where, tried.shape[1])
        return row + (span[0].start or 0), column + (span[1].start or 0)

    def lay(self, row: int, column: int, pixels: np.ndarray | None) -> None:
        """Lay a part, (C, h, w), into all zooms; None if it cannot be read."""
        with self._lock:
            try:
                if pixels is not None:
                    for zoom in self._grids:
                        shift = zoom - self._first
                        self._put(zoom, row * SIDE >> shift, column * SIDE >> shift, pixels)
                        pixels = means(pixels, (2, 2))
            except (OSError, ValueError) as error:  # the disk is full; or the file was closed meanwhile
                self._failed, pixels = _no_room(error), None
            self.known[row, column] = pixels is not None
            self.tried[row, column] = True

    def read(self, zoom: int, region: Region) -> tuple[np.ndarray, np.ndarray]:
        """Return pixels (C, h, w) of a zoom and which of them are known, (h, w) bool; `region` lies in one tile."""
        row, column = region.y0 // SIDE, region.x0 // SIDE
        inner = region.shift(-row * SIDE, -column * SIDE)
        with self._lock:
            if self._failed:
                raise ImageError(self._failed)
            pixels = self._get(zoom, row, column)[:, *inner.slices]
            rows = np.arange(region.y0, region.y1) << (zoom - self._first)
            columns = np.arange(region.x0, region.x1) << (zoom - self._first)
            known = self.known[(rows // SIDE)[:, None], columns // SIDE]
        return pixels, known

    def close(self) -> None:
        """Remove the file."""
        with self._lock:
            self._file.close()

    def _offset(self, zoom: int, row: int, column: int) -> int:
        before = sum(prod(grid) for finer, grid in self._grids.items() if finer < zoom)
        return (before + row * self._grids[zoom][1] + column) * prod(self._block) * self._dtype.itemsize

    def _get(self, zoom: int, row: int, column: int) -> np.ndarray:
        self._file.seek(self._offset(zoom, row, column))
        data = self._file.read(prod(self._block) * self._dtype.itemsize)
        block = np.zeros(self._block, self._dtype)
        block.reshape(-1).view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        return block

    def _put(self, zoom: int, y: int, x: int, pixels: np.ndarray) -> None:
        """Write pixels that lie in one tile."""
        row, column = y // SIDE, x // SIDE
        whole = pixels.shape == self._block
        block = pixels if whole else self._get(zoom, row, column)
        if not whole:
            block[:, y % SIDE :, x % SIDE :][:, : pixels.shape[1], : pixels.shape[2]] = pixels
        self._file.seek(self._offset(zoom, row, column))
        self._file.write(np.ascontiguousarray(block).tobytes())


def _grid(shape: tuple[int, int], zoom: int) -> tuple[int, int]:
    """Rows and columns of tiles of a zoom."""
    height, width = shape_at(shape, zoom)
    return -(-height // SIDE), -(-width // SIDE)


def _span(at: TileAt, first: int) -> tuple[slice, slice]:
    """Rows and columns of the parts that a tile shows."""
    if at.zoom < first:
        row, column = at.row >> (first - at.zoom), at.column >> (first - at.zoom)
        return slice(row, row + 1), slice(column, column + 1)
    count = 1 << (at.zoom - first)
    return slice(at.row * count, (at.row + 1) * count), slice(at.column * count, (at.column + 1) * count)


def _strips(region: Region, height: int) -> Iterator[Region]:
    for y in range(region.y0, region.y1, height):
        yield Region(y, region.x0, min(y + height, region.y1), region.x1)


def _no_room(error: Exception) -> str:
    return (
        f"the overview of this image cannot be kept in {tempfile.gettempdir()} ({error}): set TMPDIR to a folder with "
        "more room, or convert the image to a format with a pyramid"
    )
