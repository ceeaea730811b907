"""The training loop: examples in, a model out."""

import copy
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tilesegment.errors import DataError, PlanError
from tilesegment.geometry import FieldOfView
from tilesegment.models.header import ModelHeader
from tilesegment.models.model import Model
from tilesegment.networks import build_network
from tilesegment.networks.any_network import MODULE
from tilesegment.networks.rescaled import unscaled
from tilesegment.prediction.devices import PRECISIONS, choose_device, choose_precision
from tilesegment.signals import uninterrupted
from tilesegment.training.budget import CORES, LINE, Budget, Choosing
from tilesegment.training.checkpoint import load_checkpoint, save_checkpoint
from tilesegment.training.data import IGNORE, Dataset, Section, SparseDataset
from tilesegment.training.defaults import choose_batch, choose_tile, ground_of_data, settle
from tilesegment.training.examples import Batch, Examples, batches, drawing_shares, reduce_section
from tilesegment.training.losses import Loss, class_weights
from tilesegment.training.settings import DEFAULT_BUDGET, TrainingSettings
from tilesegment.training.sparse_examples import SparseExamples
from tilesegment.training.start import start_by_name, start_of_module
from tilesegment.training.targets import learnable
from tilesegment.training.updates import choose_layout, freeze_statistics, kept_memory, make_optimiser, schedule
from tilesegment.training.validation import Scores, choose_goal, judge, predict_sections

_STATE = ("step", "seconds", "looks", "constant", "best_value", "best_step", "pending")  # attributes in a checkpoint
_SAMPLE = 512  # side of the part of a held-out section on which the time of a look is measured
_FREEZE = 0.3  # share of the run after which BatchNorm computes as in prediction
# a network that predicts one class for this share of the run, and so many updates, will not learn any more
CONSTANT_SHARE, CONSTANT_UPDATES = 0.3, 100


@dataclass(frozen=True)
class Record:
    """What is known after an update: one line of `metrics.jsonl`."""

    step: int  # updates so far
    progress: float  # share of the run that is done, 0 to 1
    seconds: float  # of wall clock since the first update began, without the time that the run was stopped
    loss: float
    rate: float  # learning rate
    scores: Scores | None = None  # on the held-out sections, if looked at after this update


