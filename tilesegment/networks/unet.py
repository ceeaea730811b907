"""The valid-convolution U-Net of Ronneberger, Fischer and Brox (2015, arXiv:1505.04597)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tilesegment.geometry import FieldOfView
from tilesegment.networks.layers import initialise
from tilesegment.networks.network import BASE, DEPTH, DROPOUT, Network, Option


class UNet(Network):
    """U-Net of unpadded convolutions, which decides each pixel from real context alone.

    Contracting path: `depth` times two 3x3 convolutions + ReLU and a 2x2 max-pool of stride 2, doubling the channels.
    Expanding path: 2x2 up-convolution of stride 2 that halves the channels, the centre-cropped skip, two 3x3
    convolutions + ReLU. A 1x1 convolution gives the logits. `UNet(1, 2)` is the original: 31,030,658 parameters.

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        depth: number of poolings; the divisor is 2 ** depth.
        base: channels of the first stage.
        dropout: probability, after each of the last two stages of the contracting path; in training only.

    Shapes: (B, in_channels, H, W) float -> (B, classes, H - m, W - m) with m = 12 * 2**depth - 8; H and W must be
    2**depth * k + 4 * (2**depth - 1).
    """

    options: ClassVar[Mapping[str, Option]] = {"depth": DEPTH, "base": BASE, "dropout": DROPOUT}
    crops = True

    def __init__(
        self, in_channels: int = 1, classes: int = 2, depth: int = 4, base: int = 64, dropout: float = 0.5
    ) -> None:
        super().__init__()
        widths = [base * 2**stage for stage in range(depth + 1)]
        self.depth, self.base = depth, base
        self.down = nn.ModuleList(double_conv(i, o) for i, o in zip([in_channels, *widths], widths, strict=False))
        self.up = nn.ModuleList(nn.ConvTranspose2d(2 * w, w, 2, stride=2) for w in reversed(widths[:-1]))
        self.merge = nn.ModuleList(double_conv(2 * w, w) for w in reversed(widths[:-1]))
        self.head = nn.Conv2d(base, classes, 1)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    @property
    def divisor(self) -> int:
        """2 per pooling."""
        return 2**self.depth

    @property
    def field_of_view(self) -> FieldOfView:
        """What the convolutions crop; the input sizes may leave 4 pixels of output over, at the end."""
        margin = 6 * self.divisor - 4
        return FieldOfView(self.divisor, margin, margin + 4 % self.divisor, crops=True)

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """The 1x1 convolution that gives the logits."""
        return (self.head,)

    @property
    def values_per_pixel(self) -> int:
        """At the top of the expanding path: the skip, the up-convolution's output, both joined, a convolution's ends.

        Each has `base` channels. With many classes it is the logits and their softmax.
        """
        return max(6 * self.base, self.base + 2 * self.head.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, H - m, W - m) of the centre of `x` (B, in_channels, H, W)."""
        skips: list[Tensor] = []
        for stage, convs in enumerate(self.down):
            x = convs(x)
            if stage >= self.depth - 1:
                x = self.dropout(x)
            if stage < self.depth:
                skips.append(x)
                x = nn.functional.max_pool2d(x, 2)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([_centre(skips.pop(), x), x], dim=1))
        return self.head(x)


def double_conv(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two unpadded 3x3 convolutions, each with ReLU: (B, in, H, W) -> (B, out, H - 4, W - 4)."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 3),
        nn.ReLU(inplace=True),
        nn.Conv2d(out_channels, out_channels, 3),
        nn.ReLU(inplace=True),
    )


def _centre(skip: Tensor, like: Tensor) -> Tensor:
    """The middle of `skip` (B, C, H, W), as high and wide as `like`."""
    height, width = like.shape[-2:]
    top, left = (skip.shape[-2] - height) // 2, (skip.shape[-1] - width) // 2
    return skip[..., top : top + height, left : left + width]
