"""PNG and JPEG through Pillow: formats without tiles, decoded once, at the first read, and kept in memory."""

import struct
import threading
import warnings
from collections.abc import Mapping

import numpy as np
from PIL import Image

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.axes import Layout, arrange
from tilesegment.images.source import ImageSource, Level

_CONVERT = "convert it to TIFF or OME-Zarr"
# Pillow's mode -> mode it is converted to; palettes are looked into
_MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "I;16": "I;16"}


class FlatSource(ImageSource):
    """A PNG or JPEG file.

    The colours of a palette are applied, as grey if all are. A black-and-white PNG comes as 0 and 255. A rotation noted
    in EXIF is ignored: pixels are where the file stores them. Grey with alpha counts as two channels.
    """

    def __init__(self, path: str, image: Image.Image, mode: str, layout: Layout) -> None:
        dtype = np.dtype(np.uint16 if mode == "I;16" else np.uint8)
        levels = (Level(layout.plane, (1.0, 1.0)),)
        super().__init__(path, image.format or "PNG", levels, None, layout.channels, dtype, None)
        self._image: Image.Image | None = image
        self._mode = mode
        self._layout = layout
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()

    @property
    def cache_bytes(self) -> int:
        """The whole image: PNG and JPEG cannot be read in parts."""
        return self._bytes

    @property
    def decoded_bytes(self) -> int:
        """All of it, at the first read."""
        return 0 if self._pixels is None else self._bytes

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        with self._lock:
            if self._pixels is None:
                assert self._image is not None, "read after close"
                self._pixels = _decode(self._image, self._mode)
        return self._layout.to_planes(self._pixels[self._layout.index(region, z)])

    def close(self) -> None:
        """Close the file and drop the decoded pixels."""
        if self._image is not None:
            self._image.close()
        self._image = self._pixels = None


def open_flat(path: str, axes: str | None, select: Mapping[str, int]) -> FlatSource:
    """Open a PNG or JPEG file without decoding it; `axes` must not be given.

    Raises:
        ImageError: more pixels than Pillow takes for safe, CMYK, 16-bit colour, or `axes` or `select` that do not fit.
    """
    if axes is not None:
        raise ImageError(f"{path} is a PNG or JPEG, whose axes are known: leave out --axes {axes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path, formats=("PNG", "JPEG"))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise ImageError(f"{path} has more than the {limit} that are decoded at once: {_CONVERT}") from None
    try:
        mode = _mode(path, image)
        bands = len(Image.new(mode, (1, 1)).getbands())
        shape = (image.height, image.width) + ((bands,) if bands > 1 else ())
        return FlatSource(path, image, mode, arrange(path, ("y", "x", "c")[: len(shape)], shape, select))
    except BaseException:
        image.close()
        raise


def _mode(path: str, image: Image.Image) -> str:
    """The Pillow mode that `image` is decoded to."""
    if image.format == "PNG" and _bits_and_colour(path) in ((16, 2), (16, 4), (16, 6)):
        raise ImageError(f"{path} is a PNG with 16 bits a channel, of which 8 would be lost: {_CONVERT}")
    if image.mode == "P":
        return _palette_mode(image)
    if image.mode not in _MODES:
        raise ImageError(f"{path} has colours of mode {image.mode}; grey and RGB are supported: {_CONVERT}")
    return _MODES[image.mode]


def _bits_and_colour(path: str) -> tuple[int, int]:
    """Bit depth and colour type as a PNG's first chunk says, which Pillow does not tell."""
    with open(path, "rb") as file:
        bits, colour = struct.unpack_from("BB", file.read(26), 24)
    return bits, colour


def _palette_mode(image: Image.Image) -> str:
    if "transparency" in image.info:
        return "RGBA"
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return "L" if (palette == palette[:, :1]).all() else "RGB"


def _decode(image: Image.Image, mode: str) -> np.ndarray:
    """All pixels, (H, W) or (H, W, C)."""
    image.load()
    if image.mode == "P" and mode == "L":  # Pillow's own conversion weighs red, green, blue, which may round
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[:, 0]
        return np.append(palette, np.zeros(256 - len(palette), np.uint8))[np.asarray(image)]
    return np.asarray(image if image.mode == mode else image.convert(mode))
