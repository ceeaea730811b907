"""Measures this machine, from the drawing of an image to the table of what was found."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tilesegment.bench.rounds import measure_speeds
from tilesegment.bench.subject import Subject, drawn_subject, given_subject
from tilesegment.bench.sweep import Sweep, Trial
from tilesegment.errors import PlanError
from tilesegment.geometry import Region
from tilesegment.networks.counting import floating_point_operations
from tilesegment.prediction.settings import Settings, check_names
from tilesegment.prediction.speed import measure_product, threads

SETTINGS = (
    "tile",
    "halo",
    "prune",
    "batch",
    "device",
    "precision",
    "runtime",
    "channels",
    "normalise",
    "series",
    "invert",
)
_PLANNED = ("device", "precision", "runtime", "tile", "step", "batch", "block")
LEAST_SIZE, MOST_SIZE = 64, 65536  # sides of a drawn image, pixels
LEAST_SECONDS, MOST_SECONDS = 1, 86_400
_PRODUCT = 1 / 60  # of the time that is granted, but no more than a second, goes to matrix products


@dataclass(frozen=True)
class Bench:
    """What was measured: everything in one process, with the same threads, in turns; medians.

    Mpx/s are millions of pixels of the mask a second; one TFLOP/s is 10^12 operations a second, 2 for a multiply-add.

    Attributes:
        image: path; None if it was drawn.
        region: [y0, x0, y1, x1] that was predicted, pixels.
        stored_region: the same of what was read and stored without predicting it, mostly larger: it is faster.
        dtype, channels: of the image.
        model: its name.
        device, precision, runtime, threads: that computed; the runtime is that of a large image.
        tile, step, batch, block: as planned for this part.
        predictor_mpx_per_s: the predictor alone, its pixels in memory.
        predictor_tflops: the same, in counted operations of the network, context included; None where another runtime
            runs it unseen.
        matmul_tflops: a product of square matrices of `matmul_side`, in `matmul_precision`.
        read_mpx_per_s, write_mpx_per_s, finish_mpx_per_s: see `Speeds`.
        end_to_end_mpx_per_s: `tilesegment.predict`, from opening the image to the finished mask.
        end_to_end_ratio: end to end, of the predictor alone.
        idle_end_to_end_mpx_per_s: end to end with a predictor whose answer is ready.
        copy_mpx_per_s: the same blocks read and stored one after another by a plain loop.
        idle_ratio: end to end with a predictor whose answer is ready, of that copy, which draws no pyramid.
        start_seconds: of each end to end: opening the image and making the predictor, whatever the size. Once more in
            one process, that is: the first time, or in int8, takes longer.
        seconds: that all of it took.
        sweep: settings that were tried; the first are those given.
        best: the fastest of them that may be advised; None without a sweep.
    """

    image: str | None
    region: list[int]
    stored_region: list[int]
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
    predictor_mpx_per_s: float
    predictor_tflops: float | None
    matmul_tflops: float
    matmul_side: int
    matmul_precision: str
    read_mpx_per_s: float
    write_mpx_per_s: float
    finish_mpx_per_s: float
    end_to_end_mpx_per_s: float
    end_to_end_ratio: float
    idle_end_to_end_mpx_per_s: float
    copy_mpx_per_s: float
    idle_ratio: float
    start_seconds: float
    seconds: float
    sweep: tuple[Trial, ...] = ()
    best: Trial | None = None


def bench(
    image: str | Path | None = None,
    model: str | Path | None = None,
    *,
    size: int | None = None,
    seconds: float = 60.0,
    folder: str | Path | None = None,
    sweep: bool = False,
    report: Callable[[float, str], None] = lambda done, words: None,
    **settings: Any,
) -> Bench:
    """How fast this machine predicts, and what of the time the network takes.

    Args:
        image: of which the middle is used, as much as there is time for; None draws one, of noise.
        model: file, or name of a bundled model; None takes `em-membrane`.
        size: side of a drawn image, pixels; None is as large as there is time for.
        seconds: about how long it may take, but for `sweep`.
        folder: where image and masks are written, all of it removed again; None is the system's temporary folder.
        sweep: also try tiles, batches and precisions, which takes about as long again.
        report: called with the part that is done, 0 to 1, and words.
        settings: of `SETTINGS`, as for `predict`.

    Raises:
        TilesegmentError: image, model, settings or folder are not to be had.
    """
    _check(image, size, seconds, settings)
    start, chosen = time.perf_counter(), Settings(**settings)
    with _temporary(folder) as place:
        report(0.0, "starting")
        if image is None:
            subject = drawn_subject(model, chosen, size, seconds, place)
        else:
            subject = given_subject(str(image), model, chosen, seconds, place)
        until = 0.5 if sweep else 1.0
        found = _measure(
            subject, min(_PRODUCT * seconds, 1.0), lambda done, words: report(until * (0.2 + 0.8 * done), words)
        )
        if sweep:
            trials = Sweep(subject, found["predictor_mpx_per_s"] * 1e6)
            found["best"] = trials.run(lambda done, words: report(0.5 + done / 2, words))
            found["sweep"] = tuple(trials.trials)
        return Bench(**found, seconds=time.perf_counter() - start)


def _measure(subject: Subject, product_seconds: float, report: Callable[[float, str], None]) -> dict[str, Any]:
    """All but the sweep."""
    with subject.prepare() as job, subject.prepare(subject.stored) as stored:
        speeds, tile = measure_speeds(subject, job, stored, report)
        plan = job.plan
        operations = floating_point_operations(job.model.network, len(plan.channels), plan.tile)
        product = measure_product(plan.device, plan.precision, product_seconds)
        return {
            "image": None if subject.drawn else subject.image,
            "region": _sides(plan.region),
            "stored_region": _sides(stored.plan.region),
            "dtype": str(job.source.dtype),
            "channels": job.source.channels,
            "model": job.model.header.name,
            "threads": threads(),
            **{name: getattr(plan, name) for name in _PLANNED},
            "predictor_tflops": None if operations is None else operations / tile / 1e12,
            "matmul_tflops": product.tflops,
            "matmul_side": product.side,
            "matmul_precision": product.precision,
            **{f"{name}_mpx_per_s": rate for name, rate in vars(speeds).items()},
            "end_to_end_ratio": speeds.end_to_end / speeds.predictor,
            "idle_ratio": speeds.idle_end_to_end / speeds.copy,
            "start_seconds": _start_seconds(subject),
        }


def _sides(region: Region) -> list[int]:
    return [region.y0, region.x0, region.y1, region.x1]


def _start_seconds(subject: Subject) -> float:
    """What comes before the first block, in a process that has done it before."""
    start = time.perf_counter()
    with subject.prepare() as job:
        job.predictor  # noqa: B018 - makes it
        return time.perf_counter() - start


def _check(image: str | Path | None, size: int | None, seconds: float, settings: Mapping[str, Any]) -> None:
    check_names(settings, SETTINGS)
    if size is not None and image is not None:
        raise PlanError("--size is of a drawn image; leave it out, or the image")
    if size is not None and not LEAST_SIZE <= size <= MOST_SIZE:
        raise PlanError(f"size is {size}; allowed: {LEAST_SIZE} to {MOST_SIZE} pixels")
    if not LEAST_SECONDS <= seconds <= MOST_SECONDS:
        raise PlanError(f"seconds is {seconds:g}; allowed: {LEAST_SECONDS} to {MOST_SECONDS:,}")


@contextmanager
def _temporary(folder: str | Path | None) -> Iterator[Path]:
    """A folder of our own in `folder`, gone with all that is in it when it is left, however that is.

    Raises:
        PlanError: it cannot be made there.
    """
    try:
        made = TemporaryDirectory(prefix="tileseg-bench-", dir=folder)
    except OSError as error:
        raise PlanError(f"nothing can be written to {folder or 'the temporary folder'} ({error.strerror})") from error
    with made as place:
        yield Path(place)
