"""Which pixels along one axis of a tensor are as they would be in an endless image: the arithmetic of every layer.

A layer that reaches beyond a tile's border reads what is not there in the whole image: zeros, mirrored pixels, the
other side of the tile, a part of a pooling window. What it computes from that is inexact, and so is all that is
computed from the inexact in turn. Following this index by index, with integers, through every layer gives the halo
exactly, whatever the border is filled with.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np


@dataclass(frozen=True, eq=False)
class PixelAxis:
    """The y or the x axis of a tensor.

    Attributes:
        dim: which dimension of the tensor, counted from its end: -1 is the last.
        scale: input pixels from one index to the next.
        start: position of index 0 in the tile, in input pixels: the centre of the input's pixel i is at i.
        exact: (n,) bool, the indices whose values do not depend on where the tile ends.
        astray: the farthest that anything joined with this lay from it, in input pixels.
    """

    dim: int
    scale: Fraction
    start: Fraction
    exact: np.ndarray
    astray: Fraction = Fraction(0)

    @classmethod
    def of_input(cls, dim: int, size: int) -> "PixelAxis":
        """That of the network's input."""
        return cls(dim, Fraction(1), Fraction(0), np.ones(size, bool))

    def window(self, size: int, kernel: int = 1, stride: int = 1, dilation: int = 1, pad: int = 0) -> "PixelAxis":
        """After a convolution or pooling with `pad` pixels before the first; `size` is that of the output.

        A kernel of 1 is padding alone (`pad` > 0), cropping (`pad` < 0) or taking every stride-th index.
        """
        first = np.arange(size) * stride - pad
        start = self.start + self.scale * (Fraction((kernel - 1) * dilation, 2) - pad)
        return self._reading((first + tap * dilation for tap in range(kernel)), self.scale * stride, start)

    def transposed(self, size: int, kernel: int, stride: int, dilation: int, pad: int) -> "PixelAxis":
        """After a transposed convolution."""
        first = np.arange(size) + pad
        exact = np.ones(size, bool)
        for tap in range(kernel):
            place = first - tap * dilation
            # between the places of its input there is nothing to read, inside the tile or out
            exact &= (place % stride != 0) | self._at(place // stride)
        start = self.start + self.scale * (pad - Fraction((kernel - 1) * dilation, 2)) / stride
        return replace(self, scale=self.scale / stride, start=start, exact=exact)

    def resized(self, size: int, ratio: Fraction, mode: str = "nearest") -> "PixelAxis":
        """After interpolation by `ratio` (output to input): nearest, nearest-exact, bilinear, bicubic.

        Index j of the output lies at (j + 1/2) / ratio - 1/2 of the input (align_corners=False). Nearest-exact takes
        what is nearest to it, nearest floor(j / ratio).
        """
        start = self.start + self.scale * (1 / ratio - 1) / 2
        p, q = ratio.numerator, ratio.denominator
        index = np.arange(size)
        if mode == "nearest":
            taps = [index * q // p]
        elif mode == "nearest-exact":
            taps = [(2 * index + 1) * q // (2 * p)]
        else:
            floor, rest = np.divmod((2 * index + 1) * q - p, 2 * p)
            reach = 1 if mode == "bilinear" else 2
            # where an output pixel lies on an input pixel, the others' weights are 0
            taps = [floor + tap * (rest > 0) for tap in range(1 - reach, reach + 1)]
        return self._reading(taps, self.scale / ratio, start)

    def joined(self, other: "PixelAxis") -> "PixelAxis":
        """Of a tensor computed from this one's and another's values at the same index."""
        start = (self.start + other.start) / 2
        astray = max(self.astray, other.astray, abs(self.start - other.start))
        return replace(self, start=start, exact=self.exact & other.exact, astray=astray)

    def _reading(self, taps: Iterable[np.ndarray], scale: Fraction, start: Fraction) -> "PixelAxis":
        """Of a tensor whose index j is computed from the indices tap[j] of this one."""
        return replace(self, scale=scale, start=start, exact=np.logical_and.reduce([self._at(tap) for tap in taps]))

    def _at(self, index: np.ndarray) -> np.ndarray:
        inside = (index >= 0) & (index < len(self.exact))
        return inside & self.exact[np.where(inside, index, 0)]
