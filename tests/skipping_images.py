"""Images of which parts are empty, and what of a mask is."""

from pathlib import Path
from typing import Any

import numpy as np
from conftest import toy_model
from image_files import Write, make_pixels
from mask_files import mask_of

import tilesegment
from tilesegment.prediction.result import Result

BLOCK, SHAPE = 96, (400, 500)  # blocks of 96 px: 5 x 6 of them


def slide(shape: tuple[int, int] = SHAPE, radius: float = 60) -> tuple[np.ndarray, np.ndarray]:
    """A round piece of pink tissue on white glass, (3, H, W) uint8, both with noise; and where it is, bool (H, W)."""
    rng, (height, width) = np.random.default_rng(1), shape
    y, x = np.ogrid[:height, :width]
    inside = (y - 180) ** 2 + (x - 220) ** 2 < radius**2
    glass, pink = (np.array(colour)[:, None, None] for colour in ((243, 241, 243), (226, 168, 205)))
    pixels = np.where(inside, pink + rng.normal(0, 12, (3, *shape)), glass + rng.normal(0, 3, (3, *shape)))
    return pixels.clip(0, 255).astype(np.uint8), inside


def padded_section(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Grey noise (1, H, W) that ends at column 200; beyond it is black."""
    pixels = make_pixels(1, *shape) + 20
    pixels[:, :, 200:] = 0
    return pixels


def predict(image: Path, name: str, **more: Any) -> Result:
    """With a toy model of as many channels as the image."""
    with tilesegment.open_image(image) as source:
        channels = source.channels
    model = image.parent / f"toy-{channels}.safetensors"
    toy_model(channels=channels, classes=3).save(model)
    return tilesegment.predict(image, image.parent / name, model, **{"tile": 88, **more})


def both(image: Path, **more: Any) -> tuple[np.ndarray, np.ndarray]:
    """The masks without and with what is skipped."""
    predict(image, "whole.zarr", **{**more, "skip_empty": None})
    predict(image, "skipping.zarr", **more)
    return mask_of(image.parent / "whole.zarr"), mask_of(image.parent / "skipping.zarr")


def written(write: Write, folder: Path, pixels: np.ndarray) -> str:
    """The path of a mask beside an image."""
    folder.mkdir()
    return str(write(folder, pixels))


def block_of(mask: np.ndarray, row: int, column: int) -> np.ndarray:
    """Of a mask (..., H, W), the part that is one block."""
    return mask[..., row * BLOCK : (row + 1) * BLOCK, column * BLOCK : (column + 1) * BLOCK]


def skipped_of(whole: np.ndarray, skipping: np.ndarray) -> set[tuple[int, int]]:
    """The blocks in which two masks differ, which must be 0 in the second; all others are equal."""
    found = set()
    for row, column in np.ndindex(-(-whole.shape[-2] // BLOCK), -(-whole.shape[-1] // BLOCK)):
        one, other = block_of(whole, row, column), block_of(skipping, row, column)
        if not np.array_equal(one, other):
            assert not other.any()
            found.add((row, column))
    return found


def blocks_where(empty: np.ndarray) -> set[tuple[int, int]]:
    """The blocks that are True in all of their pixels, of (H, W)."""
    rows, columns = (-(-side // BLOCK) for side in empty.shape)
    return {place for place in np.ndindex(rows, columns) if block_of(empty, *place).all()}
