"""Tissue on an image: what of an overview is not glass."""

import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from tilesegment.images.source import ImageSource

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
    in_colour = is_stained(smooth, white)
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
    return ndimage.maximum_filter(~(signal <= threshold), 2 * grown_by(signal.shape) + 1), threshold


def is_stained(pixels: np.ndarray, white: float) -> bool:
    """Whether an overview (C, h, w), in which not all is NaN, may show stained tissue on bright ground."""
    return len(pixels) == 3 and bool(np.nanpercentile(pixels, 90) > white / 2)


def grown_by(shape: tuple[int, ...]) -> int:
    """Return by how many pixels `find_tissue` dilates what it finds in an overview of `shape` (h, w)."""
    return max(2, max(shape) // _GROWN)


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
