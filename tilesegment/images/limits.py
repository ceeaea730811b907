"""Percentiles of the grey values of a whole image, exact, in constant memory.

The invariant: they depend on the pixels of the image alone, not on the part that is predicted, on tiles or on blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.pixels import image_type, to_image_type
from tilesegment.images.source import ImageSource

Limits = tuple[tuple[float, float], ...]  # for each channel, the grey values at a low and a high percentile

_ENOUGH = 1 << 24  # pixels of a plane: the coarsest level that has as many stands for the others
_MOST_PLANES = 16  # of a stack
_SIDE = 2048  # pixels that are read at once
_BINS = 1 << 16
_RESOLVED = 1e-6  # of the value: less of a difference is lost in float32
_TINY = 1e-30


@dataclass(frozen=True)
class Measured:
    """What was measured of an image.

    Attributes:
        limits: for each channel.
        constant: positions of the channels of one value.
        level, planes: where it was measured, and on how many planes.
    """

    limits: Limits
    constant: tuple[int, ...]
    level: int = 0
    planes: int = 1


def limits(image: np.ndarray, percentiles: tuple[float, float]) -> Limits:
    """Return for each channel the grey values at two percentiles of an image (C, H, W), interpolated as NumPy does.

    The second value is always above the first: where both percentiles are one value, the largest value takes its place,
    and in a constant channel a value far from it. NaN and infinity are left out.

    Raises:
        ImageError: a channel has no finite value.
    """
    pixels = to_image_type("the image", image)
    return _measure(lambda: iter((pixels,)), len(pixels), pixels.dtype, percentiles, "the image").limits


def measure_limits(source: ImageSource, percentiles: tuple[float, float], channels: Sequence[int]) -> Measured:
    """Return the `limits` of the chosen channels of an image, read piece by piece.

    Level 0 is read whole or, of a pyramid, the coarsest level that still has 2 ** 24 pixels per plane; of a stack of
    more than 16 planes 16, evenly spread. Integers are read once, float32 twice.

    Raises:
        ImageError: the image cannot be read, or a channel has no finite value.
    """
    level = max((n for n, one in enumerate(source.stored_levels) if one.shape[0] * one.shape[1] >= _ENOUGH), default=0)
    depth = source.depth or 1
    planes = sorted({round(n) for n in np.linspace(0, depth - 1, min(depth, _MOST_PLANES))})

    def pieces() -> Iterator[np.ndarray]:
        for z in planes:
            for region in Region.of_shape(source.levels[level].shape).squares(_SIDE):
                yield source.read(region, level, z)[list(channels)]

    measured = _measure(pieces, len(channels), source.dtype, percentiles, source.path)
    return replace(measured, level=level, planes=len(planes))


def _measure(
    pieces: Callable[[], Iterator[np.ndarray]],
    channels: int,
    dtype: np.dtype,
    percentiles: tuple[float, float],
    path: str,
) -> Measured:
    """Measure the limits of `pieces` (C, h, w), which can be read again, each of uint8, uint16 or float32."""
    assert dtype == image_type(dtype)
    # the upper 16 bits of each value's key are counted first; integers have no more
    shift = 0 if dtype.kind == "u" else 16
    upper = np.zeros((channels, _BINS), np.int64)
    for piece in pieces():
        for counts, values in zip(upper, piece, strict=True):
            counts += np.bincount(_keys(values) >> shift, minlength=_BINS)
    totals = upper.sum(1)
    if not totals.all():
        raise ImageError(f"{path} has no finite value in a channel: there is nothing to scale by; choose others")
    # the lower and the upper neighbour of each percentile, and the largest value
    ranks = [_ranks(int(total), percentiles) for total in totals]
    bins = [
        np.searchsorted(np.cumsum(counts), wanted, side="right") for counts, wanted in zip(upper, ranks, strict=True)
    ]
    keys = bins if shift == 0 else _resolved(pieces, upper, bins, ranks)
    found = [_ends(_values(one, dtype), int(total), percentiles) for one, total in zip(keys, totals, strict=True)]
    constant = tuple(n for n, (low, _, largest) in enumerate(found) if not _differ(low, largest))
    return Measured(tuple(_pair(*ends) for ends in found), constant)


def _keys(values: np.ndarray) -> np.ndarray:
    """Return integers in the order of finite `values`, flat: for float32 its bits, those of negative ones inverted."""
    if values.dtype.kind == "u":
        return values.ravel()
    bits = values[np.isfinite(values)].view(np.uint32)
    return np.where(bits >> 31, ~bits, bits | np.uint32(1 << 31))


def _values(keys: np.ndarray, dtype: np.dtype) -> list[float]:
    """Undo `_keys`."""
    if dtype.kind == "u":
        return [float(key) for key in keys]
    bits = keys.astype(np.uint32)
    bits = np.where(bits >> 31, bits & np.uint32(0x7FFFFFFF), ~bits)
    return [float(value) for value in bits.view(np.float32)]


def _ranks(total: int, percentiles: tuple[float, float]) -> list[int]:
    """Return the ranks, from 0, of the neighbours of both percentiles, and of the largest of `total` values."""
    below = [int(percentile / 100 * (total - 1)) for percentile in percentiles]
    return [rank for lower in below for rank in (lower, min(lower + 1, total - 1))] + [total - 1]


def _resolved(
    pieces: Callable[[], Iterator[np.ndarray]],
    upper: np.ndarray,
    bins: Sequence[np.ndarray],
    ranks: Sequence[Sequence[int]],
) -> list[np.ndarray]:
    """Return the whole keys at `ranks`, whose upper halves are `bins`, by reading the pieces again."""
    lower = [{int(number): np.zeros(_BINS, np.int64) for number in wanted} for wanted in bins]
    for piece in pieces():
        for counts, values in zip(lower, piece, strict=True):
            keys = _keys(values)
            halves = keys >> 16
            for number, count in counts.items():
                count += np.bincount(keys[halves == number] & (_BINS - 1), minlength=_BINS)
    found = []
    for counts, before, wanted, places in zip(lower, np.cumsum(upper, 1) - upper, bins, ranks, strict=True):
        rest = [
            np.searchsorted(np.cumsum(counts[int(number)]), place - before[number], side="right")
            for number, place in zip(wanted, places, strict=True)
        ]
        found.append((wanted.astype(np.int64) << 16) | np.array(rest, np.int64))
    return found


def _ends(values: Sequence[float], total: int, percentiles: tuple[float, float]) -> tuple[float, float, float]:
    """Return the values at both percentiles, given their neighbours and the largest value, and that."""
    low, high = (
        below + (above - below) * (percentile / 100 * (total - 1) % 1)
        for below, above, percentile in zip(values[0:4:2], values[1:4:2], percentiles, strict=True)
    )
    return low, high, values[4]


def _pair(low: float, high: float, largest: float) -> tuple[float, float]:
    """Return two values that differ."""
    end = next((one for one in (high, largest) if _differ(low, one)), low + max(abs(low), 1.0))
    return low, end


def _differ(low: float, high: float) -> bool:
    return high - low > max(_RESOLVED * max(abs(low), abs(high)), _TINY)
