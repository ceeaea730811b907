"""A PyTorch network as the prober runs it: on the CPU, with arrays."""

import copy
from contextlib import suppress

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from tilesegment.errors import ModelError
from tilesegment.networks.counting import peak_values
from tilesegment.networks.probing import InexactError

# limits for a network whose work grows with the square of the area, and the side at which the growth is measured
_MOST_VALUES, _MOST_OPERATIONS, _UNIT = 2**28, 1e12, 64


class TorchRun:
    """A `probing.Run`: a copy of a network on the CPU, in evaluation mode and single precision.

    Raises:
        ModelError: it cannot be copied.
    """

    def __init__(self, network: nn.Module, channels: int) -> None:
        self._channels, self._shapes_known = channels, False
        try:
            self._network = copy.deepcopy(network).cpu().float().eval()
            self._exact = copy.deepcopy(self._network).double()
            self._shapes = copy.deepcopy(self._network).to("meta")
        except (RuntimeError, NotImplementedError, TypeError) as error:
            raise ModelError(f"the network cannot be copied to the CPU: {_one_line(error)}") from error
        self._growth = self._measure_growth()

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Run the network on (1, C, H, W); raise InexactError where that would take too much."""
        area = image.shape[-2] * image.shape[-1] / _UNIT**2
        for (linear, square), most in zip(self._growth, (_MOST_VALUES, _MOST_OPERATIONS), strict=False):
            if square * area**2 > max(most, linear * area):
                raise InexactError("its work grows with the square of the tile's area: it compares all positions of it")
        with torch.inference_mode():
            return self._run(self._network, torch.from_numpy(image.astype(np.float32))).numpy()

    def exact(self, image: np.ndarray) -> np.ndarray:
        """The same in double precision."""
        with torch.inference_mode():
            return self._run(self._exact, torch.from_numpy(np.ascontiguousarray(image, np.float64))).numpy()

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """(h, w) of the output, from shapes alone where the network allows it."""
        size = 1, self._channels, height, width
        with torch.inference_mode():
            try:
                output = self._run(self._shapes, torch.empty(size, device="meta"))
            except ModelError:
                if self._shapes_known:
                    raise
                output = self._run(self._network, torch.zeros(size))
            else:
                self._shapes_known = True
        return output.shape[-2], output.shape[-1]

    def _measure_growth(self) -> list[tuple[float, float]]:
        """Values held at once, and operations: for each the part that grows with the area and that with its square."""
        used = []
        with suppress(ModelError), torch.inference_mode():
            for side in (_UNIT, 2 * _UNIT):
                image = torch.randn(1, self._channels, side, side)
                with FlopCounterMode(display=False) as counter:
                    values = peak_values(lambda image: self._run(self._network, image), image)
                used.append((values, counter.get_total_flops()))
        if len(used) < 2:
            return []
        squares = [max(large - 4 * small, 0) / 12 for small, large in zip(*used, strict=True)]
        return [(small - square, square) for small, square in zip(used[0], squares, strict=True)]

    @staticmethod
    def _run(network: nn.Module, image: Tensor) -> Tensor:
        try:
            output = network(image)
        except Exception as error:  # whatever a foreign network raises
            height, width = image.shape[-2:]
            raise ModelError(f"the network fails on {height} x {width} px: {_one_line(error)}") from error
        if not isinstance(output, Tensor) or output.dim() != 4:
            kind = f"a tensor of shape {tuple(output.shape)}" if isinstance(output, Tensor) else type(output).__name__
            raise ModelError(f"the network gives {kind}; it must give one tensor (B, classes, h, w)")
        return output


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
