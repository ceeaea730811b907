"""Areas of the convex hulls of many objects at once, in exact integers.

scikit-image puts four points around each pixel, half a pixel above, below, left and right of its centre, and counts
the pixel centres in the convex hull of them all, those on its edge included. Such a hull depends on the first and the
last pixel of each row alone. Its left edge in row y is

    min(f(y) - 1/2, f(y - 1/2), f(y + 1/2)),

where f is the largest convex function below the first pixels of the rows (the four points are a diamond, and f is
straight between rows). The right edge is the same for the last pixels, mirrored.
"""

import numpy as np

_ROWS = 1 << 14  # rows of objects that are looked at together: they fit into a processor's cache
_NONE = np.iinfo(np.int64).max


def convex_areas(starts: np.ndarray, y: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Count the pixels in the convex hull of each object, as scikit-image's `area_convex` does.

    Args:
        starts: (n,) where the rows of each object begin in the other arrays; increasing, the first is 0.
        y: (rows,) rows that hold pixels, increasing within an object. All coordinates are below 2^30.
        first: (rows,) x of the first pixel of the object in the row.
        last: (rows,) x of its last pixel.

    Returns:
        (n,) int64, pixels.
    """
    count = len(starts)
    ends = np.append(starts[1:], len(y))
    areas = np.empty(count, np.int64)
    if not count:
        return areas
    total = np.cumsum(y[ends - 1] - y[starts] + 1, dtype=np.int64)
    begin = 0
    while begin < count:
        before = total[begin - 1] if begin else 0
        end = max(begin + 1, int(np.searchsorted(total, before + _ROWS, side="right")))
        rows = slice(starts[begin], ends[end - 1])
        areas[begin:end] = _areas(starts[begin:end] - starts[begin], y[rows], first[rows], last[rows])
        begin = end
    return areas


def _areas(starts: np.ndarray, y: np.ndarray, first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """Count the pixels of all hulls: left edges and mirrored right edges side by side, as twice as many objects."""
    count = len(starts)
    group = np.repeat(np.arange(2 * count), np.tile(np.diff(starts, append=len(y)), 2))
    y = np.tile(y.astype(np.int64), 2)
    x = np.concatenate([first.astype(np.int64), -last.astype(np.int64)])
    kept = _lower_hull(group, y, x, 2 * count)
    edges, heights = _edges(group[kept], y[kept], x[kept])
    sums = np.add.reduceat(edges, np.cumsum(heights) - heights)
    # a row holds floor(right) - ceil(left) + 1 pixels, and floor(right) = -ceil(-right)
    return heights[:count] - sums[:count] - sums[count:]


def _lower_hull(group: np.ndarray, y: np.ndarray, x: np.ndarray, groups: int) -> np.ndarray:
    """Return the indices of the points of each group that its largest convex function below (y, x) turns at.

    A point on or above the line through two others of its group turns nothing, so all of those that their neighbours
    show to be such are dropped at once, and again while any are.
    """
    dropped = np.zeros(len(y), bool)
    left = np.arange(len(y))
    while len(left) > 2:
        here, dy, dx = group[left], np.diff(y[left]), np.diff(x[left])
        same = here[1:] == here[:-1]
        above = np.zeros(len(left), bool)
        above[1:-1] = same[:-1] & same[1:] & (dx[:-1] * dy[1:] >= dx[1:] * dy[:-1])
        changed = np.zeros(groups, bool)
        changed[here[above]] = True
        dropped[left[above]] = True
        left = left[~above & changed[here]]
    return np.flatnonzero(~dropped)


def _edges(group: np.ndarray, y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the first x in the hull of each row of each group, all in one array, and the number of rows per group.

    The turning points (y, x) are at the start of straight parts, which hold the rows before the next turning point;
    the last row of a group is a part of its own.
    """
    ends = np.append(group[1:] != group[:-1], True)
    dy = np.where(ends, 1, np.diff(y, append=0))
    dx = np.where(ends, 0, np.diff(x, append=0))
    begin = np.cumsum(dy) - dy
    part = np.repeat(np.arange(len(y)), dy)
    row, slope, length, start = np.arange(len(part)) - begin[part], dx[part], dy[part], x[part]
    edges = start - (length - 2 * slope * row) // (2 * length)  # ceil(f(y) - 1/2)
    between = start - (-slope * (2 * row + 1)) // (2 * length)  # ceil(f(y + 1/2))
    last = begin[ends]
    between[last] = _NONE
    np.minimum(edges, between, out=edges)
    np.minimum(edges[1:], between[:-1], out=edges[1:])
    return edges, np.diff(last, prepend=-1)
