"""JPEG 2000: JP2, JPX and bare codestreams, of up to 32 bits a sample, decoded as a whole by OpenJPEG."""

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import imagecodecs
import numpy as np

from tilesegment.errors import ImageError
from tilesegment.images.byte_ranges import RemoteFile
from tilesegment.images.decoded import CONVERT, DecodedSource, check_size
from tilesegment.images.layout import Choices, arrange, chosen_series, note_on_inversion
from tilesegment.images.source import Shown

_STREAM = b"\xff\x4f\xff\x51"  # a codestream begins with its sizes
_COLOURS = {16: "sRGB", 17: "grey"}  # by the number in the header
_MOST_HEADER = 1 << 24


def open_jpeg2000(given: str | RemoteFile, choices: Choices) -> DecodedSource:
    """Open a JPEG 2000 without decoding it; of several codestreams the first is the image.

    One on a server is fetched whole when it is decoded.

    Raises:
        ImageError: it is damaged, too large to be decoded at once, has a palette, other colours than grey and RGB, or
            components of different sizes or types.
    """
    path = given if isinstance(given, str) else given.name
    if choices.axes is not None:
        raise ImageError(f"{path} is a JPEG 2000, whose axes are known: leave out --axes {choices.axes}")
    chosen_series(path, choices.series, ())
    if isinstance(given, str):
        with open(given, "rb") as file:
            sizes = _sizes(path, file)
    else:
        sizes = _sizes(path, given)
    if sizes[:4] != _STREAM or len(sizes) < 42:
        raise ImageError(f"{path} is a JPEG 2000 without an image: it is damaged")
    x1, y1, x0, y0 = struct.unpack_from(">4I", sizes, 8)
    (count,) = struct.unpack_from(">H", sizes, 40)
    components = [sizes[42 + 3 * n : 45 + 3 * n] for n in range(count)]
    if len({*components}) != 1 or components[0][1:] != b"\1\1":
        raise ImageError(f"{path} has components of different sizes or types, as YCbCr has: {CONVERT}")
    bits, signed = (components[0][0] & 127) + 1, components[0][0] >> 7
    if bits > 32:
        raise ImageError(f"{path} has {bits} bits a sample; at most 32 are supported: {CONVERT}")
    dtype = np.dtype(f"{'i' if signed else 'u'}{1 if bits <= 8 else 2 if bits <= 16 else 4}")
    shape = (max(y1 - y0, 0), max(x1 - x0, 0)) + (count,) * (count > 1)
    layout = arrange(path, "yxs"[: len(shape)], shape, choices.select)
    check_size(path, *layout.plane)

    def decode() -> np.ndarray:
        content = Path(given).read_bytes() if isinstance(given, str) else given.content()
        pixels = np.asarray(imagecodecs.jpeg2k_decode(content))
        if (pixels.shape, pixels.dtype) != (shape, dtype):
            raise ValueError(f"decoded to {pixels.shape} of {pixels.dtype}")
        return pixels

    notes = note_on_inversion(path, choices.invert)
    return DecodedSource(path, "JPEG 2000", dtype, layout, Shown(notes=notes), decode)


def _sizes(path: str, file: BinaryIO | RemoteFile) -> bytes:
    """Return the start of the codestream, which holds its sizes; what the file says of colours is checked."""
    start = file.read(4)
    file.seek(0)
    if start == _STREAM:
        return file.read(1 << 16)
    for kind, length in _boxes(file):
        if kind == b"jp2h":
            _check_colours(path, file.read(min(length, _MOST_HEADER)))
        elif kind == b"jp2c":
            return file.read(1 << 16)
    return b""


def _boxes(file: BinaryIO | RemoteFile) -> Iterator[tuple[bytes, int]]:
    """Yield kind and length of each box, with the file at what it holds."""
    end = file.seek(0, 2)
    place = 0
    while place + 8 <= end:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        header = 8
        if length == 1:
            header, length = 16, int.from_bytes(file.read(8), "big")
        length = end - place if length == 0 else length
        if length < header:
            return
        yield kind, min(length, end - place) - header
        place += length


def _check_colours(path: str, header: bytes) -> None:
    """Refuse a palette, and colours that would have to be converted."""
    place = 0
    while place + 8 <= len(header):
        length, kind = struct.unpack_from(">I4s", header, place)
        if kind == b"pclr":
            raise ImageError(f"{path} has a palette, which is not applied: {CONVERT}")
        method = header[place + 8 : place + 9]
        if kind == b"colr" and method == b"\1":
            (number,) = struct.unpack_from(">I", header, place + 11)
            if number not in _COLOURS:
                raise ImageError(f"{path} has colours of kind {number}, neither grey nor sRGB: {CONVERT}")
        if length < 8:
            return
        place += length
