"""Kill runs of `tileseg predict`, start them again, and compare the masks with that of an undisturbed run.

    python examples/kill_runs.py --kills 50
    python examples/kill_runs.py --kills 20 --parts 4 --format tif
    python examples/kill_runs.py --every-change --size 560 --block 288
    AWS_ENDPOINT_URL=http://localhost:9000 python examples/kill_runs.py --kills 30 --to s3://bucket/kills

Image and model are made here. Runs are killed (SIGKILL) at random moments after they have begun, and the same command
goes on. A mask that is complete is compared with the undisturbed one, every byte of all its levels, and the next one is
begun, until enough kills have met a run. `tileseg status` has to work after each. Blocks that are computed more than
once are counted: for each kill, at most those in flight may be. `--every-change` kills a run before the first change
that it makes on the disk or in the store, then another one before its second, and so on until a run comes to its end.
"""

import argparse
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
from PIL import Image

from tilesegment.geometry import Block
from tilesegment.masks import read_record
from tilesegment.metadata import LabelClass
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import build_network
from tilesegment.prediction import engine, tiling
from tilesegment.prediction.predictor import BlockPredictor, Pending
from tilesegment.stores import Location, Place, is_url, place_of, store_at
from tilesegment_cli.main import main as tileseg

IN_FLIGHT = 1 + engine.BEHIND  # blocks of a process: one is predicted, the others wait to be stored
_PLANNED = re.compile(r"^[-\d]+ [:\d]+ disk ", re.MULTILINE)  # the last line of a plan, with its time
COUNTS = "KILL_RUNS_COUNTS"  # variable: the file that gets a line for each block whose prediction is begun


