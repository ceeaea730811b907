"""Percentiles of the grey values of a whole image, exact, in constant memory.

The invariant: they depend on the pixels of the image alone, not on the part that is predicted, on tiles or on blocks.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import isqrt

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.pixels import image_type, to_image_type
from tilesegment.images.source import ImageSource

Limits = tuple[tuple[float, float], ...]  # for each channel, the grey values at a low and a high percentile

ENOUGH = 1 << 24  # pixels of a plane: the coarsest level that has as many stands for the others
_MOST_PLANES = 16  # of a stack
_SIDE, _PIECE = 2048, 1 << 25  # pixels of a side that are read at once, at most, and bytes
_CODES, _AT_ONCE = 1 << 16, 1 << 18
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


def measure_limits(
    source: ImageSource, percentiles: tuple[float, float], channels: Sequence[int], enough: int = ENOUGH
) -> Measured:
    """Return the `limits` of the chosen channels of an image, read piece by piece.

    Level 0 is read whole or, of a pyramid, the coarsest level that still has `enough` pixels per plane; of a stack of
    more than 16 planes 16, evenly spread. Integers are read once, float32 twice.

    Raises:
        ImageError: the image cannot be read, or a channel has no finite value.
    """
    levels = source.stored_levels
    level = max((n for n, one in enumerate(levels) if one.shape[0] * one.shape[1] >= enough), default=0)
    depth = source.depth or 1
    planes = sorted({round(n) for n in np.linspace(0, depth - 1, min(depth, _MOST_PLANES))})
    fitting = isqrt(_PIECE // (source.channels * source.dtype.itemsize))
    side = min(_SIDE, 1 << fitting.bit_length() - 1)  # a power of two, as the sides of stored tiles are

    def pieces() -> Iterator[np.ndarray]:
        for z in planes:
            for region in Region.of_shape(levels[level].shape).squares(side):
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
    codes = _codes(dtype)
    counts = np.zeros((channels, _CODES), np.int64)
    for piece in pieces():
        for count, values in zip(counts, piece, strict=True):
            _add(_upper(values), count)
    sums = np.cumsum(counts[:, codes], 1)
    totals = sums[:, -1]
    if not totals.all():
        raise ImageError(f"{path} has no finite value in a channel: there is nothing to scale by; choose others")
    # the lower and the upper neighbour of each percentile, and the largest value
    ranks = [_ranks(int(total), percentiles) for total in totals]
    places = [np.searchsorted(one, wanted, side="right") for one, wanted in zip(sums, ranks, strict=True)]
    values = [[float(codes[place]) for place in one] for one in places]
    if dtype.kind == "f":
        before = [one - count[codes] for one, count in zip(sums, counts, strict=True)]
        left = [np.array(one) - b[place] for one, b, place in zip(ranks, before, places, strict=True)]
        values = _whole_floats(pieces, [codes[place] for place in places], left)
    found = [_ends(one, int(total), percentiles) for one, total in zip(values, totals, strict=True)]
    constant = tuple(n for n, (low, _, largest) in enumerate(found) if not _differ(low, largest))
    return Measured(tuple(_pair(*ends) for ends in found), constant)


def _add(values: np.ndarray, counts: np.ndarray) -> None:
    """Add how often each of some integers below 65536 occurs; in parts, which fit a processor's cache."""
    flat = values.ravel()
    for start in range(0, flat.size, _AT_ONCE):
        found = np.bincount(flat[start : start + _AT_ONCE])
        counts[: len(found)] += found


def _upper(values: np.ndarray) -> np.ndarray:
    """Return integers as they are, and of float32 the upper 16 bits, its sign, exponent and first digits."""
    return values if values.dtype.kind == "u" else _halves(values)[:, 1]


def _halves(values: np.ndarray) -> np.ndarray:
    """Return float32 values as their lower and upper 16 bits, (n, 2) uint16."""
    return np.ascontiguousarray(values, "<f4").reshape(-1, 1).view("<u2")


def _codes(dtype: np.dtype) -> np.ndarray:
    """Return all that `_upper` gives of finite values, in the order of the values."""
    if dtype.kind == "u":
        return np.arange(_CODES)
    positive = np.arange(0x7F80)  # from there on infinity and NaN
    return np.concatenate([positive[::-1] | 0x8000, positive])


def _ranks(total: int, percentiles: tuple[float, float]) -> list[int]:
    """Return the ranks, from 0, of the neighbours of both percentiles, and of the largest of `total` values."""
    below = [int(percentile / 100 * (total - 1)) for percentile in percentiles]
    return [rank for lower in below for rank in (lower, min(lower + 1, total - 1))] + [total - 1]


def _whole_floats(
    pieces: Callable[[], Iterator[np.ndarray]], uppers: Sequence[np.ndarray], ranks: Sequence[np.ndarray]
) -> list[list[float]]:
    """Return for each channel the values of these upper 16 bits, and of these ranks among those that share them."""
    lower = [{int(code): np.zeros(_CODES, np.int64) for code in wanted} for wanted in uppers]
    for piece in pieces():
        for by_code, values in zip(lower, piece, strict=True):
            halves = _halves(values)
            for code, counts in by_code.items():
                _add(halves[halves[:, 1] == code, 0], counts)
    return [
        [_float(code, by_code[code], rank) for code, rank in zip(wanted.tolist(), places, strict=True)]
        for by_code, wanted, places in zip(lower, uppers, ranks, strict=True)
    ]


def _float(code: int, counts: np.ndarray, rank: int) -> float:
    """Return the float32 of this rank among those of the upper 16 bits `code`, whose lower ones occur so often."""
    is_negative = code >= 0x8000
    place = int(np.searchsorted(np.cumsum(counts[::-1] if is_negative else counts), rank, side="right"))
    bits = np.uint32(code << 16 | (_CODES - 1 - place if is_negative else place))
    return float(bits.view(np.float32))


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
