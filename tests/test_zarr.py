"""Zarr and OME-Zarr stores: damaged or hostile, chunks under other names, several images, both codec pipelines."""

import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import zarr
from conftest import noise
from image_files import PIXELS, STACK, fails, make_pixels, multiscales, ome_zarr, read_all
from ome_zarr_files import axes_of, transformations, write_image
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec
from zarr.core.codec_pipeline import BatchedCodecPipeline
from zarr.storage import MemoryStore

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.ome_zarr.arrays import open_stored, with_zarrs

SHARDED = {"serializer": ShardingCodec(chunk_shape=(16, 16), codecs=[BytesCodec(), ZstdCodec()]), "compressors": None}
NAMES = [("v2", "."), ("v2", "/"), ("default", "."), ("default", "/")]


def write(path: Path, zarr_format: int = 3, pixels: np.ndarray = PIXELS, **options: Any) -> Path:
    zarr.create_array(path, data=pixels, chunks=(48,) * pixels.ndim, zarr_format=zarr_format, **options)
    return path


def named(kind: str, separator: str) -> dict[str, Any]:
    """The option of an array whose chunks are named so."""
    return {"chunk_key_encoding": {"name": kind, "separator": separator}}


def edit(path: Path, **changes: Any) -> Path:
    """Change entries of an array's metadata; None removes one."""
    file = path / "zarr.json" if (path / "zarr.json").exists() else path / ".zarray"
    meta = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))
    return path


# -- metadata --------------------------------------------------------------------------------------------------------


def grid(*chunk: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(chunk)}}


def shards(side: int, *codecs: str) -> list[dict[str, Any]]:
    return [{"name": "sharding_indexed", "configuration": {"chunk_shape": [side] * 2, "codecs": list(codecs)}}]


@pytest.mark.parametrize(
    ("zarr_format", "changes", "match"),
    [
        (2, {"shape": [10**15, 96]}, "claims to be"),
        (2, {"shape": [0, 96]}, "empty image"),
        (2, {"shape": [-1, 96]}, "damaged"),
        (2, {"shape": "x"}, "damaged"),
        (2, {"shape": [96]}, "do not fit the shape"),
        (2, {"chunks": [10**9, 10**9]}, "GiB"),
        (2, {"chunks": [0, 1]}, "do not fit the shape"),
        (2, {"dtype": [["a", "<u2"]]}, "pixels of type"),
        (2, {"filters": [{"id": "vlen-utf8"}]}, "vlen-utf8"),
        (2, {"compressor": {"id": "pickle"}}, "pickle"),
        (2, {"compressor": {}}, "damaged"),
        (3, {"chunk_grid": grid(10**9, 10**9)}, "GiB"),
        (3, {"chunk_grid": {"name": "rectilinear"}}, "damaged"),
        (3, {"data_type": {"name": "struct"}}, "pixels of type"),
        (3, {"codecs": [{"name": "vlen-utf8"}]}, "vlen-utf8"),
        (3, {"codecs": shards(8, "pickle")}, "pickle"),
        (3, {"codecs": 3}, "damaged"),
        (3, {"storage_transformers": [{"name": "x"}]}, "damaged"),
        (3, {"chunk_grid": grid(9600, 9600), "codecs": shards(1)}, "shards of more"),
        (3, {"attributes": [1]}, "damaged"),
    ],
)
def test_hostile_metadata_of_arrays(tmp_path: Path, zarr_format: int, changes: dict[str, Any], match: str) -> None:
    fails(edit(write(tmp_path / "a.zarr", zarr_format), **changes), match)


