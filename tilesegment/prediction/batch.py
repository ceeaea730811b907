"""Many images: one queue over all their blocks, so that nobody idles where one ends; one that fails stops no other."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

from tilesegment.errors import ClusterError, ImageError, MaskError, StoppedError
from tilesegment.geometry import Block
from tilesegment.prediction.facts import Machine
from tilesegment.prediction.job import Job
from tilesegment.prediction.outcome import Errand, Listener, Outcome, Progress
from tilesegment.prediction.run import Ending, Run, begin
from tilesegment.prediction.settings import Settings


class Work(NamedTuple):
    """A block of a run; `is_empty` if it is known, or was found, to be skipped."""

    run: Run
    z: int
    block: Block
    is_empty: bool = False


# blocks that came back, each with its error or None; closing it ends what is under way
Settled: TypeAlias = Generator[tuple[Work, Exception | None], None, None]


class Finishing(Protocol):
    """The ending to come of a run."""

    def done(self) -> bool:
        """Whether `result` returns, or raises, at once."""

    def result(self) -> Ending:
        """The ending, waited for."""


class Workers(Protocol):
    """Those who predict blocks: this process, or a cluster."""

    def ask(self, settings: Settings, stop: Callable[[], bool]) -> Machine:
        """What a plan needs to know of them.

        Raises:
            ClusterError: nobody is there to predict anything.
            StoppedError: `stop` says so while they are waited for.
        """

    def take(self, run: Run, job: Job) -> None:
        """A run, before its first block."""

    def stream(self, work: Iterable[Work], stop: Callable[[], bool]) -> Settled:
        """Every block once it is stored, or with its error; in any order."""

    def finish(self, run: Run, known: Mapping[str, Any]) -> Finishing:
        """Ends a run whose blocks are all stored."""

    def drop(self, run: Run) -> None:
        """A run that is over or left: nothing is done for it any more when this returns."""


@dataclass(frozen=True)
class Choices:
    """What is the same for all images.

    Attributes:
        model: path or bundled name; None takes the bundled default for one-channel images.
        settings: what the user chose.
        axes, select: how to read the images, see `open_image`.
        part: (k, n), the k-th of n parts of each image's blocks, counted from 1.
    """

    model: str | Path | None
    settings: Settings
    axes: str | None = None
    select: Mapping[str, int] | None = None
    part: tuple[int, int] | None = None


@dataclass
class _Tally:
    """A run under way: how many of its blocks were handed out, whether that were all, how many came back."""

    outcome: Outcome
    started: float
    opened: ExitStack = field(default_factory=ExitStack)
    claims: ExitStack = field(default_factory=ExitStack)
    handed_out: int = 0
    all_out: bool = False
    settled: int = 0
    ending: Finishing | None = None


class Batch:
    """Predicts images, each to its own outputs.

    Args:
        errands: the images.
        choices: what is the same for all of them.
        workers: who predicts.
        listeners: hear how it goes.
        stop: asked between blocks; if it says so, the run ends after those under way.
    """

    def __init__(
        self,
        errands: Iterable[Errand],
        choices: Choices,
        workers: Workers,
        listeners: Sequence[Listener],
        stop: Callable[[], bool],
    ) -> None:
        self.errands, self.choices, self.workers = list(errands), choices, workers
        self.listeners, self.stop = listeners, stop
        self._under_way: dict[Run, _Tally] = {}
        self._over: list[Outcome] = []
        self._pixels = self._blocks = self._total = self._begun = 0
        self._start = time.monotonic()

    def outcomes(self) -> Iterator[Outcome]:
        """What becomes of each image, as they end; the errors of an image are in its outcome.

        Raises:
            ClusterError: nobody is there to predict; that is no fault of a single image.
        """
        try:
            with closing(self.workers.stream(self._work(), self.stop)) as settled:
                for item, error in settled:
                    self._settle(item, error)
                    yield from self._ended(wait=False)
            yield from self._ended(wait=True)
            self._over += [Outcome(errand, stopped=True) for errand in self.errands[self._begun :]]
            yield from self._ended(wait=True)
        finally:
            for run in list(self._under_way):
                self._close(run)

    def _work(self) -> Iterator[Work]:
        """Block after block, image after image. What fails here fails its image alone."""
        for errand in self.errands:
            if self.stop():
                return
            self._begun += 1
            tally = _Tally(Outcome(errand), time.monotonic())
            try:
                run, blocks = self._begin(tally)
            except Exception as error:
                tally.claims.close()
                tally.opened.close()
                if isinstance(error, ClusterError):
                    raise
                if isinstance(error, StoppedError):
                    tally.outcome.stopped = True
                else:
                    tally.outcome.errors.append(error)
                self._over.append(tally.outcome)
                continue
            for z, block in blocks:
                if tally.outcome.given_up:
                    break
                tally.handed_out += 1
                yield Work(run, z, block, run.order.is_empty(z, block))
            tally.all_out = True
            self._end_when_settled(run)

    def _begin(self, tally: _Tally) -> tuple[Run, Iterator[tuple[int, Block]]]:
        """Opens an image, and its outputs for this process alone, and finds the blocks that are left."""
        outcome, given = tally.outcome, self.choices
        image, axes, select = outcome.errand.image, given.axes, given.select
        ask = partial(self.workers.ask, stop=self.stop)
        job = Job.prepare(image, given.model, given.settings, axes=axes, select=select, ask=ask)
        tally.opened.enter_context(job)
        outcome.order, outcome.model = job.order, job.model.header.name
        run = self._claimed(tally, job)
        outcome.notes = job.order.notes + run.notes
        done, outcome.repaired = run.stored()
        outcome.resumed = run.resumed(done)
        for listener in self.listeners:
            listener.begun(outcome)
        self._total += run.pixels_left(done)
        self.workers.take(run, job)
        self._under_way[run] = tally
        return run, run.left(done)

    def _claimed(self, tally: _Tally, job: Job) -> Run:
        """The run, its outputs begun and claimed."""
        outputs, part = tally.outcome.errand.outputs, self.choices.part
        for last in (False, True):
            try:
                run = begin(job, outputs, part)
                for store in run.stores:
                    tally.claims.enter_context(store.claimed(shared=part is not None))
                return run
            except MaskError:
                tally.claims.close()
                # another part may just have finished it: then the second look finds it complete
                if last or part is None:
                    raise
        raise AssertionError("the second time it returns or raises")

    def _settle(self, item: Work, error: Exception | None) -> None:
        """Counts a block that came back."""
        tally = self._under_way[item.run]
        outcome = tally.outcome
        tally.settled += 1
        if error is None:
            self._count(item, outcome)
            ended = self._begun - len(self._under_way)
            seconds = time.monotonic() - self._start
            counts = (len(self.errands), self._begun, ended)
            progress = Progress(self._pixels, self._blocks, self._total, *counts, seconds)
            for listener in self.listeners:
                listener.progressed(outcome, progress)
        else:
            if isinstance(error, ImageError) and not outcome.errors:
                item.run.mark_unreadable()
            outcome.errors.append(error)
            for listener in self.listeners:
                listener.failed(outcome, item.block, error)
        self._end_when_settled(item.run)

    def _count(self, item: Work, outcome: Outcome) -> None:
        """Counts a block that is stored."""
        area = item.block.write.area
        outcome.blocks, self._blocks = outcome.blocks + 1, self._blocks + 1
        if not item.is_empty:
            outcome.pixels, self._pixels = outcome.pixels + area, self._pixels + area
            return
        outcome.skipped, outcome.pixels_skipped = outcome.skipped + 1, outcome.pixels_skipped + area
        if not item.run.order.is_empty(item.z, item.block):
            self._total -= area  # it was counted as one to predict

    def _end_when_settled(self, run: Run) -> None:
        """Has a run ended whose blocks are all back."""
        tally = self._under_way[run]
        if not tally.all_out or tally.settled < tally.handed_out:
            return
        outcome, seconds = tally.outcome, time.monotonic() - tally.started
        if outcome.errors:
            self._over.append(outcome)
            self._close(run)
            return
        if self.choices.part is not None:
            tally.claims.close()  # all parts do so, and one of them finishes
        speed = outcome.pixels / 1e6 / max(seconds, 1e-9)
        known = {"seconds": round(seconds, 3), "mpx_per_s": round(speed, 4)}
        tally.ending = self.workers.finish(run, known | _found_empty(run, outcome))

    def _ended(self, wait: bool) -> Iterator[Outcome]:
        """The images that are over; all that were begun, if it is to `wait`."""
        for run, tally in list(self._under_way.items()):
            outcome = tally.outcome
            if tally.ending is not None and (wait or tally.ending.done()):
                try:
                    outcome.ending = tally.ending.result()
                except StoppedError:
                    outcome.stopped = True
                except Exception as error:
                    outcome.errors.append(error)
            elif wait:
                outcome.stopped = not outcome.errors
            else:
                continue
            self._over.append(outcome)
            self._close(run)
        while self._over:
            outcome = self._over.pop(0)
            for listener in self.listeners:
                listener.ended(outcome)
            yield outcome

    def _close(self, run: Run) -> None:
        tally = self._under_way.pop(run)
        self.workers.drop(run)
        tally.claims.close()
        tally.opened.close()
        tally.outcome.seconds = time.monotonic() - tally.started


def _found_empty(run: Run, outcome: Outcome) -> dict[str, Any]:
    """What is recorded of blocks that were found to be empty only when they were read, by this run."""
    skipping = run.order.skipping
    if skipping.blocks is not None:
        return {}
    share = outcome.pixels_skipped / max(outcome.pixels + outcome.pixels_skipped, 1)
    found = {"blocks": outcome.skipped, "of_blocks": outcome.blocks, "share": round(share, 6)}
    return {"skipped": skipping.record | found}
