"""Examples around what was drawn on images: of each class alike, normalised when they are drawn."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images.limits import limits
from tilesegment.models.header import Normalisation
from tilesegment.training.augmentation import Augmentation, Source
from tilesegment.training.data import IGNORE, Section
from tilesegment.training.data.windows import widened
from tilesegment.training.examples import Examples
from tilesegment.training.stains import Stains, stain_vectors

_GRID = 32  # pixels: side of the squares in which drawn pixels of a class are places to draw from


class SparseExamples(Examples):
    """The batches of all updates, as `Examples`, each around a pixel that was drawn.

    A class is chosen first, all alike; then a section, by the square root of how much of the class is drawn in it; then
    a place of the class in it. Sections keep their dtype: only what an example may need is normalised.

    Args:
        sections, scale: sections to draw from, and the normalisation of their grey values.
        tile, output, batch, augmentation, seed: as in `Examples`.
    """

    def __init__(
        self,
        sections: Sequence[Section],
        scale: Normalisation,
        tile: int,
        output: int,
        batch: int,
        augmentation: Augmentation,
        seed: int,
    ) -> None:
        super().__init__((), scale, tile, output, batch, augmentation, seed, (0.0, 1.0))
        self.parts = list(sections)
        self.scales = [_mean_and_spread(one.image, scale) for one in sections]
        self.stains = [stain_vectors(one.image) if augmentation.stains else None for one in sections]
        found = [_places(one.label) for one in sections]
        if not any(found):
            raise DataError("at this --scale nothing is left of what was drawn; draw broader, or give a larger --scale")
        self.places = {n: [one.get(n) for one in found] for n in sorted(set().union(*found))}
        self.weights = [
            torch.tensor([0.0 if one is None else math.sqrt(len(one)) for one in of_class], dtype=torch.float64)
            for of_class in self.places.values()
        ]

    def _source(self, generator: torch.Generator) -> Source:
        """Choose a place, and normalise what surrounds it."""
        classes = list(self.places)
        n = int(torch.randint(len(classes), (), generator=generator))
        number = int(torch.multinomial(self.weights[n], 1, generator=generator))
        places = self.places[classes[n]][number]
        assert places is not None
        y, x = places[int(torch.randint(len(places), (), generator=generator))].tolist()
        section, (mean, std) = self.parts[number], self.scales[number]
        around = widened(Region(y, x, y + 1, x + 1), self._reach, Region.of_shape(section.label.shape))
        image = (torch.tensor(section.image[:, *around.slices], dtype=torch.float32) - mean) / std
        label = torch.from_numpy(np.ascontiguousarray(section.label[around.slices]))
        vectors = self.stains[number]
        stains = None if vectors is None else Stains(torch.tensor(vectors, dtype=torch.float32), mean, std)
        return Source(image, label, None, None, stains, dark=-mean / std, near=(y - around.y0, x - around.x0))

    @property
    def _reach(self) -> int:
        """Pixels around a place that an example may need, but for its last corners."""
        zoom = self.augmentation.zoom or 1.0
        return math.ceil(self.output / 2 + self.tile / 2 * zoom * 1.2)


def _places(label: np.ndarray) -> dict[int, np.ndarray]:
    """Of each class in a label (H, W) uint8, one pixel in every square that holds some: (n, 2) int64 of (y, x)."""
    found = {}
    for n in np.unique(label[label != IGNORE]).tolist():
        pixels = np.argwhere(label == n)
        squares = pixels // _GRID
        _, first = np.unique(squares[:, 0] * (label.shape[1] // _GRID + 1) + squares[:, 1], return_index=True)
        found[n] = pixels[first]
    return found


def _mean_and_spread(image: np.ndarray, scale: Normalisation) -> tuple[Tensor, Tensor]:
    """What is subtracted from an image (C, H, W), and what it is divided by: (C, 1, 1) float32."""
    mean, std = (np.array(one, np.float64) for one in (scale.mean, scale.std))
    if scale.percentiles is not None:
        low, high = np.array(limits(image, scale.percentiles), np.float64).T
        mean, std = low + mean * (high - low), std * (high - low)
    as_tensor = [torch.tensor(one, dtype=torch.float32)[:, None, None] for one in (mean, std)]
    return as_tensor[0], as_tensor[1]
