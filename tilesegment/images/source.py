"""What every image looks like from inside the tool, whatever the format it is stored in."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np

from tilesegment.errors import ImageError, one_line
from tilesegment.geometry import Region, mirror_indices
from tilesegment.metadata import UNKNOWN_FRAME, Frame, PixelSize
from tilesegment.units import in_micrometres, size_of

# sides beyond this are taken for a damaged or hostile header
MAX_SIDE = 10_000_000
MAX_CHANNELS = 64
PIXEL_TYPES = "uint8, uint16, float32 and 1-bit"


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Attributes:
        shape: (height, width) in its own pixels.
        scale: (y, x), how many pixels of level 0 one of its pixels spans.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]


class ImageSource(ABC):
    """An image that is read region by region and never as a whole; a context manager that closes its file.

    Attributes:
        path: what was opened.
        format: "TIFF", "OME-TIFF", "Zarr", "OME-Zarr 0.5", "PNG", ...
        levels: its resolutions, the finest first.
        depth: number of z planes, or pages of a stack; None for a single plane.
        channels: 1 grey, 3 RGB, 4 RGBA, or any other number up to 64.
        dtype: uint8, uint16 or float32, in native byte order; 1-bit images come as uint8.
        pixel_size: of level 0, None if the file does not say.
        frame: where pixels and planes of level 0 lie; in micrometres along each axis whose unit is known.
        notes: what a user should know of how the file is read, a sentence each.
    """

    def __init__(
        self,
        path: str,
        format: str,
        levels: tuple[Level, ...],
        depth: int | None,
        channels: int,
        dtype: np.dtype,
        frame: Frame = UNKNOWN_FRAME,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.path = path
        self.format = format
        self.levels = levels
        self.depth = depth
        self.channels = channels
        self.dtype = presented(path, dtype)
        self.frame = in_micrometres(frame)
        self.pixel_size: PixelSize | None = size_of(frame)
        self.notes = notes

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of level 0."""
        return self.levels[0].shape

    @property
    def cache_bytes(self) -> int:
        """Memory that decoded pixels are kept in between reads, at most; 0 where a read leaves nothing behind."""
        return 0

    @property
    def decoded_bytes(self) -> int:
        """Bytes of pixels decoded so far: those of the image once or more; 0 where nothing has to be decoded."""
        return 0

    @property
    def _bytes(self) -> int:
        """Of all the pixels of level 0."""
        return math.prod(self.shape) * self.channels * (self.depth or 1) * self.dtype.itemsize

    def read(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """The pixels of `region`, (C, h, w) in `dtype`; maybe a view, maybe not contiguous. Safe in several threads.

        `region` lies within the level and is in its pixels. Values are those stored: nothing is scaled or inverted.

        Raises:
            ImageError: there is no such level or plane, or the stored pixels are damaged.
        """
        if not 0 <= level < len(self.levels):
            raise ImageError(f"{self.path} has no level {level}: choose one from 0 to {len(self.levels) - 1}")
        if not 0 <= z < (self.depth or 1):
            raise ImageError(f"{self.path} has no plane z={z}: choose one from 0 to {(self.depth or 1) - 1}")
        assert Region.of_shape(self.levels[level].shape).contains(region), f"{region} outside level {level}"
        try:
            pixels = self._read(region, level, z)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # each codec has its own: this is the one place where they become ours
            raise ImageError(
                f"{self.path} is damaged: pixels {region} of level {level}, plane {z} cannot be read "
                f"({one_line(error, 200)}): copy or export the image again"
            ) from error
        return pixels.astype(self.dtype, copy=False)

    @abstractmethod
    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        """`read` for a level, plane and region that exist; may raise anything on damaged data."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the file; no more reads after this."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_mirrored(source: ImageSource, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
    """The pixels of `region` (not empty), (C, h, w), which may reach beyond the image: there they are mirrored ones.

    The edge pixel is not repeated, as in `numpy.pad(mode="reflect")`, and any margin is allowed. Mirrored by index: no
    padded image exists, and each stored pixel is read at most once.

    Raises:
        ImageError: as `ImageSource.read`.
    """
    shape = source.levels[level].shape
    if Region.of_shape(shape).contains(region):
        return source.read(region, level, z)
    rows, columns = mirror_indices(region.y0, region.y1, shape[0]), mirror_indices(region.x0, region.x1, shape[1])
    inner = Region(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
    pixels = source.read(inner, level, z)
    return pixels.take(rows - inner.y0, axis=1).take(columns - inner.x0, axis=2)


def presented(path: str, dtype: np.dtype) -> np.dtype:
    """The type in which pixels stored as `dtype` are handed out.

    Raises:
        ImageError: such pixels are not supported.
    """
    if dtype == np.bool_:
        return np.dtype(np.uint8)
    native = dtype.newbyteorder("=")
    if native not in (np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.float32)):
        raise ImageError(f"{path} holds {native} pixels; {PIXEL_TYPES} are supported: convert it")
    return native
