"""Compare tiled with untiled predictions of a user's image, where seams would show."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

import numpy as np

from tilesegment.errors import ImageError, PlanError
from tilesegment.geometry import FieldOfView, Region, TileGrid
from tilesegment.prediction.keywords import TilingKeywords
from tilesegment.prediction.predictor import BlockPredictor
from tilesegment.prediction.settings import Settings

if TYPE_CHECKING:
    from torch import nn

    from tilesegment.models.model import Model
    from tilesegment.prediction.job import Job

# side of a crop: some lines of the coarsest pooling grid on either side of a tile line
_SIDE = 96
# pixels by which a chosen halo is enlarged to judge it
_MORE = 192
# largest difference of probabilities that is rounding: another tile shape sums in another order
_TOLERANCE = {"fp64": 1e-9, "fp32": 1e-4}


@dataclass(frozen=True)
class Crop:
    """Result of one crop.

    Attributes:
        region: in pixels of the level.
        difference: largest difference of a class probability.
        pixels: number of pixels whose class differs.
    """

    region: Region
    difference: float
    pixels: int


@dataclass(frozen=True)
class Verification:
    """Result of an image.

    Attributes:
        tile, step, precision: as verified.
        crops: their results, in order.
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
    model: "str | Path | Model | nn.Module | None" = None,
    *,
    device: str = "cpu",
    precision: str = "fp64",
    report: Callable[[Crop], None] = lambda crop: None,
    **settings: Unpack[TilingKeywords],
) -> Verification:
    """Predict crops twice, by tiles as `predict` does and in one pass, and compare.

    The one pass over a crop reads all its context, mirrored beyond the image, from the same pooling grid, and so gives
    what one pass over the whole mirror-padded image gives there. The crops straddle tile lines and image borders. A
    chosen halo is compared with a larger one.

    Args:
        image, model: as in `predict`.
        device, precision: fp64 (on the CPU) rules out rounding; fp32 verifies what a GPU does.
        report: called after each crop.
        settings: other fields of `Settings`, as in `predict`: tile, halo, prune, runtime, level, axes, select, ...

    Raises:
        TilesegmentError: as in `predict`; PlanError: another precision.
    """
    from tilesegment.prediction.job import Job  # which measures with `mismatch`

    if precision not in _TOLERANCE:
        raise PlanError(f"precision {precision!r} rounds too much; allowed for verify: {', '.join(_TOLERANCE)}")
    chosen = Settings.of({"model": model, "device": device, "precision": precision, **settings})
    with Job.prepare(image, chosen) as job:
        crops = []
        for crop in _compared(job):
            crops.append(crop)
            report(crop)
        return Verification(job.plan.tile, job.plan.step, precision, tuple(crops), _TOLERANCE[precision])


def mismatch(job: "Job") -> float | None:
    """Return the share of pixels near tile lines and borders whose class a larger halo would change.

    It is 0 for exact tiles, and None if the larger halo reaches pixels that cannot be read, such as NaN outside a
    region of interest.
    """
    crops = list(_compared(job, leave_out_unreadable=True))
    return sum(crop.pixels for crop in crops) / sum(crop.region.area for crop in crops) if crops else None


def _compared(job: "Job", *, leave_out_unreadable: bool = False) -> Iterator[Crop]:
    """Yield the comparison of each crop, its region in pixels of the level."""
    plan, predictor = job.plan, copy.copy(job.predictor)
    predictor.batch = 1  # batches are always full, and single tiles are compared, some of them large
    for crop in crops_of(plan.region.shape, plan.step, plan.view.divisor):
        try:
            yield _compare(job, predictor, crop.shift(plan.region.y0, plan.region.x0))
        except ImageError:  # outside the predicted region, all of which was read before
            if not leave_out_unreadable:
                raise


def crops_of(shape: tuple[int, int], step: int, divisor: int) -> list[Region]:
    """Return crops of an image of `shape` (H, W) around its corners, the ends of tile lines and their last crossing."""
    half = -(-_SIDE // (2 * divisor)) * divisor
    # an image within one tile has no tile lines, only borders
    first_y, first_x = (step if step < size else 0 for size in shape)
    last_y, last_x = ((size - 1) // step * step for size in shape)
    centres = [(0, 0), (0, first_x), (first_y, 0), (last_y, last_x), shape]
    crops = (Region(y - half, x - half, y + half, x + half).intersect(Region.of_shape(shape)) for y, x in centres)
    return list(dict.fromkeys(crops))


def _compare(job: "Job", predictor: BlockPredictor, region: Region) -> Crop:
    """Compare a crop predicted by the tiles of the plan with the same in one pass."""
    plan, plane = job.plan, job.plan.planes.start
    view, whole = plan.view, plan.region
    probabilities, ids = np.empty((plan.classes, *region.shape)), np.empty(region.shape, np.uint8)
    single, inside = TileGrid(whole, plan.step, plan.step, view), region.within(whole)
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
