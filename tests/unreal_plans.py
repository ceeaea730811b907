"""Plans for images and networks that exist in name only: no pixel is read, nothing is predicted."""

from math import ceil
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from conftest import toy_model

from tilesegment.geometry import FieldOfView, Region
from tilesegment.images.source import ImageSource, Level
from tilesegment.models.model import Model
from tilesegment.prediction.plan import Plan, make_plan
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.tiling import Machine

PAPER = FieldOfView(divisor=16, before=92, after=96, crops=True)


class Unreal(ImageSource):
    """An image of any size without pixels."""

    cache_bytes = 0

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        raise AssertionError("a plan reads no pixel")

    def close(self) -> None:
        pass


def image_of(
    shape: tuple[int, int] = (10_000, 8_000),
    *,
    levels: tuple[Level, ...] = (),
    depth: int | None = None,
    channels: int = 1,
    dtype: str = "uint8",
    path: str = __file__,  # of any file
) -> Unreal:
    """An image of `shape`, or of `levels`."""
    return Unreal(path, "TIFF", levels or (Level(shape, (1.0, 1.0)),), depth, channels, np.dtype(dtype))


def network_of(
    view: FieldOfView = PAPER,
    *,
    channels: int = 1,
    classes: int = 2,
    weights: int = 31_000_000,
    pixel_bytes: int = 1536,
    dtype: str = "uint8",
) -> Model:
    """A model with this field of view and so many weights, which nothing can run."""
    header = toy_model(channels=channels, classes=classes, dtype=dtype).header
    network = SimpleNamespace(
        parameters=lambda: [torch.empty(weights, device="meta")], values_per_pixel=ceil(pixel_bytes / 4)
    )
    unreal: Any = SimpleNamespace(header=header, field_of_view=view, network=network)
    return unreal


def plan_of(
    image: ImageSource | None = None, model: Model | None = None, machine: Machine | None = None, **settings: Any
) -> Plan:
    """The plan for an image with these settings; without arguments for 80 megapixels and the paper's U-Net."""
    return make_plan(
        image_of() if image is None else image,
        network_of() if model is None else model,
        Settings(**settings),
        Machine("cpu", "fp32") if machine is None else machine,
    )