@pytest.mark.parametrize("text", ["", "{", "[]", "[" * 100_000, "\xff"])
def test_metadata_that_is_no_json(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a.zarr")
    (path / "zarr.json").write_text(text, encoding="latin-1")
    with pytest.raises(ImageError, match=r"zarr\.json is not the metadata"):
        open_image(path)


def scaled(transformation: Any) -> dict[str, Any]:
    return {"datasets": [{"path": "0", "coordinateTransformations": [transformation]}]}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"datasets": []}, "levels are missing"),
        ({"datasets": [{"path": "../secret"}]}, "outside the store"),
        ({"datasets": [{"path": "/etc"}]}, "outside the store"),
        ({"datasets": [{"path": "1"}]}, "names a level 1 that is not in it"),
        ({"axes": [{"name": "y"}]}, "damaged"),
        ({"axes": 7}, "damaged"),
        (scaled({"type": "scale", "scale": ["a", 1]}), "damaged"),
        (scaled({"type": "scale"}), "damaged"),
        (scaled(7), "damaged"),
        (scaled({"type": "scale", "scale": [0, 1]}), "positive"),
    ],
)
def test_hostile_metadata_of_ome_zarr(tmp_path: Path, change: dict[str, Any], match: str) -> None:
    image = {"axes": [{"name": "y"}, {"name": "x"}], "datasets": [{"path": "0"}]} | change
    attributes = {"ome": {"version": "0.5", "multiscales": [image]}}
    zarr.open_group(tmp_path / "a.zarr", mode="w", attributes=attributes)
    write(tmp_path / "a.zarr" / "0")
    write(tmp_path / "secret")
    fails(tmp_path / "a.zarr", match)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [
        *(((60, 80), ""), ((60, 80, 3), ""), ((7, 60, 80), "z, y, x"), ((3, 60, 80), "c, y, x")),
        *(((100, 64, 66), "z, y, x"), ((60, 80, 7), None), ((60, 7, 80), None), ((80, 60, 30), None)),
        *(((512, 512, 60), None), ((4, 3, 60, 4), None), ((3, 60, 4), None)),
    ],
)
def test_axes_are_guessed_and_said_or_have_to_be_told(tmp_path: Path, shape: tuple[int, ...], axes: str | None) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=make_pixels(*shape))
    if axes is None:
        assert "--axes" in fails(tmp_path / "a.zarr")
    else:
        with open_image(tmp_path / "a.zarr") as source:
            assert any(f"taken for {axes}" in note for note in source.notes) == bool(axes)


