"""A whole image and its mask on one screen, read block by block, whatever their size."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region, region_of
from tilesegment.images import open_image
from tilesegment.images.identity import former_identity, identity
from tilesegment.images.source import ImageSource
from tilesegment.masks import Mask, MaskSpec, open_mask
from tilesegment.masks.record import FORMER, STORED, digest
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.preview import check_preview_path, save_preview

_MAX_SIDE = 1024  # pixels of a panel: two of them fill a screen
_BLOCK = 2048


class Ids(Protocol):
    """Class ids that are read by region: a mask, or one in progress."""

    def read(self, region: Region, z: int) -> np.ndarray:
        """(h, w) uint8."""


def draw_preview(image: str | Path, mask: str | Path, out: str | Path, *, roi: Region | None = None) -> tuple[str, ...]:
    """Draws an image, and beside it the image with its mask over it, at most 1024 pixels a side.

    Args:
        image: that was predicted, read as it was then; of a stack, the mask's first plane is drawn.
        mask: OME-Zarr, TIFF or PNG, as `predict` wrote it.
        out: `.png` or `.jpg`.
        roi: only these pixels, of level 0 of the image; None draws all that the mask covers.

    Returns:
        What a user should know of it: that the mask was made of another image of this size.

    Raises:
        ImageError, MaskError, PlanError: one of them cannot be read, the mask is of an image of another size, or does
            not cover the roi.
    """
    found = open_mask(mask)
    place = _placed(found)
    check_preview_path(Path(out))
    if os.path.realpath(out) in (os.path.realpath(image), os.path.realpath(mask)):
        raise MaskError(f"{out} is the image or the mask that is drawn; choose another name for the picture")
    with open_image(image, **place.reading) as source:
        _check_size(source, found, place)
        shown = place.region
        if roi is not None:
            level = source.levels[place.level]
            shown = region_of(roi, level.shape, level.scale).intersect(place.region)
        if shown.area == 0:
            raise MaskError(f"{mask} holds {place.region} of level {place.level}, nothing of roi {roi}")
        drawn = (place.region, place.level, place.plane, found.spec.classes, found.spec.pixel_size, Path(out))
        made = mask_digest(found.spec) + ("" if roi is None else f", {shown}")
        overview(source, found.levels[0], *drawn, shown=shown, made_of=made)
        return () if _is_of(source, found) else (_other_image(source, found),)


def overview(
    source: ImageSource,
    ids: Ids,
    region: Region,
    level: int,
    z: int,
    classes: tuple[LabelClass, ...],
    pixel_size: PixelSize | None,
    out: Path,
    *,
    shown: Region | None = None,
    made_of: str = "",
) -> None:
    """Draws `region` of plane `z` of an image, and the first plane of the mask `ids` that covers it.

    Args:
        source, level, z, region: the image's part, in pixels of the level.
        ids: its mask.
        classes: of the mask.
        pixel_size: of the level.
        out: the picture.
        shown: the part of `region` that is drawn; None is all of it.
        made_of: see `save_preview`.
    """
    shown = region if shown is None else shown
    factor = -(-max(shown.shape) // _MAX_SIDE)
    here, inside = shown.within(shown), shown.within(region)
    mask = _reduced(lambda part: ids.read(part.shift(inside.y0, inside.x0), 0)[None, ::factor, ::factor], here, factor)[
        0
    ]
    image = _reduced(
        lambda part: _mean(source.read(part.shift(shown.y0, shown.x0), level, z), factor),
        here,
        factor,
    )
    size = None if pixel_size is None else PixelSize(pixel_size.y * factor, pixel_size.x * factor)
    title = f"{Path(source.path).name}, {shown.height:,} x {shown.width:,} px"
    title += "" if shown == region else f" from {shown.y0:,}, {shown.x0:,} (y, x)"
    save_preview(out, image, mask, classes, title=title, pixel_size=size, made_of=made_of)


def mask_digest(spec: MaskSpec) -> str:
    """The digest by which a preview knows the mask that it was made of, whatever format the mask is in."""
    return digest({"layout": spec.layout(), "fingerprint": spec.fingerprint})


@dataclass(frozen=True)
class _Place:
    """What a mask says of the image that it was made of: how that was read, and which part was predicted."""

    region: Region
    level: int
    plane: int
    shape: tuple[int, int]
    reading: Mapping[str, Any]


def _placed(mask: Mask) -> _Place:
    decided: Mapping[str, Any] = mask.spec.fingerprint
    try:
        height, width = decided["shape"]
        return _Place(
            Region(*decided["region"]),
            int(decided["level"]),
            int(decided["planes"][0]),
            (int(height), int(width)),
            {name: decided[name] for name in ("axes", "select", "series", "invert") if decided.get(name) is not None},
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MaskError(f"{mask.path} does not say of which image it is ({error!r}); compute it again") from error


def _check_size(source: ImageSource, mask: Mask, place: _Place) -> None:
    """Whether the mask can be of this image."""
    levels, planes = [level.shape for level in source.levels], source.depth or 1
    if place.level >= len(levels) or levels[place.level] != place.shape or place.plane >= planes:
        where = f"{place.shape[0]} x {place.shape[1]} (y, x), level {place.level}, plane {place.plane}"
        sizes = ", ".join(f"{height} x {width}" for height, width in levels[:8])
        raise MaskError(
            f"{mask.path} is not a mask of {source.path}: it was made of {_made_from(mask)}, {where}; the levels of "
            f"the image are {sizes}, planes {planes}"
        )


def _is_of(source: ImageSource, mask: Mask) -> bool:
    """Whether the image holds what the mask was made of."""
    decided = mask.spec.fingerprint
    if STORED in decided:
        return decided[STORED] == identity(source.path).digest
    return decided.get(FORMER) == former_identity(source.path)


def _other_image(source: ImageSource, mask: Mask) -> str:
    return (
        f"{mask.path} was made of {_made_from(mask)}, and {source.path} holds other data than that did: they are drawn "
        "over each other as they have one size"
    )


def _made_from(mask: Mask) -> str:
    return str(mask.spec.fingerprint.get("image"))


def _reduced(read: Callable[[Region], np.ndarray], whole: Region, factor: int) -> np.ndarray:
    """What `read` makes of each block of `whole`, (C, h / factor, w / factor), put together."""
    side = max(_BLOCK // factor, 1) * factor
    rows = []
    for y in range(0, whole.height, side):
        parts = (Region(y, x, y + side, x + side).intersect(whole) for x in range(0, whole.width, side))
        rows.append(np.concatenate([read(part) for part in parts], axis=2))
    return np.concatenate(rows, axis=1)


def _mean(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` pixels, (C, H, W) -> (C, ceil(H / factor), ceil(W / factor)) of the same type."""
    if factor == 1:
        return pixels
    tops, lefts = (np.arange(0, size, factor) for size in pixels.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float32), tops, axis=1), lefts, axis=2)
    heights, widths = (
        np.diff(np.append(starts, size)) for starts, size in zip((tops, lefts), pixels.shape[1:], strict=True)
    )
    means = sums / (heights[:, None] * widths)
    return (means if pixels.dtype.kind == "f" else np.rint(means)).astype(pixels.dtype)
