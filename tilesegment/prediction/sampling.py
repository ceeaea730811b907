"""A sample of an image predicted again, to see where the model is unsure where no probabilities were kept."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilesegment.errors import ImageError, MaskError, PlanError, StoppedError
from tilesegment.geometry import Region, TileGrid
from tilesegment.images.overview import Overview
from tilesegment.images.source import ImageSource
from tilesegment.images.tissue import is_stained, white_of
from tilesegment.masks import Mask, MaskSpec
from tilesegment.masks.spec import STORED, resampled_of
from tilesegment.models import bundled_models
from tilesegment.models.header import ModelHeader
from tilesegment.objects.plan import first_pixel
from tilesegment.prediction.job import Job
from tilesegment.prediction.opening import load
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.tissue import colours_of, tissue_of
from tilesegment.prediction.uncertainty import ONE, Windows, confused_pair, uncertainty
from tilesegment.stores import Location, place_of

if TYPE_CHECKING:
    from tilesegment.prediction.suggesting import Searched, Wanted

_TILE = 1024  # windows up to this side are predicted in a tile of just their size


@dataclass(frozen=True)
class Sample:
    """Windows that were predicted, their pairs of confused classes, how many pixels they have, and notes."""

    windows: Windows
    pairs: list[tuple[int, int]]
    pixels: int
    notes: tuple[str, ...]


def score_sample(
    mask: Mask,
    searched: "Searched",
    count: int,
    image: str | Path | Location | None,
    model: str | Path | None,
    asked: "Wanted",
    report: Callable[[float, str], None],
    stop: Callable[[], bool],
) -> Sample:
    """Predict windows of an image again, drawn at random from parts of its tissue that are as many and equally large.

    Args:
        mask: that was made of the image.
        searched: what is searched of it.
        count: of windows.
        image, model: None takes those that the mask names.
        asked: measure, seed, device and precision.
        report, stop: as in `suggesting.suggest`.

    Raises:
        MaskError, ImageError, ModelError, PlanError: image or model are unavailable, or do not belong to the mask.
        StoppedError: `stop` was true.
    """
    named, place = _model_of(mask, model), _image_of(mask, image)
    with Job.prepare(place, _settings(mask.spec, named, searched, asked, place)) as job:
        notes = _check(mask, job)
        drawn = _drawn(job.source, mask, searched, count, asked.seed)
        scores, pairs, pixels = [], [], 0
        for number, (region, plane) in enumerate(drawn):
            likely = _predicted(job, mask.spec, region, plane)
            found = uncertainty(likely, asked.measure)
            inside = np.ones(region.shape, bool) if searched.counts is None else searched.counts(region, plane)
            scores.append(float((found * inside).sum() / (inside.sum() * ONE)))
            pairs.append(confused_pair(likely, asked.measure))
            pixels += region.area
            report((number + 1) / len(drawn), f"predicting {len(drawn)} places again")
            if stop():
                raise StoppedError("asked to stop; nothing was written")
    y, x = (np.array([getattr(one, name) for one, _ in drawn], np.int64) for name in ("y0", "x0"))
    planes = np.array([plane for _, plane in drawn], np.int64)
    cells = searched.windows
    windows = Windows(y, x, planes, np.array(scores, np.float64), cells.side, cells.within)
    said = f"no probabilities were named: {len(drawn)} places were predicted again with {named}"
    return Sample(windows, pairs, pixels, (said, *notes))


def _model_of(mask: Mask, model: str | Path | None) -> str:
    if model is not None:
        return str(model)
    recorded = mask.spec.provenance.get("model")
    name = recorded.get("name") if isinstance(recorded, dict) else None
    is_bundled = isinstance(name, str) and name in bundled_models()
    if is_bundled and load(str(name), Settings()).header.weights_sha256 == mask.spec.fingerprint.get("model"):
        return str(name)
    raise PlanError(
        f"{mask.path} keeps no probabilities: name some that predict --probabilities P.ZARR wrote with it "
        "(--probabilities P.ZARR), or --model FILE, with which a sample of places is predicted again"
    )


def _image_of(mask: Mask, image: str | Path | Location | None) -> str | Path | Location:
    if image is not None:
        return image
    recorded = mask.spec.provenance.get("image")
    if isinstance(recorded, str) and ("://" in recorded or Path(recorded).exists()):
        return place_of(recorded, mask.path.options if isinstance(mask.path, Location) else ())
    raise PlanError(f"the image of {mask.path} is not at {recorded}: say where it is with --image")


def _settings(
    spec: MaskSpec, model: str, searched: "Searched", asked: "Wanted", image: str | Path | Location
) -> Settings:
    """Return settings that read and scale the image as those of the mask did."""
    decided: Any = spec.fingerprint
    try:
        reading = {name: decided[name] for name in ("axes", "series", "invert") if decided.get(name) is not None}
        settings = Settings(
            model=model,
            select=decided.get("select") or None,
            channels=tuple(int(one) for one in decided["channels"]),
            tta=bool(decided.get("tta", False)),
            device=asked.device,
            precision=asked.precision,
            store_options=image.options if isinstance(image, Location) else (),
            **_size_of(spec, decided),
            **reading,
        )
        opened = load(model, settings)
        if not _is_scaled_by_the_model(opened.header, decided):  # so it was by what was predicted
            (y0, x0, y1, x1), (sy, sx) = decided["region"], spec.scale
            roi = Region(round(y0 * sy), round(x0 * sx), round(y1 * sy), round(x1 * sx))
            settings = replace(settings, normalise="image", roi=roi)
    except (LookupError, TypeError, ValueError) as error:
        raise MaskError(
            f"{image}: the mask does not say how it was read ({error!r:.80}); keep probabilities"
        ) from error
    view, side = opened.field_of_view, max(searched.windows.side)
    # a tile for a window, wherever it begins on the network's grid
    return replace(settings, tile=view.tile_of(view.step_for(side + view.divisor - 1)) if side <= _TILE else None)


def _size_of(spec: MaskSpec, decided: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that choose the level, or the pixel size to which the image was resampled."""
    step = resampled_of(decided)
    if step is None:
        return {"level": int(decided["level"])}
    if abs(step[0] / step[1] - 1) < 1e-9:
        return {"source_mpp": 1.0, "mpp": step[0]}  # only their ratio counts
    if spec.pixel_size is None or abs(spec.pixel_size.y / spec.pixel_size.x - 1) > 1e-9:
        raise ValueError(f"resampled at {step}")
    return {"mpp": spec.pixel_size.y}


