"""PNG, JPEG, WebP and BMP through Pillow, decoded as a whole."""

import struct
import warnings
from io import BytesIO
from typing import BinaryIO

import numpy as np
from PIL import Image

from tilesegment.errors import ImageError
from tilesegment.images.byte_ranges import RemoteFile
from tilesegment.images.decoded import CONVERT, DecodedSource
from tilesegment.images.layout import Choices, Layout, arrange, chosen_series, note_on_inversion
from tilesegment.images.source import Shown

_ORIENTATION = 0x0112  # EXIF's tag
_MOST_EXIF = 1 << 20  # bytes
# what Pillow opens, and how it is called here where the name differs: MPO is several JPEGs in one file
_READ = ("PNG", "JPEG", "WEBP", "BMP")
_KINDS = {"MPO": "JPEG", "WEBP": "WebP"}


class FlatSource(DecodedSource):
    """A file that Pillow decodes.

    The colours of a palette are applied, as grey if all are. A black-and-white PNG comes as 0 and 255. Grey with alpha
    counts as two channels.
    """

    def __init__(self, path: str, image: Image.Image, mode: str, layout: Layout, shown: Shown) -> None:
        kind = _KINDS.get(image.format or "", image.format or "")
        dtype = np.dtype(np.uint16 if mode == "I;16" else np.uint8)
        super().__init__(path, kind, dtype, layout, shown, lambda: _decode(image, mode), image.close)


def open_flat(given: str | RemoteFile, choices: Choices) -> FlatSource:
    """Open a file without decoding it; one on a server is fetched whole. A series is a frame."""
    path, file = (given, given) if isinstance(given, str) else (given.name, BytesIO(given.content()))
    if choices.axes is not None:
        raise ImageError(f"{path} is a picture, whose axes are known: leave out --axes {choices.axes}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(file, formats=_READ)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        limit = f"{(Image.MAX_IMAGE_PIXELS or 0) / 1e6:.0f} million pixels"
        raise ImageError(f"{path} has more than the {limit} that are decoded at once: {CONVERT}") from None
    try:
        count = getattr(image, "n_frames", 1)  # animated PNGs, and JPEGs of some cameras
        contents = [f"frame {number}" for number in range(count)] if count > 1 else []
        number, notes = chosen_series(path, choices.series, contents)
        image.seek(number)
        mode = _mode(path, file, image)
        bands = len(Image.new(mode, (1, 1)).getbands())
        shape = (image.height, image.width) + ((bands,) if bands > 1 else ())
        layout = arrange(path, "yxc"[: len(shape)], shape, choices.select)
        notes += note_on_inversion(path, choices.invert)
        return FlatSource(path, image, mode, layout, Shown(_orientation(file, image), None, notes, contents))
    except BaseException:
        image.close()
        raise


def _reopened(given: str | BytesIO) -> BinaryIO:
    return open(given, "rb") if isinstance(given, str) else BytesIO(given.getbuffer())


def _orientation(given: str | BytesIO, image: Image.Image) -> int:
    """Return EXIF's orientation; in a PNG it may follow the pixels, and is read without decoding them."""
    if image.format == "PNG" and "exif" not in image.info:
        with _reopened(given) as file:
            file.seek(8)
            while len(head := file.read(8)) == 8:
                (length,) = struct.unpack(">I", head[:4])
                if head[4:] == b"eXIf":
                    image.info["exif"] = file.read(min(length, _MOST_EXIF))
                    break
                file.seek(length + 4, 1)
    # PngImageFile's own would decode the picture
    orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)
    return orientation if isinstance(orientation, int) else 1


def _mode(path: str, given: str | BytesIO, image: Image.Image) -> str:
    """Return the Pillow mode that `image` is decoded to."""
    if image.format == "PNG":  # Pillow does not tell the bit depth and colour type of the file
        with _reopened(given) as file:
            bits, colour = struct.unpack_from("BB", file.read(26), 24)
        if bits == 16 and colour in (2, 4, 6):
            raise ImageError(f"{path} is a PNG with 16 bits a channel, of which 8 would be lost: {CONVERT}")
    match image.mode:
        case "P" if "transparency" in image.info:
            return "RGBA"
        case "P":
            palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
            return "L" if (palette == palette[:, :1]).all() else "RGB"
        case "1":
            return "L"
        case "L" | "LA" | "RGB" | "RGBA" | "I;16":
            return image.mode
    raise ImageError(f"{path} has colours of mode {image.mode}; grey and RGB are supported: {CONVERT}")


def _decode(image: Image.Image, mode: str) -> np.ndarray:
    """Decode all pixels, (H, W) or (H, W, C)."""
    image.load()
    if image.mode == "P" and mode == "L":  # Pillow's own conversion weights red, green and blue, which may round
        palette = np.array(image.getpalette("RGB"), np.uint8).reshape(-1, 3)[:, 0]
        return np.append(palette, np.zeros(256 - len(palette), np.uint8))[np.asarray(image)]
    return np.asarray(image if image.mode == mode else image.convert(mode))
