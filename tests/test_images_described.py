"""What files say of themselves: levels, axes, pixel sizes, palettes."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from image_files import (
    GREY,
    RGB,
    STACK,
    make_pixels,
    multiscales,
    ome_zarr,
    tiff,
    zarr_array,
)
from PIL import Image

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import Level, open_image
from tilesegment.metadata import PixelSize


@pytest.mark.parametrize("subifds", [True, False], ids=["subifds", "pages"])
def test_levels_of_a_pyramidal_tiff(tmp_path: Path, subifds: bool) -> None:
    path, options = tmp_path / "pyramid.tif", {"photometric": "rgb", "tile": (32, 32), "compression": "zlib"}
    levels = [RGB.transpose(1, 2, 0)[:: 2**n, :: 2**n] for n in range(3)]
    with tifffile.TiffWriter(path) as writer:
        writer.write(levels[0], subifds=2 if subifds else 0, metadata=None, **options)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **options)
    with open_image(path) as source:
        assert source.levels == tuple(Level(p.shape[:2], (2.0**n, 2.0**n)) for n, p in enumerate(levels))
        for n, level in enumerate(levels):
            region = Region(3, 5, 30, 41)
            np.testing.assert_array_equal(source.read(region, n), level[region.slices].transpose(2, 0, 1))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_levels_of_ome_zarr(tmp_path: Path, version: str) -> None:
    path = ome_zarr(version, "zyx", 0.5)(tmp_path, STACK)
    with open_image(path) as source:
        assert [level.scale for level in source.levels] == [(1.0, 1.0), (2.0, 2.0), (4.0, 4.0)]
        for n, level in enumerate(source.levels):
            expected = STACK[3][:, :: 2**n, :: 2**n]
            assert level.shape == expected.shape[1:]
            np.testing.assert_array_equal(source.read(Region.of_shape(level.shape), n, 3), expected)


def test_levels_reduced_along_z_are_left_out(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "image.zarr", mode="w")
    group.attrs["ome"] = {"version": "0.5", "multiscales": [multiscales("zyx", 2, 1.0)]}
    group.create_array("0", data=STACK[:, 0])
    group.create_array("1", data=STACK[::2, 0, ::2, ::2])
    with open_image(tmp_path / "image.zarr") as source:
        assert (len(source.levels), source.depth) == (1, 5)
        assert "level 1" in source.notes[0]


@pytest.mark.parametrize("below", ["", "/", "/0", "/0/", "/labels/cells"])
def test_parts_of_a_zarr_store(tmp_path: Path, below: str) -> None:
    path = ome_zarr("0.5", "zyx", 0.3)(tmp_path, STACK)
    label = zarr.open_group(path / "labels" / "cells", mode="w")
    label.attrs["ome"] = {"version": "0.5", "multiscales": [multiscales("zyx", 1, 1.0)]}
    label.create_array("0", data=STACK[:, 0])
    with open_image(f"{path}{below}") as source:
        assert source.format == ("Zarr" if "/0" in below else "OME-Zarr 0.5")
        np.testing.assert_array_equal(source.read(Region(1, 2, 30, 40), z=2), STACK[2, :, 1:30, 2:40])


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


@pytest.mark.parametrize(
    ("dots", "unit", "expected"),
    [
        (300, "INCH", None),
        (72, "INCH", None),
        (50800, "INCH", 0.5),
        (1000, "CENTIMETER", 10.0),
        (999, "CENTIMETER", None),
        (50800, "NONE", None),
    ],
)
def test_resolution_tags_are_believed_if_plausible(
    tmp_path: Path, dots: float, unit: str, expected: float | None
) -> None:
    with open_image(tiff("yx", resolution=(dots, dots), resolutionunit=unit)(tmp_path, GREY)) as source:
        assert source.pixel_size == (None if expected is None else PixelSize(expected, expected))


def test_unknown_units_give_no_pixel_size(tmp_path: Path) -> None:
    described = {"axes": "YX", "PhysicalSizeX": 2.0, "PhysicalSizeXUnit": "pixel", "PhysicalSizeY": 2.0}
    with open_image(tiff("yx", ome=True, metadata=described)(tmp_path, GREY)) as source:
        assert source.pixel_size is None


def test_palettes_are_applied_and_photographs_decoded(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    indices = GREY[0]
    for name, palette, expected in (
        ("colour", colours, colours[indices].transpose(2, 0, 1)),
        ("grey", np.repeat(colours[:, :1], 3, 1), colours[indices, :1].transpose(2, 0, 1)),
    ):
        image = Image.fromarray(indices).convert("P")
        image.putdata(indices.ravel())
        image.putpalette(palette.tobytes())
        image.save(tmp_path / f"{name}.png")
        with open_image(tmp_path / f"{name}.png") as source:
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape)), expected)
    Image.fromarray(indices > 100).save(tmp_path / "1bit.png")
    with open_image(tmp_path / "1bit.png") as source:
        np.testing.assert_array_equal(source.read(Region(0, 0, 90, 90))[0], (indices[:90, :90] > 100) * np.uint8(255))
    Image.fromarray(np.full((40, 50, 3), (200, 30, 90), np.uint8)).save(tmp_path / "photo.jpg", quality=95)
    with open_image(tmp_path / "photo.jpg") as source:
        assert (source.format, source.shape, source.channels) == ("JPEG", (40, 50), 3)
        assert np.abs(source.read(Region(1, 1, 9, 9)).astype(int) - [[[200]], [[30]], [[90]]]).max() < 4
