"""Labelled objects: images, files and sections of them, and the classes that are learnt."""

from pathlib import Path

import numpy as np
from data_sets import write_files
from skimage.measure import label

from tilesegment.metadata import LabelClass
from tilesegment.training.data import Section

CLASSES = (
    LabelClass("background", "#000000"),
    LabelClass("nucleus", "#e69f00", role="object"),
    LabelClass("rim", "#56b4e9", role="border"),
)


def section(ids: np.ndarray) -> Section:
    """Return a black image with these objects (H, W)."""
    return Section("one", np.zeros((1, *ids.shape), np.uint8), (ids > 0).astype(np.uint8), ids.astype(np.int32))


def nuclei(side: int, seed: int, radius: float = 8, count: int = 12) -> tuple[np.ndarray, np.ndarray]:
    """Bright discs of different brightness on dark ground, many touching, (H, W) uint8, and their ids uint16."""
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    ids, image = np.zeros((side, side), np.uint16), rng.normal(20, 2, (side, side))
    for number in range(1, count + 1):
        cy, cx, r = *rng.uniform(0, side, 2), rng.uniform(0.7, 1.2) * radius
        away = np.hypot(y - cy, x - cx)
        ids[away <= r] = number
        image = np.where(
            away <= r, rng.uniform(70, 130) * (1.15 - 0.3 * away / r) + rng.normal(0, 4, image.shape), image
        )
    pieces = label(ids, background=0, connectivity=1)  # what others cut in two has two ids
    return image.clip(0, 255).astype(np.uint8), pieces.astype(np.uint16)


def write_nuclei(folder: Path, count: int = 5, side: int = 96, colour: bool = False) -> Path:
    """Images and ids; in colour dark discs on bright ground, as stained."""
    for n in range(count):
        image, ids = nuclei(side, n, count=8 + 2 * n)
        if colour:
            image = np.stack([240 - image, 235 - image // 2, 240 - image // 3], -1).astype(np.uint8)
        write_files(folder, {f"images/{n:02}.png": image, f"labels/{n:02}.png": ids})
    return folder