def _is_scaled_by_the_model(header: ModelHeader, decided: dict[str, Any]) -> bool:
    """Whether grey values were scaled as the model says, not by the image."""
    own, there = header.normalisation, decided["normalisation"]
    same = list(own.mean) == list(there["mean"]) and list(own.std) == list(there["std"])
    return own.percentiles is not None or same


def _check(mask: Mask, job: Job) -> tuple[str, ...]:
    """Check that image and model fit a mask; return notes on what differs.

    Raises:
        MaskError: the image has another size, or the model other classes.
    """
    decided, plan, notes = mask.spec.fingerprint, job.plan, []
    if list(plan.shape) != decided.get("shape"):
        raise MaskError(
            f"{mask.path} is not a mask of {plan.image}: it was made of {decided.get('shape')} pixels (y, x), not of "
            f"{list(plan.shape)}; name the image with --image"
        )
    names = [one.name for one in job.model.header.classes]
    if names != [one.name for one in mask.spec.classes]:
        raise MaskError(f"{plan.model} has the classes {', '.join(names)}, {mask.path} others: name its --model")
    if plan.content.digest != decided.get(STORED):
        notes.append(f"{plan.image} holds other data than when {mask.path} was made of it")
    if job.model.header.weights_sha256 != decided.get("model"):
        notes.append(f"{mask.path} was made with other weights than {plan.model}: places are those of the latter")
    return tuple(notes)


def _drawn(source: ImageSource, mask: Mask, searched: "Searched", count: int, seed: int) -> list[tuple[Region, int]]:
    """Draw windows, one from each of `count` groups of neighbours: regions of the mask, and planes.

    Raises:
        ImageError: there is none to draw from.
    """
    cells, rng = searched.windows, np.random.default_rng(seed)
    places = _candidates(source, searched)
    chosen: list[tuple[Region, int]] = []
    for group in np.array_split(places, min(count, max(len(places), 1))):
        for plane, y, x in rng.permutation(group).tolist():
            region = Region(y, x, y + cells.side[0], x + cells.side[1]).intersect(cells.within)
            if _is_wanted(mask, searched, region, plane):
                chosen.append((region, plane))
                break
    if not chosen:
        raise ImageError(f"{source.path}: no place is left to look at: all is glass, empty, annotated or outside --roi")
    return chosen


