"""Try tiles, batches and precisions on an image of one's own, and say which predicts fastest on this machine.

    python examples/find_settings.py slide.tif --model em-membrane

Each is measured on one block in the middle of the image, after one that warms up: the predictor alone, its pixels in
memory. The share of pixels whose class is another than in the first row says what a precision or runtime costs.
"""

import argparse
import sys
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from tilesegment import TilesegmentError
from tilesegment.prediction.benchmark import middle_block, seconds_per_tile
from tilesegment.prediction.job import Job
from tilesegment.prediction.settings import Settings

PRECISIONS = ("fp32", "bf16", "fp16", "int8")


class Trial(NamedTuple):
    """What one choice of settings gives; `ids` (h, w) are the classes of a block in the middle."""

    settings: Settings
    mpx_per_s: float
    memory_gb: float
    ids: np.ndarray


def trial(image: str, settings: Settings) -> Trial | None:
    """Measure one choice; None where this machine, or the image, does not allow it."""
    try:
        with Job.prepare(image, settings) as job:
            plan = job.plan
            block = middle_block(plan)
            ids = job.predictor.predict(job.read(plan.planes.start, block), block)  # warms up, too
            rate = plan.step**2 / 1e6 / seconds_per_tile(job)
            fixed = replace(settings, tile=plan.tile, batch=plan.batch, precision=plan.precision, runtime=plan.runtime)
            return Trial(fixed, rate, plan.memory_bytes / 1e9, ids)
    except TilesegmentError as error:
        print(f"{settings.tile}, {settings.batch}, {settings.precision}, {settings.runtime}: {error}", file=sys.stderr)
        return None


def main() -> None:
    """Try the precisions first, then tiles, then batches, each with the best so far that is as exact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("image")
    parser.add_argument("--model")
    parser.add_argument("--tiles", type=int, nargs="*", default=[444, 572, 828, 1212])
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8])
    parser.add_argument("--runtime", default="auto", choices=["auto", "pytorch", "openvino"])
    given = parser.parse_args()
    start = Settings(model=given.model, runtime=given.runtime, precision="fp32")
    first = trial(given.image, start)
    if first is None:
        sys.exit(1)
    print(f"{'tile':>6}{'batch':>7}{'precision':>11}{'runtime':>10}{'Mpx/s':>9}{'memory':>9}{'other class':>13}")
    best = first
    show(first, first)
    for precision in PRECISIONS[1:]:
        found = trial(given.image, replace(start, precision=precision, tile=first.settings.tile))
        if found is not None:
            show(found, first)
    for name, values in (("tile", given.tiles), ("batch", given.batches)):
        for value in values:
            found = trial(given.image, replace(best.settings, **{name: value}))
            if found is not None:
                show(found, first)
                best = max(best, found, key=lambda one: one.mpx_per_s)
    chosen = best.settings
    options = f"--tile {chosen.tile} --batch {chosen.batch} --runtime {chosen.runtime}"
    print(f"fastest in fp32: {options} ({best.mpx_per_s / first.mpx_per_s:.2f} times the default)")


def show(found: Trial, first: Trial) -> None:
    """Print a row."""
    chosen, other = found.settings, ""
    if found.ids.shape == first.ids.shape:
        other = f"{100 * float(np.mean(found.ids != first.ids)):.3f} %"
    row = f"{chosen.tile:>6}{chosen.batch:>7}{chosen.precision:>11}{chosen.runtime:>10}"
    print(f"{row}{found.mpx_per_s:>9.3g}{found.memory_gb:>7.1f} GB{other:>13}")


if __name__ == "__main__":
    main()
