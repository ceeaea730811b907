"""Smaller levels: each pixel is the majority class, the mean probability, or the first object of what it covers."""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice

import numpy as np

from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray
from tilesegment.threads import thread_count

_THREADS = 4  # more would only hold more blocks in memory
_THREADS_PROBABILITIES = 2  # several channels of four bytes
_QUEUED = 256  # blocks
_STRIP = 128  # rows halved at a time, an even number: what is computed in between stays in the CPU's cache
_FEW = 16  # classes up to which one comparison each is faster than a histogram


# region of a level that is halved so often, in its pixels, and plane, to the pixels
Reduced = Callable[[Region, int, int], np.ndarray]


class Tally:
    """Counts the pixels of each of `classes` classes; several threads may add to it."""

    def __init__(self, classes: int) -> None:
        self.pixels = np.zeros(classes, np.int64)
        self._lock = threading.Lock()

    def add(self, ids: np.ndarray) -> None:
        """Count `ids` (h, w) uint8."""
        classes = len(self.pixels)
        if classes <= _FEW:
            found = np.array([np.count_nonzero(ids == n) for n in range(1, classes)], np.int64)
            found = np.append(ids.size - found.sum(), found)
        else:
            found = np.bincount(ids.ravel(), minlength=classes)[:classes]
        with self._lock:
            self.pixels += found


def build_levels(
    levels: Sequence[BlockArray], halvings: Sequence[int], tally: Tally | None, reduced: Reduced | None = None
) -> None:
    """Fill all `levels` but the first, each from the one before.

    Args:
        levels: the first one is stored.
        halvings: how often each is halved from the first; more than one between two is a majority of majorities.
        tally: counts the pixels of the first level; None for probabilities and objects.
        reduced: gives the pixels of the second level; the others are made of it.
    """
    threads = min(thread_count(), _THREADS if levels[0].grid.channels is None else _THREADS_PROBABILITIES)
    with ThreadPoolExecutor(threads) as pool:
        if len(levels) == 1 and tally is not None:
            _each(pool, lambda region, z: tally.add(levels[0].read(region, z)), levels[0])
        for number, level in enumerate(levels[1:], 1):
            if reduced is not None and number == 1:
                _each(pool, partial(_store, level, halvings[number], reduced), level)
                continue
            count = halvings[number] - halvings[number - 1]
            _each(pool, partial(_fill, levels[number - 1], level, count, tally if number == 1 else None), level)


def _each(pool: ThreadPoolExecutor, work: Callable[[Region, int], None], level: BlockArray) -> None:
    """Do `work` for every block of a level, without queueing a million of them at once."""
    blocks = level.blocks()
    while batch := list(islice(blocks, _QUEUED)):
        list(pool.map(work, *zip(*batch, strict=True)))


def _store(level: BlockArray, halvings: int, reduced: Reduced, region: Region, z: int) -> None:
    level.write(region, reduced(region, halvings, z), z)


def _fill(above: BlockArray, level: BlockArray, count: int, tally: Tally | None, region: Region, z: int) -> None:
    """Store block `region` of `level`, which is `above` halved `count` times."""
    grid = level.grid
    pixels = np.empty((() if grid.channels is None else (grid.channels,)) + region.shape, grid.dtype)
    # of probabilities, as many pixels are read at once as a block has: whole ones of several channels take memory
    side = grid.block if grid.channels is None else max(grid.block >> count, 1)
    for part in region.squares(side):
        covered = above.read(_covered(part, count, level.shape, above.shape), z)
        if tally is not None:
            tally.add(covered)
        for _ in range(count):
            covered = _halve(covered)
        # where levels are rounded down, a last odd row or column has no pixel
        pixels[(..., *part.within(region).slices)] = covered[..., : part.height, : part.width]
    level.write(region, pixels, z)


def _halve(covered: np.ndarray) -> np.ndarray:
    if covered.ndim == 3:
        return halve_means(covered)
    # a majority of ids would need no fewer comparisons, and thin objects would vanish sooner
    return halve(covered) if covered.dtype == np.uint8 else covered[::2, ::2]


def _covered(region: Region, count: int, shape: tuple[int, int], above: tuple[int, int]) -> Region:
    """Return what `region` of a level of `shape` covers of the level of shape `above`, halved `count` times.

    The last pixels of the one cover the last of the other, however its sides were rounded.
    """
    y1, x1 = (
        size if end == last else end << count
        for end, last, size in zip((region.y1, region.x1), shape, above, strict=True)
    )
    return Region(region.y0 << count, region.x0 << count, y1, x1)


def halve(ids: np.ndarray) -> np.ndarray:
    """Return the majority of every 2 x 2 pixels of `ids` (h, w) uint8: (ceil(h / 2), ceil(w / 2)) uint8.

    Of equally frequent classes the smallest id wins. Windows at an odd edge are 2 x 1, 1 x 2 or 1 x 1.
    """
    height, width = ids.shape
    halved = np.empty((-(-height // 2), -(-width // 2)), np.uint8)
    for top in range(0, height, _STRIP):
        halved[top // 2 : (top + _STRIP) // 2] = _majorities(ids[top : top + _STRIP])
    return halved


def halve_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of every 2 x 2 pixels of `values` (C, h, w): (C, ceil(h / 2), ceil(w / 2)) of the same dtype.

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
        # counting an edge pixel twice does not change the majority of its clipped window
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
    """Return the even and the odd columns of `ids` (h, 2 w) uint8, each contiguous, as numpy computes fastest."""
    pairs = ids.view("<u2")
    return pairs.astype(np.uint8), (pairs >> 8).astype(np.uint8)


def _choose(where: np.ndarray, ids: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return `ids` where `where`, else `others`: numpy.where, several times as fast for bytes."""
    mask = np.negative(where.view(np.uint8))
    return others ^ ((others ^ ids) & mask)
