"""Find the field of view of a network by running it.

- Reach. Make an image NaN, or very large, outside a tile: the outputs that do not change depend on the tile alone. NaN
  passes through activations and poolings whatever the weights are; large values reveal what NaN does not pass.
- Divisor. Find the smallest shift of a random image that shifts the output, and the NaN in it, by as much.
- Check. Compare tiles with this halo on this grid with whole images of two sizes.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cached_property
from math import gcd, lcm
from typing import TypeAlias

import numpy as np

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView

LARGEST = 1024  # pixels of context up to which a field of view is searched or verified
TOLERANCE, EXACT = 1e-4, 1e-9  # rounding, as a share of the output's spread, in single and in double precision
_CHANGED = 1e-6  # the same for inputs of equal shape, in single precision
_EXACT_SIDE = 800  # side of the largest image that is computed in double precision, pixels
_LOUD = 1e3  # times the spread of the image
# sides to try; the least width of a strip along one axis
_SIDES, _LARGE_SIDES, _NARROW = range(192, 257), (*range(320, 1025, 64), *range(449, 512)), 64
_TILES = (192, 384, 1152, 2304)  # sides of tiles in images three times as large
_SHIFTS, _PRIMES = (64, 256, 320, 448, 576), (2, 3, 5, 7, 11, 13)  # multiples of nearly all divisors

Run: TypeAlias = Callable[[np.ndarray], np.ndarray]
"""(1, C, H, W) float -> (1, K, h, w); raises ModelError if the network fails."""


class InexactError(ModelError):
    """No halo makes the network's tiles exact; the message says what was seen."""


