"""Images written by the formats' own libraries, for tests to read."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mrcfile
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_files import axes_of, transformations, write_image
from PIL import Image

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import open_image


def make_pixels(*shape: int, dtype: str = "uint8") -> np.ndarray:
    """Pixels that differ from place to place and from plane to plane, compressible but not constant."""
    noise = np.random.default_rng(sum(shape)).integers(0, 200, shape)
    return (noise + np.arange(shape[-1]) % 50).astype(dtype)


Write = Callable[[Path, np.ndarray], Path]


def tiff(axes: str = "yxc", **options: Any) -> Write:
    """Writes a TIFF, its dimensions in the order of `axes`."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        path = folder / "image.tif"
        tifffile.imwrite(path, reorder(pixels, axes), **options)
        return path

    return write


def tiff_pyramid(axes: str, **options: Any) -> Write:
    """Writes a TIFF of three levels, every second pixel of the one before."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        path = folder / "image.tif"
        is_ome, metadata = options.get("ome", False), options.get("metadata")
        stored = {name: value for name, value in options.items() if name not in ("ome", "metadata")}
        with tifffile.TiffWriter(path, ome=is_ome) as writer:
            writer.write(reorder(pixels, axes), subifds=2, metadata=metadata, **stored)
            for n in (1, 2):
                writer.write(reorder(pixels[..., :: 2**n, :: 2**n], axes), subfiletype=1, metadata=None, **stored)
        return path

    return write


def reorder(pixels: np.ndarray, axes: str) -> np.ndarray:
    """(Z, C, H, W) or (C, H, W) in the order of `axes`, without c if there is one channel."""
    have = "zcyx"[-pixels.ndim :]
    if "c" not in axes:
        pixels, have = pixels.take(0, have.index("c")), have.replace("c", "")
    return np.ascontiguousarray(pixels.transpose([have.index(axis) for axis in axes]))


def zarr_array(axes: str, chunks: tuple[int, ...], **options: Any) -> Write:
    """Writes a Zarr array, its dimensions in the order of `axes`."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        data = reorder(pixels, axes)
        zarr.create_array(folder / "image.zarr", data=data, chunks=chunks, **options)
        return folder / "image.zarr"

    return write


def multiscales(axes: str, levels: int, um: float) -> dict[str, Any]:
    """OME-Zarr's description of a pyramid of arrays 0, 1, ... with pixels of `um` micrometres."""
    scales = [[um * 2**n if a in "yx" else 1.0 for a in axes] for n in range(levels)]
    datasets = [{"path": str(n)} | transformations(scale) for n, scale in enumerate(scales)]
    return {"axes": axes_of(axes, dict.fromkeys("zyx", "micrometer")), "datasets": datasets}


def ome_zarr(version: str, axes: str, um: float) -> Write:
    """Writes an OME-Zarr image of three levels, every second pixel of the one before, its size told in nanometres."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        data = reorder(pixels, axes.replace("t", ""))
        data = data[None] if "t" in axes else data
        levels = [data[..., :: 2**n, :: 2**n] for n in range(3)]
        described = [transformations([um * 1000 * 2**n if a in "yx" else 1.0 for a in axes]) for n in range(3)]
        units = axes_of(axes, dict.fromkeys("zyx", "nanometer"))
        return write_image(folder / "image.zarr", levels, version, axes=units, described=described)

    return write


def png(folder: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(folder / "image.png")
    return folder / "image.png"


def jpeg(folder: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels.transpose(1, 2, 0).squeeze()).save(folder / "image.jpg", quality=95)
    return folder / "image.jpg"


def mrc(angstrom: float, *, order: str = "<", volume: bool = False) -> Write:
    """Writes an MRC with mrcfile, of pixels of so many angstrom."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        planes = reorder(pixels, "zyx" if pixels.ndim == 4 else "yx")
        with mrcfile.new(folder / "image.mrc", planes.astype(planes.dtype.newbyteorder(order))) as file:
            if volume:
                file.set_volume()
            file.voxel_size = angstrom
        return folder / "image.mrc"

    return write


def mrc_of_mode(mode: int) -> Write:
    """Writes an MRC as IMOD does: RGB (16), half bytes (101), or bytes marked as not signed (0)."""

    def write(folder: Path, pixels: np.ndarray) -> Path:
        planes = reorder(pixels, "zyx" if pixels.ndim == 4 else "yxc" if len(pixels) > 1 else "yx")
        width = pixels.shape[-1]
        if mode == 16:
            planes = planes.reshape(*pixels.shape[-2:-1], -1)
        elif mode == 101:
            even = np.pad(planes, [(0, 0)] * (planes.ndim - 1) + [(0, width % 2)])
            planes = even[..., ::2] | even[..., 1::2] << 4
        mrcfile.write(folder / "image.mrc", planes.view(np.int8))
        with open(folder / "image.mrc", "r+b") as file:
            file.write(struct.pack("<i", width))
            file.seek(12)
            file.write(struct.pack("<i", mode))
            file.seek(152)
            file.write(b"IMOD" + bytes(4))
        return folder / "image.mrc"

    return write


def write_tiff(
    path: Path, pixels: np.ndarray, *pages: np.ndarray, description: str | None = None, **options: Any
) -> Path:
    """Writes each page as it is, the first with a description."""
    with tifffile.TiffWriter(
        path, byteorder=options.pop("byteorder", None), bigtiff=options.pop("bigtiff", False)
    ) as writer:
        writer.write(pixels, metadata=None, description=description, **options)
        for page in pages:
            writer.write(page, metadata=None, **options)
    return path


GREY, RGB = make_pixels(1, 150, 211), make_pixels(3, 150, 211)
STACK, VOLUME = make_pixels(5, 1, 60, 71), make_pixels(4, 3, 60, 71, dtype="uint16")
PIXELS = np.random.default_rng(0).integers(1, 256, (96, 130), np.uint8)  # noise: no byte of the file is padding


def fails(path: Path, match: str = ".", **options: Any) -> str:
    """The one line that says why `path` cannot be opened, or not be read as a whole."""
    with pytest.raises(ImageError, match=match) as caught, open_image(path, **options) as source:
        source.read(Region.of_shape(source.shape))
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def read_all(path: Path, **options: Any) -> tuple[np.ndarray, str]:
    """All pixels of the first channel, (H, W) or (Z, H, W), and the notes."""
    with open_image(path, **options) as source:
        planes = [source.read(Region.of_shape(source.shape), z=z)[0] for z in range(source.depth or 1)]
        return planes[0] if source.depth is None else np.stack(planes), "\n".join(source.notes)
