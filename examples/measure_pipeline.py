"""How fast blocks go through reading and storing: `predict` with ready answers instead of a network.

    python examples/measure_pipeline.py image.zarr --folder /fast/disk

It is compared with a plain loop that reads and stores the same blocks one after another and draws no pyramid. Both are
measured in turns, and the medians count. One JSON object is printed.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tilesegment.geometry import Block
from tilesegment.masks import create_mask
from tilesegment.prediction.engine import stream
from tilesegment.prediction.job import Job
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.queue import ThisProcess, announced
from tilesegment.prediction.settings import Outputs, Settings


class IdleProcess(ThisProcess):
    """This process, but class ids (H, W) uint8, at least as large as any block, stand for what a network says."""

    def __init__(self, ids: np.ndarray) -> None:
        super().__init__()
        self.ids = ids

    def stream(self, work, stop):
        """Load and store every block; nothing is predicted in between."""
        return stream(
            announced(work),
            lambda item: item.job.load(item.z, item.block),
            lambda item, pixels: lambda: (cut(self.ids, item.block),),
            lambda item, pending: item.job.store(item.z, item.block, pending),
            stop,
        )


def cut(ids: np.ndarray, block: Block) -> np.ndarray:
    """As many ids as `block` writes."""
    height, width = block.write.shape
    return ids[:height, :width]


def random_ids(side: int) -> np.ndarray:
    """Classes 0 and 1 (side, side), the same every time."""
    return np.random.default_rng(0).integers(0, 2, (side, side), np.uint8)


def idle(image: str, mask: Path, settings: Settings) -> int:
    """Run `predict` without a network; the pixels of the mask."""
    with Job.prepare(image, settings) as job:
        ids = random_ids(job.plan.block)
    with IdleProcess(ids) as workers:
        (result,) = predict_many([(image, Outputs(mask))], settings, workers)
    if result.errors:
        raise result.errors[0]
    return result.pixels


def copy(image: str, mask: Path, settings: Settings) -> int:
    """Read and store block after block; the pixels of the mask."""
    with Job.prepare(image, settings) as job:
        plan, writer = job.plan, create_mask(mask, job.spec())
        ids = random_ids(plan.block)
        with writer.claimed():
            for z, block in plan.work():
                job.read(z, block)
                writer.write(block.write.within(plan.region), cut(ids, block), z - plan.planes.start)
        return plan.pixels


def main() -> None:
    """Measure both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--model", default="em-membrane")
    parser.add_argument("--tile", type=int)
    parser.add_argument("--folder", help="where masks are written, and removed again")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    settings = Settings(model=given.model, tile=given.tile, precision="fp32", runtime="pytorch")
    rates: dict[str, list[float]] = {"idle": [], "copy": []}
    for _ in range(given.rounds):
        for name, run in (("copy", copy), ("idle", idle)):
            with TemporaryDirectory(dir=given.folder) as folder:
                start = time.perf_counter()
                pixels = run(given.image, Path(folder) / "mask.zarr", settings)
                rates[name].append(pixels / 1e6 / (time.perf_counter() - start))
    found = {f"{name}_mpx_per_s": statistics.median(each) for name, each in rates.items()}
    print(json.dumps(found | {"ratio": found["idle_mpx_per_s"] / found["copy_mpx_per_s"]}))


if __name__ == "__main__":
    main()
