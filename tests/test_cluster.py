"""The same blocks on a Dask cluster: the same mask, whatever becomes of the workers. The cluster is a real one."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import toy_model
from dask_processes import Processes
from image_files import make_pixels, tiff, zarr_array
from mask_files import mask_of

import tilesegment
from tilesegment.cluster import Cluster
from tilesegment.cluster.cluster import reachable_by_others
from tilesegment.errors import ClusterError, ImageError, PlanError, StoppedError
from tilesegment.prediction.result import Listener, Progress, Result

# sockets and processes that dask leaves to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

EXACT = {"tile": 88, "precision": "fp64"}


@pytest.fixture
def image(tmp_path: Path, small_blocks: None) -> Path:
    """Of 12 blocks."""
    toy_model(classes=3).save(tmp_path / "toy.safetensors")
    return tiff("yx", tile=(64, 64), compression="zlib")(tmp_path, make_pixels(1, 200, 290))


def predict(image: Path, name: str, **more: Any) -> tilesegment.Result:
    return tilesegment.predict(image, image.with_name(name), image.with_name("toy.safetensors"), **{**EXACT, **more})


class TestPrediction:
    def test_the_mask_is_that_of_one_process(self, cluster: Cluster, image: Path, tmp_path: Path) -> None:
        done = predict(image, "many.zarr", workers=cluster, probabilities=tmp_path / "many_p.zarr")
        predict(image, "one.zarr", probabilities=tmp_path / "one_p.zarr")
        assert (done.blocks, done.complete) == (12, True)
        np.testing.assert_array_equal(mask_of(tmp_path / "many.zarr"), mask_of(tmp_path / "one.zarr"))
        np.testing.assert_array_equal(mask_of(tmp_path / "many_p.zarr"), mask_of(tmp_path / "one_p.zarr"))

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
        predict(store, "one.zarr")
        np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), mask_of(tmp_path / "one.zarr"))

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

    def test_settings_that_cannot_be_are_refused_as_ever(self, cluster: Cluster, image: Path) -> None:
        with pytest.raises(PlanError, match="tile 87 does not fit"):
            predict(image, "m.zarr", workers=cluster, tile=87)
        with pytest.raises(tilesegment.DeviceError, match="no device 'tpu'"):
            predict(image, "m.zarr", workers=cluster, device="tpu")


class EndAScheduler(Listener):
    """Kills the scheduler at the third block that is stored."""

    def __init__(self, scheduler: subprocess.Popen[bytes]) -> None:
        self.scheduler = scheduler

    def progressed(self, result: Result, progress: Progress) -> None:
        if progress.blocks == 3:
            self.scheduler.kill()


class TestJoin:
    def test_when_the_scheduler_dies_what_is_stored_is_kept_and_a_new_one_goes_on(
        self, processes: Processes, image: Path, tmp_path: Path
    ) -> None:
        file = tmp_path / "scheduler.json"
        scheduler = processes.scheduler(file)
        processes.worker(file)
        with Cluster.join(str(file)) as cluster:
            cluster.crew.out_of_reach = 3
            with pytest.raises(ClusterError, match="the scheduler is gone; what is"):
                predict(image, "m.zarr", workers=cluster, listeners=[EndAScheduler(scheduler)])
        assert not (tmp_path / "m.zarr").exists()
        processes.scheduler(file)
        processes.worker(file)
        with Cluster.join(str(file)) as cluster:
            done = predict(image, "m.zarr", workers=cluster)
        assert 3 <= done.blocks_resumed < 12
        predict(image, "one.zarr")
        np.testing.assert_array_equal(mask_of(tmp_path / "m.zarr"), mask_of(tmp_path / "one.zarr"))

    def test_a_scheduler_that_is_not_there(self) -> None:
        with pytest.raises(ClusterError, match="neither an address such as tcp://host:8786 nor a scheduler file"):
            Cluster.join("no-such-file.json")
        with pytest.raises(ClusterError, match=r"cannot be joined: .*; is it running\?"):
            Cluster.join("tcp://127.0.0.1:1", timeout=1)

    def test_tls_lets_in_who_has_a_certificate_and_nobody_else(self, processes: Processes, tmp_path: Path) -> None:
        pem = certificate(tmp_path)
        tls = ["--tls-ca-file", pem["cert"], "--tls-cert", pem["cert"], "--tls-key", pem["key"]]
        file = tmp_path / "scheduler.json"
        processes.scheduler(file, "--protocol", "tls", *tls)
        address = json.loads(file.read_text())["address"]
        assert address.startswith("tls://")
        with Cluster.join(address, pem["cert"], pem["cert"], pem["key"]) as cluster:
            assert "no authentication" not in cluster.describe()
        with pytest.raises(ClusterError, match="TLS needs three PEM files"):
            Cluster.join(address, pem["cert"])
        with pytest.raises(ClusterError, match="cannot be joined"):
            Cluster.join(address)


def certificate(folder: Path) -> dict[str, str]:
    """A key and a certificate signed by itself; skips where there is no openssl."""
    names = {"key": str(folder / "key.pem"), "cert": str(folder / "cert.pem")}
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl for a certificate")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*command, "-keyout", names["key"], "-out", names["cert"]], check=True, capture_output=True)
    return names


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
