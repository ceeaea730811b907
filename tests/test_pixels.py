"""From stored pixels to pixels of an image, in any format: types, orientation, counted from white; PNG and JPEG."""

import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from image_files import GREY, PIXELS, fails, make_pixels, read_all, write_tiff
from PIL import Image, ImageOps

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image, read_mirrored

WSI = Path(__file__).parents[2] / "shared" / "data" / "wsi"
RGB = make_pixels(3, 75, 48).transpose(1, 2, 0)

TYPES = ("int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "float64")


LARGEST = {"int8": 127, "int16": 32767, "float16": 2048}


def pixels_of(dtype: str) -> np.ndarray:
    """Pixels (H, W) at both ends of what `dtype` holds and of what float32 holds exactly."""
    pixels = PIXELS.astype(np.int64) - (0 if dtype[0] == "u" else 128)
    pixels[::2] *= min(LARGEST.get(dtype, 1 << 24), 1 << 24) // 256
    return pixels.clip(0 if dtype[0] == "u" else -128 if dtype == "int8" else None, LARGEST.get(dtype)).astype(dtype)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["tif", "big endian tif", "tiles", "zarr", "zarr v2"])
def test_other_types_are_read_as_float32_and_stored_ones_exactly(tmp_path: Path, dtype: str, kind: str) -> None:
    pixels, path = pixels_of(dtype), tmp_path / "image"
    if kind.startswith("zarr"):
        zarr.create_array(path, data=pixels, chunks=(40, 50), zarr_format=2 if kind == "zarr v2" else 3)
    else:
        options = {"tile": (32, 48), "compression": "zlib"} if kind == "tiles" else {}
        tifffile.imwrite(path, pixels, byteorder=">" if kind.startswith("big") else "<", **options)
    with open_image(path) as source:
        assert (source.dtype, source.stored_dtype) == (np.float32, np.dtype(dtype))
        region = Region(3, 5, 90, 121)
        read, stored = source.read(region), source.read_stored(region)
        assert (read.dtype, stored.dtype) == (np.float32, np.dtype(dtype))
        np.testing.assert_array_equal(stored[0], pixels[region.slices])
        np.testing.assert_array_equal(read[0], pixels[region.slices].astype(np.float32))


def test_values_that_float32_cannot_hold(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS * 1e300)
    with open_image(tmp_path / "a.tif") as source:
        assert source.read_stored(Region(0, 0, 9, 9)).max() > 1e300
        with pytest.raises(ImageError, match="largest of float32"):
            source.read(Region(0, 0, 9, 9))


def test_single_bits_are_black_and_white_in_every_format(tmp_path: Path) -> None:
    bits = PIXELS > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    Image.fromarray(bits).save(tmp_path / "pillow.tif")
    tifffile.imwrite(tmp_path / "bits.tif", bits, photometric="minisblack")
    zarr.create_array(tmp_path / "bits.zarr", data=bits, chunks=(40, 50))
    for name in ("bits.png", "pillow.tif", "bits.tif", "bits.zarr"):
        np.testing.assert_array_equal(read_all(tmp_path / name)[0], bits * np.uint8(255), name)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_pixel_types_that_are_not_supported(tmp_path: Path, dtype: str) -> None:
    zarr.create_array(tmp_path / "a.zarr", data=PIXELS.astype(dtype))
    for path in (write_tiff(tmp_path / "a.tif", PIXELS.astype(dtype)), tmp_path / "a.zarr"):
        fails(path, f"{dtype}.*integers of 8 to 64 bits")


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


@pytest.mark.parametrize("orientation", [0, *range(1, 9), 77])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_images_are_turned_as_pillow_turns_them(tmp_path: Path, orientation: int, suffix: str) -> None:
    """Numbers that mean nothing turn nothing."""
    path, exif = tmp_path / f"a.{suffix}", Image.Exif()
    exif[274] = orientation
    if suffix == "tif":
        tifffile.imwrite(path, RGB, photometric="rgb", tile=(16, 32), compression="zlib", **tag(orientation))
    else:
        Image.fromarray(RGB).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image)) if suffix == "jpg" else upright(RGB, orientation)
    check_turned(path, expected)
    with open_image(path) as source:
        assert any(f"orientation tag {orientation}" in note for note in source.notes) == (orientation in range(2, 9))


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


def test_pages_that_are_turned_differently_are_no_stack(tmp_path: Path) -> None:
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


def test_floats_counted_from_white_and_files_that_are_not(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "f.tif", PIXELS.astype(np.float32), photometric="miniswhite")
    fails(tmp_path / "f.tif", "no largest", invert=True)
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="minisblack")
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        with open_image(tmp_path / name, invert=True) as source:
            np.testing.assert_array_equal(source.read(Region.of_shape(source.shape))[0], PIXELS)
            assert any("--invert changes nothing" in note for note in source.notes)


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_truncated_photographs(tmp_path: Path, suffix: str) -> None:
    Image.fromarray(PIXELS).save(tmp_path / f"whole.{suffix}")
    whole = (tmp_path / f"whole.{suffix}").read_bytes()
    for length in [10, 40, *np.linspace(200, len(whole) - 100, 8).astype(int)]:
        (tmp_path / f"cut.{suffix}").write_bytes(whole[:length])
        fails(tmp_path / f"cut.{suffix}")


def test_png_bombs_deep_colours_and_cmyk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(PIXELS).save(tmp_path / "a.png")
    fails(tmp_path / "a.png", "leave out --axes", axes="yx")
    fails(tmp_path / "a.png", "no series 1: choose one from 0 to 0", series=1)
    deep = bytearray((tmp_path / "a.png").read_bytes())
    deep[24:26] = (16, 2)  # 16 bits, RGB
    deep[29:33] = zlib.crc32(deep[12:29]).to_bytes(4, "big")
    (tmp_path / "deep.png").write_bytes(deep)
    fails(tmp_path / "deep.png", "16 bits a channel")
    Image.fromarray(np.zeros((20, 30, 4), np.uint8), "CMYK").save(tmp_path / "cmyk.jpg")
    fails(tmp_path / "cmyk.jpg", "CMYK")
    for pixels in (96 * 130 - 1, 96 * 130 // 2 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", pixels)
        fails(tmp_path / "a.png", "million pixels")


def test_frames_of_pictures(tmp_path: Path) -> None:
    images = [Image.fromarray(page) for page in make_pixels(3, 60, 71)]
    images[0].save(tmp_path / "a.png", save_all=True, append_images=images[1:])
    images[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=images[1:], quality=95)
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG")):
        with open_image(tmp_path / name) as source:
            assert source.format == kind
            assert "2 other images" in source.notes[0]
        for number, image in enumerate(images):
            difference = read_all(tmp_path / name, series=number)[0].astype(int) - np.asarray(image)
            assert np.abs(difference).mean() < (1 if kind == "PNG" else 40)


def test_palettes_are_applied(tmp_path: Path) -> None:
    colours = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    for palette, channels in ((colours, 3), (np.repeat(colours[:, :1], 3, 1), 1)):
        image = Image.fromarray(GREY[0]).convert("P")
        image.putdata(GREY.ravel())
        image.putpalette(palette.tobytes())
        image.save(tmp_path / "a.png")
        with open_image(tmp_path / "a.png") as source:
            pixels = source.read(Region.of_shape(source.shape))
        np.testing.assert_array_equal(pixels, palette[GREY[0]].transpose(2, 0, 1)[:channels])
