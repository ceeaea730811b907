"""The end of a run, which a worker sees to."""

import threading
from collections.abc import Callable

from distributed import Future
from distributed.scheduler import KilledWorker

from tilesegment.cluster.crew import Crew
from tilesegment.errors import ClusterError, StoppedError, TilesegmentError
from tilesegment.prediction.run import Ending

_EVERY = 0.5  # seconds between two looks at who is there to finish it


class Finishing:
    """The ending to come of a run.

    Args:
        future: of it.
        crew: the workers, of which one finishes it.
        stop: asked while there are none.
    """

    def __init__(self, future: Future, crew: Crew, stop: Callable[[], bool]) -> None:
        self._future, self._crew, self._stop = future, crew, stop
        self._over = threading.Event()
        future.add_done_callback(lambda _: self._over.set())

    def done(self) -> bool:
        """Whether `result` returns, or raises, at once."""
        return bool(self._future.done())

    def result(self) -> Ending:
        """The ending, waited for as long as there is somebody to see to it.

        Raises:
            TilesegmentError: the mask cannot be written; `ClusterError`, those who do it end, or there are none;
                `StoppedError`, asked to stop while there were none.
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
            ending: Ending = self._future.result()
        except TilesegmentError:
            raise
        except KilledWorker as error:
            raise ClusterError("finishing the mask ends every worker that does it; is there memory enough?") from error
        except Exception as error:
            raise ClusterError(f"a worker failed to finish the mask: {error!r}; see its log") from error
        return ending
