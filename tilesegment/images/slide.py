"""Slides that a library decodes: the pixels of each level are defined piece by piece, and so are the same in any read.

A library may place tiles at fractional positions and interpolate between them, so that a pixel depends on the region
that is asked for. Here each level is cut into pieces, each of which is always decoded by the same call: any region
equals the crop of the whole level.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.layout import MAX_SIDE, Choices
from tilesegment.images.pieces import PieceReader, Take
from tilesegment.images.source import BELIEVED_OF_SLIDES, ImageSource, Level, Shown
from tilesegment.metadata import MICROMETRE, UNKNOWN_FRAME, Frame, PixelSize, Spacing
from tilesegment.threads import thread_count

_SIDE = 1024  # pixels: about the side of a piece
_LARGEST_TILE = 2048


class SlideSource(ImageSource):
    """A slide of one plane. A format implements `_decode` and `close`, which calls this one's first."""

    def __init__(
        self,
        path: str,
        format: str,
        levels: Sequence[Level],
        tiles: Sequence[tuple[int, int]],
        dtype: np.dtype,
        channels: int,
        frame: Frame,
        shown: Shown,
    ) -> None:
        """Take the levels, with the (height, width) of the tiles that each of them is stored in."""
        super().__init__(path, format, levels, None, channels, dtype, frame, shown)
        self._sides = [(_piece_side(height), _piece_side(width)) for height, width in tiles]
        self._pieces = PieceReader()
        self._pool = ThreadPoolExecutor(thread_count(), "decode")

    @property
    def cache_bytes(self) -> int:
        """Size of the pieces that reads to come will need, at most as many as the image has."""
        return min(self._pieces.most_kept, self._bytes)

    def keep_at_most(self, most: int) -> None:
        """Keep fewer pieces than a prediction needs."""
        self._pieces.most_kept = most

    @property
    def decoded_bytes(self) -> int:
        """Size of the pieces decoded."""
        return self._pieces.decoded_bytes

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        pixels = np.empty((self.channels, *region.shape), self.stored_dtype)

        def decode(needed: list[Region], take: Take) -> None:
            self._pieces.decoded_bytes += sum(own.area for own in needed) * pixels.itemsize * self.channels
            list(self._pool.map(lambda own: take(own, self._decode(own, level)), needed))

        self._pieces.read(pixels, region, (level, self.levels[level].shape, self._sides[level]), decode)
        return pixels

    @abstractmethod
    def _decode(self, region: Region, level: int) -> np.ndarray:
        """Decode a piece, (C, h, w) in `stored_dtype`; from several threads at once."""

    def close(self) -> None:
        """Drop what is kept, once nothing is being decoded."""
        self._pool.shutdown(cancel_futures=True)
        self._pieces.close()


def _piece_side(tile: int) -> int:
    """Return the side of a piece: whole tiles, as far as these are neither tiny nor huge."""
    return max(_SIDE // tile, 1) * tile if 0 < tile <= _LARGEST_TILE else _SIDE


def slide_frame(
    path: str, mpp: tuple[float, float] | None, notes: list[str], origin: tuple[float, float] = (0, 0)
) -> Frame:
    """Return where pixels lie; note it if their size is not believed.

    Args:
        path: of the slide.
        mpp: (y, x) micrometres per pixel that the slide names, if any.
        notes: to add to.
        origin: (y, x) of the first pixel, in pixels.
    """
    if mpp is None:
        return UNKNOWN_FRAME
    size = PixelSize(*mpp)
    low, high = BELIEVED_OF_SLIDES
    if not all(low <= side <= high for side in mpp):
        notes.append(
            f"{path} says that its pixels are {size} um: of slides {low:g} to {high:g} are believed, "
            "so their size is unknown"
        )
        return UNKNOWN_FRAME
    y, x = (Spacing(side, start * side, MICROMETRE) for side, start in zip(mpp, origin, strict=True))
    return Frame(y=y, x=x)


def number(text: object) -> float | None:
    """Return a positive number that metadata give as text; None if it is none."""
    try:
        value = float(str(text))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def check_choices(path: str, choices: Choices) -> None:
    """Refuse choices that a slide does not have.

    Raises:
        ImageError: axes or positions are chosen.
    """
    if choices.axes is not None or choices.select:
        what = f"--axes {choices.axes}" if choices.axes is not None else "--select"
        raise ImageError(f"{path} is a slide of one plane, whose axes are known: leave {what} out")


def check_size(path: str, shape: tuple[int, int]) -> None:
    """Refuse what no slide can be.

    Raises:
        ImageError: it is empty, or too large.
    """
    if min(shape) < 1 or max(shape) > MAX_SIDE:
        raise ImageError(f"{path} claims to be {shape[0]} x {shape[1]} pixels: its header is damaged, copy it again")
