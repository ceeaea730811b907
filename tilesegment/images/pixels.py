"""Conversion of stored pixels to those of an image: type and orientation."""

from dataclasses import dataclass

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.ome_zarr.node import PIXEL_TYPES

_AS_STORED = tuple(map(np.dtype, ("uint8", "uint16", "float32")))
_STORED = (*_AS_STORED, *map(np.dtype, ("int8", "int16", "int32", "int64", "uint32", "uint64", "float16", "float64")))


def stored_type(path: str, dtype: np.dtype) -> np.dtype:
    """Return the type that holds pixels stored as `dtype` exactly, in native byte order; uint8 for 1-bit."""
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    native = dtype.newbyteorder("=")
    if native not in _STORED:
        raise ImageError(f"{path} holds {native} pixels; {PIXEL_TYPES} are supported: convert it")
    return native


def image_type(stored: np.dtype) -> np.dtype:
    """Return the type in which an image hands out `stored` pixels: uint8 and uint16 as they are, others float32."""
    return stored if stored in _AS_STORED else np.dtype(np.float32)


def to_stored_type(pixels: np.ndarray, stored: np.dtype) -> np.ndarray:
    """Convert pixels as they lie in the file to `stored`; 1-bit ones become 0 and 255."""
    return pixels * np.uint8(255) if pixels.dtype == np.bool_ else pixels.astype(stored, copy=False)


def to_image_type(path: str, pixels: np.ndarray) -> np.ndarray:
    """Convert pixels of a stored type to the type of images; large integers and float64 are rounded to float32."""
    with np.errstate(over="ignore"):
        converted = pixels.astype(image_type(pixels.dtype), copy=False)
    if pixels.dtype == np.float64 and np.isinf(converted).any() and not np.isinf(pixels).any():
        raise ImageError(f"{path} holds values beyond 3.4e38, the largest of float32: scale them and save it again")
    return converted


@dataclass(frozen=True)
class Turn:
    """How stored pixels are turned upright: transposed, if at all, and then mirrored."""

    words: str = ""  # a description; empty if nothing is done
    transposes: bool = False
    mirrors_y: bool = False
    mirrors_x: bool = False

    def pair(self, y_x: tuple) -> tuple:
        """Return (y, x) of the stored axes as (y, x) of the turned ones, or the other way round."""
        return y_x[::-1] if self.transposes else y_x

    def stored(self, region: Region, shape: tuple[int, int]) -> Region:
        """Return where the pixels of `region` of the turned image, which is of `shape` (H, W), are stored."""
        y0, y1 = (shape[0] - region.y1, shape[0] - region.y0) if self.mirrors_y else (region.y0, region.y1)
        x0, x1 = (shape[1] - region.x1, shape[1] - region.x0) if self.mirrors_x else (region.x0, region.x1)
        return Region(x0, y0, x1, y1) if self.transposes else Region(y0, x0, y1, x1)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Turn stored pixels (C, h, w); contiguous where anything is done."""
        if not self.words:
            return pixels
        turned = pixels.swapaxes(1, 2) if self.transposes else pixels
        return np.ascontiguousarray(turned[:, :: -1 if self.mirrors_y else 1, :: -1 if self.mirrors_x else 1])


# by the value of TIFF's orientation tag, and EXIF's; nothing is done for 1, and for numbers that mean nothing
TURNS = {
    2: Turn("mirrored left to right", mirrors_x=True),
    3: Turn("turned by 180 degrees", mirrors_y=True, mirrors_x=True),
    4: Turn("mirrored top to bottom", mirrors_y=True),
    5: Turn("mirrored along the main diagonal", True),
    6: Turn("turned by 90 degrees clockwise", True, mirrors_x=True),
    7: Turn("mirrored along the other diagonal", True, True, True),
    8: Turn("turned by 90 degrees counterclockwise", True, mirrors_y=True),
}
