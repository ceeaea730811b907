"""Objects over an image, as the viewer shows them: outlines and measurements compared with what the files hold."""

import csv
import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import numpy as np
import pytest
import tifffile
from drawn_layers import Blank, drawn
from hypothesis import given, settings
from hypothesis import strategies as st
from mask_files import mask_of
from object_runs import find_in, write_mask
from skimage.draw import polygon2mask

from tilesegment.errors import MaskError, ViewError
from tilesegment.viewer import Server, object_index, open_scene
from tilesegment.viewer.mask_layers import MaskLayer, open_mask_layer
from tilesegment.viewer.object_layer import MOST, ObjectLayer
from tilesegment.viewer.object_text import contains
from tilesegment.viewer.tiling import TileAt

SHAPE = (180, 190)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image, its mask, and objects that were found in it, in every format."""
    folder = tmp_path_factory.mktemp("objects")
    write_mask(folder / "mask.tif", SHAPE)
    tifffile.imwrite(folder / "image.tif", np.zeros(SHAPE, np.uint8))
    find_in(folder, folder / "mask.tif")
    content = (folder / "cells.geojson").read_bytes()
    half = content.index(b"\n", len(content) // 2)
    # of several members, as QuPath reads them
    (folder / "packed.geojson.gz").write_bytes(gzip.compress(content[:half]) + gzip.compress(content[half:]))
    return folder


def features_of(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["features"]
    return found


def tile_of(layer: ObjectLayer, zoom: int = 0, row: int = 0, column: int = 0, z: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(layer.outlines(TileAt(zoom, row, column), z))
    return found


def write_features(path: Path, features: list[dict[str, Any]], **more: Any) -> Path:
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}, **more))
    return path


def square(y: float, x: float, side: float, name: str | None = None, **more: Any) -> dict[str, Any]:
    ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side], [x, y]]
    properties = {} if name is None else {"classification": {"name": name, "color": [255, 0, 10]}}
    return {
        "type": "Feature",
        "id": f"{y}/{x}",
        "geometry": {"type": "Polygon", "coordinates": [ring]} | more,
        "properties": properties,
    }


@pytest.mark.parametrize("name", ["cells.geojson", "packed.geojson.gz"])
def test_a_tile_has_the_outlines_of_the_file(folder: Path, name: str) -> None:
    layer, features = ObjectLayer(folder / name, Blank(SHAPE)), features_of(folder / "cells.geojson")
    found = tile_of(layer)
    assert (found["kind"], found["count"], layer.described()["count"]) == ("outlines", len(features), len(features))
    assert [one["coordinates"] for one in found["objects"]] == [one["geometry"]["coordinates"] for one in features]
    assert [one["n"] for one in found["objects"]] == list(range(len(features)))
    assert not drawn(layer.tile(TileAt(0, 0, 0), 0, {})).any()  # outlines, no dots
    layer.close()


def test_the_object_under_the_cursor(folder: Path) -> None:
    """At every pixel it is the one of the label image, with the measurements of the table."""
    layer = ObjectLayer(folder / "cells.geojson", Blank(SHAPE))
    with open_scene(folder / "image.tif", [folder / "cells.zarr"]) as scene, (folder / "cells.csv").open() as file:
        rows = {int(one["label"]): one for one in csv.DictReader(file)}
        for y in range(0, SHAPE[0], 7):
            for x in range(0, SHAPE[1], 5):
                stored = scene.layers[1].value(y, x, 0)["id"]
                found = layer.object_at(y + 0.5, x + 0.5, 0)
                assert (found is None) == (stored == 0), (y, x)
                if found is None:
                    continue
                assert found["id"] == str(stored)
                measured = {one["name"]: one for one in found["measurements"]}
                assert measured["area"] == {"name": "area", "value": float(rows[stored]["area_px"]), "unit": "px"}
                assert measured["solidity"]["value"] == pytest.approx(float(rows[stored]["solidity"]), rel=1e-6)
    layer.close()


def test_tables_have_boxes(folder: Path) -> None:
    layer = ObjectLayer(folder / "cells.csv", Blank(SHAPE))
    found = tile_of(layer)
    with (folder / "cells.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert found["kind"] == "boxes"
    assert [one["box"] for one in found["objects"]] == [[int(row[f"bbox-{n}_px"]) for n in range(4)] for row in rows]
    y0, x0 = found["objects"][0]["box"][:2]
    at = layer.object_at(y0 + 0.5, x0 + 0.5, 0)
    assert at is not None and at["coordinates"] is None
    assert {one["name"] for one in at["measurements"]} >= {"area", "eccentricity", "orientation"}
    layer.close()


def test_geoparquet_is_read_as_geojson(folder: Path) -> None:
    pytest.importorskip("pyarrow")
    from tilesegment.objects.find import find_objects

    find_objects(folder / "mask.tif", folder / "made.parquet", folder / "made.geojson", classes="1")
    ours, other = (ObjectLayer(folder / name, Blank(SHAPE)) for name in ("made.parquet", "made.geojson"))
    for one, two in zip(tile_of(ours)["objects"], tile_of(other)["objects"], strict=True):
        assert np.array_equal(_flat(one["coordinates"]), _flat(two["coordinates"])) and one["n"] == two["n"]
    where = np.argwhere(tifffile.imread(folder / "mask.tif") == 1)[0].tolist()
    one, two = (layer.object_at(where[0] + 0.5, where[1] + 0.5, 0) for layer in (ours, other))
    assert one is not None and two is not None and one["id"] == two["id"] and one["class"] == two["class"]
    for layer in (ours, other):
        layer.close()


def _flat(coordinates: Any) -> list[float]:
    return [n for one in coordinates for n in _flat(one)] if isinstance(coordinates, list) else [float(coordinates)]


def test_too_many_are_dots(tmp_path: Path) -> None:
    """No tile holds more outlines than are allowed; what has no outline is a dot, and is counted."""
    side = 40
    squares = [square(6 * i, 6 * j, 3, f"class {i % 3}") for i in range(side) for j in range(side)]
    layer = ObjectLayer(write_features(tmp_path / "a.geojson", squares), Blank((1024, 1024)))
    assert len(squares) > MOST
    assert tile_of(layer) == {"kind": "many", "count": side**2}
    seen = drawn(layer.tile(TileAt(0, 0, 0), 0, {}))
    dots = np.zeros((512, 512), bool)
    for i in range(side):
        for j in range(side):
            dots[6 * i + 1 : 6 * i + 3, 6 * j + 1 : 6 * j + 3] = True
    np.testing.assert_array_equal(seen[..., 3] > 0, dots)
    assert (seen[dots][:, :3] == (255, 0, 10)).all()
    # of one class, there are few enough
    assert json.loads(layer.outlines(TileAt(0, 0, 0), 0, frozenset({1, 2})))["count"] == 14 * side
    hidden = drawn(layer.tile(TileAt(0, 0, 0), 0, {"hidden": "1,2"}))
    assert not hidden.any()
    assert tile_of(layer, 0, 1, 1)["count"] == 0
    assert tile_of(layer, 1)["kind"] == "many"
    layer.close()


@settings(max_examples=30)
@given(
    corners=st.lists(st.tuples(st.integers(0, 1100), st.integers(0, 1400), st.integers(1, 300)), max_size=20),
    zoom=st.integers(0, 2),
    indent=st.sampled_from([None, 1]),
)
def test_an_object_is_in_each_tile_that_it_touches(
    tmp_path_factory: pytest.TempPathFactory, corners: list[tuple[int, int, int]], zoom: int, indent: int | None
) -> None:
    """However the file is laid out, and whatever the text in it."""
    shape = (1100, 1400)
    squares = [square(y, x, side, 'käse\u2028 "]}') for y, x, side in corners]
    path = tmp_path_factory.mktemp("any") / "a.geojson"
    write_features(path, squares, indent=indent, ensure_ascii=zoom == 0)
    layer = ObjectLayer(path, Blank(shape))
    step = 512 << zoom
    for row in range(-(-shape[0] // step)):
        for column in range(-(-shape[1] // step)):
            found = tile_of(layer, zoom, row, column)["objects"]
            top, left = row * step, column * step
            inside = [
                n
                for n, (y, x, side) in enumerate(corners)
                if y + side > top and x + side > left and y < min(top + step, 1100) and x < min(left + step, 1400)
            ]
            assert [one["n"] for one in found] == inside
            for one in found:
                assert one["coordinates"] == squares[one["n"]]["geometry"]["coordinates"]
    names = {one["name"] for one in layer.described()["classes"]}
    assert names == ({'käse\u2028 "]}'} if corners else set())
    layer.close()


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), min_size=3, max_size=9, unique=True))
def test_points_within_outlines(points: list[tuple[int, int]]) -> None:
    """As scikit-image fills them; points on an edge are left to either."""
    filled = polygon2mask((30, 30), np.array(points))
    ring = [[x, y] for y, x in points]
    rng = np.random.default_rng(0)
    for y, x in rng.integers(0, 30, (40, 2)).tolist():
        if _is_near_edge(points, y, x):
            continue
        assert contains([ring], y, x) == filled[y, x]
        assert contains([[ring], [[[50, 50], [60, 50], [60, 60]]]], y, x) == filled[y, x]


def _is_near_edge(points: list[tuple[int, int]], y: int, x: int) -> bool:
    corners = np.array(points, float)
    steps = np.roll(corners, -1, axis=0) - corners
    along = (((y, x) - corners) * steps).sum(1) / (steps**2).sum(1)
    nearest = corners + along.clip(0, 1)[:, None] * steps
    return bool((np.hypot(*((y, x) - nearest).T) < 0.01).any())


def test_the_smallest_object_is_found_first(tmp_path: Path) -> None:
    """Cells within a region, a hole in an object, planes, and pieces in a collection."""
    hole = square(0, 0, 90)
    hole["geometry"]["coordinates"].append([[60, 60], [80, 60], [80, 80], [60, 80], [60, 60]])
    pieces = square(200, 200, 10)
    pieces["geometry"] = {
        "type": "GeometryCollection",
        "geometries": [{"type": "Point", "coordinates": [1, 2]}, square(200, 200, 10)["geometry"]],
    }
    features = [hole, square(10, 10, 20), square(10, 10, 5, plane={"c": -1, "z": 1, "t": 0}), pieces]
    layer = ObjectLayer(write_features(tmp_path / "a.geojson", features), Blank((300, 300), depth=2))
    at = {place: layer.object_at(*place, z=0) for place in ((12.5, 12.5), (50, 50), (70, 70), (205, 205), (250, 250))}
    assert [None if one is None else one["n"] for one in at.values()] == [1, 0, None, 3, None]
    above = layer.object_at(12.5, 12.5, 1)
    assert above is not None and above["n"] == 2
    assert [one["n"] for one in tile_of(layer, z=0)["objects"]] == [0, 1, 3]
    assert tile_of(layer)["objects"][2]["coordinates"] == [square(200, 200, 10)["geometry"]["coordinates"]]
    assert layer.value(12, 12, 0)["id"] == "10/10"
    layer.close()


@pytest.mark.slow
def test_a_large_file_is_indexed_in_a_process_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(object_index, "LARGE", 0)
    near = object_index.index_of(folder / "cells.geojson", folder / "cells.geojson")
    monkeypatch.undo()
    here = object_index.index_of(folder / "cells.geojson", folder / "cells.geojson")
    for one, other in ((near.boxes, here.boxes), (near.spans, here.spans), (near.classes, here.classes)):
        np.testing.assert_array_equal(one, other)
    assert near.names == here.names


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.geojson", "{}", "expected GeoJSON"),
        ("a.geojson", '{"type": "FeatureCollection", "features": [{"type": "Feature"', "cut off"),
        (
            "a.geojson",
            json.dumps({"type": "FeatureCollection", "features": [square(0, 0, 1, coordinates=3)]}),
            "damaged",
        ),
        ("a.csv", "label,area\n1,2\n", "no columns bbox-0"),
        ("a.csv", "label,bbox-0,bbox-1,bbox-2,bbox-3\n1,a,2,3,4\n", "line 2 is damaged"),
        ("a.geojson.gz", "no gzip", "cannot be read"),
    ],
)
def test_damaged_files_are_said(tmp_path: Path, name: str, content: str, said: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(MaskError, match=said):
        ObjectLayer(tmp_path / name, Blank((10, 10)))


def test_a_file_that_changes_is_noticed(tmp_path: Path) -> None:
    path = write_features(tmp_path / "a.geojson", [square(0, 0, 5)])
    layer = ObjectLayer(path, Blank((10, 10)))
    path.write_text("x" * path.stat().st_size)
    with pytest.raises(MaskError, match="changed since it was opened"):
        layer.object_at(1, 1, 0)
    layer.close()


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    masks = [folder / "cells.geojson", folder / "mask.tif"]
    with open_scene(folder / "image.tif", masks) as scene, Server(scene) as server:
        yield server.url


def test_requests(url: str) -> None:
    with urlopen(f"{url}objects/1") as answer:
        described = json.load(answer)
    assert described["ready"] and described["count"] > 3
    with urlopen(f"{url}objects/1/tile/0/0/0?z=0&hidden=") as answer:
        tile = json.load(answer)
    assert tile["count"] == described["count"]
    x, y = tile["objects"][0]["coordinates"][0][0]
    with urlopen(f"{url}objects/1/at?y={y + 0.5}&x={x + 0.5}&z=0") as answer:
        assert json.load(answer)["n"] == 0
    with urlopen(f"{url}objects/1/at?y=-5&x=1e9") as answer:
        assert json.load(answer) is None


def test_the_region_of_a_mask_under_the_cursor(folder: Path) -> None:
    """It equals the object that is found in the whole mask."""
    from tilesegment.objects.find import find_objects

    find_objects(folder / "mask.tif", folder / "plain.geojson", classes="1")
    features, pixels = features_of(folder / "plain.geojson"), tifffile.imread(folder / "mask.tif")
    with open_scene(folder / "image.tif", [folder / "mask.tif", folder / "cells.zarr"]) as scene:
        layer, ids = scene.layers[1:]
        assert isinstance(layer, MaskLayer) and isinstance(ids, MaskLayer)
        for y, x in np.argwhere(pixels == 1)[::211].tolist():
            found = layer.object_at(y + 0.5, x + 0.5, 0)
            assert found is not None
            whole = next(one for one in features if contains(one["geometry"]["coordinates"], y + 0.5, x + 0.5))
            assert found["measurements"][0]["value"] == whole["properties"]["measurements"]["area_px"]
            assert sorted(found["coordinates"][0][:-1]) == sorted(whole["geometry"]["coordinates"][0][:-1])
            assert len(found["coordinates"]) == len(whole["geometry"]["coordinates"])
            assert found["coordinates"][0][0] == found["coordinates"][0][-1]
        y, x = np.argwhere(pixels == 0)[0].tolist()
        assert layer.object_at(y + 0.5, x + 0.5, 0) is None and layer.object_at(-5, 2, 0) is None
        y, x = np.argwhere(mask_of(folder / "cells.zarr") > 0)[-1].tolist()
        number = ids.object_at(y + 0.5, x + 0.5, 0)
        assert number is not None and number["id"] == str(mask_of(folder / "cells.zarr")[y, x])


def test_a_large_region_is_found_and_a_huge_one_refused(tmp_path: Path) -> None:
    """It is looked for in ever larger squares; what reaches beyond the last is said to be too large."""
    values = np.zeros((5000, 700), np.uint8)
    values[100:900, 100:600], values[300:500, 200:300], values[2000:, 50:60] = 1, 0, 1
    tifffile.imwrite(tmp_path / "mask.tif", values, tile=(512, 512))
    layer = open_mask_layer(tmp_path / "mask.tif", Blank(values.shape))
    found = layer.object_at(120.5, 120.5, 0)
    assert found is not None and found["box"] == [100, 100, 900, 600]
    assert found["measurements"][0]["value"] == 800 * 500 - 200 * 100
    assert len(found["coordinates"]) == 2
    assert layer.object_at(3500.5, 55.5, 0) is not None
    layer.close()
    values[:, 50:60] = 1
    tifffile.imwrite(tmp_path / "huge.tif", values, tile=(512, 512))
    layer = open_mask_layer(tmp_path / "huge.tif", Blank(values.shape))
    with pytest.raises(ViewError, match="larger than 2048 pixels"):
        layer.object_at(2500.5, 55.5, 0)
    layer.close()


@pytest.mark.parametrize(
    ("address", "status"),
    [
        ("objects/0", 404),
        ("objects/2", 404),
        ("objects/2/tile/0/0/0", 404),
        ("objects/0/at?y=1&x=1", 404),
        ("objects/9", 404),
        ("objects/1/tile/3/0/0", 404),
        ("objects/1/tile/0/1/0", 404),
        ("objects/1/at?y=nan&x=1", 400),
        ("objects/1/at?y=1", 400),
        ("objects/1/at?y=1&x=1&z=7", 400),
        ("objects/1/tile/0/0/0?hidden=x", 400),
        ("objects/1/tile/0/0/0?path=/etc/passwd", 400),
    ],
)
def test_wrong_requests(url: str, address: str, status: int) -> None:
    with pytest.raises(HTTPError) as error:
        urlopen(url + address)
    assert error.value.code == status
    error.value.close()
