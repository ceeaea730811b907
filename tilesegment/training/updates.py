"""Parts of an update: optimisers, learning rate, memory layout and memory use."""

import ctypes
import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tilesegment.networks.network import Network
from tilesegment.training.settings import TrainingSettings

# coefficients of x -> a x + b x^3 + c x^5 on singular values, chosen by Jordan so that small ones grow fast
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
_BETAS, _EPSILON = (0.9, 0.999), 1e-8  # of Adam
_DECAY = 1e-4
_WARM_UP = 0.04  # part of the run
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_FEWEST = 8  # channels on either side of a hidden layer; the first layer has the image's on one side


class Muon(Optimizer):
    """Momentum with orthogonalised steps for the weights of hidden layers, and AdamW for all others.

    A gradient has few large singular values, so that plain steps change a layer's weights in few directions; here all
    directions move alike. Jordan 2024 (kellerjordan.github.io/posts/muon), with a kernel (O, I, h, w) taken as the
    matrix (O, I h w); steps are as large as AdamW's, by the factor 0.2 sqrt(longer side) of Liu et al. 2025
    (arXiv:2502.16982, section 2.2), so that one learning rate suits both. Steps do not shrink with the gradient:
    without a strong decay weights grow for as long as training lasts, and ReLUs die, those of the deepest layer first.

    `torch.optim.Muon` iterates in bfloat16, which takes 30 times as long on a CPU without bf16 instructions: four times
    a whole update. It also takes only 2-D parameters, and makes a full step of the remaining mean without a gradient.

    Args:
        hidden: weights of hidden layers, of two dimensions or more.
        others: biases, weights of the first and the last layer, scales of normalisation.
        lr: learning rate.
    """

    def __init__(self, hidden: Iterable[Tensor], others: Iterable[Tensor], lr: float) -> None:
        groups = [
            {"params": list(hidden), "hidden": True, "weight_decay": 1.0},
            {"params": list(others), "hidden": False, "weight_decay": _DECAY},
        ]
        super().__init__([group for group in groups if group["params"]], {"lr": lr, "momentum": 0.95})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update all parameters that have a gradient."""
        assert closure is None, "nothing here computes a loss twice"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update = self._hidden if group["hidden"] else self._other
                    update(parameter, parameter.grad, group)

    def _hidden(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
        state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["mean"], group["momentum"]).flatten(1)
        step = orthogonal(ahead).view(weight.shape) * gradient.any()  # no gradient, no step
        weight.sub_(step, alpha=group["lr"] * 0.2 * max(ahead.shape) ** 0.5)

    def _other(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        """Adam: Kingma and Ba 2015, arXiv:1412.6980, algorithm 1."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state["mean"], state["square"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
        first, second = _BETAS
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - first)
        state["square"].lerp_(gradient.square(), 1 - second)
        steps = int(state["step"])
        mean, square = state["mean"] / (1 - first**steps), state["square"] / (1 - second**steps)
        parameter.sub_(mean / (square.sqrt() + _EPSILON), alpha=group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Return approximately the nearest matrix (m, n) with singular values of 1: they end up between 0.6 and 1.3.

    Values below about a thousandth of the matrix's norm stay smaller. This is the Newton-Schulz iteration in float32;
    the polynomial of X X^T is computed first and multiplied by X once, so that only small squares are multiplied.
    """
    x = matrix.float()
    # in two steps: squares of values below 1e-20 are 0 in float32, and so is their norm
    x = x / x.abs().amax().clamp_min(1e-30)
    x = x / x.norm().clamp_min(1e-30)
    tall = len(x) > len(x[0])
    gram = x.T @ x if tall else x @ x.T
    total = None
    for left in reversed(range(_ITERATIONS)):
        factor = _B * gram + _C * (gram @ gram)
        factor.diagonal().add_(_A)
        total = factor if total is None else factor @ total
        if left:
            gram = factor @ gram @ factor
    return (x @ total if tall else total @ x).to(matrix.dtype)


def make_optimiser(network: Network, settings: TrainingSettings) -> Optimizer:
    """Build Muon, AdamW, or the U-Net paper's SGD with a momentum of 0.99."""
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
    return Muon(hidden, others, rate)


def schedule(progress: float) -> float:
    """Return the learning rate as a share of the highest: linear warm-up, then half a cosine down to 1 %."""
    if progress < _WARM_UP:
        return 0.05 + 0.95 * progress / _WARM_UP
    return 0.01 + 0.99 * (1 + math.cos(math.pi * (progress - _WARM_UP) / (1 - _WARM_UP))) / 2


def choose_layout(device: torch.device, precision: str) -> torch.memory_format:
    """Return the memory layout of images and weights in training.

    Half precision and GPUs prefer `channels_last`. In fp32 on a CPU it makes oneDNN's gradients of the weights take 2.6
    times as long (measured with AVX2), and a whole update 1.4 times.
    """
    return torch.contiguous_format if (device.type, precision) == ("cpu", "fp32") else torch.channels_last


def freeze_statistics(network: nn.Module) -> None:
    """Let BatchNorm keep the mean and variance that it has seen so far, as in prediction.

    With few tiles per update a network learns to rely on the statistics of each tile, which prediction does not have:
    Wu and Johnson 2021, arXiv:2105.07576, section 4.
    """
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


@contextmanager
def kept_memory() -> Iterator[None]:
    """Keep freed memory in the process, for the next update to use; give it back at the end.

    An update on a CPU allocates and frees all its activations. By default glibc returns such large pieces to the
    system, which must clear and map each page again for the next update: a tenth of the time of an update. Without
    glibc (macOS, musl) nothing changes.
    """
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if libc is None or not hasattr(libc, "gnu_get_libc_version"):
        yield
        return
    libc.mallopt(_MMAP_MAX, 0)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        # the upper ends of glibc's dynamic adjustment, which setting them has switched off
        libc.mallopt(_MMAP_MAX, 65536)
        libc.mallopt(_MMAP_THRESHOLD, 32 * 2**20)
        libc.mallopt(_TRIM_THRESHOLD, 64 * 2**20)
        libc.malloc_trim(0)
