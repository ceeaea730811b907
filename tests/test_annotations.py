"""Annotations drawn in the page: kept as they are, stored whole or not at all, never over what another stored."""

import gzip
import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import data_folder
from hypothesis import given, settings
from hypothesis import strategies as st

from tilesegment.errors import ViewError
from tilesegment.geometry import Region
from tilesegment.labels.annotations import read_annotation
from tilesegment.labels.outlines import read_outlines
from tilesegment.viewer import drawn
from tilesegment.viewer.annotations import Annotations, ChangedError
from tilesegment.viewer.drawn import Canvas, LimitError

CANVAS = Canvas((100, 200), planes=3)
SQUARE = [[10, 20], [15, 20], [15, 24], [10, 24], [10, 20]]
UNKNOWN = {"spin": {"deep": [1.0, 2, None, "a"], "large": 9007199254740993}, "locked": True}
Json = dict[str, Any]


def feature(kind: str, coordinates: object, name: str = "tumour", **more: object) -> Json:
    classification = {"name": name, "color": [200, 0, 10]}
    properties = {"objectType": "annotation", "classification": classification, **more}
    return {
        "type": "Feature",
        "id": f"id-{kind}-{name}",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def as_qupath() -> Json:
    """What QuPath writes, with members that nobody here knows."""
    ellipse = feature("Polygon", [SQUARE], "ellipse")
    ellipse["geometry"] |= {"isEllipse": True, "plane": {"c": -1, "z": 2, "t": 0}}
    nameless = feature("Polygon", [SQUARE])
    del nameless["properties"]["classification"], nameless["id"]
    return {
        "type": "FeatureCollection",
        "name": "from elsewhere",
        "features": [
            feature("Polygon", [SQUARE], **UNKNOWN),
            feature("MultiPolygon", [[SQUARE], [[[30, 30], [40, 30], [40, 40], [30, 30]]]], "stroma"),
            feature("Point", [3.5, 4.25]),
            feature("MultiPoint", [[3, 4], [5, 6]]),
            feature("LineString", [[3, 4], [5, 6], [7, 1]]),
            feature("MultiLineString", [[[3, 4], [5, 6]], [[0, 0], [1, 1]]]),
            ellipse,
            nameless,
            {"type": "Feature", "id": 7, "geometry": None, "properties": None},
        ],
    }


def write(path: Path, document: object) -> Path:
    text = document if isinstance(document, str) else json.dumps(document)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def by_javascript(text: bytes) -> Json:
    """What a browser makes of a text: it has no integers."""
    return json.loads(text, parse_int=lambda digits: int(float(digits)) if float(digits) < 2**53 else float(digits))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "labels.geojson", as_qupath())


@pytest.mark.parametrize("name", ["labels.geojson", "labels.geojson.gz"])
def test_what_was_not_touched_stays_as_it_was(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, as_qupath())
    annotations = Annotations(path, CANVAS)
    stored = annotations.read()
    sent = by_javascript(stored.text)
    sent["features"].append(feature("Polygon", [[[0, 0], [2.5, 0], [2.5, 3.125], [0, 0]]], "new"))
    version = annotations.replace(json.dumps(sent).encode(), stored.version)

    text = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    now = json.loads(text)
    assert now["features"][:-1] == as_qupath()["features"]
    assert now["features"][0]["properties"]["spin"]["large"] == UNKNOWN["spin"]["large"]  # more than a float holds
    assert now["features"][-1] == sent["features"][-1]
    assert now["name"] == "from elsewhere"
    assert annotations.read().version == version != stored.version


def test_an_export_of_qupath_is_the_same_to_the_last_number(tmp_path: Path) -> None:
    exported = (data_folder("geojson") / "qupath05.geojson").read_bytes()
    path = tmp_path / "a.geojson"
    path.write_bytes(exported)
    annotations = Annotations(path, Canvas((10_000, 10_000)))
    stored = annotations.read()
    annotations.replace(json.dumps(by_javascript(stored.text)).encode(), stored.version)
    assert json.loads(path.read_bytes()) == json.loads(exported)


