"""Images of which parts are empty, and what of a mask is."""

from pathlib import Path
from typing import Any

import numpy as np
from conftest import toy_model
from image_files import Write, make_pixels
from mask_files import mask_of

import tilesegment
from tilesegment.geometry import Region
from tilesegment.prediction.result import Result

BLOCK, SHAPE = 96, (400, 500)  # 5 x 6 blocks
EVERY = {*np.ndindex(5, 6)}


def slide(radius: float = 60) -> tuple[np.ndarray, np.ndarray]:
    """A round piece of pink tissue on white glass, (3, H, W) uint8, both with noise; and where it is, bool (H, W)."""
    rng, (y, x) = np.random.default_rng(1), np.ogrid[: SHAPE[0], : SHAPE[1]]
    inside = (y - 180) ** 2 + (x - 220) ** 2 < radius**2
    glass, pink = (np.array(colour)[:, None, None] for colour in ((243, 241, 243), (226, 168, 205)))
    pixels = np.where(inside, pink + rng.normal(0, 12, (3, *SHAPE)), glass + rng.normal(0, 3, (3, *SHAPE)))
    return pixels.clip(0, 255).astype(np.uint8), inside


def padded_section() -> np.ndarray:
    """Grey noise (1, H, W) that ends at column 200; beyond it is black."""
    pixels = make_pixels(1, *SHAPE) + 20
    pixels[:, :, 200:] = 0
    return pixels


def predict(image: Path, name: str, **more: Any) -> Result:
    """With a toy model of as many channels as the image."""
    with tilesegment.open_image(image) as source:
        model = toy_model(channels=source.channels, classes=3)
    path = image.parent / f"toy-{model.header.channels}.safetensors"
    model.save(path)
    return tilesegment.predict(image, image.parent / name, path, **{"tile": 88, "block": BLOCK, **more})


def skipped(image: Path, **more: Any) -> list[set[tuple[int, int]]]:
    """Row and column of the blocks that differ from a run that skips nothing, for each plane; they must be 0."""
    predict(image, "whole.zarr", **{"overwrite": True, **more, "skip_empty": None})
    predict(image, "skipping.zarr", **{"overwrite": True, **more})
    whole, skipping = (mask_of(image.parent / name) for name in ("whole.zarr", "skipping.zarr"))
    height, width = whole.shape[-2:]
    return [
        _differing(*planes) for planes in zip(*(m.reshape(-1, height, width) for m in (whole, skipping)), strict=True)
    ]


def _differing(whole: np.ndarray, skipping: np.ndarray) -> set[tuple[int, int]]:
    found = set()
    for region in Region.of_shape((whole.shape[0], whole.shape[1])).squares(BLOCK):
        if not np.array_equal(whole[region.slices], skipping[region.slices]):
            assert not skipping[region.slices].any()
            found.add((region.y0 // BLOCK, region.x0 // BLOCK))
    return found


def written(write: Write, folder: Path, pixels: np.ndarray) -> str:
    """The path of a mask beside an image."""
    folder.mkdir()
    return str(write(folder, pixels))
