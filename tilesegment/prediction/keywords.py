"""The settings as keywords of functions, so that a type checker refuses `tile="five"` and `tyle=3`.

They are the fields of `Settings`, `Outputs` and `Wanted`, with their types; a test holds them equal.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from tilesegment.geometry import Region
from tilesegment.objects.settings import ObjectSettings
from tilesegment.stores import Options, Place


class TilingKeywords(TypedDict, total=False):
    """The fields of `Settings` that every function of prediction takes."""

    axes: str | None
    select: Mapping[str, int] | None
    series: int | None
    invert: bool
    tile: int | None
    batch: int | None
    block: int | None
    runtime: str
    roi: Region | str | Path | None
    level: int
    diameter: float | None
    mpp: float | str | None
    source_mpp: float | None
    z: tuple[int, int] | None
    channels: tuple[int, ...] | None
    halo: int | None
    prune: int | None
    threshold: float | None
    tta: bool
    normalise: str
    skip_empty: str | None
    part: tuple[int, int] | None
    store_options: Options


class SettingsKeywords(TilingKeywords, total=False):
    """The fields of `Settings` but `model`."""

    device: str
    precision: str


class PredictKeywords(SettingsKeywords, total=False):
    """The fields of `Settings` but `model`, and those of `Outputs` that say what is written besides the mask."""

    probabilities: str | Place | None
    preview: str | Path | None
    ngff: str
    overwrite: bool
    probabilities_dtype: str
    heatmap: str | Path | None
    heatmap_class: str | None
    object_settings: ObjectSettings | Mapping[str, Any]
    measure_image: bool
    keep_object_record: bool


class PredictObjectsKeywords(PredictKeywords, total=False):
    """The same with the files for objects: one or several."""

    objects: str | Path | Sequence[str | Path]


class WantedKeywords(TypedDict, total=False):
    """The fields of `Wanted`, of `suggest`."""

    count: int
    size: int
    measure: str
    roi: Region | str | Path | None
    labels: str | Path | None
    distance: float | None
    sample: int | None
    seed: int
    device: str
    precision: str