def test_a_changed_feature_keeps_what_is_not_known_of_it(file: Path) -> None:
    annotations = Annotations(file, CANVAS)
    stored = annotations.read()
    sent = json.loads(stored.text)
    moved = [[x + 0.5, y] for x, y in SQUARE]
    sent["features"][0]["geometry"]["coordinates"] = [moved]
    annotations.replace(json.dumps(sent).encode(), stored.version)
    now = json.loads(file.read_bytes())["features"][0]
    assert now["geometry"]["coordinates"] == [moved]
    assert now["properties"]["spin"]["deep"] == UNKNOWN["spin"]["deep"]


def test_a_file_is_made_by_the_first_stroke(tmp_path: Path) -> None:
    path = tmp_path / "new.geojson"
    annotations = Annotations(path, CANVAS)
    stored = annotations.read()
    assert json.loads(stored.text) == {"type": "FeatureCollection", "features": []} and not path.exists()
    box = [[[3, 5], [9, 5], [9, 11], [3, 11], [3, 5]]]
    annotations.replace(
        json.dumps({**json.loads(stored.text), "features": [feature("Polygon", box)]}).encode(), stored.version
    )

    ids, _ = read_outlines(path).rasterise(Region(0, 0, 100, 200))
    rows, columns = np.nonzero(ids)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (5, 10, 3, 8) and rows.size == 36
    assert read_annotation(path).outlines.names == ("tumour",)


@pytest.mark.parametrize("text", ["", " \n", "[]", '{"type": "FeatureCollection", "features": []}'])
def test_an_empty_file_has_no_annotations(tmp_path: Path, text: str) -> None:
    assert json.loads(Annotations(write(tmp_path / "a.geojson", text), CANVAS).read().text)["features"] == []


def test_lists_and_lone_features_become_a_collection(tmp_path: Path) -> None:
    one = feature("Point", [1, 2])
    for document in ([one], one):
        text = Annotations(write(tmp_path / "a.geojson", document), CANVAS).read().text
        assert json.loads(text) == {"type": "FeatureCollection", "features": [one]}


def test_measurements_that_are_nan_are_left_out(tmp_path: Path) -> None:
    """Older versions of QuPath write them, though it is no JSON; what is missing is NaN to it."""
    one = feature("Point", [1, 2], measurements={"area": 2.0, "solidity": float("nan")})
    path = write(tmp_path / "a.geojson", {"type": "FeatureCollection", "features": [one]})
    text = Annotations(path, CANVAS).read().text
    assert json.loads(text, parse_constant=pytest.fail)["features"][0]["properties"]["measurements"] == {"area": 2.0}


BROKEN = {
    "no JSON": '{"type": "Feature',
    "a number": "7",
    "another object": '{"type": "Topology"}',
    "no list": '{"type": "FeatureCollection", "features": 3}',
    "no feature": '{"type": "FeatureCollection", "features": [3]}',
    "bad ring": json.dumps([feature("Polygon", [["a", "b"]])]),
    "NaN": '{"type": "FeatureCollection", "features": [{"type": "Feature", "geometry": {"type": "Point", '
    '"coordinates": [NaN, 1]}, "properties": {}}]}',
    "plane": json.dumps([{"type": "Feature", "geometry": {"type": "Point", "coordinates": [1, 2], "plane": {"z": 3}}}]),
    "outside": json.dumps([feature("Polygon", [[[500, 500], [600, 500], [600, 600], [500, 500]]])]),
    "deep": "[" * 5000 + "]" * 5000,
    "nested": '{"type": "FeatureCollection", "features": [], "a": ' + "[" * 300 + "]" * 300 + "}",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_is_told_in_one_line(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "broken.geojson", BROKEN[kind])
    with pytest.raises(ViewError, match=r"broken\.geojson"):
        Annotations(path, CANVAS)
    assert path.read_text() == BROKEN[kind]


def test_a_file_that_cannot_be_is_told_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "folder.geojson").mkdir()
    cut = tmp_path / "cut.geojson.gz"
    cut.write_bytes(gzip.compress(json.dumps(as_qupath()).encode())[:-40])
    for path, said in {
        tmp_path / "labels.json": "named",
        tmp_path / "no" / "labels.geojson": "no folder",
        tmp_path / "folder.geojson": "is no file",
        cut: "cut off",
        "https://host/labels.geojson": "is a URL",
    }.items():
        with pytest.raises(ViewError, match=said):
            Annotations(path, CANVAS)


