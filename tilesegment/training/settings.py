"""All settings of a training, with defaults and bounds."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

from tilesegment.errors import PlanError, option
from tilesegment.prediction.settings import check_names
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.losses import Loss

# each with the highest learning rate that suits it
OPTIMISERS = {"muon": 3e-3, "adamw": 1e-3, "sgd": 1e-3}
GOAL_NAMES = {"v_rand": "V_Rand", "dice": "Dice", "miou": "mIoU", "pq": "PQ"}
DEFAULT_BUDGET = 20 * 60.0

# lowest and highest value of settings and augmentation
BOUNDS: dict[str, tuple[float, float]] = {
    name: bounds
    for names, bounds in {
        "budget steps epochs": (1, math.inf),
        "batch": (1, 1024),
        "mpp source_mpp": (1e-6, 1e6),
        "rate": (1e-9, 10),
        "ema": (0, 0.99999),
        "border_weight": (0, 1e4),
        "border_sigma": (0.1, 1e3),
        "validation": (0, 0.9),
        "halo": (0, 65_536),
        "threshold": (0.001, 0.999),
        "seed": (0, 2**31),
        "workers": (0, 256),
        "elastic_sigma": (0, 1000),
        "elastic_grid": (4, math.inf),
        "zoom gamma": (1, 10),
        "contrast defects jpeg": (0, 1),
        "exposure": (1, 100),
        "stains": (0, 3),
        "brightness": (0, math.inf),
        "noise shades": (0, 10),
        "blur": (0, 20),
    }.items()
    for name in names.split()
}
CHOICES: dict[str, tuple[str, ...]] = {
    "precision": ("auto", "fp32", "bf16", "fp16"),
    "optimiser": tuple(OPTIMISERS),
    "goal": ("auto", *GOAL_NAMES),
    "normalise": ("auto", "fixed", "percentiles"),
}


@dataclass(frozen=True)
class TrainingSettings:
    """Settings of a training. The defaults suit about thirty images and twenty minutes on a laptop.

    Attributes:
        budget: seconds of wall clock; 20 minutes if `steps` and `epochs` are None, too.
        steps: number of updates, instead of a budget; makes the run reproducible.
        epochs: instead, number of examples drawn, divided by the number of sections.
        network: name in `networks.NETWORKS`; None is the network of `init`, or `unet`.
        options: of the network, see `networks.options_of`; the rest are those of `init`, `DEFAULT_OPTIONS`, or its own.
        padded: train a network that crops, such as `unet`, with padded convolutions, so that all pixels of a tile
            count; None is so for labels of instances and sparse ones, see `defaults`.
        base, depth, dropout: options that many networks have; 64, 4 and 0.5 in the paper. See `defaults.settle`.
        halo: context of a tile in pixels, if the exact one is too large or there is none; kept in the model.
        tile: side of the network's input; None is about 572, or 444 on a CPU in fp32, or smaller: see `defaults`.
        batch: examples per update; None is as many as make the pixels of a usual tile.
        normalise: `fixed`, one mean and spread for all images, `percentiles`, of each image, for fluorescence of any
            exposure; `auto` is percentiles for instances on dark ground.
        optimiser: `muon`, which needs fewer updates, `adamw`, or `sgd` with momentum 0.99 as in the paper.
        rate: highest learning rate; None is that of `OPTIMISERS`.
        ema: decay of the exponential moving average of the weights, which is what is kept; 0 means no average.
        loss: names of losses joined by `+`: see `losses.Loss`.
        class_weights: one per class, or `auto` for the inverse of their shares of the pixels.
        border_weight, border_sigma: w0 and sigma (pixels) of `losses.border_weights`; 10 and 5 in the paper, 0 is none.
            None is 5 and 3 for labels of instances, else 0 and 5.
        init: model to start from, file or bundled name; layers for classes that it lacks start at random.
        mpp: side of a pixel in micrometres, to which each image and its label are resampled; None trains in pixels.
        source_mpp: that of the training images, where the files do not say it or are wrong.
        scale: 1, 1/2, 1/3, ...: train, and later predict, on images reduced to this.
        validation: share of the sections to hold out, the last ones, or their names.
        goal: score that judges the model: `v_rand` (cells), `dice` (of class 1), `miou`, `pq` (instances); `auto` looks
            at the labels.
        threshold: for two classes, the probability of class 1 that becomes 1/2; None is the best on held-out sections.
        seed: of weights, examples and dropout.
        device, precision: as for prediction.
        workers: processes that draw examples; None is 0 on a CPU, else up to 4.
        augmentation: how to vary examples.
        name, licence: recorded in the model.
    """

    budget: float | None = None
    steps: int | None = None
    epochs: int | None = None
    network: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    padded: bool | None = None
    base: int | None = None
    depth: int | None = None
    dropout: float | None = None
    halo: int | None = None
    tile: int | None = None
    batch: int | None = None
    normalise: str = "auto"
    optimiser: str = "muon"
    rate: float | None = None
    ema: float = 0.998
    loss: str = "ce+dice"
    class_weights: tuple[float, ...] | str | None = None
    border_weight: float | None = None
    border_sigma: float | None = None
    init: str | None = None
    mpp: float | None = None
    source_mpp: float | None = None
    scale: float = 1.0
    validation: float | tuple[str, ...] = 0.2
    goal: str = "auto"
    threshold: float | None = None
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    workers: int | None = None
    augmentation: Augmentation = field(default_factory=Augmentation)
    name: str = ""
    licence: str = ""

    def check(self) -> None:
        """Check the values.

        Raises:
            PlanError: a value is not allowed, or two exclude each other.
        """
        lengths = [key for key in ("budget", "steps", "epochs") if getattr(self, key) is not None]
        if len(lengths) > 1:
            raise PlanError(f"{' and '.join(map(option, lengths))} exclude each other; give one of them")
        values = self.flat()
        for key, (low, high) in BOUNDS.items():
            value = values[key]
            if value is not None and not isinstance(value, tuple) and not low <= value <= high:
                limits = f"{low:g} or more" if high == math.inf else f"{low:g} to {high:g}"
                raise PlanError(f"{option(key)} is {value}; allowed: {limits}")
        for key, allowed in CHOICES.items():
            if values[key] not in allowed:
                raise PlanError(f"{option(key)} is {values[key]!r}; allowed: {', '.join(allowed)}")
        if isinstance(self.class_weights, str) and self.class_weights != "auto":
            raise PlanError(f"--class-weights is {self.class_weights!r}; allowed: auto, or one number per class")
        Loss(self.loss)
        self.reduction  # noqa: B018 - raises

    @property
    def reduction(self) -> int:
        """Image pixels, along an axis, per pixel that the network sees: 1 / scale."""
        factor = round(1 / self.scale) if 0 < self.scale <= 1 else 0
        if not (1 <= factor <= 16 and math.isclose(self.scale * factor, 1, rel_tol=0.01)):
            raise PlanError(f"--scale is {self.scale}; allowed: 1, 0.5, 0.333, 0.25, ... 1/16")
        return factor

    @property
    def highest_rate(self) -> float:
        """The highest learning rate."""
        return OPTIMISERS[self.optimiser] if self.rate is None else self.rate

    def to_json(self) -> dict[str, Any]:
        """Return all values, for `from_json`."""
        return asdict(self)

    def flat(self) -> dict[str, Any]:
        """Return all values, with those of the augmentation on the same level."""
        given = self.to_json()
        return {**given.pop("augmentation"), **given}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Build settings from `to_json` or `flat`, or from some of the values and defaults for the rest.

        Raises:
            PlanError: no such setting.
        """
        own, inner = ({one.name for one in fields(kind)} for kind in (cls, Augmentation))
        check_names(given, sorted(own | inner))
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in own}
        augmentation = plain.pop("augmentation", Augmentation())
        if isinstance(augmentation, Mapping):
            augmentation = Augmentation(**augmentation)
        assert isinstance(augmentation, Augmentation)
        varied = replace(augmentation, **{key: value for key, value in given.items() if key in inner})
        return cls(**plain, augmentation=varied)


# If updates are slow, their number matters more than the width of the network: with a quarter of the weights and
# smaller tiles there are five times as many in the same time.
SLOW_BASE = 16
TILE, SLOW_TILE = 572, 444

# options for training from random weights that suit a laptop better than the networks' defaults
DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {
    "unet": {"base": 32, "dropout": 0.1},
    "unet-same": {"base": 32},
    "unet-strided": {"base": 32},
}

# the recipe of the U-Net paper (arXiv:1505.04597); without a learning rate there: its code had 0.001, a summed loss
PRESETS: dict[str, dict[str, Any]] = {
    "paper": {
        "base": 64,
        "depth": 4,
        "dropout": 0.5,
        "tile": 572,
        "batch": 1,
        "optimiser": "sgd",
        "rate": 1e-3,
        "ema": 0.0,
        "loss": "ce",
        "class_weights": "auto",
        "border_weight": 10.0,
        "border_sigma": 5.0,
        "padded": False,
        "elastic_sigma": 10.0,
        "elastic_grid": None,
        "shades": 0.0,
    }
}
