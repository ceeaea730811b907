"""Streaming: read ahead | predict | write behind. Knows neither torch nor dask; it is handed what does the work."""

from typing import Protocol

import numpy as np

from tilesegment.geometry import Block, FieldOfView, Region, TileGrid, mirror_indices


class Predictor(Protocol):
    """A model on a device in a precision."""

    view: FieldOfView

    def predict(self, pixels: np.ndarray, block: Block) -> np.ndarray:
        """Class ids (h, w) uint8 of `block.write` from the pixels (C, H, W) of `block.read`."""

    def predict_probabilities(self, pixels: np.ndarray, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, and the class probabilities (K, h, w)."""


def predict_array(predictor: Predictor, image: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (H, W) uint8 and probabilities (K, H, W) of an image (C, H, W) in memory, tile by tile.

    With `step` at least the image's sides (rounded up to the divisor) this is the single pass over the whole
    mirror-padded image, the reference that every tiling must equal.
    """
    height, width = image.shape[1:]
    block = -(-max(height, width) // step) * step
    whole = TileGrid(Region(0, 0, height, width), step, block, predictor.view).at(0, 0)
    rows = mirror_indices(whole.read.y0, whole.read.y1, height)
    columns = mirror_indices(whole.read.x0, whole.read.x1, width)
    return predictor.predict_probabilities(image[:, rows[:, None], columns], whole)
