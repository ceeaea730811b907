"""What is stored of an array: which blocks are done, and which stored objects cannot be whole. Nothing is decoded."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.masks.disk import reporting
from tilesegment.masks.encoding import is_whole
from tilesegment.masks.grid import Grid

_LIMIT = 10**8  # a byte each


@dataclass(frozen=True)
class Survey:
    """What is stored of an array.

    Attributes:
        done: bool (planes, rows, columns) of blocks: all that holds the block is stored and whole.
        damaged: stored objects that are not whole, in order. Their blocks are not done; writing these replaces them.
    """

    done: np.ndarray
    damaged: tuple[Path, ...]


def survey(path: Path, grid: Grid) -> Survey:
    """What is stored of the array in folder `path`.

    Raises:
        MaskError: it cannot be looked through, is larger than any, or a symbolic link leads out of it.
    """
    if math.prod(grid.counts) > _LIMIT:
        raise MaskError(f"{path} is cut into more than {_LIMIT:,} stored objects; use larger blocks")
    root, damaged = grid.root(path), []
    whole = np.zeros(grid.counts, bool)
    with reporting("look through", path):
        for folder in (path, root):
            _refuse_link(folder, folder.is_symlink())
        for place, entry in _objects(root, grid.counts):
            try:
                # what is neither a file nor a link would not be opened, or block whoever does
                whole[place] = entry.is_file() and is_whole(entry.path, grid)
            except FileNotFoundError:  # another process has just finished or removed the mask
                continue
            if not whole[place]:
                damaged.append((place, Path(entry.path)))
    blocks = _by_block(whole.reshape(grid.depth or 1, *grid.counts[-2:]), grid.block // grid.stored)
    return Survey(blocks, tuple(file for _, file in sorted(damaged)))


def _objects(folder: str | Path, counts: tuple[int, ...]) -> Iterator[tuple[tuple[int, ...], os.DirEntry[str]]]:
    """Place and entry of whatever has the name of a stored object below `folder`; `counts` are those of the grid."""
    try:
        entries = os.scandir(folder)
    except FileNotFoundError:
        return
    with entries:
        for entry in entries:
            _refuse_link(entry.path, entry.is_symlink())
            if not (entry.name.isdecimal() and entry.name.isascii() and int(entry.name) < counts[0]):
                continue
            number = int(entry.name)
            if len(counts) == 1:
                yield (number,), entry
            else:
                for place, found in _objects(entry.path, counts[1:]):
                    yield (number, *place), found


def _refuse_link(path: str | Path, is_link: bool) -> None:
    if is_link:
        raise MaskError(f"{path} is a symbolic link, which is not followed; put what it stands for in its place")


def _by_block(whole: np.ndarray, side: int) -> np.ndarray:
    """Of objects, (planes, rows, columns), whether those of each block, `side` x `side` of them, are all whole."""
    for axis in (1, 2):
        whole = np.logical_and.reduceat(whole, range(0, whole.shape[axis], side), axis=axis)
    return whole
