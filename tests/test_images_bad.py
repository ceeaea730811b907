"""TIFF, PNG and JPEG files that are damaged, hostile or not images: one clear line, never a wrong pixel."""

import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from image_files import PIXELS, fails
from PIL import Image

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image


def write_tiff(path: Path, pixels: np.ndarray = PIXELS, **options: Any) -> Path:
    tifffile.imwrite(path, pixels, **{"metadata": None} | options)
    return path


def set_tag(path: Path, name: str, value: Any) -> Path:
    """Overwrite a tag of the first page."""
    with tifffile.TiffFile(path, mode="r+") as file:
        file.pages.first.tags[name].overwrite(value)
    return path


def test_not_an_image(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "folder").mkdir()
    fails(tmp_path / "nothing.tif", "does not exist")
    fails(tmp_path / "empty.tif", "empty file")
    fails(tmp_path / "text.png", "supported are TIFF, .*Zarr.*PNG and JPEG")
    fails(tmp_path / "folder", "without a Zarr array")
    with pytest.raises(ImageError, match="has no level 1"), open_image(write_tiff(tmp_path / "a.tif")) as source:
        source.read(Region(0, 0, 1, 1), level=1)
    with pytest.raises(ImageError, match="has no plane z=1"), open_image(tmp_path / "a.tif") as source:
        source.read(Region(0, 0, 1, 1), z=1)


STORED = {
    "raw": {},
    "strips": {"compression": "zlib", "rowsperstrip": 10},
    "tiles": {"tile": (32, 32), "compression": "lzw"},
    "raw tiles": {"tile": (32, 32)},
    "jpeg tiles": {"tile": (32, 32), "compression": "jpeg"},
    "big": {"bigtiff": True, "tile": (32, 32), "compression": "zstd"},
    "ome": {"ome": True, "metadata": {}},
}


@pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
def test_a_tiff_truncated_anywhere_is_refused(tmp_path: Path, stored: dict[str, Any]) -> None:
    whole = write_tiff(tmp_path / "whole.tif", **stored).read_bytes()
    for length in [1, 5, 9, 100, *np.linspace(200, len(whole) - 20, 16).astype(int), len(whole) - 1]:
        cut = tmp_path / "cut.tif"
        cut.write_bytes(whole[:length])
        # the last bytes may be of a tag that does not matter, or padding: then every pixel is right
        try:
            with open_image(cut) as source:
                pixels = source.read(Region.of_shape(source.shape))
        except ImageError as error:
            message = str(error)
        else:
            message = str(cut)
            with open_image(tmp_path / "whole.tif") as source:
                np.testing.assert_array_equal(pixels, source.read(Region.of_shape(source.shape)))
                assert length > len(whole) * 0.9
        assert "\n" not in message
        assert str(cut) in message


def test_truncated_pixel_data_is_named_when_opened(tmp_path: Path) -> None:
    whole = write_tiff(tmp_path / "a.tif", tile=(32, 32), compression="zlib").read_bytes()
    (tmp_path / "a.tif").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ImageError, match=r"is truncated: it has \d+ bytes but tiles up to byte \d+"):
        open_image(tmp_path / "a.tif")


@pytest.mark.parametrize("compression", ["zlib", "zstd", "lzw"])
def test_a_damaged_tile_is_named(tmp_path: Path, compression: str) -> None:
    path = write_tiff(tmp_path / "a.tif", tile=(32, 32), compression=compression)
    with tifffile.TiffFile(path) as file:
        start = file.pages.first.dataoffsets[6]
    data = bytearray(path.read_bytes())
    data[start : start + 60] = b"\xff" * 60
    path.write_bytes(data)
    message = fails(path, "tile 6: ")
    assert "pixels 0:96,0:130 of level 0" in message
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read(Region(0, 0, 32, 130))[0], PIXELS[:32])


