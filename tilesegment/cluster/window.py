"""A bounded window of tasks over any number of blocks: a million blocks are never a million tasks.

The invariant: every block that is drawn from the work is handed back exactly once, stored or with an error, whatever
becomes of the workers; memory use here and on the scheduler depends only on the number of workers.
"""

import threading
import time
import uuid
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from distributed import Future
from distributed.scheduler import KilledWorker

from tilesegment.cluster.tasks import Report
from tilesegment.cluster.workers import Crew
from tilesegment.errors import ClusterError, StoppedError, TilesegmentError
from tilesegment.prediction.result import Result

_TASK_SECONDS = 5.0  # target duration of a task: overheads of milliseconds do not count, and a lost task costs little
MOST_BLOCKS = 256  # of a task
_PER_WORKER = 2  # tasks in flight: one at work, one waiting
_TRIES = 3  # of a block, each on another worker where there is one
_EVERY = 0.5  # seconds between checks for workers while an image is finished
_STALL = 600.0  # seconds without a finished task after which tasks are sent again, once


class Item(Protocol):
    """A block, hashable.

    Attributes:
        job: what it is a block of; only blocks of the same one share a task.
        place: its plane, row and column.
        where: how a message calls it, after "the block at".
    """

    @property
    def job(self) -> Any: ...
    @property
    def place(self) -> tuple[int, int, int]: ...
    @property
    def where(self) -> str: ...


T = TypeVar("T", bound=Item)


class Task(NamedTuple, Generic[T]):
    """Blocks of one job, kept from the workers to `avoid`. While one is `alone`, nothing else is in flight."""

    work: tuple[T, ...]
    avoid: frozenset[str] = frozenset()
    alone: bool = False


