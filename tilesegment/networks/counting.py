"""How much a network computes."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def floating_point_operations(network: nn.Module, channels: int, tile: int) -> int | None:
    """What one pass over a tile takes, its context included: 2 for each multiply-add of convolutions and products.

    Counted by PyTorch from the shapes alone: nothing is computed, and `network` is left as it is.

    Args:
        network: takes (B, C, H, W).
        channels: C.
        tile: H and W, pixels.

    Returns:
        None for a network without weights of its own, which another runtime runs unseen.
    """
    if not any(True for _ in network.parameters()):
        return None
    shapes = copy.deepcopy(network).to("meta").eval()
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        shapes(torch.empty(1, channels, tile, tile, device="meta"))
    return int(counter.get_total_flops())
