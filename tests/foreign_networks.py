"""Networks as others build and save them."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.models.importing import import_weights


def double_conv(before: int, after: int, bias: bool, between: int | None = None) -> nn.Module:
    """Twice 3x3 convolution, BatchNorm, ReLU, under the public U-Net's name."""
    layers: list[nn.Module] = []
    for width, to in ((before, between or after), (between or after, after)):
        layers += [nn.Conv2d(width, to, 3, padding=1, bias=bias), nn.BatchNorm2d(to), nn.ReLU()]
    module = nn.Module()
    module.double_conv = nn.Sequential(*layers)
    return module


class PublicUNet(nn.Module):
    """The U-Net of the paper with same padding and BatchNorm, its parts named as those of the public one."""

    def __init__(self, channels: int = 3, classes: int = 2, base: int = 64, depth: int = 4, bias: bool = False) -> None:
        super().__init__()
        self.depth = depth
        self.inc = double_conv(channels, base, bias)
        for n in range(1, depth + 1):
            down = nn.Module()
            down.maxpool_conv = nn.Sequential(nn.MaxPool2d(2), double_conv(base * 2 ** (n - 1), base * 2**n, bias))
            self.add_module(f"down{n}", down)
        for n in range(1, depth + 1):
            width = base * 2 ** (depth - n)
            up = nn.Module()
            up.up, up.conv = nn.ConvTranspose2d(2 * width, width, 2, 2), double_conv(2 * width, width, bias)
            self.add_module(f"up{n}", up)
        self.outc = nn.Module()
        self.outc.conv = nn.Conv2d(base, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> logits (B, K, H, W)."""
        x = self.inc.double_conv(x)
        skips = [x]
        for n in range(1, self.depth + 1):
            pool, convs = self.get_submodule(f"down{n}").maxpool_conv
            skips.append(convs.double_conv(pool(skips[-1])))
        x = skips.pop()
        for n in range(1, self.depth + 1):
            up = self.get_submodule(f"up{n}")
            x = up.conv.double_conv(torch.cat([skips.pop(), up.up(x)], dim=1))
        return self.outc.conv(x)


class PublicBilinear(PublicUNet):
    """Its variant with `bilinear=True`; `first` is that of the first release."""

    def __init__(
        self, channels: int = 3, classes: int = 2, base: int = 64, depth: int = 4, first: bool = False
    ) -> None:
        super().__init__(channels, classes, base, depth)
        bottom = self.get_submodule(f"down{depth}").maxpool_conv
        bottom[1] = double_conv(base * 2 ** (depth - 1), base * 2 ** (depth - 1), False)
        for n in range(1, depth + 1):
            up, width = self.get_submodule(f"up{n}"), base * 2 ** (depth - n)
            up.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)
            after = width // 2 if n < depth else width
            up.conv = double_conv(2 * width, after, False, None if first else width)


def shaken(network: nn.Module, seed: int = 0) -> nn.Module:
    """With BatchNorm statistics, scales and shifts as after training, in evaluation mode."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for value in (module.running_var, module.weight.data):
                value.uniform_(0.5, 2)
            for value in (module.running_mean, module.bias.data):
                value.normal_()
    return network.eval()


def difference(a: nn.Module, b: nn.Module, channels: int = 3, side: int = 48) -> float:
    """The largest difference of their logits of a random image, in double precision, as a share of the largest."""
    x = torch.rand(2, channels, side, side, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        first, second = a.double()(x), b.double()(x)
    assert first.shape == second.shape and first.abs().max() > 0.01
    return float((first - second).abs().max() / first.abs().max())


def refused(tmp_path: Path, path: Path, network: str = "unet-same", **given: Any) -> str:
    """The line with which an import is refused; no model is left."""
    with pytest.raises(ModelError) as caught:
        import_weights(path, tmp_path / "refused.safetensors", network=network, **given)
    assert "\n" not in str(caught.value) and not (tmp_path / "refused.safetensors").exists()
    return str(caught.value)


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "weights.pth")
    return tmp_path / "weights.pth"


class Tutorial(nn.Module):
    """A U-Net of other names, built stage by stage: each enlargement followed by its convolutions."""

    def __init__(self, base: int = 3) -> None:
        super().__init__()
        self.encoder = nn.ModuleList(double_conv(i, o, False) for i, o in ((3, base), (base, 2 * base)))
        self.bottleneck = double_conv(2 * base, 4 * base, False)
        self.decoder = nn.ModuleList()
        for width in (2 * base, base):
            self.decoder.append(nn.ConvTranspose2d(2 * width, width, 2, 2))
            self.decoder.append(double_conv(2 * width, width, False))
        self.last = nn.Conv2d(base, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) -> logits (B, 2, H, W)."""
        skips = []
        for convs in self.encoder:
            skips.append(convs.double_conv(x))
            x = nn.functional.max_pool2d(skips[-1], 2)
        x = self.bottleneck.double_conv(x)
        for up, convs in zip(self.decoder[::2], self.decoder[1::2], strict=True):
            x = convs.double_conv(torch.cat([skips.pop(), up(x)], dim=1))
        return self.last(x)
