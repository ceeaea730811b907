"""Examples for every update, which depend only on the seed and the number of the update."""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset

from tilesegment.labels.numbering import dense
from tilesegment.models.header import Normalisation
from tilesegment.signals import ignore_signals
from tilesegment.training.augmentation import Augmentation, Source, draw_example, inside_cells, number_cells
from tilesegment.training.data import IGNORE, Section
from tilesegment.training.losses import border_weights

Batch = tuple[Tensor, Tensor, Tensor | None]


class Examples(Dataset[Batch]):
    """The batches of all updates: element `n` is that of update `n`, always the same, in any process.

    Args:
        sections, scale: sections to draw from, and the normalisation of their grey values.
        tile, output: sides of the network's input and output, pixels.
        batch, augmentation, seed: examples per update, how to vary them, and the seed of all draws.
        border: w0 and sigma of the border weights; w0 = 0 means none.
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
    ) -> None:
        self.tile, self.output, self.batch = tile, output, batch
        self.augmentation, self.seed = augmentation, seed
        self.sections = []
        for section in sections:
            label = np.ascontiguousarray(section.label)
            weights = border_weights(inside_cells(label), *border) if border[0] > 0 else None
            cells = number_cells(label) if augmentation.shades else None
            maps = (None if one is None else torch.from_numpy(one) for one in (weights, cells))
            self.sections.append(Source(_normalised(section, scale), torch.from_numpy(label), *maps))

    def __getitem__(self, step: int) -> Batch:
        """Inputs (B, C, T, T), labels (B, t, t) int64 and border weights (B, t, t), or None, of update `step`."""
        generator = torch.Generator().manual_seed(self.seed * 2**32 + step)
        drawn = []
        for _ in range(self.batch):
            section = self.sections[int(torch.randint(len(self.sections), (), generator=generator))]
            drawn.append(draw_example(section, self.tile, self.output, self.augmentation, generator))
        x, t, w = zip(*drawn, strict=True)
        return torch.stack(x), torch.stack(t), None if w[0] is None else torch.stack(w)


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


def _normalised(section: Section, scale: Normalisation) -> Tensor:
    """The image (C, H, W) as the network sees it, float32."""
    mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (scale.mean, scale.std))
    return (torch.tensor(section.image, dtype=torch.float32) - mean) / std


def _unchanged(batch: Any) -> Any:
    return batch