def test_a_short_tile_is_not_padded(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", tile=(32, 32))
    with tifffile.TiffFile(path) as file:
        counts = file.pages.first.databytecounts
    fails(set_tag(path, "TileByteCounts", [counts[0] - 96, *counts[1:]]), "tile 0")


@pytest.mark.parametrize("stored", ["raw", "strips", "tiles"])
@pytest.mark.parametrize("side", [0, 2_000_000_000])
def test_absurd_sizes(tmp_path: Path, stored: str, side: int) -> None:
    path = write_tiff(tmp_path / "a.tif", **STORED[stored])
    fails(set_tag(set_tag(path, "ImageLength", side), "ImageWidth", side))


def test_more_rows_than_the_file_holds(tmp_path: Path) -> None:
    for stored in ("raw", "strips", "tiles"):
        fails(set_tag(write_tiff(tmp_path / f"{stored}.tif", **STORED[stored]), "ImageLength", 9600))


@pytest.mark.parametrize("target", ["itself", "nowhere"])
def test_a_directory_that_loops_or_leads_nowhere(tmp_path: Path, target: str) -> None:
    path = write_tiff(tmp_path / "a.tif", tile=(32, 32), compression="zlib")
    with tifffile.TiffFile(path) as file:
        offset = file.pages.first.offset
    data = bytearray(path.read_bytes())
    end = offset + 2 + 12 * int.from_bytes(data[offset : offset + 2], "little")
    data[end : end + 4] = (offset if target == "itself" else 10**9).to_bytes(4, "little")
    path.write_bytes(data)
    fails(path, "chain of pages")


STACKS = {
    "plain": {},
    "plain zlib": {"compression": "zlib"},
    "shaped": {"metadata": {}},
    "shaped zlib": {"metadata": {}, "compression": "zlib"},
    "imagej": {"imagej": True},
    "ome": {"ome": True},
    "ome zlib": {"ome": True, "compression": "zlib"},
}


@pytest.mark.parametrize("kind", STACKS.values(), ids=STACKS)
def test_a_truncated_stack_never_loses_pages_silently(tmp_path: Path, kind: dict[str, Any]) -> None:
    path = write_tiff(tmp_path / "a.tif", np.stack([PIXELS] * 4), photometric="minisblack", **kind)
    whole = path.read_bytes()
    for length in np.linspace(100, len(whole) - 50, 23).astype(int):
        path.write_bytes(whole[:length])
        fails(path)


def test_a_giant_compressed_strip_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.images.tiff_planes.MAX_SEGMENT", 96 * 130 - 1)
    fails(write_tiff(tmp_path / "a.tif", compression="zlib", rowsperstrip=96), "convert it to a tiled TIFF")
    with open_image(write_tiff(tmp_path / "raw.tif")) as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], PIXELS)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_pixel_types_that_are_not_supported(tmp_path: Path, dtype: str) -> None:
    fails(write_tiff(tmp_path / "a.tif", PIXELS.astype(dtype)), "integers of 8 to 64 bits .* are supported")
    zarr.create_array(tmp_path / "a.zarr", data=PIXELS.astype(dtype))
    fails(tmp_path / "a.zarr", "integers of 8 to 64 bits .* are supported")


def test_colours_that_are_not_supported(tmp_path: Path) -> None:
    colours = np.zeros((3, 256), np.uint16)
    fails(write_tiff(tmp_path / "palette.tif", photometric="palette", colormap=colours), "colour map")
    inks = np.zeros((20, 30, 4), np.uint8)
    fails(write_tiff(tmp_path / "cmyk.tif", inks, photometric="separated"), "SEPARATED")
    fails(write_tiff(tmp_path / "many.tif", np.zeros((20, 30, 65), np.uint8), planarconfig="contig"), "65 channels")
    Image.fromarray(inks, "CMYK").save(tmp_path / "cmyk.jpg")
    fails(tmp_path / "cmyk.jpg", "mode CMYK")


def test_entity_bombs_and_foreign_files(tmp_path: Path) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE o [<!ENTITY a "aaaa">]><OME>&a;</OME>'
    fails(write_tiff(tmp_path / "bomb.ome.tif", description=bomb), "document type")
    write_tiff(tmp_path / "secret.tif", PIXELS + 1)
    (tmp_path / "in").mkdir()
    xml = (
        '<?xml version="1.0"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0">'
        '<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="130" SizeY="96" SizeZ="1" SizeC="1"'
        ' SizeT="1"><TiffData IFD="0"><UUID FileName="../secret.tif">urn:uuid:1</UUID></TiffData></Pixels>'
        "</Image></OME>"
    )
    with open_image(write_tiff(tmp_path / "in" / "a.ome.tif", description=xml)) as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], PIXELS)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_photographs(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for length in [10, 40, *np.linspace(200, len(whole) - 100, 8).astype(int)]:
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:length])
        fails(tmp_path / f"cut.{suffix}")


def test_png_bombs_and_deep_colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    with open_image(tmp_path / "a.png") as source, pytest.raises(ImageError, match="leave out --axes"):
        open_image(source.path, axes="yx")
    deep = bytearray((tmp_path / "a.png").read_bytes())
    deep[24:26] = (16, 2)  # 16 bits, RGB
    deep[29:33] = _crc(deep[12:29])
    (tmp_path / "deep.png").write_bytes(deep)
    fails(tmp_path / "deep.png", "16 bits a channel")
    for pixels in (96 * 130 - 1, 96 * 130 // 2 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        fails(tmp_path / "a.png", "million pixels that are decoded at once: convert it")


def _crc(chunk: bytes) -> bytes:
    return zlib.crc32(chunk).to_bytes(4, "big")
