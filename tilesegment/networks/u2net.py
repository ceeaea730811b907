"""U^2-Net of Qin, Zhang, Huang, Dehghan, Zaiane and Jagersand (2020, arXiv:2005.09007)."""

import torch
from torch import Tensor, nn

from tilesegment.networks.layers import convolution, enlarge, initialise
from tilesegment.networks.network import Network

# (height, channels within, channels out) of each stage, as in figure 5 of the paper; height 0 is 4F: see `Dilated`
_Stage = tuple[int, int, int]
_DILATED = 0
_FULL: tuple[_Stage, ...] = ((7, 32, 64), (6, 32, 128), (5, 64, 256), (4, 128, 512), (0, 256, 512), (0, 256, 512))
_FULL_UP: tuple[_Stage, ...] = ((7, 16, 64), (6, 32, 64), (5, 64, 128), (4, 128, 256), (0, 256, 512))
_SMALL: tuple[_Stage, ...] = tuple((height, 16, 64) for height in (7, 6, 5, 4, 0, 0))


class U2Net(Network):
    """A U-Net whose every stage is a small U-Net.

    Six stages down, joined by max-pools, and five up, joined by bilinear enlargement. The last six of them give logits
    by a 3x3 convolution each, enlarged to the input's size: the sides. A 1x1 convolution of all sides gives the fused
    logits. `U2Net(3, 1)` has 44,009,869 parameters, `U2Net(3, 1, small=True)` 1,131,181.

    Exact tiles need a halo of 3296 pixels a side: better choose a smaller one.

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        small: 64 channels out of every stage, 16 within.

    Shapes: (B, in_channels, H, W) float -> (B, classes, H, W), in training mode a tuple of seven: fused, side 1 (the
    finest) to side 6; H and W are multiples of 32.
    """

    def __init__(self, in_channels: int = 1, classes: int = 2, *, small: bool = False) -> None:
        super().__init__()
        down, up = (_SMALL, _SMALL[:5]) if small else (_FULL, _FULL_UP)
        widths = [width for _, _, width in down]
        self.classes = classes
        self.down = nn.ModuleList(_stage(i, *stage) for i, stage in zip([in_channels, *widths], down, strict=False))
        # from fine to coarse: each takes the skip of its size and the output of the next coarser stage
        coarser = [*(width for _, _, width in up[1:]), widths[-1]]
        self.up = nn.ModuleList(_stage(s + c, *stage) for s, c, stage in zip(widths, coarser, up, strict=False))
        sides = [*(width for _, _, width in up), widths[-1]]
        self.side = nn.ModuleList(nn.Conv2d(width, classes, 3, padding=1) for width in sides)
        self.fuse = nn.Conv2d(len(sides) * classes, classes, 1)
        initialise(self)

    @property
    def divisor(self) -> int:
        """Five poolings."""
        return 32

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Input rows that decide output rows, as measured."""
        return first - 3295, last + 3295

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """The 1x1 convolution that fuses the sides."""
        return (self.fuse,)

    @property
    def values_per_pixel(self) -> int:
        """In the finest stage up: the skip and the enlarged input, 64 channels each, both joined, and a convolution's
        ends; then six sides, joined and fused.
        """
        return 400 + 13 * self.classes

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Fused logits (B, classes, H, W) of `x` (B, in_channels, H, W); in training mode with those of the sides."""
        skips: list[Tensor] = []
        for n, stage in enumerate(self.down):
            x = stage(nn.functional.max_pool2d(x, 2) if n else x)  # (B, width, H / 2**n, W / 2**n)
            skips.append(x)
        sides = [self._side(5, skips.pop())]
        for n in reversed(range(5)):
            x = self.up[n](torch.cat([skips.pop(), enlarge(x, 2)], dim=1))
            sides.insert(0, self._side(n, x))
        fused = self.fuse(torch.cat(sides, dim=1))
        return (fused, *sides) if self.training else fused

    def _side(self, n: int, x: Tensor) -> Tensor:
        """Logits (B, classes, H, W) of stage `n`'s output (B, width, H / 2**n, W / 2**n)."""
        return enlarge(self.side[n](x), 2**n)


class ResidualU(nn.Module):
    """The paper's RSU-L: a U-Net of L - 2 poolings, its input added to its output.

    Args:
        in_channels: channels of the input.
        height: L.
        inner: channels within.
        width: channels of the output.

    Shapes: (B, in_channels, H, W) -> (B, width, H, W); H and W are multiples of 2 ** (L - 2).
    """

    def __init__(self, in_channels: int, height: int, inner: int, width: int) -> None:
        super().__init__()
        self.enter = _convolution(in_channels, width)
        self.down = nn.ModuleList(_convolution(inner if n else width, inner) for n in range(height - 1))
        self.bottom = _convolution(inner, inner, dilation=2)
        self.up = nn.ModuleList(_convolution(2 * inner, inner if n else width) for n in range(height - 1))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) of `x` (B, in_channels, H, W)."""
        entered = self.enter(x)
        x, skips = entered, []
        for n, convs in enumerate(self.down):
            x = convs(nn.functional.max_pool2d(x, 2) if n else x)
            skips.append(x)
        x = self.bottom(x)  # as large as the last skip
        for n in reversed(range(len(self.up))):
            x = self.up[n](torch.cat([x, skips.pop()], dim=1))
            x = enlarge(x, 2) if n else x
        return x + entered


class Dilated(nn.Module):
    """The paper's RSU-4F: `ResidualU` with dilations 1, 2, 4, 8 in place of poolings.

    Args:
        in_channels: channels of the input.
        inner: channels within.
        width: channels of the output.

    Shapes: (B, in_channels, H, W) -> (B, width, H, W).
    """

    def __init__(self, in_channels: int, inner: int, width: int) -> None:
        super().__init__()
        self.enter = _convolution(in_channels, width)
        self.down = nn.ModuleList(_convolution(inner if n else width, inner, dilation=2**n) for n in range(3))
        self.bottom = _convolution(inner, inner, dilation=8)
        self.up = nn.ModuleList(_convolution(2 * inner, inner if n else width, dilation=2**n) for n in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, H, W) of `x` (B, in_channels, H, W)."""
        entered = self.enter(x)
        x, skips = entered, []
        for convs in self.down:
            x = convs(x)
            skips.append(x)
        x = self.bottom(x)
        for convs in reversed(self.up):
            x = convs(torch.cat([x, skips.pop()], dim=1))
        return x + entered


def _stage(in_channels: int, height: int, inner: int, width: int) -> nn.Module:
    if height == _DILATED:
        return Dilated(in_channels, inner, width)
    return ResidualU(in_channels, height, inner, width)


def _convolution(in_channels: int, out_channels: int, dilation: int = 1) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU: (B, in, H, W) -> (B, out, H, W)."""
    return convolution(in_channels, out_channels, dilation=dilation, norm=True)
