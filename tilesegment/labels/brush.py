"""Give lines and points an area: what a brush of some width covers along them."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import shapely

from tilesegment.labels.geojson import Feature, Polygon

BRUSH = 8.0  # pixels: width of a line, diameter of a point
_QUARTER = 8  # corners of a quarter of a circle


def painted(feature: Feature, width: float) -> Feature:
    """Return a feature whose lines and points are areas, too: `width` pixels wide, round at their ends."""
    if not feature.paths:
        return feature
    strokes = [_stroke(path, width) for path in feature.paths]
    polygons = tuple(polygon for one in _parts(shapely.union_all(strokes)) for polygon in _rings(one))
    return replace(feature, polygons=(*feature.polygons, *polygons), paths=())


def _stroke(path: np.ndarray, width: float) -> shapely.Geometry:
    line = shapely.Point(path[0]) if len(path) == 1 else shapely.LineString(path)
    return shapely.buffer(line, width / 2, quad_segs=_QUARTER)


def _parts(geometry: shapely.Geometry) -> Sequence[shapely.Geometry]:
    found: Sequence[shapely.Geometry] = shapely.get_parts(geometry)
    return found


def _rings(polygon: shapely.Geometry) -> Iterator[Polygon]:
    """The rings of a polygon, not closed."""
    if shapely.area(polygon) > 0:
        yield tuple(shapely.get_coordinates(ring)[:-1] for ring in shapely.get_rings(polygon))
