"""The U-Net of those tutorials that halve by strided convolutions and double by nearest neighbours."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tilesegment.networks.layers import convolution, initialise, upsampling
from tilesegment.networks.network import Network
from tilesegment.networks.options import BASE, DEPTH, Option

_SLOPE = 0.01
# after the first and after the second convolution of a stage
_DROPOUTS = (0.3, 0.4)


class UNetStrided(Network):
    """U-Net of same padding without pooling.

    A stage: two times 3x3 convolution, BatchNorm, dropout (0.3, then 0.4, in training only), LeakyReLU. Down: 3x3
    convolution of stride 2, LeakyReLU. Up: nearest neighbour, 1x1 convolution that halves the channels, the skip beside
    it. A 3x3 convolution gives the logits. `UNetStrided(3, 3)` has 32,090,627 parameters.

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        depth: number of halvings; the divisor is 2 ** depth.
        base: channels of the first stage.

    Shapes: (B, in_channels, H, W) float -> (B, classes, H, W); H and W are multiples of 2 ** depth.
    """

    options: ClassVar[Mapping[str, Option]] = {"depth": DEPTH, "base": BASE}

    def __init__(self, in_channels: int = 1, classes: int = 2, depth: int = 4, base: int = 64) -> None:
        super().__init__()
        widths = [base * 2**stage for stage in range(depth + 1)]
        self.base = base
        self.down = nn.ModuleList(_stage(i, o) for i, o in zip([in_channels, *widths], widths, strict=False))
        self.halve = nn.ModuleList(convolution(w, w, stride=2, slope=_SLOPE) for w in widths[:-1])
        self.up = nn.ModuleList(upsampling("nearest", 2 * w, w) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(_stage(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(base, classes, 3, padding=1)
        initialise(self, _SLOPE)

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """The 3x3 convolution that gives the logits."""
        return (self.head,)

    @property
    def values_per_pixel(self) -> int:
        """As in `UNet`: at the top of the expanding path, or the logits."""
        return max(6 * self.base, self.base + 2 * self.head.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of `x` (B, in_channels, H, W)."""
        skips: list[Tensor] = []
        for stage, halve in zip(self.down, self.halve, strict=False):
            x = stage(x)  # (B, base * 2**n, H / 2**n, W / 2**n) in stage n
            skips.append(x)
            x = halve(x)
        x = self.down[-1](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """(B, in, H, W) -> (B, out, H, W)."""
    first, second = _DROPOUTS
    return nn.Sequential(
        *convolution(in_channels, out_channels, norm=True, dropout=first, slope=_SLOPE),
        *convolution(out_channels, out_channels, norm=True, dropout=second, slope=_SLOPE),
    )
