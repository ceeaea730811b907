"""U-Nets of same padding: their common forward pass, and the one that most tutorials build."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tilesegment.networks.layers import UPSAMPLINGS, convolution, initialise, unet_reach, upsampling
from tilesegment.networks.network import BASE, DEPTH, DROPOUT, Choice, Network, Option

_SLOPES = {"relu": 0.0, "leaky-relu": 0.01}
_CORNERS = ("align-corners", "align-corners-narrow")


class PaddedUNet(Network):
    """A U-Net whose output is as large as its input; subclasses build its parts.

    Attributes:
        base: channels of the first stage.
        down: convolutions of each stage of the contracting path, `depth` + 1 of them.
        halve: halves the image between them.
        up, merge: doubles the image, and convolves what is joined, in each stage of the expanding path.
        dropout: after each of the last two stages of the contracting path.
        head: gives the logits.
    """

    base: int
    down: nn.ModuleList
    halve: nn.ModuleList
    up: nn.ModuleList
    merge: nn.ModuleList
    dropout: nn.Module
    head: nn.Conv2d

    @property
    def divisor(self) -> int:
        """2 per halving."""
        return 2 ** len(self.halve)

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Input rows that decide output rows, as in `Network`."""
        rim = self.head.padding[0]
        assert isinstance(rim, int)
        bilinear = any(getattr(module, "mode", None) == "bilinear" for module in self.up.modules())
        strided = not isinstance(self.halve[0], nn.MaxPool2d)
        return unet_reach(len(self.halve), first - rim, last + rim, bilinear=bilinear, strided=strided)

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """The convolution that gives the logits."""
        return (self.head,)

    @property
    def values_per_pixel(self) -> int:
        """As in `UNet`: at the top of the expanding path, or the logits."""
        return max(6 * self.base, self.base + 2 * self.head.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of `x` (B, in_channels, H, W)."""
        skips: list[Tensor] = []
        depth = len(self.halve)
        for stage, convs in enumerate(self.down):
            x = convs(x)  # (B, base * 2**stage, H / 2**stage, W / 2**stage)
            if stage >= depth - 1:
                x = self.dropout(x)
            if stage < depth:
                skips.append(x)
                x = self.halve[stage](x)
        for up, merge in zip(self.up, self.merge, strict=True):
            x = up(x)
            x = merge(torch.cat([skips.pop(), x], dim=1))
        return self.head(x)


class UNetSame(PaddedUNet):
    """U-Net (Ronneberger, Fischer, Brox 2015) with padded convolutions.

    Contracting path: `depth` times two 3x3 convolutions and a halving, doubling the channels. Expanding path:
    upsampling that halves the channels, the skip beside it, two 3x3 convolutions. A 1x1 convolution gives the logits.
    `UNetSame(3, 1)` has 31,037,633 parameters, with `norm="none"` 31,031,745.

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        depth: number of halvings; the divisor is 2 ** depth.
        base: channels of the first stage.
        dropout: probability, after each of the last two stages of the contracting path; in training only.
        norm: `batch` puts BatchNorm after each 3x3 convolution of a stage, which then has no bias; `none`.
        activation: `relu`, or `leaky-relu` with slope 0.01.
        up: see `layers.upsampling`. `align-corners` is the bilinear variant of github.com/milesial/Pytorch-UNet,
            `align-corners-narrow` that of its first release: bilinear interpolation with `align_corners=True`, which
            lays the corners of the enlarged image on those of the tile. Its result depends on the tile's size, so no
            halo makes it exact. As it learns nothing, the convolutions before it halve the channels.
        down: `max-pool` of 2x2, or `stride-2`, a 3x3 convolution with activation.

    Shapes: (B, in_channels, H, W) float -> (B, classes, H, W); H and W are multiples of 2 ** depth.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "depth": DEPTH,
        "base": BASE,
        "dropout": DROPOUT,
        "norm": Choice("what follows each convolution", ("none", "batch")),
        "activation": Choice("what follows that", tuple(_SLOPES)),
        "up": Choice("how the image is doubled", (*UPSAMPLINGS, *_CORNERS)),
        "down": Choice("how the image is halved", ("max-pool", "stride-2")),
    }

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        depth: int = 4,
        base: int = 64,
        dropout: float = 0.0,
        norm: str = "batch",
        activation: str = "relu",
        up: str = "transposed",
        down: str = "max-pool",
    ) -> None:
        super().__init__()
        slope, batch = _SLOPES[activation], norm == "batch"

        def double(before: int, between: int, after: int) -> nn.Sequential:
            """Two 3x3 convolutions: (B, before, H, W) -> (B, between, H, W) -> (B, after, H, W)."""
            return nn.Sequential(
                *convolution(before, between, norm=batch, bias=not batch, slope=slope),
                *convolution(between, after, norm=batch, bias=not batch, slope=slope),
            )

        widths = [base * 2**stage for stage in range(depth + 1)]
        rising = widths[:-1]  # channels after each stage of the expanding path, from fine to coarse
        if up in _CORNERS:
            widths[-1] //= 2
            rising = [base, *rising[:-1]]
        self.base = base
        self.down = nn.ModuleList(double(i, o, o) for i, o in zip([in_channels, *widths], widths, strict=False))
        self.halve = nn.ModuleList(
            nn.MaxPool2d(2) if down == "max-pool" else convolution(w, w, stride=2, slope=slope) for w in widths[:-1]
        )
        stages = list(zip(widths[:-1], rising, strict=True))[::-1]
        if up in _CORNERS:
            self.up = nn.ModuleList(nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True) for _ in stages)
        else:
            self.up = nn.ModuleList(upsampling(up, 2 * w, w) for w, _ in stages)
        self.merge = nn.ModuleList(double(2 * w, o if up == "align-corners-narrow" else w, o) for w, o in stages)
        self.head = nn.Conv2d(base, classes, 1)
        self.dropout = nn.Dropout(dropout)
        initialise(self, slope)
