"""The PyTorch predictor: CPU, CUDA, MPS."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Unpack

import torch
from torch import Tensor

from tilesegment.models.model import Model
from tilesegment.prediction.predictors.block import BlockPredictor, Options, is_out_of_memory
from tilesegment.prediction.predictors.devices import PRECISIONS
from tilesegment.prediction.predictors.recording import Recording


class TorchPredictor(BlockPredictor):
    """Runs the network as it is; on CUDA from a recording.

    Args:
        model: the network and its header.
        device: where it runs.
        precision: a name of `PRECISIONS`; weights are kept in it, probabilities in float32 (float64 for fp64).
        options: see `Options`.
    """

    def __init__(self, model: Model, device: torch.device, precision: str = "fp32", **options: Unpack[Options]) -> None:
        exact = torch.float64 if precision == "fp64" else torch.float32
        super().__init__(model, device, f"PyTorch {torch.__version__}", exact, options)
        self._dtype = PRECISIONS[precision]
        # a copy: the caller keeps its network where and as it is
        network = copy.deepcopy(model.network)
        # double precision is there to prove equality: the plain layout sums in an order that depends less on the shape
        self._layout = torch.contiguous_format if precision == "fp64" else torch.channels_last
        self._network = network.to(device, self._dtype).to(memory_format=self._layout).eval()  # type: ignore[call-overload]
        self._records = device.type == "cuda"
        self._recording: Recording | None = None

    def _logits(self, tiles: Tensor) -> Tensor:
        with _whole_float32():
            return self._network(tiles.to(self._dtype).contiguous(memory_format=self._layout))

    def _probabilities(self, inputs: Tensor) -> Tensor:
        if not self._records:
            return super()._probabilities(inputs)
        if self._recording is None or self._recording.inputs.shape != inputs.shape:
            self._recording = None  # first: its memory
            self._recording = self._record(inputs)
        return super()._probabilities(inputs) if self._recording is None else self._recording(inputs)

    def _record(self, inputs: Tensor) -> Recording | None:
        """A recording for inputs like these, or None if the network does what cannot be recorded.

        Raises:
            RuntimeError: the device has not the memory.
        """
        compute = super()._probabilities
        compute(inputs)  # what it raises has nothing to do with the recording; and libraries choose their kernels now
        try:
            return Recording(compute, inputs)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._records = False
            return None


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Within, cuDNN convolves float32 as such; PyTorch's default is TF32, which has the mantissa of float16."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
