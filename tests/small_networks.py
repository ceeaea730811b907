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


class NestedUNet(nn.Module):
    """U-Net++ pruned to `level`, two channels wide: X[i, j] from X[i, 0 .. j - 1] and X[i + 1, j - 1] enlarged."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self.level = level
        nodes = [(i, j) for j in range(level + 1) for i in range(level + 1 - j)]
        self.blocks = nn.ModuleDict({f"{i}{j}": block(2 * (j + 1) if i + j else 1, 2) for i, j in nodes})
        self.ups = nn.ModuleDict({f"{i}{j}": nn.ConvTranspose2d(2, 2, 2, stride=2) for i, j in nodes if j})

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 2, H, W)."""
        nodes: dict[tuple[int, int], Tensor] = {}
        for name, convs in self.blocks.items():
            i, j = int(name[0]), int(name[1])
            if j:
                row = [nodes[i, k] for k in range(j)]
                x_ij = torch.cat([*row, self.ups[name](nodes[i + 1, j - 1])], 1)
            else:
                x_ij = F.max_pool2d(nodes[i - 1, 0], 2) if i else x
            nodes[i, j] = convs(x_ij)
        return nodes[0, self.level]


class RSU(nn.Module):
    """Residual U-block of U^2-Net: `height` convolutions down and up, each with stride 2, or dilated with stride 1."""

    def __init__(self, inputs: int, height: int, dilated: bool = False) -> None:
        super().__init__()
        self.dilated = dilated
        self.entry = nn.Conv2d(inputs, 1, 3, padding=1)
        rates = [2**n if dilated else 1 for n in range(height - 1)]
        last = 2 ** (height - 1) if dilated else 2
        self.downs = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=r, dilation=r) for r in rates)
        self.bottom = nn.Conv2d(1, 1, 3, padding=last, dilation=last)
        self.ups = nn.ModuleList(nn.Conv2d(2, 1, 3, padding=r, dilation=r) for r in reversed(rates))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, 1, H, W)."""
        x = entry = self.entry(x)
        skips: list[Tensor] = []
        for down in self.downs:
            if skips and not self.dilated:
                x = F.max_pool2d(x, 2, stride=2, ceil_mode=True)
            x = down(x)
            skips.append(x)
        x = self.bottom(x)
        for up in self.ups:
            skip = skips.pop()
            x = up(torch.cat([enlarged(x, skip), skip], 1))
        return x + entry


class U2Net(nn.Module):
    """U^2-Net, one channel wide: six encoders, five decoders, six side outputs, their fusion."""

    def __init__(self) -> None:
        super().__init__()
        heights = [(7, False), (6, False), (5, False), (4, False), (4, True), (4, True)]
        self.encoders = nn.ModuleList(RSU(1, *height) for height in heights)
        self.decoders = nn.ModuleList(RSU(2, *height) for height in reversed(heights[:-1]))
        self.sides = nn.ModuleList(nn.Conv2d(1, 1, 3, padding=1) for _ in heights)
        self.fuse = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 2, H, W)."""
        image, levels = x, []
        for encoder in self.encoders:
            if levels:
                x = F.max_pool2d(x, 2, stride=2, ceil_mode=True)
            x = encoder(x)
            levels.append(x)
        outputs = [levels.pop()]
        for decoder in self.decoders:
            skip = levels.pop()
            outputs.append(decoder(torch.cat([enlarged(outputs[-1], skip), skip], 1)))
        sides = [enlarged(side(x), image) for side, x in zip(self.sides, outputs, strict=True)]
        return self.fuse(torch.cat(sides, 1))


def enlarged(x: Tensor, like: Tensor) -> Tensor:
    """Bilinear, to the height and width of `like`."""
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


class FCN(nn.Module):
    """FCN-32s, 16s or 8s on VGG16, one channel wide; its deconvolutions cropped to the input's size."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.stages = nn.ModuleList(
            nn.Sequential(*(nn.Conv2d(1, 1, 3, padding=1) for _ in range(convs))) for convs in (2, 2, 3, 3, 3)
        )
        self.full = nn.Sequential(nn.Conv2d(1, 1, 7, padding=3), nn.Conv2d(1, 1, 1), nn.Conv2d(1, 2, 1))
        self.scores = nn.ModuleList(nn.Conv2d(1, 2, 1) for _ in range({32: 0, 16: 1, 8: 2}[stride]))
        self.twice = nn.ModuleList(nn.ConvTranspose2d(2, 2, 4, stride=2) for _ in self.scores)
        self.up = nn.ConvTranspose2d(2, 2, 2 * stride, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 1, H, W) -> (B, 2, H, W)."""
        image, pools = x, []
        for stage in self.stages:
            x = F.max_pool2d(stage(x), 2)
            pools.append(x)
        x = self.full(x)
        for score, twice, pool in zip(self.scores, self.twice, pools[-2::-1], strict=False):
            x = centred(twice(x), pool) + score(pool)
        return centred(self.up(x), image)


def centred(x: Tensor, like: Tensor) -> Tensor:
    """The middle of `x`, as high and wide as `like`."""
    height, width = like.shape[-2:]
    top, left = (x.shape[-2] - height) // 2, (x.shape[-1] - width) // 2
    return x[..., top : top + height, left : left + width]
