"""Examples for every update, which depend only on the seed and the number of the update."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tilesegment.labels.numbering import dense
from tilesegment.models.header import Normalisation
from tilesegment.signals import ignore_signals
from tilesegment.training.augmentation import Augmentation, Source, draw_example, inside_cells, number_cells
from tilesegment.training.data import IGNORE, Section
from tilesegment.training.data.sections import diameters, object_areas
from tilesegment.training.losses import border_weights
from tilesegment.training.normalisation import scaled
from tilesegment.training.stains import Stains, stain_vectors

Batch = tuple[Tensor, Tensor, Tensor | None]


class Examples(Dataset[Batch]):
    """The batches of all updates: element `n` is that of update `n`, always the same, in any process.

    Args:
        sections, scale: sections to draw from, and the normalisation of their grey values.
        tile, output: sides of the network's input and output, pixels.
        batch, augmentation, seed: examples per update, how to vary them, and the seed of all draws.
        border: w0 and sigma of the border weights; w0 = 0 means none.
        shares: how often each section is drawn from, relative to the others; None is equally often.
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
        border: tuple[float, float],
        shares: Tensor | None = None,
    ) -> None:
        self.tile, self.output, self.batch = tile, output, batch
        self.augmentation, self.seed, self.shares = augmentation, seed, shares
        self.sections = []
        for section in sections:
            label = np.ascontiguousarray(section.label)
            weights = _border_weights(section, *border) if border[0] > 0 else None
            cells = number_cells(label) if augmentation.shades else None
            border_map, cell_map = (None if one is None else torch.from_numpy(one) for one in (weights, cells))
            image, mean, std = _normalised(section, scale)
            vectors = torch.tensor(stain_vectors(section.image), dtype=torch.float32) if augmentation.stains else None
            stains = None if vectors is None else Stains(vectors, mean, std)
            source = Source(image, torch.from_numpy(label), border_map, cell_map, stains, dark=-mean / std)
            self.sections.append(source)

    def __getitem__(self, step: int) -> Batch:
        """Inputs (B, C, T, T), labels (B, t, t) int64 and border weights (B, t, t), or None, of update `step`."""
        generator = torch.Generator().manual_seed(self.seed * 2**32 + step)
        drawn = []
        for _ in range(self.batch):
            section = self._source(generator)
            drawn.append(draw_example(section, self.tile, self.output, self.augmentation, generator))
        x, t, w = zip(*drawn, strict=True)
        return torch.stack(x), torch.stack(t), None if w[0] is None else torch.stack(w)

    def _source(self, generator: torch.Generator) -> Source:
        """Choose what to draw an example from."""
        return self.sections[self._choose(generator)]

    def _choose(self, generator: torch.Generator) -> int:
        if self.shares is None:
            return int(torch.randint(len(self.sections), (), generator=generator))
        return int(torch.multinomial(self.shares, 1, generator=generator))


def _border_weights(section: Section, w0: float, sigma: float) -> np.ndarray:
    """Weights (H, W) between cells, the 4-connected regions; of single objects, also in them where two are close."""
    if section.objects is not None:
        return border_weights(section.objects, w0, sigma, within=True)
    return border_weights(ndimage.label(inside_cells(section.label))[0], w0, sigma)


def drawing_shares(sections: Sequence[Section]) -> Tensor | None:
    """Return how often to draw from each section with objects, (N,) float64 of sum 1; None if labels have no objects.

    Files count alike, whatever their size, and sizes of objects more evenly than they occur: by the square root of how
    many files have a median diameter within the same half octave.
    """
    if any(section.objects is None for section in sections):
        return None
    files = Counter(section.stem for section in sections)
    sizes = [round(2 * math.log2(_median_diameter(section))) for section in sections]
    alike = Counter(sizes)
    shares = [1 / (files[one.stem] * math.sqrt(alike[size])) for one, size in zip(sections, sizes, strict=True)]
    return torch.tensor(shares, dtype=torch.float64) / math.fsum(shares)


def batches(examples: Examples, first: int, workers: int, pin: bool) -> Iterator[Batch]:
    """Yield the batches of updates `first`, `first` + 1, ... forever, drawn ahead by `workers` processes."""
    loader = DataLoader(
        examples,
        batch_size=None,
        sampler=count(first),
        num_workers=workers,
        pin_memory=pin,
        collate_fn=_unchanged,
        worker_init_fn=ignore_signals,
    )
    return iter(loader)


def reduce_section(section: Section, factor: int) -> Section:
    """Reduce a section by `factor`: the mean of `factor` x `factor` pixels, for labels the most frequent one.

    The remainder at the lower and right edge is cut off.
    """
    if factor == 1:
        return section
    height, width = (side // factor * factor for side in section.label.shape)
    image = torch.tensor(section.image[:, :height, :width], dtype=torch.float32)
    reduced = functional.avg_pool2d(image, factor).numpy()
    if section.image.dtype.kind != "f":
        reduced = np.rint(reduced)
    ids = np.unique(section.label)
    label = torch.from_numpy(np.ascontiguousarray(section.label[:height, :width]))
    shares = torch.stack([functional.avg_pool2d((label == int(i))[None].float(), factor)[0] for i in ids])
    found = ids[shares.argmax(0).numpy()]
    objects = None if section.objects is None else _reduce_objects(section.objects[:height, :width], found, factor)
    return Section(section.name, reduced.astype(section.image.dtype), found, objects)


def _reduce_objects(objects: np.ndarray, label: np.ndarray, factor: int) -> np.ndarray:
    """Reduce objects (H, W): the one nearest to the centre, or another of its pixels, and 0 where `label` has none."""
    height, width = label.shape
    blocks = objects.reshape(height, factor, width, factor)
    nearest = blocks[:, factor // 2, :, factor // 2]
    found = np.where(nearest > 0, nearest, blocks.max(axis=(1, 3)))
    return dense(np.where((label == 0) | (label == IGNORE), 0, found))[0]  # numbered anew, as small ones vanish


def _normalised(section: Section, scale: Normalisation) -> tuple[Tensor, Tensor, Tensor]:
    """The image (C, H, W) as the network sees it, and mean and std (C, 1, 1) that made it so, float32."""
    image, scale = scaled(section, scale)
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (scale.mean, scale.std))
    return (torch.tensor(image, dtype=torch.float32) - mean) / std, mean, std


def _median_diameter(section: Section) -> float:
    """Median diameter in pixels of the circles as large as the objects of a section; 1 without objects."""
    assert section.objects is not None
    areas = object_areas(section.objects)
    return float(np.median(diameters(areas))) if areas.size else 1.0


def _unchanged(batch: Any) -> Any:
    return batch
