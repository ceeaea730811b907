"""Which values the channels of an image have: what is black and what is full colour at first."""

from dataclasses import asdict, dataclass
from math import prod

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource
from tilesegment.viewer.layer import JSON

_PERCENTILES = (0.1, 99.9)
_WHOLE = 1 << 22  # values of a level that is looked at as a whole
_SAMPLES, _SIDE = 4, 256  # else so many squares along each axis, of this side


@dataclass(frozen=True)
class Range:
    """Of a channel: `low` and `high`, between which nearly all values lie; the least and greatest possible or seen."""

    low: float
    high: float
    least: float
    greatest: float

    def as_json(self) -> dict[str, JSON]:
        """Return all by name."""
        return asdict(self)


def ranges_of(source: ImageSource) -> tuple[Range, ...]:
    """Return the range of each channel, by percentiles of the smallest stored level or of squares spread over it.

    Of a stack the middle plane is taken.

    Raises:
        ImageError: pixels cannot be read.
    """
    level = max(range(len(source.stored_levels)), key=lambda n: source.levels[n].scale)
    shape, z = source.levels[level].shape, (source.depth or 1) // 2
    if prod(shape) * source.channels <= _WHOLE:
        seen = [source.read(Region.of_shape(shape), level, z)]
    else:
        seen = [source.read(region, level, z) for region in _spread(shape)]
    values = np.concatenate([one.reshape(source.channels, -1) for one in seen], axis=1)
    return tuple(_range(one) for one in values)


def _spread(shape: tuple[int, int]) -> list[Region]:
    """Squares at even distances, clipped to an image of `shape`."""
    starts = [
        sorted({max(0, (2 * n + 1) * side // (2 * _SAMPLES) - _SIDE // 2) for n in range(_SAMPLES)}) for side in shape
    ]
    whole = Region.of_shape(shape)
    return [Region(y, x, y + _SIDE, x + _SIDE).intersect(whole) for y in starts[0] for x in starts[1]]


def _range(values: np.ndarray) -> Range:
    known = values[np.isfinite(values)] if values.dtype.kind == "f" else values
    if not known.size:
        return Range(0.0, 1.0, 0.0, 1.0)
    low, high = (float(one) for one in np.percentile(known, _PERCENTILES))
    if values.dtype.kind == "u":
        least, greatest = 0.0, float(np.iinfo(values.dtype).max)
    else:
        least, greatest = float(known.min()), float(known.max())
    if low == high:  # of a constant image nothing is seen anyway
        low, high = (least, greatest) if least < greatest else (low - 1, high + 1)
    return Range(low, high, least, greatest)
