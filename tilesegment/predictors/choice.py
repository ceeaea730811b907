"""Which runtime predicts: OpenVINO in int8, PyTorch everything else."""

from collections.abc import Callable
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from tilesegment.errors import DeviceError
from tilesegment.geometry import Block
from tilesegment.model import Model
from tilesegment.predictors import quantisation
from tilesegment.predictors.block import BlockPredictor, Options
from tilesegment.predictors.openvino import OpenVinoPredictor
from tilesegment.predictors.torch import TorchPredictor


def make_predictor(
    model: Model,
    device: torch.device,
    precision: str,
    tile: int,
    samples: Callable[[], list[tuple[np.ndarray, Block]]],
    folder: Path,
    **options: Unpack[Options],
) -> BlockPredictor:
    """The predictor that computes in `precision` on `device`.

    Args:
        model: the network and its header.
        device, precision: as `choose_device` and `choose_precision` give them.
        tile: side of the tiles, pixels.
        samples: for int8: pixels (C, H, W) of some single tiles with their blocks, see `sample_blocks`.
        folder: for int8: where the quantised network is kept, see `folder_for`.
        options: see `Options`.

    Raises:
        DeviceError, ModelError: int8 is not to be had for this model.
    """
    if precision != "int8":
        return TorchPredictor(model, device, precision, **options)
    # a network without weights of its own brings its own runtime, as ONNX files do
    if not any(True for _ in model.network.parameters()):
        raise DeviceError(f"precision int8 is not to be had for {model.header.name}: it runs as it is; give fp32")
    return _in_int8(model, tile, samples(), folder, options)


def _in_int8(
    model: Model, tile: int, samples: list[tuple[np.ndarray, Block]], folder: Path, options: Options
) -> BlockPredictor:
    exact = OpenVinoPredictor(model, tile, **options)
    calibration, held_out = quantisation.split(samples)
    inputs = [exact.normalised(pixels).numpy() for pixels in calibration]
    network = quantisation.quantised(model, inputs, folder)
    predictor = OpenVinoPredictor(model, tile, quantised=network, **options)
    predictor.disagreement = quantisation.disagreement(predictor, exact, held_out)
    return predictor
