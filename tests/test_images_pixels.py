"""Pixel types: an image is uint8, uint16 or float32, whatever is stored; labels read exactly what is stored."""

from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from image_files import PIXELS
from PIL import Image

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image

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


def test_labels_beyond_float32_are_exact(tmp_path: Path) -> None:
    ids = (np.arange(12, dtype=np.int64).reshape(3, 4) + (1 << 40)).repeat(4, 0).repeat(4, 1)
    tifffile.imwrite(tmp_path / "ids.tif", ids)
    with open_image(tmp_path / "ids.tif") as source:
        np.testing.assert_array_equal(source.read_stored(Region(0, 0, 12, 16))[0], ids)


def test_single_bits_are_black_and_white_in_every_format(tmp_path: Path) -> None:
    bits = PIXELS > 100
    Image.fromarray(bits).save(tmp_path / "bits.png")
    Image.fromarray(bits).save(tmp_path / "pillow.tif")
    tifffile.imwrite(tmp_path / "bits.tif", bits, photometric="minisblack")
    zarr.create_array(tmp_path / "bits.zarr", data=bits, chunks=(40, 50))
    for name in ("bits.png", "pillow.tif", "bits.tif", "bits.zarr"):
        with open_image(tmp_path / name) as source:
            assert (source.dtype, source.stored_dtype) == (np.uint8, np.uint8), name
            for read in (source.read, source.read_stored):
                np.testing.assert_array_equal(read(Region.of_shape(source.shape))[0], bits * np.uint8(255), name)


def test_values_that_float32_cannot_hold(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", PIXELS * 1e300)
    with open_image(tmp_path / "a.tif") as source:
        assert source.read_stored(Region(0, 0, 9, 9)).max() > 1e300
        with pytest.raises(ImageError, match="largest of float32"):
            source.read(Region(0, 0, 9, 9))
