"""Score a model on whole held-out sections, predicted like any image, and choose its threshold."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy import ndimage

from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor
from tilesegment.scoring import THRESHOLDS as OFFICIAL
from tilesegment.scoring import (
    MembraneScores,
    confusion,
    constant_predictor,
    dice,
    foreground_scores,
    iou,
    membrane_scores,
    pixel_accuracy,
)
from tilesegment.scoring.results import known
from tilesegment.training.data import IGNORE, Section

_LARGEST_STEP = 1024  # up to this step a section is predicted in one tile: less is computed twice, for about 100 MB
_CELLS = 8  # with so many cells per section or more, on average, the task is cells and membranes
# candidates in even steps of the logit: near 0 and 1 probabilities lie close together
THRESHOLDS = tuple(1 / (1 + math.exp(-k / 2)) for k in range(-10, 11))
_HALF = len(THRESHOLDS) // 2
_EQUAL = 1e-9  # scores that differ by rounding alone
# score that a threshold must gain; more with a single section, whose variation is unknown
_LEAST_GAIN, _LEAST_GAIN_OF_ONE = 0.005, 0.02


@dataclass(frozen=True)
class Scores:
    """Scores of a model on held-out sections.

    Attributes:
        goal: the score that judges the model: `v_rand`, `dice` (of class 1) or `miou`.
        value: that score.
        floor_value: that of a constant predictor of the most frequent class (for `v_rand`: of the inside).
        accuracy: share of the pixels whose class is right.
        floor: the accuracy of a constant predictor.
        dice, iou: per class, None for a class in neither truth nor prediction.
        miou: mean of `iou` over the classes that occur.
        v_rand, v_info: of the cells, class 1, by the ISBI 2012 protocol, at its best threshold; None for other tasks.
        sections: name and the goal's score of each section, in their order.
    """

    goal: str
    value: float
    floor_value: float
    accuracy: float
    floor: float
    dice: tuple[float | None, ...]
    iou: tuple[float | None, ...]
    miou: float
    v_rand: float | None
    v_info: float | None
    sections: tuple[tuple[str, float], ...]

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Build scores from JSON, which turned tuples into lists."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        plain["sections"] = tuple((name, value) for name, value in given["sections"])
        return cls(**plain)


@dataclass(frozen=True, eq=False)
class Validation:
    """Scores over all sections, and their masks (H, W) uint8 of class ids."""

    scores: Scores
    masks: tuple[np.ndarray, ...]


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


def choose_goal(wanted: str, sections: Sequence[Section], classes: int) -> str:
    """Return the score that judges a model: `wanted`, or for `auto` what suits the labels.

    Two classes of which the second fills most of the image in many separate regions are membranes and cells: `v_rand`.
    For other pairs of classes it is `dice` of class 1, for more classes always `miou`.
    """
    if wanted != "auto" or classes > 2:
        return "miou" if classes > 2 else wanted
    inside = [section.label == 1 for section in sections]
    share = sum(part.sum() for part in inside) / sum((section.label != IGNORE).sum() for section in sections)
    cells = np.mean([ndimage.label(part)[1] for part in inside])
    return "v_rand" if share > 0.5 and cells >= _CELLS else "dice"


def validate(
    model: Model, sections: Sequence[Section], device: torch.device, precision: str, goal: str, *, tta: bool = False
) -> Validation:
    """Predict each section whole, with `tta` in all 8 views, and compare it with its label at the model's threshold."""
    return judge(model, sections, predict_sections(model, sections, device, precision, tta=tta), goal)


def judge(model: Model, sections: Sequence[Section], probabilities: Sequence[np.ndarray], goal: str) -> Validation:
    """Compare the class probabilities (K, H, W) of each section with its label; unlabelled pixels do not count."""
    truths = [section.label for section in sections]
    cells = score_cells(truths, probabilities) if goal == "v_rand" else None
    masks = tuple(_decide(p, model.header.threshold) for p in probabilities)
    classes = len(model.header.classes)
    counts = [confusion(truth, mask, classes, IGNORE) for truth, mask in zip(truths, masks, strict=True)]
    total = np.sum(counts, axis=0)
    if cells is None:
        each, value, floor = _pixel_goal(goal, counts)
    else:
        each = cells.section_rand[cells.thresholds.index(cells.threshold_rand)].tolist()
        value, floor = cells.v_rand, float(np.mean([_floor_of_cells(truth) for truth in truths]))
    scores = Scores(
        goal=goal,
        value=value,
        floor_value=floor,
        accuracy=pixel_accuracy(total),
        floor=float(total.sum(1).max() / total.sum()),
        dice=known(dice(total)),
        iou=known(iou(total)),
        miou=float(np.nanmean(iou(total))),
        v_rand=None if cells is None else cells.v_rand,
        v_info=None if cells is None else cells.v_info,
        sections=tuple((section.name, score) for section, score in zip(sections, each, strict=True)),
    )
    return Validation(scores, masks)


def predict_sections(
    model: Model, sections: Sequence[Section], device: torch.device, precision: str, *, tta: bool = False
) -> list[np.ndarray]:
    """Predict the class probabilities (K, H, W) of each section."""
    predictor = TorchPredictor(model, device, precision, tta=tta)
    view = model.field_of_view
    found = []
    for section in sections:
        step = min(view.step_for(max(section.label.shape)), max(_LARGEST_STEP // view.divisor, 1) * view.divisor)
        found.append(predict_array(predictor, section.image, step)[1])
    return found


def score_cells(
    truths: Sequence[np.ndarray], probabilities: Sequence[np.ndarray], thresholds: Sequence[float] = OFFICIAL
) -> MembraneScores:
    """Score the cells, class 1, by the ISBI 2012 protocol; unlabelled pixels are outside of cells."""
    inside = [np.where(truth == IGNORE, 0.0, p[1]) for truth, p in zip(truths, probabilities, strict=True)]
    return membrane_scores([truth == 1 for truth in truths], inside, thresholds)


def _decide(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Class ids (H, W) uint8."""
    if len(probabilities) > 2:
        return probabilities.argmax(0).astype(np.uint8)
    return (probabilities[1] > threshold).astype(np.uint8)


def _pixel_goal(goal: str, counts: Sequence[np.ndarray]) -> tuple[list[float], float, float]:
    """The goal's score of each section, of all of them, and of a constant predictor."""

    def score(matrix: np.ndarray) -> float:
        values = dice(matrix)[1:2] if goal == "dice" else iou(matrix)
        return float(np.nanmean(values)) if np.isfinite(values).any() else 0.0

    total = np.sum(counts, axis=0)
    return [score(matrix) for matrix in counts], score(total), score(constant_predictor(total))


def _floor_of_cells(truth: np.ndarray) -> float:
    """V_Rand of a single cell as large as the section."""
    cells, _ = ndimage.label(truth == 1)
    return foreground_scores(cells, np.ones_like(cells))[0]


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
