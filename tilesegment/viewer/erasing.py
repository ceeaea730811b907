"""Take an area away from geometries, exactly: vertices that are not cut stay as they are, to the last bit."""

import json
from typing import Any

import numpy as np
import shapely

from tilesegment.errors import ViewError, one_line
from tilesegment.viewer.drawn import LimitError, check_geometry, points_of

MAX_PAIRS = 20_000_000  # vertices of the area, times vertices of the geometries: what an overlay may have to compare
MAX_CROSSED = 5_000  # vertices of an outline that crosses itself
_SMALLEST = 1e-6  # square pixels: rounding leaves slivers where edges coincide
_FIXED = ("Polygon", "MultiPolygon", "LineString", "MultiLineString", "Point", "MultiPoint")
Geometry = dict[str, Any]


def erased(geometries: list[Geometry], area: Geometry) -> list[Geometry | None]:
    """Return each geometry without what lies in an area; None where nothing is left.

    What the area does not touch is returned as it is. An outline that crosses itself covers what lies within it by the
    even-odd rule, as it is drawn.

    Args:
        geometries: areas, lines and points of GeoJSON, coordinates (x, y).
        area: a polygon.

    Raises:
        LimitError: they have too many vertices.
        ViewError: one is not valid.
    """
    try:
        for geometry in (*geometries, area):
            check_geometry(geometry)
            if geometry["type"] not in _FIXED:
                raise ValueError(f"a {geometry['type']} cannot be erased")
        if area["type"] != "Polygon":
            raise ValueError(f"the eraser is a {area['type']}, not a Polygon")
    except ValueError as error:
        raise ViewError(f"what is to be erased is not valid: {one_line(error, 80)}") from error
    vertices = sum(map(points_of, geometries))
    if points_of(area) * vertices > MAX_PAIRS:
        raise LimitError(
            f"an eraser of {points_of(area)} vertices on outlines of {vertices} is too much at once: draw a smaller one"
        )
    cut = _valid(area)
    return [_without(geometry, cut) for geometry in geometries]


def _without(geometry: Geometry, cut: shapely.Geometry) -> Geometry | None:
    shape = _valid(geometry)
    if not shapely.intersects(shape, cut):
        return geometry
    left = [part for part in shapely.get_parts(shapely.difference(shape, cut)) if _is_kept(part, shape)]
    if shapely.get_dimensions(shape) == 2:
        left = [_smoothed(part) for part in left]
        if not left or np.isclose(sum(map(shapely.area, left)), shapely.area(shape), rtol=0, atol=_SMALLEST):
            return geometry if left else None  # they only touch
    if not left:
        return None
    kind = geometry["type"].removeprefix("Multi")
    coordinates = [_coordinates(part) for part in left]
    if len(left) == 1:
        return {"type": kind, "coordinates": coordinates[0]}
    return {"type": f"Multi{kind}", "coordinates": coordinates}


def _valid(geometry: Geometry) -> shapely.Geometry:
    shape = shapely.from_geojson(_geojson(geometry))
    if shapely.is_valid(shape):
        return shape
    if points_of(geometry) > MAX_CROSSED:
        raise LimitError(
            f"an outline of {points_of(geometry)} vertices crosses itself: erase it whole, or draw it again"
        )
    return shapely.make_valid(shape, method="linework")


def _geojson(geometry: Geometry) -> str:
    return json.dumps({"type": geometry["type"], "coordinates": geometry["coordinates"]})


def _is_kept(part: shapely.Geometry, shape: shapely.Geometry) -> bool:
    """Whether a part is of the dimension of the shape, and no sliver."""
    dimension = shapely.get_dimensions(shape)
    if shapely.is_empty(part):
        return False
    return bool(shapely.get_dimensions(part) == dimension and (dimension < 2 or shapely.area(part) > _SMALLEST))


def _smoothed(polygon: shapely.Polygon) -> shapely.Polygon:
    """Close holes that are slivers."""
    holes = [ring for ring in polygon.interiors if shapely.area(shapely.Polygon(ring)) > _SMALLEST]
    return polygon if len(holes) == len(polygon.interiors) else shapely.Polygon(polygon.exterior, holes)


def _coordinates(part: shapely.Geometry) -> list[Any]:
    kind = part.geom_type
    if kind == "Polygon":
        return [shapely.get_coordinates(ring).tolist() for ring in (part.exterior, *part.interiors)]
    points = shapely.get_coordinates(part).tolist()
    return points[0] if kind == "Point" else points