def invalid(change: str) -> Json:
    """A document with one feature that is not valid."""
    one = feature("Polygon", [SQUARE])
    geometry, properties = one["geometry"], one["properties"]
    if change == "open ring":
        geometry["coordinates"] = [SQUARE[:-1]]
    elif change == "two corners":
        geometry["coordinates"] = [[SQUARE[0], SQUARE[1], SQUARE[0]]]
    elif change == "text":
        geometry["coordinates"] = [[["1", "2"], *SQUARE[1:]]]
    elif change == "truth":
        geometry |= {"type": "Point", "coordinates": [True, 1]}
    elif change == "flat":
        geometry["coordinates"] = SQUARE
    elif change == "far":
        geometry |= {"type": "Point", "coordinates": [1e300, 1]}
    elif change == "short line":
        geometry |= {"type": "LineString", "coordinates": [[1, 2]]}
    elif change == "circle":
        geometry["type"] = "Circle"
    elif change == "collections":
        inner = {"type": "GeometryCollection", "geometries": []}
        one["geometry"] = {"type": "GeometryCollection", "geometries": [inner]}
    elif change == "plane":
        geometry["plane"] = {"z": 3}
    elif change == "id":
        one["id"] = ["a"]
    elif change == "class":
        properties["classification"] = {"name": 3}
    elif change == "colour":
        properties["classification"]["color"] = [1, 2, 256]
    elif change == "type":
        properties["objectType"] = 1
    elif change == "no properties":
        del one["properties"]
    return {"type": "FeatureCollection", "features": [one]}


CHANGES = (
    *("open ring", "two corners", "text", "truth", "flat", "far", "short line", "circle", "collections"),
    *("plane", "id", "class", "colour", "type", "no properties"),
)


@pytest.mark.parametrize("change", CHANGES)
def test_only_valid_geojson_is_stored(file: Path, change: str) -> None:
    annotations, before = Annotations(file, CANVAS), file.read_bytes()
    with pytest.raises(ViewError, match="feature 1"):
        annotations.replace(json.dumps(invalid(change)).encode(), annotations.version())
    assert file.read_bytes() == before


def test_a_valid_feature_is_stored(file: Path) -> None:
    """So that the test above fails for its one change."""
    annotations = Annotations(file, CANVAS)
    annotations.replace(json.dumps(invalid("nothing")).encode(), annotations.version())
    assert len(json.loads(file.read_bytes())["features"]) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"type": "FeatureCollection"}',
        '{"type": "FeatureCollection", "features": [], "a": NaN}',
        b"\xff",
    ],
)
def test_other_json_is_not_stored(file: Path, text: str | bytes) -> None:
    annotations, before = Annotations(file, CANVAS), file.read_bytes()
    with pytest.raises(ViewError, match="no GeoJSON"):
        annotations.replace(text if isinstance(text, bytes) else text.encode(), annotations.version())
    assert file.read_bytes() == before


def test_a_damaged_feature_of_the_file_does_not_keep_others_from_being_stored(tmp_path: Path) -> None:
    """A ring that is not closed is read everywhere here; as long as it is not changed it stays."""
    path = write(tmp_path / "a.geojson", invalid("open ring"))
    annotations = Annotations(path, CANVAS)
    stored = annotations.read()
    sent = json.loads(stored.text)
    sent["features"].append(feature("Point", [1, 2]))
    annotations.replace(json.dumps(sent).encode(), stored.version)
    assert json.loads(path.read_bytes())["features"][0] == invalid("open ring")["features"][0]


def test_the_second_who_stores_is_told(file: Path) -> None:
    one, other = Annotations(file, CANVAS), Annotations(file, CANVAS)  # two browsers, or two servers
    first, second = one.read(), other.read()
    assert first.version == second.version
    one.replace(json.dumps({"type": "FeatureCollection", "features": []}).encode(), first.version)
    with pytest.raises(ChangedError, match="another browser or program"):
        other.replace(second.text, second.version)
    assert json.loads(file.read_bytes())["features"] == []
    again = other.read()
    other.replace(second.text, again.version)
    assert json.loads(file.read_bytes())["features"] == as_qupath()["features"]


