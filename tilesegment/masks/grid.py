"""How the array of a mask is cut into blocks and chunks, and which files hold them: arithmetic, no disk."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilesegment.geometry import Region
from tilesegment.metadata import halved_side


@dataclass(frozen=True)
class Grid:
    """How an array (channels, z, y, x) is cut; the axes that it lacks are None.

    Attributes:
        shape: (height, width).
        depth: planes along z.
        channels: channels of probabilities; None for class ids (uint8).
        block, chunk: sides in pixels.
        format: Zarr's, 3 (a block is one shard) or 2 (a block is chunks).
        values: type of probabilities, `float32`, or `uint8` for 0 to 255.
        floor: whether the sides of smaller levels are rounded down and not up: a last odd row or column has no pixel.
    """

    shape: tuple[int, int]
    depth: int | None
    channels: int | None
    block: int
    chunk: int
    format: int
    values: str = "float32"
    floor: bool = False

    @property
    def axes(self) -> str:
        """Names of the axes in order, `yx` to `czyx`."""
        return ("" if self.channels is None else "c") + ("" if self.depth is None else "z") + "yx"

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(np.uint8 if self.channels is None else self.values)

    @property
    def stored(self) -> int:
        """Side of a stored object."""
        return self.block if self.format == 3 else self.chunk

    def sizes(self, channels: int | None, depth: int, height: int, width: int) -> tuple[int, ...]:
        """The sizes of those axes that there are."""
        every = {"c": channels, "z": depth, "y": height, "x": width}
        return tuple(every[axis] or 1 for axis in self.axes)

    @property
    def full(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.sizes(self.channels, self.depth or 1, *self.shape)

    @property
    def chunks(self) -> tuple[int, ...]:
        return self.sizes(1, 1, self.chunk, self.chunk)

    @property
    def shards(self) -> tuple[int, ...] | None:
        return self.sizes(self.channels, 1, self.block, self.block) if self.format == 3 else None

    @property
    def counts(self) -> tuple[int, ...]:
        """How many stored objects there are along each axis."""
        height, width = (-(-size // self.stored) for size in self.shape)
        return self.sizes(1, self.depth or 1, height, width)

    @property
    def blocked(self) -> tuple[int, int, int]:
        """How many blocks there are: planes, rows, columns."""
        rows, columns = (-(-size // self.block) for size in self.shape)
        return self.depth or 1, rows, columns

    def halved(self, halvings: int) -> "Grid":
        """The grid of a level that is halved `halvings` times."""
        height, width = (halved_side(side, halvings, self.floor) for side in self.shape)
        return replace(self, shape=(height, width))

    def blocks(self) -> Iterator[tuple[Region, int]]:
        """Region and plane of every block, plane by plane, row by row."""
        for z in range(self.depth or 1):
            for region in Region.of_shape(self.shape).squares(self.block):
                yield region, z

    def root(self, path: Path) -> Path:
        """The folder of the stored objects of the array in folder `path`."""
        return path / "c" if self.format == 3 else path

    def objects(self, path: Path, region: Region, z: int) -> list[Path]:
        """The files that hold `region` of plane `z` of the array in folder `path`, row by row."""
        side = self.stored
        lead = [str(z) if axis == "z" else "0" for axis in self.axes[:-2]]
        rows, columns = range(region.y0 // side, -(-region.y1 // side)), range(region.x0 // side, -(-region.x1 // side))
        return [self.root(path).joinpath(*lead, str(row), str(column)) for row in rows for column in columns]
