"""Losses and weights against figures worked out by hand, and their gradients."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch.nn import functional

from tilesegment.errors import PlanError
from tilesegment.training.data import IGNORE
from tilesegment.training.losses import PIXEL_LOSSES, REGION_LOSSES, Loss, balanced_weights, border_weights

ALL = [*PIXEL_LOSSES, *REGION_LOSSES, "ce+dice"]

# three pixels of the classes 0, 0, 1
LABELS = torch.tensor([[[0, 0, 1]]])
P_TRUE = (0.9, 0.6, 0.6)


def logits_of(probabilities: list[list[float]]) -> torch.Tensor:
    """(1, K, 1, N) logits whose softmax is `probabilities`, one row per class."""
    return torch.tensor(probabilities).log()[None, :, None, :]


LOGITS = logits_of([[0.9, 0.6, 0.4], [0.1, 0.4, 0.6]])

ENTROPY = -sum(math.log(p) for p in P_TRUE) / 3
DICE = 1 - (3.0 / 3.9 + 1.2 / 2.1) / 2  # 2 (.9 + .6) / (1.9 + 2); 2 (.6) / (1.1 + 1)
BY_HAND = {
    "ce": ENTROPY,
    "bce": ENTROPY,
    "focal": -sum((1 - p) ** 2 * math.log(p) for p in P_TRUE) / 3,
    "dice": DICE,
    "iou": 1 - (1.5 / 2.4 + 0.6 / 1.5) / 2,  # 1.5 / (1.9 + 2 - 1.5); .6 / (1.1 + 1 - .6)
    " dice + ce ": ENTROPY + DICE,
}


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name: str) -> None:
    assert Loss(name)(LOGITS, LABELS).item() == pytest.approx(BY_HAND[name], rel=1e-6)


def test_each_class_against_the_others_by_hand() -> None:
    """One pixel of class 0 with p = .5, .3, .2: the mean of -log .5, -log .7 and -log .8."""
    loss = Loss("bce")(logits_of([[0.5], [0.3], [0.2]]), torch.zeros(1, 1, 1, dtype=torch.int64))
    assert loss.item() == pytest.approx(-(math.log(0.5) + math.log(0.7) + math.log(0.8)) / 3, rel=1e-6)


@pytest.mark.parametrize("name", REGION_LOSSES)
def test_a_class_that_is_not_there_does_not_count(name: str) -> None:
    logits = logits_of([[0.8, 0.5], [0.1, 0.5 - 1e-9], [0.1, 1e-9]])
    labels = torch.zeros(1, 1, 2, dtype=torch.int64)
    expected = {"dice": 1 - 2 * 1.3 / 3.3, "iou": 1 - 1.3 / 2.0}[name]
    assert Loss(name)(logits, labels).item() == pytest.approx(expected, rel=1e-5)


@settings(max_examples=40)
@given(st.sampled_from(ALL), st.integers(2, 5), st.integers(0, 999))
def test_bounds(name: str, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, classes, 5, 4, generator=generator) * 3
    labels = torch.randint(classes, (2, 5, 4), generator=generator)
    loss = Loss(name)
    if name in REGION_LOSSES:
        assert 0 <= loss(logits, labels).item() <= 1
    perfect = functional.one_hot(labels, classes).movedim(-1, 1).float() * 60
    assert loss(perfect, labels).item() == pytest.approx(0, abs=1e-5)
    assert loss(-perfect, labels) > loss(logits, labels) > 0


@settings(max_examples=40)
@given(st.sampled_from(ALL), st.integers(2, 4), st.integers(0, 999))
def test_ignored_pixels_do_not_count(name: str, classes: int, seed: int) -> None:
    """Whatever is predicted there: the loss of the others alone, and no gradient."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(1, classes, 4, 6, generator=generator, requires_grad=True)
    labels = torch.randint(classes, (1, 4, 6), generator=generator)
    alone = Loss(name)(logits[..., :4], labels[..., :4])
    labels[..., 4:] = IGNORE
    loss = Loss(name)(logits, labels)
    assert loss.item() == pytest.approx(alone.item(), rel=1e-5)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[..., 4:].any() and gradient[..., :4].any()
    nothing = Loss(name)(logits, torch.full_like(labels, IGNORE))
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert torch.isfinite(nothing) and not gradient.any()


@pytest.mark.parametrize("name", ALL)
def test_it_is_summed_in_float32_whatever_the_logits(name: str) -> None:
    """In half precision the sums over a tile would be rounded to nothing, or overflow."""
    logits = torch.randn(1, 2, 400, 400, generator=torch.Generator().manual_seed(0))
    labels = (logits[:, 0] < 0).long()
    half = Loss(name)(logits.half(), labels)
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(Loss(name)(logits.half().float(), labels).item(), rel=1e-6)


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("extreme", [1e-8, 50.0, 1e4])
def test_extreme_logits_stay_finite(name: str, extreme: float) -> None:
    logits = torch.tensor([[extreme, -extreme], [-extreme, extreme], [0, 0]])[None, :, None].requires_grad_()
    loss = Loss(name)(logits, torch.tensor([[[1, 1]]]))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(loss) and torch.isfinite(gradient).all()


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_the_slopes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # finite differences need float64 throughout
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 3, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    labels = torch.randint(3, (2, 3, 2), generator=generator)
    labels[0, 0, 0] = IGNORE
    weights, border = torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64), torch.rand(2, 3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: Loss(name)(x, labels, weights, border).double(), logits)