def test_a_file_changed_or_deleted_by_another_program_is_told(file: Path) -> None:
    annotations = Annotations(file, CANVAS)
    stored = annotations.read()
    write(file, {"type": "FeatureCollection", "features": [feature("Point", [1, 1])]})
    with pytest.raises(ChangedError):
        annotations.replace(stored.text, stored.version)
    file.unlink()
    with pytest.raises(ChangedError):
        annotations.replace(stored.text, stored.version)
    assert not file.exists()


def test_of_many_who_store_at_once_one_succeeds(file: Path) -> None:
    readers = [Annotations(file, CANVAS) for _ in range(8)]
    version = readers[0].version()

    def store(number: int) -> bool:
        document = {"type": "FeatureCollection", "features": [feature("Point", [number, 1])]}
        try:
            readers[number].replace(json.dumps(document).encode(), version)
        except ChangedError:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(store, range(8)))
    assert stored.count(True) == 1
    assert json.loads(file.read_bytes())["features"][0]["geometry"]["coordinates"] == [stored.index(True), 1]


def test_what_stood_stays_if_it_cannot_be_replaced(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations, before = Annotations(file, CANVAS), file.read_bytes()
    stored = annotations.read()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", full)
        with pytest.raises(ViewError, match="No space left"):
            annotations.replace(b'{"type": "FeatureCollection", "features": []}', stored.version)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_link_is_followed_and_rights_are_kept(tmp_path: Path, file: Path) -> None:
    link = tmp_path / "link.geojson"
    link.symlink_to(file)
    file.chmod(0o640)
    annotations = Annotations(link, CANVAS)
    annotations.replace(b'{"type": "FeatureCollection", "features": []}', annotations.version())
    assert link.is_symlink() and json.loads(file.read_bytes())["features"] == []
    assert stat.S_IMODE(file.stat().st_mode) == 0o640


def test_there_are_limits(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    annotations = Annotations(file, CANVAS)
    stored, before = annotations.read(), file.read_bytes()
    with pytest.raises(LimitError, match="bytes"):
        annotations.replace(b" " * (drawn.MAX_BYTES + 1), stored.version)
    monkeypatch.setattr(drawn, "MAX_POINTS", 1000)
    monkeypatch.setattr(drawn, "MAX_FEATURES", 100)
    points = {"type": "FeatureCollection", "features": [feature("MultiPoint", [[1, 1]] * (drawn.MAX_POINTS + 1))]}
    with pytest.raises(LimitError, match="points"):
        annotations.replace(json.dumps(points).encode(), stored.version)
    many = {"type": "FeatureCollection", "features": [{}] * (drawn.MAX_FEATURES + 1)}
    with pytest.raises(LimitError, match="features"):
        annotations.replace(json.dumps(many).encode(), stored.version)
    assert file.read_bytes() == before
    bomb = file.with_suffix(".geojson.gz")
    bomb.write_bytes(gzip.compress(b" " * (drawn.MAX_BYTES + 1)))
    with pytest.raises(LimitError, match="bytes"):
        Annotations(bomb, CANVAS)


def polygon(*points: tuple[float, float]) -> Json:
    return {"type": "Polygon", "coordinates": [[[*point] for point in (*points, points[0])]]}


corner = st.tuples(st.integers(0, 160), st.integers(0, 160)).map(lambda xy: (xy[0] / 8, xy[1] / 8))
polygons = st.lists(corner, min_size=3, max_size=9, unique=True).map(lambda points: polygon(*points))


@settings(max_examples=30, deadline=None)
@given(st.lists(polygons, max_size=5))
def test_random_outlines_come_back_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory, outlines: list[Json]
) -> None:
    path = tmp_path_factory.mktemp("random") / "a.geojson"
    features = [{"type": "Feature", "geometry": one, "properties": {}} for one in outlines]
    annotations = Annotations(path, CANVAS)
    annotations.replace(json.dumps({"type": "FeatureCollection", "features": features}).encode(), annotations.version())
    assert json.loads(path.read_bytes())["features"] == features
    rings = [np.array(one["coordinates"][0])[:-1, ::-1] for one in outlines]
    vertices = read_outlines(path).vertices
    assert np.array_equal(vertices, np.concatenate([np.zeros((0, 2)), *rings]))
