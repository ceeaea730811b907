"""The training loop: examples in, a model out."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tilesegment.errors import DataError, PlanError
from tilesegment.geometry import FieldOfView
from tilesegment.header import ModelHeader, Normalisation
from tilesegment.model import Model
from tilesegment.networks import build_network
from tilesegment.predictors.devices import PRECISIONS, choose_device, choose_precision
from tilesegment.training.augmentation import Augmentation, draw_example
from tilesegment.training.data import Dataset, Section, normalisation_of
from tilesegment.training.losses import cross_entropy_dice
from tilesegment.training.validation import Scores, validate

_DEFAULT_BUDGET = 20 * 60.0
_PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# how often the held-out sections are looked at, in parts of the run
_VALIDATIONS = 6


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. The defaults suit some thirty images and twenty minutes on a laptop.

    Attributes:
        budget: seconds of wall clock; None with `steps` None is 20 minutes.
        steps: number of updates, instead of a budget; then the run is reproducible.
        base, depth: of the U-Net, 32 and 4 unless `init` has others; 64 and 4 in the paper.
        dropout: at the end of the contracting path; 0.5 in the paper.
        tile: side of the network's input.
        batch: examples an update.
        rate: highest learning rate of AdamW.
        class_weights: of the classes in the cross-entropy; a class that must not be missed gets more.
        init: model, file or bundled name, whose weights training starts from; None starts at random.
        validation: share of the sections that is held out, the last ones.
        seed: of weights, examples and dropout.
        device, precision: as for prediction.
        augmentation: how examples are varied.
        name, licence: recorded in the model.
    """

    budget: float | None = None
    steps: int | None = None
    base: int | None = None
    depth: int | None = None
    dropout: float = 0.1
    tile: int = 572
    batch: int = 1
    rate: float = 4e-4
    class_weights: tuple[float, ...] | None = None
    init: str | None = None
    validation: float = 0.2
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    augmentation: Augmentation = field(default_factory=Augmentation)
    name: str = ""
    licence: str = ""

    def check(self) -> None:
        """Whether the values can be.

        Raises:
            PlanError: they cannot; says which.
        """
        if self.budget is not None and self.steps is not None:
            raise PlanError("budget and steps exclude each other; give one of them")
        bounds = {"budget": (1, math.inf), "steps": (1, math.inf), "batch": (1, 1024), "rate": (1e-9, 10)}
        for key, (low, high) in {**bounds, "validation": (0, 0.9), "seed": (0, 2**31)}.items():
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise PlanError(f"{key} is {value}; allowed: {low:g} to {high:g}")
        if self.precision not in _PRECISIONS:
            raise PlanError(f"precision {self.precision!r} cannot be trained in; allowed: {', '.join(_PRECISIONS)}")


@dataclass(frozen=True)
class Record:
    """What is known after an update: a line of `metrics.jsonl`.

    Attributes:
        step: updates so far.
        progress: part of the run that is done, 0 to 1.
        seconds: since the first update began.
        loss: of the latest update.
        rate: learning rate of it.
        scores: on the held-out sections, where they were looked at after this update.
    """

    step: int
    progress: float
    seconds: float
    loss: float
    rate: float
    scores: Scores | None = None


