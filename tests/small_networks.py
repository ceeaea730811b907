"""Networks of every kind whose field of view is found, as narrow as can be."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tilesegment.geometry import FieldOfView


class Function(nn.Module):
    """Two convolutions with a function between them."""

    def __init__(self, between: Callable[[Tensor], Tensor], channels: int = 4) -> None:
        super().__init__()
        self.between = between
        self.first, self.last = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 2, H, W)."""
        return self.last(self.between(self.first(x)))


def around(*layers: nn.Module) -> nn.Sequential:
    """Layers of four channels between two convolutions."""
    return nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), *layers, nn.Conv2d(4, 2, 3, padding=1))


def narrower(view: FieldOfView) -> FieldOfView:
    """A halo one divisor smaller."""
    return FieldOfView(view.divisor, view.before - view.divisor, view.after - view.divisor, view.crops)


def off_grid(network: nn.Module, view: FieldOfView) -> float:
    """The largest difference where a tile starts one pixel off the grid of the divisor."""
    side, tile, first = view.divisor, view.tile_of(view.divisor), 0 if view.crops else view.before
    shape = 1, 1, view.tile_of(2 * side), view.tile_of(2 * side)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    whole = network(image)[..., first + 1 : first + 1 + side, first : first + side]
    part = network(image[..., 1 : 1 + tile, :tile])[..., first : first + side, first : first + side]
    return float((whole - part).abs().max())


def positive(network: nn.Module, seed: int = 0) -> nn.Module:
    """Weights that hide nothing: positive, of sum 1, largest at a kernel's rim; double precision, eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            weight = torch.rand(module.weight.shape, generator=generator) + 0.5
            height, width = weight.shape[-2:]
            weight[..., 1 : height - 1, :] *= 0.3
            weight[..., 1 : width - 1] *= 0.3
            dims = (0, 2, 3) if isinstance(module, nn.ConvTranspose2d) else (1, 2, 3)
            module.weight.data = weight / weight.sum(dims, keepdim=True) * 1.5
    return network.double().eval().requires_grad_(False)


def block(inputs: int, outputs: int, kernel: int = 3, dilation: int = 1, norm: bool = False) -> nn.Sequential:
    """Two same-padding convolutions."""
    layers: list[nn.Module] = []
    total = dilation * (kernel - 1)
    pad = (total // 2, total - total // 2) * 2
    for channels in (inputs, outputs):
        layers += [nn.ZeroPad2d(pad), nn.Conv2d(channels, outputs, kernel, dilation=dilation)]
        layers += [nn.BatchNorm2d(outputs)] * norm + [nn.Dropout(0.3), nn.LeakyReLU(0.1, inplace=True)]
    return nn.Sequential(*layers)


def upsampling(kind: str, channels: int, factor: int) -> nn.Module:
    """Enlarges by `factor`."""
    if kind == "transposed":
        return nn.ConvTranspose2d(channels, channels, factor, stride=factor)
    if kind == "overlapping":
        return nn.ConvTranspose2d(channels, channels, 2 * factor, stride=factor, padding=factor // 2)
    if kind == "shuffle":
        return nn.Sequential(nn.Conv2d(channels, channels * factor**2, 1), nn.PixelShuffle(factor))
    return nn.Sequential(nn.Upsample(scale_factor=factor, mode=kind), nn.Conv2d(channels, channels, 1))


def downsampling(kind: str, channels: int, factor: int) -> nn.Module:
    """Reduces by `factor`."""
    if kind == "strided":
        return nn.Conv2d(channels, channels, 3, stride=factor, padding=1)
    if kind == "unshuffle":
        return nn.Sequential(nn.PixelUnshuffle(factor), nn.Conv2d(channels * factor**2, channels, 1))
    return nn.MaxPool2d(factor) if kind == "max" else nn.AvgPool2d(factor)


class SameUNet(nn.Module):
    """A U-Net of same-padding convolutions, two channels wide."""

    def __init__(
        self,
        depth: int,
        *,
        up: str = "transposed",
        down: str = "max",
        kernel: int = 3,
        dilation: int = 1,
        factor: int = 2,
        norm: bool = False,
    ) -> None:
        super().__init__()
        self.first = block(1, 2, kernel, dilation, norm)
        self.downs = nn.ModuleList(downsampling(down, 2, factor) for _ in range(depth))
        self.blocks = nn.ModuleList(block(2, 2, kernel, dilation, norm) for _ in range(depth))
        self.ups = nn.ModuleList(upsampling(up, 2, factor) for _ in range(depth))
        self.merges = nn.ModuleList(block(4, 2, kernel, dilation, norm) for _ in range(depth))
        self.head = nn.Conv2d(2, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 2, H, W)."""
        x = self.first(x)
        skips = []
        for down, convs in zip(self.downs, self.blocks, strict=True):
            skips.append(x)
            x = convs(down(x))
        for up, merge in zip(self.ups, self.merges, strict=True):
            x = merge(torch.cat([skips.pop(), up(x)], 1))
        return self.head(x)


class ValidUNet(nn.Module):
    """A U-Net of depth 1 of unpadded convolutions."""

    def __init__(self, *, kernel: int = 3, factor: int = 2, up: str = "transposed") -> None:
        super().__init__()
        self.factor, self.bilinear = factor, up == "bilinear"
        self.first, self.inner = nn.Conv2d(1, 2, kernel), nn.Conv2d(2, 2, kernel)
        self.up, self.merge = upsampling(up, 2, factor), nn.Conv2d(4, 2, kernel)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 2, h, w)."""
        skip = self.first(x)
        x = self.up(self.inner(F.max_pool2d(skip, self.factor)))
        if self.bilinear:
            # the outermost pixels have a neighbour on one side only
            x = x[..., self.factor : -self.factor, self.factor : -self.factor]
        return self.merge(torch.cat([centred(skip, x), x], 1))


def centred(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x`, as high and wide as `like`."""
    height, width = like.shape[-2:]
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
