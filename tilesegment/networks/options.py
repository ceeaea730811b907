"""What can be chosen of a network: the values that are allowed, and words for them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """A number from `low` to `high`, both included.

    Attributes:
        text: what it is, for people.
        low, high: beyond these it is no matter of taste but a slip, or a file that wants all our memory.
        whole: whether only integers are allowed.
    """

    text: str
    low: int
    high: float
    whole: bool = True

    @property
    def allowed(self) -> str:
        """The values that are allowed, in words."""
        return f"{self.low} to {self.high}"

    def allows(self, value: object) -> bool:
        """Whether `value` is one of them; True, NaN and text never are."""
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of several names.

    Attributes:
        text: what it is, for people.
        names: those that are allowed.
    """

    text: str
    names: tuple[str, ...]

    @property
    def allowed(self) -> str:
        """The values that are allowed, in words."""
        return ", ".join(self.names)

    def allows(self, value: object) -> bool:
        """Whether `value` is one of them."""
        return value in self.names


Option = Number | Choice

DEPTH = Number("number of times that the image is halved", 1, 7)
BASE = Number("channels of the first stage", 1, 512)
DROPOUT = Number("share of the values that training leaves out in the deepest stages", 0, 0.95, whole=False)
