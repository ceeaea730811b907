"""Zarr stores that are damaged or hostile: one clear line, never background in place of pixels."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from image_files import PIXELS, fails
from zarr.codecs import BytesCodec, ShardingCodec

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image


def write_zarr(path: Path, zarr_format: int = 3, **options: Any) -> Path:
    zarr.create_array(path, data=PIXELS, chunks=(32, 32), zarr_format=zarr_format, **options)
    return path


def edit(file: Path, **changes: Any) -> None:
    """Change entries of a JSON file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shape": [10**15, 96]}, "claims to be"),
        ({"shape": [0, 96]}, "empty image"),
        ({"shape": [-1, 96]}, "damaged"),
        ({"shape": "x"}, "damaged"),
        ({"shape": [96]}, "do not fit the shape"),
        ({"chunks": [10**9, 10**9]}, "GiB"),
        ({"chunks": [0, 1]}, "do not fit the shape"),
        ({"dtype": "|O"}, "pixels of type"),
        ({"dtype": [["a", "<u2"]]}, "pixels of type"),
        ({"filters": [{"id": "vlen-utf8"}, {"id": "pickle"}]}, "compressed with 'vlen-utf8'"),
        ({"compressor": {"id": "pickle"}}, "compressed with 'pickle'"),
        ({"compressor": {}}, "damaged"),
    ],
)
def test_hostile_zarr_2_metadata(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    path = write_zarr(tmp_path / "a.zarr", 2)
    edit(path / ".zarray", **changes)
    fails(path, match)


def grid(*chunk: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


def shards(*chunk: int) -> dict[str, Any]:
    return {"name": "sharding_indexed", "configuration": {"chunk_shape": list(chunk), "codecs": [{"name": "pickle"}]}}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"shape": [10**15, 96]}, "claims to be"),
        ({"chunk_grid": grid(10**9, 10**9)}, "GiB"),
        ({"chunk_grid": {"name": "rectilinear"}}, "damaged"),
        ({"data_type": "string"}, "pixels of type"),
        ({"data_type": {"name": "struct"}}, "pixels of type"),
        ({"codecs": [{"name": "vlen-utf8"}]}, "compressed with 'vlen-utf8'"),
        ({"codecs": [shards(8, 8)]}, "compressed with 'pickle'"),
        ({"codecs": 3}, "damaged"),
        ({"storage_transformers": [{"name": "x"}]}, "damaged"),
        ({"codecs": [shards(1, 1) | {"configuration": {"chunk_shape": [1, 1], "codecs": []}}]}, "shards of more"),
    ],
)
def test_hostile_zarr_3_metadata(tmp_path: Path, changes: dict[str, Any], match: str) -> None:
    path = write_zarr(tmp_path / "a.zarr")
    edit(path / "zarr.json", **({"chunk_grid": grid(9600, 9600)} if "shards" in match else {}) | changes)
    fails(path, match)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_metadata_that_is_no_json(tmp_path: Path, text: str) -> None:
    path = write_zarr(tmp_path / "a.zarr")
    (path / "zarr.json").write_text(text, encoding="latin-1")
    with pytest.raises(ImageError, match="is not the metadata of a Zarr array"):
        open_image(path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"datasets": []}, "levels are missing"),
        ({"datasets": [{"path": "../secret"}]}, "outside the store"),
        ({"datasets": [{"path": "/etc"}]}, "outside the store"),
        ({"datasets": [{"path": "1"}]}, "names a level 1 that is not in it"),
        ({"axes": [{"name": "y"}]}, "damaged"),
        ({"axes": [{"name": "y"}, {"name": "y"}]}, "damaged"),
        ({"axes": 7}, "damaged"),
        ({"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": ["a", 1]}]}]}, "damaged"),
        ({"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale"}]}]}, "damaged"),
        ({"datasets": [{"path": "0", "coordinateTransformations": [7]}]}, "damaged"),
        ({"datasets": [{"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [0, 1]}]}]}, "positive"),
    ],
)
def test_hostile_ome_zarr(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    path = tmp_path / "a.zarr"
    image = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]} | change
    zarr.open_group(path, mode="w", attributes={"ome": {"version": "0.5", "multiscales": [image]}})
    write_zarr(path / "0")
    write_zarr(tmp_path / "secret")
    fails(path, match)


def test_a_group_without_an_image_names_its_arrays(tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w")
    fails(tmp_path / "a.zarr", "it is empty")
    write_zarr(tmp_path / "a.zarr" / "cells")
    fails(tmp_path / "a.zarr", "name one of cells in it, as .*/a.zarr/cells")


@pytest.mark.parametrize("kind", ["raw", "compressed", "shards"])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.99])
def test_a_damaged_chunk_is_an_error_and_not_background(tmp_path: Path, kind: str, kept: float) -> None:
    sharded = {"serializer": ShardingCodec(chunk_shape=(8, 8), codecs=[BytesCodec()])}
    options = {"raw": {"compressors": None}, "compressed": {}, "shards": {"compressors": None} | sharded}[kind]
    path = write_zarr(tmp_path / "a.zarr", **options)
    chunk = path / "c" / "1" / "2"
    data = chunk.read_bytes()
    chunk.write_bytes(data[: int(kept * len(data))])
    assert "0:96,0:130" in fails(path, "is damaged")
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read(Region(0, 0, 32, 130))[0], PIXELS[:32])


def test_what_the_dimensions_are_has_to_be_told(tmp_path: Path) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=np.zeros((6, 7, 8, 9), np.uint8))
    fails(tmp_path / "a.zarr", "6 x 7 x 8 x 9 that does not say what its dimensions are: give its --axes")
    with open_image(tmp_path / "a.zarr", axes="czyx") as source:
        assert (source.channels, source.depth) == (6, 7)


def test_names_with_odd_characters(tmp_path: Path) -> None:
    path = tmp_path / "a b%20'ü\".zarr"
    write_zarr(path)
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], PIXELS)
    shutil.rmtree(path / "c" / "0")
    with open_image(path) as source:  # a chunk that is missing is background: so Zarr has it
        assert not source.read(Region(0, 0, 32, 130)).any()
