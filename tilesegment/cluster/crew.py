"""The workers of a cluster: who is there, started anew where they end for good, waited for where there are none.

The invariant: nothing waits longer than `wait` seconds for a cluster that has no workers, or than `_GONE` for one whose
scheduler is out of reach.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future as Started
from contextlib import suppress

from distributed import Client, SpecCluster, Status

from tilesegment.cluster.own import start_lacking
from tilesegment.errors import ClusterError, StoppedError, one_line

WAIT = 300.0  # seconds that a cluster may be without workers
_LOOK = 5.0  # seconds between two looks at who works
_GONE = 30.0  # seconds that the scheduler may be out of reach


class Crew:
    """The workers that a client reaches.

    Args:
        client: of the cluster.
        owned: the cluster, if it is ours: its workers are started anew where they ended for good.
        wait: seconds that there may be no worker at all.
    """

    def __init__(self, client: Client, owned: SpecCluster | None, wait: float) -> None:
        self.client, self.wait = client, wait
        self.note: Callable[[str], None] = lambda text: None
        self._owned = owned
        self._addresses: list[str] = []
        self._looked = -1e9
        self._had_some = self._noted = False
        self._none_since: float | None = None
        self._unreachable_since: float | None = None
        self._starting: Started[None] | None = None
        self._why = ""  # they could not be started

    def begin(self) -> None:
        """Count the time without workers, and without a scheduler, from now on."""
        self._none_since = self._unreachable_since = None

    def look(self, every: float = _LOOK) -> list[str]:
        """The addresses of the workers, asked for every so many seconds.

        Raises:
            ClusterError: the scheduler is gone, or there have been no workers for too long.
        """
        now = time.monotonic()
        self._check_scheduler(now)
        if now - self._looked >= every and self._unreachable_since is None:
            self._looked = now
            with suppress(OSError):  # it has just gone out of reach
                self._addresses = list(self.client.nthreads())
            self._start_anew()
        if self._addresses:
            self._had_some, self._none_since, self._noted = True, None, False
        else:
            self._count_the_time(now)
        return self._addresses

    def wait_for_one(self, stop: Callable[[], bool]) -> None:
        """Return once there is a worker.

        Raises:
            ClusterError: the scheduler is gone, or none comes.
            StoppedError: `stop` says so.
        """
        self.begin()
        while not self.look(every=0.5):
            if stop():
                raise StoppedError("asked to stop while there were no workers; the same command goes on from here")
            time.sleep(0.1)

    def _check_scheduler(self, now: float) -> None:
        status = self.client.status
        if status == "running":
            self._unreachable_since = None
            return
        if self._unreachable_since is None:
            self._unreachable_since = now
        if status == "closed" or now - self._unreachable_since > _GONE:
            raise self.gone()

    def _count_the_time(self, now: float) -> None:
        """Say that there are no workers, and after a while that there won't be any."""
        longest = in_words(self.wait)
        if self._none_since is None:
            self._none_since = now
        if not self._noted:
            self._noted = True
            gone = "all workers are gone; waiting for others" if self._had_some else "waiting for workers"
            self.note(f"{gone}, at most {longest} (--wait)")
        if now - self._none_since <= self.wait:
            return
        if self._had_some:
            text = f"all workers are gone, and no other has come within {longest}; what is stored is kept"
        else:
            text = f"no worker has come within {longest}"
        why = f" ({self._why})" if self._why else ""
        raise ClusterError(f"{text}{why}: see to them, or --wait longer, then run it again to go on")

    def _start_anew(self) -> None:
        """Have workers of our own take the place of those that ended for good, while others go on."""
        if self._owned is None:
            return
        if self._starting is not None:
            if not self._starting.done():
                return
            error = self._starting.exception()
            self._why = "" if error is None else f"they cannot be started: {one_line(error, 200)}"
            self._starting = None
        workers = self._owned.workers
        ended = [name for name, worker in list(workers.items()) if worker.status in (Status.closed, Status.failed)]
        if ended or set(self._owned.worker_spec) - set(workers):
            self._starting = start_lacking(self._owned, ended)

    def gone(self) -> ClusterError:
        """What there is to say of a scheduler that is no more."""
        return ClusterError("the scheduler is gone; what is stored is kept: start it, then run it again to go on")


def in_words(seconds: float) -> str:
    """`90 s`, `5 min`, or `24 h`."""
    whole = [(size, name) for size, name in ((3600, "h"), (60, "min")) if seconds >= 2 * size and seconds % size == 0]
    size, name = whole[0] if whole else (1, "s")
    return f"{seconds / size:g} {name}"
