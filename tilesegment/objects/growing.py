"""Growing objects and filling their holes, block by block, exactly."""

from itertools import groupby

import numpy as np
from scipy.ndimage import distance_transform_edt, maximum_filter1d

from tilesegment.objects.labelling import MOST


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
    if not len(y):
        return grown
    nearest = distance_transform_edt(ids == 0, return_distances=False, return_indices=True)
    dy, dx = (nearest[axis][y + margin, x + margin] - at - margin for axis, at in enumerate((y, x)))
    squares = dy * dy + dx * dx
    order = np.argsort(squares)
    flat, wide = np.ascontiguousarray(ids).ravel(), ids.shape[1]
    at = ((y + margin) * wide + x + margin)[order]
    found = np.zeros(len(order), np.uint32)
    for square, shifts in _rings(radius):
        first, last = np.searchsorted(squares, (square, square + 1), sorter=order)
        # 0 becomes the largest number
        least = np.full(last - first, np.uint32(MOST))
        for down, right in shifts:
            np.minimum(least, flat[at[first:last] + down * wide + right] - np.uint32(1), out=least)
        found[first:last] = least + np.uint32(1)
    grown[y[order], x[order]] = found
    return grown


def _rings(radius: float) -> list[tuple[int, list[tuple[int, int]]]]:
    """Return the shifts (y, x) of each squared length up to the square of `radius`, the shortest first."""
    most = int(radius)
    shifts = [(y, x) for y in range(-most, most + 1) for x in range(-most, most + 1)]
    by_length = sorted((y * y + x * x, y, x) for y, x in shifts if 0 < y * y + x * x <= radius * radius)
    return [(square, [(y, x) for _, y, x in group]) for square, group in groupby(by_length, key=lambda one: one[0])]


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
