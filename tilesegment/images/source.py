"""What every image looks like from inside the tool, whatever the format it is stored in."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Self

import numpy as np

from tilesegment.errors import ImageError, one_line
from tilesegment.geometry import Region, mirror_indices
from tilesegment.images.orientation import turn_of, turn_words
from tilesegment.images.pixels import image_type, stored_type, to_image_type, to_stored_type
from tilesegment.metadata import UNKNOWN_FRAME, Frame, PixelSize
from tilesegment.units import in_micrometres, size_of

# sides beyond this are taken for a damaged or hostile header
MAX_SIDE = 10_000_000
MAX_CHANNELS = 64


@dataclass(frozen=True)
class Level:
    """One resolution of an image.

    Attributes:
        shape: (height, width) in its own pixels.
        scale: (y, x), how many pixels of level 0 one of its pixels spans.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]


@dataclass(frozen=True)
class Shown:
    """How the pixels that a file stores become the image, and what a user should know of the file.

    Attributes:
        orientation: of TIFF's tag and EXIF's, 1 to 8: how the pixels are turned and mirrored.
        white: each value is subtracted from it, where the file counts from white and is to be inverted.
        notes: what was decided for the user about this file, one sentence each.
        contents: the images of the file, in the order of `series`; empty where there is one.
    """

    orientation: int = 1
    white: int | None = None
    notes: tuple[str, ...] = ()
    contents: tuple[str, ...] = ()


UPRIGHT = Shown()


class ImageSource(ABC):
    """An image that is read region by region and never as a whole; a context manager that closes its file.

    Attributes:
        path: what was opened.
        format: "TIFF", "OME-TIFF", "Zarr", "OME-Zarr 0.5", "PNG", ...
        levels: its resolutions, the finest first.
        depth: number of z planes, or pages of a stack; None for a single plane.
        channels: 1 grey, 3 RGB, 4 RGBA, or any other number up to 64.
        dtype: what `read` hands out: uint8 and uint16 where the file stores these (or single bits), else float32.
        stored_dtype: what `read_stored` hands out, exactly what the file stores, in native byte order; uint8 for 1-bit.
        pixel_size: of level 0, None if the file does not say.
        frame: where pixels and planes of level 0 lie; in micrometres along each axis whose unit is known.
        notes: what a user should know of how the file is read, one sentence each.
        stored_notes: those of them that count for `read_stored`, too.
        orientation: of TIFF's tag and EXIF's, 1 to 8, by which what is stored was turned.
        contents: the images of the file, in the order of `series`; empty where there is one.
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
        shown: Shown = UPRIGHT,
    ) -> None:
        self._turn, self._white = turn_of(shown.orientation), shown.white
        self.path = path
        self.format = format
        self.levels = tuple(Level(self._turn.pair(level.shape), self._turn.pair(level.scale)) for level in levels)
        self.depth = depth
        self.channels = channels
        if self._turn.transposes:
            frame = replace(frame, y=frame.x, x=frame.y)
        self.stored_dtype = stored_type(path, dtype)
        self.dtype = image_type(self.stored_dtype)
        self.frame = in_micrometres(frame)
        self.pixel_size: PixelSize | None = size_of(frame)
        self.contents = shown.contents
        self.orientation = shown.orientation
        turned = turn_words(shown.orientation)
        self.stored_notes = ((f"{path} is {turned}",) if turned else ()) + shown.notes
        self.notes = self.stored_notes
        if self.dtype != self.stored_dtype:
            self.notes += (f"{path} holds {self.stored_dtype}: as an image it is read as float32",)

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
        return math.prod(self.shape) * self.channels * (self.depth or 1) * self.stored_dtype.itemsize

    def read(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """The pixels of `region`, (C, h, w) in `dtype`; maybe a view, maybe not contiguous. Safe in several threads.

        `region` lies within the level and is in its pixels. Values are those stored: nothing is scaled. Integers beyond
        2 ** 24 and float64 are rounded to float32; `read_stored` gives them exactly.

        Raises:
            ImageError: there is no such level or plane, or the stored pixels are damaged.
        """
        return to_image_type(self.path, self.read_stored(region, level, z))

    def read_stored(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """As `read`, but in `stored_dtype`: exact, for labels. 1-bit pixels are 0 and 255, whatever the format."""
        if not 0 <= level < len(self.levels):
            raise ImageError(f"{self.path} has no level {level}: choose one from 0 to {len(self.levels) - 1}")
        if not 0 <= z < (self.depth or 1):
            raise ImageError(f"{self.path} has no plane z={z}: choose one from 0 to {(self.depth or 1) - 1}")
        assert Region.of_shape(self.levels[level].shape).contains(region), f"{region} outside level {level}"
        try:
            pixels = self._read(self._turn.stored(region, self.levels[level].shape), level, z)
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # each codec has its own: this is the one place where they become ours
            raise ImageError(
                f"{self.path} is damaged: pixels {region} of level {level}, plane {z} cannot be read "
                f"({one_line(error, 200)}): copy or export the image again"
            ) from error
        pixels = self._turn.apply(to_stored_type(pixels, self.stored_dtype))
        return pixels if self._white is None else self.stored_dtype.type(self._white) - pixels

    @abstractmethod
    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        """What is stored of a level, plane and region that exist; may raise anything on damaged data."""

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
