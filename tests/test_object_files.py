"""Files of objects: GeoJSON for QuPath, CSV and GeoParquet, read back by others."""

import csv
import gzip
import json
import math
import tracemalloc
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet
from scipy import ndimage
from shapely.geometry import shape

from tilesegment.errors import MaskError
from tilesegment.files import replacing
from tilesegment.geometry import Region
from tilesegment.objects import text
from tilesegment.objects.batches import Batch, Placement
from tilesegment.objects.geojson import GeoJSONWriter, feature_id
from tilesegment.objects.outlines import corners_of_block, trace
from tilesegment.objects.polygons import Polygons, polygons_of
from tilesegment.objects.tables import CSVWriter, ParquetWriter, objects_writer

QUPATH = Path(__file__).parents[2] / "shared" / "data" / "geojson" / "qupath05.geojson"
SUFFIXES = [".geojson", ".geojson.gz", ".csv", ".parquet"]


def mask() -> np.ndarray:
    """Ids of objects: one with a hole and another object in it, one of two pieces, one of a pixel."""
    ids = np.zeros((20, 30), np.uint32)
    ids[1:10, 1:10] = 2
    ids[3:8, 3:8] = 0
    ids[5, 5] = 3
    ids[12, 2:9] = 7
    ids[14:17, 4:6] = 7
    ids[0, 29] = 11
    return ids


def polygons_from(ids: np.ndarray) -> Polygons:
    """The outlines of a label image."""
    pieces, object_of = np.zeros_like(ids), [0]
    for number in np.unique(ids[ids > 0]):
        found, count = ndimage.label(ids == number)
        pieces[found > 0] = found[found > 0] + len(object_of) - 1
        object_of += [int(number)] * count
    corners = corners_of_block(np.pad(pieces, 1), Region.of_shape(ids.shape), ids.shape)
    return polygons_of(trace(corners), np.array(object_of))


def batch(**columns: Any) -> Batch:
    """The objects of `mask` with some measurements."""
    polygons = polygons_from(mask())
    table = {
        "label": polygons.ids,
        "class": np.array(["nucleus", 'a "b", \\c', "", "µ–核"]),
        "area_px": polygons.areas().astype(np.int64),
        "solidity": np.array([1 / 3, math.nan, 1.0, 1e-12]),
        "mean": np.array([math.nan, 65535.0, -2.5, math.inf], np.float32),
    }
    return Batch(table | columns, polygons)


def written(path: Path, *batches: Batch, **settings: Any) -> Path:
    """Write batches to a file."""
    with objects_writer(path, **settings) as writer:
        for one in batches:
            writer.write(one)
    return path