def _candidates(source: ImageSource, searched: "Searched") -> np.ndarray:
    """Return windows beside each other that may hold tissue, (n, 3) of plane, y, x, neighbours near each other."""
    cells, within = searched.windows, searched.windows.within
    rows = np.arange(0, within.height, cells.side[0])
    columns = np.arange(0, within.width, cells.side[1])
    plane, row, column = (one.ravel() for one in np.indices((searched.planes, len(rows), len(columns))))
    order = np.lexsort((_interleaved(row, column), plane))
    places = np.stack([plane, within.y0 + rows[row], within.x0 + columns[column]], 1)[order]
    # the last ones are moved inwards, so that all are whole
    places[:, 1] = np.minimum(places[:, 1], within.y1 - cells.side[0])
    places[:, 2] = np.minimum(places[:, 2], within.x1 - cells.side[1])
    return places[_on_tissue(source, searched, places)]


def _interleaved(row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Return numbers (n,) by which neighbours in a plane are near each other: bits of row and column in turn."""
    code = np.zeros(len(row), np.int64)
    for bit in range(24):
        code |= ((row >> bit & 1) << 2 * bit + 1) | ((column >> bit & 1) << 2 * bit)
    return code


def _on_tissue(source: ImageSource, searched: "Searched", places: np.ndarray) -> np.ndarray:
    """Whether each window may hold tissue, bool (n,): of a stained slide; of other images all do."""
    if source.depth is not None or source.channels < 3:
        return np.ones(len(places), bool)
    overview, colours = Overview.of(source), colours_of(source)
    if not is_stained(overview.read(source, 0)[list(colours)], white_of(source)):
        return np.ones(len(places), bool)
    tissue = tissue_of(source, colours).mask
    total = np.pad(tissue.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    ends = []
    for axis in (0, 1):
        corner, scale, side = first_pixel(searched.spec)[axis], searched.spec.scale[axis], searched.windows.side[axis]
        low = corner + places[:, 1 + axis] * scale
        span, size = overview.scale[axis], tissue.shape[axis]
        first = np.clip(np.floor(low / span), 0, size - 1).astype(np.int64)
        ends.append((first, np.clip(np.ceil((low + side * scale) / span).astype(np.int64), first + 1, size)))
    (y0, y1), (x0, x1) = ends
    found: np.ndarray = total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0] > 0
    return found


def _is_wanted(mask: Mask, searched: "Searched", region: Region, plane: int) -> bool:
    """Whether a window is to be predicted: in the areas of interest, not annotated, and not in blocks left out."""
    if searched.counts is not None and 2 * np.count_nonzero(searched.counts(region, plane)) < region.area:
        return False
    if searched.taken is not None and searched.taken(region, plane).any():
        return False
    skipped = mask.spec.provenance.get("skipped")
    leaves_out = (isinstance(skipped, dict) and skipped.get("mode")) or "roi" in mask.spec.fingerprint
    if not leaves_out:
        return True
    side, whole = mask.spec.block, Region.of_shape(mask.spec.shape)
    y0, x0 = (one // side * side for one in (region.y0, region.x0))
    blocks = Region(y0, x0, region.y1, region.x1).squares(side)
    # a block that was left out is class 0 throughout
    return any(
        mask.read(Region(one.y0, one.x0, one.y0 + side, one.x0 + side).intersect(whole), 0, plane).any()
        for one in blocks
    )


def _predicted(job: Job, spec: MaskSpec, region: Region, plane: int) -> np.ndarray:
    """Return the probabilities (K, h, w) of a region of a mask, as they are where the whole image is predicted."""
    decided: Any = spec.fingerprint
    top, left, *_ = decided["region"]
    plan, where = job.plan, region.shift(int(top), int(left))
    side = -(-(max(where.shape) + plan.view.divisor) // plan.step) * plan.step
    block = TileGrid(where, plan.step, side, plan.view).at(0, 0)
    z = spec.first_plane + plane
    return job.predictor.predict_probabilities(job.read(z, block), block)[1]
