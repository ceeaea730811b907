"""Images that are arrays in this process, or behind an object that is read like one: numpy, dask, zarr, h5py."""

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import zarr

from tilesegment.errors import ImageError, TilesegmentError
from tilesegment.geometry import Region
from tilesegment.images.chunked import ChunkedSource, Index
from tilesegment.images.identity import Identity
from tilesegment.images.layout import Choices, Layout, arrange, chosen_series, note_on_inversion
from tilesegment.images.source import ImageSource, Level, Shown
from tilesegment.metadata import UNKNOWN_FRAME

_WHOLE = 1 << 26  # bytes of an array in memory up to which all of it tells it from others
_SAMPLES, _SAMPLE = 16, 64  # windows read of any other, and their side in pixels
_BAND = 1 << 24  # pixels that are copied at once


@runtime_checkable
class ArrayLike(Protocol):
    """What can be an image: an array of numpy, dask, zarr or h5py."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> Any: ...
    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, eq=False)
class ImageArray:
    """An array that is given as an image; in messages it is called by what it is."""

    array: ArrayLike

    @classmethod
    def of(cls, given: object) -> "ImageArray":
        """Take an array.

        Raises:
            ImageError: it is none, or its values are no numbers.
        """
        if not isinstance(given, ArrayLike):
            raise ImageError(
                f"the image is a {type(given).__name__}; allowed: a path, or an array of numpy, dask, zarr or h5py"
            )
        try:
            kind = np.dtype(given.dtype).kind
        except TypeError:
            kind = "O"
        if kind not in "buif":
            raise ImageError(
                f"the image is an array of {given.dtype}; allowed: numbers, in an array of numpy, dask, zarr or h5py"
            )
        return cls(given)

    def __str__(self) -> str:
        sizes = " x ".join(map(str, self.array.shape))
        return f"array of {sizes} {np.dtype(self.array.dtype)}"

    def open(self, choices: Choices) -> "ArraySource | LazySource":
        """Open it.

        Raises:
            ImageError: its axes are not known, or an axis other than y, x, z and the channels is not selected.
        """
        name, notes = str(self), note_on_inversion(str(self), choices.invert)
        chosen_series(name, choices.series, ())
        layout = arrange(name, self._axes(choices.axes), tuple(self.array.shape), choices.select)
        shown = Shown(notes=notes)
        if isinstance(self.array, np.ndarray):
            return ArraySource(name, self.array, layout, shown)
        return LazySource(name, self.array, layout, shown)

    def _axes(self, axes: str | None) -> Sequence[str]:
        """Return what the dimensions are: as given, as a Zarr array names them, y and x where there are two."""
        if axes is not None:
            return axes
        names = getattr(getattr(self.array, "metadata", None), "dimension_names", None)
        if names is not None and {"y", "x"} <= set(names) and all(isinstance(one, str) for one in names):
            return tuple(names)
        if len(self.array.shape) == 2:
            return "yx"
        raise ImageError(
            f"{self} does not say what its dimensions are: give its --axes, one letter of t, z, c, y, x each, "
            'such as axes="cyx", "yxc" or "zyx"'
        )


class ArraySource(ImageSource):
    """A numpy array: what is read are views of it."""

    is_stored = False

    def __init__(self, name: str, array: np.ndarray, layout: Layout, shown: Shown) -> None:
        levels = [Level(layout.plane, (1.0, 1.0))]
        super().__init__(name, "array", levels, layout.depth, layout.channels, array.dtype, UNKNOWN_FRAME, shown)
        self._array: np.ndarray | None = array
        self._layout = layout

    def identity(self) -> Identity:
        """What tells it from others: all of its values, of a large one samples."""
        assert self._array is not None
        digest = _digest_of(self)
        if self._array.nbytes > _WHOLE:
            return _sampled(self, digest)
        digest.update(np.ascontiguousarray(self._array).data)
        return Identity(digest.hexdigest(), True, "")

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        assert self._array is not None
        return self._layout.to_planes(self._array[self._layout.index(region, z)])

    def close(self) -> None:
        """Forget the array."""
        self._array = None


@dataclass(frozen=True)
class _Lazy:
    """An array whose values are read or computed when they are asked for."""

    array: Any

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.array.dtype)

    def side(self, dimension: int) -> int:
        """Return the length of a chunk, of chunks of several lengths the largest; without chunks of what is read."""
        chunks = getattr(self.array, "chunks", None)
        if chunks is None:
            return min(512, int(self.array.shape[dimension]))
        found = chunks[dimension]
        return max(1, int(found if isinstance(found, int) else max(found)))

    def read(self, index: Index) -> np.ndarray:
        """Read or compute what the array holds at `index`."""
        return np.asarray(self.array[index])

    def announce(self, index: Index) -> None:
        """Nothing can be begun."""

    def decoded_bytes(self, index: Index) -> int:
        """Return the size of what is asked for."""
        spans = zip(index, self.array.shape, strict=True)
        return (
            math.prod(len(range(*one.indices(n))) for one, n in spans if isinstance(one, slice)) * self.dtype.itemsize
        )


class LazySource(ChunkedSource):
    """An array that is read or computed by region: dask, zarr, h5py."""

    is_stored = False

    def __init__(self, name: str, array: Any, layout: Layout, shown: Shown) -> None:
        super().__init__(name, "array", [(_Lazy(array), layout)], [(1.0, 1.0)], UNKNOWN_FRAME, shown)

    def identity(self) -> Identity:
        """What tells it from others: samples of its values."""
        return _sampled(self, _digest_of(self))


def write_array(path: Path, given: object, axes: str | None) -> Path:
    """Write an array to a new Zarr at `path`, a band of rows at a time, and return `path`.

    Raises:
        ImageError: it is no array, or its axes are not known.
    """
    held = ImageArray.of(given)
    names, array = tuple(held._axes(axes)), held.array
    arrange(str(held), names, tuple(array.shape), {})
    chunks = tuple(min(512, n) if name in "yx" else 1 for name, n in zip(names, array.shape, strict=True))
    written = zarr.create_array(
        path, shape=array.shape, chunks=chunks, dtype=np.dtype(array.dtype).newbyteorder("="), dimension_names=names
    )
    rows = names.index("y")
    across = max(math.prod(array.shape) // array.shape[rows], 1)
    step = -(-max(_BAND // across, 1) // 512) * 512  # whole chunks
    for start in range(0, array.shape[rows], step):
        index = tuple(slice(start, start + step) if n == rows else slice(None) for n in range(len(names)))
        written[index] = np.asarray(array[index])
    return path


@contextmanager
def naming(names: Mapping[str, str]) -> Iterator[None]:
    """Where an error speaks of the file in which an array was put, let it speak of the array.

    Args:
        names: what the array is called, by the path of its file.
    """
    try:
        yield
    except TilesegmentError as error:
        raise type(error)(named(str(error), names)) from error


def named(text: str, names: Mapping[str, str]) -> str:
    """Return a text with what an array is called in the place of its file."""
    for path, name in names.items():
        text = text.replace(path, f"the {name}")
    return text


def _digest_of(source: ImageSource) -> "hashlib._Hash":
    described = (source.shape, source.depth, source.channels, str(source.stored_dtype))
    return hashlib.sha256(repr(described).encode())


def _sampled(source: ImageSource, digest: "hashlib._Hash") -> Identity:
    """Add windows at even distances along the diagonals, through all planes."""
    (height, width), depth = source.shape, source.depth or 1
    for number in range(_SAMPLES):
        y, x = (max(side - _SAMPLE, 0) * number // (_SAMPLES - 1) for side in (height, width))
        x = x if number % 2 else max(width - _SAMPLE, 0) - x
        window = Region(y, x, min(y + _SAMPLE, height), min(x + _SAMPLE, width))
        digest.update(np.ascontiguousarray(source.read_stored(window, 0, (depth - 1) * number // (_SAMPLES - 1))).data)
    return Identity(digest.hexdigest(), False, "")
