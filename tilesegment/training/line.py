"""The line between two classes: the probability that parts them best on held-out sections."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tilesegment.models.model import Model
from tilesegment.scoring import THRESHOLDS as OFFICIAL
from tilesegment.scoring import MembraneScores, membrane_scores
from tilesegment.training.data import IGNORE

# candidates in even steps of the logit: near 0 and 1 probabilities lie close together
THRESHOLDS = tuple(1 / (1 + math.exp(-k / 2)) for k in range(-10, 11))
_HALF = len(THRESHOLDS) // 2
_EQUAL = 1e-9  # scores that differ by rounding alone
# score that a threshold must gain; more with a single section, whose variation is unknown
_LEAST_GAIN, _LEAST_GAIN_OF_ONE = 0.005, 0.02


@dataclass(frozen=True)
class Line:
    """The threshold between two classes, and its scores on the held-out sections.

    Attributes:
        threshold: probability of class 1 above which a pixel is class 1.
        goal: the score that it serves, `v_rand`, or `dice` of class 1.
        value, accuracy: that score and the share of right pixels, at the threshold.
        value_half, accuracy_half: the same at 1/2.
    """

    threshold: float
    goal: str
    value: float
    accuracy: float
    value_half: float
    accuracy_half: float


def score_cells(
    truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], thresholds: Sequence[float] = OFFICIAL
) -> MembraneScores:
    """Score the cells, class 1, by the ISBI 2012 protocol; unlabelled pixels are outside of cells."""
    inside = [np.where(truth == IGNORE, 0.0, p[1]) for truth, p in zip(truths, probabilities, strict=True)]
    return membrane_scores([truth == 1 for truth in truths], inside, thresholds)


def choose_line(truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], goal: str) -> Line:
    """Choose the threshold between two classes that serves `goal` best.

    A single closed gap can decide V_Rand. Therefore scores are smoothed over neighbouring candidates, and 1/2 stays
    unless another one is better by more than the sections vary. Among equally good ones the one with most pixels right
    wins, and among those the one nearest to 1/2.

    Args:
        truths, probabilities: of each section, (H, W) uint8 class ids and (2, H, W) float.
        goal: `v_rand`, or any other for the Dice score of class 1.
    """
    dices, accuracy = _pixel_scores(truths, probabilities)
    if goal == "v_rand":
        scores = score_cells(truths, probabilities, THRESHOLDS).section_rand
        at, values = _best_by_sections(scores, accuracy), scores.mean(1)
    else:
        goal, at, values = "dice", _best_by_dice(dices, accuracy, truths), dices
    return Line(THRESHOLDS[at], goal, *(float(each[n]) for n in (at, _HALF) for each in (values, accuracy)))


def _best_by_dice(dices: np.ndarray, accuracy: np.ndarray, truths: Sequence[np.ndarray]) -> int:
    """The best threshold by Dice (T,): `_HALF` unless another beats it, and also a mask of class 1 everywhere."""
    smooth = _smoothed(dices)
    at = _most_right(np.flatnonzero(smooth >= smooth.max() - _EQUAL), accuracy)
    inside = np.concatenate([(truth == 1)[truth != IGNORE] for truth in truths]).mean()
    least = _LEAST_GAIN if len(truths) > 1 else _LEAST_GAIN_OF_ONE
    return at if dices[at] >= max(dices[_HALF], 2 * inside / (1 + inside)) + least else _HALF


def _best_by_sections(scores: np.ndarray, accuracy: np.ndarray) -> int:
    """The best threshold by the scores (T, S) of S sections: `_HALF` unless another is significantly better."""
    smooth = np.stack([_smoothed(column) for column in scores.T], axis=1)
    behind = smooth[smooth.mean(1).argmax()] - smooth  # (T, S)
    count = behind.shape[1]
    noise = np.full(len(behind), _LEAST_GAIN_OF_ONE)
    if count > 1:
        noise = np.maximum(behind.std(1, ddof=1) / math.sqrt(count), _LEAST_GAIN)
    equal = behind.mean(1) <= noise
    if equal[_HALF]:
        return _HALF
    return _most_right(np.flatnonzero(equal & (scores.mean(1) > scores.mean(1)[_HALF])), accuracy)


def _most_right(candidates: np.ndarray, accuracy: np.ndarray) -> int:
    """Of equally good thresholds the one with most pixels right, nearest to 1/2; `_HALF` if there is none."""
    if not len(candidates):
        return _HALF
    right = candidates[accuracy[candidates] >= accuracy[candidates].max() - _EQUAL]
    return int(right[np.abs(right - _HALF).argmin()])


def _smoothed(scores: np.ndarray) -> np.ndarray:
    return np.convolve(np.pad(scores, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")


def _pixel_scores(truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Dice of class 1, and the share of labelled pixels that are right, at each threshold, over all sections."""
    true, above = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS))
    for truth, p in zip(truths, probabilities, strict=True):
        level = np.searchsorted(THRESHOLDS, p[1], side="left")  # how many thresholds it exceeds
        for pixels, into in ((truth == 1, true), (truth != IGNORE, above)):
            counts = np.bincount(level[pixels], minlength=len(THRESHOLDS) + 1)
            into += counts[::-1].cumsum()[::-1][1:]
    positives = sum(int((truth == 1).sum()) for truth in truths)
    labelled = sum(int((truth != IGNORE).sum()) for truth in truths)
    # true positives and true negatives
    right = true + (labelled - positives) - (above - true)
    return 2 * true / np.maximum(above + positives, 1), right / max(labelled, 1)


def recentred(model: Model, threshold: float) -> Model:
    """Return the model with the bias of its last layer changed, so that a probability of `threshold` becomes 1/2.

    Other tools, averages over views and readers of probability maps all take 1/2 for the line between the classes.
    """
    network = copy.deepcopy(model.network)
    for head in network.heads:
        assert head.bias is not None and len(head.bias) == 2
        with torch.no_grad():
            head.bias[1] -= math.log(threshold / (1 - threshold))
    return Model(model.header, network)
