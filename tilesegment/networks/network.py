"""The base class of all networks, and the declaration of their options."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from tilesegment.geometry import FieldOfView


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included; `text` says what it is."""

    text: str
    low: int
    high: float
    whole: bool = True

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return f"{self.low} to {self.high}"

    def allows(self, value: object) -> bool:
        """Whether `value` is allowed; True, NaN and text never are."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of several names; `text` says what it is."""

    text: str
    names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The allowed values in words."""
        return ", ".join(self.names)

    def allows(self, value: object) -> bool:
        """Whether `value` is one of the names."""
        return value in self.names


Option = Number | Choice

DEPTH = Number("number of times that the image is halved", 1, 7)
BASE = Number("channels of the first stage", 1, 512)
DROPOUT = Number("share of the values that training leaves out in the deepest stages", 0, 0.95, whole=False)


class Network(nn.Module):
    """(B, in_channels, H, W) float -> logits (B, classes, h, w), before the softmax.

    In evaluation mode `forward` returns one tensor. In training mode it may return a tuple that begins with this one;
    the loss compares each of them with the same labels.

    Attributes:
        options: constructor arguments other than `in_channels` and `classes`.
        crops: True for unpadded convolutions, whose output is the centre of the input. False for same padding: the
            output is as large as the input, whose sides are multiples of the divisor.
    """

    options: ClassVar[Mapping[str, Option]] = {}
    crops: bool = False

    @property
    def divisor(self) -> int:
        """Product of the strides."""
        raise NotImplementedError

    def reach(self, first: int, last: int) -> tuple[int, int]:
        """First and last input row that decide the output rows `first` to `last`; row 0 is on the divisor's grid."""
        raise NotImplementedError

    @property
    def field_of_view(self) -> FieldOfView:
        """The context that makes tiles exact, by arithmetic on the layers; probing the network finds the same."""
        first, last = self.reach(0, self.divisor - 1)
        halo = -(-max(-first, last - self.divisor + 1) // self.divisor) * self.divisor
        return FieldOfView(self.divisor, halo, halo, crops=False)

    @property
    def heads(self) -> tuple[nn.Conv2d, ...]:
        """The last layers with a bias: adding c to the bias of a class in each adds c to its logits in evaluation."""
        raise NotImplementedError

    @property
    def values_per_pixel(self) -> int:
        """Upper estimate of the values held at once for each input pixel during prediction."""
        raise NotImplementedError
