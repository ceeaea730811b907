"""Worker processes of this machine, and those of any cluster that is ours: started, and started again."""

import asyncio
import logging
from collections.abc import Iterable
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from typing import Any

import dask
from distributed import LocalCluster, SpecCluster

from tilesegment.threads import threads_each

CLOSING = 30  # seconds for workers to end
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# a batch system and a terminal signal all processes of a run; it is the first one that decides how to end
_LEAVE_SIGNALS = "import signal; [signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)]"


def start_workers(count: int, dashboard: bool, wait: float, until_closed: ExitStack) -> LocalCluster:
    """Start `count` processes on this machine, which share the cores that this process may use.

    Args:
        count: of processes.
        dashboard: whether to serve dask's.
        wait: seconds for one to start.
        until_closed: what is set of dask while there are workers.

    Raises:
        Exception: they cannot be started; none is left.
    """
    until_closed.enter_context(dask.config.set(_settings()))
    cluster = LocalCluster(
        n_workers=0,
        threads_per_worker=1,
        # the plan bounds what a worker takes; a limit of dask's would stop workers that are within it
        memory_limit=0,
        scheduler_kwargs={"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"},
        silence_logs=logging.CRITICAL,
        preload=[_LEAVE_SIGNALS],
        env=dict.fromkeys(_THREADS, str(threads_each(count))),
        death_timeout=wait,
    )
    cluster.worker_spec.update(dict.fromkeys(range(count), cluster.new_spec))
    try:
        started = start_lacking(cluster)
        assert started is not None
        started.result()
    except BaseException:  # Ctrl-C, too: no process is left behind
        with suppress(Exception):
            cluster.close(timeout=CLOSING)
        raise
    return cluster


def start_lacking(cluster: SpecCluster, ended: Iterable[int | str] = ()) -> "Future[None] | None":
    """Begin to start the workers that a cluster should have and has not; None if it is closed.

    Args:
        cluster: ours.
        ended: names of workers that it still knows, but that ended for good.
    """

    async def start() -> None:
        for name in ended:
            cluster.workers.pop(name, None)
        await cluster

    if cluster.loop is None:
        return None
    return asyncio.run_coroutine_threadsafe(start(), cluster.loop.asyncio_loop)  # type: ignore[attr-defined]


def _settings() -> dict[str, Any]:
    """What is set of dask while there are workers of our own.

    Dask closes what watches over a worker, for good, if that is not there 15 s after it was lost: so it ends one that
    was lost again meanwhile, or takes longer to start on a busy machine. And it sets numbers of threads in the
    environment of this process; those of a worker are set in its own.
    """
    kept: dict[str, Any] = dask.config.get("distributed.nanny.pre-spawn-environ", {})
    return {
        "distributed.deploy.lost-worker-timeout": "365 days",
        "distributed.nanny.pre-spawn-environ": {name: kept[name] for name in kept if name not in _THREADS},
    }
