"""Fully convolutional networks on VGG16: Shelhamer, Long and Darrell (2017, arXiv:1605.06211)."""

from collections.abc import Mapping
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn

from tilesegment.networks.layers import convolution, initialise
from tilesegment.networks.network import BASE, DROPOUT, Network, Number, Option

# convolutions of each stage of VGG16 and their channels, in units of `base` (Simonyan and Zisserman 2015, column D)
_STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class FCN(Network):
    """FCN-32s, FCN-16s, FCN-8s: VGG16 with convolutions for its dense layers, and its scores enlarged again.

    VGG16's five stages of 3x3 convolutions + ReLU and 2x2 max-pools; fc6, 7x7, and fc7, 1x1, with ReLU and dropout; a
    1x1 convolution to the classes' scores at 1 / 32 of the size. A finer network doubles them by a learnt 4x4
    transposed convolution and adds the scores that 1x1 convolutions give of pool4 (FCN-16s), then of pool3 (FCN-8s).
    A last transposed convolution, which stays bilinear interpolation as in section 4.3 of the paper, enlarges them to
    the input's size. No transposed convolution has a bias. With 21 classes and 3 channels: 136,152,917, 134,815,994
    and 134,489,759 parameters.

    The original pads its input by 100 pixels and crops all scores to fit; here every layer is padded so that scores are
    centred on their pixels (a transposed convolution's padding is that crop).

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        base: channels of the first stage.
        hidden: channels of fc6 and fc7.
        dropout: probability, after each of them; in training only.
        finest: 32, 16 or 8: factor by which the finest scores are enlarged.

    Shapes: (B, in_channels, H, W) float -> (B, classes, H, W); H and W are multiples of 32.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "base": BASE,
        "hidden": Number("channels of the two layers that VGG16 has in place of dense ones", 1, 4096),
        "dropout": DROPOUT,
    }

    def __init__(
        self,
        in_channels: int = 1,
        classes: int = 2,
        base: int = 64,
        hidden: int = 4096,
        dropout: float = 0.5,
        *,
        finest: int = 32,
    ) -> None:
        super().__init__()
        assert finest in (32, 16, 8)
        self.base = base
        widths = [base * times for _, times in _STAGES]
        self.stages = nn.ModuleList(
            _stage(i, o, count) for i, o, (count, _) in zip([in_channels, *widths], widths, _STAGES, strict=False)
        )
        self.dense = nn.Sequential(
            nn.Conv2d(widths[-1], hidden, 7, padding=3),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
            nn.Conv2d(hidden, hidden, 1),
            nn.ReLU(inplace=True),
            nn.Dropout(dropout),
        )
        self.score = nn.Conv2d(hidden, classes, 1)
        skips = {32: [], 16: [widths[3]], 8: [widths[3], widths[2]]}[finest]
        self.skip = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in skips)
        self.up = nn.ModuleList(_enlargement(classes, 2) for _ in skips)
        self.enlarge = _enlargement(classes, finest)
        initialise(self)
        for layer in (*self.up, self.enlarge):
            _interpolate(layer)
        self.enlarge.requires_grad_(False)

    @property
    def divisor(self) -> int:
        """Five poolings."""
        return 32

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Input rows that decide output rows, by the coarsest scores, which reach farthest."""
        first, last = (first - 16) // 32 - 3, (last + 16) // 32 + 3  # enlargement by bilinear weights, fc6
        for count, _ in reversed(_STAGES):
            first, last = 2 * first - count, 2 * last + 1 + count
        return first, last

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """The 1x1 convolution that gives the finest scores; enlarging keeps a constant, except at the tile's rim."""
        last = [self.score, *self.skip][-1]
        assert isinstance(last, nn.Conv2d)
        return (last,)

    @property
    def values_per_pixel(self) -> int:
        """A convolution's input and output in the first stage, and some of the next; or the logits."""
        return max(3 * self.base, self.base + 2 * self.score.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of `x` (B, in_channels, H, W)."""
        pools: list[Tensor] = []
        for stage in self.stages:
            x = stage(x)  # (B, width, H / 2**n, W / 2**n) after stage n, counted from 1
            pools.append(x)
        scores = self.score(self.dense(x))  # (B, classes, H / 32, W / 32)
        for up, skip, pool in zip(self.up, self.skip, (pools[3], pools[2]), strict=False):
            scores = up(scores) + skip(pool)
        return self.enlarge(scores)


def _stage(in_channels: int, out_channels: int, count: int) -> nn.Sequential:
    """`count` times 3x3 convolution + ReLU, then a max-pool: (B, in, H, W) -> (B, out, H / 2, W / 2)."""
    channels = [in_channels, *[out_channels] * count]
    convs = [layer for i, o in pairwise(channels) for layer in convolution(i, o)]
    return nn.Sequential(*convs, nn.MaxPool2d(2))


def _enlargement(classes: int, factor: int) -> nn.ConvTranspose2d:
    """(B, classes, H, W) -> (B, classes, factor * H, factor * W)."""
    return nn.ConvTranspose2d(classes, classes, 2 * factor, factor, padding=factor // 2, bias=False)


@torch.no_grad()
def _interpolate(layer: nn.Module) -> None:
    """Set the weights of a transposed convolution (classes, classes, 2f, 2f) to bilinear interpolation."""
    assert isinstance(layer, nn.ConvTranspose2d)
    side = layer.kernel_size[0]
    # pixel centres lie at half-integers, in units of 1 / factor: the weight falls to 0 one input pixel away
    offsets = torch.arange(side, dtype=torch.float64) + 0.5 - side / 2
    ramp = 1 - offsets.abs() / layer.stride[0]
    nn.init.zeros_(layer.weight)
    layer.weight.diagonal().copy_((ramp[:, None] * ramp)[..., None].expand(side, side, layer.in_channels))
