"""What the masks of predictions are compared with: one untiled pass over the whole image."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

# fp64: no rounding, so that files can be compared pixel for pixel with one pass
EXACT: dict[str, Any] = {"tile": 88, "precision": "fp64", "block": 96}


def one_pass(model: Model, image: np.ndarray, tta: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (H, W) and probabilities (K, H, W) of an image (C, H, W), untiled."""
    predictor = TorchPredictor(model, torch.device("cpu"), "fp64", tta=tta)
    return predict_array(predictor, image, -(-max(image.shape[1:]) // 8) * 8)


def plain_pass(model: Model, image: np.ndarray) -> Tensor:
    """Probabilities (K, H, W) of the whole image (C, H, W) at once, written without any of the tile arithmetic.

    The image is mirror-padded by the margin, and by as much more at its end as the network's input sizes ask for.
    """
    depth = model.header.arguments["depth"]
    margin, divisor = 6 * 2**depth - 4, 2**depth
    surplus = [-size % divisor + divisor for size in image.shape[1:]]
    pads = [(0, 0), *((margin, margin + more) for more in surplus)]
    padded = np.pad(image.astype(np.float64), pads, mode="reflect")
    scale = model.header.normalisation
    x = (padded - np.array(scale.mean)[:, None, None]) / np.array(scale.std)[:, None, None]
    # valid inputs are divisor * k + 4 (divisor - 1): cut the surplus that is none
    height, width = (size - (size - 4 * (divisor - 1)) % divisor for size in x.shape[1:])
    with torch.inference_mode():
        logits = model.network.double()(torch.from_numpy(x[None, :, :height, :width]))
    return torch.softmax(logits, 1)[0, :, : image.shape[1], : image.shape[2]]
