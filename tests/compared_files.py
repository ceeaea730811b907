"""Masks, probabilities and truths, written as people and we keep them, for tests to compare."""

from pathlib import Path

import numpy as np
import tifffile
import zarr
from data_sets import cells
from PIL import Image

from tilesegment.masks import MaskSpec, create_mask, create_probabilities
from tilesegment.metadata import LabelClass

CLASSES = (LabelClass("membrane", "#000000", 0), LabelClass("inside", "#e69f00", 255))


def save(path: Path, pixels: np.ndarray) -> Path:
    """A PNG or a TIFF."""
    if path.suffix == ".png":
        Image.fromarray(pixels).save(path)
    else:
        tifffile.imwrite(path, pixels, photometric="minisblack")
    return path


def store(path: Path, pixels: np.ndarray, classes: tuple[LabelClass, ...] = CLASSES) -> Path:
    """Our own mask of ids (H, W), or probabilities (K, H, W), in blocks of 32."""
    spec = MaskSpec((pixels.shape[-2], pixels.shape[-1]), None, 32, 16, classes, None)
    create = create_probabilities if pixels.ndim == 3 else create_mask
    writer = create(path, spec)
    for region, z in writer.base.blocks():
        writer.write(region, pixels[..., *region.slices], z)
    writer.finish()
    return path


def noisy(inside: np.ndarray, seed: int = 0) -> np.ndarray:
    """Probability of class 1, (H, W) float32, right at most pixels."""
    rng = np.random.default_rng(seed)
    return np.clip(inside * 0.5 + 0.25 + rng.normal(0, 0.2, inside.shape), 0, 1).astype(np.float32)


INSIDE = cells(75, 90, 3)[1]
LIKELY = noisy(INSIDE)
GUESS = (LIKELY > 0.5).astype(np.uint8)
BOTH = np.stack([1 - LIKELY, LIKELY])


def array(folder: Path, pixels: np.ndarray, chunk: int = 32) -> Path:
    zarr.create_array(folder / "array.zarr", data=pixels, chunks=(chunk, chunk))
    return folder / "array.zarr"
