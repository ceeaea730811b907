"""Pixel types: those that files store, and those that images are handed out in."""

import numpy as np

from tilesegment.errors import ImageError

PIXEL_TYPES = "1-bit, integers of 8 to 64 bits and floats of 16 to 64 bits"
_AS_STORED = tuple(map(np.dtype, ("uint8", "uint16", "float32")))
_STORED = (*_AS_STORED, *map(np.dtype, ("int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "float64")))


def stored_type(path: str, dtype: np.dtype) -> np.dtype:
    """The type that holds pixels stored as `dtype` exactly, in native byte order; uint8 for 1-bit.

    Raises:
        ImageError: such pixels are not supported.
    """
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    native = dtype.newbyteorder("=")
    if native not in _STORED:
        raise ImageError(f"{path} holds {native} pixels; {PIXEL_TYPES} are supported: convert it")
    return native


def image_type(stored: np.dtype) -> np.dtype:
    """The type that an image of `stored` pixels is handed out in: uint8 and uint16 as they are, all others float32."""
    return stored if stored in _AS_STORED else np.dtype(np.float32)


def to_stored_type(pixels: np.ndarray, stored: np.dtype) -> np.ndarray:
    """Pixels as they lie in the file as `stored`, see `stored_type`; 1-bit ones become 0 and 255."""
    if pixels.dtype == np.bool_:
        return pixels * np.uint8(255)
    return pixels.astype(stored, copy=False)


def to_image_type(path: str, pixels: np.ndarray) -> np.ndarray:
    """Pixels of a stored type in that of images. Integers beyond 2 ** 24 and float64 are rounded to float32.

    Raises:
        ImageError: float32 does not reach as far as a value.
    """
    wanted = image_type(pixels.dtype)
    if pixels.dtype == wanted:
        return pixels
    with np.errstate(over="ignore"):
        converted = pixels.astype(wanted)
    if pixels.dtype == np.float64 and np.isinf(converted).any() and not np.isinf(pixels).any():
        raise ImageError(f"{path} holds values beyond 3.4e38, the largest of float32: scale them and save it again")
    return converted
