"""Numbers as decimals, millions at once.

A text is a row of bytes of one width, in which NUL stands for "nothing here"; whoever joins texts deletes the NULs.
"""

from collections.abc import Sequence

import numpy as np

ROUND_TRIP = 17  # significant digits that give every float64 back
NUL = b"\0"

_ZERO, _MINUS, _POINT = b"0-."
# what fits: below, a product with a power of ten is exact, or such numbers are rare
_LEAST, _MOST = -6, 15
_POWERS = 10.0 ** np.arange(_LEAST, _MOST + 2)
_EXACT_POWERS = 10.0 ** np.arange(23)  # float64 holds these exactly
_FOURS = np.array([f"{number:04d}" for number in range(10_000)], "S4").view(np.uint32)


def join(fields: Sequence[np.ndarray]) -> np.ndarray:
    """Put texts side by side, (n, sum of widths) uint8, contiguous."""
    joined = np.empty((len(fields[0]), sum(field.shape[1] for field in fields)), np.uint8)
    start = 0
    for field in fields:
        joined[:, start : (start := start + field.shape[1])] = field
    return joined


def constant(text: str, count: int) -> np.ndarray:
    """Return `count` times the same text, (count, width) uint8."""
    encoded = np.frombuffer(text.encode(), np.uint8)
    return np.broadcast_to(encoded, (count, len(encoded)))


def choices(texts: Sequence[str], which: np.ndarray) -> np.ndarray:
    """Return `texts[which]`, (n, width) uint8."""
    encoded = [text.encode() for text in texts]
    width = max(map(len, encoded), default=0)
    table = np.frombuffer(b"".join(text.ljust(width, NUL) for text in encoded), np.uint8)
    return table.reshape(len(encoded), width)[which]


def integers(values: np.ndarray) -> np.ndarray:
    """Return integers of any dtype as decimals, (n, width) uint8."""
    values = values.astype(np.uint64) if values.dtype.kind in "bu" else values.astype(np.int64)
    negative = values < 0
    # the smallest int64 has no positive counterpart but as uint64
    size = np.where(negative, -values, values).astype(np.uint64)
    digits = _digits(size, len(str(int(size.max()))) if len(size) else 1)
    # at least one digit stays
    is_leading = np.logical_and.accumulate(digits[:, :-1] == _ZERO, axis=1)
    digits[:, :-1][is_leading] = 0
    return join([_sign(negative), digits]) if negative.any() else digits


def floats(values: np.ndarray, digits: int = ROUND_TRIP, *, whole: str = "") -> np.ndarray:
    """Return floats as decimals, (n, width) uint8; NaN is empty, infinity is `inf`.

    Args:
        values: (n,) of any float dtype.
        digits: significant digits; with `ROUND_TRIP`, float(text) is the value, and it is short where the value has
            up to 15 digits.
        whole: what follows a number without a fraction, ".0" or nothing.
    """
    values = values.astype(np.float64, copy=False)
    size = np.abs(values)
    is_usual = (size >= _POWERS[0]) & (size < _POWERS[-1])
    exponent = np.searchsorted(_POWERS, np.where(is_usual, size, 1), side="right") - 1 + _LEAST
    size = np.where(is_usual, size, 0)
    if digits == ROUND_TRIP:
        mantissa = _exact_mantissa(size, exponent)
    else:
        mantissa, exponent = _rounded_mantissa(size, exponent, digits)
    text = _decimals(mantissa, exponent, digits, whole)
    text = join([_sign(np.signbit(values)), text])
    for row in np.flatnonzero(~is_usual & (values != 0)):
        text = _rare(text, int(row), float(values[row]), digits)
    return text


def _rare(text: np.ndarray, row: int, value: float, digits: int) -> np.ndarray:
    """Write a number that is huge, tiny or none at all the slow way."""
    written = b"" if np.isnan(value) else f"{value:.{digits}g}".encode()
    if digits == ROUND_TRIP and written:
        written = repr(value).encode()
    if len(written) > text.shape[1]:
        text = join([text, np.zeros((len(text), len(written) - text.shape[1]), np.uint8)])
    text[row] = np.frombuffer(written.ljust(text.shape[1], NUL), np.uint8)
    return text


