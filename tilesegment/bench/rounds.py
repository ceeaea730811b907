"""Reading, predicting and storing, each alone, and all of it: everything once in a round, and the medians of rounds."""

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeAlias

import numpy as np

from tilesegment.bench.subject import ROUNDS, Subject, seconds_per_tile, some_tiles, tiles_computed
from tilesegment.geometry import Block, FieldOfView
from tilesegment.images import open_image
from tilesegment.masks import create_mask
from tilesegment.prediction.job import Job
from tilesegment.prediction.predict import predict
from tilesegment.prediction.predictor import Pending
from tilesegment.prediction.queue import ThisProcess
from tilesegment.prediction.settings import Settings

_SAMPLE = 1.0  # seconds of tiles that the predictor is given at a time, alone
_ALONE = 0.15  # of what end to end takes, the predictor is measured alone before it, and again after it


Report: TypeAlias = Callable[[float, str], None]
Times: TypeAlias = dict[str, list[float]]
"""Seconds, by the names of `Speeds`, and of `tile`, one of the predictor alone."""


@dataclass(frozen=True)
class Speeds:
    """Million pixels of the mask a second, medians over the rounds.

    Attributes:
        predictor: `predict` of blocks that are in memory.
        read: blocks with their margins, from opening the image on; from memory, where the system keeps the file there.
        write: blocks of class ids, until they are safe.
        finish: the pyramid and the final name, once all blocks are stored.
        end_to_end: `tilesegment.predict`, from opening the image to the finished mask.
        idle_end_to_end: the same with a predictor that has its answer ready.
        copy: block after block read and stored by a plain loop; no reading ahead, no pyramid.
    """

    predictor: float
    read: float
    write: float
    finish: float
    end_to_end: float
    idle_end_to_end: float
    copy: float


