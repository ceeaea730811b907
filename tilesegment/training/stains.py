"""Stain augmentation: the colours of a stained section as another laboratory would have them.

Light that passes through stains is absorbed exponentially, so amounts of stain add up in optical density
(Beer-Lambert): OD = -ln(I / I0), for each of red, green and blue. The stains of an image are two directions there.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

_WHITE = 255.0  # I0 of 8-bit images
_DARKEST = 1.0  # grey value below which optical density is not resolved
# haematoxylin and eosin in red, green, blue: Ruifrok and Johnston 2001, Anal. Quant. Cytol. Histol. 23
HAEMATOXYLIN_EOSIN = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105]])
_STAINED = 0.15  # optical density, in each channel, below which a pixel is glass
_PERCENTILE = 1.0  # of the angles that are outliers, on either side, as in Macenko et al.
_FEWEST = 500  # stained pixels from which stains can be told
_MOST_ALIKE = 0.98  # cosine of the angle between two stains that are one
# half-ranges of the variation at strength 1
_TURN = 0.12  # std of each component of a stain's direction
_AMOUNTS = (0.5, 0.7)  # of the natural logarithm of the amounts of haematoxylin and eosin
_ADDED = (0.05, 0.08)  # added to the amounts
_TINT = 0.05  # std of the optical density added to each channel


@dataclass(frozen=True, eq=False)
class Stains:
    """The stains of an image, and how its grey values were normalised.

    Attributes:
        vectors: (2, 3) float32, directions in optical density (red, green, blue), haematoxylin first.
        mean, std: (3, 1, 1) float32 of the normalisation.
    """

    vectors: Tensor
    mean: Tensor
    std: Tensor


@dataclass(frozen=True, eq=False)
class StainDraw:
    """The parameters of one variation: all that is random in `vary_stains`."""

    usual: bool  # whether directions start from the usual ones of haematoxylin and eosin, not from the image's
    turn: Tensor  # (2, 3) added to the directions
    factor: Tensor  # (2, 1) of the amounts
    added: Tensor  # (2, 1) to the amounts
    tint: Tensor  # (3, 1) added to the optical density


def stain_vectors(image: np.ndarray) -> np.ndarray:
    """Return the directions of the two stains of an image in optical density: (2, 3) of unit length.

    The method of Macenko et al. 2009 (10.1109/ISBI.2009.5193250): in the plane of the two largest principal components
    the stains are the extreme angles. Images with little stain, or a single one, have the usual directions.

    Args:
        image: (3, H, W) uint8, red, green and blue.
    """
    density = -np.log(np.maximum(image.reshape(3, -1).T.astype(np.float64), _DARKEST) / _WHITE)
    usual = HAEMATOXYLIN_EOSIN / np.linalg.norm(HAEMATOXYLIN_EOSIN, axis=1, keepdims=True)
    stained = density[(density > _STAINED).all(1)]
    if len(stained) < _FEWEST:
        return usual
    plane = np.linalg.eigh(np.cov(stained.T))[1][:, :0:-1]  # (3, 2), the largest component first
    plane *= np.where(plane[0] < 0, -1, 1)
    angles = np.arctan2(*(stained @ plane).T[::-1])
    ends = np.percentile(angles, (_PERCENTILE, 100 - _PERCENTILE))
    found = np.maximum(np.stack([np.cos(ends), np.sin(ends)], 1) @ plane.T, 0)
    found = found[np.argsort(-found[:, 0])]  # haematoxylin absorbs more red
    lengths = np.linalg.norm(found, axis=1, keepdims=True)
    if lengths.min() <= 0:
        return usual
    found = found / lengths
    return usual if found[0] @ found[1] > _MOST_ALIKE else found


def draw_stains(strength: float, generator: torch.Generator) -> StainDraw:
    """Draw a variation; `strength` 0 leaves the image as it is, 1 covers what laboratories differ by."""

    def even(*half: float) -> Tensor:
        return (torch.rand(len(half), 1, generator=generator) * 2 - 1) * torch.tensor(half)[:, None] * strength

    return StainDraw(
        usual=bool(torch.rand((), generator=generator) < min(strength, 1) / 2),
        turn=torch.randn(2, 3, generator=generator) * _TURN * strength,
        factor=torch.exp(even(*_AMOUNTS)),
        added=even(*_ADDED),
        tint=torch.randn(3, 1, generator=generator) * _TINT * strength,
    )


def vary_stains(x: Tensor, stains: Stains, drawn: StainDraw) -> Tensor:
    """Give a normalised image (3, H, W) other stains in other amounts; what no stain explains stays."""
    grey = (x * stains.std + stains.mean).clamp(_DARKEST, _WHITE)
    density = (math.log(_WHITE) - torch.log(grey)).flatten(1)  # (3, H W)
    old = stains.vectors
    start = torch.tensor(HAEMATOXYLIN_EOSIN, dtype=torch.float32) if drawn.usual else old
    new = (start + drawn.turn).clamp_min(0.01)
    new = new / new.norm(dim=1, keepdim=True)
    amounts = torch.linalg.pinv(old).T @ density
    rest = density - old.T @ amounts
    density = new.T @ (amounts * drawn.factor + drawn.added) + rest + drawn.tint
    grey = _WHITE * torch.exp(-density.clamp_min(0)).view(x.shape)
    return (grey - stains.mean) / stains.std
