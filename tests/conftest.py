"""What several tests need: toy models, and the real sections where they are at hand."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import settings

from tilesegment.metadata import LabelClass
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import build_network

if TYPE_CHECKING:
    from command_line import Run
    from dask_processes import Processes
    from s3_server import S3Server

    from tilesegment.cluster import Cluster
    from tilesegment.stores import Location

# the same examples in every run
settings.register_profile("fixed", derandomize=True, deadline=None)
settings.load_profile("fixed")
# toy networks: a second thread costs more than it brings
torch.set_num_threads(1)

_SHARED = Path(__file__).parents[2] / "shared" / "data"


def toy_model(
    *, depth: int = 2, base: int = 3, channels: int = 1, classes: int = 2, dtype: str = "uint8", seed: int = 0
) -> Model:
    """A U-Net with random weights, small enough to run in milliseconds, whose classes are about equally frequent."""
    return toy_network("unet", channels, classes, dtype, seed, depth=depth, base=base, dropout=0.0)


def toy_network(
    name: str, channels: int = 1, classes: int = 2, dtype: str = "uint8", seed: int = 0, **options: Any
) -> Model:
    """Any network with random weights."""
    torch.manual_seed(seed)
    arguments = {"in_channels": channels, "classes": classes, **options}
    network = build_network(name, arguments).requires_grad_(False).eval()
    names = [LabelClass(f"class {n}", f"#{40 * n:02x}{255 - 40 * n:02x}80", n) for n in range(classes)]
    scale = Normalisation((128.0,) * channels, (70.0,) * channels, dtype)
    header = ModelHeader(name, arguments, tuple(names), scale, name=f"toy-{options.get('depth', name)}", threshold=0.5)
    return Model(header, network)


def noise(shape: tuple[int, ...], seed: int = 0, dtype: str = "uint8") -> np.ndarray:
    """A random image of `shape`: white noise is what a seam cannot hide in."""
    rng = np.random.default_rng(seed)
    high = {"uint8": 256, "uint16": 65536}.get(dtype)
    return rng.random(shape, np.float32) if high is None else rng.integers(0, high, shape, dtype)


@pytest.fixture(scope="session")
def s3_server() -> Iterator["S3Server"]:
    """A real S3 server, for all tests of a process; see `s3` for an empty bucket."""
    import s3_server

    if not s3_server.is_installed():
        pytest.skip("needs moto[s3], flask, flask-cors and obstore for an S3 server")
    with s3_server.running() as server:
        yield server


@pytest.fixture
def s3(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "Location":
    """An empty bucket on a real S3 server, for whose requests the environment has credentials."""
    from s3_server import CREDENTIALS

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    return s3_server.bucket()


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """File of a toy model for one-channel uint8 images."""
    path = tmp_path / "toy.safetensors"
    toy_model().save(path)
    return path


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of 96 px, so that small images have several."""
    monkeypatch.setattr("tilesegment.prediction.tiling.BLOCK", 96)


# what the command line needs is imported by those who use it: it imports this file itself
@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> "Run":
    """Runs `tileseg` with a line of arguments."""
    from command_line import runner

    return runner(monkeypatch, capsys)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the command line, with images and models in it."""
    from command_line import fill

    monkeypatch.chdir(tmp_path)
    fill(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def cluster() -> "Iterator[Cluster]":
    """Two workers that the tests of a module share: none may end them."""
    from tilesegment.cluster import Cluster

    with Cluster.start(2) as started:
        yield started


@pytest.fixture
def processes(tmp_path: Path) -> "Iterator[Processes]":
    """Starts schedulers and workers, which end with the test."""
    from dask_processes import Processes

    started = Processes(tmp_path)
    yield started
    started.end()


@pytest.fixture
def without_curves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training runs without curves.png, which takes half of the time of a toy run."""
    monkeypatch.setattr("tilesegment.training.run.draw_curves", lambda *_: None)


@pytest.fixture(scope="session")
def isbi() -> Path:
    """The labelled sections of the ISBI 2012 challenge; skips where they are not at hand."""
    return data_folder("isbi2012")


@pytest.fixture(scope="session")
def vnc() -> Path:
    """The labelled sections of the ventral nerve cord; skips where they are not at hand."""
    return data_folder("vnc")


def data_folder(name: str) -> Path:
    """A folder of real data; skips where it is not at hand."""
    if not (_SHARED / name).is_dir():
        pytest.skip(f"needs the real sections in {_SHARED / name}, which are not part of the repository")
    return _SHARED / name
