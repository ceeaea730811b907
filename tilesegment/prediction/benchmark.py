"""How fast this machine segments: the network alone, reading, writing, and all of it together."""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import ceil, floor, isqrt
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Unpack

import numpy as np
import torch

from tilesegment.errors import PlanError, option
from tilesegment.geometry import Block, Region
from tilesegment.images import open_image
from tilesegment.images.drawing import draw_zarr
from tilesegment.masks import create_mask
from tilesegment.models import DEFAULT
from tilesegment.models.model import Model
from tilesegment.networks.counting import floating_point_operations
from tilesegment.prediction.devices import PRECISIONS
from tilesegment.prediction.job import Job
from tilesegment.prediction.keywords import SettingsKeywords
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.settings import Outputs, Settings

_ROUNDS = 3  # measurements of each kind, in turns; their median counts
_PROBE = 1024  # pixels: side of the drawn image from which the speed is estimated
_LARGEST = 1 << 28  # pixels of the largest drawn image
_PREDICTING = 0.6  # share of the granted time
_PLANNED = ("device", "precision", "runtime", "tile", "step", "batch", "block")
_SIZES, _SECONDS = (64, 65_536), (1, 86_400)


@dataclass(frozen=True)
class Bench:
    """Measurements, all from one process with the same threads.

    Mpx/s are millions of pixels of the mask per second; one TFLOP/s is 10^12 operations, 2 for a multiply-add.
    """

    image: str | None  # path; None if it was drawn
    region: list[int]  # [y0, x0, y1, x1] that was predicted, pixels of the level or size that was chosen
    dtype: str
    channels: int
    model: str
    device: str
    precision: str
    runtime: str
    threads: int
    tile: int
    step: int
    batch: int
    block: int
    predictor_mpx_per_s: float  # the predictor alone, its pixels in memory
    predictor_tflops: float | None  # the same in operations of the network; None where a runtime hides them
    matmul_tflops: float  # a product of square matrices of `matmul_side`, in the same precision (fp32 for int8)
    matmul_side: int
    read_mpx_per_s: float  # blocks with their margins
    write_mpx_per_s: float  # class ids until they are safe, with pyramid and final name
    end_to_end_mpx_per_s: float  # `tilesegment.predict`, from opening the image to the finished mask
    end_to_end_ratio: float  # relative to the predictor alone
    start_seconds: float  # to open the image and make a predictor, libraries already imported
    seconds: float  # total duration


