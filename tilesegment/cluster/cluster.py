"""Workers of a Dask cluster: started on this machine, or joined where they run."""

import importlib.util
import ipaddress
import logging
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from distributed import Client, Future, LocalCluster
from distributed.security import Security

from tilesegment.batch import Settled, Work
from tilesegment.cluster.tasks import finish_run, predict_blocks
from tilesegment.cluster.window import Window
from tilesegment.errors import ClusterError, PlanError, TilesegmentError
from tilesegment.facts import Machine
from tilesegment.job import Job
from tilesegment.predictors.devices import this_machine
from tilesegment.run import Run
from tilesegment.settings import Settings

_TIMEOUT = 30  # seconds to reach a scheduler
# a batch system and a terminal signal all processes of a run; it is the first one that decides how to end
_LEAVE_SIGNALS = "import signal; [signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGTERM)]"


class Cluster:
    """Predicts on the workers of a Dask cluster, which all see the same files under the same paths.

    Results are a few bytes: workers read the image and write the mask themselves. One task at a time runs in a worker
    process, so a machine needs a worker for each GPU, or for each few cores.

    Args:
        client: of the cluster. Closed with the cluster, and so is `owned`, the cluster that it was made of.
        dashboard: whether there is one to be named.
    """

    def __init__(self, client: Client, owned: LocalCluster | None = None, *, dashboard: bool = True) -> None:
        self.client, self._owned, self._dashboard = client, owned, dashboard
        self.note: Callable[[str], None] = lambda text: None
        self._tokens: dict[Run, str] = {}
        self._machines: dict[Settings, Machine] = {}

    @classmethod
    def start(cls, workers: int, *, dashboard: bool = False) -> Self:
        """Starts `workers` processes on this machine, which share its cores; reachable from this machine alone.

        A script that calls this needs `if __name__ == "__main__":` around what it does, as the processes import it.

        Raises:
            ClusterError: they cannot be started, or there is no dashboard to serve.
        """
        if dashboard and importlib.util.find_spec("bokeh") is None:
            raise ClusterError("the dashboard needs bokeh; install it, or leave out --dashboard")
        threads = str(max(1, (os.cpu_count() or 1) // workers))
        try:
            local = LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                # the plan bounds what a worker takes; a limit of dask's would stop workers that are within it
                memory_limit=0,
                scheduler_kwargs={"dashboard": dashboard, "dashboard_address": "127.0.0.1:0"},
                silence_logs=logging.CRITICAL,
                preload=[_LEAVE_SIGNALS],
                env=dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), threads),
            )
        except Exception as error:
            raise ClusterError(f"{workers} workers could not be started: {error}") from error
        return cls(Client(local), local, dashboard=dashboard)

    @classmethod
    def join(
        cls, scheduler: str, tls_ca: str | None = None, tls_cert: str | None = None, tls_key: str | None = None
    ) -> Self:
        """Joins a running cluster.

        Args:
            scheduler: its address, `tcp://host:8786` or `tls://host:8786`, or the file that `dask scheduler
                --scheduler-file` writes.
            tls_ca, tls_cert, tls_key: PEM files, for `tls://`.

        Raises:
            ClusterError: there is no such scheduler, or it does not let us in.
        """
        security = None
        if tls_ca is not None or tls_cert is not None or tls_key is not None:
            for path in (tls_ca, tls_cert, tls_key):
                if path is None or not Path(path).is_file():
                    raise ClusterError(f"TLS needs three PEM files, --tls-ca, --tls-cert and --tls-key; {path} is none")
            security = Security(
                tls_ca_file=tls_ca, tls_client_cert=tls_cert, tls_client_key=tls_key, require_encryption=True
            )
        if "://" not in scheduler and not Path(scheduler).is_file():
            raise ClusterError(
                f"no scheduler {scheduler}: neither an address such as tcp://host:8786 nor a scheduler file"
            )
        where = {"address": scheduler} if "://" in scheduler else {"scheduler_file": scheduler}
        try:
            return cls(Client(**where, security=security, timeout=_TIMEOUT))
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else repr(error)
            raise ClusterError(f"the scheduler {scheduler} cannot be joined: {reason}; is it running?") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.client.close()
        if self._owned is not None:
            self._owned.close()

    def describe(self) -> str:
        """Where it is and how large, with a warning if anybody may use it."""
        address, count = self._address(), len(self.client.nthreads())
        text = f"{count} workers of {address}"
        if self._dashboard:
            text += f", dashboard {self.client.dashboard_link}"
        if reachable_by_others(address):
            text += "; it has no authentication: whoever reaches it can run code on its workers, use tls://"
        return text

    def ask(self, settings: Settings) -> Machine:
        """What a plan needs to know of the workers, once there are any.

        Raises:
            DeviceError: one lacks the device or the precision.
            PlanError: they would compute in different precisions.
        """
        if settings not in self._machines:
            if not self.client.nthreads():
                self.note("waiting for workers")
            self.client.wait_for_workers(1)
            found = self._ask_all(settings)
            precisions = sorted({machine.precision for machine in found})
            if len(precisions) > 1:
                raise PlanError(f"workers differ, {' and '.join(precisions)} suit them: choose one with --precision")
            free = [machine.free_bytes for machine in found if machine.free_bytes is not None]
            least = min(free) if len(free) == len(found) else None
            openvino = all(machine.openvino for machine in found)
            self._machines[settings] = Machine(found[0].device, found[0].precision, least, openvino)
        return self._machines[settings]

    def _ask_all(self, settings: Settings) -> list[Machine]:
        try:
            return list(self.client.run(this_machine, settings).values())
        except TilesegmentError:
            raise
        except Exception as error:  # dask has errors of its own for each way in which a worker ends
            raise ClusterError(f"the workers do not answer ({error!r}); see to them, then run it again") from error

    def take(self, run: Run, job: Job) -> None:
        """A run, before its first block."""
        self._tokens[run] = uuid.uuid4().hex

    def stream(self, work: Iterable[Work], stop: Callable[[], bool]) -> Settled:
        """Every block once it is stored, or with its error, in the order in which workers are done.

        Raises:
            ClusterError: the scheduler is gone, or nothing moves any more.
        """
        return Window(self.client, predict_blocks, self._tokens, work, stop, self.note).results()

    def finish(self, run: Run, known: Mapping[str, Any]) -> Future:
        """Ends a run whose blocks are all stored, on a worker."""
        return self.client.submit(finish_run, self._tokens[run], run, known, key=f"finish-{uuid.uuid4().hex}")

    def drop(self, run: Run) -> None:
        """A run that is over or left."""
        del self._tokens[run]

    def _address(self) -> str:
        return str(self.client.scheduler.address) if self.client.scheduler is not None else ""


def reachable_by_others(address: str) -> bool:
    """Whether others than this machine reach it, unencrypted and unasked."""
    parts = urlsplit(address)
    try:
        loopback = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = parts.hostname == "localhost"
    return parts.scheme == "tcp" and not loopback
