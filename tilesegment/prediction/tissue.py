"""The tissue of an image as `--skip-empty tissue` takes it, and how much of it is glass, pen marks or out of focus."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from tilesegment.images import ImageSource
from tilesegment.images.artefacts import Shares, shares_of
from tilesegment.images.overview import Overview
from tilesegment.images.tissue import find_tissue, white_of

_SOME_PEN = 0.001  # of the image: less is a speck of dust
_MUCH_BLUR = 0.25  # of the windows in the tissue: out of focus are pale and smooth places of sharp slides, too


@dataclass(frozen=True)
class Tissue:
    """The tissue of a plane, on the image's overview.

    Attributes:
        mask: what is kept as tissue, bool (h, w).
        threshold: between tissue and glass; None where they could not be told apart, and all is kept.
        shares: of glass, pen marks and blur.
    """

    mask: np.ndarray
    threshold: float | None
    shares: Shares


def tissue_of(source: ImageSource, channels: Sequence[int], z: int = 0) -> Tissue:
    """Find the tissue of a plane.

    Raises:
        ImageError: it cannot be read.
    """
    pixels = Overview.of(source).read(source, z)[list(channels)]
    mask, threshold = find_tissue(pixels, white_of(source))
    return Tissue(mask, threshold, shares_of(source, pixels, mask, threshold, channels, z))


def colours_of(source: ImageSource) -> tuple[int, ...]:
    """Return the channels of an image but for alpha, which says nothing."""
    return tuple(range(source.channels - (source.channels in (2, 4))))


def mean_shares(shares: Iterable[Shares]) -> Shares:
    """Return the means over planes, each of those in which it is known."""
    given = list(shares)

    def mean(name: str) -> float | None:
        known = [share for one in given if (share := getattr(one, name)) is not None]
        return fmean(known) if known else None

    return Shares(mean("glass"), mean("pen"), mean("blurred"))


def doubts_of(path: str, shares: Shares) -> tuple[str, ...]:
    """Return notes on ink and blur, where there is enough of it to matter."""
    notes, pen, blurred = [], shares.pen or 0.0, shares.blurred or 0.0
    if pen >= _SOME_PEN:
        notes.append(
            f"{path}: {100 * pen:.1f} % of it look like pen marks: coloured ink counts as tissue, black ink as "
            "glass; tileseg tissue writes a mask to correct"
        )
    if blurred >= _MUCH_BLUR:
        notes.append(f"{path}: {100 * blurred:.0f} % of the tissue may be out of focus")
    return tuple(notes)
