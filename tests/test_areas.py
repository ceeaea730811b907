"""Areas drawn on an image: the pixels that lie in them, the blocks that they touch, and files that are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from conftest import data_folder
from drawn_areas import box, feature, saved
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment import TilesegmentError
from tilesegment.geometry import Region
from tilesegment.labels.areas import read_areas

SHAPES = ((300, 400), (75, 100))


@st.composite
def drawings(draw: st.DrawFn) -> list[tuple[list[list[float]], bool]]:
    """Outlines that may cross themselves, on and off pixel corners; and whether each is left out."""
    number = st.one_of(st.integers(1, 40), st.floats(0.5, 45, width=32))
    points = st.lists(st.tuples(number, number).map(list), min_size=3, max_size=6)
    return draw(st.lists(st.tuples(points, st.booleans()), min_size=1, max_size=5))


@settings(max_examples=40)
@given(drawings(), st.integers(0, 10), st.integers(0, 10))
def test_runs_and_pixels_are_those_of_each_area_by_itself(
    tmp_path_factory: pytest.TempPathFactory, drawn: list[tuple[list[list[float]], bool]], y: int, x: int
) -> None:
    features = [feature(ring, name="Ignore*" if out else "") for ring, out in drawn]
    path = saved(tmp_path_factory.mktemp("areas"), box(0, 0, 1, 1), *features)
    areas = read_areas(path, ((50, 50),))
    region = Region(y, x, 37, 31)
    expected = np.zeros((40, 40), bool)
    expected[0, 0] = True
    for outline, sign in ((areas.drawn, True), (areas.left_out, False)):
        expected[outline.rasterise(Region(0, 0, 40, 40))[0] > 0] = sign
    np.testing.assert_array_equal(areas.inside(region), expected[region.slices])
    rows, starts, stops = areas.runs(region)
    assert int((stops - starts).sum()) == np.count_nonzero(expected[region.slices])
    flat = np.stack([rows * 100 + starts, rows * 100 + stops]).T.ravel()
    assert (np.diff(flat) > 0).all(), "sorted, apart from each other, none empty"


@settings(max_examples=30)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([1.0, 2.0005, 3.7]))
def test_a_square_is_touched_where_it_shares_more_than_an_edge(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, scale: float
) -> None:
    """Rectangles on a grid of squares of `scale`: which are touched is known by whole numbers."""
    rng, features, expected = np.random.default_rng(seed), [], np.zeros((20, 20), bool)
    for _ in range(count):
        (y0, y1), (x0, x1) = (sorted(rng.choice(21, 2, replace=False)) for _ in "yx")
        is_out = rng.random() < 0.2
        features.append((box(y0 * scale, x0 * scale, y1 * scale, x1 * scale, name="Ignore*" if is_out else ""), is_out))
        if not is_out:
            expected[y0:y1, x0:x1] = True
    for one, is_out in features:
        if is_out:
            (x0, y0), _, (x1, y1), *_ = np.rint(np.array(one["geometry"]["coordinates"][0]) / scale).astype(int)
            expected[y0:y1, x0:x1] = False
    if not expected.any():
        return
    path = saved(tmp_path_factory.mktemp("areas"), *(one for one, _ in features))
    squares = np.array([(y, x, y + 1, x + 1) for y, x in np.ndindex(20, 20)]) * scale
    areas = read_areas(path, ((100, 100),))
    np.testing.assert_array_equal(areas.touches(squares).reshape(20, 20), expected)


def test_holes_planes_and_what_is_left_out_is_said(tmp_path: Path) -> None:
    ring = [[10, 10], [50, 10], [50, 50], [10, 50]]
    hole = [[20, 20], [40, 20], [40, 40], [20, 40]]
    point = {"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 1]}, "properties": {}}
    path = saved(tmp_path, feature(ring, hole, z=2), box(0, 0, 9, 9, kind="detection"), point)
    areas = read_areas(path, SHAPES, 3)
    assert not areas.by_plane
    assert np.count_nonzero(areas.inside(Region(0, 0, 300, 400))) == 40 * 40 - 20 * 20
    assert areas.touches(np.array([(21, 21, 39, 39), (5, 5, 10, 10), (0, 0, 11, 11)])).tolist() == [False, False, True]
    assert "left out: 1 of geometry Point" in areas.notes[0]
    assert "left out: 1 detections" in areas.notes[1]
    both = read_areas(saved(tmp_path, box(0, 0, 9, 9), box(20, 20, 30, 30, z=1)), SHAPES, 2)
    assert both.by_plane
    assert [both.inside(Region(0, 0, 40, 40), z).sum() for z in (0, 1)] == [81, 100]
    assert "are read as areas" in read_areas(saved(tmp_path, box(0, 0, 9, 9, kind="cell")), SHAPES).notes[0]


def test_an_export_of_qupath() -> None:
    path = data_folder("geojson") / "qupath05.geojson"
    areas, region = read_areas(path, ((20_000, 20_000),)), Region(4000, 7000, 8000, 11_000)
    drawn = [shapely.from_geojson(json.dumps(one["geometry"])) for one in json.loads(path.read_text())["features"]]
    assert not areas.notes
    y, x = (np.arange(*ends) + 0.5 for ends in ((region.y0, region.y1), (region.x0, region.x1)))
    there, found = shapely.contains_xy(shapely.union_all(drawn), x[None], y[:, None]), areas.inside(region)
    assert found.sum() == pytest.approx(shapely.area(drawn).sum(), rel=1e-3)
    # centres that lie on an outline are in by one rule and not by the other
    on = shapely.intersects(
        shapely.boundary(shapely.union_all(drawn)),
        shapely.points(np.argwhere(found != there)[:, ::-1] + (region.x0 + 0.5, region.y0 + 0.5)),
    )
    assert on.all()


def test_areas_that_fit_a_smaller_level_are_doubted(tmp_path: Path) -> None:
    assert "drawn on level 1" in read_areas(saved(tmp_path, box(5, 5, 70, 90)), SHAPES).notes[0]
    assert not read_areas(saved(tmp_path, box(5, 5, 30, 30)), SHAPES).notes
    assert not read_areas(saved(tmp_path, box(5, 5, 70, 190)), SHAPES).notes


@pytest.mark.parametrize(
    ("features", "named"),
    [
        pytest.param([], "holds no area", id="empty"),
        pytest.param([feature([[1, 1], [2, 2]])], "holds no area", id="a line"),
        pytest.param([box(0, 0, 9, 9, name="Ignore*")], "holds no area", id="only what is left out"),
        pytest.param([box(900, 900, 990, 990)], "1 of 1 outlines lie outside the image", id="outside"),
        pytest.param([box(1, 1, 9, 9), box(1, 1, 9, 9, z=4)], "plane 4; the image has the planes 0 to 0", id="plane"),
    ],
)
def test_areas_that_do_not_fit_are_refused(features: list[dict[str, Any]], named: str, tmp_path: Path) -> None:
    with pytest.raises(TilesegmentError, match=named):
        read_areas(saved(tmp_path, *features), SHAPES)


def test_areas_on_a_server_are_refused() -> None:
    with pytest.raises(TilesegmentError, match=r"s3://bucket/areas\.geojson is a URL"):
        read_areas("s3://bucket/areas.geojson", SHAPES)


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"type": "Topology"}'])
def test_what_is_no_geojson_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "areas.json"
    path.write_text(text)
    with pytest.raises(TilesegmentError, match=r"areas\.json"):
        read_areas(path, SHAPES)
