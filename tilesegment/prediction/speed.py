"""How fast a device multiplies matrices, the measure for a network on it; and how fast a predictor predicts."""

import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from tilesegment.errors import DeviceError
from tilesegment.geometry import Block
from tilesegment.prediction.devices import PRECISIONS, choose_precision
from tilesegment.prediction.predictor import BlockPredictor

_SIDES = (512, 8192)  # of matrices: smaller ones are over before they are begun, larger ones are no faster


@dataclass(frozen=True)
class Product:
    """How fast a square matrix product is.

    Attributes:
        side: of the matrices.
        precision: of their values.
        tflops: 10^12 operations a second, 2 for each multiply-add.
    """

    side: int
    precision: str
    tflops: float


def measure_product(device: str, precision: str, seconds: float) -> Product:
    """The speed of a product of matrices as large as pays, repeated for about `seconds`; the median counts.

    Args:
        device, precision: as in a plan; what is not in int8 in a network is in fp32, so fp32 stands for int8.
        seconds: a single product takes no more than about half of it.
    """
    precision = precision if precision in PRECISIONS else "fp32"
    place, side = torch.device(device), _SIDES[0]
    _, last = _products(place, precision, side, seconds / 8)
    while side < _SIDES[1] and 8 * last <= seconds / 2:
        side *= 2
        _, last = _products(place, precision, side, 0)
    typical, _ = _products(place, precision, side, seconds)
    return Product(side, precision, 2 * side**3 / typical / 1e12)


def _products(place: torch.device, precision: str, side: int, seconds: float) -> tuple[float, float]:
    """Seconds of a product, the median of those within `seconds` and the fastest, after one that warms up."""
    random = torch.Generator(place).manual_seed(0)
    shape, dtype = (side, side), PRECISIONS[precision]
    a, b = (torch.rand(shape, generator=random, device=place).to(dtype) for _ in range(2))
    out, times = torch.empty_like(a), list[float]()
    with torch.inference_mode():
        torch.matmul(a, b, out=out)
        _synchronise(place)
        while not times or sum(times) < seconds:
            start = time.perf_counter()
            torch.matmul(a, b, out=out)
            _synchronise(place)
            times.append(time.perf_counter() - start)
    return statistics.median(times), min(times)


def _synchronise(place: torch.device) -> None:
    """Waits for what was begun; a CPU has ended it already."""
    if place.type == "cuda":
        torch.cuda.synchronize(place)
    elif place.type == "mps":
        torch.mps.synchronize()


def time_predictor(
    predictor: BlockPredictor, pixels: np.ndarray, block: Block, seconds: float, patience: float
) -> list[float]:
    """Seconds that `predict` takes for a block in memory, each time within `seconds`, but once at least.

    Args:
        predictor: whose result is on the host when it returns, so there is nothing to wait for.
        pixels, block: as it takes them.
        seconds: how long.
        patience: a first time, which else only warms up, counts if it took longer, and is the only one.

    Raises:
        DeviceError: the device has not the memory for it.
    """
    times, batch = list[float](), predictor.batch
    first = _time_once(predictor, pixels, block)
    if predictor.lacked_memory:
        raise DeviceError(f"{predictor.device} lacks the memory for {batch} tiles at a time; choose a smaller --batch")
    if first > patience:
        return [first]
    while not times or sum(times) < seconds:
        times.append(_time_once(predictor, pixels, block))
    return times


def _time_once(predictor: BlockPredictor, pixels: np.ndarray, block: Block) -> float:
    start = time.perf_counter()
    predictor.predict(pixels, block)
    return time.perf_counter() - start


def precisions_on(device: str) -> list[str]:
    """The precisions to be had on `device`, the most exact first, but for fp64, which is there to prove things."""
    found = []
    for name in ("fp32", "bf16", "fp16", "int8"):
        try:
            found.append(choose_precision(torch.device(device), name))
        except DeviceError:
            continue
    return found


def threads() -> int:
    """How many threads of the CPU compute."""
    return torch.get_num_threads()
