"""Workers: this process, which reads ahead, predicts and writes behind."""

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilesegment.prediction.batch import Settled, Work
from tilesegment.prediction.devices import this_machine
from tilesegment.prediction.engine import stream
from tilesegment.prediction.facts import Machine
from tilesegment.prediction.job import Job
from tilesegment.prediction.predictor import Pending
from tilesegment.prediction.run import Ending, Run, finish
from tilesegment.prediction.settings import Settings

_UNREAD = np.empty((0, 0, 0), np.uint8)  # the pixels of a block that is known to be empty


def stream_blocks(
    work: Iterable[Work], job_of: Callable[[Run], Job], stop: Callable[[], bool] = lambda: False
) -> Settled:
    """Reads, predicts and stores blocks of runs whose jobs are open, as `stream` does, but for those that are empty.

    Yields:
        Each block, with what is known now of its being empty, and None or its error.
    """
    found: set[Work] = set()

    def read(item: Work) -> np.ndarray:
        return _UNREAD if item.is_empty else job_of(item.run).read(item.z, item.block)

    def predict(item: Work, pixels: np.ndarray) -> Pending:
        if item.is_empty or item.run.order.skipping.finds_empty(pixels):
            found.add(item)
            return partial(item.run.background, item.block)
        return item.run.begin(job_of(item.run), pixels, item.block)

    def write(item: Work, pending: Pending) -> None:
        # a GPU may still be at it, while the next block is begun
        item.run.store(item.z, item.block, *pending())

    with closing(stream(work, read, predict, write, stop)) as settled:
        for item, error in settled:
            is_empty = item in found
            found.discard(item)
            yield item._replace(is_empty=is_empty), error


class ThisProcess:
    """Predicts here. Finishes an image in a thread of its own while the next one is predicted."""

    def __init__(self) -> None:
        self._jobs: dict[Run, Job] = {}
        self._endings: dict[Run, Future[Ending]] = {}
        self._finisher = ThreadPoolExecutor(1, "finish")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._finisher.shutdown(cancel_futures=True)

    def ask(self, settings: Settings, stop: Callable[[], bool] = lambda: False) -> Machine:
        """What a plan needs to know of this machine."""
        return this_machine(settings)

    def take(self, run: Run, job: Job) -> None:
        """A run, before its first block."""
        self._jobs[run] = job

    def stream(self, work: Iterable[Work], stop: Callable[[], bool]) -> Settled:
        """Every block, in order, once it is stored, or with its error."""
        return stream_blocks(work, self._jobs.__getitem__, stop)

    def finish(self, run: Run, known: Mapping[str, Any]) -> Future[Ending]:
        """Ends a run whose blocks are all stored."""
        ending = self._endings[run] = self._finisher.submit(finish, run, self._jobs[run], known)
        return ending

    def drop(self, run: Run) -> None:
        """A run that is over or left: nothing is done for it any more when this returns."""
        ending = self._endings.pop(run, None)
        if ending is not None and not ending.cancel():
            wait([ending])
        del self._jobs[run]