class Trainer:
    """Trains a network on a data set; `run` yields a record after every update.

    Args:
        data: labelled sections.
        settings: how to train.
        module: any module to train from its present weights, instead of a network by name; it is copied.

    Attributes:
        start: the network, and what its model says of it.
        best, best_value, best_step: weights at the best look, their score, and the update before it.
        pending: loss and rate of the latest update, until its record is yielded.
        signals: signals that arrived during the latest update.
        torn: whether that update has changed weights and is not complete.

    Raises:
        PlanError, ModelError, DeviceError, DataError: invalid settings or data.
    """

    def __init__(self, data: Dataset, settings: TrainingSettings, module: nn.Module | None = None) -> None:
        settings.check()
        self.device = choose_device(settings.device)
        self.precision = choose_precision(self.device, settings.precision)
        self.sparse = isinstance(data, SparseDataset)
        # a few strokes are learnt from in minutes
        self.slow = self.device.type == "cpu" and (self.precision == "fp32" or self.sparse)
        self.layout = choose_layout(self.device, self.precision)
        self.data = data = learnable(data)
        self.sections, self.held_out = data.split(settings.validation)
        self.diameter, self.ground = data.object_diameter(), ground_of_data(data)
        if self.sparse and (settings.border_weight or settings.augmentation.shades):
            raise PlanError("--border-weight and --shades are for labels that say where cells end; leave them out")
        # what is not drawn may be a cell or a membrane as well
        goal = "miou" if self.sparse and settings.goal == "auto" else settings.goal
        self.goal = choose_goal(goal, self.sections, len(data.classes))
        settings = settings if module is None else replace(settings, network=MODULE)
        settings = settle(settings, data, self.goal, self.ground, self.slow)
        self.settings, self.loss = settings, Loss(settings.loss)
        reduced = [reduce_section(section, settings.reduction) for section in self.sections]
        begin = (settings, data, reduced)
        self.start = start = start_by_name(*begin) if module is None else start_of_module(*begin, module)
        self.network, self.normalisation, view = start.network, start.normalisation, start.view
        self.network.to(self.device, memory_format=self.layout)  # type: ignore[call-overload]
        # no halo: a same-padding network is trained with zeros beyond the tile
        fits = view if view.crops else FieldOfView(view.divisor, 0, 0, crops=False)
        tile = choose_tile(settings, fits, reduced, self.slow, small=data.instances or self.sparse)
        batch = choose_batch(settings, fits, tile, self.slow, small=data.instances or self.sparse)
        self.settings = replace(settings, tile=tile * settings.reduction, batch=batch, padded=start.padded)
        output = tile - 2 * fits.before
        assert settings.border_weight is not None and settings.border_sigma is not None
        border = (settings.border_weight, settings.border_sigma / settings.reduction)
        drawn = (tile, output, batch, settings.augmentation, settings.seed)
        self.examples: Examples = (
            SparseExamples(reduced, self.normalisation, *drawn)
            if self.sparse
            else Examples(reduced, self.normalisation, *drawn, border, drawing_shares(self.sections))
        )
        self.weights = class_weights(settings.class_weights, data, self.device)
        self.average = AveragedModel(self.network, multi_avg_fn=self._follow, use_buffers=True)
        self.best, self.best_value, self.best_step = copy.deepcopy(self.average.module), -math.inf, 0
        self.optimiser = make_optimiser(self.network, settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        self.step, self.seconds, self.looks, self.constant = 0, 0.0, 0, 0
        self.pending: tuple[float, float] | None = None
        self.signals: list[int] = []
        self.torn = False
        counted = settings.steps is not None or settings.epochs is not None
        self.budget = Budget(None if counted else settings.budget or DEFAULT_BUDGET, chooses=self._chooses())

    def _chooses(self) -> Choosing | None:
        """What to choose on the held-out sections in the end."""
        classes = [one.name for one in self.data.classes]
        if self.settings.threshold is not None and len(classes) != 2:
            raise PlanError(f"--threshold is for two classes, and there are {', '.join(classes)}; leave it out")
        if not self.held_out:
            return None
        if self.data.instances:
            return CORES
        if self.sparse:  # how much of each class is drawn says nothing of how much there is
            return None
        return LINE if len(classes) == 2 and self.settings.threshold is None else None

    def estimate(self) -> None:
        """Estimate for the budget the time of a look at the held-out sections, measured on a part of one."""
        if self.budget.total is None or not self.held_out:
            return
        first = self.held_out[0]
        part = _corner(first)
        with suppress(DataError):  # no cell in this part
            self._validated([part])
        more = sum(section.label.size for section in self.held_out) / part.label.size
        self.budget.predicting, self.budget.scoring = self.budget.predicting * more, self.budget.scoring * more

    def run(self) -> Iterator[Record]:
        """Train from the present state until the budget is used up or the steps are done.

        Ctrl-C stops it between two updates; `save` then keeps all progress.

        Raises:
            DataError: the loss is no longer a number, or the network predicts one class everywhere.
        """
        start = time.monotonic() - self.seconds
        workers = self.settings.workers
        if workers is None:
            workers = 0 if self.device.type == "cpu" else min(4, torch.get_num_threads())
        drawn = batches(self.examples, self.step, workers, self.device.type == "cuda")
        with kept_memory():
            # if the look after an update was interrupted, look again first
            while self.pending is not None or self._progress() < 1:
                if self.pending is None:
                    batch = next(drawn)
                    with uninterrupted() as self.signals:
                        began = time.monotonic()
                        self.pending = self.update(batch)
                        self.budget.updating = time.monotonic() - began
                        self.step, self.seconds = self.step + 1, time.monotonic() - start
                        self.torn = False
                progress, (loss, rate) = self._progress(), self.pending
                self._check_health(loss, progress)
                scores, look = None, int(progress * self.budget.looks)
                if self.held_out and look > self.looks:
                    scores, self.looks = self._look(), look
                self.pending = None
                yield Record(self.step, progress, self.seconds, loss, rate, scores)

    def _progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        steps = self.settings.steps
        if self.settings.epochs is not None:
            steps = self.settings.epochs * math.ceil(len(self.sections) / self.examples.batch)
        return self.budget.progress(self.seconds) if steps is None else min(self.step / steps, 1.0)

    def update(self, batch: Batch) -> tuple[float, float]:
        """Make one step of the optimiser; return the loss and the learning rate."""
        progress = self._progress()
        if progress >= _FREEZE:
            freeze_statistics(self.network)
        rate = self.settings.highest_rate * schedule(progress)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        x, t, border = (None if part is None else part.to(self.device, non_blocking=True) for part in batch)
        assert x is not None and t is not None
        # dropout depends only on the number of the update, so that a resumed run draws the same
        torch.manual_seed(self.settings.seed * 2**32 + self.step)
        half = self.precision in ("bf16", "fp16")
        with torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=half):
            logits = self.network(x.contiguous(memory_format=self.layout))
        main = logits[0] if isinstance(logits, tuple) else logits
        loss = self.loss(logits, t, self.weights, border)
        self.optimiser.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.torn = True
        self.scaler.step(self.optimiser)
        self.scaler.update()
        self.average.update_parameters(self.network)
        known = t != IGNORE
        if not _is_constant(t[known]):  # a label of one class may well be predicted as one class
            ids = main.detach().max(1).indices  # not argmax: see `BlockPredictor`
            self.constant = self.constant + 1 if _is_constant(ids[known]) else 0
        return float(loss.detach()), rate

    def _check_health(self, loss: float, progress: float) -> None:
        """Raise DataError if the network will not learn any more."""
        if not math.isfinite(loss):
            raise DataError(f"the loss became {loss} in step {self.step}; try a lower --lr")
        if self.constant >= max(CONSTANT_UPDATES, CONSTANT_SHARE * self.step / progress):
            raise DataError(
                f"the network has predicted one class everywhere for {self.constant:,} updates and does not learn; "
                "check that the labels fit the images, or try --class-weights auto, a lower --lr, another --seed"
            )

    def _look(self) -> Scores:
        """Score the averaged weights on the held-out sections, and keep the best ones.

        A network eventually overfits thirty images, a large one soon.
        """
        scores = self._validated(self.held_out)
        if scores.value >= self.best_value:
            with uninterrupted():
                self.best.load_state_dict(self.average.module.state_dict())
                self.best_value, self.best_step = scores.value, self.step
        return scores

    def _validated(self, sections: Sequence[Section]) -> Scores:
        """Score the averaged weights on `sections`, and tell the budget how long it took."""
        model, start = self._model(self.average.module), time.monotonic()
        probabilities = predict_sections(model, sections, self.device, self.precision)
        self.budget.predicting = time.monotonic() - start
        start = time.monotonic()
        scores = judge(model, sections, probabilities, self.goal).scores
        self.budget.scoring = time.monotonic() - start
        return scores

    def _follow(self, means: Sequence[Tensor], latest: Sequence[Tensor], updates: Tensor | int) -> None:
        """Move averages towards the latest values: quickly at first, later over about a thousand updates."""
        decay = min(self.settings.ema, (1 + int(updates)) / (10 + int(updates)))
        for mean, new in zip(means, latest, strict=True):
            if mean.is_floating_point():
                mean.lerp_(new, 1 - decay)
            else:  # a count
                mean.copy_(new)

    def model(self) -> Model:
        """Return the model of the best look (before the first one, of the average), with the record of the run."""
        return self._model(self.best if self.best_step else self.average.module)

    @property
    def can_be_kept(self) -> bool:
        """Whether to save a stopped run: it has made progress, is consistent, and no second signal is waiting."""
        return self.step > 0 and not self.torn and len(self.signals) < 2

    @property
    def kept_step(self) -> int:
        """The update after which the weights were those of `model`."""
        return self.best_step or self.step

    def _model(self, trained: nn.Module) -> Model:
        header = ModelHeader(
            network=self.start.name,
            arguments=self.start.arguments,
            classes=self.data.classes,
            normalisation=self.normalisation,
            pixel_size=self.data.pixel_size,
            diameter=self.diameter,
            ground=self.ground,
            halo=self.start.halo,
            name=self.settings.name,
            licence=self.settings.licence,
            training=self._provenance(),
        )
        start, is_of_caller = self.start, self.start.name == MODULE
        network = copy.deepcopy(self.network).cpu() if is_of_caller else build_network(start.name, start.arguments)
        unscaled(network).load_state_dict({name: value.cpu() for name, value in trained.state_dict().items()})
        return Model(header, network.requires_grad_(False).eval(), self.start.claimed)

    def _provenance(self) -> dict[str, Any]:
        record: dict[str, Any] = {"steps": self.step, "kept_step": self.kept_step, "seconds": round(self.seconds, 1)}
        if self.start.init is not None:
            header = self.start.init.header
            weights = {"weights_sha256": header.weights_sha256, "anew": list(self.start.anew)}
            record["init"] = {**weights, "training": dict(header.training)}
        return record | {
            "settings": self.settings.to_json(),
            "sections": [section.name for section in self.sections],
            "held_out": [section.name for section in self.held_out],
            "versions": {"tilesegment": version("tilesegment"), "torch": torch.__version__},
        }

    def save(self, path: Path) -> None:
        """Write the state of the run to `path`, atomically.

        Raises:
            OSError: it cannot be written; the previous file stays.
        """
        state = {name: getattr(self, name) for name in _STATE}
        state |= {"preparing": self.budget.preparing, "scaler": self.scaler.state_dict()}
        save_checkpoint(path, self._networks(), self.optimiser, state)

    def restore(self, path: Path) -> None:
        """Restore the state that `save` wrote; `run` then continues, bit for bit if steps are counted.

        Raises:
            DataError: there is none, or it belongs to another run.
        """
        state = load_checkpoint(path, self._networks(), self.optimiser)
        self.budget.preparing += state["preparing"]
        self.scaler.load_state_dict(state["scaler"])
        for name in _STATE:
            setattr(self, name, state[name])

    def _networks(self) -> dict[str, nn.Module]:
        return {"network": self.network, "average": self.average, "best": self.best}


def _corner(section: Section) -> Section:
    """A part of a section, at its origin or, if nothing is labelled there, from its first labelled pixel on."""
    labelled = section.label != IGNORE
    y = 0 if labelled[:_SAMPLE, :_SAMPLE].any() else int(labelled.any(1).argmax())
    x = 0 if labelled[y : y + _SAMPLE, :_SAMPLE].any() else int(labelled[y].argmax())
    part = (slice(y, y + _SAMPLE), slice(x, x + _SAMPLE))
    objects = None if section.objects is None else section.objects[part]
    return Section(section.name, section.image[:, *part], section.label[part], objects)


def _is_constant(ids: Tensor) -> bool:
    return not ids.numel() or bool((ids == ids.flatten()[0]).all())
