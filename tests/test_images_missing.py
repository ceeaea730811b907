"""Pixels that are not where the metadata say: found where they are, refused, or said; never black without a word."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from image_files import PIXELS, STACK, fails, make_pixels, ome_zarr
from zarr.codecs import BytesCodec, ShardingCodec, ZstdCodec

from tilesegment.geometry import Region
from tilesegment.images import open_image

SHARDED = {"serializer": ShardingCodec(chunk_shape=(16, 16), codecs=[BytesCodec(), ZstdCodec()]), "compressors": None}
NAMES = [("v2", "."), ("v2", "/"), ("default", "."), ("default", "/")]


def write(path: Path, zarr_format: int, kind: str, separator: str, pixels: np.ndarray = PIXELS, **more: Any) -> Path:
    """A Zarr array whose chunks are named so."""
    encoding = {"name": kind, "separator": separator}
    options: Any = {"chunks": (48,) * pixels.ndim, "chunk_key_encoding": encoding, "zarr_format": zarr_format} | more
    zarr.create_array(path, data=pixels, **options)
    return path


def edit(path: Path, **changes: Any) -> None:
    """Change entries of an array's metadata; None removes one."""
    file = path / "zarr.json" if (path / "zarr.json").exists() else path / ".zarray"
    meta = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in meta.items() if value is not None}))


def read(path: Path) -> tuple[np.ndarray, str]:
    """All pixels (H, W), and the notes."""
    with open_image(path) as source:
        return source.read(Region.of_shape(source.shape))[0], "\n".join(source.notes)


@pytest.mark.parametrize(("stored", "said"), [("/", None), ("/", "."), (".", "/"), ("/", "/"), (".", None)])
def test_separators_of_zarr_v2(tmp_path: Path, stored: str, said: str | None) -> None:
    path = write(tmp_path / "a.zarr", 2, "v2", stored)
    edit(path, dimension_separator=said)
    pixels, notes = read(path)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert ("named as" in notes) == (stored != (said or "."))


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("stored", NAMES)
@pytest.mark.parametrize("said", NAMES)
def test_names_of_chunks_of_zarr_v3(
    tmp_path: Path, stored: tuple[str, str], said: tuple[str, str], sharded: bool
) -> None:
    path = write(tmp_path / "a.zarr", 3, *stored, **(SHARDED if sharded else {}))
    edit(path, chunk_key_encoding={"name": said[0], "configuration": {"separator": said[1]}})
    pixels, notes = read(path)
    np.testing.assert_array_equal(pixels, PIXELS)
    assert ("named as" in notes) == (stored != said)


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_names_of_chunks_within_ome_zarr(tmp_path: Path, version: str) -> None:
    path = ome_zarr(version, "zyx", 0.5)(tmp_path, STACK)
    for level in "012":
        if version == "0.4":
            edit(path / level, dimension_separator="/")  # written with "."
        else:
            edit(path / level, chunk_key_encoding={"name": "default", "configuration": {"separator": "."}})
    with open_image(path) as source:
        for number, level in enumerate(source.levels):
            np.testing.assert_array_equal(
                source.read(Region.of_shape(level.shape), number, 3), STACK[3][:, :: 2**number, :: 2**number]
            )
        assert sum("named as" in note for note in source.notes) == 3


def test_chunks_of_another_array(tmp_path: Path) -> None:
    """Names that no way to name chunks explains."""
    path = write(tmp_path / "rank.zarr", 2, "v2", ".", make_pixels(3, 96, 130))
    edit(path, shape=[96, 130], chunks=[48, 48])
    fails(path, "not one of its chunks is stored under its name, such as 0.0, but")
    path = write(tmp_path / "names.zarr", 3, "default", "/")
    os.rename(path / "c", path / "chunks")
    fails(path, "not one of its chunks is stored under its name, such as c/0/0, but chunks/")
    path = write(tmp_path / "beyond.zarr", 2, "v2", "/")
    for row in ("0", "1"):
        os.rename(path / row, path / str(int(row) + 7))
    fails(path, "not one of its chunks")


