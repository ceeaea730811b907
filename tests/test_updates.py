"""Muon: orthogonal steps for hidden layers, Adam's for all others; the schedule."""

import pytest
import torch
from torch import nn

from tilesegment.networks import build_network
from tilesegment.training.settings import TrainingSettings
from tilesegment.training.updates import Muon, make_optimiser, orthogonal, schedule


@pytest.mark.parametrize("shape", [(8, 8), (16, 144), (64, 20), (5, 1)])
def test_singular_values_come_close_to_1(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    found = orthogonal(matrix)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diag(u.T @ found @ v.T)
    assert found.shape == shape
    assert values.min() > 0.5, "directions that hardly count in the gradient count, too"
    assert values.max() < 1.3
    torch.testing.assert_close(found, u @ torch.diag(values) @ v, atol=1e-3, rtol=0)


def test_a_matrix_of_one_direction_or_none_is_no_trouble() -> None:
    one = torch.outer(torch.arange(1.0, 9), torch.arange(1.0, 31))
    values = torch.linalg.svdvals(orthogonal(one * 1e-12))
    assert 0.6 < values[0] < 1.3
    assert values[1:].max() < 0.02, "what is rounding stays small"
    assert orthogonal(torch.zeros(4, 9)).abs().max() == 0


@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-22, 1e-15, 1e30])
def test_only_the_direction_of_a_gradient_counts(scale: float) -> None:
    """However small it is: the squares of 1e-22 are 0 in float32."""
    torch.manual_seed(0)
    matrix = torch.randn(12, 40)
    torch.testing.assert_close(orthogonal(matrix * scale), orthogonal(matrix), atol=1e-3, rtol=0)


def muon(weight: nn.Parameter, lr: float, decay: float = 0.0) -> Muon:
    optimiser = Muon([weight], [], lr=lr)
    optimiser.param_groups[0]["weight_decay"] = decay
    return optimiser


def test_a_layer_that_gets_no_gradient_any_more_stands_still() -> None:
    """Until it fades below what float32 can hold, the mean of the old ones has a direction."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 8))
    optimiser = muon(weight, lr=1.0)
    weight.grad = torch.randn(8, 8)
    optimiser.step()
    before, weight.grad = weight.detach().clone(), torch.zeros(8, 8)
    for _ in range(700):
        optimiser.step()
    assert torch.equal(weight, before)
    weight.grad = torch.randn(8, 8)
    optimiser.step()
    assert (weight - before).norm() > 1


def test_steps_of_a_kernel_by_hand() -> None:
    """Momentum is Nesterov's, 0.95; steps are about 0.2 of the rate, as AdamW's."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(8, 9, 3, 3))
    optimiser, mean = muon(weight, lr=0.1, decay=0.01), torch.zeros(8, 9, 3, 3)
    for gradient in torch.randn(2, 8, 9, 3, 3):
        before, weight.grad = weight.detach().clone(), gradient.clone()
        optimiser.step()
        mean = 0.95 * mean + 0.05 * gradient
        ahead = 0.05 * gradient + 0.95 * mean
        step = orthogonal(ahead.flatten(1)).view(8, 9, 3, 3) * 0.1 * 0.2 * 9.0  # the square root of 9 * 3 * 3
        torch.testing.assert_close(weight.detach(), before * (1 - 0.1 * 0.01) - step)
        assert step.square().mean().sqrt() == pytest.approx(0.1 * 0.2, rel=0.25)


def test_weights_do_not_grow_for_ever() -> None:
    """Pushed the same way by every update, to where decay and steps are in balance: 0.2 sqrt(longer side) / decay."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.zeros(8, 16))
    optimiser = muon(weight, lr=0.01, decay=2.0)
    weight.grad = torch.randn(8, 16)
    norms = []
    for _ in range(600):
        optimiser.step()
        norms.append(float(torch.linalg.matrix_norm(weight.detach(), 2)))
    assert norms[50] < 0.8 * norms[-1] < 0.2 * 4 / 2
    assert norms[-1] == pytest.approx(norms[-100], rel=0.01)


def test_the_others_are_adams() -> None:
    """As PyTorch computes it."""
    torch.manual_seed(0)
    ours, theirs = nn.Parameter(torch.ones(5)), nn.Parameter(torch.ones(5))
    one, other = Muon([], [ours], lr=0.1), torch.optim.AdamW([theirs], lr=0.1, weight_decay=1e-4)
    for _ in range(7):
        ours.grad = torch.randn(5)
        theirs.grad = ours.grad.clone()
        one.step()
        other.step()
    torch.testing.assert_close(ours, theirs)


def test_the_rate_rises_then_falls() -> None:
    rates = [schedule(n / 100) for n in range(101)]
    assert max(rates) == rates[4] == 1
    assert rates[0] == 0.05 and rates[-1] == pytest.approx(0.01)
    assert sorted(rates[:5]) == rates[:5] and sorted(rates[4:], reverse=True) == rates[4:]


@pytest.mark.parametrize("network", ["unet", "unet-same", "unetpp", "fcn8"])
def test_hidden_weights_go_one_way_the_rest_the_other(network: str) -> None:
    built = build_network(network, {"in_channels": 3, "classes": 9, "base": 8})
    first, second = make_optimiser(built, TrainingSettings()).param_groups
    hidden, others = ({id(p) for p in group["params"]} for group in (first, second))
    assert len(hidden) + len(others) == len(list(built.parameters()))
    for name, parameter in built.named_parameters():
        head = any(parameter is p for one in built.heads for p in one.parameters())
        plain = parameter.ndim == 1 or parameter.shape[1] == 3 or head
        assert (id(parameter) in others) == plain, name
