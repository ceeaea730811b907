"""What an update is made with: weights of the classes, optimiser, learning rate, layout in memory."""

import math

import torch
from torch import Tensor, nn

from tilesegment.errors import PlanError
from tilesegment.networks.network import Network
from tilesegment.training.data import Dataset
from tilesegment.training.losses import balanced_weights
from tilesegment.training.muon import Muon
from tilesegment.training.settings import TrainingSettings

_DECAY = 1e-4
# channels on either side of a layer that is called hidden: the first one has those of the image on one
_FEWEST = 8


def class_weights(weights: tuple[float, ...] | str | None, data: Dataset, device: torch.device) -> Tensor | None:
    """Weights of the classes (K,), float32, on `device`: those given, `auto` for the inverse shares in `data`, or none.

    Raises:
        PlanError: not one positive number a class.
    """
    if weights is None:
        return None
    if isinstance(weights, str):
        weights = balanced_weights(data.shares())
    if len(weights) != len(data.classes) or not all(0 < weight <= 1e4 for weight in weights):
        raise PlanError(f"--class-weights {weights}: expected {len(data.classes)} positive numbers, one a class")
    return torch.tensor(weights, dtype=torch.float32, device=device)


def make_optimiser(network: Network, settings: TrainingSettings) -> torch.optim.Optimizer:
    """Muon, AdamW, or the U-Net paper's SGD with a momentum of 0.99."""
    rate = settings.highest_rate
    if settings.optimiser == "sgd":
        return torch.optim.SGD(network.parameters(), lr=rate, momentum=0.99)
    if settings.optimiser == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=rate, weight_decay=_DECAY)
    hidden, others = list[nn.Parameter](), list[nn.Parameter]()
    of_heads = {id(parameter) for head in network.heads for parameter in head.parameters()}
    for parameter in network.parameters():
        inner = parameter.ndim > 1 and min(parameter.shape[:2]) >= _FEWEST and id(parameter) not in of_heads
        (hidden if inner else others).append(parameter)
    return Muon(hidden, others, rate, weight_decay=_DECAY)


def schedule(progress: float, warm_up: float = 0.04) -> float:
    """Learning rate in parts of the highest: linear warm-up, then half a cosine down to 1 %."""
    if progress < warm_up:
        return 0.05 + 0.95 * progress / warm_up
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up))) / 2


def choose_layout(device: torch.device, precision: str) -> torch.memory_format:
    """How pixels lie in memory while training.

    Half precision and GPUs are made for `channels_last`. In fp32 on a CPU oneDNN's gradients of the weights take 2.6
    times as long with it (measured with AVX2), a whole update 1.4 times.
    """
    return torch.contiguous_format if (device.type, precision) == ("cpu", "fp32") else torch.channels_last


def freeze_statistics(network: nn.Module) -> None:
    """BatchNorm goes on with the mean and variance that it has seen so far, as it does in prediction.

    With few tiles an update, a network learns to rely on each tile's own statistics, which no other tile and no
    prediction has; with these it learns to do without: Wu and Johnson 2021, arXiv:2105.07576, section 4.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
