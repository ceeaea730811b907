"""Tables of objects: measurements named as scikit-image names them, with their unit appended.

All equal those of `skimage.measure.regionprops_table` of the whole label image, in its conventions: centroids are
positions of pixel centres, of which the first is 0; boxes are half-open; the orientation is the angle between the y
axis and the longer axis of the ellipse of the same second moments, from -pi/2 to pi/2. Where rounding decides in
scikit-image, it does not here: a line's minor axis is 0, the orientation of what has no longer axis (a square, a
pixel) is pi/4 or -pi/4, and one along x is pi/2. Grey values of float32 are added exactly, not in float32.
"""

import math
from collections.abc import Sequence

import numpy as np

from tilesegment.metadata import PixelSize
from tilesegment.objects.batches import Placement
from tilesegment.objects.grey import central_moment, pivot_of
from tilesegment.objects.sums import Sums

_BORDER_WEIGHTS = np.array([1.0, math.sqrt(2), (1 + math.sqrt(2)) / 2])
_SQUARE = 1e-3  # relative difference of the sides of a pixel that is called square


def measurement_table(
    pieces: Sums,
    *,
    classes: np.ndarray | None = None,
    size: PixelSize | None = None,
    depth: float | None = None,
    channels: Sequence[str] | None = None,
    planes: bool = False,
    volume: bool = False,
    place: Placement | None = None,
) -> dict[str, np.ndarray]:
    """Make a table of objects from their merged pieces, one row per object, sorted by id.

    `px` are pixels of the mask, except in centroids and boxes with `place`; `vx` are voxels.

    Args:
        pieces: all of each object; of many objects, pass a part at a time (`Sums.take`).
        classes: (n,) names or ids, for the column `class`.
        size: size of the mask's pixels; adds areas in um2 and, if pixels are square, lengths in um.
        depth: distance of planes in micrometres; with `volume` and `size` adds volumes in um3, and lengths in um if
            voxels are cubes.
        channels: names for the columns of grey values; by default "0", "1", ...
        planes: adds a column `plane`, for stacks measured plane by plane.
        volume: objects extend over planes (measured with `volume`).
        place: where centroids and boxes are wanted; by default in pixels of the mask.

    Returns:
        Columns by name, all of length n, integers int64, others float64. Axes, eccentricity and orientation are NaN
        where area * extent^2 exceeds 2^65, as integer sums may not fit into 64 bits: of a filled square, from a side
        of 77,936 pixels. Intensities are NaN as `Grey.mean_and_deviation` says.
    """
    table: dict[str, np.ndarray] = {"label": pieces.ids.astype(np.int64)}
    if classes is not None:
        assert len(classes) == len(pieces)
        table["class"] = np.asarray(classes)
    if planes:
        table["plane"] = pieces.first[:, 0].astype(np.int64)
    table |= _areas(pieces, size, depth, volume) | _positions(pieces, volume, place)
    side = _side(size, depth if volume else None, volume)
    for name, (values, kind) in (_volumes if volume else _shapes)(pieces).items():
        table[name + kind] = values
        if kind == "_px" and side is not None:
            table[f"{name}_um"] = values * side
    return table | _intensities(pieces, channels)


def _side(size: PixelSize | None, depth: float | None, volume: bool) -> float | None:
    """Return the side of a square pixel or of a cubic voxel in micrometres; None if it is unknown or neither."""
    if size is None or (volume and depth is None):
        return None
    sides = [size.y, size.x, *([depth] if depth is not None else [])]
    mean = math.prod(sides) ** (1 / len(sides))
    return mean if max(sides) - min(sides) <= _SQUARE * mean else None


def _areas(pieces: Sums, size: PixelSize | None, depth: float | None, volume: bool) -> dict[str, np.ndarray]:
    """Return areas or volumes, in pixels or voxels and in micrometres."""
    columns = {"area_vx" if volume else "area_px": pieces.area}
    if size is not None and not volume:
        columns["area_um2"] = pieces.area * (size.y * size.x)
    if size is not None and volume and depth is not None:
        columns["area_um3"] = pieces.area * (size.y * size.x * depth)
    return columns


def _positions(pieces: Sums, volume: bool, place: Placement | None) -> dict[str, np.ndarray]:
    """Return centroids and boxes, (y, x), or (z, y, x) of volumes."""
    axes = slice(0 if volume else 1, 3)
    centroids = [total / pieces.area for total in pieces.sums.T[axes]]
    low, high = ([edges.astype(np.int64) for edges in pieces.box.T[side : side + 3][axes]] for side in (0, 3))
    if place is not None:
        # planes are not scaled
        pairs = [(0.0, 1.0)] * volume + list(zip(place.offset, place.scale, strict=True))
        # the centre of a pixel lies half a pixel after its corner, in the mask and in the image
        centroids = [(c + 0.5) * scale + offset - 0.5 for c, (offset, scale) in zip(centroids, pairs, strict=True)]
        low, high = ([_moved(e, *pair) for e, pair in zip(b, pairs, strict=True)] for b in (low, high))
    columns = {f"centroid-{axis}_px": values for axis, values in enumerate(centroids)}
    return columns | {f"bbox-{edge}_px": values for edge, values in enumerate(low + high)}


