"""Growing objects and filling their holes, block by block, exactly."""

from itertools import groupby

import numpy as np
from scipy.ndimage import maximum_filter1d


def grow(ids: np.ndarray, allowed: np.ndarray, radius: float) -> np.ndarray:
    """Give pixels to the nearest object within `radius`.

    Each pixel is decided by the pixels within `radius` of it alone, so that a block with this margin is exact. Of
    objects at the same distance (between centres of pixels) the one with the smallest id wins.

    Args:
        ids: (h + 2 m, w + 2 m) uint32, ids of objects with a margin m of at least `radius` pixels; 0 is none.
        allowed: (h, w) bool, which pixels may be given; those of objects stay as they are.
        radius: in pixels.

    Returns:
        (h, w) uint32.
    """
    height, width = allowed.shape
    margin = (ids.shape[0] - height) // 2
    assert margin >= int(radius) and ids.shape == (height + 2 * margin, width + 2 * margin)
    grown = ids[margin : margin + height, margin : margin + width].copy()
    near = (ids > 0).view(np.uint8)
    for axis in (0, 1):  # a square holds the circle
        near = maximum_filter1d(near, 2 * int(radius) + 1, axis=axis, mode="constant")
    wanted = allowed & (grown == 0) & (near[margin : margin + height, margin : margin + width] > 0)
    y, x = np.nonzero(wanted)
    flat, all_ids = np.ascontiguousarray(ids).ravel(), ids.shape[1]
    at = (y + margin) * all_ids + x + margin
    left = np.arange(len(at))
    found = np.zeros(len(at), np.uint32)
    for shifts in _rings(radius):
        if not len(left):
            break
        nearest = np.zeros(len(left), np.uint32)
        for dy, dx in shifts:
            there = flat[at[left] + dy * all_ids + dx]
            nearest = np.where((there > 0) & ((nearest == 0) | (there < nearest)), there, nearest)
        found[left] = nearest
        left = left[nearest == 0]
    grown[y, x] = found
    return grown


def _rings(radius: float) -> list[list[tuple[int, int]]]:
    """Return the shifts (y, x) of length up to `radius`, grouped by length, the shortest first."""
    most = int(radius)
    shifts = [(y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)]
    by_length = sorted((y * y + x * x, y, x) for y, x in shifts if 0 < y * y + x * x <= radius * radius)
    return [[(y, x) for _, y, x in group] for _, group in groupby(by_length, key=lambda shift: shift[0])]


def neighbours(gaps: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which objects the gaps between them touch, side by side: different pairs (m,) of gap and object.

    Args:
        gaps: (h + 2, w + 2) uint32, numbers of the regions without an object, with a margin of a pixel; 0 is none.
        ids: (h + 2, w + 2) uint32, ids of the objects; 0 is none.
    """
    found = []
    inner = gaps[1:-1, 1:-1]
    for dy, dx in ((0, 1), (2, 1), (1, 0), (1, 2)):
        beside = ids[dy : dy + inner.shape[0], dx : dx + inner.shape[1]]
        touching = (inner > 0) & (beside > 0)
        found.append(inner[touching].astype(np.uint64) << np.uint64(32) | beside[touching])
    pairs = np.unique(np.concatenate(found))
    return (pairs >> np.uint64(32)).astype(np.uint32), (pairs & np.uint64(0xFFFFFFFF)).astype(np.uint32)
