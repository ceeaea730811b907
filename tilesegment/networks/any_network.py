"""Any torch.nn.Module as one of our networks."""

import torch
from torch import Tensor, nn

from tilesegment.networks.network import Network

ACTIVATIONS = ("logits", "probabilities")  # what a network's output is; see `as_logits`
_TINY = torch.finfo(torch.float32).tiny


class AnyNetwork(Network):
    """A module, in evaluation mode, whose output becomes logits of at least two classes.

    Args:
        module: (B, C, H, W) -> (B, K, h, w).
        activation: one of `ACTIVATIONS`: what the module gives.
        values: held at once for each input pixel.

    Shapes: (B, C, H, W) float -> logits (B, max(K, 2), h, w).
    """

    def __init__(self, module: nn.Module, activation: str = "logits", values: int = 0) -> None:
        super().__init__()
        self.module, self.activation, self._values = module, activation, values

    @property
    def values_per_pixel(self) -> int:
        """As it was measured."""
        return self._values

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K, h, w) of `x` (B, C, H, W)."""
        return as_logits(self.module(x), self.activation)


def as_logits(output: Tensor, activation: str) -> Tensor:
    """Logits (B, K, h, w), K at least 2, whose softmax is what a network means by its output.

    One channel is the probability, or the logit, of class 1 of two: the softmax of (0, logit) is the sigmoid. The
    softmax of the logarithms of K probabilities is these probabilities, scaled to sum to 1.
    """
    if activation == "logits":
        return torch.cat([torch.zeros_like(output), output], 1) if output.shape[1] == 1 else output
    if output.shape[1] == 1:
        output = torch.cat([1 - output, output], 1)
    return output.clamp(min=_TINY).log()


def activation_of(outputs: list[Tensor]) -> str:
    """What a network means by these outputs, (B, K, h, w) each: probabilities lie in 0 to 1 and sum to 1."""

    def probable(output: Tensor) -> bool:
        inside = bool(((output >= -1e-6) & (output <= 1 + 1e-6)).all())
        return inside and (output.shape[1] == 1 or bool(((output.sum(1) - 1).abs() < 1e-3).all()))

    return "probabilities" if all(map(probable, outputs)) else "logits"