# -- chunks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{"compressors": None}, {}, SHARDED], ids=["raw", "compressed", "shards"])
@pytest.mark.parametrize("change", [lambda c: b"", lambda c: c[: len(c) // 2], lambda c: c[:-1], lambda c: c * 2])
def test_a_damaged_chunk_is_named_and_no_background(
    tmp_path: Path, options: Any, change: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "a.zarr", **options)
    for key in ("c/1/1", "c/1/2"):  # within the image, and at its corner
        content = (path / key).read_bytes()
        (path / key).write_bytes(change(content))
        if "serializer" not in options or len(change(content)) < len(content):
            message = fails(path, "is damaged")
            assert key in message and "0:96,0:130" in message
        with open_image(path) as source:
            np.testing.assert_array_equal(source.read(Region(0, 0, 48, 130))[0], PIXELS[:48])
        (path / key).write_bytes(content)


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("stored", NAMES)
@pytest.mark.parametrize("said", NAMES)
def test_names_of_chunks_of_zarr_v3(
    tmp_path: Path, stored: tuple[str, str], said: tuple[str, str], sharded: bool
) -> None:
    path = write(tmp_path / "a.zarr", **named(*stored), **(SHARDED if sharded else {}))
    edit(path, chunk_key_encoding={"name": said[0], "configuration": {"separator": said[1]}})
    pixels, notes = read_all(path)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert ("named as" in notes) == (stored != said)


@pytest.mark.parametrize(("stored", "said"), [("/", None), ("/", "."), (".", "/"), ("/", "/"), (".", None)])
def test_separators_of_zarr_v2(tmp_path: Path, stored: str, said: str | None) -> None:
    path = edit(write(tmp_path / "a.zarr", 2, **named("v2", stored)), dimension_separator=said)
    pixels, notes = read_all(path)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert ("named as" in notes) == (stored != (said or "."))


def test_chunks_of_another_array(tmp_path: Path) -> None:
    """Names that no way to name chunks explains."""
    path = write(tmp_path / "rank.zarr", 2, make_pixels(3, 96, 130), **named("v2", "."))
    fails(edit(path, shape=[96, 130], chunks=[48, 48]), r"such as 0\.0")
    path = write(tmp_path / "names.zarr")
    os.rename(path / "c", path / "chunks")
    fails(path, "such as c/0/0, but chunks/")
    path = write(tmp_path / "beyond.zarr", 2, **named("v2", "/"))
    for row in ("0", "1"):
        os.rename(path / row, path / str(int(row) + 7))
    fails(path, "such as 0/0")


def test_missing_chunks_are_the_fill_value_as_zarr_has_it(tmp_path: Path) -> None:
    """An array without any says so."""
    path = write(tmp_path / "a b%20'ü\".zarr", fill_value=7)
    (path / "c" / "0" / "0").unlink()
    pixels, notes = read_all(path)
    assert (pixels[:48, :48] == 7).all() and not notes
    np.testing.assert_array_equal(pixels[48:], PIXELS[48:])
    shutil.rmtree(path / "c")
    pixels, notes = read_all(path)
    assert (pixels == 7).all()
    assert "stores no chunk" in notes and "7" in notes


def test_a_chunk_that_vanishes_while_it_is_read_is_no_background(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, read = write(tmp_path / "a.zarr"), zarr.Array.__getitem__

    def vanishing(array: zarr.Array, index: Any) -> Any:
        (path / "c" / "1" / "1").unlink(missing_ok=True)
        return read(array, index)

    with open_image(path) as source:
        monkeypatch.setattr(zarr.Array, "__getitem__", vanishing)
        with pytest.raises(ImageError, match="c/1/1 vanished"):
            source.read(Region(0, 0, 96, 96))


@pytest.mark.parametrize("options", [{"order": "F"}, {"dtype": ">u2"}, {}])
def test_both_pipelines_read_the_same(tmp_path: Path, options: dict[str, str]) -> None:
    """What zarrs does not read is read without it."""
    pixels = PIXELS.astype(options.pop("dtype", "u1"))
    path = write(tmp_path / "a.zarr", 2 if options or pixels.itemsize > 1 else 3, pixels, **options)
    slow, _ = open_stored(path)
    fast = with_zarrs(slow)
    np.testing.assert_array_equal(read_all(path)[0], pixels)
    assert fast is None or not options
    for region in Region(0, 0, 96, 130).squares(60):
        np.testing.assert_array_equal((fast or slow)[region.slices], pixels[region.slices])


def test_other_threads_may_make_arrays_while_one_is_opened(tmp_path: Path) -> None:
    """They get zarr's own pipeline, which writes atomically, and not a word of what the fast one was told."""
    slow, _ = open_stored(write(tmp_path / "a.zarr"))
    if with_zarrs(slow) is None:
        pytest.skip("zarrs is not installed")
    ended = threading.Event()

    def keep_opening() -> None:
        while not ended.is_set():
            assert type(cast(zarr.Array, with_zarrs(slow)).async_array.codec_pipeline).__name__.startswith("Zarrs")

    with ThreadPoolExecutor(2) as opening:
        others = [opening.submit(keep_opening) for _ in range(2)]
        try:
            made = [zarr.create_array(MemoryStore(), shape=(8, 8), chunks=(4, 4), dtype="u1") for _ in range(50)]
        finally:
            ended.set()
        for other in others:
            other.result()
    assert {type(array.async_array.codec_pipeline) for array in made} == {BatchedCodecPipeline}


# -- images of a store -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_of_ome_zarr(tmp_path: Path, version: str) -> None:
    """Their chunks may have other names, too."""
    path = ome_zarr(version, "zyx", 0.5)(tmp_path, STACK)
    for is_renamed in (False, True):
        with open_image(path) as source:
            assert [level.scale for level in source.levels] == [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
            for n, level in enumerate(source.levels):
                expected = STACK[3][:, :: 2**n, :: 2**n]
                np.testing.assert_array_equal(source.read(Region.of_shape(level.shape), n, 3), expected)
            assert sum("named as" in note for note in source.notes) == 3 * is_renamed
        for level in "012":
            if version == "0.4":
                edit(path / level, dimension_separator="/")  # written with "."
            else:
                edit(path / level, chunk_key_encoding={"name": "default", "configuration": {"separator": "."}})


@pytest.mark.parametrize("below", ["", "/", "/0", "/0/", "/labels/cells"])
def test_parts_of_a_store(tmp_path: Path, below: str) -> None:
    path = ome_zarr("0.5", "zyx", 0.3)(tmp_path, STACK)
    label = zarr.open_group(path / "labels" / "cells", mode="w")
    label.attrs["ome"] = {"version": "0.5", "multiscales": [multiscales("zyx", 1, 1.0)]}
    label.create_array("0", data=STACK[:, 0])
    with open_image(f"{path}{below}") as source:
        assert source.format == ("Zarr" if "/0" in below else "OME-Zarr 0.5")
        np.testing.assert_array_equal(source.read(Region(1, 2, 30, 40), z=2), STACK[2, :, 1:30, 2:40])


def test_levels_reduced_along_z_and_images_of_one_group(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    described = [multiscales("zyx", 2, 1.0) | {"name": name} for name in ("first", "second")]
    described[1]["datasets"] = [{"path": "more"}]
    group.attrs["ome"] = {"version": "0.5", "multiscales": described}
    group.create_array("0", data=STACK[:, 0])
    group.create_array("1", data=STACK[::2, 0, ::2, ::2])
    group.create_array("more", data=STACK[:3, 0])
    with open_image(tmp_path / "a.zarr") as source:
        assert (len(source.levels), source.depth) == (1, 5)
        assert "second" in source.notes[0] and "level 1" in source.notes[-1]
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr", series=1)[0], STACK[:3, 0])
    fails(tmp_path / "a.zarr", "no series 2", series=2)


def root(path: Path, version: str, **attributes: Any) -> None:
    """A group with `attributes`, which 0.5 keeps under `ome`."""
    is_v3 = version == "0.5"
    given = {"ome": {"version": version} | attributes} if is_v3 else attributes
    zarr.open_group(path, mode="w", zarr_format=3 if is_v3 else 2, attributes=given)


def converted(path: Path, version: str, count: int) -> None:
    """What bioformats2raw writes of a file of `count` series."""
    root(path, version, **{"bioformats2raw.layout": 3})
    root(path / "OME", version, series=[str(number) for number in range(count)])
    (path / "OME" / "METADATA.ome.xml").write_text("<OME/>")
    for n in range(count):
        described = [transformations([1, 1])]
        write_image(path / str(n), [noise((40 + n, 50))], version, axes=axes_of("yx"), described=described)


def plate(path: Path, version: str) -> None:
    wells = [{"path": f"{row}/{column}"} for row in "AB" for column in "12"]
    root(path, version, plate={"wells": wells, "rows": [], "columns": []})
    for well in wells:
        root(path / well["path"], version, well={"images": [{"path": "0"}, {"path": "1"}]})
        write_image(path / well["path"] / "1", [noise((40, 50))], version, axes=axes_of("yx"))


def spatial_data(path: Path, version: str) -> None:
    zarr.open_group(path, mode="w", attributes={"spatialdata_attrs": {"version": "0.2"}})
    zarr.open_group(path / "images", mode="w")
    write_image(path / "images" / "slide", [noise((40, 50))], axes=axes_of("yx"))


GROUPS: dict[str, tuple[Callable[[Path, str], None], str, list[str], str]] = {
    "plate": (plate, "", ["plate of 4 wells", "a.zarr/A/1/0"], "A/1/1"),
    "well": (plate, "/B/2", ["2 fields", "a.zarr/B/2/0"], "B/2/1"),
    "spatialdata": (spatial_data, "", ["SpatialData", "images/slide"], "images/slide"),
    "images of spatialdata": (spatial_data, "/images", ["name one of slide"], "images/slide"),
    "series": (lambda p, v: converted(p, v, 11), "", ["11 images", "0, 1, 2", "--series N", "a.zarr/0"], "0"),
}


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize(("make", "below", "words", "image"), GROUPS.values(), ids=GROUPS.keys())
def test_of_a_group_an_image_is_to_be_named(
    make: Callable[[Path, str], None], below: str, words: list[str], image: str, version: str, tmp_path: Path
) -> None:
    make(tmp_path / "a.zarr", version)
    message = fails(Path(f"{tmp_path}/a.zarr{below}"))
    assert all(word in message for word in words), message
    with open_image(tmp_path / "a.zarr" / image) as source:
        assert source.shape == (40, 50)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_the_only_series_is_opened_and_others_are_chosen(version: str, tmp_path: Path) -> None:
    converted(tmp_path / "a.zarr", version, 1)
    np.testing.assert_array_equal(read_all(tmp_path / "a.zarr")[0], noise((40, 50)))
    converted(tmp_path / "b.zarr", version, 3)
    np.testing.assert_array_equal(read_all(tmp_path / "b.zarr", series=2)[0], noise((42, 50)))


@pytest.mark.parametrize("attributes", [{"plate": {}}, {"well": {}}, {"plate": {"wells": [7, {"path": "\n"}]}}, {}])
def test_groups_without_an_image(attributes: dict[str, Any], tmp_path: Path) -> None:
    zarr.open_group(tmp_path / "a.zarr", mode="w", attributes={"ome": attributes})
    fails(tmp_path / "a.zarr", "name one" if attributes else "empty")
