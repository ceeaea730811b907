"""Runs that are killed or asked to stop at any moment: the same command goes on to the mask of an undisturbed run.

Each run is the real command in a process of its own, with real signals.
"""

import importlib.util
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import count
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import tifffile
import torch
from command_line import Outcome
from conftest import noise, toy_model
from test_masks_survey import PROCESSES

from tilesegment.masks import status
from tilesegment.prediction import tiling
from tilesegment_cli.main import main

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
# all that a run imports, some of it late, and what those tests need whose server it is
PRELOADED = ["tilesegment_cli.main", "tilesegment.prediction.predict", "torch._dynamo", "psutil", "pytest"]
PROCESSES.set_forkserver_preload(["test_masks", "tilesegment.masks.completion", "tilesegment.masks.writer", *PRELOADED])
LINE = "predict image.tif -m model.safetensors --tile 88 --precision fp32 --out {}"
NAMES = ["mask.zarr", "mask.tif"]
BLOCKS = 6


def load_example(name: str) -> ModuleType:
    """A program of examples/, as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "examples" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


kill_runs = load_example("kill_runs")
contents_of = kill_runs.contents_of


@dataclass(frozen=True)
class Fault:
    """What befalls a process: `deed` is called before the `at`-th change that it makes on the disk."""

    at: int
    deed: Callable[[], object]
    and_after: bool = False


def signal_itself(number: int) -> None:
    """Any process can send it to itself."""
    os.kill(os.getpid(), number)


def killed(at: int) -> Fault:
    return Fault(at, partial(signal_itself, signal.SIGKILL))


def command(folder: Path, said: Path, line: str, fault: Fault | None, threads: int) -> None:
    """`tileseg` with a line of arguments, as the process does it. Blocks are small."""
    for stream in (1, 2):
        os.dup2(os.open(f"{said}.{stream}", os.O_CREAT | os.O_WRONLY | os.O_TRUNC), stream)
    os.chdir(folder)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what starts the tests may have it ignored
    torch.set_num_threads(threads)
    tiling.BLOCK = 192
    if fault is not None:
        kill_runs.at_change(fault.at, fault.deed, and_after=fault.and_after)
    sys.argv = ["tileseg", *line.split()]
    main()


class Runs:
    """Starts `tileseg` in `folder`, and waits for it."""

    def __init__(self, folder: Path, said: Path) -> None:
        self.folder, self._said, self._count = folder, said, count()

    def start(self, line: str, fault: Fault | None = None, threads: int = 1) -> Callable[[], Outcome]:
        """Starts it; what is returned waits for its end."""
        said = self._said / str(next(self._count))
        process: ForkServerProcess = PROCESSES.Process(target=command, args=(self.folder, said, line, fault, threads))
        process.start()

        def wait() -> Outcome:
            process.join(60)
            assert process.exitcode is not None, f"{line} hangs"
            out, err = (Path(f"{said}.{stream}").read_text() for stream in (1, 2))
            assert "Traceback" not in err, err
            return Outcome(process.exitcode, out, err)

        return wait

    def __call__(self, line: str, fault: Fault | None = None, threads: int = 1) -> Outcome:
        return self.start(line, fault, threads)()

    def finish(self, line: str) -> dict[str, Any]:
        """Runs it to a good end; what it says as JSON."""
        found = self(f"{line} --json")
        assert found.code == 0, found
        return json.loads(found.out)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an image of 6 blocks, whose mask has two levels, and a model."""
    folder = tmp_path_factory.mktemp("inputs")
    tifffile.imwrite(folder / "image.tif", noise((530, 200)), tile=(64, 64), compression="zlib")
    toy_model().save(folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def undisturbed(inputs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the masks of undisturbed runs."""
    folder = tmp_path_factory.mktemp("undisturbed")
    for name in NAMES:
        Runs(inputs, tmp_path_factory.mktemp("said")).finish(LINE.format(folder / name))
    return folder


@pytest.fixture
def runs(inputs: Path, tmp_path: Path) -> Runs:
    """In a folder of its own, with image and model."""
    shutil.copytree(inputs, tmp_path / "here")
    (tmp_path / "said").mkdir()
    return Runs(tmp_path / "here", tmp_path / "said")


def check(runs: Runs, undisturbed: Path, name: str) -> None:
    """The mask is that of an undisturbed run, and nothing else lies about."""
    assert contents_of(runs.folder / name) == contents_of(undisturbed / name)
    assert sorted(path.name for path in runs.folder.iterdir()) == ["image.tif", name, "model.safetensors"]
    assert not list(runs.folder.rglob("*.partial"))


def how_far(path: Path) -> str:
    """The phase that a run was in which is no more."""
    if not path.with_name(f"{path.name}.partial").exists():
        return "ended" if path.exists() else "not begun"
    found = status(path)
    assert found.damaged == 0
    return "blocks" if found.done < found.blocks else "pyramid"


@pytest.mark.parametrize("name", NAMES)
def test_killed_at_any_change_the_same_command_goes_on(runs: Runs, undisturbed: Path, name: str) -> None:
    """Some changes: kill_runs.py does them all."""
    seen = set()
    for at in count(1, 20):
        found = runs(LINE.format(name), killed(at))
        if found.code == 0:
            break
        assert found.code == -signal.SIGKILL
        seen.add(how_far(runs.folder / name))
        runs.finish(LINE.format(name))
        check(runs, undisturbed, name)
        (runs.folder / name).rename(runs.folder.with_name(f"{at} {name}"))
    assert seen >= {"not begun", "blocks", "pyramid"}


def test_killed_again_and_again_it_never_loses_a_block(runs: Runs, undisturbed: Path) -> None:
    done = [0]
    while runs(LINE.format("mask.zarr"), killed(30)).code != 0:
        done.append(status(runs.folder / "mask.zarr").done)
        assert len(done) < 9
    assert 0 < done[1] < done[2] <= BLOCKS
    assert done == sorted(done)
    check(runs, undisturbed, "mask.zarr")


def signalled(at: int, number: int, again: bool = False) -> Fault:
    return Fault(at, partial(signal_itself, number), again)


@pytest.mark.parametrize(("number", "again", "code"), [("TERM", False, 75), ("TERM", True, 75), ("INT", False, 130)])
def test_asked_to_stop_it_keeps_what_is_done_and_says_how_to_go_on(
    runs: Runs, undisturbed: Path, number: str, again: bool, code: int
) -> None:
    """After the first block; `again` at each change from then on, as whoever asks twice does not want to wait."""
    found = runs(LINE.format("mask.zarr"), signalled(24, signal.Signals[f"SIG{number}"], again))
    assert found.code == code, found
    assert "the same command goes on from " in found.err
    assert found.out == ""
    stored = status(runs.folder / "mask.zarr")
    assert (stored.state, stored.damaged) == ("partial", 0)
    assert 0 < stored.done < BLOCKS
    said = runs.finish(LINE.format("mask.zarr"))
    assert (said["blocks_resumed"], said["blocks"]) == (stored.done, BLOCKS - stored.done)
    check(runs, undisturbed, "mask.zarr")


def test_asked_to_stop_at_any_change_it_does_or_comes_to_its_end(runs: Runs, undisturbed: Path) -> None:
    codes = []
    for at in (1, 40, 70):
        found = runs(LINE.format("mask.zarr"), signalled(at, signal.SIGTERM))
        codes.append(found.code)
        assert (found.code == 0) == (runs.folder / "mask.zarr").exists()
        runs.finish(LINE.format("mask.zarr"))
        check(runs, undisturbed, "mask.zarr")
        (runs.folder / "mask.zarr").rename(runs.folder.with_name(f"{at}.zarr"))
    assert set(codes) == {0, 75}, "in the pyramid it is all the same, and it ends"
