"""How fast blocks go through reading, stitching and storing: `predict` with a predictor whose answer is ready.

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
from tilesegment.prediction.job import Job
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.queue import ThisProcess
from tilesegment.prediction.settings import Outputs, Settings


class Idle:
    """A predictor that does nothing.

    Args:
        ids: class ids (H, W) uint8, at least as large as any block.
    """

    disagreement, lacked_memory, batch = None, False, 1

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def begin(self, pixels: np.ndarray, block: Block, *, probabilities: bool = False):
        """Ids (h, w) of `block.write`."""
        height, width = block.write.shape
        return lambda: (self.ids[:height, :width],)


class IdleProcess(ThisProcess):
    """This process, but nothing is predicted."""

    def take(self, job: Job) -> None:
        """Put the idle predictor where the job would keep its own."""
        side = job.plan.block
        vars(job)["predictor"] = Idle(np.random.default_rng(0).integers(0, 2, (side, side), np.uint8))
        super().take(job)


def idle(image: str, mask: Path, settings: Settings) -> int:
    """Predict with the idle predictor; the pixels of the mask."""
    with IdleProcess() as workers:
        (result,) = predict_many([(image, Outputs(mask))], settings, workers)
    if result.errors:
        raise result.errors[0]
    return result.pixels


def copy(image: str, mask: Path, settings: Settings) -> int:
    """Read and store block after block; the pixels of the mask."""
    with Job.prepare(image, settings) as job:
        plan, writer = job.plan, create_mask(mask, job.spec())
        ids = np.random.default_rng(0).integers(0, 2, (plan.block, plan.block), np.uint8)
        with writer.claimed(shared=False):
            for z, block in plan.work():
                job.read(z, block)
                height, width = block.write.shape
                writer.write(block.write.within(plan.region), ids[:height, :width], z - plan.planes.start)
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
