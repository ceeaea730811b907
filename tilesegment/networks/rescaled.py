"""A network that works on a reduced image, as part of the network: seams and storage need not know."""

from torch import Tensor, nn

from tilesegment.geometry import FieldOfView


class Rescaled(nn.Module):
    """A valid-convolution network on means of `factor` x `factor` pixels, its logits enlarged bilinearly.

    Args:
        network: what decides at the lower resolution.
        factor: pixels along an axis for one that it sees.

    Shapes: (B, C, H, W) with H and W `factor` times a size that `network` takes -> (B, K, h, w).
    """

    def __init__(self, network: nn.Module, factor: int) -> None:
        super().__init__()
        self.network, self.factor = network, factor

    @property
    def field_of_view(self) -> FieldOfView:
        """That of the network, enlarged, and one of its pixels more: between them the logits are interpolated."""
        view = self.network.field_of_view
        assert isinstance(view, FieldOfView) and view.crops
        # the network's surplus output below and right holds that pixel, or the next input size does
        more = 0 if view.after - view.before >= 2 else view.divisor
        before, after = self.factor * (view.before + 1), self.factor * (view.after - 1 + more)
        return FieldOfView(self.factor * view.divisor, before, after, crops=True)

    @property
    def values_per_pixel(self) -> int:
        """Values held at once for each input pixel while predicting."""
        inner = self.network.values_per_pixel
        assert isinstance(inner, int)
        return inner // self.factor**2 + 8

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K, h, w) of the centre of `x` (B, C, H, W)."""
        factor = self.factor
        logits = self.network(nn.functional.avg_pool2d(x, factor))
        large = nn.functional.interpolate(logits, scale_factor=factor, mode="bilinear", align_corners=False)
        # the outermost pixels have a neighbour on one side only
        return large[..., factor:-factor, factor:-factor]
