"""What runs on a worker: blocks of a run, or its end. A worker opens image, stores and model itself, once."""

import platform
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from distributed import get_worker

from tilesegment.errors import ClusterError, TilesegmentError
from tilesegment.prediction.batch import Work
from tilesegment.prediction.devices import use_gpu
from tilesegment.prediction.job import Job
from tilesegment.prediction.local import stream_blocks
from tilesegment.prediction.run import Ending, Run, finish

# open jobs of a worker: the image under way, and the one before, of which a block may be tried again
_MOST_OPEN = 2

_jobs: OrderedDict[str, Job] = OrderedDict()
# a worker with several threads still does one task at a time: they share one device
_turn = threading.Lock()


@dataclass(frozen=True)
class Report:
    """What became of a task.

    Attributes:
        errors: of those of its blocks that failed, by their number in the task.
        seconds: that it took, without opening image and model.
        worker: address of the worker.
        empty: those of its blocks that were skipped, by their number in the task.
    """

    errors: Mapping[int, TilesegmentError]
    seconds: float
    worker: str
    empty: frozenset[int] = frozenset()


def predict_blocks(token: str, run: Run, places: list[tuple[int, int, int]]) -> Report:
    """Predicts and stores the blocks at `places` (plane, row, column) of the run that is known by `token`."""
    worker = str(get_worker().address)
    with _turn:
        try:
            job = _job(token, run)
        except Exception as error:
            return Report(dict.fromkeys(range(len(places)), _portable(error)), 0.0, worker)
        start, grid = time.monotonic(), run.order.plan.grid
        blocks = ((z, grid.at(row, column)) for z, row, column in places)
        work = (Work(run, z, block, run.order.is_empty(z, block)) for z, block in blocks)
        settled = list(stream_blocks(work, lambda _: job))
        errors = {number: _portable(error) for number, (_, error) in enumerate(settled) if error is not None}
        empty = frozenset(number for number, (item, _) in enumerate(settled) if item.is_empty)
        return Report(errors, time.monotonic() - start, worker, empty)


def finish_run(token: str, run: Run, known: Mapping[str, Any]) -> Ending:
    """Ends a run whose blocks are all stored."""
    with _turn:
        return finish(run, _job(token, run), known)


def _job(token: str, run: Run) -> Job:
    """The run's image and model, opened when they are first needed here."""
    name = get_worker().name
    if isinstance(name, int):  # workers that we started are numbered; others see the GPUs that they were given
        use_gpu(name)
    if token not in _jobs:
        _jobs[token] = Job.open(run.order)
    _jobs.move_to_end(token)
    while len(_jobs) > _MOST_OPEN:
        _, oldest = _jobs.popitem(last=False)
        oldest.source.close()
    return _jobs[token]


def _portable(error: Exception) -> TilesegmentError:
    """An error that any process can unpickle, saying where it happened."""
    kind = type(error) if isinstance(error, TilesegmentError) else ClusterError
    text = str(error) if isinstance(error, TilesegmentError) else f"{type(error).__name__}: {error}"
    return kind(f"{text} (on {platform.node()})")