def bench(
    image: str | Path | None = None,
    model: str | Path | None = None,
    *,
    size: int | None = None,
    seconds: float = 60.0,
    folder: str | Path | None = None,
    report: Callable[[float, str], None] = lambda done, words: None,
    **settings: Unpack[SettingsKeywords],
) -> Bench:
    """Measure the middle of `image` or of a drawn one, as large a part as time allows.

    Args:
        image: path; of a stack, the middle plane is taken.
        model: path or bundled name, as for `predict`.
        size: side of the drawn image, pixels.
        seconds: about how long it may take.
        folder: for masks, which are deleted afterwards; by default the system's temporary folder.
        report: called with the share done, 0 to 1, and a text.
        settings: fields of `Settings`.

    Raises:
        TilesegmentError: image, model, settings or folder cannot be used.
    """
    start = time.perf_counter()
    if size is not None and image is not None:
        raise PlanError("--size is for a drawn image; leave out --size or the image")
    if size is not None and not _SIZES[0] <= size <= _SIZES[1]:
        raise PlanError(f"size is {size}; allowed: {_SIZES[0]} to {_SIZES[1]} pixels")
    if not _SECONDS[0] <= seconds <= _SECONDS[1]:
        raise PlanError(f"seconds is {seconds:g}; allowed: {_SECONDS[0]} to {_SECONDS[1]:,}")
    chosen = Settings.of(settings)
    sizes = [option(name) for name in ("level", "diameter", "mpp", "source_mpp") if getattr(chosen, name)]
    if sizes and image is None:
        raise PlanError(
            f"{' and '.join(sizes)}: for an image of yours; name one, as a drawn one has just the right size"
        )
    with _temporary(folder) as place:
        report(0.0, "starting")
        if image is None:
            chosen = replace(chosen, model=DEFAULT if model is None else model)
            path = _draw(place / "drawn.zarr", chosen, size or _PROBE)
        else:
            path = str(image)
            with open_image(path, **chosen.reading) as source:
                middle = None if source.depth is None else (source.depth // 2, source.depth // 2 + 1)
            chosen = replace(chosen, model=model, z=middle)
        with Job.prepare(path, chosen) as job:
            plan, pixels = job.plan, int(seconds * _PREDICTING / _ROUNDS * job.plan.step**2 / job.seconds_per_tile())
        if image is None and size is None:
            path = _draw(place / "image.zarr", chosen, max(isqrt(min(pixels, _LARGEST)), _SIZES[0]))
        else:
            chosen = replace(chosen, roi=_part(plan, pixels))
        found = _measure(path, chosen, place, report)
        return Bench(image=None if image is None else path, **found, seconds=time.perf_counter() - start)


def _measure(image: str, settings: Settings, folder: Path, report: Callable[[float, str], None]) -> dict[str, Any]:
    """Measure and return the fields of `Bench`, except `image` and `seconds`."""
    start = time.perf_counter()
    with Job.prepare(image, settings) as job:
        plan, predictor = job.plan, job.predictor
        start_seconds = time.perf_counter() - start
        tiles = sum(_tiles_computed(block, predictor.batch) for _, block in plan.work())
        seconds: dict[str, list[float]] = {"tile": [], "read": [], "write": [], "end_to_end": []}
        for number in range(_ROUNDS):
            report(number / _ROUNDS, f"reading and writing, round {number + 1} of {_ROUNDS}")
            seconds["read"].append(_timed(lambda: [job.read(z, block) for z, block in plan.work()]))
            seconds["write"].append(_time_writing(job, folder))
            report((number + 0.2) / _ROUNDS, f"predicting, round {number + 1} of {_ROUNDS}")
            seconds["tile"].append(seconds_per_tile(job))
            seconds["end_to_end"].append(_time_all(image, settings, folder))
        medians = {name: statistics.median(times) for name, times in seconds.items()}
        operations = floating_point_operations(job.model.network, len(plan.channels), plan.tile)
        side, product = measure_product(plan.device, plan.precision)
        rates = {name: plan.pixels / 1e6 / medians[name] for name in ("read", "write", "end_to_end")}
        rates["predictor"] = plan.pixels / 1e6 / (tiles * medians["tile"])
        region = plan.region
        return {
            "region": [region.y0, region.x0, region.y1, region.x1],
            "dtype": str(job.source.dtype),
            "channels": job.source.channels,
            "model": job.model.header.name,
            "threads": torch.get_num_threads(),
            **{name: getattr(plan, name) for name in _PLANNED},
            **{f"{name}_mpx_per_s": rate for name, rate in rates.items()},
            "predictor_tflops": None if operations is None else operations / medians["tile"] / 1e12,
            "matmul_tflops": product,
            "matmul_side": side,
            "end_to_end_ratio": rates["end_to_end"] / rates["predictor"],
            "start_seconds": start_seconds,
        }


def middle_block(plan: Plan) -> Block:
    """Return a block in the middle of what is planned."""
    rows, columns = plan.grid.shape
    return plan.grid.at((rows - 1) // 2, (columns - 1) // 2)


def seconds_per_tile(job: Job) -> float:
    """Return the predictor's seconds per tile, pixels in memory, from one pass over the middle block."""
    block, predictor = middle_block(job.plan), job.predictor
    pixels = job.read(job.plan.planes.start, block)
    return _timed(lambda: predictor.predict(pixels, block)) / _tiles_computed(block, predictor.batch)


def _tiles_computed(block: Block, batch: int) -> int:
    """Return how many tiles the network sees for a block: batches are always full."""
    return -(-len(block.tiles) // batch) * batch


def measure_product(device: str, precision: str, seconds: float = 0.5) -> tuple[int, float]:
    """Return the side of square matrices and the median TFLOP/s of their product; int8 is measured as fp32."""
    place, side = torch.device(device), 2048 if device == "cpu" else 8192
    a, b = (torch.rand(side, side, device=place).to(PRECISIONS.get(precision, torch.float32)) for _ in range(2))
    times: list[float] = []
    with torch.inference_mode():
        while len(times) < 2 or sum(times) < seconds:  # the first only warms up
            times.append(_timed(lambda: float((a @ b)[0, 0])))
    return side, 2 * side**3 / statistics.median(times[1:]) / 1e12


def _time_writing(job: Job, folder: Path) -> float:
    """Return the seconds to store all blocks and finish the mask."""
    plan = job.plan
    ids = np.random.default_rng(0).integers(0, plan.classes, (plan.block, plan.block), np.uint8)

    def write() -> None:
        mask = create_mask(Path(place) / "mask.zarr", job.spec())
        with mask.claimed():
            for z, block in plan.work():
                height, width = block.write.shape
                mask.write(block.write.within(plan.region), ids[:height, :width], z - plan.planes.start)
            mask.finish()

    with TemporaryDirectory(dir=folder) as place:
        return _timed(write)


def _time_all(image: str, settings: Settings, folder: Path) -> float:
    """Return the seconds from opening the image to the finished mask."""
    with TemporaryDirectory(dir=folder) as place:
        start = time.perf_counter()
        for result in predict_many([(image, Outputs(Path(place) / "mask.zarr"))], settings):
            if result.errors:
                raise result.errors[0]
        return time.perf_counter() - start


def _timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _part(plan: Plan, pixels: int) -> Region | str | Path | None:
    """Return the middle of what is planned, in whole blocks or tiles of about `pixels`; of a smaller image all of it.

    As a `roi`, which is in pixels of level 0.
    """
    region, (sy, sx) = plan.region, plan.scale
    if region.area <= pixels:
        return plan.settings.roi
    unit = plan.block if plan.block**2 <= pixels else plan.step
    side = max(isqrt(pixels) // unit, 1) * unit
    height, width = min(side, region.height), min(side, region.width)
    y = region.y0 + (region.height - height) // 2 // unit * unit
    x = region.x0 + (region.width - width) // 2 // unit * unit
    y0, x0 = ceil(y * sy), ceil(x * sx)
    return Region(y0, x0, max(floor((y + height) * sy), y0 + 1), max(floor((x + width) * sx), x0 + 1))


def _draw(path: Path, settings: Settings, side: int) -> str:
    """Draw an image (C, side, side) in the model's range of grey values."""
    header = Model.load(str(settings.model)).header
    scale = header.normalisation
    channels = header.channels if settings.channels is None else max(settings.channels, default=0) + 1
    mean, std = [scale.mean[0]] * channels, [scale.std[0]] * channels
    dtype = scale.dtype if scale.percentiles is None else "uint8"
    if dtype != "float32" and std[0] < 2:  # a model without known grey values
        most = 255 if dtype == "uint8" else 65_535
        mean, std = [most / 2] * channels, [most / 6] * channels
    return draw_zarr(path, (side, side), mean, std, dtype)


@contextmanager
def _temporary(folder: str | Path | None) -> Iterator[Path]:
    """Make a temporary folder in `folder`; PlanError if that fails."""
    try:
        made = TemporaryDirectory(prefix="tileseg-bench-", dir=folder and os.path.abspath(folder))
    except OSError as error:
        raise PlanError(f"nothing can be written to {folder or 'the temporary folder'} ({error.strerror})") from error
    with made as place:
        yield Path(place)
