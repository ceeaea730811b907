"""What a training step costs end to end, beside its bare forward, backward and update, in turns in one run.

    python examples/measure_step.py isbi2012 --base 32 --tile 572 --steps 20

End to end is all that `tileseg train` does for a step: drawing an augmented example, loss, clipping, the average of the
weights, the checks. Bare is the network, a cross-entropy and the optimiser on one ready batch. Medians are compared.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.nn import functional

from tilesegment import TilesegmentError
from tilesegment.prediction.devices import PRECISIONS
from tilesegment.training.data import open_dataset
from tilesegment.training.loop import Trainer
from tilesegment.training.settings import TrainingSettings
from tilesegment.training.updates import make_optimiser


def bare_step(trainer: Trainer) -> Callable[[], None]:
    """Forward, backward and update of the same network, and nothing else."""
    network, device = trainer.network, trainer.device
    optimiser = make_optimiser(network, replace(trainer.settings, rate=1e-6))
    x, t, _ = trainer.examples[0]
    x, t = x.to(device, memory_format=trainer.layout), t.to(device)
    half = trainer.precision in ("bf16", "fp16")

    def step() -> None:
        with torch.autocast(device.type, PRECISIONS[trainer.precision], enabled=half):
            logits = network(x)
        loss = functional.cross_entropy(logits.float(), t)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return step


def measure(data: str, settings: TrainingSettings, steps: int) -> dict[str, float]:
    """Seconds of a step, end to end and bare, and their ratio."""
    trainer = Trainer(open_dataset(data), settings)
    records = trainer.run()
    whole, bare, alone = (lambda: next(records)), bare_step(trainer), (lambda: trainer.examples[7])
    seconds: dict[str, list[float]] = {"end_to_end": [], "bare": [], "example": []}
    for _ in range(steps):
        for name, action in zip(seconds, (whole, bare, alone), strict=True):
            start = time.perf_counter()
            action()
            seconds[name].append(time.perf_counter() - start)
    # the first ones allocate
    median = {name: statistics.median(values[min(3, steps - 1) :]) for name, values in seconds.items()}
    return {**median, "ratio": median["end_to_end"] / median["bare"]}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--base", type=int, default=32)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--tile", type=int, default=572)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--optimiser", default="muon")
    given = parser.parse_args()
    shape = {name: getattr(given, name) for name in ("base", "depth", "tile", "precision", "optimiser")}
    try:
        # many more steps than are made: no look at held-out sections falls among them
        settings = TrainingSettings(steps=10**9, validation=0.0, **shape)
        print(json.dumps(measure(given.data, settings, given.steps)))
    except TilesegmentError as error:
        parser.exit(1, f"Error: {error}\n")


if __name__ == "__main__":
    main()
