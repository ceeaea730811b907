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
    links = sparse.coo_array((np.ones(len(one), bool), (one, other)), (len(given), len(given)))
    groups = sparse.csgraph.connected_components(links, directed=False)[1].astype(np.int64)
    differ = np.array([kinds[a] != kinds[b] for a, b in zip(one, other, strict=True)], bool)
    shared = shapely.area(shapely.intersection(given[one[differ]], given[other[differ]]))
    return groups, int(np.count_nonzero(shared > 1))


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
