"""Images and models for predictions at a chosen pixel size."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import torch
import zarr
from conftest import noise, toy_model
from torch import Tensor, nn

from tilesegment import Region
from tilesegment.images import ResampledSource
from tilesegment.metadata import PixelSize
from tilesegment.models.any_module import model_of
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model

SETTINGS: dict[str, Any] = {"tile": 88, "precision": "fp32", "block": 96}
LINE = "predict {} -m scaled.safetensors --tile 88 --precision fp32 "


def with_sizes(model: Model, **sizes: Any) -> Model:
    return Model(replace(model.header, **sizes), model.network)


SCALED = with_sizes(toy_model(), pixel_size=PixelSize(0.5, 0.5), diameter=20.0)


class Bright(nn.Module):
    """Class 1 where a pixel is brighter than half of white: a blob of the image is a blob of the mask."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 1, H, W) -> (N, 2, H, W)."""
        return torch.cat([128 - x, x - 128], 1)


def bright(**sizes: Any) -> Model:
    grey = Normalisation((0.0,), (1.0,), "uint8")
    return with_sizes(model_of(Bright(), channels=1, classes=["dark", "bright"], normalisation=grey), **sizes)


def ids_of(mask: Path) -> np.ndarray:
    return np.asarray(zarr.open_group(mask, mode="r")["0"])


def crop(source: ResampledSource) -> np.ndarray:
    return source.read(Region.of_shape(source.levels[source.own].shape), source.own)


Y, X = (40, 120), (80, 200)  # pixels of level 0


def rectangle() -> np.ndarray:
    pixels = np.full((1, 200, 280), 20, np.uint8)
    pixels[0, slice(*Y), slice(*X)] = 236
    return pixels


def centre(low: int, high: int) -> float:
    """Of the rectangle along an axis, where 0 is the centre of the first pixel."""
    return (low + high) / 2 - 0.5


def make_slide(folder: Path) -> Path:
    """Noise of 0.365 um per pixel, and without a size; a model that wants 0.5 um beside it."""
    SCALED.save(folder / "scaled.safetensors")
    micrometres: dict[str, Any] = {"resolution": (1e4 / 0.365, 1e4 / 0.365), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(folder / "fine.tif", noise((300, 420)), tile=(64, 64), **micrometres)
    tifffile.imwrite(folder / "bare.tif", noise((300, 420)), tile=(64, 64))
    return folder / "fine.tif"