def at_change(number: int, deed: Callable[[], object], *, and_after: bool = False) -> None:
    """Call `deed` before the `number`-th change, counted from 1, that this process makes in its working folder.

    Changes are: a file is opened to be written, synced, renamed or deleted; a folder is made or deleted. If `deed`
    raises, the change fails with that. With `and_after` it is called before every later change too.
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


def at_request(number: int, deed: Callable[[], object]) -> None:
    """Call `deed` before the `number`-th request, counted from 1, by which this process changes a store."""
    from tilesegment.stores.remote import RemoteStore  # needs obstore

    made = count(1)

    def counted(request: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **more: Any) -> Any:
            if next(made) == number:
                deed()
            return request(*given, **more)

        return call

    for name in ("put", "put_if_absent", "delete"):
        setattr(RemoteStore, name, counted(getattr(RemoteStore, name)))


def run_command(block: int, change: int, arguments: list[str]) -> None:
    """Be the process that is killed: `tileseg` with blocks of about `block` pixels, dead before a `change`."""
    tiling.BLOCK, begin = block, BlockPredictor.begin

    def counted(self: BlockPredictor, pixels: np.ndarray, block: Block, **options: bool) -> Pending:
        with open(os.environ[COUNTS], "a") as file:
            file.write(f"{block.row} {block.column}\n")
        return begin(self, pixels, block, **options)

    BlockPredictor.begin = counted  # type: ignore[method-assign]
    if change:
        (at_request if is_url(arguments[-1]) else at_change)(change, lambda: os.kill(os.getpid(), signal.SIGKILL))
    sys.argv = ["tileseg", *arguments]
    tileseg()


@dataclass(frozen=True)
class Trial:
    """How runs are started.

    Attributes:
        folder: holds image.png and model.safetensors; masks go to masks/, or `to`, a place in a store.
        block: side of a block, pixels, about.
        suffix: of the masks: zarr, tif.
        parts: processes at once.
        running: the process of each part.
    """

    folder: Path
    block: int
    suffix: str
    parts: int = 1
    to: Location | None = None
    running: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def masks(self) -> Path:
        return self.folder / "masks"

    def mask(self, name: object) -> str:
        """Return the mask called `name`, in a folder of its own: masks hold their names."""
        if self.to is not None:
            return f"{self.to}/{name}/mask.{self.suffix}"
        (self.masks / str(name)).mkdir(exist_ok=True)
        return f"{name}/mask.{self.suffix}"

    def place(self, out: str) -> Place:
        """Return where a mask is."""
        return place_of(out) if is_url(out) else self.masks / out

    def left_over(self) -> int:
        """Return how many files or objects lie about beside and in masks that are complete."""
        if self.to is None:
            return sum(path.name.endswith(".partial") for path in self.masks.rglob("*"))
        return sum(".partial" in entry.key for entry in store_at(self.to).list())

    def start(self, out: str, part: int = 1, change: int = 0) -> None:
        """Start the process of a part; it kills itself before its `change`-th change."""
        line = ["predict", "../image.png", "-m", "../model.safetensors", "--tile", "88", "-v", "--out", out]
        line += [] if self.parts == 1 else ["--part", f"{part}/{self.parts}"]
        environment = os.environ | {"OMP_NUM_THREADS": "1", COUNTS: str(self.folder / "counts.txt")}
        command = [sys.executable, __file__, "run", str(self.block), str(change), *line]
        with self._log(part).open("wb") as log:
            self.running[part] = subprocess.Popen(command, cwd=self.masks, env=environment, stderr=log)

    def poll(self) -> None:
        """Forget the processes that have ended, all of them well."""
        for part, process in list(self.running.items()):
            if process.poll() is not None:
                del self.running[part]
                if process.returncode != 0:
                    raise RuntimeError(f"exit code {process.returncode}: {self._log(part).read_text()}")

    def wait(self, until: Callable[[], bool] = lambda: False) -> None:
        """Wait until it is so, or no process is left."""
        while self.running and not until():
            time.sleep(0.005)
            self.poll()

    def all_begun(self) -> bool:
        """Return whether each process has said what it is going to do."""
        return all(_PLANNED.search(self._log(part).read_text()) for part in self.running)

    def kill(self, part: int) -> bool:
        """Kill a process; return whether it was still running."""
        process = self.running[part]
        process.kill()
        if process.wait() == -signal.SIGKILL:
            del self.running[part]
            return True
        self.poll()
        return False

    def status(self, out: str) -> dict[str, Any]:
        """Return what `tileseg status` says of a mask."""
        command = [sys.executable, "-m", "tilesegment_cli.main", "status", out, "--json"]
        said = subprocess.run(command, cwd=self.masks, check=True, capture_output=True, text=True)
        (found,) = json.loads(said.stdout)
        return found

    def begun_blocks(self) -> int:
        """Return how many predictions of blocks were begun so far, over all runs."""
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
        return self.masks == self.identical and 0 <= self.recomputed <= self.allowed and not self.left_over

    def conclude(self, trial: Trial, out: str, before: int) -> None:
        """Add a mask that is complete; so many blocks had been begun `before` it was."""
        blocks = trial.status(out)["blocks"]
        contents = [contents_of(trial.place(name)) for name in (out, trial.mask("undisturbed"))]
        self.masks, self.blocks = self.masks + 1, self.blocks + blocks
        self.identical += contents[0] == contents[1]
        self.recomputed += trial.begun_blocks() - before - blocks
        self.left_over += trial.left_over()


def kill_at_random(trial: Trial, kills: int, rng: random.Random) -> Summary:
    """Kill at random moments until `kills` have met a run; masks are completed, and begun, as often as that takes."""
    longest, found = undisturbed(trial), Summary()
    while found.kills < kills:
        out, before = trial.mask(found.masks), trial.begun_blocks()
        for part in range(1, trial.parts + 1):
            trial.start(out, part)
        trial.wait(trial.all_begun)
        left = 1.0
        while trial.running and found.kills < kills:
            moment = time.monotonic() + rng.uniform(0, (left + 0.4) * longest / trial.parts)
            trial.wait(lambda moment=moment: time.monotonic() >= moment)  # type: ignore[misc]
            if not trial.running:
                break
            part = rng.choice(list(trial.running))
            if not trial.kill(part):
                continue
            said = trial.status(out)
            if said["state"] == "complete":  # it came after the end, maybe before all was tidied up
                trial.start(out, part)
                break
            left = 1 - said["done"] / said["blocks"]
            found.kills, found.allowed = found.kills + 1, found.allowed + IN_FLIGHT
            print(f"kill {found.kills}: {out}, {said['done']} of {said['blocks']} blocks", file=sys.stderr)
            trial.start(out, part)
            trial.wait(trial.all_begun)
        trial.wait()
        found.conclude(trial, out, before)
    return found


def kill_at_every_change(trial: Trial) -> Summary:
    """Kill one run before its first change on the disk, one before its second, ..., and end each of them."""
    undisturbed(trial)
    found = Summary()
    for change in count(1):
        out, before = trial.mask(change), trial.begun_blocks()
        trial.start(out, change=change)
        if trial.running.pop(1).wait() == 0:
            break
        trial.start(out)
        trial.wait()
        found.kills, found.allowed = found.kills + 1, found.allowed + IN_FLIGHT
        found.conclude(trial, out, before)
        print(f"killed before change {change}: {found.identical} of {found.masks} identical", file=sys.stderr)
    return found


def undisturbed(trial: Trial) -> float:
    """Make the mask that all others have to equal; return the seconds that it took once it was begun."""
    whole, out = replace(trial, parts=1), trial.mask("undisturbed")
    whole.start(out)
    whole.wait(whole.all_begun)
    start = time.monotonic()
    whole.wait(lambda: read_record(whole.place(out)) is not None)
    seconds = time.monotonic() - start
    whole.wait()
    return seconds


def contents_of(mask: Place) -> dict[str, Any]:
    """Return all bytes of all levels of a mask, and its record except for how it came about."""
    if isinstance(mask, Location) or mask.is_dir():
        store = store_at(mask)
        files: dict[str, Any] = {entry.key: store.get(entry.key) for entry in store.list()}
        document = json.loads(files.pop("zarr.json"))
        del document["attributes"]["tilesegment"]["provenance"]
        return files | {"zarr.json": document}
    content = mask.read_bytes()
    with tifffile.TiffFile(mask) as tiff:
        levels = [level for page in tiff.pages for level in (page, *(page.pages or ()))]
        tiles = [list(zip(level.dataoffsets, level.databytecounts, strict=True)) for level in levels]
    return {str(n): [content[start : start + size] for start, size in level] for n, level in enumerate(tiles)}


def make_inputs(folder: Path, size: int) -> None:
    """Make noise, in which nothing that is wrong can hide, and a small network of random weights."""
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
    parser.add_argument("--to", metavar="URL", help="write masks there, s3://BUCKET/NAME, not to a disk")
    parser.add_argument("--parts", type=int, default=1, help="processes at once, of which one is killed at a time")
    parser.add_argument("--every-change", action="store_true", help="kill at every change on the disk, not at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    given = parser.parse_args()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder), given.size)
        to = None if given.to is None else place_of(given.to)
        assert to is None or isinstance(to, Location)
        trial = Trial(Path(folder), given.block, given.format, given.parts, to)
        try:
            if given.every_change:
                found = kill_at_every_change(trial)
            else:
                found = kill_at_random(trial, given.kills, random.Random(given.seed))
        finally:
            for part in list(trial.running):
                trial.kill(part)
    found.seconds = round(time.monotonic() - start, 1)
    values = asdict(found)
    print(json.dumps(values) if given.json else "\n".join(f"{name:<12}{value}" for name, value in values.items()))
    return 0 if found.good else 1


if __name__ == "__main__":
    if sys.argv[1:2] == ["run"]:
        run_command(int(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    else:
        sys.exit(main())
