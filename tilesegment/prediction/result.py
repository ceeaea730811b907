"""Results of images, progress of a run, and listeners."""

import re
import resource
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tilesegment.errors import ImageError
from tilesegment.geometry import Block
from tilesegment.images.arrays import ImageArray
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.settings import Outputs

_MOST_FAILED = 8  # unreadable blocks up to which the others of an image are still predicted


@dataclass(frozen=True)
class FoundObjects:
    """Objects that were found in a mask.

    Attributes:
        out: the files.
        count: how many there are.
        by_class: of them, by the name of the class.
        per_mm2: density of each class in the tissue, see `tilesegment.objects.summary`; empty without a pixel size.
        seconds: that it took; next to nothing if they were there already.
        notes: for the user.
    """

    out: tuple[str, ...]
    count: int
    by_class: dict[str, int]
    per_mm2: dict[str, float]
    seconds: float
    notes: tuple[str, ...] = ()


@dataclass
class Result:
    """Outcome of an image.

    Attributes:
        image, outputs: as given.
        plan: None if the image could not be opened.
        model: its name.
        finished, complete: whether this run did all its part, and whether the mask has its final name, which it gets
            when all parts are done.
        blocks: stored in this run; `blocks_resumed` were there already, `blocks_repaired` of the others were damaged,
            `blocks_skipped` were empty.
        pixels, pixels_skipped: predicted and stored in this run, and those of the empty blocks.
        seconds: from the image's opening to the finished mask.
        is_finisher: whether this run gave the mask its final name, or found it so: then the objects are left to it.
        objects: that were found in the finished mask, if they are wanted.
        batch: tiles at a time; fewer than planned where the device lacked the memory.
        mismatch: for a chosen halo: share of the pixels near tile lines and image borders whose class a larger one
            changes; None where tiles are exact, or (`unmeasured`) where it cannot be measured.
        disagreement: for int8: share of the pixels of some tiles whose class is another in fp32.
        read_amplification: bytes decoded per byte of the blocks that were read, without margins, by the process that
            finished the mask; None if it read none.
        notes: for the user, on reading, prediction and an earlier run.
        errors: of its blocks, or the one that prevented its start or finish.
        stopped: whether the run was asked to stop before the image ended.
    """

    image: str | Path | ImageArray
    outputs: Outputs
    plan: Plan | None = None
    model: str = ""
    finished: bool = False
    complete: bool = False
    is_finisher: bool = False
    objects: FoundObjects | None = None
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
        """What is written: the mask, or the objects where it is not kept."""
        return str(self.outputs.mask) if self.outputs.keep_mask else ", ".join(map(str, self.outputs.objects))

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
        """Whether its other blocks are left out, as more fails than a few places of the image."""
        return len(self.errors) > _MOST_FAILED or any(not isinstance(error, ImageError) for error in self.errors)

    @property
    def halo(self) -> int:
        return self.decided.view.before

    @property
    def mpx_per_s(self) -> float:
        """Millions of pixels per second, this run."""
        return self.pixels / 1e6 / max(self.seconds, 1e-9)

    def as_json(self) -> dict[str, Any]:
        """Return the result of a finished image as JSON values."""
        plan = self.decided
        counts = ("complete", "pixels", "blocks", "blocks_resumed", "blocks_repaired", "blocks_skipped", "seconds")
        measured = ("batch", "mismatch", "disagreement", "read_amplification", "model")
        out = self.out if self.outputs.keep_mask else None
        known: dict[str, Any] = {"image": str(self.image), "out": out, "mpx_per_s": self.mpx_per_s}
        known |= {name: getattr(plan, name) for name in ("tile", "step", "device", "precision")}
        known |= {name: getattr(self, name) for name in ("halo", *counts, *measured)}
        known |= {} if self.objects is None else {"objects": asdict(self.objects)}
        return known | {"peak_rss_bytes": peak_memory()}


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        pixels, blocks: stored so far; pixels are only predicted ones.
        total: pixels to predict of the images begun so far, without blocks known to be empty.
        images, begun, ended: number of images, of those begun and of those ended.
        seconds: since the start of the run.
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
        """Share done, 0 to 1; all images count equally."""
        return self.begun / self.images * self.pixels / max(self.total, 1)


class Listener:
    """Receives the events of a run; this one ignores them."""

    def begun(self, result: Result) -> None:
        """An image was opened; `result.plan` is set."""

    def progressed(self, result: Result, progress: Progress) -> None:
        """A block of an image is stored."""

    def finding(self, result: Result, share: float, what: str) -> None:
        """Of the work on the objects of a finished mask, a share is done. Called in a thread of its own."""

    def failed(self, result: Result, block: Block, error: Exception) -> None:
        """A block failed."""

    def ended(self, result: Result) -> None:
        """An image ended, successfully or not."""


def peak_memory() -> int:
    """Return the largest resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    # on Linux, getrusage starts from the peak of the parent process
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found is not None:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
