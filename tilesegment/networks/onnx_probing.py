"""What a network that can only be run looks at, in single precision.

A pixel outside of a tile is looked at if another, very different value there changes what is decided inside. The
divisor is the smallest shift of a random image that shifts what is decided. Images are drawn at several scales where it
is not known which grey values the network takes. NaN, which `networks.probing` relies on, a runtime need not hand on.
"""

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from itertools import product
from math import gcd, lcm

import numpy as np

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView

# context that is verified, pixels; an image of much more than twice of it does not fit into memory
LARGEST = 1024
# (B, C, H, W) float -> (B, K, h, w)
Run = Callable[[np.ndarray], np.ndarray]

# sides of tiles looked at, each in the middle of an image three times as large
_THIRDS = (64, 128, 256)
# the first side tried, and the residues of it
_FIRST, _RESIDUES = (192, 448), 64
# shifts that a divisor is looked for in; nearly all networks reduce by powers of 2
_SHIFTS = (64, 192)
# of the spread of what is decided: rounding where shapes differ, and where they do not
TOLERANCE, _CHANGED = 1e-4, 1e-6
# times the spread of the image: nothing that is looked at can go unnoticed
_LOUD = 1e3


def side_of(view: FieldOfView, least: int = 64) -> int:
    """A side of images that a network of that field of view takes, and gives at least `least` pixels of."""
    step = view.step_for(least)
    # the halo is needed for exact tiles only
    return view.tile_of(step) if view.crops else step + (view.after - view.before) % view.divisor


