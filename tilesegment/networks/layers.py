"""Layers shared by several networks, and how far they reach."""

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
    """3x3 convolution of same padding, norm, dropout, activation: (B, in, H, W) -> (B, out, H / stride, W / stride).

    Args:
        in_channels, out_channels: of the convolution.
        stride, dilation: of the convolution; one of them is 1.
        norm: add BatchNorm, in evaluation a fixed scale and shift, the same in every tile.
        bias: of the convolution.
        dropout: probability; None adds no dropout layer.
        slope: slope of the activation below 0; 0 is ReLU, else LeakyReLU.
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
    """Build a layer that doubles the size and changes the channels: (B, in, H, W) -> (B, out, 2H, 2W).

    `transposed` and `pixel-shuffle` learn the four output pixels per input pixel. `nearest` and `bilinear`
    (`align_corners=False`) change the channels by a 1x1 convolution before enlarging: as interpolation weights sum to
    1, the result is the same as in the other order, at a quarter of the work.
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
    """Interpolate bilinearly: (B, C, H, W) -> (B, C, factor * H, factor * W)."""
    if factor == 1:
        return x
    return nn.functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def enlarge_reach(first: int, last: int, factor: int) -> tuple[int, int]:
    """Return the input rows that `enlarge` reads for its output rows `first` to `last`."""
    return (2 * first + 1 - factor) // (2 * factor), -((factor - 1 - 2 * last) // (2 * factor))


def unet_reach(depth: int, first: int, last: int, *, bilinear: bool = False, strided: bool = False) -> tuple[int, int]:
    """Return `Network.reach` of a same-padding U-Net with two 3x3 convolutions per stage.

    Args:
        depth: number of halvings.
        first, last: output rows.
        bilinear: doubles by bilinear interpolation; other upsamplings read one pixel per output pixel.
        strided: halves by 3x3 convolutions of stride 2, not by pooling.
    """
    skips = []
    for _ in range(depth):
        first, last = first - 2, last + 2
        skips.append((first, last))
        first, last = enlarge_reach(first, last, 2) if bilinear else (first // 2, last // 2)
    first, last = first - 2, last + 2
    for skip_first, skip_last in reversed(skips):
        first, last = 2 * first - strided, 2 * last + 1  # a strided convolution reads 2i - 1 to 2i + 1
        first, last = min(first, skip_first) - 2, max(last, skip_last) + 2
    return first, last


@torch.no_grad()
def initialise(network: nn.Module, slope: float = 0.0) -> None:
    """Draw Gaussian weights of std sqrt(2 / ((1 + slope^2) N)), N incoming nodes; set biases to 0.

    Section 3 of the U-Net paper; He et al. 2015 (arXiv:1502.01852), equation 15 of which has the activation's slope.
    """
    for module in network.modules():
        # on the meta device there is nothing to draw, and PyTorch would import half of itself for it
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and not module.weight.is_meta:
            incoming = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
            if isinstance(module, nn.ConvTranspose2d):
                # an output pixel sees only the input pixels whose kernels reach it
                incoming //= module.stride[0] * module.stride[1]
            nn.init.normal_(module.weight, std=(2 / ((1 + slope**2) * incoming)) ** 0.5)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
