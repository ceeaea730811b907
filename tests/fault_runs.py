"""Runs of `tileseg` in processes of their own, and what befalls them at a given change on the disk."""

import importlib.util
import json
import os
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

import torch
from command_line import Outcome
from mask_files import PROCESSES

from tilesegment.prediction import tiling
from tilesegment_cli.main import main

# all that a run imports, some of it late
PRELOADED = ["tilesegment_cli.main", "tilesegment.prediction.predict", "torch._dynamo", "psutil", "pytest"]
PROCESSES.set_forkserver_preload(["mask_files", "tilesegment.masks.completion", *PRELOADED])
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
    os.kill(os.getpid(), number)


def killed(at: int) -> Fault:
    return Fault(at, partial(signal_itself, signal.SIGKILL))


def signalled(at: int, number: int = signal.SIGTERM, again: bool = False) -> Fault:
    return Fault(at, partial(signal_itself, number), again)


def refuse(code: int) -> None:
    """Fail as the operating system does."""
    raise OSError(code, os.strerror(code))


def refused(at: int, code: int, and_after: bool = True) -> Fault:
    return Fault(at, partial(refuse, code), and_after)


def is_one_line(found: Outcome, *parts: str) -> bool:
    """Whether it failed and said why in one line, with these `parts` in it."""
    err = found.err
    return found.code == 1 and err.startswith("Error: ") and err.count("\n") == 1 and all(one in err for one in parts)


def command(folder: Path, said: Path, line: str, fault: Fault | None, threads: int) -> None:
    """Run `tileseg` with a line of arguments, as the process does it. Blocks are small."""
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

    def __init__(self, folder: Path, said: Path, target: Callable[..., None] = command) -> None:
        self.folder, self._said, self._count, self._target = folder, said, count(), target

    def start(self, line: str, fault: Fault | None = None, threads: int = 1) -> Callable[[], Outcome]:
        """Start it; what is returned waits for its end."""
        said = self._said / str(next(self._count))
        process: ForkServerProcess = PROCESSES.Process(
            target=self._target, args=(self.folder, said, line, fault, threads)
        )
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
        """Run it to a good end; what it says as JSON."""
        found = self(f"{line} --json")
        assert found.code == 0, found
        return json.loads(found.out)


def check(runs: Runs, undisturbed: Path, name: str = "mask.zarr") -> None:
    """Check that the mask is that of an undisturbed run, and nothing else lies about."""
    assert contents_of(runs.folder / name) == contents_of(undisturbed / name)
    assert sorted(path.name for path in runs.folder.iterdir()) == ["image.tif", name, "model.safetensors"]
    assert not list(runs.folder.rglob("*.partial"))
