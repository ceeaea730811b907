"""U-Net++ of Zhou, Siddiquee, Tajbakhsh and Liang (2018, arXiv:1807.10165; 2020, arXiv:1912.05074)."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.networks.layers import convolution, initialise, unet_reach, upsampling
from tilesegment.networks.network import BASE, Choice, Network, Number, Option


class UNetPlusPlus(Network):
    """U-Nets of depth 1 to 4 within each other, sharing their contracting path.

    Node X[i, j] lies in stage i (`base` * 2**i channels at 1 / 2**i of the size) and column j. X[i, 0] is the
    contracting path; X[i, j] is two 3x3 convolutions of X[i, 0], ..., X[i, j - 1] and the upsampled X[i + 1, j - 1],
    joined. Heads, 1x1 convolutions, give logits from each of X[0, 1] to X[0, 4]: head L is that of the U-Net of depth
    L and needs only the nodes with i + j <= L. All are trained together (deep supervision), so any of them can be cut
    out afterwards: `pruned`. From 3 channels to 1, head 4 needs 9,042,177 parameters, head 3 2,205,537, head 2 511,681,
    head 1 101,537; the three other heads of the whole have 33 each.

    In training mode `forward` returns the logits of every head, in evaluation mode those of the last one: the paper's
    'fast mode', not the mean of all ('accurate mode'). So a level is the same function whether the others are there or
    not, and nothing is computed that pruning would remove.

    Args:
        in_channels: channels of the input.
        classes: channels of the output.
        level: depth of the deepest U-Net within, 1 to 4; the divisor is 2 ** level.
        base: channels of the first stage.
        supervision: `deep` has the heads 1 to `level`; `last`, which `pruned` leaves, has head `level` alone.

    Shapes: (B, in_channels, H, W) float -> (B, classes, H, W), in training mode a tuple of them, one per head, the
    deepest first; H and W are multiples of 2 ** level.
    """

    options: ClassVar[Mapping[str, Option]] = {
        "level": Number("depth of the deepest U-Net within", 1, 4),
        "base": BASE,
        "supervision": Choice("heads: those of every level, or the last one", ("deep", "last")),
    }

    def __init__(
        self, in_channels: int = 1, classes: int = 2, level: int = 4, base: int = 32, supervision: str = "deep"
    ) -> None:
        super().__init__()
        self.in_channels, self.classes, self.level, self.base = in_channels, classes, level, base
        self.up, self.node, self.head = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        for stage in range(level + 1):
            width = base * 2**stage
            self.node[f"{stage}{0}"] = _double(width // 2 if stage else in_channels, width)
            for column in range(1, level - stage + 1):
                self.up[f"{stage}{column}"] = upsampling("transposed", 2 * width, width)
                self.node[f"{stage}{column}"] = _double((column + 1) * width, width)
        for head in range(1 if supervision == "deep" else level, level + 1):
            self.head[str(head)] = nn.Conv2d(base, classes, 1)
        initialise(self)

    @property
    def divisor(self) -> int:
        """2 per pooling."""
        return 2**self.level

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Input rows that decide output rows: those of the deepest U-Net within."""
        return unet_reach(self.level, first, last)

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """All 1x1 convolutions that give logits, so that a change to their biases survives pruning."""
        return tuple(head for head in self.head.values() if isinstance(head, nn.Conv2d))

    @property
    def values_per_pixel(self) -> int:
        """For the last node X[0, L], in `base` channels: the L nodes beside it and what is upsampled, these joined, a
        convolution's ends, 2 L + 4 in all; the deeper stages hold no more than L. Beside it the logits.
        """
        return (3 * self.level + 4) * self.base + 2 * self.classes

    def pruned(self, level: int) -> "UNetPlusPlus":
        """Return the part of the network that head `level` needs, with the same logits, weights and names.

        Raises:
            ModelError: the network has no such head.
        """
        if str(level) not in self.head:
            raise ModelError(f"level {level} cannot be cut out of this U-Net++; its heads are: {', '.join(self.head)}")
        with torch.device("meta"):
            smaller = UNetPlusPlus(self.in_channels, self.classes, level, self.base, supervision="last")
        whole = self.state_dict()
        smaller.load_state_dict({name: whole[name] for name in smaller.state_dict()}, assign=True)
        return smaller.train(self.training)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, classes, H, W) of `x` (B, in_channels, H, W); in training mode of each head."""
        rows: list[list[Tensor]] = []
        for stage in range(self.level + 1):
            x = self.node[f"{stage}{0}"](nn.functional.max_pool2d(x, 2) if stage else x)
            rows.append([x])
        for column in range(1, self.level + 1):
            for stage in range(self.level - column + 1):
                # the next row still ends with the column before this one, as this row does
                coarser = self.up[f"{stage}{column}"](rows[stage + 1][-1])
                joined = torch.cat([*rows[stage], coarser], dim=1)
                rows[stage].append(self.node[f"{stage}{column}"](joined))
        if self.training:
            return tuple(head(rows[0][int(level)]) for level, head in reversed(list(self.head.items())))
        return self.head[str(self.level)](rows[0][-1])


def _double(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 3x3 convolutions, each with ReLU: (B, in, H, W) -> (B, out, H, W)."""
    return nn.Sequential(*convolution(in_channels, out_channels), *convolution(out_channels, out_channels))
