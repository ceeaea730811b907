"""What a GPU does for inputs of one shape, recorded once."""

from collections.abc import Callable

import torch
from torch import Tensor


class Recording:
    """A CUDA graph: all kernels are started together, not each by Python, which a fast GPU would wait for.

    Args:
        compute: from inputs to outputs, without ever asking the device for a value.
        inputs: to record with.

    Attributes:
        inputs: where the recording reads; its shape is that of all inputs.

    Raises:
        RuntimeError: `compute` does what cannot be recorded, or the device has not the memory.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], inputs: Tensor) -> None:
        self.inputs, self._graph = inputs.clone(), torch.cuda.CUDAGraph()
        # PyTorch's own stream for this is one of the first GPU that was recorded on
        stream = torch.cuda.Stream(inputs.device)
        # thread_local: other threads may go on using the device meanwhile
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._outputs = compute(self.inputs)

    def __call__(self, inputs: Tensor) -> Tensor:
        """The outputs for these inputs, to be used before the next call, which overwrites them."""
        self.inputs.copy_(inputs)
        self._graph.replay()
        return self._outputs