def _moved(edges: np.ndarray, offset: float, scale: float) -> np.ndarray:
    moved = edges * scale + offset
    return moved.astype(np.int64) if float(offset).is_integer() and float(scale).is_integer() else moved


def _moments(pieces: Sums) -> np.ndarray:
    """Return the variances zz, yy, xx and covariances zy, zx, yx of the pixels of each object, (6, n) float64.

    From integers, so that they do not depend on where the object lies; NaN where these may not fit.
    """
    n, sums, products = pieces.area, pieces.sums.T, pieces.products.T
    extents = (pieces.box[:, 3:] - pieces.box[:, :3] - 1).astype(np.float64).T
    moments = [central_moment(n, *of_axis) for of_axis in zip(sums, products[:3], extents, strict=True)]
    pivots = [pivot_of(n, total) for total in sums]
    for (a, b), product in zip(((0, 1), (0, 2), (1, 2)), products[3:], strict=True):
        (pivot_a, rest_a), (pivot_b, rest_b) = pivots[a], pivots[b]
        about = product - pivot_a * sums[b] - pivot_b * sums[a] + n * pivot_a * pivot_b
        # by the inequality of Cauchy and Schwarz these fit where the variances do
        fits = np.isfinite(moments[a]) & np.isfinite(moments[b])
        moments.append(np.where(fits, about - rest_a * rest_b / n, np.nan))
    return np.stack(moments) / n


def _shapes(pieces: Sums) -> dict[str, tuple[np.ndarray, str]]:
    """Return what describes the shape of flat objects, by name: values and unit."""
    _, a, c, _, _, b = _moments(pieces)  # variances of y and x, covariance
    major = (a + c) / 2 + np.hypot((a - c) / 2, b)
    # the determinant over the larger root; rounding must not make it negative, nor larger than the other
    minor = np.minimum(np.maximum(a * c - b * b, 0) / np.where(major > 0, major, 1), major)
    ratio = minor / np.where(major > 0, major, 1)
    eccentricity = np.where(major == 0, 0, np.sqrt(1 - ratio))
    # no direction is longer where a == c and b == 0: then as scikit-image does
    orientation = np.where(a == c, np.where(b > 0, np.pi / 4, -np.pi / 4), 0.5 * np.arctan2(2 * b + 0.0, a - c))
    return {
        "equivalent_diameter_area": (np.sqrt(4 * pieces.area / np.pi), "_px"),
        "axis_major_length": (4 * np.sqrt(major), "_px"),
        "axis_minor_length": (4 * np.sqrt(minor), "_px"),
        "eccentricity": (eccentricity, ""),
        "orientation": (orientation, "_rad"),
        "perimeter": (pieces.borders @ _BORDER_WEIGHTS, "_px"),
        "solidity": (pieces.area / pieces.convex_areas(), ""),
    }


def _volumes(pieces: Sums) -> dict[str, tuple[np.ndarray, str]]:
    """Return what describes the shape of objects that extend over planes, by name: values and unit."""
    zz, yy, xx, zy, zx, yx = _moments(pieces)
    # scikit-image's tensor of inertia
    tensor = np.array([[yy + xx, -zy, -zx], [-zy, zz + xx, -yx], [-zx, -yx, zz + yy]]).transpose(2, 0, 1)
    fits = np.isfinite(tensor).all(axis=(1, 2))
    low, middle, high = np.maximum(np.linalg.eigvalsh(np.where(fits[:, None, None], tensor, 0)), 0).T
    major, minor = (
        np.where(fits, np.sqrt(10 * np.maximum(square, 0)), np.nan)
        for square in (high + middle - low, low + middle - high)
    )
    return {
        "equivalent_diameter_area": (np.cbrt(6 * pieces.area / np.pi), "_px"),
        "axis_major_length": (major, "_px"),
        "axis_minor_length": (minor, "_px"),
    }


def _intensities(pieces: Sums, channels: Sequence[str] | None) -> dict[str, np.ndarray]:
    """Return mean, standard deviation, minimum and maximum of the grey values per channel."""
    grey = pieces.grey
    names = [str(index) for index in range(grey.low.shape[1])] if channels is None else channels
    assert len(names) == grey.low.shape[1], f"{len(names)} names for {grey.low.shape[1]} channels"
    exact = np.int64 if grey.low.dtype.kind == "u" else np.float64
    mean, deviation = grey.mean_and_deviation(pieces.area)
    kinds = {"mean": mean, "std": deviation, "min": grey.low.astype(exact), "max": grey.high.astype(exact)}
    return {f"intensity_{kind}-{name}": values[:, k] for kind, values in kinds.items() for k, name in enumerate(names)}
