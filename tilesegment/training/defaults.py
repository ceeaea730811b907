"""What the settings leave open, chosen for the data and the machine.

Labels of instances, such as nuclei, mostly come as many small images. A valid U-Net decides an eighth of a tile of
284 px; with padded convolutions the same weights decide all of it, so that a CPU learns from several times as many
pixels in the same time. Zeros beyond the tile disturb its outer pixels: in training alone, as the model crops.
Sparse labels are trained on in the same way, as several places in an update say more than one.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from tilesegment.errors import PlanError
from tilesegment.geometry import FieldOfView
from tilesegment.images.ground import ground_of
from tilesegment.metadata import BRIGHT, DARK
from tilesegment.training.augmentation import CELL_SHADES, ZOOM, Augmentation
from tilesegment.training.data import Dataset, Section
from tilesegment.training.settings import DEFAULT_OPTIONS, SLOW_BASE, SLOW_TILE, TILE, TrainingSettings

PERCENTILES = (1.0, 99.8)  # of an image, which become 0 and 1
# side of the output, and examples per update, for labels of instances
_OUTPUT, _BATCH = 256, 8
_SLOW_OUTPUT, _SLOW_BATCH = 192, 3
_MOST_EXAMPLES = 16
_SMALL_IMAGES = 25  # percentile of the sides of the images that a tile does not exceed
_LEAST_OUTPUT = 32
_BORDER, _INSTANCE_BORDER = (0.0, 5.0), (5.0, 3.0)  # weight and sigma of `losses.border_weights`
# of augmentation, where magnification, exposure and compression differ between images
_INSTANCE_ZOOM, _EXPOSURE, _JPEG = 1.5, 2.0, 0.2


def settle(settings: TrainingSettings, data: Dataset, goal: str, ground: str, slow: bool) -> TrainingSettings:
    """Return the settings with all chosen that depends on data or machine, but the tile; it stays on other machines.

    Args:
        settings: what the user chose.
        data: what is trained on.
        goal: the score that judges the model.
        ground: what the images lie on, see `ground_of_data`.
        slow: whether this is a CPU in fp32.
    """
    own = DEFAULT_OPTIONS.get(settings.network or "unet", {}).get("base")
    asked = settings.base is not None or "base" in settings.options or settings.init is not None
    if own is not None and not asked:
        settings = replace(settings, base=min(own, SLOW_BASE) if slow else own)
    weight, sigma = _INSTANCE_BORDER if data.instances else _BORDER
    settings = replace(
        settings,
        border_weight=weight if settings.border_weight is None else settings.border_weight,
        border_sigma=sigma if settings.border_sigma is None else settings.border_sigma,
    )
    if settings.normalise == "auto":
        by_image = data.instances and ground == DARK
        settings = replace(settings, normalise="percentiles" if by_image else "fixed")
    return replace(settings, augmentation=_augmentation(settings, data, goal, ground))


def _augmentation(settings: TrainingSettings, data: Dataset, goal: str, ground: str) -> Augmentation:
    stained = data.instances and ground == BRIGHT and _is_rgb(data.sections[0])
    chosen: dict[str, Any] = {
        "zoom": _INSTANCE_ZOOM if data.instances else ZOOM,
        "shades": CELL_SHADES if goal == "v_rand" else 0.0,
        "exposure": _EXPOSURE if settings.normalise == "percentiles" else 1.0,
        "stains": 1.0 if stained else 0.0,
        "jpeg": _JPEG if data.instances else 0.0,
    }
    given = settings.augmentation
    if given.stains and not _is_rgb(data.sections[0]):
        raise PlanError("--stains is for 8-bit RGB images, as of stained sections; leave it out")
    return replace(given, **{key: value for key, value in chosen.items() if getattr(given, key) is None})


def ground_of_data(data: Dataset) -> str:
    """Return the ground of most images, `DARK`, `BRIGHT` or neither (empty): see `ground_of`."""
    found = [ground_of(section.image) for section in data.sections]
    return next((one for one in (DARK, BRIGHT) if found.count(one) > len(found) / 2), "")


def _is_rgb(section: Section) -> bool:
    return len(section.image) == 3 and section.image.dtype == np.uint8


def choose_tile(
    settings: TrainingSettings, view: FieldOfView, sections: Sequence[Section], slow: bool, small: bool
) -> int:
    """Return the side of the network's input in pixels of the (reduced) sections.

    By default it is no larger than small images allow, as what is mirrored beyond an image teaches nothing. A `view`
    that does not crop has no margin here: in training zeros lie beyond the tile. `small` is for instances and strokes.

    Raises:
        PlanError: the tile asked for is impossible.
    """
    reduction, wanted = settings.reduction, settings.tile
    if wanted is not None:
        if wanted % reduction:
            raise PlanError(f"--tile is {wanted}; at scale {settings.scale:g} it is a multiple of {reduction}")
        view.step_of(wanted // reduction)  # raises if the network cannot take such a tile
        return wanted // reduction
    more = 2 * view.before
    usual = (_SLOW_OUTPUT if slow else _OUTPUT) + more if small else SLOW_TILE if slow else TILE
    tile = view.nearest_tile(usual)
    sides = [min(section.label.shape) for section in sections]
    most = max(int(np.percentile(sides, _SMALL_IMAGES)), _LEAST_OUTPUT)
    if tile - more > most:
        tile = view.nearest_tile(most + more)
    return tile


def choose_batch(settings: TrainingSettings, view: FieldOfView, tile: int, slow: bool, small: bool) -> int:
    """Return the examples per update: as many as have the output pixels of a usual tile; `small` as `choose_tile`."""
    if settings.batch is not None:
        return settings.batch
    margin = 2 * view.before
    if small:
        pixels = _SLOW_BATCH * _SLOW_OUTPUT**2 if slow else _BATCH * _OUTPUT**2
    elif settings.tile is not None:
        return 1
    else:
        pixels = (view.nearest_tile(SLOW_TILE if slow else TILE) - margin) ** 2
    return min(max(math.floor(pixels / (tile - margin) ** 2 + 0.5), 1), _MOST_EXAMPLES)
