"""The predictor that a plan asks for."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Unpack

import numpy as np
import torch

from tilesegment.errors import DeviceError
from tilesegment.geometry import Block
from tilesegment.models.model import Model
from tilesegment.prediction.plan import Plan
from tilesegment.prediction.predictors import quantisation
from tilesegment.prediction.predictors.block import BlockPredictor, Options
from tilesegment.prediction.predictors.devices import has_openvino
from tilesegment.prediction.predictors.openvino import OpenVinoPredictor
from tilesegment.prediction.predictors.torch import TorchPredictor


def make_predictor(
    model: Model,
    device: torch.device,
    plan: Plan,
    samples: Callable[[], list[tuple[np.ndarray, Block]]],
    folder: Path,
    **options: Unpack[Options],
) -> BlockPredictor:
    """The predictor that computes on `device` as `plan` says.

    Args:
        model: the network and its header.
        device: as `choose_device` gives it.
        plan: says the runtime, the precision and the side of the tiles.
        samples: for int8: pixels (C, H, W) of some single tiles with their blocks, see `sample_blocks`.
        folder: for int8: where the quantised network is kept, see `folder_for`.
        options: see `Options`.

    Raises:
        DeviceError, ModelError: the runtime or int8 is not to be had here or for this model.
    """
    if plan.precision != "int8" and plan.runtime != "openvino":
        return TorchPredictor(model, device, plan.precision, **options)
    if not has_openvino(device, plan.precision):
        raise DeviceError(
            f"the plan wants OpenVINO in {plan.precision}, which is not to be had here; pip install 'tilesegment[cpu]'"
        )
    if plan.precision != "int8":
        return OpenVinoPredictor(model, plan.tile, plan.precision, **options)
    # a network without weights of its own brings its own runtime, as ONNX files do
    if not any(True for _ in model.network.parameters()):
        raise DeviceError(
            f"precision int8 is not to be had for {model.header.name}: it runs as it is; give --precision fp32"
        )
    return _in_int8(model, plan.tile, samples(), folder, options)


def _in_int8(
    model: Model, tile: int, samples: list[tuple[np.ndarray, Block]], folder: Path, options: Options
) -> BlockPredictor:
    calibration, held_out = quantisation.split(samples)
    normalised = BlockPredictor(model, torch.device("cpu"), "", torch.float32, options).normalised
    network, kept = quantisation.quantised(model, [normalised(pixels).numpy() for pixels in calibration], folder)
    predictor = OpenVinoPredictor(model, tile, quantised=network, **options)
    exact = partial(OpenVinoPredictor, model, tile, **options)
    predictor.disagreement = quantisation.disagreement(predictor, exact, held_out, kept)
    return predictor
