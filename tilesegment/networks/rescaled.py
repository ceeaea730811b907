"""A network that works on a reduced image, as part of the network: seams and storage need not know."""

from torch import Tensor, nn

from tilesegment.networks.layers import enlarge
from tilesegment.networks.network import Network


class Rescaled(Network):
    """A network on means of `factor` x `factor` pixels, its logits enlarged bilinearly.

    Args:
        network: what decides at the lower resolution.
        factor: pixels along an axis for one that it sees.

    Shapes: (B, C, H, W) with H and W `factor` times a size that `network` takes -> (B, K, h, w), or a tuple of them
    where `network` gives one.
    """

    network: Network

    def __init__(self, network: Network, factor: int) -> None:
        super().__init__()
        self.network, self.factor, self.crops = network, factor, network.crops

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """Those of the network."""
        return self.network.heads

    @property
    def values_per_pixel(self) -> int:
        """Those of the network, and the enlarged logits."""
        return self.network.values_per_pixel // self.factor**2 + 4 * self.heads[0].out_channels

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Logits (B, K, h, w) of the centre of `x` (B, C, H, W), or a tuple of them."""
        logits = self.network(nn.functional.avg_pool2d(x, self.factor))
        return tuple(map(self._enlarge, logits)) if isinstance(logits, tuple) else self._enlarge(logits)

    def _enlarge(self, logits: Tensor) -> Tensor:
        large, edge = enlarge(logits, self.factor), self.factor
        # the outermost pixels have a neighbour on one side only; with same padding the halo holds them
        return large[..., edge:-edge, edge:-edge] if self.crops else large
