"""Group annotations that overlap or touch."""

from collections.abc import Sequence

import numpy as np
import shapely
from scipy import sparse

from tilesegment.labels.geojson import Polygon

_APART = 1.0  # pixels between outlines that do not touch


def touching(
    annotations: Sequence[Sequence[Polygon]], planes: np.ndarray, kinds: Sequence[str]
) -> tuple[np.ndarray, int]:
    """Group annotations of a plane that overlap or touch, perhaps through others.

    Args:
        annotations: polygons of each.
        planes, kinds: plane (n,) and class of each.

    Returns:
        The group of each, (n,) int64 from 0; and how many pairs of different classes overlap.
    """
    given = np.array([_shape_of(polygons) for polygons in annotations], object)
    one, other = shapely.STRtree(given).query(given, predicate="dwithin", distance=_APART)
    same = (planes[one] == planes[other]) & (one < other)
    one, other = one[same], other[same]
    groups = _connected(one, other, len(given))
    differ = np.array([kinds[a] != kinds[b] for a, b in zip(one, other, strict=True)], bool)
    shared = shapely.area(shapely.intersection(given[one[differ]], given[other[differ]]))
    return groups, int(np.count_nonzero(shared > 1))


def touching_boxes(boxes: np.ndarray, files: np.ndarray) -> np.ndarray:
    """Group boxes of a plane that overlap or touch and are of different files.

    Args:
        boxes: (n, 5): plane, y0, x0, y1, x1.
        files: (n,) number of the file of each.

    Returns:
        The group of each, (n,) int64 from 0.
    """
    planes, y0, x0, y1, x1 = boxes.T
    given = shapely.box(y0, x0, y1, x1)
    one, other = shapely.STRtree(given).query(given, predicate="intersects")
    apart = (planes[one] == planes[other]) & (files[one] != files[other])
    return _connected(one[apart], other[apart], len(given))


def _connected(one: np.ndarray, other: np.ndarray, count: int) -> np.ndarray:
    """The connected component of each of `count` things, of which those numbered `one` and `other` are linked."""
    if not count:
        return np.zeros(0, np.int64)
    links = sparse.coo_array((np.ones(len(one), bool), (one, other)), (count, count))
    components: np.ndarray = sparse.csgraph.connected_components(links, directed=False)[1]
    return components.astype(np.int64)


def _shape_of(polygons: Sequence[Polygon]) -> shapely.Geometry:
    """Polygons as one valid geometry of (y, x); of a polygon's rings, those in the first are holes in it."""
    parts = []
    for given in polygons:
        rings = np.array([shapely.make_valid(shapely.Polygon(ring)) for ring in given if len(ring) > 2], object)
        if rings.size:
            are_holes = shapely.covers(rings[0], rings[1:])
            parts.append(shapely.difference(rings[0], shapely.union_all(rings[1:][are_holes])))
            parts += rings[1:][~are_holes].tolist()  # as the runs of a mask
    return shapely.union_all(parts)
