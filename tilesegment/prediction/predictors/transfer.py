"""Between the host and a device: in the background on CUDA, at once elsewhere."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor


class Transfer:
    """Takes the pixels of blocks to a device, and their classes back.

    On CUDA by way of pinned memory, which PyTorch keeps for the next block, and on two streams of its own: one block
    comes and another one goes while the network computes.

    Args:
        device: where to. On CUDA, the streams are those of the GPU that the calling thread uses.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._streams = (torch.cuda.Stream(device), torch.cuda.Stream(device)) if device.type == "cuda" else None

    def up(self, array: np.ndarray) -> Tensor:
        """The array on the device, in its own dtype, for what the calling thread has computed there next."""
        # torch shares the array's memory and wants it writable, which a view of a file is not
        here = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self._streams is None:
            return here.to(self.device)
        computing, aside = torch.cuda.current_stream(self.device), self._streams[0]
        with torch.cuda.stream(aside):
            there = here.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(aside)
        # its memory belongs to the other stream, which is not to use it anew before this one is done with it
        there.record_stream(computing)
        return there

    def down(self, *tensors: Tensor) -> Callable[[], tuple[np.ndarray, ...]]:
        """Begins to fetch what the calling thread has computed; what is returned waits for it, in any thread."""
        if self._streams is None:
            arrays = tuple(tensor.cpu().numpy() for tensor in tensors)
            return lambda: arrays
        aside = self._streams[1]
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            pinned = [torch.empty(there.shape, dtype=there.dtype, pin_memory=True) for there in tensors]
            for here, there in zip(pinned, tensors, strict=True):
                here.copy_(there, non_blocking=True)
                there.record_stream(aside)
            arrived = aside.record_event()

        def wait() -> tuple[np.ndarray, ...]:
            arrived.synchronize()
            return tuple(here.numpy() for here in pinned)

        return wait
