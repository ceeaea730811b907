"""Layers that several networks are made of."""

import torch
from torch import Tensor, nn

UPSAMPLINGS = ("transposed", "nearest", "bilinear", "pixel-shuffle")


def convolution(
    in_channels: int,
    out_channels: int,
    *,
    stride: int = 1,
    dilation: int = 1,
    norm: bool = False,
    bias: bool = True,
    dropout: float | None = None,
    slope: float = 0.0,
) -> nn.Sequential:
    """3x3 convolution of same padding, then norm, dropout, activation: (B, in, H, W) -> (B, out, H, W) / stride.

    Zero padding is right at a tile's border only, not in the image's inside: what it spoils is the halo's to cover.

    Args:
        in_channels, out_channels: before and after.
        stride, dilation: of the convolution; one of them is 1.
        norm: BatchNorm, which in evaluation is a fixed scale and shift, and so the same in every tile.
        bias: of the convolution.
        dropout: probability of a dropout layer, None for no such layer.
        slope: of the activation below 0: 0 is ReLU, else LeakyReLU.
    """
    layers: list[nn.Module] = [
        nn.Conv2d(in_channels, out_channels, 3, stride, padding=dilation, dilation=dilation, bias=bias)
    ]
    if norm:
        layers.append(nn.BatchNorm2d(out_channels))
    if dropout is not None:
        layers.append(nn.Dropout(dropout))
    layers.append(nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def upsampling(kind: str, in_channels: int, out_channels: int) -> nn.Module:
    """Twice as high and wide, with other channels: (B, in, H, W) -> (B, out, 2H, 2W).

    `transposed` learns the four pixels of each, as `pixel-shuffle` does in another layout. `nearest` and `bilinear`
    (`align_corners=False`: the other depends on the tile's size) change the channels by a 1x1 convolution. It comes
    before the enlargement: as the weights of an interpolation sum to 1 the result is the same, for a quarter of the
    work.

    Args:
        kind: one of `UPSAMPLINGS`.
        in_channels, out_channels: before and after.
    """
    assert kind in UPSAMPLINGS
    if kind == "transposed":
        return nn.ConvTranspose2d(in_channels, out_channels, 2, stride=2)
    if kind == "pixel-shuffle":
        return nn.Sequential(nn.Conv2d(in_channels, 4 * out_channels, 1), nn.PixelShuffle(2))
    align = None if kind == "nearest" else False
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1), nn.Upsample(scale_factor=2, mode=kind, align_corners=align)
    )


def enlarge(x: Tensor, factor: int) -> Tensor:
    """Bilinear interpolation: (B, C, H, W) -> (B, C, factor * H, factor * W)."""
    if factor == 1:
        return x
    return nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


@torch.no_grad()
def initialise(network: nn.Module, slope: float = 0.0) -> None:
    """Gaussian weights of std sqrt(2 / ((1 + slope^2) N)), N incoming nodes; biases 0.

    Section 3 of the U-Net paper; He et al. 2015 (arXiv:1502.01852), whose equation 15 has the slope below 0 of the
    activation.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            incoming = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            if isinstance(module, nn.ConvTranspose2d):
                # an output pixel sees only those input pixels whose kernels reach it
                incoming //= module.stride[0] * module.stride[1]
            nn.init.normal_(module.weight, std=(2 / ((1 + slope**2) * incoming)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
