"""Images that are stored turned, mirrored or counted from white: read as they are meant, which is said."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from image_files import PIXELS, fails, make_pixels
from PIL import Image, ImageOps

from tilesegment.geometry import Region
from tilesegment.images import open_image, read_mirrored

WSI = Path(__file__).parents[2] / "shared" / "data" / "wsi"
RGB = make_pixels(3, 75, 48).transpose(1, 2, 0)


def tag(orientation: int) -> dict[str, Any]:
    return {"extratags": [(274, "H", 1, orientation, True)], "metadata": None}


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Pixels (H, W) or (H, W, 3) turned by Pillow."""
    image = Image.fromarray(pixels)
    image.getexif()[274] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


def check_turned(path: Path, expected: np.ndarray, level: int = 0, z: int = 0) -> None:
    """Whether the whole, parts, and what is mirrored beyond it are those of `expected`, (H, W) or (H, W, C)."""
    expected = expected[None] if expected.ndim == 2 else expected.transpose(2, 0, 1)
    height, width = expected.shape[1:]
    with open_image(path) as source:
        assert source.levels[level].shape == (height, width)
        for region in (Region(0, 0, height, width), Region(3, 5, 20, 17), Region(height - 4, 0, height, 2)):
            pixels = source.read(region, level, z)
            assert min(pixels.strides) >= 0  # torch takes no others
            np.testing.assert_array_equal(pixels, expected[:, *region.slices])
        padded = np.pad(expected, ((0, 0), (9, 9), (9, 9)), mode="reflect")
        np.testing.assert_array_equal(read_mirrored(source, Region(-9, -9, height + 9, width + 9), level, z), padded)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_as_pillow_turns_it(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    if suffix == "tif":
        tifffile.imwrite(path, RGB, photometric="rgb", tile=(16, 32), compression="zlib", **tag(orientation))
    else:
        exif = Image.Exif()
        exif[274] = orientation
        Image.fromarray(RGB).save(path, exif=exif)
    check_turned(path, upright(RGB, orientation))
    with open_image(path) as source:
        assert any(f"orientation tag {orientation}" in note for note in source.notes) == (orientation != 1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_turned(tmp_path: Path, orientation: int) -> None:
    smooth = np.add.outer(np.arange(48), 2 * np.arange(64)).astype(np.uint8)
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(smooth).save(tmp_path / "a.jpg", exif=exif, quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        check_turned(tmp_path / "a.jpg", np.asarray(ImageOps.exif_transpose(image)))


def test_exif_behind_the_pixels_of_a_png(tmp_path: Path) -> None:
    """Where ImageMagick and others write it."""
    exif = Image.Exif()
    exif[274] = 6
    picture = io.BytesIO()
    Image.fromarray(RGB).save(picture, "PNG")
    data, body = picture.getvalue(), b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    (tmp_path / "a.png").write_bytes(data[:-12] + chunk + data[-12:])
    check_turned(tmp_path / "a.png", upright(RGB, 6))


@pytest.mark.parametrize("orientation", [3, 5, 6, 8])
def test_planes_levels_and_pixel_sizes_are_turned(tmp_path: Path, orientation: int) -> None:
    stack = make_pixels(3, 64, 96)
    options = {"resolution": (20000, 10000), "resolutionunit": "CENTIMETER"} | tag(orientation)
    tifffile.imwrite(tmp_path / "stack.tif", stack, photometric="minisblack", **options)
    for z in range(3):
        check_turned(tmp_path / "stack.tif", upright(stack[z], orientation), z=z)
    with open_image(tmp_path / "stack.tif") as source:
        size = source.pixel_size
        assert size is not None
        assert (size.y, size.x) == pytest.approx((0.5, 1.0) if orientation > 4 else (1.0, 0.5))
    with tifffile.TiffWriter(tmp_path / "pyramid.tif") as writer:
        writer.write(stack[0], tile=(32, 32), subifds=1, **tag(orientation))
        writer.write(stack[0, ::2, ::2], tile=(32, 32), subfiletype=1, metadata=None)
    check_turned(tmp_path / "pyramid.tif", upright(stack[0], orientation))
    check_turned(tmp_path / "pyramid.tif", upright(stack[0, ::2, ::2], orientation), level=1)
    with open_image(tmp_path / "pyramid.tif") as source:
        assert source.levels[1].scale == (2, 2)


def test_orientations_that_mean_nothing_or_differ(tmp_path: Path) -> None:
    for orientation in (0, 9, 77):
        tifffile.imwrite(tmp_path / "a.tif", PIXELS, **tag(orientation))
        check_turned(tmp_path / "a.tif", PIXELS)
    with tifffile.TiffWriter(tmp_path / "b.tif") as writer:
        writer.write(PIXELS, **tag(1))
        writer.write(PIXELS, **tag(6))
    fails(tmp_path / "b.tif", "orientation")


def test_real_files_of_every_orientation() -> None:
    if not (WSI / "o0.tif").is_file():
        pytest.skip(f"no slides in {WSI}")
    for number in range(9):
        with open_image(WSI / f"o{number}.tif") as source, Image.open(WSI / f"o{number}.tif") as image:
            expected = np.asarray(ImageOps.exif_transpose(image))
            assert source.shape == expected.shape
            pixels = source.read(Region.of_shape(source.shape))[0]
            assert np.abs(pixels.astype(int) - expected).max() <= 2  # two JPEG decoders


@pytest.mark.parametrize("dtype", ["bool", "uint8", "uint16", "int16", "uint32"])
def test_counted_from_white(tmp_path: Path, dtype: str) -> None:
    pixels, path = PIXELS > 100 if dtype == "bool" else PIXELS.astype(dtype), tmp_path / "a.tif"
    tifffile.imwrite(path, pixels, photometric="miniswhite")
    stored = pixels * np.uint8(255) if dtype == "bool" else pixels
    largest = -1 if dtype[0] == "i" else np.iinfo(stored.dtype).max
    with open_image(path) as source, open_image(path, invert=True) as inverted:
        whole = Region.of_shape(source.shape)
        np.testing.assert_array_equal(source.read_stored(whole)[0], stored)
        np.testing.assert_array_equal(inverted.read_stored(whole)[0], largest - stored.astype(np.int64))
        assert any("--invert" in note for note in source.notes)
        assert any("are inverted" in note for note in inverted.notes)


def test_twelve_bits_counted_from_white(tmp_path: Path) -> None:
    pixels = PIXELS.astype(np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pixels, photometric="miniswhite")
    with tifffile.TiffFile(tmp_path / "a.tif", mode="r+") as file:
        page = file.pages.first
        packed = np.packbits(np.unpackbits(pixels.byteswap().view(np.uint8), axis=1).reshape(96, 130, 16)[..., 4:])
        offset = page.dataoffsets[0]
        page.tags["BitsPerSample"].overwrite(12)
        page.tags["StripByteCounts"].overwrite(packed.size)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[offset : offset + packed.size] = packed.tobytes()
    (tmp_path / "a.tif").write_bytes(data)
    with open_image(tmp_path / "a.tif", invert=True) as source:
        np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], 4095 - pixels)


def test_floats_counted_from_white_and_files_that_are_not(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "f.tif", PIXELS.astype(np.float32), photometric="miniswhite")
    fails(tmp_path / "f.tif", "no largest", invert=True)
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="minisblack")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        with open_image(tmp_path / name, invert=True) as source:
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], PIXELS)
            assert any("--invert changes nothing" in note for note in source.notes)
