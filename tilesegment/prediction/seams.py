"""Proof of seamlessness on a user's own image: tiled against untiled, where seams would show."""

import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import ImageError, PlanError
from tilesegment.geometry import FieldOfView, Region, TileGrid
from tilesegment.prediction.job import Job
from tilesegment.prediction.predictor import BlockPredictor
from tilesegment.prediction.settings import Settings

# side of a crop: some lines of the coarsest pooling grid on either side of a tile line
_SIDE = 96
# a halo that was chosen is judged by so many pixels more of it
_MORE = 192
# probabilities that differ by no more are equal: rounding, where another tile shape sums in another order
_TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4}


@dataclass(frozen=True)
class Crop:
    """What was found on one crop.

    Attributes:
        region: in pixels of the level.
        difference: largest difference of a class probability.
        pixels: how many pixels have another class.
    """

    region: Region
    difference: float
    pixels: int


@dataclass(frozen=True)
class Verification:
    """What was found on an image.

    Attributes:
        tile, step, precision: as verified.
        crops: one after another.
        tolerance: largest difference that counts as rounding.
    """

    tile: int
    step: int
    precision: str
    crops: tuple[Crop, ...]
    tolerance: float

    @property
    def difference(self) -> float:
        """Largest difference of a class probability, over all crops."""
        return max(crop.difference for crop in self.crops)

    @property
    def pixels(self) -> int:
        """Pixels whose class differs, over all crops."""
        return sum(crop.pixels for crop in self.crops)

    @property
    def seamless(self) -> bool:
        """Whether tiled and untiled are equal: no pixel of another class, no difference beyond rounding."""
        return self.pixels == 0 and self.difference <= self.tolerance


def verify(
    image: str | Path,
    model: str | Path | None = None,
    *,
    tile: int | None = None,
    halo: int | None = None,
    prune: int | None = None,
    device: str = "cpu",
    precision: str = "fp64",
    runtime: str = "auto",
    level: int = 0,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    series: int | None = None,
    invert: bool = False,
    report: Callable[[Crop], None] = lambda crop: None,
) -> Verification:
    """Predicts crops twice: by tiles, as `predict` does, and in one pass, and compares.

    The one pass over a crop reads all its context, mirrored beyond the image, from the same pooling grid, and so gives
    what one pass over the whole mirror-padded image gives there. The crops straddle tile lines and image borders. A
    halo that was chosen is compared with a larger one.

    Args:
        image, model, axes, select: as in `predict`.
        tile, halo, prune: as for `predict`.
        device, precision: fp64 (on the CPU) leaves no rounding to argue about; fp32 verifies what a GPU does.
        runtime: as for `predict`.
        level: of the image's pyramid.
        series, invert: which image of a file, and how it is read, see `open_image`.
        report: called after each crop.

    Raises:
        TilesegmentError: as in `predict`; PlanError: another precision.
    """
    if precision not in _TOLERANCE:
        raise PlanError(f"precision {precision!r} has rounding of its own; allowed for verify: {', '.join(_TOLERANCE)}")
    settings = Settings(
        tile=tile,
        halo=halo,
        prune=prune,
        device=device,
        precision=precision,
        runtime=runtime,
        level=level,
        series=series,
        invert=invert,
    )
    with Job.prepare(image, model, settings, axes=axes, select=select) as job:
        crops = []
        for crop in _compare_all(job):
            crops.append(crop)
            report(crop)
        return Verification(job.plan.tile, job.plan.step, precision, tuple(crops), _TOLERANCE[precision])


def mismatch(job: Job) -> float | None:
    """Share of the pixels near tile lines and borders of the region whose class a larger halo would change.

    Exact tiles have 0. None if it cannot be measured: the larger halo reaches what cannot be read, such as NaN that a
    region of interest leaves out.
    """
    predictor, crops = _one_by_one(job), []
    for region in _crops(job):
        try:
            crops.append(_compare(job, predictor, region))
        except ImageError:  # of what lies beyond the pixels that are predicted, all of which were read before
            continue
    return sum(crop.pixels for crop in crops) / sum(crop.region.area for crop in crops) if crops else None


def _compare_all(job: Job) -> Iterator[Crop]:
    predictor = _one_by_one(job)
    return (_compare(job, predictor, region) for region in _crops(job))


def _one_by_one(job: Job) -> BlockPredictor:
    """Batches are always full, and here are single tiles and large ones."""
    predictor = copy.copy(job.predictor)
    predictor.batch = 1
    return predictor


def _crops(job: Job) -> list[Region]:
    """Crops of what is predicted, in pixels of the level."""
    plan, (y, x) = job.plan, (job.plan.region.y0, job.plan.region.x0)
    return [crop.shift(y, x) for crop in crops_of(plan.region.shape, plan.step, plan.network.view.divisor)]


def crops_of(shape: tuple[int, int], step: int, divisor: int) -> list[Region]:
    """Crops of an image of `shape` (H, W) around its corners, the ends of tile lines and their last crossing."""
    half = -(-_SIDE // (2 * divisor)) * divisor
    # an image within one tile has no tile lines; then its borders are all there is
    first_y, first_x = (step if step < size else 0 for size in shape)
    last_y, last_x = ((size - 1) // step * step for size in shape)
    centres = [(0, 0), (0, first_x), (first_y, 0), (last_y, last_x), shape]
    crops = (Region(y - half, x - half, y + half, x + half).intersect(Region.of_shape(shape)) for y, x in centres)
    return list(dict.fromkeys(crops))


def _compare(job: Job, predictor: BlockPredictor, region: Region) -> Crop:
    """One crop, by tiles of the plan and in one pass."""
    view, whole, plane = job.plan.network.view, job.plan.region, job.plan.planes.start
    probabilities, ids = np.empty((job.plan.network.classes, *region.shape)), np.empty(region.shape, np.uint8)
    single, inside = TileGrid(whole, job.plan.step, job.plan.step, view), region.within(whole)
    for row in range(inside.y0 // single.step, -(-inside.y1 // single.step)):
        for column in range(inside.x0 // single.step, -(-inside.x1 // single.step)):
            tile = single.at(row, column)
            both = tile.write.intersect(region)
            found_ids, found = predictor.predict_probabilities(job.read(plane, tile), tile)
            there, here = both.within(tile.write).slices, both.within(region).slices
            probabilities[:, *here], ids[here] = found[:, *there], found_ids[there]
    # one more divisor than the crop is wide: its first pixel need not be on the pooling grid
    side = (max(region.shape) // view.divisor + 2) * view.divisor
    if job.model.header.halo is not None:
        more = view.step_for(_MORE)
        view = FieldOfView(view.divisor, view.before + more, view.after + more, view.crops)
    once_block = TileGrid(region, side, side, view).at(0, 0)
    assert len(once_block.tiles) == 1
    once_ids, once = predictor.predict_probabilities(job.read(plane, once_block, once_block.read), once_block)
    return Crop(region, float(np.abs(probabilities - once).max()), int(np.count_nonzero(ids != once_ids)))
