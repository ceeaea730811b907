"""Lengths as files write them, in micrometres."""

import math

from tilesegment.metadata import PixelSize

_MICROMETRES = {
    **dict.fromkeys(("micrometer", "micrometre", "micron", "microns", "um", "µm", "μm", "\\u00b5m"), 1.0),
    **dict.fromkeys(("nanometer", "nanometre", "nm"), 1e-3),
    **dict.fromkeys(("angstrom", "å"), 1e-4),
    **dict.fromkeys(("picometer", "picometre", "pm"), 1e-6),
    **dict.fromkeys(("millimeter", "millimetre", "mm"), 1e3),
    **dict.fromkeys(("centimeter", "centimetre", "cm"), 1e4),
    **dict.fromkeys(("meter", "metre", "m"), 1e6),
    **dict.fromkeys(("inch", "in"), 25400.0),
}


def pixel_size(y: float, x: float, units: tuple[str, str]) -> PixelSize | None:
    """A pixel of `y` by `x` in `units` (y, x: names or symbols); None if a unit is unknown or a length is senseless."""
    try:
        sides = [length * _MICROMETRES[unit.strip().lower()] for length, unit in zip((y, x), units, strict=True)]
    except KeyError:  # "pixel", "reference frame" and the like say nothing of the size
        return None
    return PixelSize(*sides) if all(math.isfinite(side) and side > 0 for side in sides) else None
