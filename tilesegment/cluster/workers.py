"""The workers of a cluster: start, restart and wait for them.

The invariant: nothing waits longer than `wait` seconds for a cluster that has no workers, nor much longer than
`out_of_reach` for one whose scheduler does not answer.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any

import dask
from distributed import Client, LocalCluster, SpecCluster, Status

from tilesegment.errors import ClusterError, StoppedError, one_line
from tilesegment.threads import threads_each

WAIT = 300.0  # seconds that a cluster may be without workers
CLOSING = 30  # seconds for workers to end
_LOOK = 5.0  # seconds between checks for workers
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# a batch system and a terminal signal all processes of a run; the first one decides how to end
_LEAVE_SIGNALS = "import signal; [signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)]"


class Crew:
    """The workers that a client reaches.

    Args:
        client: of the cluster.
        owned: the cluster, if we started it: its workers are restarted when they end.
        wait: seconds without any worker after which a run fails.
        note: called with one line for the user.

    Attributes:
        out_of_reach: seconds that the scheduler may not answer.
    """

    def __init__(self, client: Client, owned: SpecCluster | None, wait: float, note: Callable[[str], None]) -> None:
        self.client, self.wait, self.note, self.out_of_reach = client, wait, note, 30.0
        self._owned = owned
        self._addresses: list[str] = []
        self._looked = -1e9
        self._had_some = self._noted = False
        self._none_since: float | None = None
        self._unreachable_since: float | None = None
        self._starting: Future[None] | None = None
        self._why = ""  # workers could not be started

    def begin(self) -> None:
        """Start counting the time without workers or scheduler."""
        self._none_since = self._unreachable_since = None

    def look(self, every: float = _LOOK) -> list[str]:
        """Return the addresses of the workers, updated when `every` seconds have passed.

        Raises:
            ClusterError: the scheduler is gone, or there have been no workers for too long.
        """
        now = time.monotonic()
        self._check_scheduler(now)
        if now - self._looked >= every and self._unreachable_since is None:
            self._looked = now
            with suppress(OSError):  # the scheduler has just gone out of reach
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
            ClusterError: the scheduler is gone, or no worker comes.
            StoppedError: asked to stop.
        """
        self.begin()
        while not self.look(every=0.5):
            if stop():
                raise StoppedError("asked to stop while there were no workers; the same command goes on from here")
            time.sleep(0.1)

    def gone(self) -> ClusterError:
        """Return the error for a scheduler that is gone."""
        return ClusterError("the scheduler is gone; what is stored is kept: start it, then run it again to go on")

    def _check_scheduler(self, now: float) -> None:
        status = self.client.status
        if status == "running":
            self._unreachable_since = None
            return
        if self._unreachable_since is None:
            self._unreachable_since = now
        if status == "closed" or now - self._unreachable_since > self.out_of_reach:
            raise self.gone()

    def _count_the_time(self, now: float) -> None:
        """Note that there are no workers; after `wait` seconds, give up."""
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
        raise ClusterError(f"{text}{why}: check them, or --wait longer, then run it again to go on")

    def _start_anew(self) -> None:
        """Restart our workers that ended, in the background."""
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
            self._starting = _start_lacking(self._owned, ended)


def start_workers(count: int, dashboard: bool, wait: float, until_closed: ExitStack) -> LocalCluster:
    """Start `count` processes on this machine, which share the cores that this process may use.

    Args:
        count: of processes.
        dashboard: whether to serve dask's.
        wait: seconds for one to start.
        until_closed: receives dask's settings, to be undone once the workers have ended.

    Raises:
        Exception: they cannot be started; none is left running.
    """
    until_closed.enter_context(dask.config.set(_settings()))
    cluster = LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        # the plan bounds a worker's memory; dask's own limit would stop workers within that bound
        memory_limit=0,
        scheduler_kwargs={"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL,
        preload=[_LEAVE_SIGNALS],
        env=dict.fromkeys(_THREADS, str(threads_each(count))),
        death_timeout=wait,
    )
    cluster.worker_spec.update(dict.fromkeys(range(count), cluster.new_spec))
    try:
        started = _start_lacking(cluster)
        assert started is not None
        started.result()
    except BaseException:  # Ctrl-C too: leave no process behind
        with suppress(Exception):
            cluster.close(timeout=CLOSING)
        raise
    return cluster


def _start_lacking(cluster: SpecCluster, ended: Iterable[int | str] = ()) -> "Future[None] | None":
    """Begin to start the missing and the `ended` workers of our cluster; None if it is closed."""

    async def start() -> None:
        for name in ended:
            cluster.workers.pop(name, None)
        await cluster

    if cluster.loop is None:
        return None
    return asyncio.run_coroutine_threadsafe(start(), cluster.loop.asyncio_loop)  # type: ignore[attr-defined]


def _settings() -> dict[str, Any]:
    """Return dask's settings while workers of ours run.

    Dask closes a nanny for good if its worker is not back 15 s after it was lost, which ends workers that are lost
    again or start slowly. It also sets thread counts in this process's environment; workers get theirs in their own.
    """
    kept: dict[str, Any] = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {
        "distributed.deploy.lost-worker-timeout": "365 days",
        "distributed.nanny.pre-spawn-environ": {name: kept[name] for name in kept if name not in _THREADS},
    }


def in_words(seconds: float) -> str:
    """`90 s`, `5 min`, or `24 h`."""
    whole = [(size, name) for size, name in ((3600, "h"), (60, "min")) if seconds >= 2 * size and seconds % size == 0]
    size, name = whole[0] if whole else (1, "s")
    return f"{seconds / size:g} {name}"
