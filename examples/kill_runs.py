"""Kills runs of `tileseg predict`, starts them again, and compares the mask with that of an undisturbed run.

    python examples/kill_runs.py --kills 50
    python examples/kill_runs.py --kills 20 --parts 4 --format tif
    python examples/kill_runs.py --kills 10 --workers 2
    python examples/kill_runs.py --kills 10 --workers 2 --kill-workers
    python examples/kill_runs.py --every-change --size 560 --block 288

Image and model are made here. Runs are killed (SIGKILL) at random moments after they have begun; the same command goes
on; a mask that is complete is compared with the undisturbed one, every byte of all its levels, and the next one is
begun, until enough kills have met a run. `tileseg status` has to work after each. Blocks that are computed more than
once are counted: at most those in flight may be, for each kill. `--every-change` kills a run before the first change
that it makes on the disk, then another one before its second, and so on until a run comes to its end.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import tifffile
import torch
from PIL import Image

from tilesegment.cluster import window
from tilesegment.geometry import Block
from tilesegment.metadata import LabelClass
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import build_network
from tilesegment.prediction import engine, tiling
from tilesegment.prediction.predictor import BlockPredictor, Pending
from tilesegment_cli.main import main as tileseg

IN_FLIGHT = 1 + engine.BEHIND  # blocks of a process: one is predicted, the others wait to be stored
IN_A_TASK = 8  # blocks, on workers; who kills one loses a task
COUNTS = "KILL_RUNS_COUNTS"  # variable: the file that gets a line for each block whose prediction is begun


def at_change(number: int, deed: Callable[[], object], *, and_after: bool = False) -> None:
    """Calls `deed` before the `number`-th change, counted from 1, that this process makes in its working folder.

    Changes are: a file is opened to be written, synced, renamed or deleted; a folder is made or deleted. If `deed`
    raises, the change fails with that.

    Args:
        number, deed: as said.
        and_after: also before every later change.
    """
    changes, folder = count(1), os.getcwd()

    def change() -> None:
        done = next(changes)
        if done == number or (and_after and done > number):
            deed()

    def hear(event: str, given: tuple[Any, ...]) -> None:
        writes = event == "open" and not isinstance(given[0], int) and given[2] & (os.O_WRONLY | os.O_RDWR)
        changes_names = event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir")
        if (writes or changes_names) and os.path.abspath(os.fsdecode(given[0])).startswith(folder):
            change()

    sync = os.fsync

    def counted_sync(handle: int) -> None:
        change()
        sync(handle)

    os.fsync = counted_sync  # type: ignore[assignment]
    sys.addaudithook(hear)


def count_blocks() -> None:
    """Has the blocks counted that this process begins to predict."""
    begin = BlockPredictor.begin

    def counted(self: BlockPredictor, pixels: np.ndarray, block: Block, **options: bool) -> Pending:
        with open(os.environ[COUNTS], "a") as file:
            file.write(f"{block.row} {block.column}\n")
        return begin(self, pixels, block, **options)

    BlockPredictor.begin = counted  # type: ignore[assignment, method-assign]


def run_command(block: int, change: int, arguments: list[str]) -> None:
    """What the processes do that are killed: `tileseg` with blocks of about `block` pixels, dead before a `change`."""
    tiling.BLOCK, window.MOST_BLOCKS = block, IN_A_TASK
    count_blocks()
    if change:
        at_change(change, lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.argv = ["tileseg", *arguments]
    tileseg()


@dataclass(frozen=True)
class Trial:
    """How runs are started, each in a process group of its own.

    Attributes:
        folder: holds image.png and model.safetensors; masks go to masks/.
        block: side of a block, pixels, about.
        suffix: of the masks: zarr, tif.
        parts: processes at once.
        workers: of each process; None predicts in the process itself.
    """

    folder: Path
    block: int
    suffix: str
    parts: int = 1
    workers: int | None = None
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def masks(self) -> Path:
        """The folder of the masks, where runs are at home."""
        return self.folder / "masks"

    def mask(self, name: object) -> str:
        """The mask called `name`, in a folder of its own: masks hold their names."""
        (self.masks / str(name)).mkdir(exist_ok=True)
        return f"{name}/mask.{self.suffix}"

    def start(self, out: str, part: int = 1, change: int = 0) -> None:
        """Starts the process of a part; `change` is the one before which it kills itself."""
        line = ["predict", "../image.png", "-m", "../model.safetensors", "--tile", "88", "-v", "--out", out]
        line += [] if self.parts == 1 else ["--part", f"{part}/{self.parts}"]
        line += [] if self.workers is None else ["--workers", str(self.workers)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", COUNTS: str(self.folder / "counts.txt")}
        command = [sys.executable, __file__, "run", str(self.block), str(change), *line]
        with self._log(part).open("wb") as log:
            self.running[part] = subprocess.Popen(
                command, cwd=self.masks, env=environment, stderr=log, start_new_session=True
            )

    def poll(self) -> None:
        """Forgets the processes that have ended, all of them well.

        Raises:
            RuntimeError: one has not.
        """
        for part, process in list(self.running.items()):
            if process.poll() is not None:
                del self.running[part]
                if process.returncode != 0:
                    raise RuntimeError(f"exit code {process.returncode}: {self._log(part).read_text()}")

    def wait(self, until: Callable[[], bool]) -> None:
        """Until it is so, or no process is left."""
        while self.running and not until():
            time.sleep(0.005)
            self.poll()

    def wait_for_all(self) -> None:
        """Until no process is left."""
        self.wait(lambda: False)

    def all_begun(self) -> bool:
        """Whether each process has said what it is going to do."""
        return all("\ndisk" in self._log(part).read_text() for part in self.running)

    def kill(self, part: int) -> bool:
        """Kills a process with its workers; whether it was still running."""
        process = self.running[part]
        os.killpg(process.pid, signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            del self.running[part]
            return True
        self.poll()
        return False

    def kill_worker(self, rng: random.Random) -> bool:
        """Kills one of the workers of the process, which goes on; whether there was one."""
        workers = []
        for child in psutil.Process(self.running[1].pid).children(recursive=True):
            with suppress(psutil.NoSuchProcess):  # it has just ended
                workers += [child.pid] * ("spawn_main" in " ".join(child.cmdline()))
        if workers:
            os.kill(rng.choice(sorted(workers)), signal.SIGKILL)
        return bool(workers)

    def status(self, out: str) -> dict[str, Any]:
        """What `tileseg status` says of a mask."""
        command = [sys.executable, "-m", "tilesegment_cli.main", "status", out, "--json"]
        said = subprocess.run(command, cwd=self.masks, check=True, capture_output=True, text=True)
        (found,) = json.loads(said.stdout)
        return found

    def begun_blocks(self) -> int:
        """How many predictions of blocks were begun so far, over all runs."""
        path = self.folder / "counts.txt"
        return path.read_text().count("\n") if path.exists() else 0

    def _log(self, part: int) -> Path:
        return self.folder / f"{part}.log"


@dataclass
class Summary:
    """What came of it.

    Attributes:
        kills: that met a run.
        masks, identical: how many were completed after kills, and are equal to the undisturbed one.
        blocks: of all these masks.
        recomputed, allowed: blocks whose prediction was begun once more, and how many may be: those in flight.
        left_over: files and folders in progress that lay about when a mask was complete.
        seconds: in all.
    """

    kills: int = 0
    masks: int = 0
    identical: int = 0
    blocks: int = 0
    recomputed: int = 0
    allowed: int = 0
    left_over: int = 0
    seconds: float = 0.0

    @property
    def good(self) -> bool:
        """Whether all is as it should be."""
        return self.masks == self.identical and 0 <= self.recomputed <= self.allowed and not self.left_over


def kill_at_random(trial: Trial, kills: int, kill_workers: bool, rng: random.Random) -> Summary:
    """Kills at random moments until `kills` have met a run; masks are completed, and begun, as often as that takes."""
    longest, found = undisturbed(trial), Summary()
    per_kill = IN_A_TASK if kill_workers else IN_FLIGHT * (trial.workers or 1)
    while found.kills < kills:
        out, before = trial.mask(found.masks), trial.begun_blocks()
        for part in range(1, trial.parts + 1):
            trial.start(out, part)
        trial.wait(trial.all_begun)
        left = 1.0
        while trial.running and found.kills < kills:
            trial.wait(later(rng.uniform(0, (left + 0.4) * longest / trial.parts)))
            if not trial.running:
                break
            part = rng.choice(list(trial.running))
            if not (trial.kill_worker(rng) if kill_workers else trial.kill(part)):
                continue
            said = trial.status(out)
            if said["state"] == "complete":  # it came after the end
                break
            left = 1 - said["done"] / said["blocks"]
            found.kills, found.allowed = found.kills + 1, found.allowed + per_kill
            print(f"kill {found.kills}: {out}, {said['done']} of {said['blocks']} blocks", file=sys.stderr)
            if not kill_workers:
                trial.start(out, part)
                trial.wait(trial.all_begun)
        trial.wait_for_all()
        conclude(trial, out, before, found)
    return found


def kill_at_every_change(trial: Trial) -> Summary:
    """Kills one run before its first change on the disk, one before its second, ..., and ends each of them."""
    undisturbed(trial)
    found = Summary()
    for change in count(1):
        out, before = trial.mask(change), trial.begun_blocks()
        trial.start(out, change=change)
        if trial.running.pop(1).wait() == 0:
            return found
        trial.start(out)
        trial.wait_for_all()
        found.kills, found.allowed = found.kills + 1, found.allowed + IN_FLIGHT
        conclude(trial, out, before, found)
        print(f"killed before change {change}: {found.identical} of {found.masks} identical", file=sys.stderr)
    raise AssertionError("it counts for ever")


def later(seconds: float) -> Callable[[], bool]:
    """Whether so many seconds have passed since."""
    moment = time.monotonic() + seconds
    return lambda: time.monotonic() >= moment


def undisturbed(trial: Trial) -> float:
    """Makes the mask that all others have to equal; the seconds that it took once it was begun."""
    whole, out = replace(trial, parts=1), trial.mask("undisturbed")
    whole.start(out)
    whole.wait(whole.all_begun)
    start = time.monotonic()
    whole.wait((whole.masks / out).exists)
    seconds = time.monotonic() - start
    whole.wait_for_all()
    return seconds


def conclude(trial: Trial, out: str, before: int, found: Summary) -> None:
    """Adds a mask that is complete to what was `found`; `before` it was begun, so many blocks had been."""
    blocks = trial.status(out)["blocks"]
    contents = [contents_of(trial.masks / name) for name in (out, trial.mask("undisturbed"))]
    found.masks, found.blocks = found.masks + 1, found.blocks + blocks
    found.identical += contents[0] == contents[1]
    found.recomputed += trial.begun_blocks() - before - blocks
    found.left_over += sum(path.name.endswith(".partial") for path in trial.masks.rglob("*"))


def contents_of(mask: Path) -> dict[str, Any]:
    """All bytes of all levels of a mask, and its record but for how it came about."""
    if mask.is_dir():
        files = {str(path.relative_to(mask)): path.read_bytes() for path in mask.rglob("*") if path.is_file()}
        document = json.loads(files.pop("zarr.json"))
        del document["attributes"]["tilesegment"]["provenance"]
        return files | {"zarr.json": document}
    content = mask.read_bytes()
    with tifffile.TiffFile(mask) as tiff:
        levels = [level for page in tiff.pages for level in (page, *(page.pages or ()))]
        tiles = [list(zip(level.dataoffsets, level.databytecounts, strict=True)) for level in levels]
    return {str(n): [content[start : start + size] for start, size in level] for n, level in enumerate(tiles)}


def make_inputs(folder: Path, size: int) -> None:
    """Noise, in which nothing that is wrong can hide, and a small network of random weights."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (size, size), np.uint8)).save(folder / "image.png")
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"in_channels": 1, "classes": 2, "depth": 2, "base": 32, "dropout": 0.0}
    classes = (LabelClass("membrane", "#303030", 0), LabelClass("cell", "#e0c040", 1))
    header = ModelHeader("unet", arguments, classes, Normalisation((128.0,), (70.0,), "uint8"), name="toy")
    Model(header, build_network("unet", arguments).eval()).save(folder / "model.safetensors")
    (folder / "masks").mkdir()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50, help="that meet a run")
    parser.add_argument("--size", type=int, default=820, help="side of the image, pixels")
    parser.add_argument("--block", type=int, default=96, help="side of a block, pixels, about")
    parser.add_argument("--format", choices=["zarr", "tif"], default="zarr")
    parser.add_argument("--parts", type=int, default=1, help="processes at once, of which one is killed at a time")
    parser.add_argument("--workers", type=int, help="of a Dask cluster, killed with the process")
    parser.add_argument("--kill-workers", action="store_true", help="kill one worker at a time instead")
    parser.add_argument("--every-change", action="store_true", help="kill at every change on the disk, not at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    given = parser.parse_args()
    if given.kill_workers and (given.workers or 0) < 2:
        parser.error("--kill-workers needs --workers 2 or more: who is left does the work")
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder), given.size)
        trial = Trial(Path(folder), given.block, given.format, given.parts, given.workers)
        try:
            if given.every_change:
                found = kill_at_every_change(trial)
            else:
                found = kill_at_random(trial, given.kills, given.kill_workers, random.Random(given.seed))
        finally:
            for part in list(trial.running):
                trial.kill(part)
    found.seconds = round(time.monotonic() - start, 1)
    values = asdict(found)
    print(json.dumps(values) if given.json else "\n".join(f"{name:<12}{value}" for name, value in values.items()))
    return 0 if found.good else 1


if __name__ == "__mp_main__":  # a worker that such a process has started
    count_blocks()
elif __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run_command(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main())
