"""Small labelled data sets, written as people keep them."""

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy import ndimage


def cells(height: int, width: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An easy image (H, W) uint8 of bright blobs, and where they are, (H, W) bool."""
    rng = np.random.default_rng(seed)
    inside = ndimage.gaussian_filter(rng.standard_normal((height, width)), 5, mode="wrap") > 0
    image = np.where(inside, 170, 80) + rng.normal(0, 20, (height, width))
    return np.clip(image, 0, 255).astype(np.uint8), inside


def write_pairs(folder: Path, count: int = 4, side: int = 80, values: tuple[int, int] = (0, 255)) -> Path:
    """`count` images and labels as PNG, `values` for outside and inside."""
    for part in ("images", "labels"):
        (folder / part).mkdir(parents=True)
    for n in range(count):
        image, inside = cells(side, side, n)
        Image.fromarray(image).save(folder / "images" / f"{n:02}.png")
        Image.fromarray(np.where(inside, *values[::-1]).astype(np.uint8)).save(folder / "labels" / f"{n:02}.png")
    return folder


def write_stack(folder: Path, planes: int = 4, side: int = 60) -> Path:
    """One pair of stacks."""
    pairs = [cells(side, side, n) for n in range(planes)]
    for part, index in (("images", 0), ("labels", 1)):
        (folder / part).mkdir(parents=True)
        pixels = np.stack([pair[index] for pair in pairs]).astype(np.uint8)
        tifffile.imwrite(folder / part / "volume.tif", pixels, photometric="minisblack")
    return folder
