"""Tissue on an image: an overview of a plane, and what in it is not glass."""

from math import ceil

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource

_SIDE = 2048  # pixels of an overview, at most: on a slide of 100,000 pixels one of its pixels is 12 micrometres
_GROWN = 128  # tissue grows by this fraction of an overview's side: pale edges and stray cells lie beside what is dark
# share of the variance that Otsu's threshold explains: 0.64 of a normal distribution, 0.75 of a uniform one, so no more
# than that is a single kind of area
_SEPARATE = 0.75
# of white: more colour than this is clipped, as ink and pens would raise the threshold
_COLOURFUL = 0.25
_GLASS = 0.1  # of white: the mean saturation of glass is less, whatever the scanner; pale tissue has more


def find_tissue(pixels: np.ndarray, white: float) -> tuple[np.ndarray, float | None]:
    """Find what may be tissue in an overview, generously dilated; also return the threshold, after Otsu.

    Coloured tissue on white glass is told by saturation (not HSV's ratio, which is large in noisy black), other tissue
    by its distance from the most frequent value.

    Args:
        pixels: (C, h, w) float32.
        white: their largest possible value.

    Returns:
        bool (h, w), all of it where the threshold is None: there are not two kinds of area, or neither is glass. NaN
        and infinity count as tissue.
    """
    smooth = ndimage.gaussian_filter(np.where(np.isfinite(pixels), pixels, np.nan), (0, 1, 1))
    everything = np.ones(smooth.shape[1:], bool)
    if np.isnan(smooth).all():
        return everything, None
    in_colour = len(smooth) == 3 and bool(np.nanpercentile(smooth, 90) > white / 2)
    signal = np.minimum(np.ptp(smooth, axis=0), _COLOURFUL * white) if in_colour else _distance(smooth)
    finite = signal[np.isfinite(signal)].astype(np.float64)
    if not finite.size or finite.min() == finite.max():
        return everything, None
    middle = float(threshold_otsu(finite))
    glass, tissue = finite[finite <= middle], finite[finite > middle]
    between = len(glass) * len(tissue) / len(finite) ** 2 * (tissue.mean() - glass.mean()) ** 2
    if between <= _SEPARATE * finite.var() or (in_colour and glass.mean() > _GLASS * white):
        return everything, None
    # pale tissue lies below the middle: what is halfway to glass is in doubt, and kept
    threshold = (middle + float(glass.mean())) / 2
    # written so that NaN counts as tissue: its block is read, which reports the error
    return ndimage.maximum_filter(~(signal <= threshold), 2 * max(2, max(signal.shape) // _GROWN) + 1), threshold


def _distance(pixels: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel of (C, h, w) from the most frequent value; the farthest channel counts."""
    distances = []
    for channel in pixels:
        counts, edges = np.histogram(channel[np.isfinite(channel)], 256)
        commonest = counts.argmax()
        distances.append(np.abs(channel - (edges[commonest] + edges[commonest + 1]) / 2))
    return np.maximum.reduce(distances)


def white_of(source: ImageSource) -> float:
    """Return the largest possible value of a pixel; floats are taken to go to 1."""
    return 1.0 if source.stored_dtype.kind == "f" else float(np.iinfo(source.stored_dtype).max)


def read_overview(source: ImageSource, z: int) -> tuple[np.ndarray, tuple[float, float]]:
    """Return an overview of a plane, (C, h, w) float32 of means, and the (y, x) pixels of level 0 that its pixels span.

    It is made from the smallest level that is large enough, part by part.
    """
    number = max((n for n, level in enumerate(source.stored_levels) if max(level.shape) >= _SIDE // 2), default=0)
    level = source.levels[number]
    whole, factor = Region.of_shape(level.shape), ceil(max(level.shape) / _SIDE)
    side = max(_SIDE // factor, 1) * factor
    rows = []
    for y in range(0, whole.height, side):
        parts = (Region(y, x, y + side, x + side).intersect(whole) for x in range(0, whole.width, side))
        rows.append(np.concatenate([_reduced(source.read(part, number, z), factor) for part in parts], axis=2))
    return np.concatenate(rows, axis=1), (level.scale[0] * factor, level.scale[1] * factor)


def _reduced(pixels: np.ndarray, factor: int) -> np.ndarray:
    """Means of `factor` x `factor` pixels, (C, H, W) -> (C, ceil(H / factor), ceil(W / factor)) float32."""
    channels, height, width = pixels.shape
    padded = np.pad(pixels, ((0, 0), (0, -height % factor), (0, -width % factor)), mode="edge")
    cells = padded.reshape(channels, ceil(height / factor), factor, ceil(width / factor), factor)
    return cells.mean((2, 4), dtype=np.float32)
