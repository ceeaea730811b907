"""Grey values of objects: sums that add up to the same number whatever the order, for integers and for float32.

A sum is kept as digits: int64 numbers that count units of 2^(28 * place). Integer images need one digit, at place 0.
Floats are cut into as many as they take, so that their sums are exact too. A digit has room for 2^35 pixels.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

BITS = 28
_Reduce = Callable[[np.ufunc, np.ndarray], np.ndarray]


@dataclass
class Digits:
    """Exact sums of n objects in C channels.

    Attributes:
        digits: (n, C, places) int64, lowest place first.
        place: the place of the first digit, for all objects alike.
    """

    digits: np.ndarray
    place: int = 0

    @classmethod
    def join(cls, parts: Sequence["Digits"], axis: int) -> "Digits":
        """Put parts together, as objects (axis 0) or as channels (axis 1); there is at least one."""
        place = min(part.place for part in parts)
        places = max(part.place + part.digits.shape[2] for part in parts) - place
        padded = []
        for part in parts:
            before = part.place - place
            after = places - before - part.digits.shape[2]
            padded.append(np.pad(part.digits, ((0, 0), (0, 0), (before, after))))
        return cls(np.concatenate(padded, axis), place)

    def as_integers(self, place: int) -> np.ndarray:
        """Return the sums as Python integers, (n, C) of dtype object, in units of 2^(28 * place), not above ours."""
        shifts = [1 << BITS * (self.place - place + k) for k in range(self.digits.shape[2])]
        return (self.digits.astype(object) * np.array(shifts, object)).sum(axis=2)


@dataclass
class Grey:
    """Grey values of n objects in C channels.

    Attributes:
        total: sums of the finite values.
        square: sums of their squares.
        low: (n, C) smallest value, in the type of the image; NaN where a pixel is NaN.
        high: (n, C) largest value, likewise.
    """

    total: Digits
    square: Digits
    low: np.ndarray
    high: np.ndarray

    @classmethod
    def empty(cls, objects: int, channels: int, dtype: np.dtype | type) -> "Grey":
        """The grey values of objects without channels, or of no objects in some channels."""
        assert not objects or not channels
        digits = Digits(np.zeros((objects, channels, 1), np.int64))
        return cls(digits, digits, *(np.zeros((objects, channels), dtype) for _ in range(2)))

    def take(self, rows: slice) -> "Grey":
        """The grey values of some objects."""
        total, square = (Digits(one.digits[rows], one.place) for one in (self.total, self.square))
        return Grey(total, square, self.low[rows], self.high[rows])

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return everything as named arrays."""
        places = np.array([self.total.place, self.square.place])
        arrays = (self.total.digits, self.square.digits, places, self.low, self.high)
        return dict(zip(("grey_total", "grey_square", "grey_places", "grey_low", "grey_high"), arrays, strict=True))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> "Grey":
        """Return what `to_arrays` gave."""
        total, square = (
            Digits(arrays[name], int(place))
            for name, place in zip(("grey_total", "grey_square"), arrays["grey_places"], strict=True)
        )
        return cls(total, square, arrays["grey_low"], arrays["grey_high"])

    @classmethod
    def merge(cls, parts: Sequence["Grey"], add: _Reduce) -> "Grey":
        """Add up the grey values of the pieces of objects; `add(operation, rows)` reduces rows to those of objects."""
        total, square = (Digits.join([getattr(part, name) for part in parts], 0) for name in ("total", "square"))
        low, high = (np.concatenate([getattr(part, name) for part in parts]) for name in ("low", "high"))
        total, square = (Digits(add(np.add, one.digits), one.place) for one in (total, square))
        return cls(total, square, add(np.minimum, low), add(np.maximum, high))

    def mean_and_deviation(self, area: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the mean and the standard deviation (divisor n, as numpy's) of each object, (n, C) float64.

        Args:
            area: (n,) int64, pixels per object.

        Nothing is lost where values are large and differ little: the sums are exact. Both are NaN where a pixel is NaN
        or infinite; the deviation of integers is NaN where area * (high - low)^2 exceeds 2^65.
        """
        n = area[:, None]
        if self.low.dtype.kind == "u":
            sums, squares = self.total.digits[:, :, 0], self.square.digits[:, :, 0]
            spread = self.high.astype(np.float64) - self.low
            return sums / n, np.sqrt(central_moment(n, sums, squares, spread) / n)
        place = min(self.total.place, self.square.place // 2)
        exact, n = self.total.as_integers(place), n.astype(object)
        # integers of Python: the quotients are rounded once
        variance = (n * self.square.as_integers(2 * place) - exact * exact) / (n * n)
        finite = np.isfinite(self.low) & np.isfinite(self.high)
        both = (exact / n).astype(np.float64), np.sqrt(variance.astype(np.float64))
        mean, deviation = (np.where(finite, np.ldexp(values, BITS * place), np.nan) for values in both)
        return mean, deviation


def central_moment(n: np.ndarray, total: np.ndarray, square: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Return the sum of (v - mean)^2 over the pixels of each object, float64, right up to the last bits.

    Args:
        n: number of pixels, int64.
        total: sum of the values v, int64.
        square: sum of v^2, int64 modulo 2^64.
        spread: largest minus smallest value, float64.

    NaN where the sum, at most n * spread^2 / 4, may not fit into 63 bits.
    """
    pivot, rest = pivot_of(n, total)
    about = square - 2 * pivot * total + n * pivot * pivot
    # the pivot is the nearest integer to the mean, so at most half is taken away
    return np.where(n * (spread * spread + 1) < 2.0**65, about - rest * rest / n, np.nan)


def pivot_of(n: np.ndarray, total: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the integer nearest to total / n, and total - n * pivot as float64."""
    pivot = (2 * total + n) // (2 * n)
    return pivot, (total - n * pivot).astype(np.float64)


def grey_of_runs(image: np.ndarray, inside: np.ndarray, starts: np.ndarray) -> Grey:
    """Measure the grey values of runs: neighbouring pixels of one object in a row.

    Args:
        image: (C, h, w) uint8, uint16 or float32.
        inside: (h, w) bool: the pixels of objects; there are some.
        starts: (r,) where runs start among the pixels inside, in raster order.

    Returns:
        One row per run.
    """
    assert image.dtype in (np.uint8, np.uint16, np.float32), image.dtype
    totals: list[Digits] = []
    squares: list[Digits] = []
    edges: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    for channel in image:
        values = channel[inside]
        for found, nearest in zip(edges, (np.minimum, np.maximum), strict=True):
            found.append(nearest.reduceat(values, starts))
        totals.append(_digits_of(values, 1, starts))
        squares.append(_digits_of(values, 2, starts))
    low, high = (np.stack(found, axis=1) for found in edges)
    return Grey(Digits.join(totals, 1), Digits.join(squares, 1), low, high)


def _digits_of(values: np.ndarray, power: int, starts: np.ndarray) -> Digits:
    """Return the sums of the values (power 1) or squares (power 2) of runs, in one channel.

    Floats are cut at multiples of 28 bits, which loses nothing: the square of a float32 is a float64, and so is a
    run's sum of numbers of 28 bits.
    """
    if values.dtype.kind == "u":
        exact = values.astype(np.uint32 if power == 2 else values.dtype, copy=False)
        return Digits(np.add.reduceat(exact**power, starts, dtype=np.int64)[:, None, None])
    rest = np.where(np.isfinite(values), values, 0).astype(np.float64) ** power
    place = -(-int(np.frexp(np.abs(rest).max())[1]) // BITS) - 1
    digits = []
    while True:
        cut = np.trunc(np.ldexp(rest, -BITS * place))
        digits.append(np.add.reduceat(cut, starts).astype(np.int64))
        rest -= np.ldexp(cut, BITS * place)
        if not rest.any():
            return Digits(np.stack(digits[::-1], axis=1)[:, None], place)
        place -= 1
