"""Normalisation of grey values: by the training images or by this image, never per tile."""

from typing import TYPE_CHECKING

import numpy as np

from tilesegment.errors import ImageError, PlanError
from tilesegment.geometry import FieldOfView, TileGrid
from tilesegment.images.source import ImageSource
from tilesegment.models.header import Normalisation

if TYPE_CHECKING:
    from tilesegment.prediction.plan import Plan

_SAMPLES, _SAMPLE_SIDE = 64, 512


def choose_normalisation(trained: Normalisation, source: ImageSource, plan: "Plan") -> Normalisation:
    """Choose the normalisation of a run: one for all tiles, as one per tile would show as seams.

    Raises:
        PlanError: the image is of another dtype than the model was trained on, or stores integers that are read as
            float32, whose range no model knows.
        ImageError: the image is to be scaled by itself, and is constant or holds NaN.
    """
    is_foreign = trained.dtype != str(source.dtype) or (source.dtype.kind == "f" and source.stored_dtype.kind != "f")
    if plan.settings.normalise == "image":
        return _measure(source, plan, "" if is_foreign else ", or leave out --normalise image")
    if is_foreign:
        raise PlanError(
            f"{source.path} is {source.stored_dtype}, the model was trained on {trained.dtype}: its grey values mean "
            "something else; use --normalise image to scale by this image's own mean and spread"
        )
    return trained


def _measure(source: ImageSource, plan: "Plan", otherwise: str) -> Normalisation:
    """Measure mean and std of each channel over at most 64 windows of 512 px, spread evenly over the prediction."""
    # windows are the tiles of a network that needs no context
    grid = TileGrid(plan.region, _SAMPLE_SIDE, _SAMPLE_SIDE, FieldOfView(1, 0, 0, True))
    count = len(plan.planes) * len(grid)
    sums = np.zeros((3, len(plan.channels)))
    for n in sorted({round(n) for n in np.linspace(0, count - 1, min(count, _SAMPLES))}):
        plane, place = divmod(n, len(grid))
        region = grid.at(*divmod(place, grid.shape[1])).write
        pixels = source.read(region, plan.level, plan.planes[plane])[list(plan.channels)].astype(np.float64)
        sums += [np.full(len(pixels), region.area), pixels.sum((1, 2)), (pixels**2).sum((1, 2))]
    mean = sums[1] / sums[0]
    std = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
    advice = "choose a part with --roi, or other --channels"
    if not np.isfinite(std).all():
        raise ImageError(f"{source.path} holds NaN or infinity and cannot be scaled by its mean; {advice}")
    # rounding leaves a constant channel a spread of about 1e-8 of its value
    if np.any(std <= 1e-6 * np.abs(mean)):
        if source.stored_dtype != source.dtype:
            raise ImageError(
                f"{source.path} holds {source.stored_dtype} of which a channel is constant, or spans too little to be "
                "resolved in float32: subtract the smallest value and save it as uint16 or float32"
            )
        raise ImageError(f"{source.path} is constant in a channel and has no spread to scale by; {advice}{otherwise}")
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)), str(source.dtype))