def features_of(path: Path) -> list[dict[str, Any]]:
    """The features of a GeoJSON file, strictly read."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    collection = json.loads(content, parse_constant=refuse)
    assert collection["type"] == "FeatureCollection" and set(collection) == {"type", "features"}
    return collection["features"]


@pytest.mark.parametrize("suffix", [".geojson", ".geojson.gz"])
def test_geojson_holds_outlines_classes_and_measurements(tmp_path: Path, suffix: str) -> None:
    one = batch()
    path = written(tmp_path / f"cells{suffix}", one, fingerprint="run", colours={"nucleus": (255, 0, 9)})
    features = features_of(path)
    assert one.polygons is not None
    for feature, expected in zip(features, one.polygons.shapes(), strict=True):
        assert set(feature) == {"type", "id", "geometry", "properties"} and feature["type"] == "Feature"
        assert shape(feature["geometry"]).wkt == expected.wkt
    assert [feature["geometry"]["type"] for feature in features] == ["Polygon", "Polygon", "MultiPolygon", "Polygon"]
    assert [feature["id"] for feature in features] == [str(feature_id("run", label)) for label in (2, 3, 7, 11)]
    properties = [feature["properties"] for feature in features]
    assert {entry["objectType"] for entry in properties} == {"detection"}
    assert [entry.get("classification") for entry in properties] == [
        {"name": "nucleus", "color": [255, 0, 9]},
        {"name": 'a "b", \\c'},
        None,
        {"name": "µ–核"},
    ]
    assert [entry["measurements"] for entry in properties] == [
        {"label": 2, "area_px": 56, "solidity": 0.333333333},
        {"label": 3, "area_px": 1, "mean": 65535},
        {"label": 7, "area_px": 13, "solidity": 1, "mean": -2.5},
        {"label": 11, "area_px": 1, "solidity": 1e-12},
    ]
    assert all(isinstance(value, int) for entry in properties for value in [entry["measurements"]["area_px"]])


def test_rings_are_closed_and_turn_as_rfc_7946_says(tmp_path: Path) -> None:
    (feature, *_) = features_of(written(tmp_path / "cells.geojson", batch()))
    shell, hole = feature["geometry"]["coordinates"]
    assert shell == [[1, 1], [10, 1], [10, 10], [1, 10], [1, 1]]
    assert hole == [[3, 3], [3, 8], [8, 8], [8, 3], [3, 3]]
    assert shapely.is_ccw(shapely.LinearRing(shell)) and not shapely.is_ccw(shapely.LinearRing(hole))


def test_coordinates_are_those_of_level_0(tmp_path: Path) -> None:
    placement = Placement(offset=(100.25, 2000), scale=(0.5, 4))
    (feature, *_) = features_of(written(tmp_path / "cells.geojson", batch(), placement=placement))
    assert feature["geometry"]["coordinates"][0][:3] == [[2004, 100.75], [2040, 100.75], [2040, 105.25]]
    # whole numbers are written as such, others with three decimals
    assert "[[2004,100.75]," in (tmp_path / "cells.geojson").read_text()
    odd = Placement(offset=(-5, 0), scale=(1 / 3, 1 / 7))
    (feature, *_) = features_of(written(tmp_path / "odd.geojson", batch(), placement=odd))
    assert feature["geometry"]["coordinates"][0][1] == [1.429, -4.667]


def test_planes_names_and_other_text(tmp_path: Path) -> None:
    extra = {"plane": np.array([0, 0, 3, 12]), "name": np.array(["", "x", "y", "z"]), "slide": np.array(list('a"cd'))}
    one = batch(**extra)
    features = features_of(written(tmp_path / "cells.geojson", one, fingerprint="f", object_type="annotation"))
    assert [feature["geometry"]["plane"] for feature in features] == [{"c": -1, "z": z, "t": 0} for z in (0, 0, 3, 12)]
    assert features[2]["id"] == str(feature_id("f", 7, 3)) != str(feature_id("f", 7))
    properties = [feature["properties"] for feature in features]
    assert [entry.get("name") for entry in properties] == [None, "x", "y", "z"]
    assert [entry["metadata"] for entry in properties] == [{"slide": letter} for letter in 'a"cd']
    assert "plane" not in properties[0]["measurements"]
    assert {entry["objectType"] for entry in properties} == {"annotation"}


def test_the_form_is_that_of_qupath(tmp_path: Path) -> None:
    """What both have, has the same types; what only we write, QuPath's sources name."""
    if not QUPATH.is_file():
        pytest.skip(f"needs {QUPATH}, which is not part of the repository")
    ours = features_of(written(tmp_path / "cells.geojson", batch(), colours={"nucleus": (1, 2, 3)}))[0]
    theirs = json.loads(QUPATH.read_text())["features"][0]
    assert set(ours) == set(theirs) and set(ours["geometry"]) == set(theirs["geometry"])
    assert UUID(ours["id"]).version == 5 and ours["id"] == str(UUID(ours["id"])) and UUID(theirs["id"])
    for one in (ours, theirs):
        ring = one["geometry"]["coordinates"][0]
        assert ring[0] == ring[-1] and {type(value) for point in ring for value in point} == {int}
        assert one["properties"]["objectType"] in ("detection", "annotation")
    colour = ours["properties"]["classification"]["color"]
    assert [type(value) for value in colour] == [type(value) for value in theirs["properties"]["color"]]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_files_repeat_byte_by_byte_whatever_the_batches(tmp_path: Path, suffix: str) -> None:
    one = batch()
    whole = written(tmp_path / f"whole{suffix}", one, fingerprint="f").read_bytes()
    again = written(tmp_path / f"again{suffix}", one, fingerprint="f").read_bytes()
    parts = written(tmp_path / f"parts{suffix}", one.rows(0, 1), one.rows(1, 1), one.rows(1, 4), fingerprint="f")
    assert whole == again
    if suffix == ".parquet":  # how its pages are cut depends on the batches
        tables = [parquet.read_table(tmp_path / f"{name}.parquet") for name in ("parts", "whole")]
        assert str(tables[0].to_pylist()) == str(tables[1].to_pylist())
    else:
        assert parts.read_bytes() == whole


