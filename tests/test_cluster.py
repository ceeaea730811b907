"""The same blocks on a Dask cluster: the same mask, whatever becomes of the blocks. The cluster is a real one."""

import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cluster_tasks
import numpy as np
import pytest
from cluster_tasks import counted, send, work_of
from conftest import toy_model
from dask_processes import Processes
from image_files import make_pixels, tiff, zarr_array
from mask_files import mask_of

import tilesegment
from tilesegment.cluster import Cluster
from tilesegment.cluster.cluster import reachable_by_others
from tilesegment.cluster.window import Window
from tilesegment.errors import ClusterError, DeviceError, ImageError, PlanError, StoppedError
from tilesegment.prediction.queue import Work
from tilesegment.prediction.result import Listener, Progress, Result

pytestmark = [
    pytest.mark.slow,
    # sockets and processes that dask leaves to the garbage collector
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Of 12 blocks."""
    toy_model(classes=3).save(tmp_path / "toy.safetensors")
    return tiff("yx", tile=(64, 64), compression="zlib")(tmp_path, make_pixels(1, 200, 290))


def predict(image: Path, name: str, **more: Any) -> Result:
    settings = {"model": image.with_name("toy.safetensors"), "tile": 88, "precision": "fp64", "block": 96, **more}
    return tilesegment.predict(image, image.with_name(name), **settings)


def assert_as_by_one_process(image: Path, name: str) -> None:
    predict(image, "one.zarr")
    np.testing.assert_array_equal(mask_of(image.with_name(name)), mask_of(image.with_name("one.zarr")))


class TestPrediction:
    def test_the_mask_is_that_of_one_process(self, cluster: Cluster, image: Path, tmp_path: Path) -> None:
        done = predict(image, "m.zarr", workers=cluster, probabilities=tmp_path / "p.zarr")
        assert (done.blocks, done.state) == (12, "complete")
        assert_as_by_one_process(image, "m.zarr")
        predict(image, "one.zarr", probabilities=tmp_path / "one_p.zarr")
        np.testing.assert_array_equal(mask_of(tmp_path / "p.zarr"), mask_of(tmp_path / "one_p.zarr"))

    def test_a_block_that_cannot_be_read_is_told_with_its_machine_and_the_others_are_done(
        self, cluster: Cluster, image: Path, tmp_path: Path
    ) -> None:
        store = zarr_array("yx", (64, 64))(tmp_path, make_pixels(1, 200, 290))
        (chunk,) = [path for path in store.rglob("*") if path.is_file() and path.match("c/3/4")]
        whole = chunk.read_bytes()
        chunk.write_bytes(whole[:-9])
        with pytest.raises(ImageError, match=r"is damaged.* \(on "):
            predict(store, "m.zarr", workers=cluster)
        chunk.write_bytes(whole)
        # the last chunk of the image lies in the context of few blocks
        assert predict(store, "m.zarr", workers=cluster).blocks_resumed >= 8
        assert_as_by_one_process(store, "m.zarr")

    def test_asked_to_stop_it_ends_and_goes_on_when_run_again(
        self, cluster: Cluster, image: Path, tmp_path: Path
    ) -> None:
        heard: list[int] = []

        class Hear(Listener):
            def progressed(self, result: Result, progress: Progress) -> None:
                heard.append(progress.blocks)

        with pytest.raises(StoppedError, match="goes on from there"):
            predict(image, "m.zarr", workers=cluster, listeners=[Hear()], stop=lambda: bool(heard))
        assert not (tmp_path / "m.zarr").exists()
        done = predict(image, "m.zarr", workers=cluster)
        assert (done.blocks_resumed, done.blocks) == (len(heard), 12 - len(heard))

    def test_what_cannot_be_is_refused_before_anything_is_written(self, cluster: Cluster, image: Path) -> None:
        refusals: list[tuple[dict[str, Any], type[Exception], str]] = [
            ({"tile": 87}, PlanError, "tile 87"),
            ({"device": "tpu"}, DeviceError, "'tpu'"),
            ({"model": toy_model(classes=3)}, PlanError, "save"),  # an object that workers cannot open
        ]
        for settings, error, named in refusals:
            with pytest.raises(error, match=named):
                predict(image, "m.zarr", workers=cluster, **settings)
        assert not list(image.parent.glob("m.zarr*"))


class TestWindow:
    """What becomes of blocks, with tasks that predict nothing."""

    def test_every_block_comes_back_once(self, cluster: Cluster, tmp_path: Path) -> None:
        assert send(cluster, cluster_tasks.plain, 700, tmp_path) == dict.fromkeys(range(700), False)
        assert counted(tmp_path) == Counter(range(700))

    def test_what_fails_on_one_worker_is_done_by_another(self, cluster: Cluster, tmp_path: Path) -> None:
        assert send(cluster, cluster_tasks.fails_on_one, 40, tmp_path) == dict.fromkeys(range(40), False)

    def test_what_fails_everywhere_is_given_back_after_three_tries(self, cluster: Cluster, tmp_path: Path) -> None:
        back = send(cluster, cluster_tasks.fails_always, 40, tmp_path)
        assert [column for column, found in sorted(back.items()) if found] == [3, 13, 23, 33]
        assert str(back[13]) == "block 13 is bad"
        assert counted(tmp_path)[13] == 3

    def test_a_mistake_of_ours_is_told(self, cluster: Cluster, tmp_path: Path) -> None:
        assert "this should not have happened" in str(send(cluster, cluster_tasks.raises, 1, tmp_path)[0])

    def test_what_is_in_flight_is_bounded_and_the_work_is_not_drawn_at_once(
        self, cluster: Cluster, tmp_path: Path
    ) -> None:
        drawn: list[int] = []

        def work() -> Iterator[Work]:
            for item in work_of(1_000_000, tmp_path):
                drawn.append(item.block.column)
                yield item

        sent = Window(cluster.crew, cluster_tasks.plain, lambda job: job, work(), lambda: False).results()  # type: ignore[arg-type, return-value]
        for _ in range(50):
            next(sent)
        sent.close()
        assert len(drawn) < 200


class TestJoin:
    def test_when_the_scheduler_dies_what_is_stored_is_kept_and_a_new_one_goes_on(
        self, processes: Processes, image: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "scheduler.json"
        scheduler = processes.scheduler(file)
        processes.worker(file)

        class EndIt(Listener):
            def progressed(self, result: Result, progress: Progress) -> None:
                if progress.blocks == 3:
                    scheduler.kill()

        with Cluster.join(str(file)) as cluster:
            cluster.crew.out_of_reach = 3
            with pytest.raises(ClusterError, match="the scheduler is gone"):
                predict(image, "m.zarr", workers=cluster, listeners=[EndIt()])
        assert not (tmp_path / "m.zarr").exists()
        processes.scheduler(file)
        processes.worker(file)
        with Cluster.join(str(file)) as cluster:
            assert 3 <= predict(image, "m.zarr", workers=cluster).blocks_resumed < 12
        assert_as_by_one_process(image, "m.zarr")

    @pytest.mark.parametrize(
        ("scheduler", "named"),
        [("no-such-file.json", "tcp://host:8786 nor a scheduler file"), ("tcp://127.0.0.1:1", "cannot be joined")],
    )
    def test_a_scheduler_that_is_not_there(self, scheduler: str, named: str) -> None:
        with pytest.raises(ClusterError, match=named):
            Cluster.join(scheduler, timeout=1)

    def test_tls_lets_in_who_has_a_certificate_and_nobody_else(self, processes: Processes, tmp_path: Path) -> None:
        key, cert = str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")
        if shutil.which("openssl") is None:
            pytest.skip("needs openssl for a certificate")
        command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
        subprocess.run([*command, "-keyout", key, "-out", cert], check=True, capture_output=True)
        file = tmp_path / "scheduler.json"
        tls = ["--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key]
        processes.scheduler(file, "--protocol", "tls", *tls)
        address = json.loads(file.read_text())["address"]
        with Cluster.join(address, cert, cert, key) as cluster:
            assert "tls://" in cluster.describe()
            assert "no authentication" not in cluster.describe()
        with pytest.raises(ClusterError, match="--tls-ca, --tls-cert and --tls-key"):
            Cluster.join(address, cert)
        with pytest.raises(ClusterError, match="cannot be joined"):
            Cluster.join(address)


@pytest.mark.parametrize(
    ("address", "is_open"),
    [
        ("tcp://10.0.0.5:8786", True),
        ("tcp://node7:8786", True),
        ("tcp://127.0.0.1:8786", False),
        ("tcp://localhost:8786", False),
        ("tcp://[::1]:8786", False),
        ("tls://10.0.0.5:8786", False),
    ],
)
def test_an_open_scheduler_is_warned_of(address: str, is_open: bool) -> None:
    assert reachable_by_others(address) == is_open