def _sign(negative: np.ndarray) -> np.ndarray:
    return np.where(negative, np.uint8(_MINUS), np.uint8(0))[:, None]


def _digits(values: np.ndarray, count: int) -> np.ndarray:
    """Return the last `count` digits of whole numbers, (n, count) uint8, four at a time."""
    fours = -(-count // 4)
    text = np.empty((len(values), fours), np.uint32)
    rest = values.astype(np.uint64)
    for place in reversed(range(fours)):
        above = rest // np.uint64(10_000)
        text[:, place] = _FOURS[(rest - above * np.uint64(10_000)).astype(np.intp)]
        rest = above
    return text.view(np.uint8)[:, 4 * fours - count :]


def _rounded_mantissa(size: np.ndarray, exponent: np.ndarray, digits: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the first `digits` digits as a whole number, and the exponent of the first, which rounding may raise."""
    shift = digits - 1 - exponent
    power = _EXACT_POWERS[np.abs(shift)]
    mantissa = np.rint(np.where(shift >= 0, size * power, size / power))
    is_over = mantissa >= 10.0**digits
    return np.where(is_over, 10.0 ** (digits - 1), mantissa).astype(np.int64), exponent + is_over


def _exact_mantissa(size: np.ndarray, exponent: np.ndarray) -> np.ndarray:
    """Return 17 digits as a whole number that give `size` back: those of the shortest decimal if 15 are enough."""
    # with 15 digits and a power of ten below 10^23 a division is rounded once, as reading the decimal is
    shift = 14 - exponent
    power = _EXACT_POWERS[np.abs(shift)]
    short = np.rint(np.where(shift >= 0, size * power, size / power))
    is_short = np.where(shift >= 0, short / power, short * power) == size
    # otherwise the exact product as the sum of two floats (Dekker), rounded to a whole number
    power = _EXACT_POWERS[16 - exponent]
    product = size * power
    size_high, power_high = _high(size), _high(power)
    size_low, power_low = size - size_high, power - power_high
    error = ((size_high * power_high - product) + size_high * power_low + size_low * power_high) + size_low * power_low
    long = product.astype(np.int64) + np.rint(error).astype(np.int64)
    return np.where(is_short, short.astype(np.int64) * 100, long)


def _high(values: np.ndarray) -> np.ndarray:
    """Return the upper half of the digits of a float, so that products of two are exact (Veltkamp)."""
    scaled = 134_217_729.0 * values
    return scaled - (scaled - values)


def _decimals(mantissa: np.ndarray, exponent: np.ndarray, digits: int, whole: str) -> np.ndarray:
    """Write `mantissa`, whose first of `digits` digits stands for 10^exponent, without zeros at the end."""
    # digits are rows here, numbers columns: numpy is fast along the last axis
    written = np.ascontiguousarray(_digits(mantissa, digits).T)
    places, exponent = np.arange(digits + 1, dtype=np.int8)[:, None], exponent.astype(np.int8)
    last = np.where(written == _ZERO, np.int8(-1), places[:-1]).max(axis=0)
    written *= places[:-1] <= np.maximum(last, exponent)
    # after the point all move down by one
    text = np.zeros((digits + 1, len(mantissa)), np.uint8)
    text[1:] = written
    np.copyto(text[:-1], written, where=places[:-1] <= exponent)
    text[-1, exponent >= digits] = 0
    has_point = (exponent >= 0) & (last > exponent)
    np.copyto(
        text, np.where(has_point, np.uint8(_POINT), np.uint8(0)), where=(places == exponent + 1) & (exponent >= 0)
    )
    fields = [text]
    least, most = int(exponent.min(initial=0)), int(exponent.max(initial=0))
    if least < 0:
        lead = np.frombuffer(b"0." + b"0" * (-least - 1), np.uint8)[:, None]
        places = np.arange(len(lead), dtype=np.int8)[:, None]
        fields.insert(0, lead * ((exponent < 0) & (places <= -exponent)))
    if most >= digits:
        places = np.arange(digits, most + 1, dtype=np.int8)[:, None]
        fields.append(_ZERO * (places <= exponent).astype(np.uint8))
    if whole:
        tail = np.frombuffer(whole.encode(), np.uint8)[:, None]
        fields.append(tail * ((exponent >= 0) & ~has_point))
    return np.concatenate(fields).T
