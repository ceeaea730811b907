"""Scores of objects: hand-computed, equal to brute force, the same for any blocks."""

import math
from random import Random

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.scoring import ObjectScore, object_scores
from tilesegment.scoring.objects import IOU_THRESHOLDS, matches, pooled, tally
from tilesegment.scoring.overlaps import add_up, count_overlaps, overlaps

LABELS = st.integers(0, 2**32 - 1).flatmap(
    lambda seed: st.tuples(st.integers(1, 14), st.integers(1, 14), st.just(seed), st.integers(0, 5), st.integers(0, 5))
)


def label_images(drawn: tuple[int, int, int, int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Random blots of ids with gaps, some of them copied or moved, so that all kinds of overlap occur; (H, W) each."""
    height, width, seed, true, guess = drawn
    rng = np.random.default_rng(seed)
    pair = np.zeros((2, height, width), np.int64)
    for image, count in zip(pair, (true, guess), strict=True):
        for _ in range(count):
            y, x = rng.integers(0, height), rng.integers(0, width)
            image[y : y + rng.integers(1, 8), x : x + rng.integers(1, 8)] = rng.integers(1, 9) * 7
    if seed % 3 == 0:
        pair[1] = np.roll(pair[0], seed % 2, axis=1) * (pair[0] >= seed % 5)
    return pair[0], pair[1]


def by_hand(truth: np.ndarray, prediction: np.ndarray) -> dict[str, object]:
    """The scores in the words of their sources, with loops over all pairs of objects."""
    trues, guesses = ([image == i for i in np.unique(image) if i] for image in (truth, prediction))
    both = np.array([[(t & p).sum() for p in guesses] for t in trues]).reshape(len(trues), len(guesses))
    either = np.array([[(t | p).sum() for p in guesses] for t in trues]).reshape(both.shape)
    iou = both / np.maximum(either, 1)
    n, m = iou.shape

    def found(threshold: float) -> int:
        return int((iou >= threshold)[linear_sum_assignment(-(iou >= threshold).astype(float))].sum())

    def over(part: float, whole: float) -> float | None:
        return part / whole if whole else None

    above, wanted, unions, used = iou[iou > 0.5], 0, 0, set()
    for t in range(n):
        best = int(iou[t].argmax()) if m and iou[t].max() > 0 else None
        wanted += both[t, best] if best is not None else 0
        unions += either[t, best] if best is not None else trues[t].sum()
        used.add(best)
    unions += sum(guesses[p].sum() for p in range(m) if p not in used)
    aps = [over(found(t), n + m - found(t)) for t in IOU_THRESHOLDS]
    inner = [[2 * both[t, p] >= guesses[p].sum() and both[t, p] > 0 for p in range(m)] for t in range(n)]
    swallowed = [[2 * both[t, p] >= trues[t].sum() for p in range(m)] for t in range(n)]
    return {
        "f1": over(2 * found(0.5), n + m),
        "recall": over(found(0.5), n),
        "mean_ap": None if None in aps else np.mean([ap for ap in aps if ap is not None]),
        "pq": over(2 * above.sum(), n + m),
        "sq": over(above.sum(), above.size),
        "aji": over(wanted, unions),
        "dice": over(2 * ((truth > 0) & (prediction > 0)).sum(), (truth > 0).sum() + (prediction > 0).sum()),
        "merged": sum(sum(swallowed[t][p] for t in range(n)) > 1 for p in range(m)),
        "split": sum(
            sum(inner[t]) > 1 and 2 * sum(both[t][inner[t]]) >= trues[t].sum() and not (m and iou[t].max() >= 0.5)
            for t in range(n)
        ),
    }


def close(one: object, other: object) -> bool:
    return one is other if one is None or other is None else math.isclose(one, other, abs_tol=1e-12)  # type: ignore[arg-type]


@given(LABELS)
@example((4, 4, 0, 0, 0))
@example((4, 4, 0, 3, 0))
def test_scores_equal_those_of_brute_force(drawn: tuple[int, int, int, int, int]) -> None:
    truth, prediction = label_images(drawn)
    found, wanted = object_scores(truth, prediction), by_hand(truth, prediction)
    values = {**vars(found), "f1": found.at[0].f1, "recall": found.at[0].recall}
    assert {name: value for name, value in wanted.items() if not close(values[name], value)} == {}
    assert [one.threshold for one in found.at] == [0.5, 0.75, 0.9]
    assert found.at[0].found + found.at[0].missed == found.truth == np.unique(truth[truth > 0]).size
    assert found.at[0].found + found.at[0].made_up == found.prediction


@given(LABELS, st.integers(1, 6), st.randoms(use_true_random=False))
def test_blocks_in_any_order_add_up_to_the_whole(
    drawn: tuple[int, int, int, int, int], side: int, random: Random
) -> None:
    truth, prediction = label_images(drawn)
    regions = list(Region.of_shape(truth.shape).squares(side))
    random.shuffle(regions)
    parts = [count_overlaps(truth[r.slices], prediction[r.slices], 7) for r in regions]
    whole = count_overlaps(truth, prediction, 7)
    np.testing.assert_array_equal(add_up(parts), whole)
    assert whole[:, 2].sum() == np.count_nonzero(truth != 7)


@given(arrays(np.uint8, (6, 6), elements=st.integers(0, 3)), arrays(np.uint8, (6, 6), elements=st.integers(0, 3)))
def test_no_object_matches_twice(truth: np.ndarray, prediction: np.ndarray) -> None:
    table = overlaps(truth, prediction)
    for threshold in IOU_THRESHOLDS:
        good = matches(table, threshold)
        assert len({*table.rows[good]}) == len({*table.columns[good]}) == len(good)


def squares(*places: tuple[int, int, int, int]) -> np.ndarray:
    """Ids 1, 2, ... in boxes y0, x0, y1, x1, (8, 12)."""
    ids = np.zeros((8, 12), np.uint16)
    for number, (y0, x0, y1, x1) in enumerate(places, 1):
        ids[y0:y1, x0:x1] = number
    return ids


def test_two_objects_by_hand() -> None:
    """One of 16 pixels is hit with 12 in common of 16 (IoU 0.75), one of 8 is missed, one of 6 is made up."""
    truth = squares((0, 0, 4, 4), (5, 8, 7, 12))
    prediction = squares((0, 0, 4, 3), (4, 0, 6, 3))
    found = object_scores(truth, prediction)
    assert (found.truth, found.prediction, found.split, found.merged) == (2, 2, 0, 0)
    assert [(one.found, one.made_up, one.missed) for one in found.at] == [(1, 1, 1), (1, 1, 1), (0, 2, 2)]
    assert [(one.precision, one.recall, one.f1) for one in found.at] == [(0.5, 0.5, 0.5)] * 2 + [(0, 0, 0)]
    assert [one.ap for one in found.at] == [1 / 3, 1 / 3, 0]
    assert found.mean_ap == pytest.approx(6 / 10 / 3)  # 0.5 to 0.75 are six thresholds of ten
    assert (found.sq, found.rq, found.pq) == (0.75, 0.5, 0.375)
    assert found.aji == pytest.approx(12 / (16 + 8 + 6))
    assert found.dice == pytest.approx(2 * 12 / (24 + 18))


def test_two_halves_of_one_object_are_one_match_at_a_half() -> None:
    truth = squares((0, 0, 4, 4))
    halves = squares((0, 0, 2, 4), (2, 0, 4, 4))
    found = object_scores(truth, halves)
    assert (found.at[0].found, found.at[0].made_up, found.at[0].missed) == (1, 1, 0)
    assert (found.pq, found.sq, found.rq) == (0, None, 0)  # panoptic quality asks for more than a half
    assert (found.split, found.merged, found.dice) == (0, 0, 1)
    assert found.aji == pytest.approx(8 / (16 + 8))
    turned = object_scores(halves, truth)
    assert (turned.at[0].found, turned.at[0].missed, turned.merged) == (1, 1, 1)
    # both halves take the whole, which so counts twice
    assert turned.aji == pytest.approx(16 / 32)


def test_split_and_merged_objects() -> None:
    truth = squares((0, 0, 3, 9), (4, 0, 8, 4), (4, 4, 8, 8))
    prediction = squares((0, 0, 3, 3), (0, 3, 3, 6), (0, 6, 3, 9), (4, 0, 8, 8))
    found = object_scores(truth, prediction)
    assert (found.split, found.merged) == (1, 1)
    assert found.at[0].found == 1  # the merging one has an IoU of a half with either
    # a single piece splits nothing, nor do scraps of neighbours
    assert object_scores(truth, squares((0, 0, 3, 3))).split == 0
    assert object_scores(truth, squares((0, 0, 3, 2), (2, 2, 8, 12))).split == 0


def test_what_cannot_be_said_is_none() -> None:
    none, some = np.zeros((8, 12), np.uint8), squares((0, 0, 4, 4))

    def told(one: ObjectScore) -> tuple[object, ...]:
        first = one.at[0]
        return first.precision, first.recall, first.f1, first.ap, one.mean_ap, one.pq, one.sq, one.aji, one.dice

    assert told(object_scores(none, none)) == (None,) * 9
    assert told(object_scores(some, none)) == (None, 0, 0, 0, 0, 0, None, 0, 0)
    assert told(object_scores(none, some)) == (0, None, 0, 0, 0, 0, None, 0, 0)
    assert told(object_scores(np.zeros((0, 3)), np.zeros((0, 3)))) == (None,) * 9
    assert told(object_scores(some, some)) == (1,) * 9


def test_planes_are_pooled_by_their_counts_but_aji_and_dice_are_means() -> None:
    one, other = squares((0, 0, 4, 4), (5, 5, 7, 9)), squares((0, 0, 4, 3), (0, 8, 2, 10), (5, 0, 8, 4))
    pairs = [(one, other), (one, one), (0 * one, 0 * one), (0 * one, other)]
    alone = [object_scores(*pair) for pair in pairs]
    found = pooled([tally(overlaps(*pair)) for pair in pairs])
    assert (found.truth, found.prediction) == (4, 8)
    assert [m.found for m in found.at] == [sum(score.at[n].found for score in alone) for n in range(3)] == [3, 3, 2]
    assert (found.at[0].f1, found.at[0].ap) == (6 / 12, 3 / 9)
    assert found.pq == pytest.approx(2 * (0.75 + 1 + 1) / 12)
    for name in ("aji", "dice"):
        assert getattr(found, name) == pytest.approx(sum(getattr(score, name) or 0 for score in alone) / 3)


def test_ids_may_be_of_any_kind_and_in_pieces() -> None:
    pieces = squares((0, 0, 2, 2), (6, 8, 8, 12))
    pieces[pieces > 0] = 9
    for truth in (pieces.astype(np.uint64) * 2**40, pieces.astype(np.float32), pieces.astype(np.int8)):
        assert object_scores(truth, pieces).at[2].found == object_scores(truth, pieces).truth == 1


def test_ignored_pixels_count_nowhere() -> None:
    truth, prediction = squares((0, 0, 4, 4), (0, 4, 8, 8)), squares((0, 0, 4, 8), (5, 5, 7, 7))
    found = object_scores(truth, prediction, ignore=2)
    assert (found.truth, found.prediction, found.dice, found.pq) == (1, 1, 1, 1)
    void = np.where(truth == 2, -1, truth.astype(np.int16))
    assert object_scores(void, prediction, ignore=-1) == found


@pytest.mark.parametrize(
    ("truth", "prediction", "message"),
    [
        (np.full((2, 2), -1), np.ones((2, 2)), "truth holds -1; .*--ignore -1"),
        (np.ones((2, 2)), np.full((2, 2), -3), "prediction holds -3"),
        (np.full((2, 2), 0.5), np.ones((2, 2)), "truth .*whole"),
        (np.ones((2, 2)), np.full((2, 2), np.nan), "prediction .*whole"),
        (np.full((2, 2), 2**63, np.uint64), np.ones((2, 2)), "truth holds 9223372036854775808"),
        (np.ones((2, 2)), np.ones((2, 3)), "shape"),
    ],
)
def test_what_is_no_id_is_refused(truth: np.ndarray, prediction: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        object_scores(truth, prediction)
