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


def plain(folder: Any, places: Places, errors: dict[int, ImageError] | None = None) -> Report:
    """Note which blocks were done, one line each in a file of the folder that stands for a job."""
    worker = get_worker()
    with (Path(folder) / f"{worker.name}.txt").open("a") as file:
        file.writelines(f"{column}\n" for _, _, column in places)
    return Report(errors or {}, 0.01 * len(places), str(worker.address))


def fails_on_one(folder: Any, places: Places) -> Report:
    """Worker 0 can do nothing, as if it did not see the files."""
    if get_worker().name == 0:
        return Report(dict.fromkeys(range(len(places)), ImageError("not here")), 0.0, str(get_worker().address))
    return plain(folder, places)


def fails_always(folder: Any, places: Places) -> Report:
    """Every tenth block cannot be done."""
    bad = {n: ImageError(f"block {column} is bad") for n, (_, _, column) in enumerate(places) if column % 10 == 3}
    return plain(folder, places, bad)


def ends_its_worker(folder: Any, places: Places) -> Report:
    """Block 5 ends whatever process predicts it, as one that is killed for its memory."""
    if any(column == 5 for _, _, column in places):
        os.kill(os.getpid(), signal.SIGKILL)
    return plain(folder, places)


def raises(folder: Any, places: Places) -> Report:
    """A mistake of ours."""
    raise AssertionError("this should not have happened")


def work_of(blocks: int, folder: Any) -> Iterator[Work]:
    """So many blocks of a job; a folder stands for it, which workers only hand to the task."""
    grid = TileGrid(Region(0, 0, 16, 16 * blocks), 16, 16, FieldOfView(16, 0, 0, True))
    return (Work(folder, 0, grid.at(0, column)) for column in range(blocks))


def send(
    cluster: Cluster, task: Callable[..., Any], blocks: int, folder: Any, stop: Callable[[], bool] = lambda: False
) -> dict[int, bool | Exception]:
    """Columns of the blocks that came back, each once, and what became of them."""
    window = Window(cluster.crew, task, lambda job: job, work_of(blocks, folder), stop)
    back = [(item.block.column, found) for item, found in window.results()]
    assert len(dict(back)) == len(back)
    return dict(back)


def counted(folder: Path) -> Counter[int]:
    """How often each block was done."""
    return Counter(int(line) for file in folder.glob("*.txt") for line in file.read_text().splitlines())
