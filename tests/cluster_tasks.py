"""Tasks for the window that do no prediction: they count, fail, or end their worker; and how they are sent."""

import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from distributed import get_worker

from tilesegment.cluster import Cluster
from tilesegment.cluster.tasks import Report
from tilesegment.cluster.window import Window
from tilesegment.errors import ImageError
from tilesegment.geometry import FieldOfView, Region, TileGrid
from tilesegment.prediction.queue import Work

Places = list[tuple[int, int, int]]


def note_down(run: Any, places: Places) -> None:
    """Keeps which blocks were done, and how often: a line each in a file of the folder `run`."""
    with (Path(run) / f"{get_worker().name}.txt").open("a") as file:
        file.writelines(f"{column}\n" for _, _, column in places)


def plain(run: Any, places: Places) -> Report:
    """Does every block."""
    note_down(run, places)
    return Report({}, 0.01 * len(places), str(get_worker().address))


def fails_on_one(run: Any, places: Places) -> Report:
    """Worker 0 can do nothing, as if it did not see the files."""
    if get_worker().name == 0:
        return Report(dict.fromkeys(range(len(places)), ImageError("not here")), 0.0, str(get_worker().address))
    return plain(run, places)


def fails_always(run: Any, places: Places) -> Report:
    """Every tenth block cannot be done."""
    note_down(run, places)
    errors = {n: ImageError(f"block {place[2]} is bad") for n, place in enumerate(places) if place[2] % 10 == 3}
    return Report(errors, 0.01 * len(places), str(get_worker().address))


def ends_its_worker(run: Any, places: Places) -> Report:
    """Block 5 ends whatever process predicts it, as one that is killed for its memory."""
    if any(column == 5 for _, _, column in places):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(run, places)


def raises(run: Any, places: Places) -> Report:
    """A mistake of ours."""
    raise AssertionError("this should not have happened")


def work_of(blocks: int, run: Any) -> Iterator[Work]:
    """So many blocks of a run, which stands for one: workers only hand it to the task."""
    grid = TileGrid(Region(0, 0, 16, 16 * blocks), 16, 16, FieldOfView(16, 0, 0, True))
    return (Work(run, 0, grid.at(0, column)) for column in range(blocks))


def send(
    cluster: Cluster,
    task: Callable[..., Any],
    blocks: int,
    folder: Path,
    stop: Callable[[], bool] = lambda: False,
) -> list[tuple[int, Exception | None]]:
    """Columns of the blocks in the order in which they came back, and their errors."""
    run: Any = folder
    sent = Window(cluster.crew, task, lambda job: job, work_of(blocks, run), stop)
    return [(item.block.column, found if isinstance(found, Exception) else None) for item, found in sent.results()]


def counted(folder: Path) -> Counter[int]:
    """How often each block was done."""
    return Counter(int(line) for file in folder.glob("*.txt") for line in file.read_text().splitlines())
