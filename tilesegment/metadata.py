"""Small facts that images, masks and models share: how large a pixel is, what a class is called and looks like."""

from dataclasses import dataclass
from itertools import cycle, islice

MARK = "tilesegment"
"""Attribute, annotation or text chunk by which files of ours are known."""

# Okabe and Ito's palette (2008), told apart by colour-blind readers; background is black
_PALETTE = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@dataclass(frozen=True)
class PixelSize:
    """Side lengths of a pixel of level 0, in micrometres."""

    y: float
    x: float


@dataclass(frozen=True)
class Spacing:
    """How pixels, or planes, lie along an axis.

    Attributes:
        scale: from the centre of one to the centre of the next, in `unit`.
        origin: of the centre of the first, in `unit`.
        unit: its name; None if it is not known, and then `scale` is 1 unless a file gives a number without a unit.
    """

    scale: float = 1.0
    origin: float = 0.0
    unit: str | None = None


@dataclass(frozen=True)
class Frame:
    """Where the pixels of level 0 lie, axis by axis, each in a unit of its own."""

    z: Spacing = Spacing()
    y: Spacing = Spacing()
    x: Spacing = Spacing()


UNKNOWN_FRAME = Frame()


def reduction(full: int, reduced: int) -> float:
    """Pixels of level 0 per pixel of a level: a whole number where one explains the sizes, as they are rounded."""
    whole = round(full / reduced)
    return float(whole) if whole and reduced in (full // whole, -(-full // whole)) else full / reduced


@dataclass(frozen=True)
class LabelClass:
    """One class of a mask; its id is its position in the tuple of classes.

    Attributes:
        name: what it is called.
        colour: how it is drawn, `#rrggbb`.
        value: grey value that it had in the training labels, None if that is not known.
    """

    name: str
    colour: str
    value: int | None = None

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue, each 0 to 255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


def default_colours(count: int) -> tuple[str, ...]:
    """`count` colours for classes 0, 1, ...: the first is black, the others repeat after seven."""
    return (_PALETTE[0], *islice(cycle(_PALETTE[1:]), count - 1))
