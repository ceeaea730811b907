"""How a file says that its pixels are to be turned and mirrored to be upright: the TIFF tag and EXIF's, 1 to 8."""

from dataclasses import dataclass

import numpy as np

from tilesegment.geometry import Region

_WORDS = {
    2: "mirrored left to right",
    3: "turned by 180 degrees",
    4: "mirrored top to bottom",
    5: "mirrored along the main diagonal",
    6: "turned by 90 degrees clockwise",
    7: "mirrored along the other diagonal",
    8: "turned by 90 degrees counterclockwise",
}


@dataclass(frozen=True)
class Turn:
    """From pixels as stored to pixels as meant: transposed, if at all, and then mirrored.

    Attributes:
        transposes: whether rows become columns.
        mirrors_y, mirrors_x: whether the order of rows, of columns, is reversed after that.
    """

    transposes: bool = False
    mirrors_y: bool = False
    mirrors_x: bool = False

    def pair(self, y_x: tuple) -> tuple:
        """(y, x) of anything that belongs to the stored axes, as it belongs to the turned ones; and back."""
        return y_x[::-1] if self.transposes else y_x

    def stored(self, region: Region, shape: tuple[int, int]) -> Region:
        """Where the pixels of `region` of the turned image, which is of `shape` (H, W), are stored."""
        y0, y1 = (shape[0] - region.y1, shape[0] - region.y0) if self.mirrors_y else (region.y0, region.y1)
        x0, x1 = (shape[1] - region.x1, shape[1] - region.x0) if self.mirrors_x else (region.x0, region.x1)
        return Region(x0, y0, x1, y1) if self.transposes else Region(y0, x0, y1, x1)

    def apply(self, pixels: np.ndarray) -> np.ndarray:
        """Stored pixels (C, h, w), turned; contiguous where anything is done."""
        if self == Turn():
            return pixels
        turned = pixels.swapaxes(1, 2) if self.transposes else pixels
        return np.ascontiguousarray(turned[:, :: -1 if self.mirrors_y else 1, :: -1 if self.mirrors_x else 1])


_TURNS = {
    2: Turn(mirrors_x=True),
    3: Turn(mirrors_y=True, mirrors_x=True),
    4: Turn(mirrors_y=True),
    5: Turn(True),
    6: Turn(True, mirrors_x=True),
    7: Turn(True, True, True),
    8: Turn(True, mirrors_y=True),
}


def turn_of(orientation: int) -> Turn:
    """What the value of the tag asks for; nothing for 1, and for numbers that mean nothing."""
    return _TURNS.get(orientation, Turn())


def turn_words(orientation: int) -> str:
    """What was done to the pixels, for people; empty for 1, and for numbers that mean nothing."""
    return f"{_WORDS[orientation]}, as its orientation tag {orientation} says" if orientation in _WORDS else ""
