"""Metadata that images, masks and models share: units, pixel sizes, positions, classes."""

import math
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

MARK = "tilesegment"
"""Attribute, annotation or text chunk that marks our own files."""

TOLERATED = 0.2  # relative difference of pixel sizes; augmentation varies the size of objects by as much
MICROMETRE = "micrometer"  # as OME-Zarr spells it
_MICROMETRES = {
    **dict.fromkeys((MICROMETRE, "micrometre", "micron", "microns", "um", "µm", "μm", "\\u00b5m"), 1.0),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1e-3),
    **dict.fromkeys(("angstrom", "å"), 1e-4),
    **dict.fromkeys(("picometer", "picometre", "pm"), 1e-6),
    **dict.fromkeys(("femtometer", "femtometre", "fm"), 1e-9),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e3),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), 1e4),
    **dict.fromkeys(("decimeter", "decimetre", "dm"), 1e5),
    **dict.fromkeys(("meter", "metre", "m"), 1e6),
    **dict.fromkeys(("kilometer", "kilometre", "km"), 1e9),
    **dict.fromkeys(("inch", "in"), 25400.0),
    **dict.fromkeys(("foot", "ft"), 304800.0),
    **dict.fromkeys(("yard", "yd"), 914400.0),
}
ROLES = ("object", "border")  # of classes in objects
GROUNDS = DARK, BRIGHT = "dark", "bright"  # what images may lie on: fluorescence, stained tissue
# Okabe and Ito's palette (2008), distinguishable by colour-blind readers; background is black
_PALETTE = ("#000000", "#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7")


@dataclass(frozen=True)
class PixelSize:
    """Side lengths of a pixel of level 0, in micrometres."""

    y: float
    x: float

    def __str__(self) -> str:
        return f"{self.y:.3g}" if self.y == self.x else f"{self.y:.3g} x {self.x:.3g}"


@dataclass(frozen=True)
class Spacing:
    """How pixels, or planes, lie along an axis.

    Attributes:
        scale: distance between neighbouring centres, in `unit`.
        origin: position of the first centre, in `unit`.
        unit: name; None if unknown: then `scale` is 1, unless a file gives a number without a unit.
    """

    scale: float = 1.0
    origin: float = 0.0
    unit: str | None = None


@dataclass(frozen=True)
class Frame:
    """Where the pixels of level 0 lie along each axis, in the unit of that axis."""

    z: Spacing = Spacing()
    y: Spacing = Spacing()
    x: Spacing = Spacing()


UNKNOWN_FRAME = Frame()


def micrometres(unit: str | None) -> float | None:
    """Return the length of `unit` (a name or symbol) in micrometres; None for "pixel", "reference frame" and so on."""
    return None if unit is None else _MICROMETRES.get(unit.strip().lower())


def size_of(frame: Frame) -> PixelSize | None:
    """Return the pixel size of a frame; None if a unit is unknown or a length is not a positive number."""
    sides = [spacing.scale * (micrometres(spacing.unit) or math.nan) for spacing in (frame.y, frame.x)]
    return PixelSize(*sides) if all(math.isfinite(side) and side > 0 for side in sides) else None


def frame_of_size(size: PixelSize | None) -> Frame:
    """Return the frame of an image when at most its pixel size is known."""
    if size is None:
        return UNKNOWN_FRAME
    return Frame(y=Spacing(size.y, unit=MICROMETRE), x=Spacing(size.x, unit=MICROMETRE))


def size_difference(here: PixelSize, there: PixelSize) -> float:
    """Return the larger relative difference of the two axes, as a fraction of `there`."""
    # rounded, so that 0.6 and 0.5 differ by exactly a fifth
    return round(max(abs(here.y / there.y - 1), abs(here.x / there.x - 1)), 6)


def in_micrometres(frame: Frame) -> Frame:
    """Return `frame` in micrometres; an axis in an unknown unit keeps its numbers and loses the unit."""

    def converted(spacing: Spacing) -> Spacing:
        per = micrometres(spacing.unit)
        if per is None:
            return Spacing(spacing.scale, spacing.origin)
        scale, origin = spacing.scale * per, spacing.origin * per
        return Spacing(scale, origin, MICROMETRE) if math.isfinite(scale) and math.isfinite(origin) else Spacing()

    return Frame(converted(frame.z), converted(frame.y), converted(frame.x))


def part_of_frame(
    image: Frame, *, scale: tuple[float, float], first: tuple[float, float, float], size: PixelSize | None
) -> Frame:
    """Return the frame of a part of an image, possibly at a lower resolution.

    Args:
        image: the frame of the image.
        scale: (y, x) pixels of the image that one pixel of the part spans.
        first: (z, y, x) where the part begins, in its own planes and pixels.
        size: pixel size of the part, if known; used where the image's unit is unknown or its scale disagrees.
    """

    def placed(spacing: Spacing, factor: float, side: float | None, start: float) -> Spacing:
        step, unit, per = spacing.scale * factor, spacing.unit, micrometres(spacing.unit)
        if side is not None and per is None and spacing == Spacing():
            step, unit = side, MICROMETRE
        elif side is not None and per is not None and not math.isclose(step, side / per, rel_tol=1e-3):
            step = side / per
        return Spacing(step, spacing.origin + start * step, unit)

    y, x = (None, None) if size is None else (size.y, size.x)
    return Frame(
        placed(image.z, 1, None, first[0]),
        placed(image.y, scale[0], y, first[1]),
        placed(image.x, scale[1], x, first[2]),
    )


def reduction(full: int, reduced: int) -> float:
    """Return the pixels of level 0 per pixel of a level: a whole number if one explains the rounded sizes."""
    whole = round(full / reduced)
    return float(whole) if whole and reduced in (full // whole, -(-full // whole)) else full / reduced


def halved_side(side: int, halvings: int, floor: bool) -> int:
    """Return a side that is halved `halvings` times, rounded up, or down if `floor`; at least 1."""
    return max(side >> halvings, 1) if floor else -(-side >> halvings)


@dataclass(frozen=True)
class LabelClass:
    """One class of a mask; its id is its position in the tuple of classes.

    Attributes:
        name: what it is called.
        colour: how it is drawn, `#rrggbb`.
        value: its grey value in the training labels, None if unknown.
        role: of its pixels in objects: `object` makes them, `border` separates them and is given back to them; empty if
            unknown.
        min_area: pixels of the smallest object of this class that counts; smaller ones are mostly noise.
    """

    name: str
    colour: str
    value: int | None = None
    role: str = ""
    min_area: int = 0

    def as_json(self) -> dict[str, Any]:
        """Return it for JSON, without role and least area where there is none, as earlier releases know none."""
        known = {"name": self.name, "colour": self.colour, "value": self.value}
        known |= {"role": self.role} if self.role else {}
        return known | {"min_area": self.min_area} if self.min_area else known

    @property
    def rgb(self) -> tuple[int, int, int]:
        """Red, green, blue, each 0 to 255."""
        return int(self.colour[1:3], 16), int(self.colour[3:5], 16), int(self.colour[5:7], 16)


def default_colours(count: int) -> tuple[str, ...]:
    """Return `count` colours for classes 0, 1, ...: the first is black, the others repeat after seven."""
    return (_PALETTE[0], *islice(cycle(_PALETTE[1:]), count - 1))
