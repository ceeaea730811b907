"""Any torch.nn.Module as one of our networks."""

import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.networks.counting import peak_values
from tilesegment.networks.network import Network

# in the header of a model file: the network's name, and the argument that keeps its field of view
MODULE, VIEW = "module", "field_of_view"
_SCALES = ((0.0, 1.0), (128.0, 64.0))  # mean and std of the random images that reveal what the output means
_TINY = torch.finfo(torch.float32).tiny


class AnyNetwork(Network):
    """A module whose output becomes logits of at least two classes.

    Args:
        module: (B, C, H, W) -> (B, K, h, w); in training mode possibly a tuple of these.
        classes: max(K, 2).
        activation: what the module returns, `logits` or `probabilities`; see `as_logits`.

    Attributes:
        measured: values held at once for each input pixel.

    Shapes: (B, C, H, W) float -> logits (B, classes, h, w), or a tuple of them.
    """

    def __init__(self, module: nn.Module, classes: int, activation: str = "logits") -> None:
        super().__init__()
        self.module, self.classes, self.activation, self.measured = module, classes, activation, 0
        # the identity; its bias can shift the logits of a class
        self.head = nn.Conv2d(classes, classes, 1, groups=classes)
        nn.init.ones_(self.head.weight)
        nn.init.zeros_(self.head.bias)  # type: ignore[arg-type]

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """A factor and a constant per class, 1 and 0 unless trained."""
        return (self.head,)

    @property
    def values_per_pixel(self) -> int:
        """The measured value."""
        return self.measured

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, classes, h, w) of `x` (B, C, H, W), or a tuple of them."""
        output = self.module(x)
        if isinstance(output, tuple | list):
            return tuple(self.head(as_logits(one, self.activation)) for one in output)
        return self.head(as_logits(output, self.activation))


@torch.inference_mode()
def adapt(module: nn.Module, channels: int, side: int) -> AnyNetwork:
    """Wrap a module as a network; what it returns is found by running it. Puts the module into evaluation mode.

    Args:
        module: (B, channels, H, W) -> (B, K, h, w).
        channels: channels of the images.
        side: side of a tile that it takes, pixels.

    Raises:
        ModelError: it returns more than 256 classes.
    """
    place = next((value for value in module.parameters()), torch.empty(0))
    images = [
        torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0)) * std + mean
        for mean, std in _SCALES
    ]
    images = [image.to(place.device, place.dtype) for image in images]
    outputs = [module.eval()(image) for image in images]
    count = max(outputs[0].shape[1], 2)
    if count > 256:
        raise ModelError(f"the network gives {count} classes; allowed: 1 to 256")
    network = AnyNetwork(module, count, activation_of(outputs))
    network.measured = -(-peak_values(network.to(place.device), images[0]) // side**2)
    return network


def as_logits(output: Tensor, activation: str) -> Tensor:
    """Return logits (B, K, h, w), K at least 2, whose softmax is what a network means by its output.

    One channel is the probability, or the logit, of class 1 of two: the softmax of (0, logit) is the sigmoid. The
    softmax of the logarithms of K probabilities gives these probabilities, scaled to sum to 1.
    """
    if activation == "logits":
        return torch.cat([torch.zeros_like(output), output], 1) if output.shape[1] == 1 else output
    if output.shape[1] == 1:
        output = torch.cat([1 - output, output], 1)
    return output.clamp(min=_TINY).log()


def activation_of(outputs: list[Tensor]) -> str:
    """Tell `probabilities`, which lie in 0 to 1 and sum to 1, from `logits` by outputs, each (B, K, h, w)."""

    def probable(output: Tensor) -> bool:
        inside = bool(((output >= -1e-6) & (output <= 1 + 1e-6)).all())
        return inside and (output.shape[1] == 1 or bool(((output.sum(1) - 1).abs() < 1e-3).all()))

    return "probabilities" if all(map(probable, outputs)) else "logits"