class Trainer:
    """Trains a U-Net on a data set; `run` yields a record after every update.

    Args:
        data: labelled sections.
        settings: how.

    Raises:
        PlanError, ModelError, DeviceError, DataError: settings or data that cannot be.
    """

    def __init__(self, data: Dataset, settings: TrainingSettings) -> None:
        settings.check()
        self.settings, self.data = settings, data
        self.device = choose_device(settings.device)
        self.precision = choose_precision(self.device, settings.precision)
        self.sections, self.held_out = data.split(settings.validation)
        self.normalisation = normalisation_of(self.sections)
        torch.manual_seed(settings.seed)
        self.arguments: dict[str, Any] = {
            "in_channels": len(self.normalisation.mean),
            "classes": len(data.classes),
            "depth": 4 if settings.depth is None else settings.depth,
            "base": 32 if settings.base is None else settings.base,
            "dropout": settings.dropout,
        }
        self.init = None if settings.init is None else Model.load(settings.init)
        if self.init is not None:
            self.normalisation = self.init.header.normalisation
            self.arguments |= _fitting_arguments(self.init.header, self.arguments, settings)
        self.weights = _class_weights(settings.class_weights, len(data.classes), self.device)
        self.network = build_network("unet", self.arguments).to(self.device)
        if self.init is not None:
            self.network.load_state_dict(self.init.network.state_dict())
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        view = self.network.field_of_view
        assert isinstance(view, FieldOfView)
        self.view = view
        self.view.step_of(settings.tile)  # raises where the network cannot take such a tile
        # early on the average follows closely, later it looks back over a thousand updates
        self.average = AveragedModel(self.network, avg_fn=lambda mean, new, n: mean.lerp(new, 1 - _decay(int(n))))
        self.record: Record | None = None

    def run(self) -> Iterator[Record]:
        """Trains until the budget is used up or the steps are done.

        Raises:
            DataError: the loss is no longer a number.
        """
        settings, start = self.settings, time.monotonic()
        optimiser = torch.optim.AdamW(self.network.parameters(), lr=settings.rate, weight_decay=1e-4)
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        images = [_normalised(section, self.normalisation) for section in self.sections]
        labels = [torch.from_numpy(section.label) for section in self.sections]
        step, progress, validated = 0, 0.0, 0
        while progress < 1:
            rate = settings.rate * _schedule(progress)
            for group in optimiser.param_groups:
                group["lr"] = rate
            loss = self._update(*self._examples(images, labels, step), optimiser, scaler)
            if not math.isfinite(loss):
                raise DataError(f"the loss became {loss} in step {step + 1}; try a lower learning rate")
            step, seconds = step + 1, time.monotonic() - start
            progress = self._progress(step, seconds)
            scores = None
            if self.held_out and int(progress * _VALIDATIONS) > validated:
                validated = int(progress * _VALIDATIONS)
                scores = self.scores()
            self.record = Record(step, progress, seconds, loss, rate, scores)
            yield self.record

    def _progress(self, step: int, seconds: float) -> float:
        """Part of the run that is done, 0 to 1."""
        if self.settings.steps is not None:
            return min(step / self.settings.steps, 1.0)
        return min(seconds / (self.settings.budget or _DEFAULT_BUDGET), 1.0)

    def _examples(self, images: Sequence[Tensor], labels: Sequence[Tensor], step: int) -> tuple[Tensor, Tensor]:
        """Inputs (B, C, T, T) and labels (B, t, t) of one update; the same for the same seed and step."""
        generator = torch.Generator().manual_seed(self.settings.seed * 2**32 + step)
        tile = self.settings.tile
        margin = self.view.before if self.view.crops else 0
        drawn = []
        for _ in range(self.settings.batch):
            n = int(torch.randint(len(images), (), generator=generator))
            augmentation = self.settings.augmentation
            drawn.append(draw_example(images[n], labels[n], tile, tile - 2 * margin, augmentation, generator))
        x, t = zip(*drawn, strict=True)
        inputs = torch.stack(x).to(self.device, memory_format=torch.channels_last)
        return inputs, torch.stack(t).to(self.device)

    def _update(
        self, x: Tensor, t: Tensor, optimiser: torch.optim.Optimizer, scaler: torch.amp.grad_scaler.GradScaler
    ) -> float:
        """One step of the optimiser; returns the loss."""
        half = self.precision in ("bf16", "fp16")
        with torch.autocast(self.device.type, PRECISIONS[self.precision], enabled=half):
            logits = self.network(x)
        loss = cross_entropy_dice(logits, t, self.weights)
        optimiser.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.unscale_(optimiser)
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        scaler.step(optimiser)
        scaler.update()
        self.average.update_parameters(self.network)
        return float(loss.detach())

    def model(self) -> Model:
        """The averaged weights so far, with the record of the run."""
        header = ModelHeader(
            network="unet",
            arguments=self.arguments,
            classes=self.data.classes,
            normalisation=self.normalisation,
            pixel_size=self.data.pixel_size,
            name=self.settings.name,
            licence=self.settings.licence,
            training=self._provenance(),
        )
        network = build_network("unet", self.arguments)
        network.load_state_dict({name: value.cpu() for name, value in self.average.module.state_dict().items()})
        return Model(header, network.requires_grad_(False).eval())

    def scores(self) -> Scores:
        """Of the averaged weights, on the held-out sections, each predicted whole through the tiled engine."""
        return validate(self.model(), self.held_out, self.device, self.settings.tile)

    def _provenance(self) -> dict[str, Any]:
        record: dict[str, Any] = {}
        if self.record is not None:
            record = {"steps": self.record.step, "seconds": round(self.record.seconds, 1)}
        if self.init is not None:
            header = self.init.header
            record["init"] = {"weights_sha256": header.weights_sha256, "training": dict(header.training)}
        return record | {
            "settings": asdict(self.settings),
            "sections": [section.name for section in self.sections],
            "held_out": [section.name for section in self.held_out],
            "versions": {"tilesegment": version("tilesegment"), "torch": torch.__version__},
        }


def _fitting_arguments(init: ModelHeader, wanted: Mapping[str, Any], settings: TrainingSettings) -> dict[str, Any]:
    """Depth and base of the model that training starts from.

    Raises:
        PlanError: it takes other images, tells other classes apart, or is of another size than was asked for.
    """
    for key, what in (("in_channels", "channels"), ("classes", "classes")):
        if init.arguments[key] != wanted[key]:
            raise PlanError(f"init {settings.init} has {init.arguments[key]} {what}, the data have {wanted[key]}")
    for key in ("depth", "base"):
        if getattr(settings, key) not in (None, init.arguments[key]):
            raise PlanError(f"init {settings.init} has {key} {init.arguments[key]}; leave {key} out, or init")
    return {key: init.arguments[key] for key in ("depth", "base")}


def _class_weights(weights: tuple[float, ...] | None, classes: int, device: torch.device) -> Tensor | None:
    if weights is None:
        return None
    if len(weights) != classes or not all(0 < weight <= 1e4 for weight in weights):
        raise PlanError(f"class_weights {weights}: expected {classes} positive numbers, one a class")
    return torch.tensor(weights, dtype=torch.float32, device=device)


def _normalised(section: Section, scale: Normalisation) -> Tensor:
    """The section's image (C, H, W) as the network sees it, float32."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (scale.mean, scale.std))
    return (torch.tensor(section.image, dtype=torch.float32) - mean) / std


def _schedule(progress: float, warm_up: float = 0.04) -> float:
    """Learning rate in parts of the highest: linear warm-up, then half a cosine down to 1 %."""
    if progress < warm_up:
        return 0.05 + 0.95 * progress / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2


def _decay(updates: int) -> float:
    return min(0.998, (1 + updates) / (10 + updates))