class Idle:
    """A predictor that does nothing: its answer is ready.

    Args:
        ids: class ids, (H, W) uint8, at least as large as any block.
        view, classes: of the model whose predictor it stands for.
    """

    disagreement = None  # with the same network in fp32, which is not run either
    lacked_memory = False

    def __init__(self, ids: np.ndarray, view: FieldOfView, classes: int) -> None:
        self.ids, self.view, self.classes, self.batch = ids, view, classes, 1

    def begin(self, pixels: np.ndarray, block: Block, *, probabilities: bool = False) -> Pending:
        """Ids (h, w) of `block.write`, and where they are asked for, probabilities (K, h, w) of 0."""
        ids = cut(self.ids, block)
        return lambda: (ids, np.zeros((self.classes, *ids.shape), np.float32)) if probabilities else (ids,)

    def predict_probabilities(self, pixels: np.ndarray, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Ids (h, w) of `block.write` and probabilities (K, h, w) of 0: of a chosen halo, the end of a run asks."""
        ids, likely = self.begin(pixels, block, probabilities=True)()
        return ids, likely


class IdleProcess(ThisProcess):
    """This process, but nothing is predicted."""

    def __init__(self, idle: Idle) -> None:
        super().__init__()
        self._idle = idle

    def check(self, job: Job) -> None:
        """Puts the idle predictor where the job would keep its own."""
        vars(job)["predictor"] = self._idle
        super().check(job)


def measure_speeds(subject: Subject, predicted: Job, stored: Job, report: Report) -> tuple[Speeds, float]:
    """All rates, and the seconds that the predictor alone takes for a tile.

    Args:
        subject: what is measured.
        predicted, stored: its two parts, open.
        report: called with the part that is done, 0 to 1, and words, before each step.
    """
    plan, batch = predicted.plan, predicted.predictor.batch
    tiles = sum(tiles_computed(len(block.tiles), batch) for _, block in plan.work())
    first = seconds_per_tile(predicted, some_tiles(plan, plan.batch), 0)[0]
    sample = some_tiles(plan, max(plan.batch, round(_SAMPLE / first)))
    found = predicted.predictor.predict(predicted.read(plan.planes.start, sample), sample)
    ids, alone, rounds = tiled(found, stored.plan.block), _ALONE * tiles * first, []
    for number in range(ROUNDS):
        report(number / ROUNDS, f"reading and writing, round {number + 1} of {ROUNDS}")
        moving = _time_moving(subject, stored, ids)
        report((number + 0.2) / ROUNDS, f"predicting, round {number + 1} of {ROUNDS}")
        rounds.append(moving | _time_predicting(subject, predicted, sample, alone))
    tile = statistics.median([each for one in rounds for each in one.pop("tile")])
    seconds = {name: statistics.median([one[name][0] for one in rounds]) for name in rounds[0]}
    pixels = dict.fromkeys(seconds, stored.plan.pixels) | {"end_to_end": plan.pixels}
    rates = {name: pixels[name] / 1e6 / seconds[name] for name in seconds}
    return Speeds(predictor=plan.pixels / 1e6 / (tiles * tile), **rates), tile


def _time_predicting(subject: Subject, job: Job, sample: Block, alone: float) -> Times:
    """Of the part that is predicted."""
    before = seconds_per_tile(job, sample, alone)
    whole = _time_prediction(subject, subject.settings, None)
    return {"end_to_end": [whole], "tile": [*before, *seconds_per_tile(job, sample, alone)]}


def _time_moving(subject: Subject, job: Job, ids: np.ndarray) -> Times:
    """Of the part that is read and stored."""
    write, finish = _time_writing(subject, job, ids)
    times = {"read": [_time_reading(subject, job)], "write": [write], "finish": [finish]}
    times["copy"] = [_time_copying(subject, job, ids)]
    with IdleProcess(Idle(ids, job.plan.view, job.plan.classes)) as idle:
        times["idle_end_to_end"] = [_time_prediction(subject, subject.stored, idle)]
    return times


def _time_reading(subject: Subject, job: Job) -> float:
    start = time.perf_counter()
    for z, block, opened in _blocks(subject, job):
        opened.read(z, block)
    return time.perf_counter() - start


def _time_writing(subject: Subject, job: Job, ids: np.ndarray) -> tuple[float, float]:
    """Seconds for the blocks, and for the end."""
    plan = job.plan
    with _temporary(subject) as path:
        mask = create_mask(path, job.spec())
        with mask.claimed(shared=False):
            start = time.perf_counter()
            for z, block in plan.work():
                mask.write(block.write.within(plan.region), cut(ids, block), z - plan.planes.start)
            stored = time.perf_counter()
            mask.finish()
            return stored - start, time.perf_counter() - stored


def _time_copying(subject: Subject, job: Job, ids: np.ndarray) -> float:
    plan = job.plan
    with _temporary(subject) as path:
        start = time.perf_counter()
        mask = create_mask(path, job.spec())
        for z, block, opened in _blocks(subject, job):
            opened.read(z, block)
            mask.write(block.write.within(plan.region), cut(ids, block), z - plan.planes.start)
        return time.perf_counter() - start


def _time_prediction(subject: Subject, settings: Settings, workers: ThisProcess | None) -> float:
    chosen = {field.name: getattr(settings, field.name) for field in fields(settings)}
    with _temporary(subject) as path:
        start = time.perf_counter()
        predict(subject.image, path, workers=workers, **{**chosen, "model": subject.model})
        return time.perf_counter() - start


def _blocks(subject: Subject, job: Job) -> Iterator[tuple[int, Block, Job]]:
    """Plane and block of each, and the job with the image opened anew: no pixel is kept from the last time."""
    with open_image(subject.image, **subject.settings.reading) as source:
        opened = Job(job.plan, source, job.model)
        for z, block in job.plan.work():
            yield z, block, opened


@contextmanager
def _temporary(subject: Subject) -> Iterator[Path]:
    """Where a mask may be written; it is removed again."""
    with TemporaryDirectory(dir=subject.folder) as folder:
        yield Path(folder) / "mask.zarr"


def cut(ids: np.ndarray, block: Block) -> np.ndarray:
    """Of ids (H, W) as many as `block` writes."""
    height, width = block.write.shape
    return ids[:height, :width]


def tiled(ids: np.ndarray, side: int) -> np.ndarray:
    """Ids (h, w) repeated to (side, side)."""
    down, across = (-(-side // size) for size in ids.shape)
    return np.ascontiguousarray(np.tile(ids, (down, across))[:side, :side])
