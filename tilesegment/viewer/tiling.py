"""Where the tiles of a picture lie that is looked at from afar and from near: integers only.

Of a thing of shape (h, w) zoom 0 has its own pixels; a pixel of zoom k spans 2 ** k of them along each axis, and the
last ones are cut off at the edge. The coarsest zoom is the first at which the whole thing fits on one tile.
"""

from dataclasses import dataclass

from tilesegment.geometry import Region

SIDE = 512  # pixels of a tile


@dataclass(frozen=True, order=True)
class TileAt:
    """One tile: its zoom, and its row and column in the grid of that zoom."""

    zoom: int
    row: int
    column: int

    @property
    def step(self) -> int:
        """Pixels of level 0 that one of its pixels spans."""
        return 1 << self.zoom

    def region(self, shape: tuple[int, int]) -> Region:
        """Return the pixels of level 0 of a thing of `shape` (h, w) that it shows; empty beyond them."""
        side = SIDE * self.step
        y, x = self.row * side, self.column * side
        return Region(y, x, y + side, x + side).intersect(Region.of_shape(shape))

    def pixels(self, shape: tuple[int, int]) -> Region:
        """Return its own pixels within its zoom of a thing of `shape` (h, w)."""
        y, x = self.row * SIDE, self.column * SIDE
        return Region(y, x, y + SIDE, x + SIDE).intersect(Region.of_shape(shape_at(shape, self.zoom)))

    def is_within(self, shape: tuple[int, int]) -> bool:
        """Whether a thing of `shape` (h, w) has this tile."""
        rows, columns = (-(-side // SIDE) for side in shape_at(shape, self.zoom))
        return 0 <= self.zoom < zooms(shape) and 0 <= self.row < rows and 0 <= self.column < columns


def zooms(shape: tuple[int, int]) -> int:
    """Return the number of zooms of a thing of `shape` (h, w)."""
    return (-(-max(shape) // SIDE) - 1).bit_length() + 1


def shape_at(shape: tuple[int, int], zoom: int) -> tuple[int, int]:
    """Return (h, w) of a zoom, in its own pixels.

    >>> shape_at((1000, 2001), 1)
    (500, 1001)
    """
    return -(-shape[0] >> zoom), -(-shape[1] >> zoom)
