"""Which grey values the network sees: those it was trained on, or those of this image. Never those of a tile."""

from dataclasses import dataclass

import numpy as np

from tilesegment.errors import ImageError, PlanError
from tilesegment.geometry import FieldOfView, Region, TileGrid
from tilesegment.images.source import ImageSource
from tilesegment.models.header import Normalisation

_SAMPLES = 64
_SAMPLE_SIDE = 512


@dataclass(frozen=True)
class Part:
    """The part of an image that is predicted: `region` of `level`, in some planes and channels."""

    region: Region
    level: int
    planes: range
    channels: tuple[int, ...]


def choose_normalisation(trained: Normalisation, source: ImageSource, part: Part, chosen: str) -> Normalisation:
    """The normalisation of a run: one for all tiles, as one per tile would show as seams.

    Args:
        trained: that of the model.
        source, part: what is predicted.
        chosen: `model` or `image`.

    Raises:
        PlanError: the image is of another dtype than the model was trained on, or stores integers that are read as
            float32, whose range no model knows.
        ImageError: it is to be measured, and is constant or holds NaN.
    """
    is_foreign = trained.dtype != str(source.dtype) or (source.dtype.kind == "f" and source.stored_dtype.kind != "f")
    if chosen == "image":
        return _measure(source, part, "" if is_foreign else ", or leave out --normalise image")
    if is_foreign:
        raise PlanError(
            f"{source.path} is {source.stored_dtype}, the model was trained on {trained.dtype}: its grey values mean "
            "something else; use --normalise image to scale by this image's own mean and spread"
        )
    return trained


def _measure(source: ImageSource, part: Part, otherwise: str) -> Normalisation:
    """Mean and std of each channel over at most 64 windows of 512 px, spread evenly over what is predicted."""
    # windows are the tiles of a network that needs no context
    grid = TileGrid(part.region, _SAMPLE_SIDE, _SAMPLE_SIDE, FieldOfView(1, 0, 0, True))
    count = len(part.planes) * len(grid)
    sums = np.zeros((3, len(part.channels)))
    for n in sorted({round(n) for n in np.linspace(0, count - 1, min(count, _SAMPLES))}):
        plane, place = divmod(n, len(grid))
        region = grid.at(*divmod(place, grid.shape[1])).write
        pixels = source.read(region, part.level, part.planes[plane])[list(part.channels)].astype(np.float64)
        sums += [np.full(len(pixels), region.area), pixels.sum((1, 2)), (pixels**2).sum((1, 2))]
    mean = sums[1] / sums[0]
    std = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
    advice = "choose a part with --roi, or other --channels"
    if not np.isfinite(std).all():
        raise ImageError(
            f"{source.path} holds NaN or infinity and has no mean or spread to scale by; replace them, or {advice}"
        )
    # rounding leaves a constant channel a spread of about 1e-8 of its value
    if np.any(std <= 1e-6 * np.abs(mean)):
        if source.stored_dtype != source.dtype:
            raise ImageError(
                f"{source.path} holds {source.stored_dtype} of which a channel is constant, or spans too little for so "
                "large values to differ in float32: subtract the smallest value and save it as uint16 or float32"
            )
        raise ImageError(f"{source.path} is constant in a channel and has no spread to scale by; {advice}{otherwise}")
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)), str(source.dtype))
