"""Smaller levels of a mask: every pixel is the class that most of the pixels under it have."""

import os
from concurrent.futures import ThreadPoolExecutor

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


def build_level(source: BlockArray, target: BlockArray, halvings: int) -> None:
    """Fills `target` with `source` halved `halvings` times, block by block.

    More than one halving is a majority of majorities.

    Raises:
        MaskError: `source` cannot be read or `target` not be written.
    """

    def build(region: Region, z: int) -> None:
        target.write(region, _reduced(source, region, z, halvings), z)

    # numpy and the codecs let go of the interpreter; more threads would only hold more blocks in memory
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(build, region, z) for region, z in target.blocks()]
        try:
            for job in jobs:
                job.result()
        finally:
            for job in jobs:
                job.cancel()


def _reduced(source: BlockArray, region: Region, z: int, halvings: int) -> np.ndarray:
    """`region` of the level `halvings` below `source`, in pieces that each stand for one block of `source`."""
    whole = Region.of_shape(source.grid.shape)
    piece = max(1, source.grid.block >> halvings)
    reduced = np.empty(region.shape, np.uint8)
    for y in range(region.y0, region.y1, piece):
        for x in range(region.x0, region.x1, piece):
            part = Region(y, x, y + piece, x + piece).intersect(region)
            above = Region(*(edge << halvings for edge in (part.y0, part.x0, part.y1, part.x1)))
            ids = source.read(above.intersect(whole), z)
            for _ in range(halvings):
                ids = halve(ids)
            reduced[part.within(region).slices] = ids
    return reduced
