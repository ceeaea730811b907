"""The settings of training as keywords of functions: the fields of `TrainingSettings` and `Augmentation`."""

from collections.abc import Mapping
from typing import Any, TypedDict

from tilesegment.training.augmentation import Augmentation


class AugmentationKeywords(TypedDict, total=False):
    """The fields of `Augmentation`."""

    elastic_sigma: float
    elastic_grid: float | None
    rotation: bool
    flip: bool
    zoom: float | None
    contrast: float
    brightness: float
    gamma: float
    noise: float
    blur: float
    defects: float
    shades: float | None
    exposure: float | None
    stains: float | None
    jpeg: float | None


class TrainingKeywords(AugmentationKeywords, total=False):
    """The fields of `TrainingSettings` but `network`; a budget may be a text such as `20m`."""

    budget: float | str | None
    steps: int | None
    epochs: int | None
    options: Mapping[str, Any]
    padded: bool | None
    base: int | None
    depth: int | None
    dropout: float | None
    halo: int | None
    tile: int | None
    batch: int | None
    normalise: str
    optimiser: str
    rate: float | None
    ema: float
    loss: str
    class_weights: tuple[float, ...] | str | None
    border_weight: float | None
    border_sigma: float | None
    init: str | None
    mpp: float | None
    source_mpp: float | None
    scale: float
    validation: float | tuple[str, ...]
    goal: str
    threshold: float | None
    seed: int
    device: str
    precision: str
    workers: int | None
    augmentation: Augmentation
    name: str
    licence: str
