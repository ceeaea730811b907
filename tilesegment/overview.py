"""A whole image and its mask on one screen, read block by block, whatever their size."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.source import ImageSource
from tilesegment.masks import open_mask
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.preview import save_preview

_MAX_SIDE = 2048
_BLOCK = 2048


class Ids(Protocol):
    """Class ids that are read by region: a mask, or one in progress."""

    def read(self, region: Region, z: int) -> np.ndarray:
        """(h, w) uint8."""


def draw_preview(image: str | Path, mask: str | Path, out: str | Path) -> None:
    """Draws an image, and beside it the image with its mask over it, at most 2048 pixels a side.

    Args:
        image: that was predicted; of a stack, the mask's first plane is drawn.
        mask: OME-Zarr, as `predict` wrote it.
        out: `.png` or `.jpg`.

    Raises:
        ImageError, MaskError: one of them cannot be read, or the mask is not of this image.
    """
    found = open_mask(mask)
    decided: Mapping[str, Any] = found.spec.fingerprint
    region, level, first = Region(*decided["region"]), int(decided["level"]), int(decided["planes"][0])
    series, invert = decided.get("series"), bool(decided.get("invert"))
    with open_image(image, series=series, invert=invert) as source:
        if level >= len(source.levels) or not Region.of_shape(source.levels[level].shape).contains(region):
            raise MaskError(
                f"{mask} is not a mask of {image}: it was made of {decided['image']}, {decided['shape']} (y, x)"
            )
        overview(source, found.levels[0], region, level, first, found.spec.classes, found.spec.pixel_size, Path(out))


def overview(
    source: ImageSource,
    ids: Ids,
    region: Region,
    level: int,
    z: int,
    classes: tuple[LabelClass, ...],
    pixel_size: PixelSize | None,
    out: Path,
) -> None:
    """Draws `region` of plane `z` of an image, and the first plane of the mask `ids` that covers it.

    Args:
        source, level, z, region: the image's part, in pixels of the level.
        ids: its mask.
        classes: of the mask.
        pixel_size: of the level.
        out: the picture.
    """
    factor = -(-max(region.shape) // _MAX_SIDE)
    mask = _reduced(lambda part: ids.read(part, 0)[None, ::factor, ::factor], region.within(region), factor)[0]
    image = _reduced(
        lambda part: _mean(source.read(part.shift(region.y0, region.x0), level, z), factor),
        region.within(region),
        factor,
    )
    size = None if pixel_size is None else PixelSize(pixel_size.y * factor, pixel_size.x * factor)
    name = Path(source.path).name
    save_preview(out, image, mask, classes, title=f"{name}, {region.height:,} x {region.width:,} px", pixel_size=size)


def _reduced(read: Callable[[Region], np.ndarray], whole: Region, factor: int) -> np.ndarray:
    """What `read` makes of each block of `whole`, (C, h / factor, w / factor), put together."""
    side = max(_BLOCK // factor, 1) * factor
    rows = []
    for y in range(0, whole.height, side):
        parts = (Region(y, x, y + side, x + side).intersect(whole) for x in range(0, whole.width, side))
        rows.append(np.concatenate([read(part) for part in parts], axis=2))
    return np.concatenate(rows, axis=1)


def _mean(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` pixels, (C, H, W) -> (C, ceil(H / factor), ceil(W / factor)) float32."""
    if factor == 1:
        return pixels
    tops, lefts = (np.arange(0, size, factor) for size in pixels.shape[1:])
    sums = np.add.reduceat(np.add.reduceat(pixels.astype(np.float32), tops, axis=1), lefts, axis=2)
    heights, widths = (
        np.diff(np.append(starts, size)) for starts, size in zip((tops, lefts), pixels.shape[1:], strict=True)
    )
    return sums / (heights[:, None] * widths)
