"""How a mask is cut into blocks, which are labelled and measured one by one: integers only."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from tilesegment.geometry import Region


class Place(NamedTuple):
    """A block: its plane, and its row and column in the grid of blocks."""

    z: int
    row: int
    column: int

    def __str__(self) -> str:
        return f"{self.z}-{self.row}-{self.column}"


@dataclass(frozen=True)
class Cut:
    """A stack of planes cut into square blocks.

    Attributes:
        depth: number of planes, 1 for a single one.
        shape: (height, width) of a plane.
        side: of a block, in pixels; the last ones are clipped.
    """

    depth: int
    shape: tuple[int, int]
    side: int

    @property
    def rows(self) -> int:
        """Rows of blocks in a plane."""
        return -(-self.shape[0] // self.side)

    @property
    def columns(self) -> int:
        """Columns of blocks in a plane."""
        return -(-self.shape[1] // self.side)

    def __len__(self) -> int:
        return self.depth * self.rows * self.columns

    def __iter__(self) -> Iterator[Place]:
        """The blocks, plane by plane, row by row."""
        return (self.at(number) for number in range(len(self)))

    def at(self, number: int) -> Place:
        """Return the block with this number in raster order."""
        z, rest = divmod(number, self.rows * self.columns)
        return Place(z, *divmod(rest, self.columns))

    def number(self, place: Place) -> int:
        """Return the number of a block in raster order."""
        return (place.z * self.rows + place.row) * self.columns + place.column

    def region(self, place: Place) -> Region:
        """Return the pixels of a block."""
        y, x = place.row * self.side, place.column * self.side
        return Region(y, x, min(y + self.side, self.shape[0]), min(x + self.side, self.shape[1]))

    def touched(self, z: int, region: Region) -> Iterator[Place]:
        """Yield the blocks of plane `z` that share pixels with `region`, which may reach beyond the plane."""
        inside = region.intersect(Region.of_shape(self.shape))
        if inside.area:
            for row in range(inside.y0 // self.side, -(-inside.y1 // self.side)):
                for column in range(inside.x0 // self.side, -(-inside.x1 // self.side)):
                    yield Place(z, row, column)
