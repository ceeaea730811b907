"""Segments images larger than memory, tile by tile, without seams.

>>> import tilesegment
>>> tilesegment.predict("slide.tif", "mask.zarr", tile=572)  # doctest: +SKIP

What the command line does is one call each: `predict`, `find_objects`, `train`, `evaluate`, `verify`, `describe`. The
names below are the public ones; they are imported when they are first used, so that importing the package takes no
time.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from tilesegment.errors import (
    ClusterError,
    DataError,
    DeviceError,
    ImageError,
    MaskError,
    ModelError,
    PlanError,
    StoppedError,
    TilesegmentError,
)
from tilesegment.geometry import FieldOfView, Region
from tilesegment.metadata import LabelClass, PixelSize

if TYPE_CHECKING:
    from tilesegment.cluster import Cluster
    from tilesegment.images import open_image
    from tilesegment.masks import open_mask
    from tilesegment.models.any_module import model_of
    from tilesegment.models.model import Model
    from tilesegment.objects.find import Objects, find_objects
    from tilesegment.prediction.info import describe
    from tilesegment.prediction.job import Job
    from tilesegment.prediction.plan import Plan
    from tilesegment.prediction.predict import predict
    from tilesegment.prediction.result import Result
    from tilesegment.prediction.seams import verify
    from tilesegment.prediction.settings import Settings
    from tilesegment.prediction.tissue_mask import write_tissue
    from tilesegment.scoring import Evaluation, evaluate
    from tilesegment.training import train

_WHERE = {
    "Cluster": "cluster",
    "Evaluation": "scoring",
    "Job": "prediction.job",
    "Model": "models.model",
    "Objects": "objects.find",
    "Plan": "prediction.plan",
    "Result": "prediction.result",
    "Settings": "prediction.settings",
    "describe": "prediction.info",
    "evaluate": "scoring",
    "find_objects": "objects.find",
    "model_of": "models.any_module",
    "open_image": "images",
    "open_mask": "masks",
    "predict": "prediction.predict",
    "train": "training",
    "verify": "prediction.seams",
    "write_tissue": "prediction.tissue_mask",
}

__all__ = [
    "Cluster",
    "ClusterError",
    "DataError",
    "DeviceError",
    "Evaluation",
    "FieldOfView",
    "ImageError",
    "Job",
    "LabelClass",
    "MaskError",
    "Model",
    "ModelError",
    "Objects",
    "PixelSize",
    "Plan",
    "PlanError",
    "Region",
    "Result",
    "Settings",
    "StoppedError",
    "TilesegmentError",
    "describe",
    "evaluate",
    "find_objects",
    "model_of",
    "open_image",
    "open_mask",
    "predict",
    "train",
    "verify",
    "write_tissue",
]


def __getattr__(name: str) -> Any:
    """A public name, imported on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
