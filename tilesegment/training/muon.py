"""Muon, an optimiser that learns from few updates."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# of the iteration x -> a x + b x^3 + c x^5 on singular values; Jordan chose them so that small ones grow fast
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 5
# of Adam's means; what it divides by is never 0
_BETAS, _EPSILON = (0.9, 0.999), 1e-8


class Muon(Optimizer):
    """Momentum whose every step is made orthogonal, for the weights of hidden layers, and AdamW for all others.

    A gradient has few large singular values, so that plain steps turn a layer's weights in few directions; here all
    directions move alike. Jordan 2024 (kellerjordan.github.io/posts/muon), with a kernel (O, I, h, w) taken as the
    matrix (O, I h w); steps are as large as AdamW's, by the factor 0.2 sqrt(longer side) of Liu et al. 2025
    (arXiv:2502.16982, section 2.2), so that one learning rate is for both. Steps do not shrink with the gradient:
    without a strong decay weights grow for as long as it is trained, and ReLUs die of it, the deepest layer's first.

    Args:
        hidden: weights of hidden layers, of two dimensions or more.
        others: biases, weights of the first and the last layer, scales of normalisation.
        lr: learning rate.
        momentum: of the hidden layers' gradients, which is Nesterov's.
        decay: of the hidden layers' weights, decoupled; times `lr` is what is lost in an update.
        weight_decay: the same of the others, as in AdamW.
    """

    def __init__(
        self,
        hidden: Iterable[Tensor],
        others: Iterable[Tensor],
        lr: float,
        *,
        momentum: float = 0.95,
        decay: float = 1.0,
        weight_decay: float = 1e-4,
    ) -> None:
        groups = [
            {"params": list(hidden), "hidden": True, "weight_decay": decay},
            {"params": list(others), "hidden": False, "weight_decay": weight_decay},
        ]
        given = [group for group in groups if group["params"]]
        super().__init__(given, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of all parameters that have a gradient."""
        assert closure is None, "nothing here computes a loss twice"
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = self._hidden if group["hidden"] else self._other
                update(parameter, parameter.grad, group)

    def _hidden(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[weight]
        if not state:
            state["mean"] = torch.zeros_like(weight)
        state["mean"].lerp_(gradient, 1 - group["momentum"])
        ahead = gradient.lerp(state["mean"], group["momentum"]).flatten(1)
        size = group["lr"] * 0.2 * max(ahead.shape) ** 0.5
        # what is left of the mean when no gradient comes any more is not to be blown up to a whole step
        step = orthogonal(ahead).view(weight.shape) * gradient.any()
        weight.sub_(step, alpha=size)

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
    """About the nearest matrix whose singular values are all 1: they come to lie between 0.6 and 1.3.

    Values below a thousandth or so of the matrix's norm stay smaller. Newton and Schulz's iteration in float32; a
    polynomial of X X^T times X is a polynomial of X X^T, times X once, so that only small squares are multiplied.

    Args:
        matrix: (m, n) float.
    """
    x = matrix.float()
    # in two steps: the squares of values below 1e-20 are 0 in float32, and their norm with them
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
