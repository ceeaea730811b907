"""A mask in progress, which is looked at and never touched: blocks that are stored are shown, others are empty."""

import os
import threading
import time
from collections import deque
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.images import Level
from tilesegment.masks import MaskSpec
from tilesegment.masks.blocks import BlockArray, reporting
from tilesegment.masks.home import home_of
from tilesegment.masks.spec import Grid, spec_from_record
from tilesegment.masks.store import open_array
from tilesegment.masks.target import OBJECTS, Target, absolute, partial_name, read_record, recorded_target
from tilesegment.stores import Location, Place
from tilesegment.viewer.layer import Progress
from tilesegment.viewer.mask_pixels import Pixels

NOT_YET = 255  # the class id of pixels that are not stored yet, where fewer than 256 classes leave it free
_SECONDS = 0.5  # between two looks at what is stored
_SHARE = 10  # a look that took long is repeated only after so many times as long
_WINDOW = 30.0  # seconds over which the speed is measured


@dataclass
class Growing:
    """An open mask, probabilities or ids of objects in progress.

    Attributes:
        path: its final name.
        target, spec: what it is.
        array: its level 0.
    """

    path: Place
    target: Target
    spec: MaskSpec
    array: BlockArray
    _root: Place
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        grid = self.array.grid
        self._done = np.zeros(grid.count(grid.block), bool)
        self._looked, self._wait = -1e9, _SECONDS
        self._seen: deque[tuple[float, int]] = deque()
        self._is_gone = False

    @property
    def kind(self) -> str:
        """`classes`, `probabilities` or `ids`."""
        if self.target.kind == "probabilities":
            return "probabilities"
        return "ids" if self.target.values == OBJECTS else "classes"

    def pixels(self) -> Pixels:
        """Return its pixels, of which those that are stored can be read."""
        grid = self.array.grid
        is_free = self.kind == "classes" and len(self.spec.classes) <= NOT_YET
        return Pixels(
            levels=(Level(grid.shape, (1.0, 1.0)),),
            depth=grid.depth or 1,
            dtype=grid.dtype,
            channels=grid.channels,
            read=lambda region, level, z: self._read(region, z, NOT_YET if is_free else 0),
            block=grid.block,
            is_stored=self.is_stored,
            empty=NOT_YET if is_free else 0,
        )

    def is_stored(self, region: Region, z: int) -> bool:
        """Whether all blocks of a region are stored."""
        return all(self._has(z, row, column) for row, column in self._blocks(region))

    def is_gone(self) -> bool:
        """Whether it is finished, or was removed; on a server, as it was at the last look."""
        if isinstance(self._root, Path) and not self._root.is_dir():
            self._is_gone = True
        return self._is_gone

    def progress(self) -> Progress | None:
        """Look what is stored, at most twice a second; None once the mask is finished, or gone."""
        with self._lock:
            now = time.monotonic()
            if not self.is_gone() and now - self._looked >= self._wait:
                self._look(now)
            if self.is_gone():
                return None
            done = int(np.count_nonzero(self._done))
            return Progress(done, self._done.size, done, self._rate(), self._done.copy(), self.array.grid.block)

    def _look(self, now: float) -> None:
        if isinstance(self.path, Location):
            self._done |= self.array.survey().done
            self._is_gone = read_record(self._root) is None
        else:
            for z, row, column in np.argwhere(~self._done).tolist():
                self._has(z, row, column)
        self._looked = time.monotonic()
        self._wait = max(_SECONDS, _SHARE * (self._looked - now))
        self._seen.append((self._looked, int(np.count_nonzero(self._done))))
        while self._seen[-1][0] - self._seen[0][0] > _WINDOW:
            self._seen.popleft()

    def _rate(self) -> float | None:
        """Return the megapixels stored per second of late; None if nothing was."""
        (start, before), (end, after) = self._seen[0], self._seen[-1]
        if after == before:
            return None
        height, width = self.array.shape
        pixels = height * width * (self.array.grid.depth or 1) * (after - before) / self._done.size
        return pixels / (end - start) / 1e6

    def _has(self, z: int, row: int, column: int) -> bool:
        """Whether a block is stored; on a server, as it was at the last look."""
        if not self._done[z, row, column] and not isinstance(self.path, Location):
            files = self.array.objects(self._block(row, column), z)
            self._done[z, row, column] = all(_is_file(str(file)) for file in files)
        return bool(self._done[z, row, column])

    def _block(self, row: int, column: int) -> Region:
        side = self.array.grid.block
        block = Region(row * side, column * side, (row + 1) * side, (column + 1) * side)
        return block.intersect(Region.of_shape(self.array.shape))

    def _blocks(self, region: Region) -> list[tuple[int, int]]:
        side = self.array.grid.block
        rows, columns = (
            range(start // side, -(-stop // side)) for start, stop in ((region.y0, region.y1), (region.x0, region.x1))
        )
        return list(product(rows, columns))

    def _read(self, region: Region, z: int, empty: int) -> np.ndarray:
        grid = self.array.grid
        lead = () if grid.channels is None else (grid.channels,)
        pixels = np.full((*lead, *region.shape), empty, grid.dtype)
        for row, column in self._blocks(region):
            if not self._has(z, row, column):
                continue
            part = self._block(row, column).intersect(region)
            try:
                pixels[(..., *part.within(region).slices)] = self.array.read(part, z)
            except MaskError:
                if not self.is_gone():  # else it has just been finished
                    raise
        return pixels


def find_growing(path: str | Place) -> Growing | None:
    """Open the mask in progress with the final name `path`; None if there is none.

    Raises:
        MaskError: it is damaged.
    """
    place = absolute(path)
    with reporting("read", place):
        for root in (place, partial_name(place)):
            record = read_record(root)
            if record is None or record.get("state") != "partial":
                continue
            spec, target = spec_from_record(record), recorded_target(place, root, record)
            return Growing(place, target, spec, _base(target, root, target.grid(spec)), root)
    return None


def _base(target: Target, root: Place, grid: Grid) -> BlockArray:
    """Open level 0 for reading."""
    return open_array(root / "0", grid) if isinstance(root, Path) else home_of(target).opened().base(grid)


def _is_file(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False