class Prober:
    """A network and random images for it.

    Args:
        run: the network.
        channels: C.
        scales: mean and std of the images' values; several where it is not known which it takes.
    """

    def __init__(
        self, run: Run, channels: int, scales: Sequence[tuple[float, float]] = ((0.0, 1.0), (128.0, 64.0))
    ) -> None:
        self.run, self._channels, self._scales = run, channels, scales
        self._random = np.random.default_rng(0)

    def images(self, side: int) -> list[tuple[np.ndarray, float, float]]:
        """An image (1, C, side, side) at every scale, with its mean and std."""
        shape = 1, self._channels, side, side
        return [(self._random.normal(mean, std, shape), mean, std) for mean, std in self._scales]

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """A side that the network takes, a length by which it may be larger, and what its output lacks of it.

        Of the sides that a network takes that crops, those at which it loses least: at others it drops pixels.

        Raises:
            ModelError: it takes none that was tried, or gives an output of another resolution.
        """
        failure: ModelError | None = None
        for first in _FIRST:
            taken: dict[int, int] = {}
            for side in range(first, first + _RESIDUES):
                try:
                    height, width = self.run(self.images(side)[0][0]).shape[-2:]
                except ModelError as error:
                    failure = failure or error
                    continue
                if height != width or height > side:
                    raise ModelError(
                        f"gives {height} x {width} px for {side} x {side}; it must give one for each pixel"
                    )
                taken[side] = side - height
                if height == side == first:
                    return side, 1, 0
            if taken:
                least = min(taken.values())
                sides = [side for side, lost in taken.items() if lost == least]
                unit = gcd(*(side - sides[0] for side in sides)) or _RESIDUES
                self._check_resolution(sides[0], unit, least)
                return sides[0], unit, least
        raise ModelError(f"runs on no image of {_FIRST[0]} to {_FIRST[-1] + _RESIDUES - 1} px a side: {failure}")

    def view(self) -> FieldOfView:
        """The field of view, not verified.

        Raises:
            ModelError: what is decided depends on the place in the tile, on the whole of it, or on too much around.
        """
        first, unit, lost = self.sizes
        crop, unit = lost // 2, unit if lost or unit > 1 else gcd(first, _RESIDUES)
        for third in _THIRDS:
            start = -(-third // unit) * unit
            side = first + -(-max(3 * start - first, 0) // unit) * unit
            rims = self._rims(side, start, 2 * start, lost)
            if rims is None:
                continue
            divisor = self._divisor(first, unit, max(rims) + side // 8, crop)
            if lost:
                over = (first - lost) % divisor
                return FieldOfView(divisor, crop, lost - crop + over, crops=True)
            grid = lcm(divisor, unit)
            start = -(-third // grid) * grid
            rims = self._rims(3 * start, start, 2 * start, lost)
            if rims is not None:
                halo = -(-max(rims) // divisor) * divisor
                return FieldOfView(divisor, halo, halo, crops=False)
        raise ModelError(
            f"what the model decides depends on more than {_THIRDS[-1] // 2} px around it, perhaps on the whole tile; "
            "choose a --halo to accept seams"
        )

    def check(self, view: FieldOfView, steps: int = 2) -> float:
        """How far tiled differs from untiled, as a share of the spread: no more than `TOLERANCE` if `view` is right.

        Raises:
            ModelError: the network fails on such tiles.
        """
        side, tile, largest = steps * view.divisor, view.tile_of(view.divisor), 0.0
        kept = 0 if view.crops else view.before
        for image, _, _ in self.images(view.tile_of(side)):
            whole = self.run(image)
            if (image.shape[-1] - whole.shape[-1]) // 2 != (view.before if view.crops else 0):
                return float("inf")
            inner = whole[..., kept : kept + side, kept : kept + side]
            for y, x in product(range(0, side, view.divisor), repeat=2):
                part = self.run(image[..., y : y + tile, x : x + tile])
                part = part[..., kept : kept + view.divisor, kept : kept + view.divisor]
                if part.shape[-2:] != (view.divisor, view.divisor):
                    return float("inf")
                difference = np.abs(part - inner[..., y : y + view.divisor, x : x + view.divisor]).max()
                largest = max(largest, float(difference) / _spread(whole))
        return largest

    def _check_resolution(self, side: int, unit: int, lost: int) -> None:
        larger = side + unit * -(-_RESIDUES // unit)
        more = self.run(self.images(larger)[0][0]).shape[-1]
        if more != larger - lost:
            raise ModelError(f"gives {side - lost} px for {side}, {more} for {larger}; it must give one for each pixel")

    def _rims(self, side: int, start: int, stop: int, lost: int) -> tuple[int, int] | None:
        """Pixels before and after that the tile `start` <= y, x < `stop` cannot decide alone; None: it decides none."""
        before, after, crop = 0, 0, lost // 2
        for axis in (-2, -1):
            changed = np.zeros(side - lost, bool)
            for image, mean, std in self.images(side):
                still = self.run(image)
                for sign in (-1, 1):
                    loud = np.swapaxes(image.copy(), axis, -2)
                    for part in (loud[..., :start, :], loud[..., stop:, :]):
                        part[:] = mean + sign * _LOUD * std * np.abs(self._random.standard_normal(part.shape))
                    moved = np.abs(self.run(np.swapaxes(loud, axis, -2)) - still)
                    rows = np.swapaxes(moved, axis, -2).max((0, 1, 3))
                    changed |= ~(rows <= _CHANGED * _spread(still))
            known = np.flatnonzero(~changed)
            if not len(known):
                return None
            before = max(before, int(known[0]) + crop - start)
            after = max(after, stop - crop - 1 - int(known[-1]))
        return before, after

    def _divisor(self, first: int, unit: int, rim: int, crop: int) -> int:
        """The smallest shift along both axes at once that shifts the output, farther than `rim` from the border."""
        for most in (lcm(shift, unit) for shift in _SHIFTS):
            side = first + -(-max(2 * rim + most + 32 - first, 0) // unit) * unit
            images = [image for image, _, _ in self.images(side + most)]
            still = [self.run(image[..., :side, :side]) for image in images]
            works = partial(self._shifts, images, still, max(rim - crop, 0))
            if works(most):
                return _smallest(most, works)
        raise ModelError(
            f"no shift of the image by {_SHIFTS[0]} or {_SHIFTS[1]} px shifts what the model decides: it depends on "
            "the place in the tile; choose a --halo to accept seams"
        )

    def _shifts(self, images: list[np.ndarray], still: list[np.ndarray], rim: int, shift: int) -> bool:
        """Whether a tile of each image, moved by `shift`, gives what was `still` there, farther than `rim` inside."""
        for image, before in zip(images, still, strict=True):
            lost = self.sizes[2]
            side, last = before.shape[-1] + lost, before.shape[-1] - rim
            moved = self.run(image[..., shift : shift + side, shift : shift + side])
            here = before[..., rim + shift : last, rim + shift : last]
            there = moved[..., rim : last - shift, rim : last - shift]
            if not np.abs(here - there).max() <= TOLERANCE * _spread(before):
                return False
        return True


def _smallest(shift: int, works: Callable[[int], bool]) -> int:
    """The smallest shift that works: those that do are the multiples of it, and `shift` is one."""
    for prime in (2, 3, 5, 7, 11, 13):
        while shift % prime == 0 and works(shift // prime):
            shift //= prime
    return shift


def _spread(values: np.ndarray) -> float:
    """Largest less smallest; of what hardly varies, a share of its size that rounding cannot be."""
    return max(float(np.ptp(values)), 1e-2 * float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
