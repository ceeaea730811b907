"""Image sources: which pixels are decoded, axes and selection, mirrored reads; `test_readers.py` has the contract."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from hypothesis import given
from hypothesis import strategies as st
from image_files import (
    GREY,
    RGB,
    STACK,
    fails,
    make_pixels,
    png,
    tiff,
    zarr_array,
)

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, Level, open_image, read_mirrored
from tilesegment.metadata import PixelSize

WSI = Path(__file__).parents[2] / "shared" / "data" / "wsi"


def test_lossy_jpeg_tiles_are_decoded_to_rgb(tmp_path: Path) -> None:
    smooth = np.add.outer(np.arange(90), np.arange(120))[None].repeat(3, 0).astype(np.uint8) // [[[1]], [[2]], [[3]]]
    options = {"compression": "jpeg", "compressionargs": {"level": 95}, "photometric": "rgb", "tile": (32, 32)}
    path = tiff(**options)(tmp_path, smooth.astype(np.uint8))
    with open_image(path) as source:
        pixels = source.read(Region.of_shape(source.shape))
    np.testing.assert_array_equal(pixels, tifffile.imread(path).transpose(2, 0, 1))
    assert np.abs(pixels - smooth.astype(int)).mean() < 3


def test_what_is_no_image_or_no_part_of_one(tmp_path: Path) -> None:
    (tmp_path / "empty.tif").touch()
    (tmp_path / "text.png").write_text("%!PS-Adobe-3.0 EPSF-3.0\n")
    (tmp_path / "folder").mkdir()
    fails(tmp_path / "nothing.tif", "does not exist")
    fails(tmp_path / "empty.tif", "empty file")
    fails(tmp_path / "text.png", "supported are TIFF, .*Zarr.*PNG, JPEG")
    fails(tmp_path / "folder", "without a Zarr array")
    with open_image(png(tmp_path, GREY)) as source:
        for what in ({"level": 1}, {"z": 1}, {"level": -1}):
            with pytest.raises(ImageError, match="from 0 to 0"):
                source.read(Region(0, 0, 1, 1), **what)


def test_the_content_decides_and_not_the_name(tmp_path: Path) -> None:
    path = png(tmp_path, GREY).rename(tmp_path / "image.tif")
    with open_image(path) as source:
        assert source.format == "PNG"


def test_only_the_strips_and_tiles_of_a_region_are_decoded(tmp_path: Path) -> None:
    with open_image(tiff(tile=(32, 32), compression="zlib")(tmp_path, RGB)) as source:
        source.read(Region(40, 70, 64, 97))  # one row of tiles, columns 2 and 3
        assert source.decoded_bytes == 2 * 32 * 32 * 3
    with open_image(tiff(compression="zlib", rowsperstrip=10)(tmp_path, RGB)) as source:
        for x in range(0, 211, 50):  # a row of blocks
            source.read(Region(12, x, 55, min(x + 50, 211)))
        assert source.decoded_bytes == 5 * 10 * 211 * 3


def test_a_huge_sparse_image_costs_what_is_read(tmp_path: Path) -> None:
    """400 gigapixels, no more stored than one chunk."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=(400_000, 1_000_000), chunks=(512, 512), dtype="uint8")
    array[512:1024, 512:1024] = 7
    with open_image(tmp_path / "a.zarr") as source:
        assert source.read(Region(500, 500, 600, 700)).sum() == 7 * 88 * 188
        assert not read_mirrored(source, Region(399_900, 999_900, 400_100, 1_000_100)).any()


def open_array(pixels: np.ndarray) -> ImageSource:
    """A source that holds `pixels` (C, H, W) in memory, through the array format that needs no file of its own."""

    class ArraySource(ImageSource):
        def _read(self, region: Region, level: int, z: int) -> np.ndarray:
            return pixels[:, *region.slices]

        def close(self) -> None:
            return None

    return ArraySource("a", "array", (Level(pixels.shape[1:], (1, 1)),), None, len(pixels), pixels.dtype)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 30), st.integers(0, 30), st.data())
