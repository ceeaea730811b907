"""Smaller levels: every pixel is the class that most of the pixels under it have, of probabilities their mean."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import islice

import numpy as np

from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray
from tilesegment.masks.counting import Tally
from tilesegment.metadata import halved_side
from tilesegment.threads import thread_count

_AHEAD = 6  # blocks in work or waiting to be made part of smaller ones
_AHEAD_PROBABILITIES = 2  # several channels of four bytes
_READ = 2  # blocks along a side that are read at a time: a call costs as much as decoding some chunks
_READ_PROBABILITIES = 1  # larger ones, of several channels, would take memory
_STRIP = 128  # rows halved at a time, an even number: what is computed in between stays in the CPU's cache


def halve(ids: np.ndarray) -> np.ndarray:
    """The majority of every 2 x 2 pixels of `ids` (h, w) uint8: (ceil(h / 2), ceil(w / 2)) uint8.

    Of classes that are equally frequent the smallest id wins. Windows at an odd edge are 2 x 1, 1 x 2 or 1 x 1.
    """
    height, width = ids.shape
    halved = np.empty((-(-height // 2), -(-width // 2)), np.uint8)
    for top in range(0, height, _STRIP):
        halved[top // 2 : (top + _STRIP) // 2] = _majorities(ids[top : top + _STRIP])
    return halved


def halve_means(values: np.ndarray) -> np.ndarray:
    """The mean of every 2 x 2 pixels of `values` (C, h, w): (C, ceil(h / 2), ceil(w / 2)) of the same type.

    Windows at an odd edge are 2 x 1, 1 x 2 or 1 x 1.
    """
    height, width = values.shape[-2:]
    if height % 2 or width % 2:
        values = np.pad(values, ((0, 0), (0, height % 2), (0, width % 2)), mode="edge")
    wide = np.float32 if values.dtype.kind == "f" else np.uint16
    total = values[:, ::2, ::2].astype(wide) + values[:, 1::2, ::2]
    total += values[:, ::2, 1::2]
    total += values[:, 1::2, 1::2]
    return (total * np.float32(0.25) if wide == np.float32 else (total + 2) // 4).astype(values.dtype)


def _majorities(ids: np.ndarray) -> np.ndarray:
    height, width = ids.shape
    if height % 2 or width % 2:
        # an edge pixel counted twice leaves the majority of its clipped window as it is
        ids = np.pad(ids, ((0, height % 2), (0, width % 2)), mode="edge")
    # a sorting network of five exchanges, the two down the columns at once: first <= second <= third <= last
    low, low_right = _columns(np.minimum(ids[::2], ids[1::2]))
    high, high_right = _columns(np.maximum(ids[::2], ids[1::2]))
    first, last = np.minimum(low, low_right), np.maximum(high, high_right)
    inner, outer = np.maximum(low, low_right), np.minimum(high, high_right)
    second, third = np.minimum(inner, outer), np.maximum(inner, outer)
    # two equal ones among four are a majority or a tie; the first pair is that of the smallest id
    rest = _choose(third == last, third, first)
    rest = _choose(second == third, second, rest)
    return _choose(first == second, first, rest)


def _columns(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The even and the odd columns of `ids` (h, 2 w) uint8, each contiguous, as numpy computes fastest."""
    pairs = ids.view("<u2")
    return pairs.astype(np.uint8), (pairs >> 8).astype(np.uint8)


