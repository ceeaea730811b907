"""How much a network computes and holds in memory."""

import copy
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode


def floating_point_operations(network: nn.Module, channels: int, tile: int) -> int | None:
    """Count the operations of one pass over a tile with its context: 2 per multiply-add.

    Args:
        network: takes (B, C, H, W); left unchanged.
        channels: C.
        tile: H and W, pixels.

    Returns:
        None for a network without weights, which another runtime runs.
    """
    if not any(True for _ in network.parameters()):
        return None
    shapes = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        shapes(torch.empty(1, channels, tile, tile, device="meta"))
    return int(counter.get_total_flops())


def peak_values(network: Callable[[Tensor], object], image: Tensor) -> int:
    """Return the peak number of values in all live intermediate tensors while the network runs on `image`."""
    with torch.no_grad(), _Alive() as alive:
        network(image)
    return alive.peak


class _Alive(TorchDispatchMode):
    """Counts the values of the tensors that operations return, until they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._known: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else the compiler is imported, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run `func` and follow what it returns."""
        given = func(*args, **(kwargs or {}))
        for one in tree_leaves(given):
            if isinstance(one, Tensor) and (key := one.untyped_storage()._cdata) not in self._known:
                storage = one.untyped_storage()
                values = storage.nbytes() // one.element_size()
                self._known.add(key)
                self.now += values
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, key, values)
        return given

    def _free(self, key: int, values: int) -> None:
        self.now -= values
        self._known.discard(key)