def test_read_mirrored_is_numpys_reflect(height: int, width: int, above: int, left: int, data: st.DataObject) -> None:
    pixels = make_pixels(2, height, width)
    padded = np.pad(pixels, ((0, 0), (above, 30), (left, 30)), mode="reflect")
    y0, x0 = data.draw(st.integers(-above, height + 29)), data.draw(st.integers(-left, width + 29))
    y1, x1 = data.draw(st.integers(y0 + 1, height + 30)), data.draw(st.integers(x0 + 1, width + 30))
    expected = padded[:, y0 + above : y1 + above, x0 + left : x1 + left]
    np.testing.assert_array_equal(read_mirrored(open_array(pixels), Region(y0, x0, y1, x1)), expected)


def test_read_mirrored_inside_the_image_copies_nothing() -> None:
    pixels = make_pixels(1, 50, 60)
    assert np.shares_memory(read_mirrored(open_array(pixels), Region(3, 4, 20, 60)), pixels)


@pytest.mark.parametrize("kind", ["zarr", "tiff"])
def test_axes_and_select(tmp_path: Path, kind: str) -> None:
    movie = make_pixels(12, 5, 20, 30)
    if kind == "zarr":
        path = zarr_array("zcyx", (1, 1, 20, 30), dimension_names=["t", "c", "y", "x"])(tmp_path, movie)
    else:
        path = tiff("zcyx", ome=True, metadata={"axes": "TCYX"})(tmp_path, movie)
    with pytest.raises(ImageError, match=r"has 12 time points \(axis t\): choose one with --select t=0\.\.11"):
        open_image(path)
    with open_image(path, select={"t": 3}) as source:
        assert (source.depth, source.channels) == (None, 5)
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9)), movie[3, :, 2:20, 3:9])
    with open_image(path, select={"t": 3, "c": 4}) as source:
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9)), movie[3, 4:, 2:20, 3:9])
    with open_image(path, axes="zcyx") as source:
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9), z=7), movie[7, :, 2:20, 3:9])
    with open_image(path, axes="czyx", select={"z": 1}) as source:
        np.testing.assert_array_equal(source.read(Region(2, 3, 20, 9)), movie[:, 1, 2:20, 3:9])
    for wrong in ({"t": 12}, {"t": -1}, {"z": 0}, {"y": 0}):
        with pytest.raises(ImageError, match="has no"):
            open_image(path, select=wrong)
    for letters in ("cyx", "tcyy", "tcab"):
        with pytest.raises(ImageError, match="do not fit an array of 12 x 5 x 20 x 30"):
            open_image(path, axes=letters)


def test_one_sample_of_a_colour_tiff(tmp_path: Path) -> None:
    with open_image(tiff(tile=(32, 32))(tmp_path, RGB), select={"s": 1}) as source:
        assert source.channels == 1
        np.testing.assert_array_equal(source.read(Region(9, 9, 80, 90)), RGB[1:2, 9:80, 9:90])


def test_pages_of_a_tiff_as_channels(tmp_path: Path) -> None:
    with open_image(tiff("zyx", compression="zlib")(tmp_path, STACK), axes="cyx") as source:
        assert (source.depth, source.channels) == (None, 5)
        np.testing.assert_array_equal(source.read(Region(9, 9, 50, 60)), STACK[:, 0, 9:50, 9:60])


def test_real_slides() -> None:
    if not WSI.is_dir():
        pytest.skip(f"no slides in {WSI}")
    with open_image(WSI / "small.svs") as source:
        assert (source.format, source.shape, source.channels) == ("SVS", (16, 16), 3)
        assert source.pixel_size == PixelSize(0.499, 0.499)
        assert source.read(Region(0, 0, 16, 16)).shape == (3, 16, 16)
    with open_image(WSI / "boxes.tiff") as source, open_image(WSI / "boxes.png") as flat:
        assert [level.scale for level in source.levels] == [(2.0**n, 2.0**n) for n in range(4)]
        region = Region.of_shape(flat.shape)
        np.testing.assert_array_equal(source.read(region), flat.read(region))
    with pytest.raises(ImageError, match="compression 52479"):
        open_image(WSI / "unopenable.tiff")
    with open_image(WSI / "unreadable.svs") as source, pytest.raises(ImageError, match="tile 0"):
        source.read(Region(0, 0, 16, 16))
