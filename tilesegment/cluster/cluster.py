"""A Dask cluster that predicts and finds objects: started on this machine, or joined where it runs."""

import asyncio
import importlib.util
import ipaddress
import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlsplit

from distributed import Client, SpecCluster
from distributed.comm import connect
from distributed.security import Security

from tilesegment.cluster.object_tasks import SentStage, StageBlock, do_blocks
from tilesegment.cluster.tasks import Sent, finish_image, predict_blocks
from tilesegment.cluster.window import Finishing, Window
from tilesegment.cluster.workers import CLOSING, WAIT, Crew, in_words, start_workers
from tilesegment.errors import ClusterError, PlanError, TilesegmentError, one_line
from tilesegment.objects.cut import Place
from tilesegment.objects.stages import Stages
from tilesegment.prediction.devices import this_machine
from tilesegment.prediction.job import Job
from tilesegment.prediction.queue import Settled, Work
from tilesegment.prediction.result import Result
from tilesegment.prediction.tiling import Machine

_ANSWER = 120.0  # seconds for workers to describe themselves, PyTorch's import included
# as text, for a scheduler that may lack this package
_HAS_PACKAGE = "__import__('importlib.util').util.find_spec('tilesegment') is not None"


class Cluster:
    """Predicts and finds objects on the workers of a Dask cluster, which all see the same files under the same paths.

    Results are a few bytes: workers read the image and write the mask themselves. A worker process runs one task at a
    time, so a machine needs one worker per GPU, or per few cores.

    Args:
        client: of the cluster; closed with it.
        owned: the cluster, if we started it: closed too, and its workers are restarted when they end.
        wait: seconds without any worker after which a run fails.

    Attributes:
        note: called with one line for the user.
    """

    def __init__(self, client: Client, owned: SpecCluster | None = None, *, wait: float = WAIT) -> None:
        self.client, self.owned, self.dashboard = client, owned, ""
        self.note: Callable[[str], None] = lambda text: None
        self.crew = Crew(client, owned, wait, lambda text: self.note(text))
        self._has_package = owned is not None
        self._is_met = owned is not None  # scheduler and workers have this package
        self._stack = ExitStack()
        self._stop: Callable[[], bool] = lambda: False
        self._orders: dict[Job, Sent] = {}
        self._machines: dict[tuple[str, str], Machine] = {}

    @classmethod
    def start(cls, workers: int, *, dashboard: bool = False, wait: float = WAIT) -> Self:
        """Start `workers` processes on this machine, reachable only from here.

        They share the cores that this process may use; none has more threads than OMP_NUM_THREADS allows. One that ends
        is restarted. A script that calls this needs `if __name__ == "__main__":`, as the processes import it.

        Raises:
            ClusterError: they cannot be started, or bokeh is missing for the dashboard.
        """
        if dashboard and importlib.util.find_spec("bokeh") is None:
            raise ClusterError("the dashboard needs bokeh; install it, or leave out --dashboard")
        stack, begun = ExitStack(), time.monotonic()
        try:
            local = start_workers(workers, dashboard, wait, stack)
        except BaseException as error:
            stack.close()
            if not isinstance(error, Exception):
                raise
            # dask has several errors for that
            is_late = time.monotonic() - begun >= wait
            reason = f"not within {in_words(wait)} (--wait)" if is_late else one_line(error, 200)
            raise ClusterError(f"{workers} workers could not be started: {reason}") from error
        cluster = cls(Client(local), local, wait=wait)
        cluster._stack, cluster.dashboard = stack, str(local.dashboard_link) if dashboard else ""
        cluster.crew.look()  # they have started
        return cluster

    @classmethod
    def join(
        cls,
        scheduler: str,
        tls_ca: str | None = None,
        tls_cert: str | None = None,
        tls_key: str | None = None,
        *,
        wait: float = WAIT,
        timeout: float = 30.0,
    ) -> Self:
        """Join a running cluster.

        Args:
            scheduler: its address, `tcp://host:8786` or `tls://host:8786`, or the file that `dask scheduler
                --scheduler-file` writes.
            tls_ca, tls_cert, tls_key: PEM files, for `tls://`.
            wait: seconds without any worker after which a run fails.
            timeout: seconds to reach the scheduler.

        Raises:
            ClusterError: the scheduler cannot be reached, or refuses us.
        """
        pem, security = (tls_ca, tls_cert, tls_key), None
        if any(path is not None for path in pem):
            for path in pem:
                if path is None or not Path(path).is_file():
                    raise ClusterError(f"TLS needs PEM files for --tls-ca, --tls-cert and --tls-key; {path} is not one")
            names = ("tls_ca_file", "tls_client_cert", "tls_client_key")
            security = Security(**dict(zip(names, pem, strict=True)), require_encryption=True)
        is_file = "://" not in scheduler
        if is_file and not Path(scheduler).is_file():
            raise ClusterError(
                f"no scheduler {scheduler}: neither an address such as tcp://host:8786 nor a scheduler file"
            )
        try:
            _reach(json.loads(Path(scheduler).read_text())["address"] if is_file else scheduler, security, timeout)
            where = {"scheduler_file" if is_file else "address": scheduler}
            return cls(Client(**where, security=security, timeout=timeout), wait=wait)
        except Exception as error:
            if is_file and isinstance(error, AssertionError | LookupError | TypeError | ValueError):
                raise ClusterError(
                    f"{scheduler} is not a scheduler file: give one that dask scheduler --scheduler-file wrote"
                ) from error
            reason = one_line(error, 200)
            if isinstance(error, MemoryError):  # the first bytes of an answer are taken for a length
                reason = "what answers there is no Dask scheduler"
            if isinstance(error, TimeoutError):
                reason = "what listens there says nothing"
            raise ClusterError(f"the scheduler {scheduler} cannot be joined: {reason}; is it running?") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            with suppress(TimeoutError):
                self.client.close()
            if self.owned is not None:
                with suppress(TimeoutError):
                    self.owned.close(timeout=CLOSING)

    def describe(self) -> str:
        """Describe its address and size, with a warning if it is open to others."""
        address, count = self._address, len(self.client.nthreads())
        text = f"{count or 'no'} {'worker' if count == 1 else 'workers'} of {address}"
        text += f", dashboard {self.dashboard}" if self.dashboard else ""
        if reachable_by_others(address):
            text += "; it has no authentication: anyone who reaches it can run code on its workers, use tls://"
        return text

    def ask(self, device: str, precision: str, stop: Callable[[], bool]) -> Machine:
        """Describe the workers for a plan, once there are any.

        Raises:
            ClusterError: no worker comes or answers, or the scheduler or a worker lacks this package.
            StoppedError: asked to stop while there are none.
            DeviceError: one lacks the device or the precision.
            PlanError: they would compute in different precisions.
        """
        asked = (device, precision)
        if asked not in self._machines:
            self._check_scheduler()
            self.crew.wait_for_one(stop)
            found = self._ask_all(*asked)
            precisions = sorted({machine.precision for machine in found})
            if len(precisions) > 1:
                raise PlanError(f"workers differ, {' and '.join(precisions)} suit them: choose one with --precision")
            free = [machine.free_bytes for machine in found if machine.free_bytes is not None]
            least = min(free) if len(free) == len(found) else None
            openvino = all(machine.openvino for machine in found)
            self._machines[asked] = Machine(found[0].device, found[0].precision, least, openvino)
        return self._machines[asked]

    def _ask_all(self, device: str, precision: str) -> list[Machine]:
        """Ask each worker to describe its machine; one that just ended is left out."""
        self._check_workers()
        answers = self._run_on_all(this_machine, device, precision, on_error="return").values()
        for answer in answers:
            if isinstance(answer, TilesegmentError):
                raise answer
        machines = [answer for answer in answers if isinstance(answer, Machine)]
        if not machines:
            why = next(map(repr, answers), "there are none")
            raise ClusterError(f"the workers do not answer ({why}); check them, then run it again")
        return machines

    def _check_workers(self) -> None:
        """Refuse workers without this package."""
        for worker, has_package in self._run_on_all(eval, _HAS_PACKAGE, on_error="ignore").items():
            if not has_package:
                raise _lacks_package(f"worker {worker}")

    def _run_on_all(
        self, function: Callable[..., Any], *arguments: str, on_error: Literal["return", "ignore"]
    ) -> dict[str, Any]:
        """Run a function on each worker; return the results by their addresses."""
        longest = max(self.crew.wait, _ANSWER)
        try:
            found: dict[str, Any] = self.client.run(function, *arguments, on_error=on_error, callback_timeout=longest)
        except Exception as error:  # dask has a different error for each way in which a worker ends
            raise ClusterError(f"the workers do not answer ({error!r}); check them, then run it again") from error
        return found

    def _check_scheduler(self) -> None:
        """Refuse a scheduler without this package: it unpickles the tasks, and fails without a clear message."""
        if not self._has_package:
            try:
                self._has_package = bool(self.client.run_on_scheduler(eval, _HAS_PACKAGE))
            except Exception:  # it may not be asked: assume yes
                self._has_package = True
        if not self._has_package:
            raise _lacks_package(f"scheduler {self._address}")

    def check(self, job: Job) -> None:
        """Raise a PlanError for a job whose model was given as an object."""
        if not job.plan.model:
            raise PlanError("a cluster opens the model itself: save it with model.save(path), and give the path")

    def stream(self, work: Iterable[Work], stop: Callable[[], bool]) -> Settled:
        """Yield every block once it is stored, or with its error, in the order in which workers are done.

        Raises:
            ClusterError: the scheduler is gone, there are no workers, or nothing comes back.
        """
        self._stop = stop
        return Window(self.crew, predict_blocks, self._sent, work, stop).results()

    def each(self, stages: Stages, stage: str, places: Sequence[Place], stop: Callable[[], bool]) -> Iterator[Place]:
        """Do blocks of a stage of objects and yield each once its result is kept: see `ObjectWorkers`.

        Raises:
            TilesegmentError: what a block failed with on three workers.
            ClusterError: there are no workers, the scheduler is gone, or it or a worker lacks this package.
            StoppedError: asked to stop while there are no workers.
        """
        if not places:
            return
        if not self._is_met:
            self._check_scheduler()
            self.crew.wait_for_one(stop)
            self._check_workers()
            self._is_met = True
        sent = SentStage(uuid.uuid4().hex, stages.folder, stages.plan, tuple(stages.writers), stage)
        blocks = (StageBlock(stage, place) for place in places)
        with closing(Window(self.crew, do_blocks, lambda _: sent, blocks, stop).results()) as results:
            for block, found in results:
                if isinstance(found, Exception):
                    raise found
                yield block.place

    def finish(self, job: Job, result: Result) -> Finishing:
        """Begin to finish a job whose blocks are all stored, on a worker."""
        future = self.client.submit(finish_image, self._sent(job), result, key=f"finish-{uuid.uuid4().hex}")
        return Finishing(future, self.crew, self._stop)

    def drop(self, job: Job) -> None:
        """Forget a job that is over or abandoned."""
        self._orders.pop(job, None)

    def _sent(self, job: Job) -> Sent:
        """Return the job as it is sent, once its outputs are begun."""
        if job not in self._orders:
            self._orders[job] = Sent(uuid.uuid4().hex, job.plan, job.stores)
        return self._orders[job]

    @property
    def _address(self) -> str:
        return str(self.client.scheduler.address) if self.client.scheduler is not None else ""


def _lacks_package(who: str) -> ClusterError:
    return ClusterError(
        f"the {who} runs in a Python without tilesegment: the scheduler and all workers need it; "
        "install it there, then restart it"
    )


def reachable_by_others(address: str) -> bool:
    """Whether other machines reach the address, without encryption or authentication."""
    parts = urlsplit(address)
    try:
        loopback = ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = parts.hostname == "localhost"
    return parts.scheme == "tcp" and not loopback


def _reach(address: str, security: Security | None, timeout: float) -> None:
    """Connect to a scheduler once; a client would wait forever for one that accepts connections and stays silent.

    Raises:
        TimeoutError: it does not answer.
        OSError: it cannot be reached.
    """
    arguments = {} if security is None else security.get_connection_args("client")

    async def knock() -> None:
        comm = await asyncio.wait_for(connect(address, timeout=timeout, **arguments), timeout + 2)
        await comm.close()

    answer: Future[None] = Future()

    def run() -> None:
        try:
            answer.set_result(asyncio.run(knock()))
        except BaseException as error:
            answer.set_exception(error)

    # in a daemon thread: the caller may be interrupted, or run an event loop
    threading.Thread(target=run, daemon=True).start()
    answer.result()
