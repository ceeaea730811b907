"""Tile arithmetic: which pixels are read and which are written, in integers only.

The invariant behind everything: every pixel of the written region belongs to the `write` region of exactly one
tile, that tile starts at a multiple of the network's divisor counted from the image's origin, and its `read` region
holds all the context that the network uses. So each kept pixel is computed as one pass over the whole mirror-padded
image would compute it. This is why a tile of 572 has a step of 384: its output of 388 pixels is no multiple of 16.

Coordinates are (y, x), regions half-open, pixels those of the level that is predicted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, floor

import numpy as np

from tilesegment.errors import PlanError


@dataclass(frozen=True, order=True)
class Region:
    """The pixels y0 <= y < y1, x0 <= x < x1; those beyond an image are mirrored ones."""

    y0: int
    x0: int
    y1: int
    x1: int

    def __post_init__(self) -> None:
        assert self.y0 <= self.y1 and self.x0 <= self.x1, f"inverted {self}"

    def __str__(self) -> str:
        return f"{self.y0}:{self.y1},{self.x0}:{self.x1}"

    @classmethod
    def of_shape(cls, shape: tuple[int, int]) -> "Region":
        """All of an image of `shape` (height, width)."""
        return cls(0, 0, *shape)

    @property
    def height(self) -> int:
        return self.y1 - self.y0

    @property
    def width(self) -> int:
        return self.x1 - self.x0

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    @property
    def area(self) -> int:
        return self.height * self.width

    @property
    def slices(self) -> tuple[slice, slice]:
        """The index of this region in an array (..., y, x) that starts at the origin."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    def shift(self, y: int, x: int) -> "Region":
        """The region moved down by `y` and right by `x`."""
        return Region(self.y0 + y, self.x0 + x, self.y1 + y, self.x1 + x)

    def within(self, outer: "Region") -> "Region":
        """This region in the coordinates of `outer`, whose first pixel becomes (0, 0)."""
        return self.shift(-outer.y0, -outer.x0)

    def intersect(self, other: "Region") -> "Region":
        """The pixels in both; empty (area 0) if there are none."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        return Region(y0, x0, max(y0, min(self.y1, other.y1)), max(x0, min(self.x1, other.x1)))

    def around(self, inner: "Region") -> list["Region"]:
        """Cut what lies around `inner`, which this region holds, into regions: above, below, left and right of it."""
        parts = [
            Region(self.y0, self.x0, inner.y0, self.x1),
            Region(inner.y1, self.x0, self.y1, self.x1),
            Region(inner.y0, self.x0, inner.y1, inner.x0),
            Region(inner.y0, inner.x1, inner.y1, self.x1),
        ]
        return [part for part in parts if part.area]

    def squares(self, side: int) -> Iterator["Region"]:
        """Cut the region into squares of `side`, row by row from its first pixel; the last ones are clipped."""
        for y in range(self.y0, self.y1, side):
            for x in range(self.x0, self.x1, side):
                yield Region(y, x, min(y + side, self.y1), min(x + side, self.x1))

    def contains(self, other: "Region") -> bool:
        """Whether every pixel of `other` is in this region."""
        return self.y0 <= other.y0 and self.x0 <= other.x0 and other.y1 <= self.y1 and other.x1 <= self.x1


@dataclass(frozen=True)
class FieldOfView:
    """What a network needs to see in order to decide a square of pixels exactly.

    Attributes:
        divisor: product of the network's strides; steps and positions of tiles are multiples of it.
        before: context pixels above and left of the kept part (the margin or halo).
        after: context pixels below and right of it; more than `before` if the allowed input sizes yield surplus
            output, which is dropped.
        crops: True for a valid-convolution network, whose output starts at the kept part; False for a same-padding
            network, whose output starts at the tile.
    """

    divisor: int
    before: int
    after: int
    crops: bool

    def tile_of(self, step: int) -> int:
        """Side of the network's input that decides `step` pixels a side."""
        return self.before + step + self.after

    def step_for(self, size: int) -> int:
        """The smallest step of at least `size` pixels."""
        return -(-size // self.divisor) * self.divisor

    def step_of(self, tile: int) -> int:
        """Side of the part that is kept of a tile of side `tile`.

        Raises:
            PlanError: the network cannot take such a tile; the message names the nearest allowed sizes.
        """
        step = tile - self.before - self.after
        if step > 0 and step % self.divisor == 0:
            return step
        below = self.nearest_tile(tile)
        above = below + self.divisor
        raise PlanError(f"tile {tile} does not fit the network; the nearest that do are {below} and {above}")

    def nearest_tile(self, tile: int) -> int:
        """The largest tile that the network takes up to `tile`; if there is none, the smallest."""
        steps = (tile - self.before - self.after) // self.divisor
        return self.tile_of(max(steps, 1) * self.divisor)


@dataclass(frozen=True)
class Tile:
    """What the network sees at once (`read`) and the part of its output that is kept (`write`)."""

    write: Region
    read: Region


@dataclass(frozen=True)
class Block:
    """Unit of reading, writing, resuming and cluster tasks: a square of tiles, one stored object of the mask.

    Attributes:
        row, column: position in the grid of blocks.
        write: the pixels it decides, in the image.
        read: the pixels it needs, in the image; mirrored beyond its edges.
        tiles: its tiles, row by row; all `read` regions are of one shape.
    """

    row: int
    column: int
    write: Region
    read: Region
    tiles: tuple[Tile, ...]


@dataclass(frozen=True)
class TileGrid:
    """The blocks and tiles that cover `region`.

    Attributes:
        region: the pixels to decide, in the image.
        step: side of the part of a tile that is kept, a multiple of `view.divisor`.
        block: side of a block, a multiple of `step`.
        view: the network's field of view.
    """

    region: Region
    step: int
    block: int
    view: FieldOfView

    def __post_init__(self) -> None:
        assert self.step > 0 and self.step % self.view.divisor == 0
        assert self.block > 0 and self.block % self.step == 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of blocks."""
        return -(-self.region.height // self.block), -(-self.region.width // self.block)

    def __len__(self) -> int:
        rows, columns = self.shape
        return rows * columns

    def __iter__(self) -> Iterator[Block]:
        """The blocks, row by row."""
        rows, columns = self.shape
        return (self.at(row, column) for row in range(rows) for column in range(columns))

    def at(self, row: int, column: int) -> Block:
        """The block in `row` and `column` of the grid of blocks."""
        y, x = self.region.y0 + row * self.block, self.region.x0 + column * self.block
        write = Region(y, x, y + self.block, x + self.block).intersect(self.region)
        tops, lefts = self._starts(write.y0, write.y1), self._starts(write.x0, write.x1)
        tiles = tuple(self._tile(top, left, write) for top in tops for left in lefts)
        read = Region(tiles[0].read.y0, tiles[0].read.x0, tiles[-1].read.y1, tiles[-1].read.x1)
        return Block(row, column, write, read, tiles)

    def _starts(self, start: int, stop: int) -> range:
        """Where tiles begin along one axis: on the pooling grid from the image's origin, not the region's."""
        return range(start - start % self.view.divisor, stop, self.step)

    def _tile(self, top: int, left: int, block: Region) -> Tile:
        decides = Region(top, left, top + self.step, left + self.step)
        before, after = self.view.before, self.view.after
        read = Region(top - before, left - before, decides.y1 + after, decides.x1 + after)
        return Tile(decides.intersect(block), read)

    @property
    def tiles(self) -> int:
        """How many tiles the network sees in all."""
        return self._tiles_along(self.region.y0, self.region.y1) * self._tiles_along(self.region.x0, self.region.x1)

    def _tiles_along(self, start: int, stop: int) -> int:
        """Tiles along one axis; only the last block may have fewer."""
        blocks, rest = divmod(stop - start, self.block)
        whole, last = (len(self._starts(start, start + side)) for side in (self.block, rest))
        return blocks * whole + (last if rest else 0)


def region_of(roi: Region | None, shape: tuple[int, int], scale: tuple[float, float]) -> Region:
    """Return the pixels of a level that a region of level 0 touches; all pixels if `roi` is None.

    Args:
        roi: in pixels of level 0.
        shape: (height, width) of the level.
        scale: (y, x) pixels of level 0 per pixel of the level.

    Raises:
        PlanError: the region is empty, or reaches beyond the image.
    """
    whole = Region.of_shape(shape)
    if roi is None:
        return whole
    (sy, sx), (height, width) = scale, shape
    touched = Region(floor(roi.y0 / sy), floor(roi.x0 / sx), ceil(roi.y1 / sy), ceil(roi.x1 / sx))
    region = touched.intersect(whole)
    # sides of levels are rounded down: the last pixels of level 0 may be missing here
    beyond = roi.y1 >= (height + 1) * sy or roi.x1 >= (width + 1) * sx
    if roi.area == 0 or min(roi.y0, roi.x0) < 0 or beyond or region.area == 0:
        allowed = f"0:{round(height * sy)},0:{round(width * sx)}"
        raise PlanError(f"roi {roi} is empty or outside the image; allowed: y0:y1,x0:x1 within {allowed}")
    return region


def mirror_indices(start: int, stop: int, size: int) -> np.ndarray:
    """Return indices 0 <= i < size for the pixels start .. stop - 1 of an axis mirrored at its first and last pixel.

    As numpy's `reflect`, the edge pixel is not repeated: -1 becomes 1, `size` becomes `size - 2`. Further out the
    mirror image is mirrored again, so that any margin is allowed, even for an axis of one pixel.
    """
    assert size > 0
    period = max(2 * (size - 1), 1)
    folded = np.arange(start, stop) % period
    return np.minimum(folded, period - folded) if size > 1 else folded
