"""What is asked of a run of images, how far it is, what becomes of each, and who hears of it."""

from dataclasses import dataclass, field
from pathlib import Path

from tilesegment.errors import ImageError
from tilesegment.geometry import Block
from tilesegment.prediction.order import Order
from tilesegment.prediction.run import Ending, Outputs

# blocks of an image that may be unreadable before it is given up
_MOST_FAILED = 8


@dataclass(frozen=True)
class Errand:
    """An image to predict, and where to."""

    image: str | Path
    outputs: Outputs


@dataclass(frozen=True)
class Progress:
    """How far the images are.

    Attributes:
        pixels: predicted and stored so far in this run.
        blocks: stored so far in this run, skipped ones among them.
        total: pixels that this run predicts in all, of the images begun so far and as far as is known.
        images, begun, ended: how many there are, and of these are begun and at an end.
        seconds: since the first.
    """

    pixels: int
    blocks: int
    total: int
    images: int
    begun: int
    ended: int
    seconds: float

    @property
    def share(self) -> float:
        """Of the whole, 0 to 1, images counted equal."""
        return self.begun / self.images * self.pixels / max(self.total, 1)


@dataclass
class Outcome:
    """What became of an image.

    Attributes:
        errand: the image.
        order: what was decided of it, with the model called `model`; None if it could not even be opened.
        blocks: stored in this run; `resumed` blocks were there already, `repaired` were, but damaged.
        pixels: predicted and stored in this run.
        skipped, pixels_skipped: of the blocks stored in this run, those that were empty, and their pixels.
        seconds: from its beginning to its end.
        ending: None unless it came to its end.
        notes: what a user should know of how it is read and predicted, and of what was there before.
        errors: of its blocks, or the one that kept it from being begun or finished.
        stopped: whether it was left because the run was asked to stop.
    """

    errand: Errand
    order: Order | None = None
    model: str = ""
    blocks: int = 0
    pixels: int = 0
    skipped: int = 0
    pixels_skipped: int = 0
    resumed: int = 0
    repaired: int = 0
    seconds: float = 0.0
    ending: Ending | None = None
    notes: tuple[str, ...] = ()
    errors: list[Exception] = field(default_factory=list)
    stopped: bool = False

    @property
    def state(self) -> str:
        """In a word: complete, failed, stopped, or, as other parts are still to be done, part."""
        if self.errors or self.ending is None:
            return "stopped" if self.stopped else "failed"
        return "complete" if self.ending.complete else "part"

    @property
    def given_up(self) -> bool:
        """Whether there is no sense in doing its other blocks: it is not single places of the image that fail."""
        return len(self.errors) > _MOST_FAILED or any(not isinstance(error, ImageError) for error in self.errors)


class Listener:
    """Hears how a run goes; this one keeps it to itself."""

    def begun(self, outcome: Outcome) -> None:
        """An image was opened; `outcome.order` says what was decided."""

    def progressed(self, outcome: Outcome, progress: Progress) -> None:
        """A block of an image is stored."""

    def failed(self, outcome: Outcome, block: Block, error: Exception) -> None:
        """A block could not be done."""

    def ended(self, outcome: Outcome) -> None:
        """Nothing more happens to an image, well or not."""