class Window(Generic[T]):
    """Sends blocks to workers and hands them back as they come.

    Args:
        crew: the workers.
        task: what a worker does with a job and places (plane, row, column), such as `predict_blocks`.
        sent: a job as it is sent, the first argument of `task`.
        work: the blocks.
        stop: asked before a task is sent; if true, those in flight are the last.
    """

    def __init__(
        self,
        crew: Crew,
        task: Callable[[Any, list[tuple[int, int, int]]], Report],
        sent: Callable[[Any], Any],
        work: Iterable[T],
        stop: Callable[[], bool],
    ) -> None:
        self.crew, self.client, self.task, self.sent, self.stop = crew, crew.client, task, sent, stop
        self._work = iter(work)
        self._next: T | None = None  # drawn, but of another job than the task before
        self._again, self._suspects = deque[Task[T]](), deque[Task[T]]()
        self._in_flight: dict[Any, tuple[Future, Task[T]]] = {}
        self._finished: SimpleQueue[Future] = SimpleQueue()
        self._failed_on: defaultdict[T, list[str]] = defaultdict(list)
        self._workers: list[str] = []
        self._done, self._seconds_per_block, self._longest = 0, 0.0, 0.0
        self._moved, self._stalled = time.monotonic(), False

    def results(self) -> Generator[tuple[T, bool | Exception], None, None]:
        """Yield every block once it is stored, with whether it was empty, or with its error.

        Raises:
            ClusterError: the scheduler is gone, there are no workers for too long, or nothing comes back.
        """
        self._moved = time.monotonic()
        self.crew.begin()
        try:
            while True:
                while len(self._in_flight) < self._room() and (task := self._next_task()) is not None:
                    self._send(task)
                if not self._in_flight:
                    return
                if (future := self._wait()) is not None:
                    _, task = self._in_flight.pop(future.key)
                    yield from self._settle(task, future)
        finally:
            self.client.cancel([future for future, _ in self._in_flight.values()])

    def _room(self) -> int:
        """Return how many tasks may be in flight."""
        if any(task.alone for _, task in self._in_flight.values()):
            return 0
        self._workers = self.crew.look()
        return _PER_WORKER * max(len(self._workers), 1)

    def _next_task(self) -> Task[T] | None:
        """Return the next task: retries come first; blocks suspected of ending their worker last, each alone."""
        if self.stop():
            return None
        if self._again:
            return self._again.popleft()
        if blocks := self._draw():
            return Task(blocks)
        return self._suspects.popleft() if self._suspects and not self._in_flight else None

    def _draw(self) -> tuple[T, ...]:
        """Draw blocks of one job for some seconds; no more than a small part of those done, for an even end."""
        most = _TASK_SECONDS / max(self._seconds_per_block, 1e-6) if self._done else 1
        most = max(1, min(most, MOST_BLOCKS, 1 + self._done // (4 * max(len(self._workers), 1))))
        blocks: list[T] = []
        while len(blocks) < int(most):
            item, self._next = self._next or next(self._work, None), None
            if item is None:
                break
            if blocks and item.job is not blocks[0].job:
                self._next = item
                break
            blocks.append(item)
        return tuple(blocks)

    def _send(self, task: Task[T]) -> None:
        others = [worker for worker in self._workers if worker not in task.avoid] if task.avoid else []
        future = self.client.submit(
            self.task,
            self.sent(task.work[0].job),
            [item.place for item in task.work],
            key=f"blocks-{uuid.uuid4().hex}",
            pure=False,
            workers=others or None,
            allow_other_workers=bool(others),
        )
        self._in_flight[future.key] = (future, task)
        future.add_done_callback(self._finished.put)

    def _wait(self) -> Future | None:
        """Wait for a task to end or fail; None if none is in flight any more."""
        while self._in_flight:
            try:
                future = self._finished.get(timeout=1.0)
            except Empty:
                self._workers = self.crew.look()
                self._watch()
                if self.stop():
                    self._drop_waiting()
                continue
            if future.key in self._in_flight:
                self._moved = time.monotonic()
                return future
        return None

    def _drop_waiting(self) -> None:
        """Drop the tasks that no worker has begun: a worker is busy with the first of its tasks."""
        begun: set[Any] = set()
        if self.client.status == "running":  # else nothing is known to be begun
            begun = {next(iter(keys)) for keys in self.client.processing().values() if keys}
        waiting = {key: future for key, (future, _) in self._in_flight.items() if key not in begun}
        self.client.cancel(list(waiting.values()))
        for key in waiting:
            del self._in_flight[key]

    def _watch(self) -> None:
        """Send tasks again if nothing has come back for far longer than any task took, though there are workers."""
        longest = max(_STALL, 20 * self._longest)
        if not self._workers:
            self._moved = time.monotonic()
        if time.monotonic() - self._moved < longest:
            return
        if self._stalled:
            raise ClusterError("the workers do not answer any more; check them, then run it again to go on")
        self._stalled, self._moved = True, time.monotonic()
        self.crew.note(f"nothing came back for {longest:.0f} s: sending the blocks again")
        waiting, self._in_flight = list(self._in_flight.values()), {}
        self.client.cancel([future for future, _ in waiting], force=True)
        for _, task in waiting:
            self._send(task)

    def _settle(self, task: Task[T], future: Future) -> Iterator[tuple[T, bool | Exception]]:
        """Yield the outcome of a task's blocks; keep those to be tried again."""
        if future.status in ("cancelled", "lost"):
            if self.client.status != "running":
                raise self.crew.gone()
            self._again.append(task)
            return
        error = future.exception()
        if isinstance(error, KilledWorker):
            yield from self._suspect(task)
            return
        if error is not None:
            failure = ClusterError(f"a worker failed: {error!r}; see its log, then run it again to go on")
            report = Report(dict.fromkeys(range(len(task.work)), failure), 0.0, "")
        else:
            report = future.result()
            each = report.seconds / len(task.work)
            self._seconds_per_block = each if not self._done else 0.7 * self._seconds_per_block + 0.3 * each
            self._longest = max(self._longest, report.seconds)
        for number, item in enumerate(task.work):
            found = report.errors.get(number)
            if found is not None:
                tried = self._failed_on[item]
                tried.append(report.worker)
                if len(tried) < _TRIES:
                    self._again.append(Task((item,), frozenset(tried)))
                    continue
            self._failed_on.pop(item, None)
            self._done += 1
            yield item, number in report.empty if found is None else found

    def _suspect(self, task: Task[T]) -> Iterator[tuple[T, Exception]]:
        """The workers of a task died one after another: its blocks are tried alone before one is called bad."""
        if not task.alone:
            self._suspects.extend(Task((item,), alone=True) for item in task.work)
            return
        (item,) = task.work
        yield item, ClusterError(f"the block at {item.where}, ends every worker that does it; is there memory enough?")


class Finishing:
    """An image that a worker is finishing.

    Args:
        future: its result.
        crew: the workers.
        stop: asked while there are no workers.
    """

    def __init__(self, future: Future, crew: Crew, stop: Callable[[], bool]) -> None:
        self._future, self._crew, self._stop = future, crew, stop
        self._over = threading.Event()
        future.add_done_callback(lambda _: self._over.set())

    def done(self) -> bool:
        """Whether `result` returns, or raises, at once."""
        return bool(self._future.done())

    def result(self) -> Result:
        """Wait for the result.

        Raises:
            TilesegmentError: the mask cannot be written.
            ClusterError: the workers end, or there are none.
            StoppedError: asked to stop while there were none.
        """
        try:
            while not self._over.wait(_EVERY):
                if not self._crew.look() and self._stop():
                    raise StoppedError("asked to stop while there were no workers")
        except TilesegmentError:
            self._future.cancel()
            raise
        if self._future.status in ("cancelled", "lost"):
            raise self._crew.gone()
        try:
            result: Result = self._future.result()
        except TilesegmentError:
            raise
        except KilledWorker as error:
            raise ClusterError("finishing the mask ends every worker that does it; is there memory enough?") from error
        except Exception as error:
            raise ClusterError(f"a worker failed to finish the mask: {error!r}; see its log") from error
        return result
