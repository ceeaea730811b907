"""Which tile, batch and precision are the fastest here: one after another, each with the best of those before.

All are compared by whole blocks of a large image, so that the border of an image decides nothing.
"""

import os
import statistics
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace

import numpy as np

from tilesegment.bench.subject import PATIENCE, Subject, as_if_large, some_tiles, tiles_computed
from tilesegment.errors import DeviceError, ModelError, PlanError
from tilesegment.prediction.job import Job
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.speed import precisions_on, time_predictor
from tilesegment.prediction.tiling import STEPS

_ALONE = 1.0  # seconds that each is measured, at least one time
_WORTH_IT = 1.05  # times the default; less may be chance
_MOST_MEMORY = 0.8  # of that of the machine
# a run is never advised to be less exact than it was asked to be
_RANK = {"fp64": 0, "fp32": 1, "bf16": 2, "fp16": 2, "int8": 3}


@dataclass(frozen=True)
class Trial:
    """What one choice of settings brings.

    Attributes:
        tile, step: sides, pixels.
        batch: tiles at a time, `batch_given` whether that is a setting and not the plan's choice.
        precision, runtime: names; `runtime_given` whether the latter is another than a large image gets here anyway.
        memory_bytes: as planned.
        mpx_per_s: millions of kept pixels a second, the predictor alone; None if it cannot be had.
        times_default: that, of the settings as they were given.
        other_class: share of the pixels whose class is another than in fp32; None where that was not measured.
        why_not: why it cannot be had; else empty.
    """

    tile: int
    step: int
    batch: int
    batch_given: bool
    precision: str
    runtime: str
    runtime_given: bool
    memory_bytes: int
    mpx_per_s: float | None = None
    times_default: float | None = None
    other_class: float | None = None
    why_not: str = ""

    @property
    def options(self) -> str:
        """What to give on a command line."""
        batch = f" --batch {self.batch}" if self.batch_given else ""
        runtime = f" --runtime {self.runtime}" if self.runtime_given else ""
        return f"--tile {self.tile}{batch} --precision {self.precision}{runtime}"


