"""Where to draw the line between two classes, found on held-out sections and put into the network itself."""

import copy
import math
from collections.abc import Sequence

import numpy as np
import torch

from tilesegment.evaluation import THRESHOLDS as OFFICIAL
from tilesegment.evaluation import MembraneScores, membrane_scores
from tilesegment.model import Model
from tilesegment.training.data import IGNORE

# even steps of the logit: near 0 and 1 probabilities lie close together
THRESHOLDS = tuple(1 / (1 + math.exp(-k / 2)) for k in range(-10, 11))


def best_threshold(truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], goal: str) -> float:
    """The probability of class 1 above which a pixel is best said to be one.

    A single closed gap can decide V_Rand, so each candidate counts with half of either neighbour.

    Args:
        truths: (H, W) uint8 class ids 0, 1 or `IGNORE`, one a section.
        probabilities: (2, H, W) float, one a section.
        goal: `v_rand`, or any other for the Dice score of class 1.
    """
    if goal == "v_rand":
        scores = score_cells(truths, probabilities, THRESHOLDS).section_rand.mean(1)
    else:
        scores = _dice(truths, probabilities)
    smooth = np.convolve(np.pad(scores, 1, mode="edge"), [0.25, 0.5, 0.25], "valid")
    return THRESHOLDS[int(smooth.argmax())]


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


def _dice(truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray]) -> np.ndarray:
    true, above, positives = np.zeros(len(THRESHOLDS)), np.zeros(len(THRESHOLDS)), 0
    for truth, p in zip(truths, probabilities, strict=True):
        level = np.searchsorted(THRESHOLDS, p[1], side="left")  # how many thresholds it exceeds
        for pixels, into in ((truth == 1, true), (truth != IGNORE, above)):
            counts = np.bincount(level[pixels], minlength=len(THRESHOLDS) + 1)
            into += counts[::-1].cumsum()[::-1][1:]
        positives += int((truth == 1).sum())
    return 2 * true / np.maximum(above + positives, 1)
