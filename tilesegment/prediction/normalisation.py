"""Normalisation of grey values: by the training images or by this image, never per tile."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tilesegment.errors import ImageError, PlanError
from tilesegment.geometry import FieldOfView, TileGrid
from tilesegment.images.limits import Limits, measure_limits
from tilesegment.images.source import ImageSource
from tilesegment.models.header import Normalisation

if TYPE_CHECKING:
    from tilesegment.prediction.plan import Plan

_SAMPLES, _SAMPLE_SIDE = 64, 512
_LONG = 5.0  # seconds of measuring that are told


@dataclass(frozen=True)
class Scaling:
    """The normalisation of a run, and where it comes from.

    Attributes:
        normalisation: of the grey values, fixed.
        percentiles, limits: of a model that scales by percentiles of the whole image, these, and for each channel the
            grey values there.
        notes: for the user.
    """

    normalisation: Normalisation
    percentiles: tuple[float, float] | None = None
    limits: Limits = ()
    notes: tuple[str, ...] = ()

    @property
    def record(self) -> dict[str, Any]:
        """What the mask records of it; nothing where the model's constants are used."""
        return {} if self.percentiles is None else {"percentiles": self.percentiles, "limits": self.limits}

    def lines(self) -> list[tuple[str, str]]:
        """Describe it in lines of label and text."""
        if self.percentiles is None:
            return []
        low, high = self.percentiles
        spans = ", ".join(f"{start:.6g} to {end:.6g}" for start, end in self.limits)
        return [("grey values", f"{spans} become 0 to 1, by the percentiles {low:g} and {high:g} of the whole image")]


def choose_normalisation(trained: Normalisation, source: ImageSource, plan: "Plan") -> Scaling:
    """Choose the normalisation of a run: one for all tiles, as one per tile would show as seams.

    Raises:
        PlanError: the image is of another dtype than the model was trained on, or stores integers that are read as
            float32, whose range no model knows.
        ImageError: the image is to be scaled by itself, and is constant or holds NaN; or it cannot be read.
    """
    if trained.percentiles is not None and plan.settings.normalise == "model":
        return _by_percentiles(trained, trained.percentiles, source, plan)
    is_foreign = trained.percentiles is None and _is_foreign(trained, source)
    if plan.settings.normalise == "image":
        return Scaling(_measure(source, plan, "" if is_foreign else ", or leave out --normalise image"))
    if is_foreign:
        raise PlanError(
            f"{source.path} is {source.stored_dtype}, the model was trained on {trained.dtype}: its grey values mean "
            "something else; use --normalise image to scale by this image's own mean and spread"
        )
    return Scaling(trained)


def _is_foreign(trained: Normalisation, source: ImageSource) -> bool:
    """Whether the grey values of an image mean something else than those of the training images."""
    return trained.dtype != str(source.dtype) or (source.dtype.kind == "f" and source.stored_dtype.kind != "f")


def _by_percentiles(
    trained: Normalisation, percentiles: tuple[float, float], source: ImageSource, plan: "Plan"
) -> Scaling:
    """Measure percentiles of the whole image, whatever part of it is predicted."""
    start = time.monotonic()
    found = measure_limits(source, percentiles, plan.channels)
    seconds, notes = time.monotonic() - start, []
    if seconds > _LONG:
        planes = f" of {found.planes} planes" if found.planes > 1 else ""
        notes.append(f"{source.path}: grey values were measured on level {found.level}{planes} in {seconds:.0f} s")
    if found.constant:
        which = ", ".join(str(plan.channels[n]) for n in found.constant)
        where = "" if source.channels == 1 else f" in channel {which}"
        notes.append(f"{source.path} has one grey value{where}: nothing is to be seen there")
    fixed = trained.for_limits(found.limits, str(source.dtype))
    return Scaling(fixed, percentiles, found.limits, tuple(notes))


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
