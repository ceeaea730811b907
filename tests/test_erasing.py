"""The eraser: what it cuts and what it leaves, exactly."""

import json
import math
from typing import Any

import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.errors import ViewError
from tilesegment.viewer.drawn import LimitError, check_geometry
from tilesegment.viewer.erasing import MAX_PAIRS, erased

Json = dict[str, Any]


def polygon(*points: tuple[float, float]) -> Json:
    return {"type": "Polygon", "coordinates": [[[*point] for point in (*points, points[0])]]}


def box(x0: float, y0: float, x1: float, y1: float) -> Json:
    return polygon((x0, y0), (x1, y0), (x1, y1), (x0, y1))


def shape(geometry: Json | None) -> shapely.Geometry:
    return shapely.from_geojson(json.dumps(geometry)) if geometry else shapely.Polygon()


def test_erasing_cuts_exactly() -> None:
    left, hole, gone, away = erased(
        [box(0, 0, 10, 10), box(2, 2, 20, 20), box(5, 5, 6, 6), box(50.1, 50, 60, 60.3)], box(5, 4, 12, 8)
    )
    assert shape(left).equals(shapely.Polygon([(0, 0), (10, 0), (10, 4), (5, 4), (5, 8), (10, 8), (10, 10), (0, 10)]))
    assert hole is not None and hole["type"] == "Polygon" and len(hole["coordinates"]) == 2
    assert shapely.area(shape(hole)) == 18 * 18 - 7 * 4
    assert gone is None
    assert away == box(50.1, 50, 60, 60.3)


def test_erasing_divides_an_area_and_takes_lines_and_points() -> None:
    area = box(4, -1, 6, 11)
    line = {"type": "LineString", "coordinates": [[0, 5], [10, 5]]}
    points = {"type": "MultiPoint", "coordinates": [[5, 5], [1, 1]]}
    two, lines, point, none = erased([box(0, 0, 10, 10), line, points, {"type": "Point", "coordinates": [5, 0]}], area)
    assert two is not None and two["type"] == "MultiPolygon" and shapely.area(shape(two)) == 80
    assert lines is not None and lines["type"] == "MultiLineString" and shapely.length(shape(lines)) == 8
    assert point == {"type": "Point", "coordinates": [1, 1]} and none is None


def test_an_eraser_that_touches_or_crosses_itself() -> None:
    outline = box(0, 0, 10, 10)
    assert erased([outline], box(10, 0, 20, 10)) == [outline]
    bow = polygon((2, 2), (8, 8), (8, 2), (2, 8))  # two triangles
    [left] = erased([outline], bow)
    assert shapely.area(shape(left)) == pytest.approx(100 - 18)
    [nothing] = erased([bow], outline)
    assert nothing is None


def test_erasing_is_bounded() -> None:
    side = int(MAX_PAIRS**0.5) + 1
    circle = [[math.cos(angle), math.sin(angle)] for angle in range(side)]
    large = {"type": "Polygon", "coordinates": [[*circle, circle[0]]]}
    with pytest.raises(LimitError, match="too much at once"):
        erased([large], large)
    star = [[100 * math.cos(angle * 2.5), 100 * math.sin(angle * 2.5)] for angle in range(6000)]
    with pytest.raises(LimitError, match="crosses itself"):
        erased([{"type": "Polygon", "coordinates": [[*star, star[0]]]}], box(0, 0, 1, 1))
    with pytest.raises(ViewError, match="not valid"):
        erased([{"type": "Polygon", "coordinates": [[[0, 0]]]}], box(0, 0, 1, 1))


corner = st.tuples(st.integers(0, 160), st.integers(0, 160)).map(lambda xy: (xy[0] / 8, xy[1] / 8))
polygons = st.lists(corner, min_size=3, max_size=9, unique=True).map(lambda points: polygon(*points))


@settings(max_examples=60, deadline=None)
@given(polygons, polygons)
def test_random_areas_without_random_areas(outline: Json, area: Json) -> None:
    [left] = erased([outline], area)
    before, cut, after = (shapely.make_valid(shape(one), method="linework") for one in (outline, area, left))
    expected = shapely.difference(before, cut)
    assert shapely.area(shapely.symmetric_difference(expected, after)) == pytest.approx(0, abs=1e-4)
    assert left is None or check_geometry(left) is None
