"""Tasks of a worker: predict blocks, finish an image. A worker opens image, stores and model itself, once."""

import platform
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

from distributed import get_worker

from tilesegment.errors import ClusterError, TilesegmentError
from tilesegment.prediction.devices import use_gpu
from tilesegment.prediction.job import Job
from tilesegment.prediction.outputs import Stores
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.queue import Work, stream_blocks
from tilesegment.prediction.result import Result

# open jobs of a worker: the current image, and the one before, whose blocks may be tried again
_MOST_OPEN = 2

_jobs: OrderedDict[str, Job] = OrderedDict()
# a worker with several threads still does one task at a time: they share one device
_turn = threading.Lock()


@dataclass(frozen=True)
class Sent:
    """A job as it is sent: plain data, and a token that identifies it."""

    token: str
    plan: Plan
    stores: Stores


@dataclass(frozen=True)
class Report:
    """Outcome of a task.

    Attributes:
        errors: of the blocks that failed, by their number in the task.
        seconds: its duration, without opening image and model.
        worker: address of the worker.
        empty: numbers of the blocks that were empty.
    """

    errors: Mapping[int, TilesegmentError]
    seconds: float
    worker: str
    empty: frozenset[int] = frozenset()


def predict_blocks(sent: Sent, places: list[tuple[int, int, int]]) -> Report:
    """Predict and store the blocks at `places` (plane, row, column)."""
    worker = str(get_worker().address)
    with _turn:
        try:
            job = _job(sent)
        except Exception as error:
            return Report(dict.fromkeys(range(len(places)), portable(error)), 0.0, worker)
        start, grid = time.monotonic(), sent.plan.grid
        work = (Work(job, z, grid.at(row, column)) for z, row, column in places)
        found = [one for _, one in stream_blocks(work)]
        errors = {number: portable(one) for number, one in enumerate(found) if isinstance(one, Exception)}
        empty = frozenset(number for number, one in enumerate(found) if one is True)
        return Report(errors, time.monotonic() - start, worker, empty)


def finish_image(sent: Sent, result: Result) -> Result:
    """Finish an image whose blocks are all stored."""
    with _turn:
        return _job(sent).finish(result)


def _job(sent: Sent) -> Job:
    """Return the job, opened on first use."""
    name = get_worker().name
    if isinstance(name, int):  # workers that we started are numbered; others see the GPUs that they were given
        use_gpu(name)
    if sent.token not in _jobs:
        _jobs[sent.token] = Job.open(sent.plan, sent.stores)
    _jobs.move_to_end(sent.token)
    while len(_jobs) > _MOST_OPEN:
        _, oldest = _jobs.popitem(last=False)
        oldest.source.close()
    return _jobs[sent.token]


def portable(error: Exception) -> TilesegmentError:
    """Return the error as one that any process can unpickle and that names this machine."""
    kind = type(error) if isinstance(error, TilesegmentError) else ClusterError
    text = str(error) if isinstance(error, TilesegmentError) else f"{type(error).__name__}: {error}"
    return kind(f"{text} (on {platform.node()})")
