"""The U-Net of tutorials that halve by strided convolutions and double by nearest neighbours."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from tilesegment.networks.layers import convolution, initialise, upsampling
from tilesegment.networks.network import BASE, DEPTH, Option
from tilesegment.networks.unet_same import PaddedUNet

_SLOPE = 0.01
# after the first and after the second convolution of a stage
_DROPOUTS = (0.3, 0.4)


class UNetStrided(PaddedUNet):
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
        self.dropout = nn.Identity()  # its stages have their own
        initialise(self, _SLOPE)


def _stage(in_channels: int, out_channels: int) -> nn.Sequential:
    """(B, in, H, W) -> (B, out, H, W)."""
    first, second = _DROPOUTS
    return nn.Sequential(
        *convolution(in_channels, out_channels, norm=True, dropout=first, slope=_SLOPE),
        *convolution(out_channels, out_channels, norm=True, dropout=second, slope=_SLOPE),
    )
