"""Scores of a model on whole held-out sections, predicted as any image is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import ndimage

from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor
from tilesegment.scoring import confusion, dice, foreground_scores, iou, pixel_accuracy
from tilesegment.training.calibration import score_cells
from tilesegment.training.data import IGNORE, Section

# a section is predicted in one tile up to this step: less is computed twice, for some 100 MB
_LARGEST_STEP = 1024
# a task is one of cells and membranes if so many cells lie in a section, on most of it
_CELLS = 8


@dataclass(frozen=True)
class Scores:
    """How good a model is on sections that it was not trained on.

    Attributes:
        goal: what the model is judged by: `v_rand`, `dice` (of class 1) or `miou`.
        value: that score.
        floor_value: that of a constant predictor, which always says the most frequent class (for `v_rand`: inside).
        accuracy: part of the pixels whose class is right.
        floor: the accuracy of a constant predictor.
        dice, iou: one a class, None for a class that is in neither truth nor prediction.
        miou: mean of `iou` over the classes that there are.
        v_rand, v_info: of the cells, class 1, by the ISBI 2012 protocol, at its best threshold; None for other tasks.
        sections: the goal's score of each section, by name, in their order.
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
    def from_json(cls, given: Mapping[str, Any]) -> "Scores":
        """The scores whose fields JSON has made lists of."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        plain["sections"] = tuple((name, value) for name, value in given["sections"])
        return cls(**plain)


@dataclass(frozen=True, eq=False)
class Validation:
    """Scores, and what they were found on.

    Attributes:
        scores: over all sections.
        masks: of each section, (H, W) uint8 class ids.
    """

    scores: Scores
    masks: tuple[np.ndarray, ...]


def choose_goal(wanted: str, sections: Sequence[Section], classes: int) -> str:
    """What a model is judged by: `wanted`, or for `auto` what fits the labels.

    Two classes of which the second fills most of the image in many separate regions are membranes and cells: their
    measure is `v_rand`. For other pairs of classes it is `dice`, of class 1, for more classes `miou`.
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
    """Predicts each section whole and compares with its label; pixels without a label do not count.

    Args:
        model: what is judged, at its own threshold.
        sections: labelled, of the model's channels and classes.
        device, precision: where and how it runs.
        goal: `v_rand`, `dice` or `miou`.
        tta: average over the 8 symmetries of the square.
    """
    return judge(model, sections, predict_sections(model, sections, device, precision, tta=tta), goal)


def judge(model: Model, sections: Sequence[Section], probabilities: Sequence[np.ndarray], goal: str) -> Validation:
    """Compares the class probabilities (K, H, W) that `model` gives for each section with its label; see `validate`."""
    truths = [section.label for section in sections]
    classes = len(model.header.classes)
    cells = None
    if goal == "v_rand":
        cells = score_cells(truths, probabilities)
    masks = tuple(_decide(p, model.header.threshold) for p in probabilities)
    counts = [confusion(truth, mask, classes, IGNORE) for truth, mask in zip(truths, masks, strict=True)]
    total = np.sum(counts, axis=0)
    if cells is None:
        each, value, floor = _pixel_goal(goal, counts)
    else:
        at = cells.thresholds.index(cells.threshold_rand)
        each, value = cells.section_rand[at].tolist(), cells.v_rand
        floor = float(np.mean([_floor_of_cells(truth) for truth in truths]))
    return Validation(
        Scores(
            goal=goal,
            value=value,
            floor_value=floor,
            accuracy=pixel_accuracy(total),
            floor=float(total.sum(1).max() / total.sum()),
            dice=_known(dice(total)),
            iou=_known(iou(total)),
            miou=float(np.nanmean(iou(total))),
            v_rand=None if cells is None else cells.v_rand,
            v_info=None if cells is None else cells.v_info,
            sections=tuple((section.name, score) for section, score in zip(sections, each, strict=True)),
        ),
        masks,
    )


def predict_sections(
    model: Model, sections: Sequence[Section], device: torch.device, precision: str, *, tta: bool = False
) -> list[np.ndarray]:
    """Class probabilities (K, H, W) of each section."""
    predictor = TorchPredictor(model, device, precision, tta=tta)
    view = model.field_of_view
    found = []
    for section in sections:
        step = min(view.step_for(max(section.label.shape)), max(_LARGEST_STEP // view.divisor, 1) * view.divisor)
        found.append(predict_array(predictor, section.image, step)[1])
    return found


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
    constant = np.zeros_like(total)
    constant[:, total.sum(1).argmax()] = total.sum(1)
    return [score(matrix) for matrix in counts], score(total), score(constant)


def _floor_of_cells(truth: np.ndarray) -> float:
    """V_Rand of saying `inside` everywhere: one cell as large as the section."""
    cells, _ = ndimage.label(truth == 1)
    return foreground_scores(cells, np.ones_like(cells))[0]


def _known(values: np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)
