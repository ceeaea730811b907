"""A network that works on a reduced image, as part of the network: seams and storage need not know."""

from torch import Tensor, nn

from tilesegment.geometry import FieldOfView
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

    def __init__(self, network: Network, factor: int) -> None:
        super().__init__()
        self.network, self.factor, self.crops = network, factor, network.crops

    @property
    def field_of_view(self) -> FieldOfView:
        """That of the network, where it declares one, as seen from the whole image."""
        view = self.network.field_of_view
        assert isinstance(view, FieldOfView)
        return enlarged_view(view, self.factor)

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


def enlarged_view(view: FieldOfView, factor: int) -> FieldOfView:
    """What `Rescaled` of a network with `view` needs to see, in pixels of the image that it reduces by `factor`.

    It is one of the network's pixels more: between them the logits are interpolated. Where the tile's sides are to
    remain multiples of the divisor, it is one divisor more.
    """
    if not view.crops:
        before, after = (factor * (side + view.divisor) for side in (view.before, view.after))
        return FieldOfView(factor * view.divisor, before, after, crops=False)
    # the network's surplus output below and right holds that pixel, or the next input size does
    more = 0 if view.after - view.before >= 2 else view.divisor
    before, after = factor * (view.before + 1), factor * (view.after - 1 + more)
    return FieldOfView(factor * view.divisor, before, after, crops=True)
