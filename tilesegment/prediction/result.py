"""What became of an image, how far a run is, and who hears of it."""

import re
import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tilesegment.errors import ImageError
from tilesegment.geometry import Block
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.settings import Outputs

_MOST_FAILED = 8  # blocks of an image that may be unreadable before it is given up


@dataclass
class Result:
    """What became of an image.

    Attributes:
        image, outputs: as given.
        plan: what was decided; None if the image could not be opened.
        model: its name.
        finished, complete: whether this run did all its part, and whether the mask has its final name: not, while
            other parts are still to be done.
        blocks: stored in this run; `blocks_resumed` were there already, `blocks_repaired` of the others were damaged,
            `blocks_skipped` were empty.
        pixels, pixels_skipped: predicted and stored in this run, and those of the empty blocks.
        seconds: from the image's opening to the finished mask.
        batch: tiles at a time; fewer than planned where the device lacked the memory.
        mismatch: for a chosen halo: share of the pixels near tile lines and image borders whose class a larger one
            changes; None where tiles are exact, or (`unmeasured`) where it cannot be measured.
        disagreement: for int8: share of the pixels of some tiles whose class is another in fp32.
        read_amplification: bytes decoded per byte of the blocks that were read, without margins, by the process that
            finished the mask; None if it read none.
        notes: what a user should know of how the image is read and predicted, and of an earlier run.
        errors: of its blocks, or the one that kept the image from being begun or finished.
        stopped: whether it was left because the run was asked to stop.
    """

    image: str | Path
    outputs: Outputs
    plan: Plan | None = None
    model: str = ""
    finished: bool = False
    complete: bool = False
    blocks: int = 0
    blocks_resumed: int = 0
    blocks_repaired: int = 0
    blocks_skipped: int = 0
    pixels: int = 0
    pixels_skipped: int = 0
    seconds: float = 0.0
    batch: int = 0
    mismatch: float | None = None
    unmeasured: bool = False
    disagreement: float | None = None
    read_amplification: float | None = None
    notes: tuple[str, ...] = ()
    errors: list[Exception] = field(default_factory=list)
    stopped: bool = False

    @property
    def out(self) -> str:
        return str(self.outputs.mask)

    @property
    def decided(self) -> Plan:
        """The plan of an image that was opened."""
        assert self.plan is not None
        return self.plan

    @property
    def state(self) -> str:
        """One word: complete, failed, stopped, or, while other parts are still to be done, part."""
        if self.stopped:
            return "stopped"
        if self.errors or not self.finished:
            return "failed"
        return "complete" if self.complete else "part"

    @property
    def given_up(self) -> bool:
        """Whether its other blocks are not worth trying: more fails than single places of the image."""
        return len(self.errors) > _MOST_FAILED or any(not isinstance(error, ImageError) for error in self.errors)

    @property
    def halo(self) -> int:
        return self.decided.view.before

    @property
    def mpx_per_s(self) -> float:
        """Millions of pixels per second, this run."""
        return self.pixels / 1e6 / max(self.seconds, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """The result of an image that came to its end, as JSON values."""
        plan = self.decided
        counts = ("complete", "pixels", "blocks", "blocks_resumed", "blocks_repaired", "blocks_skipped", "seconds")
        measured = ("batch", "mismatch", "disagreement", "read_amplification", "model")
        known: dict[str, Any] = {"image": str(self.image), "out": self.out, "mpx_per_s": self.mpx_per_s}
        known |= {name: getattr(plan, name) for name in ("tile", "step", "device", "precision")}
        known |= {name: getattr(self, name) for name in ("halo", *counts, *measured)}
        return known | {"peak_rss_bytes": peak_memory()}


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        pixels, blocks: stored so far, of the pixels only predicted ones.
        total: pixels to predict of the images begun so far, as far as is known.
        images, begun, ended: how many images there are, and how many of them are begun and at an end.
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
        """Of the whole, 0 to 1; all images count the same."""
        return self.begun / self.images * self.pixels / max(self.total, 1)


class Listener:
    """Hears how a run goes; this one does nothing."""

    def begun(self, result: Result) -> None:
        """An image was opened; `result.plan` says what was decided."""

    def progressed(self, result: Result, progress: Progress) -> None:
        """A block of an image is stored."""

    def failed(self, result: Result, block: Block, error: Exception) -> None:
        """A block failed."""

    def ended(self, result: Result) -> None:
        """An image is over, well or not."""


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    # Linux: getrusage's figure begins with that of the process that started this one
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found is not None:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
