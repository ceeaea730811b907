"""The field of view of any network, derived from the module itself.

What a network decides at a pixel must depend neither on where the tile ends nor on where it starts. The first asks for
a halo: as many pixels as any layer's border can reach inwards, through all the layers after it. The second asks that
tiles start at multiples of the divisor: shifting the image by it shifts every layer's output by whole pixels.

Both follow from the layers alone, by following the two axes of the image through one pass without values (`tracing`).
Networks that cannot be followed are run, and show it (`probing`). Padding inside a network, be it by zeros, mirrored,
repeated or circular, makes the rim of a tile inexact and is kept out by the halo. What depends on the whole tile, such
as statistics of the tile, has no halo at all: those are the obstacles, refused here unless a halo is `chosen`.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import product
from math import floor

import numpy as np
import torch
from torch import nn

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.networks.pixel_axis import PixelAxis
from tilesegment.networks.probing import TOLERANCE, Runner, probe
from tilesegment.networks.tracing import Skeleton, Trace

ADVICE = "; choose a --halo to accept seams"  # ends what is said of a network without an exact halo
# sides of the tiles looked at; the first is one that can be halved, divided by 3, 5 or 7 often; none is held in memory
_FIRST, _LAST = (2**6 * 3**3, 2**4 * 5**3, 2**2 * 7**3), 32_000
# above it no plausible network is, and every residue of it is tried
_LARGEST_DIVISOR = 512


@dataclass(frozen=True)
class _Survey:
    """What passes at several sizes showed.

    Attributes:
        divisor: as far as it was seen.
        view: exact only without `obstacles` and `unknown`; otherwise its halo may be 0. None if nothing is known of it.
        obstacles: what can never be exact.
        unknown: operations that are not understood, or what the network raised.
    """

    divisor: int
    view: FieldOfView | None
    obstacles: tuple[str, ...]
    unknown: tuple[str, ...]


def derive(network: nn.Module, in_channels: int | None = None) -> FieldOfView:
    """Where a network looks, so that tiles are exact.

    For a network whose output is as large as its input, halo and tile are multiples of the divisor; for one whose
    output is smaller, `after` includes what its input sizes leave over.

    Args:
        network: takes (B, C, H, W) and gives, in eval mode, (B, K, h, w) at the same resolution. Left as it is.
        in_channels: C; None is that of its first convolution.

    Raises:
        ModelError: no halo makes it exact (the message says why), or it is no such network.
    """
    channels = channels_of(network, in_channels)
    survey = _survey(network, channels)
    if survey.obstacles:
        others = f" (and {len(survey.obstacles) - 1} more such)" if len(survey.obstacles) > 1 else ""
        raise ModelError(f"no halo makes this network seamless: {survey.obstacles[0]}{others}{ADVICE}")
    if survey.view is not None and not survey.unknown:
        return survey.view
    view = probe(network, channels, survey.divisor)
    difference = check(network, view, channels)
    if difference > TOLERANCE:
        raise ModelError(
            f"the network's field of view cannot be found: with a halo of {view.before} px and a divisor of "
            f"{view.divisor}, tiles differ by {difference:.1e} of the largest value{ADVICE}"
        )
    return view


def obstacles(network: nn.Module, in_channels: int | None = None) -> tuple[str, ...]:
    """What can never be exact in a network, a line each: the module's path and class, and what it does.

    Empty for a network that a halo makes exact, as well as for one that only `derive`, by running it, can tell about.
    """
    return _survey(network, channels_of(network, in_channels)).obstacles


def chosen(network: nn.Module, halo: int, in_channels: int | None = None) -> FieldOfView:
    """A halo that was chosen, in pixels, rounded up to the divisor; obstacles or too small a halo are accepted.

    The divisor is the derived one; of a network with operations that are not understood, that of the others.

    Raises:
        ModelError: the halo is negative; the network crops its own output, and another halo than that has no meaning;
            no divisor can be found.
    """
    if halo < 0:
        raise ModelError(f"a halo of {halo} px; it is 0 or more")
    channels = channels_of(network, in_channels)
    survey = _survey(network, channels)
    return widened(survey.view or probe(network, channels, survey.divisor), halo)


def widened(view: FieldOfView, halo: int) -> FieldOfView:
    """The view with another halo, pixels, rounded up to the divisor.

    Raises:
        ModelError: the network crops its own output, and another halo than that has no meaning.
    """
    if not view.crops:
        halo = -(-halo // view.divisor) * view.divisor
        # what the sizes that it takes leave over stays
        return FieldOfView(view.divisor, halo, halo + (view.after - view.before) % view.divisor, crops=False)
    if halo != view.before:
        raise ModelError(
            f"a halo of {halo} px; this network crops {view.before} px a side itself, no other is possible"
        )
    return view


def check(
    network: nn.Module, view: FieldOfView, in_channels: int | None = None, *, steps: int = 2, seed: int = 0
) -> float:
    """How far tiled differs from untiled, in double precision on a random image of `steps` x `steps` divisors.

    Returns:
        The largest difference, as a share of the largest value: 0, or some 1e-12 of rounding, if `view` is right.

    Raises:
        ModelError: the network fails on such tiles.
    """
    runner = Runner(network, channels_of(network, in_channels), seed)
    side, tile = steps * view.divisor, view.tile_of(view.divisor)
    image = runner.image(view.tile_of(side))
    kept = 0 if view.crops else view.before
    whole = runner.run(image)[..., kept : kept + side, kept : kept + side]
    largest = 0.0
    for y, x in product(range(0, side, view.divisor), repeat=2):
        part = runner.run(image[..., y : y + tile, x : x + tile])
        part = part[..., kept : kept + view.divisor, kept : kept + view.divisor]
        difference = (part - whole[..., y : y + view.divisor, x : x + view.divisor]).abs().max()
        largest = max(largest, float(difference))
    return largest / max(float(whole.abs().max()), torch.finfo(torch.float64).tiny)


def channels_of(network: nn.Module, in_channels: int | None = None) -> int:
    """Channels of the image that a network takes; None is those of its first convolution."""
    if in_channels is not None:
        return in_channels
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            return module.in_channels
    raise ModelError("the network has no convolution to tell its input channels by; give in_channels")


def _survey(network: nn.Module, channels: int) -> _Survey:
    skeleton = Skeleton(network, channels)
    last = base = _aligned(skeleton)
    while base.size <= _LAST:
        passes = [trace for trace in _passes(skeleton, base) if trace.failure is None]
        if not passes:
            return _Survey(base.divisor, None, base.obstacles, (str(base.failure),))
        if passes[0].unknown:
            view = FieldOfView(base.divisor, 0, 0, crops=False) if passes[0].keeps_size else None
            return _Survey(base.divisor, view, passes[0].obstacles, passes[0].unknown)
        found = [(trace, view) for trace in _best(passes) if (view := _view(trace, base.divisor))]
        if found:
            # of the sizes that the network takes, the one that leaves least over
            trace, view = min(found, key=lambda pair: pair[1].before + pair[1].after)
            return _Survey(base.divisor, view, trace.obstacles + _growth(skeleton, trace, view), ())
        last, base = base, skeleton.trace(2 * base.size)
    view = FieldOfView(last.divisor, 0, 0, crops=False) if last.keeps_size else None
    far = f"the network sees too far: no pixel of a tile of {last.size} px is exact"
    return _Survey(last.divisor, view, (*last.obstacles, far), ())


def _aligned(skeleton: Skeleton) -> Trace:
    """A pass over a tile whose side is a multiple of the divisor, if at all possible.

    At another size the rests of poolings may be resized at odd ratios, which show as a divisor of their own.
    """
    trace = skeleton.trace(_FIRST[0])
    if trace.failure:
        # the strides behind are not seen
        others = (skeleton.trace(size) for size in _FIRST[1:])
        trace = next((other for other in others if other.failure is None), trace)
    for _ in range(8):
        if trace.size % trace.divisor == 0 or trace.divisor > _LARGEST_DIVISOR:
            break
        trace = skeleton.trace(-(-trace.size // trace.divisor) * trace.divisor)
    return trace


def _passes(skeleton: Skeleton, base: Trace) -> Iterator[Trace]:
    """The pass over a multiple of the divisor and, unless its output is as large, those over all other residues."""
    yield base
    if not base.keeps_size:
        for more in range(1, min(base.divisor, _LARGEST_DIVISOR)):
            yield skeleton.trace(base.size + more)


def _best(passes: list[Trace]) -> list[Trace]:
    """Those with fewest obstacles and, of these, with skips that meet best what they are joined with.

    A network that crops its skips to the middle takes sizes, too, whose poolings drop pixels on one side: its skips are
    then out of place.
    """

    def faults(trace: Trace) -> tuple[int, Fraction]:
        return len(trace.obstacles), max((axis.astray for axis in trace.axes or ()), default=Fraction(0))

    least = min(map(faults, passes))
    return [trace for trace in passes if faults(trace) == least]


def _view(trace: Trace, divisor: int) -> FieldOfView | None:
    """The field of view that a pass shows; None where no step fits between the tile's inexact rims."""
    assert trace.shape is not None
    if len(trace.shape) != 4:
        raise ModelError(f"the network gives a tensor of shape {trace.shape}; it must be (B, classes, h, w)")
    if trace.axes is None:
        # something that depends on the whole tile hides what is behind it: only a chosen halo is left
        return FieldOfView(divisor, 0, 0, crops=False) if trace.keeps_size else None
    sides = [_side(axis, trace.size, divisor) for axis in trace.axes]
    if None in sides:
        return None
    (before_y, after_y, crops_y), (before_x, after_x, crops_x) = (side for side in sides if side)
    if crops_y != crops_x or (crops_y and before_y != before_x):
        raise ModelError(f"the network crops y by {before_y} px but x by {before_x} px; they must be equal")
    before, after = max(before_y, before_x), max(after_y, after_x)
    if not crops_y:
        # the same on all sides, as it must be for the symmetries of the square; what the sizes leave over is on one
        over = after % divisor
        before, after = max(before, after - over), max(before + over, after)
    return FieldOfView(divisor, before, after, crops_y)


