"""The 4-connected pieces of one block: runs that touch, labelled by themselves; see `labelling` for whole masks."""

from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from tilesegment.geometry import Region
from tilesegment.objects.arrays import load_arrays, save_arrays
from tilesegment.objects.runs import Choose, Runs, join


@dataclass(frozen=True)
class Head:
    """What joining the pieces of a block to those of others takes.

    Attributes:
        value: (p,) uint32, of each piece.
        first: (p,) int32, the first pixel of each piece in raster order, flattened.
        corners: (m, 2) uint32, pairs of pieces of one value that meet at a corner; empty unless asked for.
        top, bottom, left, right: (w,) or (h,) uint32, the outermost pixels: their piece + 1, or 0.
    """

    value: np.ndarray
    first: np.ndarray
    corners: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    left: np.ndarray
    right: np.ndarray

    @classmethod
    def load(cls, path: Path) -> "Head":
        """Read a part of what `BlockPieces.save` wrote."""
        return cls(**load_arrays(path, [one.name for one in fields(cls)]))


@dataclass(frozen=True)
class BlockPieces:
    """The pieces of a block: 4-connected pixels of one value that is not 0.

    Attributes:
        runs: of the values.
        piece: (n,) uint32, the piece of each run, 0, 1, ... in this block.
        head: the rest.
    """

    runs: Runs
    piece: np.ndarray
    head: Head

    @classmethod
    def of(cls, values: np.ndarray, *, corners: bool = False, choose: Choose | None = None) -> "BlockPieces":
        """Label `values` (h, w), of any unsigned integer type up to 32 bits; 0 is in no piece.

        Args:
            values: of the pixels.
            corners: also find the pieces that meet at a corner.
            choose: see `Runs.of`.
        """
        runs = Runs.of(values, choose)
        count, piece = join(len(runs.start), *runs.pairs())
        piece = piece.astype(np.uint32)
        first_run = np.full(count, len(piece))
        np.minimum.at(first_run, piece, np.arange(len(piece)))
        meeting = np.zeros((0, 2), np.uint32)
        if corners:
            pairs = np.sort(piece[np.stack(runs.pairs(reach=1), axis=-1)], axis=1)
            meeting = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        height, width = runs.shape
        ends = ((0, 0, 1, width), (height - 1, 0, height, width), (0, 0, height, 1), (0, width - 1, height, width))
        edges = []
        for end in ends:
            along, numbers = runs.crop(Region(*end))
            edges.append(along.paint(piece[numbers] + np.uint32(1)).ravel())
        return cls(runs, piece, Head(runs.value[first_run], runs.start[first_run], meeting, *edges))

    def paint(self, window: Region, table: np.ndarray, *, around: Region | None = None) -> np.ndarray:
        """Return (h, w) of what `table` (p,) holds for each piece in a window of the block; 0 in none.

        Args:
            window: in pixels of the block.
            table: of any type.
            around: what is returned, if it is more than the window; the rest of it is 0.
        """
        runs, numbers = self.runs.crop(window)
        if around is not None:
            runs = runs.within(window.within(around), around.shape)
        return runs.paint(table[self.piece[numbers]])

    @cached_property
    def nbytes(self) -> int:
        """Memory in bytes, about."""
        return sum(one.nbytes for one in (self.runs.start, self.runs.stop, self.runs.value, self.piece))

    def save(self, path: Path) -> None:
        """Write the pieces; see `save_arrays`."""
        runs = {"shape": np.array(self.runs.shape), "start": self.runs.start, "stop": self.runs.stop}
        save_arrays(path, runs | {"piece": self.piece} | vars(self.head))

    @classmethod
    def load(cls, path: Path) -> "BlockPieces":
        """Read what `save` wrote."""
        found = load_arrays(path)
        head = Head(**{one.name: found[one.name] for one in fields(Head)})
        height, width = found["shape"].tolist()
        return cls(
            Runs((height, width), found["start"], found["stop"], head.value[found["piece"]]), found["piece"], head
        )
