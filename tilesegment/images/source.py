"""The image source: what every image looks like to the rest of the package, whatever its format."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Self

import numpy as np

from tilesegment.errors import ImageError, StoreError, one_line
from tilesegment.geometry import Region, mirror_indices
from tilesegment.images.identity import Identity, identity
from tilesegment.images.pixels import TURNS, Turn, image_type, stored_type, to_image_type, to_stored_type
from tilesegment.metadata import (
    MICROMETRE,
    UNKNOWN_FRAME,
    Frame,
    PixelSize,
    Spacing,
    in_micrometres,
    size_difference,
    size_of,
)
from tilesegment.stores import Options, Place, place_of

_AGREES = 0.01  # relative difference of two pixel sizes that agree
# micrometres: smaller and larger pixels are doubtful, those of electron microscopes, and of slides in visible light
_BELIEVED, BELIEVED_OF_SLIDES = (1e-5, 100.0), (0.05, 20.0)


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
class About:
    """What a slide says of itself; it decides no pixel.

    Attributes:
        vendor: who made it, empty if unknown.
        objective: power of the objective, as 20 or 40; None if unknown.
        associated: (height, width) of the pictures in it that are never predicted, by name: label, macro, thumbnail.
    """

    vendor: str = ""
    objective: float | None = None
    associated: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Shown:
    """How the stored pixels become the image, notes on the file, and what it says of itself.

    Attributes:
        orientation: TIFF's or EXIF's, 1 to 8: how the pixels are turned and mirrored.
        white: values are subtracted from it if they count from white and are to be inverted.
        notes: what was decided for the user, one sentence each.
        contents: the images of the file, in the order of `series`; empty where there is one.
        about: of a slide.
    """

    orientation: int = 1
    white: int | None = None
    notes: Sequence[str] = ()
    contents: Sequence[str] = ()
    about: About = About()


class ImageSource(ABC):
    """An image that is read region by region and never as a whole; a context manager that closes its file.

    A format implements `_read` and `close`.

    Attributes:
        path: what was opened.
        format: "TIFF", "OME-TIFF", "Zarr", "OME-Zarr 0.5", "PNG", ...
        levels: its resolutions, the finest first.
        depth: number of z planes, or pages of a stack; None for a single plane.
        channels: 1 grey, 3 RGB, 4 RGBA, or any other number up to 64.
        dtype: what `read` returns: uint8 and uint16 where the file stores these (or single bits), else float32.
        stored_dtype: what `read_stored` returns, exactly what the file stores, in native byte order; uint8 for 1-bit.
        pixel_size: of level 0, None if the file does not say.
        frame: where pixels and planes of level 0 lie; in micrometres along each axis whose unit is known.
        notes: for the user, on how the file is read, one sentence each.
        stored_notes: the ones that also apply to `read_stored`.
        orientation: TIFF's or EXIF's, 1 to 8, by which the stored pixels are turned.
        contents: the images of the file, in the order of `series`; empty where there is one.
        about: what a slide says of itself.
        store_options: how the server is reached that it comes from.
        is_stored: whether it lies at `path`, so that another process finds it; an array in memory does not.
    """

    store_options: Options = ()
    is_stored: bool = True

    def __init__(
        self,
        path: str,
        format: str,
        levels: Sequence[Level],
        depth: int | None,
        channels: int,
        dtype: np.dtype,
        frame: Frame = UNKNOWN_FRAME,
        shown: Shown = Shown(),
    ) -> None:
        self._turn, self._white = TURNS.get(shown.orientation, Turn()), shown.white
        self.path, self.format = path, format
        self.levels = tuple(Level(self._turn.pair(level.shape), self._turn.pair(level.scale)) for level in levels)
        self.depth, self.channels = depth, channels
        self.stored_dtype = stored_type(path, dtype)
        self.dtype = image_type(self.stored_dtype)
        self.frame = in_micrometres(replace(frame, y=frame.x, x=frame.y) if self._turn.transposes else frame)
        self.pixel_size = size_of(self.frame)
        self.contents, self.orientation, self.about = tuple(shown.contents), shown.orientation, shown.about
        turned = f"{path} is {self._turn.words}, as its orientation tag {shown.orientation} says"
        self.stored_notes = (*([turned] if self._turn.words else []), *shown.notes)
        self.notes = self.stored_notes
        if self.dtype != self.stored_dtype:
            self.notes += (f"{path} holds {self.stored_dtype}: as an image it is read as float32",)
        if self.pixel_size is not None and not self._believes(self.pixel_size):
            self.notes += (
                f"{path} says that its pixels are {self.pixel_size} um, which is hardly true of such an image: "
                "give the right size with --source-mpp",
            )

    @property
    def place(self) -> Place:
        """Where it is, for `open_image` and `identity`."""
        return place_of(self.path, self.store_options)

    def identity(self) -> Identity:
        """What distinguishes it from other images, and from itself before a change.

        Raises:
            ImageError: some of it cannot be read.
        """
        return identity(self.place)

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of level 0."""
        return self.levels[0].shape

    @property
    def stored_levels(self) -> tuple[Level, ...]:
        """The levels that the file holds, which are all of them unless more are computed."""
        return self.levels

    @property
    def cache_bytes(self) -> int:
        """Most memory in which decoded pixels are kept between reads; 0 where a read leaves nothing behind."""
        return 0

    @property
    def decoded_bytes(self) -> int:
        """Bytes of pixels decoded so far; 0 where nothing has to be decoded."""
        return 0

    @property
    def requests(self) -> int:
        """Requests sent to a server so far; 0 where none serves the pixels."""
        return 0

    @property
    def _bytes(self) -> int:
        """Size of all the pixels of level 0."""
        return math.prod(self.shape) * self.channels * (self.depth or 1) * self.stored_dtype.itemsize

    def _believes(self, size: PixelSize) -> bool:
        """Whether pixels of an image such as this one may be so large."""
        is_colour = self.channels in (3, 4) and self.dtype == np.uint8
        low, high = BELIEVED_OF_SLIDES if is_colour else _BELIEVED
        return low <= min(size.y, size.x) and max(size.y, size.x) <= high

    def assume_pixel_size(self, size: PixelSize) -> None:
        """Take `size` as that of level 0; say so where the file says otherwise or it is hardly true."""
        known = self.pixel_size
        if not self._believes(size):
            self.notes += (f"{self.path}: pixels of {size} um, as was given, are hardly true of such an image",)
        if known is not None and size_difference(size, known) > _AGREES:
            self.notes += (f"{self.path} says that its pixels are {known} um: {size} are taken, as was given",)

        def sized(spacing: Spacing, side: float) -> Spacing:
            origin = spacing.origin if spacing.unit else spacing.origin / spacing.scale * side
            return Spacing(side, origin, MICROMETRE)

        self.frame = replace(self.frame, y=sized(self.frame.y, size.y), x=sized(self.frame.x, size.x))
        self.pixel_size = size

    def keep_at_most(self, most: int) -> None:  # noqa: B027 - most formats keep none
        """Keep at most so many bytes of decoded pixels between reads, where pieces of the image are kept."""

    def read(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """Read the pixels of `region`, (C, h, w) in `dtype`; maybe a view, maybe not contiguous. Thread-safe.

        `region` lies within the level and is in its pixels. Values are not scaled. Integers beyond 2 ** 24 and float64
        are rounded to float32; `read_stored` gives them exactly.

        Raises:
            ImageError: there is no such level or plane, or the stored pixels are damaged.
        """
        return to_image_type(self.path, self.read_stored(region, level, z))

    def announce(self, region: Region, level: int = 0, z: int = 0) -> None:
        """Tell that `region` is read soon, after all that was announced before: what lies on a server is fetched.

        Whoever announces what is not read, or reads what was not announced, loses time and nothing else. Thread-safe.
        """
        self._announce(self._turn.stored(region, self.levels[level].shape), level, z)

    def _announce(self, region: Region, level: int, z: int) -> None:  # noqa: B027 - a disk needs no time ahead
        """Begin to fetch stored pixels."""

    def read_stored(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """Read as `read` does, but in `stored_dtype`: exact, for labels. 1-bit pixels are 0 and 255."""
        if not 0 <= level < len(self.levels):
            raise ImageError(f"{self.path} has no level {level}: choose one from 0 to {len(self.levels) - 1}")
        if not 0 <= z < (self.depth or 1):
            raise ImageError(f"{self.path} has no plane z={z}: choose one from 0 to {(self.depth or 1) - 1}")
        assert Region.of_shape(self.levels[level].shape).contains(region), f"{region} outside level {level}"
        try:
            pixels = self._read(self._turn.stored(region, self.levels[level].shape), level, z)
        except StoreError as error:  # the image is as good as ever
            raise ImageError(error) from error
        except (ImageError, MemoryError):
            raise
        except Exception as error:  # each codec raises its own: this is the one place to explain it
            raise ImageError(
                f"{self.path} is damaged: pixels {region} of level {level}, plane {z} cannot be read "
                f"({one_line(error, 200)}): copy or export the image again"
            ) from error
        pixels = self._turn.apply(to_stored_type(pixels, self.stored_dtype))
        return pixels if self._white is None else self.stored_dtype.type(self._white) - pixels

    @abstractmethod
    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        """Read stored pixels (C, h, w) of an existing region, level and plane; may raise anything on damaged data."""

    @abstractmethod
    def close(self) -> None:
        """Close the file; no more reads after this."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class JoinedSource(ImageSource):
    """Images of one size and type as one image: the channels of the first, then those of the second, ..."""

    def __init__(self, sources: Sequence[ImageSource]) -> None:
        first = sources[0]
        for other in sources[1:]:
            if (other.shape, other.depth, other.stored_dtype) != (first.shape, first.depth, first.stored_dtype):
                sizes = [
                    f"{one.path} is {one.depth or 1} x {one.shape[0]} x {one.shape[1]} (z, y, x) of {one.stored_dtype}"
                    for one in (first, other)
                ]
                raise ImageError(
                    f"the channels of an image differ: {', '.join(sizes)}; they must be of one size and type"
                )
        channels, dtype = sum(one.channels for one in sources), first.stored_dtype
        super().__init__(first.path, first.format, first.levels[:1], first.depth, channels, dtype, first.frame)
        self.notes = tuple(note for one in sources for note in one.notes)
        self._sources = tuple(sources)

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        return np.concatenate([one.read_stored(region, level, z) for one in self._sources])

    def _announce(self, region: Region, level: int, z: int) -> None:
        for one in self._sources:
            one.announce(region, level, z)

    def close(self) -> None:
        """Close all files."""
        for one in self._sources:
            one.close()


def announce_mirrored(source: ImageSource, region: Region, level: int = 0, z: int = 0) -> None:
    """Announce what `read_mirrored` of the same region reads."""
    source.announce(_mirrored(source, region, level)[2], level, z)


def read_mirrored(source: ImageSource, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
    """Read the pixels of `region` (not empty), (C, h, w), which may reach beyond the image: there it is mirrored.

    The edge pixel is not repeated, as in `numpy.pad(mode="reflect")`, and any margin is allowed. It is mirrored by
    index: no padded image exists, and each stored pixel is read at most once.

    Raises:
        ImageError: as `ImageSource.read`.
    """
    rows, columns, inner = _mirrored(source, region, level)
    pixels = source.read(inner, level, z)
    if inner == region:
        return pixels
    rows, columns = rows - inner.y0, columns - inner.x0
    own = region.intersect(Region.of_shape(source.levels[level].shape))
    if not own.area:
        return pixels[:, rows[:, None], columns]
    mirrored = np.empty_like(pixels, shape=(len(pixels), *region.shape))
    mirrored[:, *own.within(region).slices] = pixels[:, *own.within(inner).slices]
    for part in region.around(own):  # by index, which is slow: only the frame
        ys, xs = part.within(region).slices
        mirrored[:, ys, xs] = pixels[:, rows[ys, None], columns[xs]]
    return mirrored


def _mirrored(source: ImageSource, region: Region, level: int) -> tuple[np.ndarray, np.ndarray, Region]:
    """Return the row and the column that each of a region's shows, and the region that holds them all."""
    height, width = source.levels[level].shape
    rows, columns = mirror_indices(region.y0, region.y1, height), mirror_indices(region.x0, region.x1, width)
    return rows, columns, Region(int(rows.min()), int(columns.min()), int(rows.max()) + 1, int(columns.max()) + 1)