def _choose(where: np.ndarray, ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """`ids` where it is true, else `others`: numpy.where, several times as fast for bytes."""
    mask = np.negative(where.view(np.uint8))
    return others ^ ((others ^ ids) & mask)


def build_levels(levels: Sequence[BlockArray], halvings: Sequence[int], tally: Tally | None) -> None:
    """Fills all `levels` but the first from it; each of its blocks is read once, and what is smaller not at all.

    Args:
        levels: from the largest to the smallest, their blocks of one size.
        halvings: how often each is half as large as the first. More than one between two is a majority of majorities.
        tally: counts the pixels of the first level; None for probabilities.

    Raises:
        MaskError: the first level cannot be read or another not be written.
    """
    pyramid = _Pyramid(levels, halvings, tally)
    top = len(levels) - 1
    if top == 0 and tally is not None:
        for region, z in levels[0].blocks():
            tally.add(levels[0].read(region, z))
    blocks = [(top, *block) for block in levels[top].blocks()] if top else []
    leaves = (leaf for block in blocks for leaf in pyramid.leaves(*block))
    # numpy and the codecs let go of the interpreter; more threads would only hold more blocks in memory
    ahead = _AHEAD if levels[0].grid.channels is None else _AHEAD_PROBABILITIES
    with (
        ThreadPoolExecutor(min(4, thread_count())) as pool,
        closing(_ahead(pool, pyramid.grow, leaves, ahead)) as grown,
    ):
        for block in blocks:
            pyramid.complete(*block, grown)


@dataclass(frozen=True)
class _Pyramid:
    """Every block of a level comes from those above it, 2 x 2 of them where it is half as large.

    So a block is grown depth first: little is held, however large the mask.
    """

    levels: Sequence[BlockArray]
    halvings: Sequence[int]
    tally: Tally | None

    def leaves(self, level: int, region: Region, z: int) -> Iterator[tuple[Region, int]]:
        """The blocks of level 1 that block `region` of `level` comes from, in the order in which `complete` asks."""
        if level == 1:
            yield region, z
            return
        for part in self._above(level, region).squares(self._block):
            yield from self.leaves(level - 1, part, z)

    def grow(self, leaf: tuple[Region, int]) -> np.ndarray:
        """Stores and returns a block of level 1."""
        region, z = leaf
        side = (_READ if self.tally is not None else _READ_PROBABILITIES) * self._block
        return self._store(1, region, z, side, lambda part: self._first(part, z))

    def _first(self, part: Region, z: int) -> np.ndarray:
        """What is stored of the first level; all of it is read once."""
        pixels = self.levels[0].read(part, z)
        return pixels if self.tally is None else self.tally.add(pixels)

    def complete(self, level: int, region: Region, z: int, grown: Iterator[np.ndarray]) -> np.ndarray:
        """Stores and returns a block of `level`, with all that it comes from; `grown` are its leaves."""
        if level == 1:
            return next(grown)
        return self._store(level, region, z, self._block, lambda part: self.complete(level - 1, part, z, grown))

    @property
    def _block(self) -> int:
        return self.levels[0].grid.block

    def _above(self, level: int, region: Region) -> Region:
        """What `region` of `level` stands for in the level before."""
        return _doubled(region, self._count(level), self.levels[level].shape, self.levels[level - 1].shape)

    def _count(self, level: int) -> int:
        return self.halvings[level] - self.halvings[level - 1]

    def _store(self, level: int, region: Region, z: int, side: int, read: Callable[[Region], np.ndarray]) -> np.ndarray:
        """Stores and returns block `region` of `level`; `read` gives squares of `side` of the level before."""
        count = self._count(level)
        # an odd square cannot be halved by itself, as a window reaches into the next one
        alone = next(n for n in range(count, -1, -1) if side % (1 << n) == 0)
        height, width = (halved_side(side, alone, floor=False) for side in self.levels[level - 1].shape)
        whole, grid = _doubled(region, count - alone, self.levels[level].shape, (height, width)), self.levels[0].grid
        joined = np.empty((() if grid.channels is None else (grid.channels,)) + whole.shape, grid.dtype)
        for part in self._above(level, region).squares(side):
            ids = _halved(read(part), alone)
            top, left = (part.y0 >> alone) - whole.y0, (part.x0 >> alone) - whole.x0
            joined[..., top : top + ids.shape[-2], left : left + ids.shape[-1]] = ids
        # where levels are rounded down, a last odd row or column has no pixel
        ids = _halved(joined, count - alone)[..., : region.height, : region.width]
        self.levels[level].write(region, ids, z)
        return ids


def _halved(pixels: np.ndarray, count: int) -> np.ndarray:
    """Class ids (h, w) or probabilities (C, h, w), halved `count` times."""
    for _ in range(count):
        pixels = halve(pixels) if pixels.ndim == 2 else halve_means(pixels)
    return pixels


def _doubled(region: Region, count: int, shape: tuple[int, int], above: tuple[int, int]) -> Region:
    """What `region` of a level of `shape` stands for in that of shape `above`, `count` times twice as large.

    The last pixels of the one go with the last of the other, however its sides were rounded.
    """
    y1, x1 = (
        size if end == last else end << count
        for end, last, size in zip((region.y1, region.x1), shape, above, strict=True)
    )
    return Region(region.y0 << count, region.x0 << count, y1, x1)


def _ahead(
    pool: ThreadPoolExecutor,
    grow: Callable[[tuple[Region, int]], np.ndarray],
    leaves: Iterable[tuple[Region, int]],
    ahead: int,
) -> Generator[np.ndarray, None, None]:
    """`grow` of every leaf, in order, up to `ahead` of them before they are asked for."""
    waiting, begun = iter(leaves), deque[Future[np.ndarray]]()
    try:
        while True:
            begun.extend(pool.submit(grow, leaf) for leaf in islice(waiting, ahead - len(begun)))
            if not begun:
                return
            yield begun.popleft().result()
    finally:
        for each in begun:
            each.cancel()
