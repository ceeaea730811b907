"""What the masks of predictions are compared with: one untiled pass over the whole image."""

from typing import Any

import numpy as np
import torch

from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

# fp64: no rounding, so that files can be compared pixel for pixel with one pass
EXACT: dict[str, Any] = {"tile": 88, "precision": "fp64", "block": 96}


def one_pass(model: Model, image: np.ndarray, tta: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (H, W) and probabilities (K, H, W) of an image (C, H, W), untiled."""
    predictor = TorchPredictor(model, torch.device("cpu"), "fp64", tta=tta)
    return predict_array(predictor, image, -(-max(image.shape[1:]) // 8) * 8)
