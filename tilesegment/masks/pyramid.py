"""Smaller levels of a mask: every pixel is the class that most of the pixels under it have."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray

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


def grow(levels: Sequence[BlockArray], halvings: Sequence[int], region: Region, z: int) -> None:
    """Builds the blocks of smaller levels above a block of level 0, as far as all that is under them is stored.

    Done for every block, from whatever process, each is built when the last block under it is stored.

    Args:
        levels: level 0 first.
        halvings: how often each is half as large as level 0.
        region: the block, which is stored.
        z: its plane.

    Raises:
        MaskError: what is stored cannot be read, or the disk refuses.
    """
    for (source, before), (target, after) in pairwise(zip(levels, halvings, strict=True)):
        side, halved = target.grid.block, after - before
        top, left = ((edge >> halved) // side * side for edge in (region.y0, region.x0))
        region = Region(top, left, top + side, left + side).intersect(Region.of_shape(target.grid.shape))
        if source.missing(_above(source, region, halved), z):
            return
        target.write(region, _reduced(source, region, z, halved), z)


def build_missing(levels: Sequence[BlockArray], halvings: Sequence[int]) -> None:
    """Builds all blocks of smaller levels that are not stored yet: see `grow`.

    More than one halving is a majority of majorities.

    Raises:
        MaskError: what is stored cannot be read, or the disk refuses.
    """
    for (source, before), (target, after) in pairwise(zip(levels, halvings, strict=True)):
        _build_level(source, target, after - before)


def _build_level(source: BlockArray, target: BlockArray, halvings: int) -> None:
    def build(region: Region, z: int) -> None:
        target.write(region, _reduced(source, region, z, halvings), z)

    blocks = zip(target.blocks(), target.survey().done.flat, strict=True)
    # numpy and the codecs let go of the interpreter; more threads would only hold more blocks in memory
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(build, *block) for block, is_done in blocks if not is_done]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()


def _reduced(source: BlockArray, region: Region, z: int, halvings: int) -> np.ndarray:
    """`region` of the level `halvings` below `source`, in pieces that each stand for one block of `source`."""
    piece = max(1, source.grid.block >> halvings)
    reduced = np.empty(region.shape, np.uint8)
    for y in range(region.y0, region.y1, piece):
        for x in range(region.x0, region.x1, piece):
            part = Region(y, x, y + piece, x + piece).intersect(region)
            ids = source.read(_above(source, part, halvings), z)
            for _ in range(halvings):
                ids = halve(ids)
            reduced[part.within(region).slices] = ids
    return reduced


def _above(source: BlockArray, region: Region, halvings: int) -> Region:
    """What of `source` becomes `region` of the level `halvings` below it."""
    scaled = Region(*(edge << halvings for edge in (region.y0, region.x0, region.y1, region.x1)))
    return scaled.intersect(Region.of_shape(source.grid.shape))
