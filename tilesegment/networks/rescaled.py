"""A network on a reduced image, seen from outside as a network on the whole image."""

from torch import Tensor, nn

from tilesegment.geometry import FieldOfView
from tilesegment.networks.layers import enlarge, enlarge_reach
from tilesegment.networks.network import Network


class Rescaled(Network):
    """A network on means of `factor` x `factor` pixels, its logits enlarged bilinearly.

    Args:
        network: works at the lower resolution.
        factor: image pixels along an axis per pixel that it sees.

    Shapes: (B, C, H, W) with H and W `factor` times a size that `network` takes -> (B, K, h, w), or a tuple of them
    where `network` returns one.
    """

    network: Network

    def __init__(self, network: Network, factor: int) -> None:
        super().__init__()
        self.network, self.factor, self.crops = network, factor, network.crops

    @property
    def divisor(self) -> int:
        """That of the network, in pixels of the whole image."""
        return self.factor * self.network.divisor

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """Input rows that decide output rows, as in `Network`."""
        first, last = self.network.reach(*enlarge_reach(first, last, self.factor))
        return self.factor * first, self.factor * (last + 1) - 1

    @property
    def field_of_view(self) -> FieldOfView:
        """That of the network, enlarged; if it crops, `forward` cuts off one more of its pixels."""
        if not self.crops:
            return super().field_of_view
        inner = self.network.field_of_view
        before = self.factor * (inner.before + 1)
        over = (self.factor * (inner.before + inner.after) - 2 * before) % self.divisor
        return FieldOfView(self.divisor, before, before + over, crops=True)

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
        # the outermost pixels have a neighbour on one side only; with same padding they are part of the halo
        return large[..., edge:-edge, edge:-edge] if self.crops else large


def unscaled(network: Network) -> Network:
    """The network that sees the reduced images, or `network` itself where nothing is reduced."""
    return network.network if isinstance(network, Rescaled) else network
