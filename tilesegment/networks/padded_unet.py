"""What U-Nets of same padding have in common: how they are run, not how they are built."""

import torch
from torch import Tensor, nn

from tilesegment.networks.network import Network


class PaddedUNet(Network):
    """A U-Net whose output is as large as its input. Those that it is the base of build its parts.

    Attributes:
        base: channels of the first stage.
        down: convolutions of each stage of the contracting path, `depth` + 1 of them.
        halve: what halves the image between them.
        up, merge: what doubles it, and the convolutions of what is joined, in each stage of the expanding path.
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
