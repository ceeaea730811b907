"""Arrays in chunks, read region by region and each chunk decoded about once."""

from collections.abc import Hashable, Sequence
from typing import Protocol, TypeAlias

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images.layout import Layout
from tilesegment.images.pieces import PieceReader, Take
from tilesegment.images.source import ImageSource, Level, Shown
from tilesegment.metadata import Frame

_MOST_PIECE = 1 << 27  # bytes: larger chunks are not kept

Index: TypeAlias = tuple[int | slice, ...]


class ChunkedArray(Protocol):
    """An array on a disk or elsewhere; safe in several threads."""

    @property
    def dtype(self) -> np.dtype: ...

    def side(self, dimension: int) -> int:
        """Return the length of a chunk."""

    def read(self, index: Index) -> np.ndarray:
        """Read what the array holds at `index`."""

    def announce(self, index: Index) -> None:
        """Begin to fetch what lies on a server: `index` is read soon."""

    def decoded_bytes(self, index: Index) -> int:
        """Return the size of the chunks that `index` touches, once decoded."""


class ChunkedSource(ImageSource):
    """The arrays of an image, one per level, the finest first."""

    def __init__(
        self,
        path: str,
        format: str,
        levels: Sequence[tuple[ChunkedArray, Layout]],
        scales: Sequence[tuple[float, float]],
        frame: Frame,
        shown: Shown,
    ) -> None:
        array, layout = levels[0]
        described = [Level(one.plane, scale) for (_, one), scale in zip(levels, scales, strict=True)]
        super().__init__(path, format, described, layout.depth, layout.channels, array.dtype, frame, shown)
        self._levels = list(levels)
        self._pieces = PieceReader()

    @property
    def cache_bytes(self) -> int:
        """Size of the chunks that reads to come will need, at most as many as the image has."""
        return min(self._pieces.most_kept, self._bytes)

    def keep_at_most(self, most: int) -> None:
        """Keep fewer pieces than a prediction needs."""
        self._pieces.most_kept = most

    @property
    def decoded_bytes(self) -> int:
        """Size of the chunks decoded: of chunks that span several planes, all of these."""
        return self._pieces.decoded_bytes

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        array, layout = self._levels[level]

        def decoded(region: Region) -> np.ndarray:
            index = layout.index(region, z)
            self._pieces.decoded_bytes += array.decoded_bytes(index)
            return layout.to_planes(array.read(index))

        def decode(needed: list[Region], take: Take) -> None:
            """Decode all at once."""
            box = _around(needed)
            pixels = decoded(box)
            for own in needed:
                take(own, pixels[:, *own.within(box).slices])

        plane = self._plane(level, z)
        if plane is None:
            return decoded(region)
        pixels = np.empty((self.channels, *region.shape), array.dtype)
        self._pieces.read(pixels, region, plane, decode)
        return pixels

    def _announce(self, region: Region, level: int, z: int) -> None:
        array, layout = self._levels[level]
        plane = self._plane(level, z)
        expected = [region] if plane is None else self._pieces.expect(region, plane)
        if expected:
            array.announce(layout.index(_around(expected), z))

    def _plane(self, level: int, z: int) -> tuple[Hashable, tuple[int, int], tuple[int, int]] | None:
        """Describe a plane to the reader of its chunks; None if these are too large to be kept."""
        array, layout = self._levels[level]
        height, width = array.side(layout.axes.index("y")), array.side(layout.axes.index("x"))
        if height * width * self.channels * self.stored_dtype.itemsize > _MOST_PIECE:
            return None
        return (level, z), layout.plane, (height, width)

    def close(self) -> None:
        """Forget the arrays and what is kept of them."""
        self._levels = []
        self._pieces.close()


def _around(needed: Sequence[Region]) -> Region:
    """Return the rectangle of some chunks, row by row; where blocks are read row by row they fill it."""
    return Region(needed[0].y0, min(own.x0 for own in needed), needed[-1].y1, max(own.x1 for own in needed))
