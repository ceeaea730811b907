"""Glass, pen marks and blur on a stained slide: how much of it there is. Simple rules, for a first look.

Pen marks are colours that haematoxylin, eosin and DAB do not give: blue, green and black ink, by hue, chroma and
brightness of an overview. Red ink is not told from eosin and blood; stains that dye tissue green or blue (trichromes,
Alcian blue) look like ink. Blur is a small variance of the Laplacian in windows spread over the tissue.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.overview import Overview, reduced
from tilesegment.images.source import ImageSource
from tilesegment.images.tissue import grown_by, is_stained, white_of

# hues in degrees (0 red, 120 green, 240 blue) and least chroma, of white: in 169 fields of stained nuclei at full
# resolution 0.0009 of the pixels look like ink, 0.012 of the worst; an overview averages nuclei away
_GREEN, _GREEN_CHROMA = (75, 195), 0.15
_BLUE, _BLUE_CHROMA = (195, 255), 0.3
_BLACK, _BLACK_CHROMA = 0.3, 0.12  # of white: the brightest channel and the chroma of black ink are less
_THIN = 3  # pixels: thinner marks of coloured ink are stray pixels
_DARK_SIDE = 256  # of an overview's side, this fraction: smaller black spots are dark nuclei or folds
# variance of the 5-point Laplacian of the mean of the channels, of 255 grey values: all windows of two sharp slides
# have more; of copies blurred by a Gaussian of 2 pixels 100 and 44 % have less, by one of 3 pixels all
_SHARP = 20.0
_MPP = 0.5  # micrometres: size of the pixels that the focus is measured in, at least, where the size is known
_WINDOW, _WINDOWS = 256, 32  # pixels of a window's side, and how many there are, at most


@dataclass(frozen=True)
class Shares:
    """Parts of an image, from 0 to 1.

    Attributes:
        glass: of all pixels of the overview, those that are not kept as tissue; None where it is not told from tissue.
        pen: of all pixels, those that look like blue, green or black ink; None, as `blurred` is, where the image is no
            stained tissue on bright ground.
        blurred: of windows spread over the tissue, those that are out of focus; None where none fits, or can be read.
    """

    glass: float | None
    pen: float | None = None
    blurred: float | None = None

    @property
    def words(self) -> str:
        """The shares in words."""
        known = {"glass": self.glass, "pen marks": self.pen, "of the tissue out of focus": self.blurred}
        return ", ".join(f"{100 * share:.1f} % {what}" for what, share in known.items() if share is not None)


def shares_of(
    source: ImageSource,
    pixels: np.ndarray,
    tissue: np.ndarray,
    threshold: float | None,
    channels: Sequence[int],
    z: int,
) -> Shares:
    """Measure a plane.

    Args:
        source: the image.
        pixels: of its overview, (C, h, w) float32, those of `channels`.
        tissue, threshold: as `find_tissue` gives them.
        channels, z: of the image.
    """
    glass, white = None if threshold is None else float(1 - tissue.mean()), white_of(source)
    if not np.isfinite(pixels).any() or not is_stained(pixels, white):
        return Shares(glass)
    return Shares(glass, float(find_pen(pixels / white).mean()), _blurred(source, tissue, channels, z))


def find_pen(pixels: np.ndarray) -> np.ndarray:
    """Return which pixels of an overview (3, h, w), red, green and blue from 0 to 1, look like ink, bool (h, w)."""
    top, bottom = pixels.max(0), pixels.min(0)
    chroma, hue = top - bottom, _hue(pixels)
    coloured = np.zeros(hue.shape, bool)
    for (low, high), least in ((_GREEN, _GREEN_CHROMA), (_BLUE, _BLUE_CHROMA)):
        coloured |= (low <= hue) & (hue < high) & (chroma > least)
    black = (top < _BLACK) & (chroma < _BLACK_CHROMA)
    side = 2 * max(1, max(hue.shape) // (2 * _DARK_SIDE)) + 1
    opened: np.ndarray = ndimage.binary_opening(coloured, np.ones((_THIN, _THIN)))
    return opened | ndimage.binary_opening(black, np.ones((side, side)))


def _hue(pixels: np.ndarray) -> np.ndarray:
    """Return the hue of (3, h, w) in degrees, 0 to 360; NaN where there is none."""
    red, green, blue = pixels
    top, chroma = pixels.max(0), np.ptp(pixels, axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        sixths = np.select(
            [top == red, top == green],
            [(green - blue) / chroma % 6, (blue - red) / chroma + 2],
            (red - green) / chroma + 4,
        )
    return 60 * sixths


def _blurred(source: ImageSource, tissue: np.ndarray, channels: Sequence[int], z: int) -> float | None:
    """Return the share of windows in the tissue whose pixels lack fine structure."""
    size, level = source.pixel_size, source.stored_levels[0]
    factor = 1 if size is None else max(round(_MPP / max(size.y, size.x)), 1)
    side = _WINDOW * factor
    if side > min(level.shape):
        return None
    inner = ndimage.minimum_filter(tissue, 2 * grown_by(tissue.shape) + 1)  # without the margin around the tissue
    places = np.argwhere(inner)
    if not len(places):
        return None
    chosen = places[np.unique(np.linspace(0, len(places) - 1, _WINDOWS).round().astype(int))]
    focus = []
    for centre in (chosen + 0.5) * Overview.of(source).scale:
        y, x = (int(np.clip(c - side / 2, 0, whole - side)) for c, whole in zip(centre, level.shape, strict=True))
        try:
            pixels = source.read(Region(y, x, y + side, x + side), 0, z)[list(channels)]
        except ImageError:  # damaged: its block reports that, and the others are predicted
            continue
        focus.append(_focus(reduced(pixels, factor).mean(0) * (255 / white_of(source))))
    return float(np.mean([one < _SHARP for one in focus])) if focus else None


def _focus(grey: np.ndarray) -> float:
    """Return the variance of the Laplacian of grey values (h, w), of 255."""
    return float(ndimage.laplace(grey)[1:-1, 1:-1].var())