def test_ids_depend_on_the_run(tmp_path: Path) -> None:
    ids = [
        [feature["id"] for feature in features_of(written(tmp_path / "cells.geojson", batch(), fingerprint=name))]
        for name in ("a", "b")
    ]
    assert len({*ids[0], *ids[1]}) == 8


def test_gzip_has_several_members_and_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.objects.geojson.MEMBER", 1000)
    one = batch()
    plain = written(tmp_path / "cells.geojson", one, one, one).read_bytes()
    content = written(tmp_path / "cells.geojson.gz", one, one, one).read_bytes()
    assert gzip.decompress(content) == plain
    assert content.count(b"\x1f\x8b\x08") >= 3
    assert content[4:8] == bytes(4) and content[3] == 0  # no time, no name


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_a_valid_file(tmp_path: Path, suffix: str, number: int) -> None:
    """Without a batch, and with one without rows, which tells tables their columns."""
    path = written(tmp_path / f"cells{suffix}", *[batch().rows(0, 0)] * number)
    if "geojson" in suffix:
        assert features_of(path) == []
    elif suffix == ".csv":
        assert path.read_text() == ("label,class,area_px,solidity,mean\n" if number else "label\n")
    else:
        found = parquet.read_table(path)
        assert len(found) == 0 and ("geometry" in found.column_names) == bool(number)


def test_csv_gives_every_value_back(tmp_path: Path) -> None:
    one = batch(**{"a,b": np.array(["x\ny", "", "1", '"'])})
    with written(tmp_path / "cells.csv", one.rows(0, 3), one.rows(3, 4)).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == list(one.columns)
    for name, column in one.columns.items():
        found = [row[name] for row in rows]
        if column.dtype.kind == "f":
            assert found == ["" if math.isnan(value) else text for value, text in zip(column, found, strict=True)]
            same = [value for value in column.tolist() if not math.isnan(value)]
            assert [float(value) for value in found if value] == same
        else:
            assert found == [str(value) for value in column.tolist()]


def test_parquet_is_geoparquet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.objects.tables.GROUP_ROWS", 3)
    one = batch()
    assert one.polygons is not None
    placement = Placement((10, 0.5), (1, 2))
    file = parquet.ParquetFile(written(tmp_path / "cells.parquet", one, one, placement=placement))
    assert file.num_row_groups > 1
    found = file.read()
    for name, column in one.columns.items():
        values = found[name].to_numpy()
        assert np.array_equal(values, np.tile(column, 2).astype(values.dtype), equal_nan=column.dtype.kind == "f")
    assert str(found.schema.field("label").type) == "uint32"
    shapes = shapely.from_wkb(found["geometry"].to_pylist())
    assert shapely.equals_exact(shapes, np.tile(one.polygons.shapes((10, 0.5), (1, 2)), 2), 0).all()
    geo = json.loads(file.metadata.metadata[b"geo"])
    assert json.loads(file.schema_arrow.metadata[b"geo"]) == geo
    assert geo["version"] == "1.1.0" and geo["primary_column"] == "geometry"
    (column,) = geo["columns"].values()
    assert column["encoding"] == "WKB" and column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["orientation"] == "counterclockwise" and column["crs"] is None


def test_a_table_without_outlines(tmp_path: Path) -> None:
    file = parquet.ParquetFile(written(tmp_path / "cells.parquet", Batch(batch().columns)))
    assert file.read().column_names == list(batch().columns) and not file.metadata.metadata