def test_an_array_without_chunks_is_said(tmp_path: Path) -> None:
    for number, kind in ((2, "v2"), (3, "default")):
        path = write(tmp_path / f"{number}.zarr", number, kind, "/", np.zeros_like(PIXELS), fill_value=7)
        shutil.rmtree(path / ("0" if number == 2 else "c"))
        if number == 2:
            shutil.rmtree(path / "1")
        pixels, notes = read(path)
        assert (pixels == 7).all()
        assert "stores no chunk" in notes and "7" in notes


def test_one_chunk_that_is_missing_is_fill_value_as_zarr_has_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.zarr", 2, "v2", ".")
    (path / "0.0").unlink()
    pixels, notes = read(path)
    assert not pixels[:48, :48].any() and not notes
    np.testing.assert_array_equal(pixels[48:], PIXELS[48:])


def empty(path: Path, tags: tuple[str, str], which: slice = slice(None), page: int = 0, offsets: bool = True) -> Path:
    """Take strips or tiles out of a TIFF's directory, as where a program was killed before it wrote them."""
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in tags if offsets else tags[1:]:
            tag = file.pages[page].tags[name]  # type: ignore[union-attr]
            values = list(tag.value)
            values[which] = [0] * len(values[which])
            tag.overwrite(values)
    return path


STRIPS, TILES = ("StripOffsets", "StripByteCounts"), ("TileOffsets", "TileByteCounts")


@pytest.mark.parametrize("offsets", [True, False])
@pytest.mark.parametrize(
    ("options", "tags"),
    [
        ({}, STRIPS),
        ({"rowsperstrip": 20}, STRIPS),
        ({"rowsperstrip": 20, "compression": "zlib"}, STRIPS),
        ({"tile": (32, 32)}, TILES),
        ({"tile": (32, 32), "compression": "lzw"}, TILES),
    ],
)
def test_a_tiff_that_was_not_written_to_its_end(
    tmp_path: Path, options: dict[str, Any], tags: tuple[str, str], offsets: bool
) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, metadata=None, **options)
    fails(empty(tmp_path / "a.tif", tags, offsets=offsets), "none of the .* not written to its end")


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_stack_that_was_not_written_to_its_end(tmp_path: Path, compression: str | None) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for plane in STACK[:, 0]:
            writer.write(plane, metadata=None, compression=compression, rowsperstrip=20, contiguous=False)
    for page in (3, 4):
        empty(tmp_path / "a.tif", STRIPS, page=page)
    fails(tmp_path / "a.tif", "2 of 5 planes")


@pytest.mark.parametrize(
    ("dtype", "text", "value"),
    [
        ("uint8", "200", 200),
        ("uint8", "-9999", 0),
        ("uint16", "65535", 65535),
        ("int16", "-9999", -9999),
        ("float32", "-9999.5", -9999.5),
        ("float32", "-1.7976931348623157e+308", np.finfo(np.float32).min),
        ("uint8", "nan", 0),
        ("uint8", "none", 0),
        ("uint8", None, 0),
    ],
)
def test_tiles_that_are_not_stored_hold_no_data(tmp_path: Path, dtype: str, text: str | None, value: float) -> None:
    extra = [] if text is None else [(42113, "s", 0, text, True)]
    pixels = PIXELS.astype(dtype)
    tifffile.imwrite(tmp_path / "a.tif", pixels, metadata=None, tile=(32, 32), compression="zlib", extratags=extra)
    empty(tmp_path / "a.tif", TILES, slice(0, 2))
    expected = pixels.copy()
    expected[:32, :64] = value
    found, notes = read(tmp_path / "a.tif")
    np.testing.assert_array_equal(found, expected)
    assert "2 of 15 tiles" in notes


def test_a_level_that_is_not_stored_is_left_out(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for number in range(3):
            writer.write(PIXELS[:: 2**number, :: 2**number], tile=(16, 16), metadata=None, subfiletype=int(number > 0))
    with open_image(tmp_path / "a.tif") as source:
        assert len(source.levels) == 3
    empty(tmp_path / "a.tif", TILES, page=1)
    with open_image(tmp_path / "a.tif") as source:
        assert len(source.levels) == 1
        assert "level 1" in source.notes[0]
