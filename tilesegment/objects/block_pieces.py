"""The 4-connected pieces of one block: runs that touch, labelled by themselves; see `labelling` for whole masks."""

import io
import struct
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.files import make_folder, write_atomically
from tilesegment.objects.runs import Runs, join

EDGES = ("top", "bottom", "left", "right")
# what numpy and zipfile raise about a file that is cut off or overwritten
_DAMAGED = (ValueError, KeyError, EOFError, NotImplementedError, struct.error, zipfile.BadZipFile, zlib.error)


class DamagedError(MaskError):
    """A result in a work folder was damaged or is missing; now it is missing, and can be made again."""


@dataclass(frozen=True)
class BlockPieces:
    """The pieces of a block: 4-connected pixels of one value that is not 0.

    Attributes:
        runs: of the values.
        piece: (n,) uint32, the piece of each run, 0, 1, ... in this block.
        value: (p,) uint32, of each piece.
        first: (p,) int32, the first pixel of each piece in raster order, flattened.
        corners: (m, 2) uint32, pairs of pieces of one value that meet at a corner; empty unless asked for.
        edges: the outermost pixels along each of `EDGES`, (w,) or (h,) uint32: their piece + 1, or 0.
    """

    runs: Runs
    piece: np.ndarray
    value: np.ndarray
    first: np.ndarray
    corners: np.ndarray
    edges: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, values: np.ndarray, *, corners: bool = False) -> "BlockPieces":
        """Label `values` (h, w), of any unsigned integer type up to 32 bits; 0 is in no piece."""
        runs = Runs.of(values)
        count, piece = join(len(runs.start), *runs.pairs())
        piece = piece.astype(np.uint32)
        _, first_run = np.unique(piece, return_index=True)
        meeting = np.zeros((0, 2), np.uint32)
        if corners:
            pairs = np.sort(piece[np.stack(runs.pairs(reach=1), axis=-1)], axis=1)
            meeting = np.unique(pairs[pairs[:, 0] != pairs[:, 1]], axis=0)
        height, width = runs.shape
        sides = ((0, 0, 1, width), (height - 1, 0, height, width), (0, 0, height, 1), (0, width - 1, height, width))
        edges = []
        for side in sides:
            along, numbers = runs.crop(*side)
            edges.append(along.paint(piece[numbers] + np.uint32(1)).ravel())
        value, first = runs.value[first_run], runs.start[first_run]
        assert len(value) == count
        return cls(runs, piece, value, first, meeting, (edges[0], edges[1], edges[2], edges[3]))

    def paint(self, y0: int, x0: int, y1: int, x1: int, table: np.ndarray) -> np.ndarray:
        """Return the window y0:y1, x0:x1 of the block with what `table` (p,) holds for each piece, 0 in none."""
        runs, numbers = self.runs.crop(y0, x0, y1, x1)
        return runs.paint(table[self.piece[numbers]])

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(array.nbytes for array in self._arrays().values())

    def _arrays(self) -> dict[str, np.ndarray]:
        runs = self.runs
        named = {"shape": np.array(runs.shape), "start": runs.start, "stop": runs.stop, "values": runs.value}
        named |= {"piece": self.piece, "value": self.value, "first": self.first, "corners": self.corners}
        return named | dict(zip(EDGES, self.edges, strict=True))

    def save(self, path: Path) -> None:
        """Write the pieces atomically; see `save_arrays`."""
        save_arrays(path, self._arrays())

    @classmethod
    def load(cls, path: Path) -> "BlockPieces":
        """Read what `save` wrote."""
        found = load_arrays(path)
        shape = (int(found["shape"][0]), int(found["shape"][1]))
        runs = Runs(shape, found["start"], found["stop"], found["values"])
        top, bottom, left, right = (found[name] for name in EDGES)
        piece, value, first, corners = (found[name] for name in ("piece", "value", "first", "corners"))
        return cls(runs, piece, value, first, corners, (top, bottom, left, right))


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays as one .npz, whole or not at all unless power is lost; missing folders are made.

    Raises:
        OSError: it cannot be written.
    """
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]
    make_folder(path.parent, path.parent.parent)
    # to sync a file takes as long as to label a block
    write_atomically(path, content.getvalue(), durable=False)


def load_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read what `save_arrays` wrote; its checksums are verified.

    Raises:
        DamagedError: it is not there, or was not whole; then it is deleted, so that it is made again.
        OSError: it cannot be read.
    """
    try:
        # of a damaged file that it opens itself, numpy leaves the handle open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            return {name: found[name] for name in found.files}
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing") from error
    except _DAMAGED as error:
        with suppress(FileNotFoundError):  # another thread was faster
            path.unlink()
        raise DamagedError(f"{path} was damaged") from error