@pytest.mark.parametrize("name", ["cells", "cells.json", "cells.gz", "cells.zip", "geojson"])
def test_unknown_suffixes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(MaskError, match=rf"{name} what to write; allowed are .*NAME.csv"):
        objects_writer(tmp_path / name)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_cannot_be_written_is_one_clear_line(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(MaskError, match=r"there is no folder .*create it first"):
        objects_writer(tmp_path / "missing" / f"cells{suffix}")
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(MaskError, match="Is a directory"):
        objects_writer(tmp_path / f"folder{suffix}")
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full")
    path = tmp_path / f"cells{suffix}"
    with pytest.raises(MaskError, match=f"cannot write {path}: No space left"):
        written(path, *[batch()] * 50, to=Path("/dev/full"))


def test_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.objects.tables.find_spec", lambda _: None)
    with pytest.raises(MaskError, match=r"pip install 'tilesegment\[parquet\]'"):
        objects_writer(tmp_path / "cells.parquet")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_under_another_name_until_it_is_complete(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"CELLS{suffix.upper()}"
    with replacing(path) as (temporary,):
        written(path, batch(), to=temporary)
        assert not path.exists()
    plain = written(tmp_path / f"cells{suffix}", batch())
    assert path.read_bytes() == plain.read_bytes()
    with pytest.raises(ZeroDivisionError):
        write_and_fail(path)
    assert path.read_bytes() == plain.read_bytes() and len(list(tmp_path.iterdir())) == 2


def write_and_fail(path: Path) -> None:
    """Begin to replace a file, and fail."""
    with replacing(path) as (temporary,), objects_writer(path, temporary) as writer:
        writer.write(batch())
        raise ZeroDivisionError


@pytest.mark.slow
@pytest.mark.parametrize("kind", [GeoJSONWriter, CSVWriter, ParquetWriter])
def test_memory_does_not_grow_with_the_number_of_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type
) -> None:
    for name, value in (("geojson.MEMBER", 1 << 17), ("tables.GROUP_ROWS", 500)):
        monkeypatch.setattr(f"tilesegment.objects.{name}", value)
    few = batch()
    assert few.polygons is not None
    columns = {name: np.tile(column, 50) for name, column in few.columns.items()}
    one, path = Batch(columns, Polygons.concatenate([few.polygons] * 50)), tmp_path / "cells.geojson"
    peaks = []
    for count in (10, 60):
        tracemalloc.start()
        with kind(path) as writer:
            for _ in range(count):
                writer.write(one)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0] and path.stat().st_size > 12_000


# numbers as text


def texts(rows: np.ndarray) -> list[str]:
    """Each row as a string."""
    return [bytes(row).translate(None, b"\0").decode() for row in rows]


@given(st.lists(st.floats(width=64) | st.floats(1e-6, 1e16) | st.integers(-(2**60), 2**60).map(float), min_size=1))
def test_floats_come_back(values: list[float]) -> None:
    for whole in ("", ".0"):
        for value, written in zip(values, texts(text.floats(np.array(values), whole=whole)), strict=True):
            if math.isnan(value):
                assert written == ""
            else:
                assert float(written) == value and math.copysign(1, float(written)) == math.copysign(1, value)


def test_floats_near_powers_of_ten() -> None:
    powers = 10.0 ** np.arange(-9, 19)
    values = np.concatenate(
        [powers, np.nextafter(powers, 0), np.nextafter(powers, 1e99), powers / 3, powers * 0.999999]
    )
    assert [float(written) for written in texts(text.floats(values))] == values.tolist()
    assert texts(text.floats(np.array([0.1, 12.5, 100.0, 0.0, 1e15, 0.001]), whole=".0")) == [
        "0.1", "12.5", "100.0", "0.0", "1000000000000000.0", "0.001",
    ]  # fmt: skip


@given(st.lists(st.floats(-1e20, 1e20), min_size=1), st.integers(1, 15))
def test_rounded_floats(values: list[float], digits: int) -> None:
    for value, written in zip(values, texts(text.floats(np.array(values), digits)), strict=True):
        # half a unit of the last digit, and what float64 cannot tell
        assert float(written) == pytest.approx(value, rel=0.5000001 * 10.0 ** (1 - digits), abs=1e-320)
        assert len(written.lstrip("-0.").split("e")[0].replace(".", "").rstrip("0")) <= digits


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_integers(values: list[int]) -> None:
    assert texts(text.integers(np.array(values, np.int64))) == [str(value) for value in values]


def test_integers_of_other_types() -> None:
    assert texts(text.integers(np.array([2**64 - 1, 0], np.uint64))) == [str(2**64 - 1), "0"]
    assert texts(text.integers(np.array([True, False]))) == ["1", "0"]
    assert texts(text.integers(np.array([-128, 127], np.int8))) == ["-128", "127"]
