"""GeoJSON: read feature by feature, refused in one line, rasterised exactly and by region."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
from conftest import data_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels import geojson
from tilesegment.labels.geojson import read_features
from tilesegment.labels.outlines import Outlines, label_of, read_outlines

SQUARE = [[[1, 2], [5, 2], [5, 4], [1, 4], [1, 2]]]  # x 1 to 5, y 2 to 4


def feature(coordinates: object, kind: str = "Polygon", **properties: object) -> dict[str, Any]:
    return {"type": "Feature", "geometry": {"type": kind, "coordinates": coordinates}, "properties": properties}


def collection(*features: dict[str, Any]) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(features)}


def write(path: Path, document: object) -> Path:
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def outlines(*features: dict[str, Any]) -> Outlines:
    return Outlines.of(map(geojson.feature_of, features), "f")


# --- reading

TREE = collection(
    feature(SQUARE, objectType="detection", classification={"name": "Tumor: \u00e9[{", "color": [1, 2, 3]}),
    feature([SQUARE, [[[7.5, 0], [9, 0], [9, 2]], [[8, 0.5], [8.5, 0.5], [8, 1]]]], "MultiPolygon"),
    feature([3, 4], "Point", classification=None),
)


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("name", ["a.geojson", "a.GeoJSON.GZ", "a.geojson.gz"])
def test_features_are_read_in_parts_of_any_size(
    chunk: int, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geojson, "CHUNK", chunk)
    path = tmp_path / name
    text = "\ufeff " + json.dumps({"crs": {"a": [1, 2.5]}, **TREE, "more": 12}, indent=1)
    path.write_bytes(gzip.compress(text.encode()) if name.lower().endswith("gz") else text.encode())
    first, second, third = read_features(path)
    assert (first.geometry, first.object_type, first.name, first.plane) == (
        "Polygon",
        "detection",
        "Tumor: \u00e9[{",
        0,
    )
    (((ring,),),) = (first.polygons,)
    assert ring.tolist() == [[2, 1], [2, 5], [4, 5], [4, 1]]  # y, x, not closed
    assert (second.object_type, second.name, [len(p) for p in second.polygons]) == ("annotation", None, [1, 2])
    assert (third.geometry, third.polygons) == ("Point", ())


def test_lists_and_lone_features_and_collections_of_geometries_are_read(tmp_path: Path) -> None:
    nested = feature(None, "GeometryCollection")
    nested["geometry"] = {"type": "GeometryCollection", "geometries": [one["geometry"] for one in TREE["features"]]}
    deep = feature([[[0, 0, 7], [3, 0, 7], [3, 3, 7], [0, 0, 7]]], classification={"names": ["Tumor", "mitosis"]})
    deep["geometry"]["plane"] = {"c": -1, "z": 2, "t": 0}
    one, other = read_features(write(tmp_path / "a.geojson", [nested, deep]))
    assert len(one.polygons) == 3
    assert (other.name, other.plane, other.polygons[0][0].shape) == ("Tumor: mitosis", 2, (3, 2))
    (alone,) = read_features(write(tmp_path / "b.geojson", deep))
    assert alone.name == other.name
    for empty in ("[]", json.dumps(collection())):
        assert list(read_features(write(tmp_path / "c.geojson", empty))) == []


BAD = {
    "nothing": ("", "no JSON object; expected GeoJSON"),
    "text": ("label,area", "no JSON object"),
    "cut off": (json.dumps(TREE)[:-40], "no valid JSON, or is cut off"),
    "in between": (json.dumps(TREE).replace("[5, 4]", "[5 4]"), "no valid JSON"),
    "no comma": ('[{"type":"Feature"} {"type":"Feature"}]', "no valid JSON"),
    "two": (json.dumps(TREE) * 2, "after its end"),
    "another object": ('{"a": [1, 2]}', "another JSON object; expected GeoJSON"),
    "a topology": ('{"type": "Topology", "features": []}', "type 'Topology'"),
    "features that are none": ('{"type": "FeatureCollection", "features": {}}', "FeatureCollection"),
    "a list of numbers": ("[1, 2]", "feature 1 is damaged"),
    "a geometry": (json.dumps([TREE["features"][0]["geometry"]]), "feature 1 is damaged .*'Polygon'"),
    "ragged": (json.dumps(collection(feature([[[1, 2], [3]]]))), "feature 1 is damaged"),
    "words": (json.dumps(collection(feature([[["a", 2], [3, 4]]]))), "feature 1 is damaged"),
    "NaN": (json.dumps(collection(feature([[[1, 2], [float("nan"), 4], [0, 0]]]))), "NaN"),
    "lists too deep": ("[" * 100_000, "cannot be read|no valid JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_geojson_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    text, message = BAD[case]
    with pytest.raises(DataError, match=message) as caught:
        list(read_features(write(tmp_path / "a.geojson", text)))
    assert str(tmp_path / "a.geojson") in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_what_is_no_gzip_or_missing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.geojson.gz").write_text(json.dumps(TREE))
    (tmp_path / "b.geojson.gz").write_bytes(gzip.compress(json.dumps(TREE).encode())[:-30])
    (tmp_path / "c.geojson").write_bytes(b'["\xff"]')
    for name, message in (("a.geojson.gz", "gzip"), ("b.geojson.gz", "read"), ("c.geojson", "read"), ("d", "exist")):
        with pytest.raises(DataError, match=message):
            list(read_features(tmp_path / name))


def test_an_export_of_qupath(tmp_path: Path) -> None:
    path = data_folder("geojson") / "qupath05.geojson"
    features = list(read_features(path))
    document = json.loads(path.read_text())["features"]
    assert len(features) == len(document) > 0
    found = read_outlines(path)
    whole, again = found.rasterise(Region.of_shape(found.extent))
    assert again == 0
    for number, one in enumerate(document, 1):
        area = shapely.geometry.shape(one["geometry"]).area
        assert np.count_nonzero(whole == number) == pytest.approx(area, rel=0.01)


# --- which features are objects


def test_points_and_lines_are_left_out_and_regions_that_hold_objects() -> None:
    found = outlines(
        feature([3, 4], "Point"),
        feature(SQUARE, objectType="annotation"),
        feature(SQUARE, objectType="Detection"),
        feature([[0, 0], [1, 1]], "LineString"),
        feature(SQUARE, objectType="cell"),
    )
    assert found.planes.size == 2
    assert found.notes == (
        "f: 1 features left out, as LineString is no area",
        "f: 1 features left out, as Point is no area",
        "f: only detections and cells are read as objects; left out: 1 of type annotation",
    )
    assert outlines(feature(SQUARE), feature(SQUARE)).planes.size == 2


def test_planes(tmp_path: Path) -> None:
    other = feature(SQUARE)
    other["properties"]["plane"] = {"z": 1}
    found = outlines(feature([[[0, 0], [2, 0], [2, 2], [0, 2]]]), other)
    region = Region(0, 0, 6, 6)
    assert [np.unique(found.rasterise(region, z)[0]).tolist() for z in range(3)] == [[0, 1], [0, 2], [0]]
    with pytest.raises(DataError, match=r"g has objects in plane 1; .*0 to 0"):
        label_of(found, (6, 6), 1, "g")


# --- rasterising

COORDINATES = st.one_of(st.integers(-3, 12), st.floats(-3, 12, width=32))
RINGS = st.lists(st.tuples(COORDINATES, COORDINATES), min_size=3, max_size=7)


@settings(max_examples=60)
@given(st.lists(st.lists(RINGS, min_size=1, max_size=3), max_size=4))
def test_a_pixel_belongs_to_the_last_polygon_that_holds_its_centre(polygons: list[list[list[Any]]]) -> None:
    found = outlines(*(feature([[list(point) for point in ring] for ring in rings]) for rings in polygons))
    ids, again = found.rasterise(Region(0, 0, 9, 10))
    ys, xs = np.mgrid[:9, :10] + 0.5
    wanted, times = np.zeros((9, 10), int), np.zeros((9, 10), int)
    unsure = np.zeros((9, 10), bool)
    for number, rings in enumerate(polygons, 1):
        inside = np.zeros((9, 10), bool)
        for ring in rings:
            # by the even-odd rule, ring by ring, and without the centres on a line
            unsure |= shapely.distance(shapely.linearrings([*ring, ring[0]]), shapely.points(xs, ys)) < 1e-9
            for (xa, ya), (xb, yb) in zip(ring, [*ring[1:], ring[0]], strict=True):
                crossed = (np.minimum(ya, yb) <= ys) & (ys < np.maximum(ya, yb))
                inside ^= crossed & (xs >= xa + (ys - ya) * (xb - xa) / (yb - ya if yb != ya else 1))
        wanted[inside], times = number, times + inside
    assert (ids == wanted)[~unsure].all()
    if not unsure.any():
        assert again == (times - (times > 0)).sum()


@given(st.integers(0, 999))
def test_valid_polygons_hold_the_pixels_that_shapely_says(seed: int) -> None:
    rng = np.random.default_rng(seed)
    blob = shapely.union_all([shapely.Point(*rng.uniform(2, 28, 2)).buffer(rng.uniform(1, 6), 3) for _ in range(5)])
    shape = blob.difference(shapely.Point(*rng.uniform(5, 25, 2)).buffer(rng.uniform(0.5, 3)))
    document = json.loads(shapely.to_geojson(shape))
    found = outlines({"type": "Feature", "geometry": document})
    ys, xs = np.mgrid[:30, :30] + 0.5
    np.testing.assert_array_equal(found.rasterise(Region(0, 0, 30, 30))[0] == 1, shapely.contains_xy(shape, xs, ys))


@settings(max_examples=30)
@given(st.integers(0, 999), st.integers(2, 9))
def test_parts_are_those_of_the_whole(seed: int, side: int) -> None:
    rng = np.random.default_rng(seed)
    found = outlines(*(feature([(rng.uniform(-4, 20, (5, 2))).tolist()]) for _ in range(6)))
    whole, again = found.rasterise(Region(0, 0, 15, 17))
    parts = [(r, found.rasterise(r)) for r in Region(0, 0, 15, 17).squares(side)]
    for region, (part, _) in parts:
        np.testing.assert_array_equal(part, whole[region.slices])
    assert sum(count for _, (_, count) in parts) == again


def test_neighbours_share_no_pixel_and_leave_none_out() -> None:
    """Any cut through an image whose two sides are two polygons."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        cut = [[0, 0], *rng.uniform(0, 12, (4, 2)).round(1).tolist(), [12, 12]]
        cut[1:-1] = sorted(cut[1:-1])
        left, right = [*cut, [0, 12]], [[12, 0], *cut[:1], *cut[1:]]
        ids, again = outlines(feature([left]), feature([right])).rasterise(Region(0, 0, 12, 12))
        assert again == 0 and (ids > 0).all()


def test_nothing_is_an_image_without_objects() -> None:
    none = outlines()
    assert none.extent == (1, 1)
    assert not none.rasterise(Region(0, 0, 3, 4))[0].any()
    flat = outlines(feature([[]]), feature([[[1, 1], [2, 2]]]), feature(SQUARE))
    assert np.unique(flat.rasterise(Region(0, 0, 6, 6))[0]).tolist() == [0, 3]
