"""What every network here promises."""

from collections.abc import Mapping
from typing import ClassVar

from torch import nn

from tilesegment.networks.options import Option


class Network(nn.Module):
    """(B, in_channels, H, W) float -> logits (B, classes, h, w); soft-max is the caller's.

    In evaluation mode `forward` gives one tensor, in training mode it may give a tuple of them, that one first, each
    to be compared with the same labels.

    Attributes:
        options: what its constructor takes beside `in_channels` and `classes`.
        crops: True for unpadded convolutions, whose output is the centre of the input; False for same padding, whose
            output is as large as the input, whose sides then are multiples of the divisor.
    """

    options: ClassVar[Mapping[str, Option]] = {}
    crops: bool = False

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """The last layers with a bias: add c to a class's bias in each, and c is added to its logits in evaluation."""
        raise NotImplementedError

    @property
    def values_per_pixel(self) -> int:
        """Values held at once for each input pixel while predicting: an upper estimate."""
        raise NotImplementedError