class Sweep:
    """Tries settings, one after another.

    Args:
        subject: what is measured; of its image all is used, not only the part.
        pixels: that are predicted at a time, about, but at least a tile.

    Attributes:
        trials: so far; the first is of the settings as they were given.
    """

    def __init__(self, subject: Subject, pixels: float) -> None:
        self.subject, self.pixels = subject, pixels
        self.trials: list[Trial] = []

    def run(self, report: Callable[[float, str], None]) -> Trial:
        """Tries all there is to try, and returns the best, which is not farther from fp32 than what was given.

        Where nothing is clearly faster, that is what was given.

        Args:
            report: called with the part that is done, 0 to 1, and words, before each trial.

        Raises:
            TilesegmentError: as `Job.prepare`, of the settings as they were given.
        """
        given = replace(self.subject.settings, roi=None)
        with self.subject.prepare(given) as job:
            plan = job.plan
        report(0.0, f"tile {plan.tile}, {plan.precision}, {plan.runtime}")
        ids = [self._try(given)]
        if self.trials[0].mpx_per_s is None:
            raise DeviceError(self.trials[0].why_not)
        others = list(self._others(plan, given))
        for number, other in enumerate(others):
            report(0.1 + 0.4 * number / len(others), f"tile {plan.tile}, {other.precision}, {other.runtime}")
            ids.append(self._try(other))
        self._compare(ids)
        best = [given, *others][self.trials.index(self.best)]
        for number, tile in enumerate(self._tiles(plan)):
            report(0.5 + 0.3 * number / len(STEPS), f"tile {tile}")
            self._try(replace(best, tile=tile))
        best, batch = replace(best, tile=self.best.tile), self.best.batch
        # OpenVINO takes tile by tile
        batches = {1, batch // 2, 2 * batch} - {0, batch} if self.best.runtime != "openvino" else set()
        for size in sorted(batches):
            report(0.8, f"tile {best.tile}, batch {size}")
            self._try(replace(best, batch=size))
        report(0.9, f"tile {plan.tile}, {plan.precision}, {plan.runtime} once more")
        self._compare_with_default(given)
        return self.best if (self.best.times_default or 0) >= _WORTH_IT else self.trials[0]

    def _others(self, plan: Plan, given: Settings) -> Iterator[Settings]:
        """Other precisions, each in the runtime that it gets, and the other runtime in the given precision; in tiles of
        the plan.
        """
        given = replace(given, tile=plan.tile)
        if plan.runtime == "onnxruntime":  # as of ONNX, which has one precision too
            return
        for name in precisions_on(plan.device):
            if name != plan.precision:
                with suppress(PlanError, DeviceError):  # where a runtime was asked for, not all are to be had
                    yield as_if_large(plan, replace(given, precision=name, runtime=self.subject.runtime))
        if self.subject.runtime == "auto":
            other = "pytorch" if plan.runtime == "openvino" else "openvino"
            with suppress(PlanError, DeviceError):
                yield as_if_large(plan, replace(given, precision=plan.precision, runtime=other))

    @property
    def best(self) -> Trial:
        """The fastest so far of those that may be advised."""
        most = _RANK[self.trials[0].precision]
        return max((one for one in self.trials if _RANK[one.precision] <= most), key=lambda one: one.mpx_per_s or 0)

    def _try(self, settings: Settings) -> np.ndarray | None:
        """One more trial; the class ids of some pixels in the middle, (h, w), or None if it cannot be had."""
        with self.subject.prepare(settings) as job:
            plan, ids = job.plan, None
            usual = as_if_large(plan, replace(settings, runtime=self.subject.runtime)).runtime
            trial = Trial(
                *(plan.tile, plan.step, plan.batch, settings.batch is not None),
                *(plan.precision, plan.runtime, plan.runtime != "onnxruntime" and plan.runtime != usual),
                plan.memory_bytes,
            )
            try:
                _check_memory(plan)
                rate, ids = self._measure(job)
                trial = replace(trial, mpx_per_s=rate)
            except (DeviceError, ModelError) as error:
                trial = replace(trial, why_not=str(error))
        self.trials.append(trial)
        return ids

    def _measure(self, job: Job) -> tuple[float, np.ndarray]:
        """Million pixels of a whole block a second, and the class ids that were found."""
        plan, predictor = job.plan, job.predictor
        # the same whatever the batch, which may depend on what memory is free: classes are compared on it
        sample = some_tiles(plan, max(round(self.pixels / plan.step**2), 1))
        pixels = job.read(plan.planes.start, sample)
        times = time_predictor(predictor, pixels, sample, _ALONE, PATIENCE)
        tile = statistics.median(times) / tiles_computed(len(sample.tiles), predictor.batch)
        block = tiles_computed((plan.block // plan.step) ** 2, predictor.batch)
        return plan.block**2 / 1e6 / (block * tile), predictor.predict(pixels, sample)

    def _compare(self, ids: list[np.ndarray | None]) -> None:
        """Fills in how many pixels are of another class than in fp32; the trials so far are all of one tile."""
        exact = next((own for own, one in zip(ids, self.trials, strict=True) if one.precision == "fp32"), None)
        for number, (own, trial) in enumerate(zip(ids, self.trials, strict=True)):
            if exact is not None and own is not None:
                self.trials[number] = replace(trial, other_class=float(np.mean(own != exact)))

    def _compare_with_default(self, given: Settings) -> None:
        """Fills in how much faster each is than the default.

        That is measured again, and the faster time counts: what slowed the machine at first must not look like a gain.
        """
        with self.subject.prepare(given) as job:
            default = max(self.trials[0].mpx_per_s or 0, self._measure(job)[0])
        self.trials[0] = replace(self.trials[0], mpx_per_s=default)
        self.trials = [replace(one, times_default=one.mpx_per_s and one.mpx_per_s / default) for one in self.trials]

    def _tiles(self, plan: Plan) -> Iterator[int]:
        """Tiles that keep about `STEPS`; none that is larger than the image, unless that was drawn."""
        view = plan.view
        for step in STEPS:
            tile = view.tile_of(view.step_for(step))
            if tile != plan.tile and (self.subject.drawn or step <= max(plan.shape)):
                yield tile


def _check_memory(plan: Plan) -> None:
    """Whether there is the memory for it, as far as the system tells how much it has.

    Raises:
        DeviceError: there is not.
    """
    if not hasattr(os, "sysconf"):
        return
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if plan.memory_bytes > _MOST_MEMORY * there:
        raise DeviceError(f"takes about {plan.memory_bytes / 1e9:.1f} GB of memory, of {there / 1e9:.1f}")