class Prober:
    """A network and random images for it.

    Args:
        run: the network.
        channels: C.
        scales: mean and std of the images' values; several if it is unknown which values the network takes.
        exact: the same in double precision, for the check; None checks with `run`.
        shape: (H, W) -> (h, w), if that can be known without running.
    """

    def __init__(
        self,
        run: Run,
        channels: int,
        scales: Sequence[tuple[float, float]],
        exact: Run | None = None,
        shape: Callable[[int, int], tuple[int, int]] | None = None,
    ) -> None:
        self.run, self._channels, self._scales = run, channels, scales
        self._exact = exact
        self._shape = shape or self._shape_of_run
        self._random = np.random.default_rng(0)

    def images(self, height: int, width: int | None = None) -> list[tuple[np.ndarray, float, float]]:
        """Draw a random image (1, C, height, width) at each scale, with its mean and std; square without a width."""
        shape = 1, self._channels, height, width or height
        return [(self._random.normal(mean, std, shape), mean, std) for mean, std in self._scales]

    @cached_property
    def sizes(self) -> tuple[int, int, int]:
        """A side that the network takes, a length by which it may grow, and how many pixels its output lacks.

        For a network that crops, only the sides at which it loses least: at others it drops surplus pixels.

        Raises:
            ModelError: it takes none of the sides tried, or returns another resolution.
        """
        failure: ModelError | None = None
        taken: dict[int, int] = {}
        for side in (*_SIDES, *_LARGE_SIDES):
            if side == _LARGE_SIDES[0] and len(taken) > 1:
                break
            try:
                # usually the first side is the only one tried
                height, width = (self._shape_of_run if side == _SIDES[0] else self._shape)(side, side)
            except InexactError:
                raise
            except ModelError as error:
                failure = failure or error
                continue
            if height != width:
                raise ModelError(f"crops y by {side - height} px but x by {side - width} px; they must be equal")
            if height == side == _SIDES[0]:
                return side, 1, 0
            taken[side] = side - height
        if not taken:
            raise ModelError(f"runs on no image of {_SIDES[0]} to {_LARGE_SIDES[-1]} px a side: {failure}")
        lost = min(taken.values())
        fits = [side for side in taken if taken[side] == lost]
        unit = gcd(*(side - fits[0] for side in fits))
        here, larger = fits[0], fits[0] + unit * -(-64 // unit) if unit else max(taken)
        there = self._shape(larger, larger)[0]
        if not unit or lost < 0 or larger - there != lost:
            raise ModelError(
                f"gives {here - lost} px for {here} px a side, {there} for {larger}; it must give one per input pixel, "
                "at any size or at multiples of a few pixels"
            )
        return here, unit, lost

    def view(self) -> FieldOfView:
        """The field of view, verified.

        Raises:
            InexactError: no halo up to `LARGEST` makes tiles exact.
            ModelError: the network does not return one output pixel per input pixel, or fails.
        """
        _, unit, lost = self.sizes
        self._check_images()
        for tile in _TILES:
            start = -(-tile // self._grid) * self._grid
            rims = self._rims(start)
            if rims is None or (start < LARGEST and self._rims(start, LARGEST) != rims):
                continue  # it may see farther than these images reach
            divisor = lcm(self._divisor(start, max(rims)), unit)
            view = self._cropping(divisor, rims) if lost else self._keeping(divisor, start, rims)
            if self.check(view) > (EXACT if self._checks_exactly(view) else TOLERANCE):
                raise InexactError(
                    f"with the halo of {view.before} px and the divisor of {view.divisor} that were found, tiles "
                    "differ from the whole"
                )
            return view
        raise InexactError(f"every output pixel depends on the whole tile, or on more than {LARGEST} px around it")

    def chosen(self, halo: int) -> FieldOfView:
        """Return the view with a chosen halo, and a divisor of 32, which few networks exceed, if none is found.

        Raises:
            ModelError: the network crops, so that its halo is fixed, or it does not run.
        """
        try:
            view = self.view()
        except InexactError:
            first, unit, lost = 0, 1, 0
            with suppress(InexactError):
                first, unit, lost = self.sizes
            if lost:
                raise
            view = _keeping(lcm(32, unit), 0, first if unit > 1 else 0)
        return widened(view, halo)

    def holds(self, view: FieldOfView) -> bool:
        """Whether tiles are exact with this view."""
        try:
            return self.check(view) <= (EXACT if self._checks_exactly(view) else TOLERANCE)
        except ModelError:  # the network does not even take such tiles
            return False

    def check(self, view: FieldOfView) -> float:
        """Return how far tiles differ from whole images, relative to the spread: by rounding, if `view` is right.

        Raises:
            ModelError: the network fails on such tiles.
        """
        largest, step, kept = 0.0, view.divisor, 0 if view.crops else view.before
        run = self._exact if self._exact is not None and self._checks_exactly(view) else self.run

        def inner(image: np.ndarray, steps: int, y: int = 0, x: int = 0) -> np.ndarray:
            """The kept part of a tile of `steps` that starts (y, x) steps from the image's origin."""
            side = view.tile_of(steps * step)
            output = run(image[..., y * step : y * step + side, x * step : x * step + side])
            right = (side - output.shape[-1]) // 2 == (view.before if view.crops else 0)
            output = output[..., kept : kept + steps * step, kept : kept + steps * step]
            return output if right else np.full_like(output, np.nan)

        for image, _, _ in self.images(view.tile_of(3 * step)):
            whole = inner(image, 3)
            for steps, y, x in ((2, 0, 0), (1, 0, 0), (1, 2, 1), (1, 1, 2)):
                there = whole[..., y * step : (y + steps) * step, x * step : (x + steps) * step]
                part = inner(image, steps, y, x)
                if part.shape != there.shape or not np.isfinite(part).all():
                    return float("inf")
                largest = max(largest, float(np.abs(part - there).max()) / _spread(whole))
        return largest

    def _checks_exactly(self, view: FieldOfView) -> bool:
        """Whether to check in double precision: if available, and if tiles are small enough not to take minutes."""
        return self._exact is not None and view.tile_of(3 * view.divisor) <= _EXACT_SIDE

    @property
    def _grid(self) -> int:
        """Sides grow by multiples of this: the network's unit, or a multiple of many divisors."""
        return self.sizes[1] if self.sizes[1] > 1 else _SIDES[0]

    def _side(self, least: int, unit: int) -> int:
        """The smallest side of at least `least` px, a multiple of `unit` beyond one that the network takes."""
        first = self.sizes[0] if self.sizes[1] > 1 else 0
        return first + -(-max(least - first, 0) // unit) * unit

    @cached_property
    def _narrow(self) -> int:
        """Width of strips along one axis, which show the reach along it in a fraction of the time."""
        first, unit, lost = self.sizes
        smallest = first - (first - max(lost + 1, _NARROW)) // unit * unit
        for side in (smallest, 2 * _NARROW):
            with suppress(ModelError):
                if side < first and self._shape_of_run(side, first) == (side - lost, first - lost):
                    return side
        return first

    def strips(self, axis: int, length: int) -> list[tuple[np.ndarray, float, float]]:
        """`images`, but narrow ones along an axis, -2 or -1."""
        return self.images(*((self._narrow, length) if axis == -1 else (length, self._narrow)))

    def _check_images(self) -> None:
        image = self.images(self.sizes[0])[0][0]
        first, again = self.run(image), self.run(image)
        if not np.isfinite(first).all():
            raise ModelError("gives NaN or infinity for a random image")
        if np.abs(first - again).max() > TOLERANCE * _spread(first):
            raise InexactError("it is random: the same image gives another output")

    def _rims(self, start: int, around: int | None = None) -> tuple[int, int] | None:
        """Pixels at either end that a tile of side `start` cannot decide alone; None if it decides none.

        Images have `start` pixels on either side of the tile. If `around` is given, they have as many, and the first
        change that reaches anything, usually NaN, decides.
        """
        first = -(-(around or start) // self._grid) * self._grid
        last, crop, before, after = first + start, self.sizes[2] // 2, 0, 0
        for axis in (-2, -1):
            reached: np.ndarray | None = None
            for image, mean, std in self.strips(axis, self._side(last + first, self._grid)):
                still = self.run(image)
                for changed in self._changed(image, mean, std, axis, first, last):
                    new = ~(np.abs(self.run(changed) - still) <= _CHANGED * _spread(still))
                    rows = np.moveaxis(new, axis, 0).any((1, 2, 3))
                    reached = rows if reached is None else reached | rows
                    if reached.all():
                        return None
                    if around and reached.any():
                        break
            assert reached is not None
            known = np.flatnonzero(~reached)
            before = max(before, int(known[0]) + crop - first)
            after = max(after, last - crop - 1 - int(known[-1]))
        return before, after

    def _changed(
        self, image: np.ndarray, mean: float, std: float, axis: int, first: int, last: int
    ) -> Iterator[np.ndarray]:
        """Yield the image with NaN, then with very large and very small values, outside `first` to `last`."""
        yield _blanked(image, axis, first, last)
        for sign in (1, -1):
            loud = mean + sign * _LOUD * std * np.abs(self._random.standard_normal(image.shape))
            np.moveaxis(loud, axis, 0)[first:last] = np.moveaxis(image, axis, 0)[first:last]
            yield loud

    def _divisor(self, start: int, rim: int) -> int:
        """The smallest shift along both axes that shifts the output, beyond `rim` from the border, by as much."""
        for most in (lcm(shift, self._grid) for shift in _SHIFTS):
            side = self._side(max(2 * rim + 64, 3 * start) + most, most)
            strips = [_Shifted(self, axis, side, most, (start, 2 * start), rim) for axis in (-2, -1)]
            if all(strip.equal(most) for strip in strips):
                for prime in _PRIMES:
                    while most % prime == 0 and all(strip.equal(most // prime) for strip in strips):
                        most //= prime
                return most
        raise InexactError("no shift of the image shifts the output as much: it depends on the place in the tile")

    def _cropping(self, divisor: int, rims: tuple[int, int]) -> FieldOfView:
        first, _, lost = self.sizes
        crop = lost // 2
        if rims[0] > crop or rims[1] > lost - crop + divisor:
            raise ModelError(
                f"crops {crop} px a side, but its output depends on {max(rims)} px around; let it crop as much, "
                "or nothing"
            )
        return FieldOfView(divisor, crop, lost - crop + (first - lost) % divisor, crops=True)

    def _keeping(self, divisor: int, start: int, rims: tuple[int, int] | None) -> FieldOfView:
        first, unit, _ = self.sizes
        aligned = -(-start // lcm(divisor, unit)) * lcm(divisor, unit)
        if aligned != start:  # again, with the tile on the divisor's grid
            rims = self._rims(aligned)
        if rims is None:
            raise InexactError(f"every output pixel depends on the whole tile, or on more than {start} px around it")
        return _keeping(divisor, max(rims), first if unit > 1 else 0)

    def _shape_of_run(self, height: int, width: int) -> tuple[int, int]:
        rows, columns = self.run(self.images(height, width)[0][0]).shape[-2:]
        return rows, columns


class _Shifted:
    """Strips along an axis of length `side` + `most`, and the output of the first `side` pixels of each."""

    def __init__(self, prober: Prober, axis: int, side: int, most: int, tile: tuple[int, int], rim: int) -> None:
        self._prober, self._axis, self._side, self._tile = prober, axis, side, tile
        self._rim = max(rim - prober.sizes[2] // 2, 0)
        self._strips = [np.moveaxis(image, axis, 0) for image, _, _ in prober.strips(axis, side + most)]
        self._still = [self._run(strip[:side]) for strip in self._strips]
        self._pattern = self._nan(0)

    def equal(self, shift: int) -> bool:
        """Whether moving the image, and the NaN in it, by `shift` moves the output, and its NaN, by as much."""
        for strip, still in zip(self._strips, self._still, strict=True):
            last = len(still) - self._rim
            moved = self._run(strip[shift : shift + self._side])
            difference = np.abs(still[self._rim + shift : last] - moved[self._rim : last - shift]).max()
            if not difference <= TOLERANCE * _spread(still):
                return False
        return bool(np.array_equal(self._nan(shift)[shift:], self._pattern[: len(self._pattern) - shift]))

    def _nan(self, shift: int) -> np.ndarray:
        """Where the output is NaN if the image is NaN outside the tile, moved by `shift`."""
        first, last = self._tile
        return ~np.isfinite(self._run(_blanked(self._strips[0][: self._side], 0, first + shift, last + shift))).all(
            (1, 2, 3)
        )

    def _run(self, strip: np.ndarray) -> np.ndarray:
        return np.moveaxis(self._prober.run(np.moveaxis(strip, 0, self._axis)), self._axis, 0)


def widened(view: FieldOfView, halo: int) -> FieldOfView:
    """Return the view with another halo in pixels, rounded up to the divisor.

    Raises:
        ModelError: the network crops, so that its halo is fixed.
    """
    if not view.crops:
        return _keeping(view.divisor, halo, view.after - view.before)
    if halo != view.before:
        raise ModelError(
            f"a halo of {halo} px; this network crops {view.before} px a side itself, so its halo is fixed"
        )
    return view


def _keeping(divisor: int, rim: int, over: int) -> FieldOfView:
    """The view of a network that does not crop and takes multiples of the divisor plus `over`."""
    halo = -(-max(rim, 0) // divisor) * divisor
    return FieldOfView(divisor, halo, halo + over % divisor, crops=False)


def _blanked(image: np.ndarray, axis: int, start: int, stop: int) -> np.ndarray:
    """The image with NaN outside `start` to `stop` along the axis."""
    blank = np.full_like(image, np.nan)
    np.moveaxis(blank, axis, 0)[start:stop] = np.moveaxis(image, axis, 0)[start:stop]
    return blank


def _spread(values: np.ndarray) -> float:
    """Maximum minus minimum; for nearly constant values at least 1 % of their size, well above rounding."""
    return max(float(np.ptp(values)), 1e-2 * float(np.abs(values).max()), float(np.finfo(np.float32).tiny))
