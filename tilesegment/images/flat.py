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
from tilesegment.images.contents import chosen_series, inverted_in_vain, others_note
from tilesegment.images.source import ImageSource, Level, Shown

_ORIENTATION = 0x0112  # EXIF's tag
_MOST_EXIF = 1 << 20  # bytes
_CONVERT = "convert it to TIFF or OME-Zarr"
# Pillow's mode -> mode it is converted to; palettes are looked into
_MODES = {"1": "L", "L": "L", "LA": "LA", "RGB": "RGB", "RGBA": "RGBA", "I;16": "I;16"}


class FlatSource(ImageSource):
    """A PNG or JPEG file.

    The colours of a palette are applied, as grey if all are. A black-and-white PNG comes as 0 and 255. Pixels are
    turned as EXIF says. Grey with alpha counts as two channels.
    """

    def __init__(self, path: str, image: Image.Image, mode: str, layout: Layout, shown: Shown) -> None:
        dtype = np.dtype(np.uint16 if mode == "I;16" else np.uint8)
        levels = (Level(layout.plane, (1.0, 1.0)),)
        kind = "JPEG" if image.format == "MPO" else image.format or "PNG"  # MPO is several JPEGs in one file
        super().__init__(path, kind, levels, None, layout.channels, dtype, shown=shown)
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


def open_flat(path: str, axes: str | None, select: Mapping[str, int], series: int | None, invert: bool) -> FlatSource:
    """Open a PNG or JPEG file without decoding it; `axes` must not be given, `series` counts frames.

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
        contents = _frames(image)
        number = chosen_series(path, series, contents or ("",), 0)
        image.seek(number)
        mode = _mode(path, image)
        bands = len(Image.new(mode, (1, 1)).getbands())
        shape = (image.height, image.width) + ((bands,) if bands > 1 else ())
        notes = () if series is not None else others_note(path, contents, number)
        notes += inverted_in_vain(path) if invert else ()
        layout = arrange(path, ("y", "x", "c")[: len(shape)], shape, select)
        return FlatSource(path, image, mode, layout, Shown(_orientation(path, image), None, notes, contents))
    except BaseException:
        image.close()
        raise


def _frames(image: Image.Image) -> tuple[str, ...]:
    """The pictures of a file that holds several, as animated PNGs and some cameras' JPEGs do."""
    count = getattr(image, "n_frames", 1)
    return tuple(f"frame {number}" for number in range(count)) if count > 1 else ()


def _orientation(path: str, image: Image.Image) -> int:
    """As EXIF says; of PNG also where it stands behind the pixels, without decoding these."""
    if image.format == "PNG" and "exif" not in image.info:
        image.info.update({"exif": exif} if (exif := _png_chunk(path, b"eXIf")) else {})
    # PngImageFile's own would decode the picture
    orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _png_chunk(path: str, name: bytes) -> bytes:
    """What the first chunk of this name holds; empty if there is none."""
    with open(path, "rb") as file:
        file.seek(8)
        while len(head := file.read(8)) == 8:
            (length,) = struct.unpack(">I", head[:4])
            if head[4:] == name:
                return file.read(min(length, _MOST_EXIF))
            file.seek(length + 4, 1)
    return b""


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
