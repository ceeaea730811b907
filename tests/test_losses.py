"""Losses against figures worked out by hand, and their gradients."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from tilesegment.training.losses import cross_entropy_dice, soft_dice


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    """(1, K, 1, N) logits whose softmax is `probabilities`, one row a class."""
    return torch.tensor(probabilities).log()[None, :, None, :]


def test_dice_by_hand() -> None:
    # class 0: 2 (.9 + .6) / (1.9 + 2) ; class 1: 2 (.6) / (1.1 + 1), over three pixels 0, 0, 1
    logits = logits_of([[0.9, 0.6, 0.4], [0.1, 0.4, 0.6]])
    labels = torch.tensor([[[0, 0, 1]]])
    expected = 1 - (3.0 / 3.9 + 1.2 / 2.1) / 2
    assert soft_dice(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_both_by_hand() -> None:
    logits = logits_of([[0.9, 0.6, 0.4], [0.1, 0.4, 0.6]])
    labels = torch.tensor([[[0, 0, 1]]])
    entropy = -(math.log(0.9) + math.log(0.6) + math.log(0.6)) / 3
    expected = entropy + 1 - (3.0 / 3.9 + 1.2 / 2.1) / 2
    assert cross_entropy_dice(logits, labels).item() == pytest.approx(expected, rel=1e-6)


def test_a_class_that_is_not_there_does_not_count() -> None:
    logits = logits_of([[0.8, 0.5], [0.1, 0.5 - 1e-9], [0.1, 1e-9]])
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    assert soft_dice(logits, labels).item() == pytest.approx(1 - 2 * 1.3 / 3.3, rel=1e-5)


@given(st.integers(2, 5), st.integers(0, 999))
def test_bounds(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 5, 4, generator=generator) * 3
    labels = torch.randint(classes, (2, 5, 4), generator=generator)
    assert 0 <= soft_dice(logits, labels).item() <= 1
    perfect = functional.one_hot(labels, classes).movedim(-1, 1).float() * 60
    assert cross_entropy_dice(perfect, labels).item() == pytest.approx(0, abs=1e-5)
    worst = -perfect
    assert cross_entropy_dice(worst, labels) > cross_entropy_dice(logits, labels)


def test_it_is_summed_in_float32_whatever_the_logits() -> None:
    """In half precision the sums over a tile would be rounded to nothing, or overflow."""
    logits = torch.randn(1, 2, 400, 400, generator=torch.Generator().manual_seed(0))
    labels = (logits[:, 0] < 0).long()
    half = cross_entropy_dice(logits.half(), labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(cross_entropy_dice(logits.half().float(), labels).item(), rel=1e-6)


@pytest.mark.parametrize("loss", [soft_dice, cross_entropy_dice])
def test_gradients_are_the_slopes(loss: object, monkeypatch: pytest.MonkeyPatch) -> None:
    # finite differences need float64 throughout
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(3, (2, 3, 2), generator=generator)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), logits)


def test_weights_of_classes_count_in_the_cross_entropy() -> None:
    """Two pixels, of class 0 with p = 1/4 and of class 1 with p = 1/2: (3 log 4 + 1 log 2) / (3 + 1)."""
    logits = torch.log(torch.tensor([[0.25, 0.5], [0.75, 0.5]]))[None, :, None]
    labels = torch.tensor([[[0, 1]]])
    weighted = cross_entropy_dice(logits, labels, torch.tensor([3.0, 1.0])) - soft_dice(logits, labels)
    assert weighted.item() == pytest.approx((3 * math.log(4) + math.log(2)) / 4, rel=1e-6)
