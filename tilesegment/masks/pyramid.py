"""Smaller levels of a mask: every pixel is the class that most of the pixels under it have."""

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray


def halve(ids: np.ndarray) -> np.ndarray:
    """The majority of every 2 x 2 pixels of `ids` (h, w) uint8: (ceil(h / 2), ceil(w / 2)) uint8.

    Of classes that are equally frequent the smallest id wins. Windows at an odd edge are 2 x 1, 1 x 2 or 1 x 1.
    """
    height, width = ids.shape
    if height % 2 or width % 2:
        # an edge pixel counted twice leaves the majority of its clipped window as it is
        ids = np.pad(ids, ((0, height % 2), (0, width % 2)), mode="edge")
    # a sorting network of five exchanges, the two down the columns at once: first <= second <= third <= last
    low, high = np.minimum(ids[::2], ids[1::2]), np.maximum(ids[::2], ids[1::2])
    first, last = np.minimum(low[:, ::2], low[:, 1::2]), np.maximum(high[:, ::2], high[:, 1::2])
    inner, outer = np.maximum(low[:, ::2], low[:, 1::2]), np.minimum(high[:, ::2], high[:, 1::2])
    second, third = np.minimum(inner, outer), np.maximum(inner, outer)
    # two equal ones among four are a majority or a tie; the first pair is that of the smallest id
    rest = np.where(third == last, third, first)
    rest = np.where(second == third, second, rest)
    return np.where(first == second, first, rest)


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
