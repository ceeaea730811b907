"""Scores of held-out sections, and the line between two classes that they decide."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import noise, toy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor
from tilesegment.training.data import IGNORE, Section
from tilesegment.training.line import THRESHOLDS, choose_line, recentred
from tilesegment.training.validation import choose_goal, validate

CPU = torch.device("cpu")


def membranes(side: int = 120) -> np.ndarray:
    """(side, side) uint8: cells of 20 px, 1, between membranes of 4 px, 0."""
    lines = np.arange(side) % 20 >= 4
    return (lines[:, None] & lines[None, :]).astype(np.uint8)


def section(label: np.ndarray, name: str = "x") -> Section:
    return Section(name, noise((1, *label.shape)), label)


@pytest.mark.parametrize(
    ("label", "classes", "goal"),
    [
        (membranes(), 2, "v_rand"),
        (1 - membranes(), 2, "dice"),
        (np.pad(np.ones((50, 50), np.uint8), 10), 2, "dice"),
        (membranes() * 2, 3, "miou"),
    ],
)
def test_what_fits_the_labels(label: np.ndarray, classes: int, goal: str) -> None:
    assert choose_goal("auto", [section(label)], classes) == goal
    if classes == 2:
        assert choose_goal("dice", [section(label)], classes) == "dice"
        assert choose_goal("miou", [section(label)], classes) == "miou"


@settings(max_examples=20)
@given(st.integers(20, 60), st.integers(20, 60), st.integers(0, 99))
def test_ignored_pixels_do_not_count(height: int, width: int, seed: int) -> None:
    """The scores are those of the labelled pixels, whatever the network says of the others."""
    model, image = toy_model(seed=seed), noise((1, height, width), seed)
    ids, _ = predict_array(TorchPredictor(model, CPU), image, 64)
    label = np.random.default_rng(seed).integers(0, 2, (height, width)).astype(np.uint8)
    label[:, width // 2 :] = IGNORE
    known = label != IGNORE
    scores = validate(model, [Section("x", image, label)], CPU, "fp32", "dice").scores
    assert scores.accuracy == pytest.approx(np.mean(ids[known] == label[known]))
    both = np.sum((ids == 1) & (label == 1))
    assert scores.value == pytest.approx(2 * both / (np.sum(ids[known]) + np.sum(label == 1)))
    assert scores.sections == (("x", scores.value),)


def test_a_section_larger_than_a_tile_is_scored_whole() -> None:
    model, image = toy_model(), noise((1, 40, 1100))
    ids, _ = predict_array(TorchPredictor(model, CPU), image, 64)
    scores = validate(model, [Section("x", image, ids)], CPU, "fp32", "miou").scores
    assert scores.accuracy == 1
    assert scores.value == scores.miou == 1


def test_the_floors_are_those_of_a_constant() -> None:
    label = membranes()
    cells = ndimage.label(label)[0]
    sizes = np.bincount(cells[cells > 0])[1:] / label.sum()
    found = validate(toy_model(), [section(label)], CPU, "fp32", "v_rand").scores
    # one cell as large as the section: F of (sum A^2 / 1, 1)
    assert found.floor_value == pytest.approx(2 * np.sum(sizes**2) / (np.sum(sizes**2) + 1))
    assert found.floor == pytest.approx(label.mean())
    assert found.value == found.v_rand
    dice = validate(toy_model(), [section(label)], CPU, "fp32", "dice").scores
    assert dice.floor_value == pytest.approx(2 * label.mean() / (1 + label.mean()))
    assert dice.v_rand is None
    miou = validate(toy_model(), [section(label)], CPU, "fp32", "miou").scores
    assert miou.floor_value == pytest.approx(label.mean() / 2)


@given(st.integers(0, 999), st.floats(0.1, 0.9))
def test_the_best_threshold_by_dice(seed: int, line: float) -> None:
    """Against every candidate, computed plainly."""
    rng = np.random.default_rng(seed)
    p = rng.random((30, 30))
    truth = (p + rng.normal(0, 0.1, p.shape) > line).astype(np.uint8)
    truth[:3] = IGNORE
    found = choose_line([truth], [np.stack([1 - p, p])], "dice").threshold

    def dice(threshold: float) -> float:
        said = p[3:] > threshold
        return float(2 * np.sum(said & (truth[3:] == 1)) / (said.sum() + np.sum(truth == 1)))

    scores = np.pad([dice(threshold) for threshold in THRESHOLDS], 1, mode="edge")
    smooth = (scores[:-2] + 2 * scores[1:-1] + scores[2:]) / 4
    if found == 0.5:  # what others would bring is less than chance makes of one section
        assert scores[1:-1].max() < max(dice(0.5), 2 * truth[3:].mean() / (1 + truth[3:].mean())) + 0.1
    else:
        assert smooth[THRESHOLDS.index(found)] == pytest.approx(smooth.max())
        assert dice(found) > dice(0.5) + 0.01


def test_a_dice_that_is_no_better_leaves_the_line_where_it_is() -> None:
    """A network that knows nothing: its best Dice is that of a mask which is class 1 throughout."""
    rng = np.random.default_rng(0)
    truth = (rng.random((2, 60, 60)) < 0.2).astype(np.uint8)
    p = np.clip(0.4 + 0.02 * rng.normal(size=(2, 60, 60)), 0.01, 0.99)
    line = choose_line([*truth], [np.stack([1 - one, one]) for one in p], "dice")
    assert (line.threshold, line.value) == (0.5, line.value_half)
    # and where smoothing alone makes another look better
    spiked = np.where(truth == 1, 0.55, 0.45) + 0.2 * (rng.random((2, 60, 60)) < 0.02)
    line = choose_line([*truth], [np.stack([1 - one, one]) for one in spiked], "dice")
    assert line.value >= line.value_half


def test_the_best_threshold_by_v_rand_closes_the_gaps() -> None:
    """Membranes of which the network is only a little sure: at 1/2 they are open, higher up they are closed."""
    label = membranes()
    p = np.where(label == 1, 0.97, 0.7)
    line = choose_line([label], [np.stack([1 - p, p])], "v_rand")
    assert 0.7 < line.threshold < 0.97
    assert (line.goal, line.value, line.accuracy) == ("v_rand", pytest.approx(1), 1)
    assert line.value_half < 0.5
    assert line.accuracy_half == pytest.approx(label.mean())


def test_no_pixels_are_traded_for_a_v_rand_that_is_no_better() -> None:
    """Membranes that are closed at any threshold, and thicker the higher it is: V_Rand is the same, 1/2 stays."""
    label = membranes()
    distance = ndimage.distance_transform_edt(label)
    p = np.clip(0.2 + 0.1 * distance, 0, 0.999)
    line = choose_line([label] * 3, [np.stack([1 - p, p])] * 3, "v_rand")
    assert line.threshold == 0.5
    sure = np.where(label == 1, 0.999, 0.001)
    assert choose_line([label], [np.stack([1 - sure, sure])], "dice").threshold == 0.5
    assert (line.value, line.accuracy) == (line.value_half, line.accuracy_half)


def test_a_gain_that_one_section_alone_shows_is_noise() -> None:
    """One of four sections has open membranes at 1/2; in another a high threshold cuts the cells up."""
    label = membranes()
    whole = np.where(label == 1, 0.97, 0.1)
    open_ = np.where(label == 1, 0.97, 0.6)
    gap = np.zeros_like(label, bool)
    gap[:, 8:10], gap[8:10] = True, True  # one cell is merged with others through this, or cut by it
    slightly = np.where(gap & (label == 0), open_, whole)
    maps = [np.stack([1 - p, p]) for p in (slightly, whole, whole, whole)]
    assert choose_line([label] * 4, maps, "v_rand").threshold == 0.5
    maps = [np.stack([1 - p, p]) for p in (open_,) * 4]
    assert choose_line([label] * 4, maps, "v_rand").threshold > 0.6


@settings(max_examples=10)
@given(st.floats(0.02, 0.98), st.integers(0, 99))
def test_recentred_is_the_same_mask_at_one_half(threshold: float, seed: int) -> None:
    model, image = toy_model(seed=seed), noise((1, 40, 50), seed)
    before = TorchPredictor(model, CPU, "fp64", threshold=threshold)
    after = TorchPredictor(recentred(model, threshold), CPU, "fp64")
    (ids, p), (again, q) = (predict_array(predictor, image, 64) for predictor in (before, after))
    np.testing.assert_array_equal(ids, again)
    odds = threshold / (1 - threshold)
    np.testing.assert_allclose(q[1] / q[0] * odds, p[1] / p[0], rtol=1e-6)
    untouched = TorchPredictor(model, CPU, "fp64", threshold=threshold)
    np.testing.assert_array_equal(predict_array(untouched, image, 64)[1], p)


def test_the_models_own_threshold_is_used() -> None:
    model, label = toy_model(), membranes(60)
    high = replace(model, header=replace(model.header, threshold=0.999))
    assert validate(high, [section(label)], CPU, "fp32", "dice").masks[0].mean() < 0.1
