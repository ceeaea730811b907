"""What an image lies on: bright ground, as stained tissue does, or dark ground, as fluorescence does.

It is told from a cheap look: the smallest level that shows enough, or a few windows of level 0.
"""

from collections.abc import Sequence

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource
from tilesegment.metadata import BRIGHT, DARK

_SIDE = 512  # pixels of the longer side of a level that shows enough; twice that is read whole
_WINDOWS, _WINDOW = 4, 256  # windows along each side of a larger image, and pixels of a window's side
_PLANES = 3  # of a stack, at most
_PATCH = 32  # pixels: patches of one value are padding, or glass beside the tissue
# of the range between the lowest and the highest values: the median of fluorescence lies below, at 0.37 at most in the
# images at hand; that of electron microscopy at 0.42 and more
_LOW = 0.4
_BLACK = 0.08  # of white: what is darker throughout is an almost empty field
_LIGHT = 0.5  # of white: the brightest channel of most pixels of stained tissue and of glass is brighter
_GLASS = 0.75  # of white: where all channels of all pixels are brighter there is glass and no tissue
_GREY = 0.04  # of white: colours differ less than this where there are none


def ground_of(image: np.ndarray) -> str:
    """Tell what an image (C, H, W) lies on: `DARK`, `BRIGHT` (of three or four channels), or "" for neither.

    A fourth channel, alpha, is left out. On bright ground there are colours, or nothing but glass. Electron microscopy,
    phase contrast and grey bright fields are neither.
    """
    pixels = _without_blanks(image[:3] if len(image) == 4 else image)
    white = 1.0 if image.dtype.kind == "f" else float(np.iinfo(image.dtype).max)
    if not pixels.size:
        return ""
    top, bottom = pixels.max(0).astype(np.float64), pixels.min(0).astype(np.float64)
    if len(pixels) == 3 and np.median(top) >= _LIGHT * white and np.percentile(top - bottom, 99) > _GREY * white:
        return BRIGHT
    if len(pixels) == 3 and np.percentile(bottom, 1) >= _GLASS * white:
        return BRIGHT
    low, middle, high = np.percentile(top, (1, 50, 99.9))
    if middle - low < _LOW * (high - low):
        return DARK
    is_black = image.dtype == np.uint8 and high < _BLACK * white
    return DARK if is_black or not pixels.any() else ""


def is_grey(image: np.ndarray) -> bool:
    """Whether the channels of an image (C, H, W) hold the same values, as of a grey image that was saved in colours."""
    return len(image) > 1 and bool((image[1:3] == image[:1]).all())


def look_at(source: ImageSource, channels: Sequence[int] | None = None) -> np.ndarray:
    """Return some pixels (C, H, W) that stand for an image, wherever it is to be predicted; by default all channels.

    They are the smallest level of a side of at least 512 px, whole or, of one with more than 1024 px, 16 windows of
    256 px, evenly spread and laid side by side; of a stack, of its first, middle and last plane.
    """
    level = max((n for n, one in enumerate(source.stored_levels) if max(one.shape) >= _SIDE), default=0)
    depth, whole = source.depth or 1, Region.of_shape(source.stored_levels[level].shape)
    regions = [whole]
    if max(whole.shape) > 2 * _SIDE:
        rows, columns = (_spread(size) for size in whole.shape)
        regions = [Region(y, x, y + _WINDOW, x + _WINDOW).intersect(whole) for y in rows for x in columns]
    planes = sorted({round(z) for z in np.linspace(0, depth - 1, min(depth, _PLANES))})
    # windows may be cut at one side of a narrow image, all alike
    seen = np.concatenate([source.read(region, level, z) for z in planes for region in regions], axis=2)
    return seen if channels is None else seen[list(channels)]


def _spread(size: int) -> list[int]:
    """Return where windows begin along a side of `size` pixels."""
    last = max(size - _WINDOW, 0)
    return sorted({round(start) for start in np.linspace(0, last, _WINDOWS)})


def _without_blanks(pixels: np.ndarray) -> np.ndarray:
    """Return the finite pixels (C, n) of those patches of (C, H, W) that hold several values; of all if none does."""
    channels, height, width = pixels.shape
    side = min(_PATCH, height, width)
    cut = pixels[:, : height // side * side, : width // side * side]
    patches = cut.reshape(channels, height // side, side, width // side, side).transpose(1, 3, 0, 2, 4)
    patches = patches.reshape(-1, channels, side * side)
    seen = patches[(patches != patches[:, :, :1]).any((1, 2))]
    values = np.moveaxis(seen if len(seen) else patches, 0, 1).reshape(channels, -1)
    return values[:, np.isfinite(values).all(0)]
