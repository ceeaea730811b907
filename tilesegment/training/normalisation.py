"""The normalisation of grey values that a model is trained with."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tilesegment.errors import DataError
from tilesegment.images.limits import limits
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.training.data import Section, normalisation_of
from tilesegment.training.data.sections import spreads

# images differ much if their means are so many spreads apart, or their spreads differ by this factor
_FAR, _OTHER_SPREAD = 3.0, 4.0


def choose_normalisation(
    init: str | None,
    header: ModelHeader | None,
    sections: Sequence[Section],
    percentiles: tuple[float, float] | None = None,
) -> tuple[Normalisation, tuple[str, ...]]:
    """Choose the normalisation, with notes for the user.

    That of the model `init` is kept, unless these images have another dtype or very different grey values: then their
    own mean and spread give the network values around 0, as it has learnt from. So do percentiles, if given.

    Args:
        init, header: name and header of the model to start from, if any.
        sections: the training images.
        percentiles: of each image, which become 0 and 1; None normalises all images alike.

    Raises:
        DataError: all channels are constant, or one holds NaN.
    """
    if header is None:
        own = normalisation_of(sections) if percentiles is None else _by_percentiles(sections, percentiles)
        return own, _constant_channels(sections)
    kept, dtype = header.normalisation, str(sections[0].image.dtype)
    if kept.percentiles is not None:  # whatever the grey values
        return kept, ()
    if percentiles is not None:
        said = (
            f"{init} takes grey values as they are; here percentiles {percentiles[0]:g} and {percentiles[1]:g} of each"
        )
        return _by_percentiles(sections, percentiles), (f"{said} image become 0 and 1 (--normalise)",)
    try:
        own = normalisation_of(sections)
    except DataError:
        if kept.dtype == dtype:
            return kept, ()
        raise
    far = any(
        abs(mean - before) > _FAR * spread or abs(math.log(std / spread)) > math.log(_OTHER_SPREAD)
        for mean, std, before, spread in zip(own.mean, own.std, kept.mean, kept.std, strict=True)
    )
    if kept.dtype == dtype and not far:
        return kept, ()
    said = f"{init} was trained on {_described(kept)}, these images are {_described(own)}"
    return own, (f"{said}: training starts with the mean and spread of these, and the model is one for {dtype}",)


def _constant_channels(sections: Sequence[Section]) -> tuple[str, ...]:
    """Say which channels hold one value in every image."""
    found = [n for n in range(len(sections[0].image)) if all(np.ptp(one.image[n]) == 0 for one in sections)]
    if not found:
        return ()
    which = f"channel {found[0]} is" if len(found) == 1 else f"channels {', '.join(map(str, found))} are"
    return (f"{which} one value everywhere in each image: nothing is learnt from there",)


def _described(scale: Normalisation) -> str:
    mean, std = (", ".join(f"{value:,.4g}" for value in values) for values in (scale.mean, scale.std))
    return f"{scale.dtype} of mean {mean} and spread {std}"


def _by_percentiles(sections: Sequence[Section], percentiles: tuple[float, float]) -> Normalisation:
    """Mean and spread of the images after their percentiles became 0 and 1; each image counts alike."""
    scaled = [_scaled(section.image, percentiles).reshape(len(section.image), -1) for section in sections]
    mean = np.mean([one.mean(1, dtype=np.float64) for one in scaled], axis=0)
    variance = np.mean([((one - mean[:, None]) ** 2).mean(1, dtype=np.float64) for one in scaled], axis=0)
    std = spreads(np.sqrt(variance))
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)), str(sections[0].image.dtype), percentiles)


def scaled(section: Section, scale: Normalisation) -> tuple[np.ndarray, Normalisation]:
    """Return an image (C, H, W) whose percentiles are 0 and 1, and the normalisation of such images.

    Without percentiles both are returned as they are.
    """
    image = section.image if scale.percentiles is None else _scaled(section.image, scale.percentiles)
    return image, of_scaled(scale)


def of_scaled(scale: Normalisation) -> Normalisation:
    """Return the normalisation of images that `scaled` returns."""
    return scale if scale.percentiles is None else replace(scale, percentiles=None, dtype="float32")


def _scaled(image: np.ndarray, percentiles: tuple[float, float]) -> np.ndarray:
    low, high = np.array(limits(image, percentiles), np.float64).T[..., None, None]
    return ((image - low) / (high - low)).astype(np.float32)