@pytest.mark.parametrize("name", ["ce", "iou", "ce+dice"])
def test_a_loss_of_several_outputs_is_the_mean_of_theirs(name: str) -> None:
    outputs = tuple(torch.randn(1, 2, 5, 5, generator=torch.Generator().manual_seed(n)) for n in range(3))
    labels, weights = torch.randint(2, (1, 5, 5)), torch.tensor([2.0, 1.0])
    expected = sum(Loss(name)(output, labels, weights).item() for output in outputs) / 3
    assert Loss(name)(outputs, labels, weights).item() == pytest.approx(expected, rel=1e-6)


def test_weights_by_hand() -> None:
    """Two pixels, of class 0 with p = 1/4 and of class 1 with p = 1/2."""
    logits = logits_of([[0.25, 0.5], [0.75, 0.5]])
    labels = torch.tensor([[[0, 1]]])
    weights, border = torch.tensor([3.0, 1.0]), torch.tensor([[[4.0, 0.0]]])
    heavy, light = math.log(4), math.log(2)
    loss = Loss("ce")
    assert loss(logits, labels, weights).item() == pytest.approx((3 * heavy + light) / 4, rel=1e-6)
    assert loss(logits, labels, None, border).item() == pytest.approx((5 * heavy + light) / 6, rel=1e-6)
    assert loss(logits, labels, weights, border).item() == pytest.approx((7 * heavy + light) / 8, rel=1e-6)
    assert Loss("dice")(logits, labels, weights, border) == Loss("dice")(logits, labels)


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=6))
def test_balanced_weights(given_shares: list[float]) -> None:
    """Every class weighs the same in all: share times weight is one number; and the mean weight is 1."""
    shares = tuple(share / sum(given_shares) for share in given_shares)
    weights = balanced_weights(shares)
    products = [share * weight for share, weight in zip(shares, weights, strict=True)]
    assert max(products) == pytest.approx(min(products), rel=1e-6)
    assert sum(weights) / len(weights) == pytest.approx(1, rel=1e-6)


def test_a_class_without_pixels_weighs_one() -> None:
    assert balanced_weights((0.25, 0.75, 0.0)) == pytest.approx((1.5, 0.5, 1.0))
    with pytest.raises(PlanError, match="no class has a labelled pixel"):
        balanced_weights((0.0, 0.0))


@pytest.mark.parametrize("text", ["", "mse", "ce+", "ce+ce", "dice-ce"])
def test_unknown_losses(text: str) -> None:
    with pytest.raises(PlanError, match=r"--loss is .*; allowed: ce, bce, focal, dice, iou"):
        Loss(text)


def test_between_two_cells_by_hand() -> None:
    """A gap of five pixels: the middle one is 3 from either cell, its neighbours 2 + 4."""
    inside = np.ones((9, 25), bool)
    inside[:, 10:15] = False
    cells = ndimage.label(inside)[0]
    weights = border_weights(cells, w0=10, sigma=5)
    assert (weights.shape, weights.dtype) == ((9, 25), np.float32)
    assert weights[4, 10:15] == pytest.approx([10 * np.exp(-36 / 50)] * 5, rel=1e-6)
    assert not weights[inside].any()
    alone = np.zeros((40, 40), bool)
    alone[10:20, 10:20] = True
    assert border_weights(alone.astype(int)).max() == border_weights(np.zeros((4, 4), int)).max() == 0
    within = border_weights(cells, w0=10, sigma=5, within=True)
    np.testing.assert_array_equal(within[~inside], weights[~inside])
    assert within[4, 9] == pytest.approx(10 * np.exp(-36 / 50)), "6 px from the other cell, 0 from its own"
    touching = np.repeat([[1, 2]], 6, axis=0).repeat(5, axis=1)
    expected = [10 * np.exp(-(d**2) / 50) for d in (5, 4, 3, 2, 1, 1, 2, 3, 4, 5)]
    assert border_weights(touching, 10, 5, within=True)[3] == pytest.approx(expected)
    assert not border_weights(np.array([[0, 0, 3]]), 10, 5, within=True).any(), "numbers may be left out"


@settings(max_examples=20)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(1, 6), st.floats(0.3, 0.9), st.integers(0, 999))
def test_border_weights_as_the_formula_says(height: int, width: int, sigma: float, share: float, seed: int) -> None:
    """Against the distances to every cell over the whole image."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 1)
    inside = smooth > np.quantile(smooth, share)
    cells, count = ndimage.label(inside)
    expected = np.zeros((height, width))
    if count >= 2:
        nearest = np.sort([ndimage.distance_transform_edt(cells != n) for n in range(1, count + 1)], axis=0)
        expected = np.where(inside, 0, 10 * np.exp(-((nearest[0] + nearest[1]) ** 2) / (2 * sigma**2)))
    # beyond four sigma it is cut off, at 10 exp(-8)
    np.testing.assert_allclose(border_weights(cells, 10, sigma), expected, atol=0.0034)
    if count >= 2:
        within = np.where(inside, 10 * np.exp(-(nearest[1] ** 2) / (2 * sigma**2)), expected)
        np.testing.assert_allclose(border_weights(cells, 10, sigma, within=True), within, atol=0.0034)
