"""Running a network to see what it looks at: for networks that cannot be followed, and to check those that can.

NaN is contagious: what is computed from it is NaN. An image that is NaN outside of a tile shows which of the tile's
pixels are decided by the tile alone. The divisor is the smallest shift of a random image that shifts what is decided.
"""

import copy

import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView

# sides of tiles looked at, each in the middle of an image three times as large
_THIRDS = (64, 128, 256)
_LARGEST_DIVISOR = 64
# of the largest value: rounding in double precision, in sums of many terms
TOLERANCE = 1e-9


class Runner:
    """A copy of a network in double precision on the CPU, in eval mode.

    Args:
        network: takes (B, C, H, W) and gives (B, K, h, w).
        in_channels: C.
        seed: of its random images.
    """

    def __init__(self, network: nn.Module, in_channels: int, seed: int = 0) -> None:
        try:
            self._network = copy.deepcopy(network).double().cpu().eval()
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise ModelError(f"the network cannot be copied to the CPU: {_one_line(error)}") from error
        self._channels = in_channels
        self._random = torch.Generator().manual_seed(seed)

    def image(self, side: int) -> Tensor:
        """A random image (1, C, side, side)."""
        shape = 1, self._channels, side, side
        return torch.randn(shape, generator=self._random, dtype=torch.float64, device="cpu")

    def run(self, image: Tensor) -> Tensor:
        """What the network makes of it, (1, K, h, w).

        Raises:
            ModelError: the network fails, or gives something else.
        """
        with torch.inference_mode():
            try:
                output = self._network(image)
            except Exception as error:  # whatever a foreign network raises
                height, width = image.shape[-2:]
                raise ModelError(f"the network fails on {height} x {width} px: {_one_line(error)}") from error
        if not isinstance(output, Tensor) or output.dim() != 4:
            kind = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ModelError(f"the network gives {kind}; it must give one tensor (B, classes, h, w)")
        return output


def probe(network: nn.Module, in_channels: int, known: int = 1) -> FieldOfView:
    """The field of view of a network, found by running it. One that crops is taken to crop all sides alike.

    Args:
        network: takes (B, C, H, W), sides that are multiples of 192 and of `known` among them; left as it is.
        in_channels: C.
        known: the divisor, or a part of it.

    Raises:
        ModelError: the network cannot be run, or what it decides depends on the place in the tile, on the whole of it,
            or on more than 128 px around.
    """
    runner = Runner(network, in_channels)
    for third in (-(-third // known) * known for third in _THIRDS):
        side = 3 * third
        crop = (side - runner.run(runner.image(side)).shape[-1]) // 2
        rims = _rims(runner, side, third, 2 * third, crop)
        if rims is None:
            continue
        divisor = _divisor(runner, side, max(rims) + side // 8, crop)
        # once more with the tile on the grid of the divisor
        rims = _rims(runner, side, -(-third // divisor) * divisor, 2 * third // divisor * divisor, crop)
        if rims is None:
            continue
        if not crop:
            halo = -(-max(rims) // divisor) * divisor
            return FieldOfView(divisor, halo, halo, crops=False)
        return FieldOfView(divisor, crop, side - crop - (side - 2 * crop) // divisor * divisor, crops=True)
    raise ModelError(
        f"what the network decides depends on more than {_THIRDS[-1] // 2} px around it, perhaps on the whole tile; "
        "choose a --halo to accept seams"
    )


def _rims(runner: Runner, side: int, start: int, stop: int, crop: int) -> tuple[int, int] | None:
    """Pixels before and after, that the tile `start` <= y, x < `stop` cannot decide alone; None if it decides none."""
    before, after = 0, 0
    for axis in (-2, -1):
        image = runner.image(side)
        image.narrow(axis, 0, start).fill_(torch.nan)
        image.narrow(axis, stop, side - stop).fill_(torch.nan)
        known = runner.run(image).isfinite().all(1)[0].all(-3 - axis).nonzero()
        if not len(known):
            return None
        before = max(before, int(known[0]) + crop - start)
        after = max(after, stop - crop - 1 - int(known[-1]))
    return before, after


def _divisor(runner: Runner, side: int, rim: int, crop: int) -> int:
    """The smallest shift along both axes at once that shifts the output, farther than `rim` from the border."""
    image = runner.image(side + _LARGEST_DIVISOR)
    first, last = max(rim - crop, 0), side - max(rim, crop) - crop
    still = runner.run(image[..., :side, :side])
    for shift in range(1, min(_LARGEST_DIVISOR, last - first - 1) + 1):
        moved = runner.run(image[..., shift : shift + side, shift : shift + side])
        here = still[..., first + shift : last, first + shift : last]
        there = moved[..., first : last - shift, first : last - shift]
        if (here - there).abs().max() <= TOLERANCE * still.abs().max():
            return shift
    raise ModelError(
        f"no shift of the image by up to {_LARGEST_DIVISOR} px shifts what the network decides: "
        "it depends on the place in the tile"
    )


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
