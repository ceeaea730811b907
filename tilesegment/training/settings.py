"""How a model is trained: every choice, its default and its bounds."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

from tilesegment.errors import PlanError, option
from tilesegment.prediction.settings import check_names
from tilesegment.training.augmentation import Augmentation
from tilesegment.training.losses import Loss

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
# and the highest learning rate that suits each
OPTIMISERS = {"muon": 3e-3, "adamw": 1e-3, "sgd": 1e-3}
GOAL_NAMES = {"v_rand": "V_Rand", "dice": "Dice", "miou": "mIoU"}
GOALS = ("auto", *GOAL_NAMES)
DEFAULT_BUDGET = 20 * 60.0


@dataclass(frozen=True)
class TrainingSettings:
    """How a model is trained. The defaults suit some thirty images and twenty minutes on a laptop.

    Attributes:
        budget: seconds of wall clock; None with `steps` and `epochs` None is 20 minutes.
        steps: number of updates, instead of a budget; then the run is reproducible.
        epochs: how often as many examples are drawn as there are sections, instead.
        network: a name of `networks.NETWORKS`; None is that of `init`, or `unet`.
        options: of the network, see `networks.options_of`; those not named are `DEFAULT_OPTIONS`, `init`'s, or its own.
        base, depth, dropout: three of these options, which many networks have; 64, 4 and 0.5 in the paper. Where
            `DEFAULT_OPTIONS` names a base, it is `SLOW_BASE` on a CPU that trains in fp32: see `settled`.
        halo: context of a tile, pixels, where what makes tiles exact is too large, or nothing does; kept in the model.
        tile: side of the network's input; None is 572, or 444 on a CPU that trains in fp32, or what corresponds to it
            at `scale` and fits the network.
        batch: examples an update.
        optimiser: `muon`, which learns from fewer updates, `adamw`, or `sgd` with momentum 0.99 as in the paper.
        rate: highest learning rate; None is that of `OPTIMISERS`.
        ema: decay of the exponential moving average of the weights, which is what is kept; 0 is the weights themselves.
        loss: names of losses joined by `+`: see `losses.Loss`.
        class_weights: of the classes in the losses a pixel, or `auto`: the inverse of their shares of the pixels.
        border_weight, border_sigma: w0 and sigma (pixels) of the paper's weight map between close cells; a cell is a
            connected region of any class but the first. 10 and 5 in the paper; w0 = 0 is no map.
        init: model, file or bundled name, whose weights training starts from; None starts at random. If it tells
            another number of classes apart than there are in the data, the layers that do so start at random.
        scale: 1, 1/2, 1/3, ...: train, and later predict, on images reduced to this.
        validation: share of the sections that is held out, the last ones, or the names of those to hold out.
        goal: what the model is judged by: `v_rand` (cells), `dice` (of class 1), `miou`; `auto` sees what fits.
        threshold: two classes: the probability of class 1 above which a pixel is one, put into the finished network
            as its 1/2; None is the best by `goal` on what is held out.
        seed: of weights, examples and dropout.
        device, precision: as for prediction.
        workers: processes that draw examples; None is none on a CPU, which has no core to spare, else up to 4.
        augmentation: how examples are varied.
        name, licence: recorded in the model.
    """

    budget: float | None = None
    steps: int | None = None
    epochs: int | None = None
    network: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    base: int | None = None
    depth: int | None = None
    dropout: float | None = None
    halo: int | None = None
    tile: int | None = None
    batch: int = 1
    optimiser: str = "muon"
    rate: float | None = None
    ema: float = 0.998
    loss: str = "ce+dice"
    class_weights: tuple[float, ...] | str | None = None
    border_weight: float = 0.0
    border_sigma: float = 5.0
    init: str | None = None
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
        """Whether the values can be.

        Raises:
            PlanError: they cannot; says which.
        """
        lengths = [key for key in ("budget", "steps", "epochs") if getattr(self, key) is not None]
        if len(lengths) > 1:
            raise PlanError(f"{' and '.join(map(option, lengths))} exclude each other; give one of them")
        bounds: dict[str, tuple[float, float]] = {
            "budget": (1, math.inf),
            "steps": (1, math.inf),
            "epochs": (1, math.inf),
            "batch": (1, 1024),
        }
        bounds |= {"rate": (1e-9, 10), "ema": (0, 0.99999), "border_weight": (0, 1e4), "border_sigma": (0.1, 1e3)}
        bounds |= {
            "validation": (0, 0.9),
            "halo": (0, 65_536),
            "threshold": (0.001, 0.999),
            "seed": (0, 2**31),
            "workers": (0, 256),
        }
        for key, (low, high) in bounds.items():
            value = getattr(self, key)
            if value is not None and not isinstance(value, tuple) and not low <= value <= high:
                raise PlanError(f"{option(key)} is {value}; allowed: {low:g} to {high:g}")
        for key, allowed in (("precision", PRECISIONS), ("optimiser", tuple(OPTIMISERS)), ("goal", GOALS)):
            if getattr(self, key) not in allowed:
                raise PlanError(
                    f"{option(key)} {getattr(self, key)!r} cannot be trained with; allowed: {', '.join(allowed)}"
                )
        if isinstance(self.class_weights, str) and self.class_weights != "auto":
            raise PlanError(f"--class-weights {self.class_weights!r}; allowed: auto, or one number a class")
        Loss(self.loss)
        self.augmentation.check()
        self.reduction  # noqa: B018 - raises

    @property
    def reduction(self) -> int:
        """Pixels of an image, along an axis, for one that the network sees: 1 / scale."""
        factor = round(1 / self.scale) if 0 < self.scale <= 1 else 0
        if not (1 <= factor <= 16 and math.isclose(self.scale * factor, 1, rel_tol=0.01)):
            raise PlanError(f"--scale is {self.scale}; allowed: 1, 0.5, 0.333, 0.25, ... 1/16")
        return factor

    @property
    def highest_rate(self) -> float:
        """The learning rate at its highest."""
        return OPTIMISERS[self.optimiser] if self.rate is None else self.rate

    def to_json(self) -> dict[str, Any]:
        """All values, as `from_json` takes them."""
        return asdict(self)

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> "TrainingSettings":
        """The settings that `to_json` gave, or some of them; the augmentation may be given flat, by its own names.

        Raises:
            PlanError: there is no such setting.
        """
        own, inner = ({one.name for one in fields(kind)} for kind in (cls, Augmentation))
        assert not own & inner, "a name that both have would say two things"
        check_names(given, sorted(own | inner))
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in own}
        augmentation = plain.pop("augmentation", Augmentation())
        if isinstance(augmentation, Mapping):
            augmentation = Augmentation(**augmentation)
        assert isinstance(augmentation, Augmentation)
        varied = replace(augmentation, **{key: value for key, value in given.items() if key in inner})
        return cls(**plain, augmentation=varied)


# where updates are slow, their number counts for more than the width of the network: with a quarter of the weights and
# smaller tiles there are five times as many in the same time
SLOW_BASE = 16
TILE, SLOW_TILE = 572, 444

# of networks that training starts at random, where a laptop is better served than by the networks' own
DEFAULT_OPTIONS: dict[str, dict[str, Any]] = {
    "unet": {"base": 32, "dropout": 0.1},
    "unet-same": {"base": 32},
    "unet-strided": {"base": 32},
}

# the recipe of the U-Net paper (arXiv:1505.04597); it names no learning rate, its release had 0.001 with a summed loss
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
        "elastic_sigma": 10.0,
        "elastic_grid": None,
        "shades": 0.0,
    }
}
