"""Where to draw the line between two classes, found on held-out sections and put into the network itself."""

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

# even steps of the logit: near 0 and 1 probabilities lie close together
THRESHOLDS = tuple(1 / (1 + math.exp(-k / 2)) for k in range(-10, 11))
_HALF = len(THRESHOLDS) // 2
_EQUAL = 1e-9  # scores that differ by rounding alone
# score that a threshold has to bring; of a single section, of which nothing says how much it varies, more
_LEAST_GAIN, _LEAST_GAIN_OF_ONE = 0.005, 0.02


@dataclass(frozen=True)
class Line:
    """The line between two classes, and what it is worth on the held-out sections.

    Attributes:
        threshold: probability of class 1 above which a pixel is one.
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


def choose_line(truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], goal: str) -> Line:
    """The probability of class 1 above which a pixel is best said to be one.

    A single closed gap can decide V_Rand, so each candidate counts with half of either neighbour, and 1/2 stays unless
    another one is better by more than the sections differ in that. Of equally good ones the one is taken that has more
    pixels right, and of those the one nearest to 1/2.

    Args:
        truths: (H, W) uint8 class ids 0, 1 or `IGNORE`, one a section.
        probabilities: (2, H, W) float, one a section.
        goal: `v_rand`, or any other for the Dice score of class 1.
    """
    dice, accuracy = _pixel_scores(truths, probabilities)
    if goal == "v_rand":
        scores = score_cells(truths, probabilities, THRESHOLDS).section_rand
        at = _best_by_sections(scores, accuracy)
        values = scores.mean(1)
    else:
        goal, values = "dice", dice
        at = _best_by_dice(dice, accuracy, truths)
    return Line(THRESHOLDS[at], goal, *(float(each[n]) for n in (at, _HALF) for each in (values, accuracy)))


def _best_by_dice(dice: np.ndarray, accuracy: np.ndarray, truths: Sequence[np.ndarray]) -> int:
    """Which threshold to take by Dice (T,): `_HALF` unless another beats it, and a mask that is class 1 throughout."""
    smooth = _smoothed(dice)
    at = _most_right(np.flatnonzero(smooth >= smooth.max() - _EQUAL), accuracy)
    inside = np.concatenate([(truth == 1)[truth != IGNORE] for truth in truths]).mean()
    least = _LEAST_GAIN if len(truths) > 1 else _LEAST_GAIN_OF_ONE
    return at if dice[at] >= max(dice[_HALF], 2 * inside / (1 + inside)) + least else _HALF


def _best_by_sections(scores: np.ndarray, accuracy: np.ndarray) -> int:
    """Which threshold to take by the scores (T, S) of S sections: `_HALF` unless another is really better."""
    smooth = np.stack([_smoothed(column) for column in scores.T], axis=1)
    best = int(smooth.mean(1).argmax())
    behind = smooth[best] - smooth  # (T, S)
    count = behind.shape[1]
    noise = np.full(len(behind), _LEAST_GAIN_OF_ONE)
    if count > 1:
        noise = np.maximum(behind.std(1, ddof=1) / math.sqrt(count), _LEAST_GAIN)
    equal = behind.mean(1) <= noise
    if equal[_HALF]:
        return _HALF
    return _most_right(np.flatnonzero(equal & (scores.mean(1) > scores.mean(1)[_HALF])), accuracy)


def _most_right(candidates: np.ndarray, accuracy: np.ndarray) -> int:
    """Of thresholds that are equally good the one with most pixels right, nearest to 1/2; `_HALF` if there is none."""
    if not len(candidates):
        return _HALF
    right = candidates[accuracy[candidates] >= accuracy[candidates].max() - _EQUAL]
    return int(right[np.abs(right - _HALF).argmin()])


def _smoothed(scores: np.ndarray) -> np.ndarray:
    return np.convolve(np.pad(scores, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")


def recentred(model: Model, threshold: float) -> Model:
    """The model with another bias of its last layer, so that what was `threshold` is now 1/2.

    Its probabilities then say how far a pixel is from the line, on either side, as thresholds of other tools, averages
    over views and a glance at a probability map take it.
    """
    network = copy.deepcopy(model.network)
    for head in network.heads:
        assert head.bias is not None and len(head.bias) == 2
        with torch.no_grad():
            head.bias[1] -= math.log(threshold / (1 - threshold))
    return Model(model.header, network)


def score_cells(
    truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], thresholds: Sequence[float] = OFFICIAL
) -> MembraneScores:
    """Of the cells, class 1, by the ISBI 2012 protocol; what is not labelled is outside of them."""
    inside = [np.where(truth == IGNORE, 0.0, p[1]) for truth, p in zip(truths, probabilities, strict=True)]
    return membrane_scores([truth == 1 for truth in truths], inside, thresholds)


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
    # right are the true ones, and the negatives that are not above
    right = true + (labelled - positives) - (above - true)
    return 2 * true / np.maximum(above + positives, 1), right / max(labelled, 1)