def _side(axis: PixelAxis, tile: int, divisor: int) -> tuple[int, int, bool] | None:
    """`before`, `after` and `crops` along an axis of the output."""
    if axis.scale != 1:
        raise ModelError(f"the network gives a pixel for every {axis.scale} of its input; it must give one for each")
    middle = len(axis.exact) // 2
    if not axis.exact[middle]:
        return None
    wrong = np.flatnonzero(~axis.exact)
    first = int(wrong[wrong < middle].max(initial=-1)) + 1
    last = int(wrong[wrong > middle].min(initial=len(axis.exact)))
    crop = 0 if len(axis.exact) == tile else floor(axis.start)
    if crop and first:
        raise ModelError(
            f"the network crops {crop} px a side, but its output is exact only {first} px further in: let it crop "
            f"{crop + first} px, or none"
        )
    # a network that crops starts its output with the kept part, wherever on the pooling grid that is
    kept = 0 if crop else -(-first // divisor) * divisor
    step = (last - kept) // divisor * divisor
    return (crop or kept, tile - crop - kept - step, crop != 0) if step > 0 else None


def _growth(skeleton: Skeleton, trace: Trace, view: FieldOfView) -> tuple[str, ...]:
    """An obstacle if a tile larger by a divisor is not treated in the same way."""
    more = skeleton.trace(trace.size + view.divisor)
    if more.failure is None and more.resizes == trace.resizes and _view(more, view.divisor) == view:
        return ()
    return ("the network resizes to a size of its own, whatever the tile's",)
