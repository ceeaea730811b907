"""One queue over the blocks of many images: no worker idles between images, and a failed image stops no other."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, TypeAlias

import numpy as np

from tilesegment.errors import ClusterError, ImageError, MaskError, StoppedError
from tilesegment.geometry import Block
from tilesegment.images.arrays import ImageArray
from tilesegment.objects.run import ObjectWorkers
from tilesegment.prediction.devices import this_machine
from tilesegment.prediction.engine import stream
from tilesegment.prediction.job import Job
from tilesegment.prediction.result import Listener, Progress, Result
from tilesegment.prediction.settings import Outputs, Settings
from tilesegment.prediction.tiling import Machine

Stop: TypeAlias = Callable[[], bool]


class Work(NamedTuple):
    """A block of a job, in plane `z`."""

    job: Job
    z: int
    block: Block

    @property
    def place(self) -> tuple[int, int, int]:
        """Plane, row and column of the block."""
        return self.z, self.block.row, self.block.column

    @property
    def where(self) -> str:
        """The block in a message."""
        return f"{self.block.write}, plane {self.z}"


# settled blocks, each with whether it was empty or its error; closing it ends work in progress
Settled: TypeAlias = Generator[tuple[Work, bool | Exception], None, None]


class Finishing(Protocol):
    """An image that is being finished; `result` waits for its outcome."""

    def done(self) -> bool: ...
    def result(self) -> Result: ...


class Workers(Protocol):
    """What predicts blocks: this process, or a cluster."""

    def ask(self, device: str, precision: str, stop: Stop) -> Machine:
        """Describe the machines for a plan.

        Raises:
            ClusterError: there are no workers.
            StoppedError: asked to stop while waiting for them.
        """

    def check(self, job: Job) -> None:
        """Raise a PlanError for an unsuitable job, before its outputs are begun."""

    def stream(self, work: Iterable[Work], stop: Stop) -> Settled:
        """Yield every block once it is stored, or with its error; in any order."""

    def finish(self, job: Job, result: Result) -> Finishing:
        """Begin to finish a job whose blocks are all stored; see `Job.finish`."""

    def drop(self, job: Job) -> None:
        """Forget a job that is over or abandoned; no work on it goes on after this returns."""


def stream_blocks(work: Iterable[Work], stop: Stop = lambda: False) -> Settled:
    """Load, predict and store blocks of open jobs; yield each with whether it was empty, or its error."""
    return stream(
        announced(work),
        lambda item: item.job.load(item.z, item.block),
        lambda item, pixels: item.job.predict(item.block, pixels),
        lambda item, pending: item.job.store(item.z, item.block, pending),
        stop,
    )


def announced(work: Iterable[Work]) -> Iterator[Work]:
    """Announce each block as it is taken, which is before its turn to be loaded."""
    for item in work:
        item.job.announce(item.z, item.block)
        yield item


class ThisProcess:
    """Predict in this process, and finish an image in a thread while the next one is predicted."""

    def __init__(self) -> None:
        self._finishing: dict[Job, Future[Result]] = {}
        self._finisher = ThreadPoolExecutor(1, "finish")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finisher.shutdown(cancel_futures=True)

    def ask(self, device: str, precision: str, stop: Stop) -> Machine:
        return this_machine(device, precision)

    def check(self, job: Job) -> None:
        pass

    def stream(self, work: Iterable[Work], stop: Stop) -> Settled:
        return stream_blocks(work, stop)

    def finish(self, job: Job, result: Result) -> Future[Result]:
        self._finishing[job] = self._finisher.submit(job.finish, result)
        return self._finishing[job]

    def drop(self, job: Job) -> None:
        finishing = self._finishing.pop(job, None)
        if finishing is not None and not finishing.cancel():
            wait([finishing])


@dataclass
class _UnderWay:
    """An image in progress: what it holds open, its blocks handed out so far, whether that is all."""

    result: Result
    started: float = field(default_factory=time.monotonic)
    opened: ExitStack = field(default_factory=ExitStack)
    claims: ExitStack = field(default_factory=ExitStack)
    handed_out: int = 0
    all_out: bool = False
    finishing: Finishing | None = None
    masked: float = 0.0  # seconds after which its mask was finished, if objects are found then


class Queue:
    """Predicts images, each to its own outputs.

    Args:
        images: paths or arrays, and where each one goes.
        settings: of all of them.
        workers: what predicts.
        listeners: receive the events of the run.
        stop: asked between blocks; if true, the run ends after those under way.
        own: fields of the settings of single images, by their paths.
    """

    def __init__(
        self,
        images: Iterable[tuple[str | Path | ImageArray, Outputs]],
        settings: Settings,
        workers: Workers,
        listeners: Sequence[Listener],
        stop: Stop,
        own: Mapping[str, Mapping[str, Any]],
    ) -> None:
        self.images, self.settings, self.workers = list(images), settings, workers
        self.listeners, self.stop, self._own = listeners, stop, own
        self._under_way: dict[Job, _UnderWay] = {}
        self._over: list[Result] = []
        self._pixels = self._blocks = self._total = self._begun = 0
        self._start = time.monotonic()
        self._finder, self._abandoned = ThreadPoolExecutor(1, "objects"), False

    def results(self) -> Iterator[Result]:
        """Yield the result of each image as it ends, with its errors.

        Raises:
            ClusterError: there are no workers, which concerns all images.
        """
        try:
            with closing(self.workers.stream(self._work(), self.stop)) as settled:
                for item, found in settled:
                    self._settle(item, found)
                    yield from self._ended(wait=False)
            yield from self._ended(wait=True)
            self._over += [Result(*image, stopped=True) for image in self.images[self._begun :]]
            yield from self._ended(wait=True)
        finally:
            self._abandoned = True
            self._finder.shutdown(cancel_futures=True)
            for job in list(self._under_way):
                self._close(job)

    def _work(self) -> Iterator[Work]:
        """Yield the blocks, image by image. An error here fails only its image."""
        for image, outputs in self.images:
            if self.stop():
                return
            self._begun += 1
            one = _UnderWay(Result(image, outputs))
            try:
                job, blocks = self._begin(one)
            except Exception as error:
                one.claims.close()
                one.opened.close()
                if isinstance(error, ClusterError):
                    raise
                one.result.stopped = isinstance(error, StoppedError)
                one.result.errors += [] if one.result.stopped else [error]
                self._over.append(one.result)
                continue
            for z, block in blocks:
                if one.result.given_up:
                    break
                one.handed_out += 1
                yield Work(job, z, block)
            one.all_out = True
            self._finish_when_settled(job)

    def _begin(self, one: _UnderWay) -> tuple[Job, Iterator[tuple[int, Block]]]:
        """Open an image, claim its outputs, and find the blocks left to do."""
        result = one.result
        settings = replace(self.settings, **self._own.get(str(result.image), {}))
        job = Job.prepare(result.image, settings, ask=partial(self.workers.ask, stop=self.stop))
        one.opened.enter_context(job)
        self.workers.check(job)
        plan = result.plan = job.plan
        result.model, result.batch = job.model.header.name, plan.batch
        try:
            self._claim(job, one)
        except MaskError:
            if self.settings.part is None:
                raise
            self._claim(job, one)  # another part may just have finished it: a second look finds it complete
        result.notes = plan.notes + job.stores.notes
        done, result.blocks_repaired = job.stores.survey(plan)
        result.blocks_resumed = int(np.count_nonzero(done.ravel()[plan.part]))
        for listener in self.listeners:
            listener.begun(result)
        to_predict = plan.areas * ~(done | plan.left_out)
        self._total += int(to_predict.ravel()[plan.part].sum())
        self._under_way[job] = one
        return job, plan.work(done)

    def _claim(self, job: Job, one: _UnderWay) -> None:
        job.begin(one.result.outputs)
        one.claims.enter_context(job.stores.claimed(self.settings.part))

    def _settle(self, item: Work, found: bool | Exception) -> None:
        """Count a settled block."""
        result = self._under_way[item.job].result
        if isinstance(found, Exception):
            if isinstance(found, ImageError) and not result.errors:
                item.job.stores.mark_unreadable()
            result.errors.append(found)
            for listener in self.listeners:
                listener.failed(result, item.block, found)
        else:
            self._count(item, result, is_empty=found)
            ended = self._begun - len(self._under_way)
            counts = (self._pixels, self._blocks, self._total, len(self.images), self._begun, ended)
            progress = Progress(*counts, time.monotonic() - self._start)
            for listener in self.listeners:
                listener.progressed(result, progress)
        self._finish_when_settled(item.job)

    def _count(self, item: Work, result: Result, *, is_empty: bool) -> None:
        area = item.block.write.area
        result.blocks, self._blocks = result.blocks + 1, self._blocks + 1
        if not is_empty:
            result.pixels, self._pixels = result.pixels + area, self._pixels + area
            return
        result.blocks_skipped, result.pixels_skipped = result.blocks_skipped + 1, result.pixels_skipped + area
        if not item.job.plan.leaves_out(item.z, item.block):
            self._total -= area  # it was counted as one to predict

    def _finish_when_settled(self, job: Job) -> None:
        """Finish an image once all its blocks are settled."""
        one = self._under_way[job]
        result = one.result
        if not one.all_out or result.blocks + len(result.errors) < one.handed_out:
            return
        if result.errors:
            self._over.append(result)
            self._close(job)
            return
        if self.settings.part is not None:
            one.claims.close()  # all parts do so, and one of them finishes
        result.seconds = time.monotonic() - one.started
        one.finishing = self.workers.finish(job, result)

    def _ended(self, wait: bool) -> Iterator[Result]:
        """Yield the images that are over; with `wait`, all that were begun."""
        for job, one in list(self._under_way.items()):
            if self._is_over(job, one, wait):
                self._over.append(one.result)
                self._close(job)
        while self._over:
            result = self._over.pop(0)
            for listener in self.listeners:
                listener.ended(result)
            yield result

    def _is_over(self, job: Job, one: _UnderWay, wait: bool) -> bool:
        """Take what has come of an image so far; return whether that is all, with `wait` once it is."""
        result = one.result
        if one.finishing is None:
            result.stopped = wait and not result.errors
            return wait
        try:
            while one.finishing is not None:
                if not wait and not one.finishing.done():
                    return False
                vars(result).update(vars(one.finishing.result()))  # a cluster gives back another object
                one.finishing = self._find_objects(job, one)
        except StoppedError:
            result.stopped = True
        except Exception as error:
            result.errors.append(error)
        return True

    def _find_objects(self, job: Job, one: _UnderWay) -> Finishing | None:
        """Begin to find the objects of a finished mask; None if none are wanted, or they are found."""
        wanted, result = job.stores.objects, one.result
        if wanted is None or result.objects is not None or not (result.complete and result.is_finisher):
            return None
        one.masked = time.monotonic() - one.started

        def report(share: float, what: str) -> None:
            for listener in self.listeners:
                listener.finding(result, share, what)

        def find() -> Result:
            # while a cluster predicts others of many images, threads of this process do the objects
            is_alone = len(self.images) == 1
            workers = self.workers if is_alone and isinstance(self.workers, ObjectWorkers) else None
            result.objects = wanted.find(workers, report, lambda: self._abandoned or self.stop())
            return result

        return self._finder.submit(find)

    def _close(self, job: Job) -> None:
        one = self._under_way.pop(job)
        self.workers.drop(job)
        one.claims.close()
        one.opened.close()
        one.result.seconds = one.masked or time.monotonic() - one.started
