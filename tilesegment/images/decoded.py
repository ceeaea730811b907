"""Formats without tiles: decoded once, at the first read, and kept in memory."""

import threading
from collections.abc import Callable

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.layout import Layout
from tilesegment.images.source import ImageSource, Level, Shown
from tilesegment.metadata import UNKNOWN_FRAME

MOST_PIXELS = 1 << 27  # of an image that is decoded at once
CONVERT = "convert it to TIFF or OME-Zarr"


class DecodedSource(ImageSource):
    """An image of one level that cannot be read in parts."""

    def __init__(
        self,
        path: str,
        format: str,
        dtype: np.dtype,
        layout: Layout,
        shown: Shown,
        decode: Callable[[], np.ndarray],
        close: Callable[[], None] = lambda: None,
    ) -> None:
        """Open an image.

        Args:
            path, format, dtype, shown: as of every image.
            layout: of what `decode` returns.
            decode: decodes all pixels; called once.
            close: closes the file.
        """
        levels = [Level(layout.plane, (1.0, 1.0))]
        super().__init__(path, format, levels, None, layout.channels, dtype, UNKNOWN_FRAME, shown)
        self._layout, self._decode, self._close = layout, decode, close
        self._pixels: np.ndarray | None = None
        self._lock = threading.Lock()

    @property
    def cache_bytes(self) -> int:
        """Size of the whole image."""
        return self._bytes

    @property
    def decoded_bytes(self) -> int:
        """Size of the whole image, once it was read."""
        return 0 if self._pixels is None else self._bytes

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        with self._lock:
            if self._pixels is None:
                self._pixels = self._decode()
        return self._layout.to_planes(self._pixels[self._layout.index(region, z)])

    def close(self) -> None:
        """Close the file and drop the decoded pixels."""
        self._close()
        self._pixels = None


def check_size(path: str, height: int, width: int) -> None:
    """Refuse an image that is too large to be decoded at once.

    Raises:
        ImageError: it is.
    """
    if height * width > MOST_PIXELS:
        raise ImageError(
            f"{path} has {height} x {width} pixels, more than the {MOST_PIXELS / 1e6:.0f} million that are decoded at "
            f"once: {CONVERT}"
        )
