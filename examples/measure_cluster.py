"""What a Dask cluster costs: tasks that do nothing, the scheduler's memory, and a real image beside a single process.

    python examples/measure_cluster.py tasks --blocks 10000,100000,1000000
    python examples/measure_cluster.py image slide.tif --workers 2

`tasks` sends blocks of an image that does not exist through a bounded window of tasks that do nothing, once a block a
task and then grouped as in a run, and prints blocks a second, the scheduler's memory, and the bytes that a task takes.
`image` predicts one image by this process with all cores and by a local cluster, in turns.
"""

import argparse
import json
import pickle
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
from distributed import get_worker
from PIL import Image

import tilesegment
from tilesegment.cluster import Cluster, window
from tilesegment.cluster.tasks import Report, Sent
from tilesegment.geometry import FieldOfView, Region, TileGrid
from tilesegment.prediction.job import Job
from tilesegment.prediction.queue import Work
from tilesegment.prediction.settings import Outputs


def nothing(sent: Sent, places: list[tuple[int, int, int]]) -> Report:
    """Does nothing with blocks; says that each took a hundredth of a second."""
    return Report({}, 0.01 * len(places), str(get_worker().address))


def work_of(blocks: int, job: Job) -> Iterator[Work]:
    """Blocks of one tile each."""
    grid = TileGrid(Region(0, 0, 512, 512 * blocks), 512, 512, FieldOfView(16, 92, 96, True))
    return (Work(job, 0, grid.at(0, column)) for column in range(blocks))


def measure_tasks(cluster: Cluster, job: Job, sent: Sent, blocks: int) -> dict[str, float]:
    """Blocks a second, and the scheduler's memory after them, which lives in this process."""
    start = time.monotonic()
    tasks = window.Window(cluster.crew, nothing, lambda job: sent, work_of(blocks, job), lambda: False)
    done = sum(found is False for _, found in tasks.results())
    assert done == blocks
    seconds = time.monotonic() - start
    return {"blocks": blocks, "blocks_per_s": blocks / seconds, "rss_mb": psutil.Process().memory_info().rss / 1e6}


def measure_all_tasks(counts: list[int], workers: int) -> list[dict[str, float]]:
    """Tasks of one block, then of as many as a run would group."""
    results = []
    with tempfile.TemporaryDirectory() as folder, Cluster.start(workers) as cluster:
        Image.new("L", (64, 64)).save(f"{folder}/image.png")
        with Job.prepare(f"{folder}/image.png") as job:
            job.begin(Outputs(f"{folder}/mask.zarr"))
        sent = Sent("a job", job.plan, job.stores)
        print(json.dumps({"bytes_a_task": len(pickle.dumps((sent, [(0, 0, 0)])))}))
        grouped = window.MOST_BLOCKS
        for most, blocks in [(1, min(2000, *counts)), *((grouped, count) for count in counts)]:
            window.MOST_BLOCKS = most
            results.append({"most_in_a_task": most, **measure_tasks(cluster, job, sent, blocks)})
            print(json.dumps(results[-1]))
    return results


def compare(image: Path, model: str | None, workers: int, repeats: int) -> dict[str, float]:
    """Seconds of one process and of a cluster for the same image, medians over turns; their masks are equal."""
    times: dict[str, list[float]] = {"process": [], "cluster": []}
    with tempfile.TemporaryDirectory(dir=image.parent) as folder, Cluster.start(workers) as cluster:
        masks = {name: Path(folder) / f"{name}.png" for name in times}
        for turn in range(repeats + 1):
            for name, seconds in times.items():
                done = tilesegment.predict(
                    image, masks[name], model, overwrite=True, workers=cluster if name == "cluster" else None
                )
                if turn > 0:  # the first turn opens models and warms up
                    seconds.append(done.seconds)
        pictures = [np.asarray(Image.open(mask)) for mask in masks.values()]
        assert np.array_equal(*pictures), "the masks differ"
    one, many = (statistics.median(seconds) for seconds in times.values())
    return {"process_s": one, "cluster_s": many, "ratio": one / many}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    tasks = commands.add_parser("tasks")
    tasks.add_argument("--blocks", default="10000,100000,1000000", help="how many, separated by commas")
    tasks.add_argument("--workers", type=int, default=2)
    tasks.set_defaults(run=lambda given: measure_all_tasks([int(n) for n in given.blocks.split(",")], given.workers))
    image = commands.add_parser("image")
    image.add_argument("image", type=Path)
    image.add_argument("--workers", type=int, default=2)
    image.add_argument("--repeats", type=int, default=3)
    image.add_argument("--model")
    image.set_defaults(
        run=lambda given: print(json.dumps(compare(given.image, given.model, given.workers, given.repeats)))
    )
    given = parser.parse_args()
    given.run(given)


if __name__ == "__main__":
    main()
