"""Scores: hand-computed cases, what must not change them, and the known scores of proposals on real sections."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from tilesegment.errors import DataError
from tilesegment.scoring import (
    confusion,
    constant_predictor,
    dice,
    foreground_scores,
    iou,
    membrane_scores,
    pixel_accuracy,
    section_scores,
    segment_cells,
)


def random_labels(seed: int, highest: int = 5) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.integers(0, highest + 1, rng.integers(5, 30, 2))


# --- pixels


def test_confusion_counts_each_pair_and_skips_the_ignored():
    truth = np.array([[0, 0, 1], [1, 255, 2]], np.uint8)
    prediction = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    counts = confusion(truth, prediction, 4, ignore=255)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[1, 1, 0, 0], [0, 2, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_allclose(dice(counts), [2 / 4, 4 / 5, 0, np.nan])
    np.testing.assert_allclose(iou(counts), [1 / 3, 2 / 3, 0, np.nan])
    assert pixel_accuracy(counts) == 3 / 5
    floor = constant_predictor(np.array([[5, 1, 0], [2, 9, 1], [1, 1, 3]]))
    assert floor.tolist() == [[0, 6, 0], [0, 12, 0], [0, 5, 0]]
    none = confusion(np.full((2, 2), 9), np.zeros((2, 2), int), 2, ignore=9)
    assert none.sum() == 0 and np.isnan([*dice(none), pixel_accuracy(none)]).all()  # and no warning


@given(st.integers(0, 2**32 - 1))
def test_confusion_of_blocks_adds_up_and_iou_follows_from_dice(seed):
    truth, other = random_labels(seed), random_labels(seed + 1)
    prediction = np.resize(other, truth.shape)
    counts = confusion(truth, prediction, 6)
    parts = confusion(truth[:2], prediction[:2], 6) + confusion(truth[2:], prediction[2:], 6)
    np.testing.assert_array_equal(counts, parts)
    assert counts.sum() == truth.size
    assert counts.trace() == np.count_nonzero(truth == prediction)
    scores = dice(counts)
    np.testing.assert_allclose(iou(counts), scores / (2 - scores))


@pytest.mark.parametrize("bad", [-1, 3])
def test_ids_and_shapes_are_checked(bad):
    truth, prediction = np.zeros((2, 2), int), np.array([[0, 1], [2, bad]])
    with pytest.raises(DataError, match=r"prediction .* 0 to 2"):
        confusion(truth, prediction, 3)
    with pytest.raises(DataError, match="truth"):
        confusion(prediction, truth, 3)
    with pytest.raises(DataError, match=r"\(2, 3\) .* \(3, 2\)"):
        confusion(np.zeros((2, 3), int), np.zeros((3, 2), int), 2)


# --- cells


@pytest.mark.parametrize(
    ("truth", "proposal", "v_rand", "v_info"),
    [
        ([1, 1, 2, 2], [1, 1, 1, 1], 2 / 3, 0),  # merged: sum A^2 = 1/2, B^2 = 1, AB^2 = 1/2
        ([1, 1, 1, 1], [1, 1, 2, 2], 2 / 3, 0),  # split
        ([1, 1, 2, 2], [1, 0, 2, 2], 6 / 7, 4 / 5),  # a dam pixel: B^2 = AB^2 = 3/8; I = log 2, H(B) = 1.5 log 2
        ([1, 0, 2, 2], [7, 3, 9, 9], 1, 1),  # what lies on true membrane is ignored
        ([1, 1, 0, 1], [4, 4, 4, 4], 1, 1),  # one cell in both
        ([1, 1, 1, 1], [0, 0, 0, 0], 2 / 5, 0),  # nothing but dams: sum A^2 = 1, AB^2 = B^2 = 1/4
    ],
)
def test_scores_by_hand(truth, proposal, v_rand, v_info):
    assert foreground_scores(np.array([truth]), np.array([proposal])) == pytest.approx((v_rand, v_info))


@given(st.integers(0, 2**32 - 1))
def test_scores_do_not_depend_on_the_names_of_cells_and_dams_are_cells_of_one_pixel(seed):
    rng = np.random.default_rng(seed)
    truth = random_labels(seed)
    truth[0, 0] = 1
    proposal = rng.integers(0, 4, truth.shape)
    scores = foreground_scores(truth, proposal)
    renamed = np.array([0, *(rng.permutation(5) + 11)])[truth], np.array([0, *(rng.permutation(3) + 5)])[proposal]
    assert foreground_scores(*renamed) == pytest.approx(scores)
    singletons = np.where(proposal == 0, 100 + np.arange(truth.size).reshape(truth.shape), proposal)
    assert foreground_scores(truth, singletons) == pytest.approx(scores)
    assert foreground_scores(truth, truth) == pytest.approx((1, 1))
    assert all(-1e-12 <= score <= 1 + 1e-12 for score in scores)


def test_basins_grow_to_a_dam_of_one_pixel_half_way():
    probability = np.zeros((4, 11))
    probability[:, :2] = probability[:, -2:] = 1
    row = [1, 1, 1, 1, 1, 0, 2, 2, 2, 2, 2]
    assert segment_cells(probability, 0.5).tolist() == [row] * 4
    assert segment_cells(probability, 0.5).dtype == np.int32


def test_diagonal_neighbours_are_two_cells_and_without_two_basins_nothing_is_dammed():
    assert segment_cells(np.eye(2), 0.5).max() == 2
    for value in (0.0, 1.0):
        np.testing.assert_array_equal(segment_cells(np.full((4, 5), value), 0.5), np.full((4, 5), value))


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.integers(8, 60), st.integers(8, 60))
def test_cells_never_touch_and_keep_their_basins(seed, height, width):
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).random((height, width)), 2)
    labels, threshold = segment_cells(smooth, 0.52), 0.52
    basins, count = ndimage.label(smooth > threshold)
    assert labels.max() == count
    if count > 1:
        np.testing.assert_array_equal(labels[basins > 0], basins[basins > 0])
    for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
        assert not np.any((a != b) & (a > 0) & (b > 0))


def test_best_threshold_is_one_for_all_sections():
    truth = np.ones((8, 9), bool)
    truth[:, 4] = False
    low, high = np.where(truth, 0.45, 0.05), np.where(truth, 0.95, 0.35)
    scores = membrane_scores([truth, truth], [low, high])
    assert (scores.v_rand, scores.v_info) == pytest.approx((1, 1))
    assert scores.threshold_rand == scores.threshold_info == 0.4
    assert scores.section_rand.shape == scores.section_info.shape == (11, 2)
    perfect = np.isclose(scores.section_rand, 1)
    assert perfect[:, 0].tolist() == [t in (0.1, 0.2, 0.3, 0.4) for t in scores.thresholds]
    assert perfect[:, 1].tolist() == [0.35 < t < 0.95 for t in scores.thresholds]


@pytest.mark.parametrize(
    ("inside", "error"),
    [
        ([1, 1, 0, 1, 1], 0),
        ([1, 1, 1, 1, 1], 1 - 2 / 3),  # merged: sum A^2 = 1/2, B^2 = 1, AB^2 = 1/2
        ([1, 1, 0, 0, 1], 1 / 7),  # a pixel lost: sum A^2 = 1/2, B^2 = AB^2 = 1/4 + 1/16 + 1/16
        ([0, 0, 0, 0, 0], 1 - 2 / 3),  # singletons alone: sum A^2 = 1/2, B^2 = AB^2 = 1/4
    ],
)
def test_rand_error_by_hand(inside, error):
    truth = np.array([[1, 1, 0, 1, 1]], bool)
    assert section_scores(truth, np.array([inside], bool), (0.5,))[2, 0] == pytest.approx(error)


def test_rand_error_counts_what_a_thick_membrane_takes_from_the_cells():
    truth = np.ones((20, 21), bool)
    truth[:, 10] = False
    thick = ndimage.binary_erosion(truth, iterations=3, border_value=1)
    v_rand, _, error = section_scores(truth, thick, (0.5,))[:, 0]
    assert v_rand == pytest.approx(1)
    assert error > 0.1


@pytest.mark.parametrize(
    ("truths", "maps", "message"),
    [
        ([], [], "0 truths"),
        ([np.ones((2, 2), bool)], [], "1 truths and 0"),
        ([np.ones((2, 2), bool)], [np.full((2, 2), np.nan)], "section 0: .*NaN"),
        ([np.ones((2, 2), bool)], [np.ones((2, 3))], r"\(2, 3\)"),
        ([np.zeros((2, 2), bool)], [np.ones((2, 2))], "no pixel"),
    ],
)
def test_unusable_stacks_are_refused(truths, maps, message):
    with pytest.raises(DataError, match=message):
        membrane_scores(truths, maps)


@pytest.mark.slow
def test_known_scores_of_real_sections(isbi):
    """Of every third section: truths eroded and dilated, and the image smoothed."""
    names = sorted(path.name for path in (isbi / "labels").glob("*.png"))[::3]
    images, truths = ([np.asarray(Image.open(isbi / part / name)) for name in names] for part in ("images", "labels"))
    truths = [truth > 0 for truth in truths]

    def mean_v_rand(change):
        pairs = [(ndimage.label(truth)[0], segment_cells(change(truth), 0.5)) for truth in truths]
        return float(np.mean([foreground_scores(*pair)[0] for pair in pairs]))

    assert mean_v_rand(lambda truth: truth) == pytest.approx(1, abs=1e-12)
    for pixels, eroded, dilated in ((1, 0.9992, 0.970), (2, 0.9980, 0.318), (3, 0.9955, 0.079)):
        # means over all 30 sections of the challenge, these are 8 of them
        assert mean_v_rand(
            lambda truth, n=pixels: ndimage.binary_erosion(truth, iterations=n, border_value=1)
        ) == pytest.approx(eroded, abs=0.002)
        assert mean_v_rand(lambda truth, n=pixels: ndimage.binary_dilation(truth, iterations=n)) == pytest.approx(
            dilated, abs=0.05
        )
    scores = membrane_scores(truths, [ndimage.gaussian_filter(image / 255, 2) for image in images])
    assert scores.v_rand == pytest.approx(0.81, abs=0.05)
    assert scores.threshold_rand == 0.5
