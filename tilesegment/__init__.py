"""Segments images larger than memory, tile by tile, without seams.

>>> import tilesegment
>>> tilesegment.predict("slide.tif", "mask.zarr", tile=572)  # doctest: +SKIP

What the command line does is one call each: `predict`, `find_objects`, `train`, `evaluate`, `verify`, `describe` and
others, see docs/python.md. The names below are the public ones; they are imported when they are first used, so that
importing the package takes no time.
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
    from tilesegment.masks import open_mask, status
    from tilesegment.models import bundled_models
    from tilesegment.models.any_module import model_of
    from tilesegment.models.export import export
    from tilesegment.models.importing import import_weights
    from tilesegment.models.model import Model
    from tilesegment.networks import describe_network
    from tilesegment.objects.find import Objects, find_objects
    from tilesegment.objects.summary import summarise
    from tilesegment.prediction.benchmark import bench
    from tilesegment.prediction.info import describe
    from tilesegment.prediction.job import Job
    from tilesegment.prediction.plan import Plan
    from tilesegment.prediction.predict import predict
    from tilesegment.prediction.result import Result
    from tilesegment.prediction.seams import verify
    from tilesegment.prediction.settings import Settings
    from tilesegment.prediction.suggesting import suggest
    from tilesegment.prediction.tissue_mask import write_tissue
    from tilesegment.preview import draw_preview
    from tilesegment.scoring import Evaluation, evaluate
    from tilesegment.training import train

    __version__: str

_WHERE = {
    "Cluster": "cluster",
    "Evaluation": "scoring",
    "Job": "prediction.job",
    "Model": "models.model",
    "Objects": "objects.find",
    "Plan": "prediction.plan",
    "Result": "prediction.result",
    "Settings": "prediction.settings",
    "bench": "prediction.benchmark",
    "bundled_models": "models",
    "describe": "prediction.info",
    "describe_network": "networks",
    "draw_preview": "preview",
    "evaluate": "scoring",
    "export": "models.export",
    "find_objects": "objects.find",
    "import_weights": "models.importing",
    "model_of": "models.any_module",
    "open_image": "images",
    "open_mask": "masks",
    "predict": "prediction.predict",
    "status": "masks",
    "suggest": "prediction.suggesting",
    "summarise": "objects.summary",
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
    "__version__",
    "bench",
    "bundled_models",
    "describe",
    "describe_network",
    "draw_preview",
    "evaluate",
    "export",
    "find_objects",
    "import_weights",
    "model_of",
    "open_image",
    "open_mask",
    "predict",
    "status",
    "suggest",
    "summarise",
    "train",
    "verify",
    "write_tissue",
]


def __getattr__(name: str) -> Any:
    """A public name, imported on first use and kept."""
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version(__name__)
    elif name in _WHERE:
        found = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """All public names, imported or not, and what every module has: what Tab shows."""
    return sorted({*__all__, *(name for name in globals() if name.startswith("__"))})
