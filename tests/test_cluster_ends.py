"""Workers that end, don't come, or come without the package: a run goes on with others, or ends and says why.

Each test has a cluster of its own: nobody else waits for workers that it has killed.
"""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cluster_tasks
import dask
import numpy as np
import pytest
from cluster_tasks import send
from command_line import Run
from conftest import toy_model
from dask_processes import Processes, until
from image_files import make_pixels, tiff
from mask_files import mask_of

import tilesegment
from tilesegment.cluster import Cluster
from tilesegment.cluster.window import Finishing
from tilesegment.errors import ClusterError, StoppedError
from tilesegment.prediction.result import Listener, Progress, Result
from tilesegment.threads import core_count

pytestmark = [
    pytest.mark.slow,
    # sockets and processes that dask leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

LINE = "predict slide.tif --model toy.safetensors --tile 88 --precision fp64 --out m.zarr"
ALL = dict.fromkeys(range(30), False)  # blocks that are stored


def predict(image: Path, name: str, cluster: Cluster | None, *listeners: Listener) -> Result:
    how: dict[str, Any] = {"tile": 88, "precision": "fp64", "block": 96, "overwrite": True}
    toy = image.with_name("toy.safetensors")
    return tilesegment.predict(image, image.with_name(name), toy, workers=cluster, listeners=listeners, **how)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Of 12 blocks."""
    toy_model(classes=3).save(tmp_path / "toy.safetensors")
    return tiff("yx", tile=(64, 64), compression="zlib")(tmp_path, make_pixels(1, 200, 290))


class AtBlock(Listener):
    """Does something when so many blocks are stored, once."""

    def __init__(self, number: int, do: Callable[[], object]) -> None:
        self.number, self.do, self.done = number, do, False

    def progressed(self, result: Result, progress: Progress) -> None:
        if progress.blocks >= self.number and not self.done:
            self.done = True
            self.do()


def kill_one(cluster: Cluster) -> None:
    os.kill(next(iter(cluster.client.run(os.getpid).values())), signal.SIGKILL)


class TestOwnWorkers:
    """Workers of this machine, started by the run."""

    def test_one_killed_in_the_middle_costs_only_its_blocks(self, image: Path, tmp_path: Path) -> None:
        with Cluster.start(2) as cluster:
            killer = AtBlock(1, lambda: kill_one(cluster))
            assert predict(image, "many.zarr", cluster, killer).blocks == 12
        assert killer.done
        predict(image, "one.zarr", None)
        np.testing.assert_array_equal(mask_of(tmp_path / "many.zarr"), mask_of(tmp_path / "one.zarr"))

    def test_a_block_that_ends_its_workers_is_found_alone(self, tmp_path: Path) -> None:
        # two deaths instead of four: a worker takes seconds to start
        with dask.config.set({"distributed.scheduler.allowed-failures": 1}), Cluster.start(2) as cluster:
            back = send(cluster, cluster_tasks.ends_its_worker, 30, tmp_path)
        assert isinstance(back[5], ClusterError)
        assert "0:16,80:96" in str(back[5])
        assert back | {5: False} == ALL

    def test_what_watches_over_a_worker_outlives_its_start(self) -> None:
        """Dask would close it, for good, if the worker is not back some seconds after it was lost."""
        with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 ms"}), Cluster.start(1) as cluster:
            assert cluster.owned is not None
            (nanny,) = cluster.owned.workers.values()
            (before,) = cluster.client.nthreads()
            kill_one(cluster)
            until(lambda: before not in cluster.client.nthreads())
            cluster.client.wait_for_workers(1, timeout=60)
            assert list(cluster.owned.workers.values()) == [nanny]

    def test_those_that_ended_for_good_are_started_anew(self, tmp_path: Path) -> None:
        with Cluster.start(1) as cluster:
            cluster.client.retire_workers()
            assert send(cluster, cluster_tasks.plain, 30, tmp_path) == ALL

    def test_those_that_cannot_be_started_again_end_the_run(self, tmp_path: Path) -> None:
        with Cluster.start(1, wait=60) as cluster:
            cluster.crew.wait = 2
            assert cluster.owned is not None
            cluster.owned.worker_spec[0]["options"]["preload"] = ["raise ValueError('no more of us')"]
            cluster.client.retire_workers()
            with pytest.raises(ClusterError, match=r"all workers are gone.*within 2 s"):
                send(cluster, cluster_tasks.plain, 30, tmp_path)

    def test_they_have_the_threads_that_the_process_may(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """And what dask sets in the environment of this process says nothing to the next cluster."""
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        with Cluster.start(1) as cluster:
            assert list(cluster.client.run(os.getenv, "OMP_NUM_THREADS").values()) == ["1"]
        monkeypatch.delenv("OMP_NUM_THREADS")
        with Cluster.start(1) as cluster:
            assert list(cluster.client.run(os.getenv, "OMP_NUM_THREADS").values()) == [str(core_count())]
        assert "OMP_NUM_THREADS" not in os.environ


class TestJoined:
    """A cluster that is not ours."""

    def test_when_all_workers_die_what_is_stored_is_kept_and_others_go_on(
        self, processes: Processes, image: Path, tmp_path: Path
    ) -> None:
        file, notes = tmp_path / "scheduler.json", list[str]()
        processes.scheduler(file)
        worker = processes.worker(file)
        with Cluster.join(str(file), wait=2) as cluster:
            cluster.note = notes.append
            cluster.client.wait_for_workers(1, timeout=60)
            with pytest.raises(ClusterError, match=r"all workers are gone.* within 2 s"):
                predict(image, "m.zarr", cluster, AtBlock(3, worker.kill))
        assert any("all workers are gone" in note and "2 s" in note for note in notes)
        assert not (tmp_path / "m.zarr").exists()
        processes.worker(file)
        with Cluster.join(str(file)) as cluster:
            assert 3 <= predict(image, "m.zarr", cluster).blocks_resumed < 12
        predict(image, "one.zarr", None)
        np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), mask_of(tmp_path / "one.zarr"))

    def test_asked_to_stop_while_all_workers_are_gone_it_ends(self, processes: Processes, tmp_path: Path) -> None:
        file, asked = tmp_path / "scheduler.json", threading.Event()
        processes.scheduler(file)
        worker = processes.worker(file)
        with Cluster.join(str(file)) as cluster:
            cluster.client.wait_for_workers(1, timeout=60)
            worker.kill()
            until(lambda: not cluster.client.nthreads())
            cluster.note = lambda text: asked.set()  # that they are gone
            assert send(cluster, cluster_tasks.plain, 5, tmp_path, asked.is_set) == {}

    def test_a_mask_that_nobody_is_left_to_finish_is_waited_for_no_longer(
        self, processes: Processes, tmp_path: Path
    ) -> None:
        file = tmp_path / "scheduler.json"
        processes.scheduler(file)
        with Cluster.join(str(file), wait=1) as cluster:
            with pytest.raises(ClusterError, match="no worker has come within 1 s"):
                Finishing(cluster.client.submit(abs, -1), cluster.crew, lambda: False).result()
            cluster.crew.begin()
            with pytest.raises(StoppedError):
                Finishing(cluster.client.submit(abs, -2), cluster.crew, lambda: True).result()

    def test_without_any_worker_it_gives_up_and_waits_for_none_for_an_image_that_is_not_there(
        self, processes: Processes, folder: Path, run: Run
    ) -> None:
        processes.scheduler(folder / "s.json")
        done = run(f"{LINE} --scheduler s.json --wait 1s")
        assert done.code == 1
        assert all(said in done.err for said in ("waiting for workers", "no worker has come within 1 s", "--wait"))
        assert not (folder / "m.zarr").exists()
        done = run(f"{LINE.replace('slide', 'none')} --scheduler s.json")
        assert done.code == 1
        assert "none.tif" in done.err

    @pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
    def test_waiting_for_workers_it_ends_at_once_when_asked_to(
        self, processes: Processes, folder: Path, number: signal.Signals, code: int
    ) -> None:
        processes.scheduler(folder / "s.json")
        line = [sys.executable, "-m", "tilesegment_cli.main", *LINE.split(), "--scheduler", "s.json"]
        with subprocess.Popen(line, cwd=folder, stderr=subprocess.PIPE, text=True) as waiting:
            assert waiting.stderr is not None
            assert any("waiting for workers" in said for said in waiting.stderr)
            waiting.send_signal(number)
            # far less than the minutes that it would wait
            assert waiting.wait(60) == code
            assert "Traceback" not in waiting.stderr.read()

    @pytest.mark.parametrize("scheduler_lacks_us", [True, False])
    def test_who_lacks_the_package_is_named(
        self, processes: Processes, folder: Path, run: Run, scheduler_lacks_us: bool
    ) -> None:
        processes.scheduler(folder / "s.json", lacks_us=scheduler_lacks_us)
        processes.worker(folder / "s.json", lacks_us=not scheduler_lacks_us)
        done = run(f"{LINE} --scheduler s.json")
        assert done.code == 1
        assert f"the {'scheduler' if scheduler_lacks_us else 'worker'} tcp://" in done.err
        assert "tilesegment" in done.err
        assert not (folder / "m.zarr").exists()
