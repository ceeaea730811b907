"""Lengths as files write them, in micrometres."""

import math

from tilesegment.metadata import Frame, PixelSize, Spacing

TOLERATED = 0.2  # difference of pixel sizes: objects that much smaller or larger are within what training shows
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


def micrometres(unit: str | None) -> float | None:
    """How many micrometres `unit` (a name or symbol) is; None for "pixel", "reference frame" and the like."""
    return None if unit is None else _MICROMETRES.get(unit.strip().lower())


def pixel_size(y: float, x: float, units: tuple[str, str]) -> PixelSize | None:
    """A pixel of `y` by `x` in `units` (y, x: names or symbols); None if a unit is unknown or a length is senseless."""
    return size_of(Frame(y=Spacing(y, unit=units[0]), x=Spacing(x, unit=units[1])))


def size_of(frame: Frame) -> PixelSize | None:
    """The pixel size of a frame; None if a unit is unknown or a length is senseless."""
    per = (micrometres(frame.y.unit), micrometres(frame.x.unit))
    if per[0] is None or per[1] is None:
        return None
    sides = frame.y.scale * per[0], frame.x.scale * per[1]
    return PixelSize(*sides) if all(math.isfinite(side) and side > 0 for side in sides) else None


def size_difference(here: PixelSize, there: PixelSize) -> float:
    """By how much pixels of size `here` differ from those of `there`: the larger of both axes, in parts of `there`."""
    # rounded: 0.6 is not more than a fifth away from 0.5
    return round(max(abs(here.y / there.y - 1), abs(here.x / there.x - 1)), 6)


def in_micrometres(frame: Frame) -> Frame:
    """`frame` with each axis in micrometres; an axis in an unknown unit keeps its numbers and loses the unit."""
    return Frame(*(_converted(spacing) for spacing in (frame.z, frame.y, frame.x)))


def _converted(spacing: Spacing) -> Spacing:
    per = micrometres(spacing.unit)
    if per is None:
        return Spacing(spacing.scale, spacing.origin)
    scale, origin = spacing.scale * per, spacing.origin * per
    return Spacing(scale, origin, MICROMETRE) if math.isfinite(scale) and math.isfinite(origin) else Spacing()


def frame_of_size(size: PixelSize | None) -> Frame:
    """The frame of an image of which nothing but the pixel size is known."""
    if size is None:
        return Frame()
    return Frame(y=Spacing(size.y, unit=MICROMETRE), x=Spacing(size.x, unit=MICROMETRE))
