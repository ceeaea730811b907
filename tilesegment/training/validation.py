"""Score a model on whole held-out sections, predicted like any image."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
from scipy import ndimage

from tilesegment.errors import PlanError
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor
from tilesegment.scoring import (
    confusion,
    constant_predictor,
    dice,
    foreground_scores,
    iou,
    pixel_accuracy,
)
from tilesegment.scoring.objects import pooled, tally
from tilesegment.scoring.results import ObjectScore, known
from tilesegment.training.data import IGNORE, Section
from tilesegment.training.line import score_cells
from tilesegment.training.normalisation import of_scaled, scaled
from tilesegment.training.targets import objects_of, overlaps_with_objects

_LARGEST_STEP = 1024  # up to this step a section is predicted in one tile: less is computed twice, for about 100 MB
_CELLS = 8  # with so many cells per section or more, on average, the task is cells and membranes


@dataclass(frozen=True)
class Scores:
    """Scores of a model on held-out sections.

    Attributes:
        goal: the score that judges the model: `v_rand`, `dice` (of class 1), `miou` or `pq`.
        value: that score.
        floor_value: that of a constant predictor of the most frequent class (for `v_rand`: of the inside).
        accuracy: share of the pixels whose class is right.
        floor: the accuracy of a constant predictor.
        dice, iou: per class, None for a class in neither truth nor prediction.
        miou: mean of `iou` over the classes that occur.
        v_rand, v_info: of the cells, class 1, by the ISBI 2012 protocol, at its best threshold; None for other tasks.
        f1, ap, pq, aji: of instances, f1 and ap at an IoU of 0.5, see `scoring.object_scores`; None for other tasks.
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
    f1: float | None = None
    ap: float | None = None
    pq: float | None = None
    aji: float | None = None

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Self:
        """Build scores from JSON, which turned tuples into lists."""
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
        plain["sections"] = tuple((name, value) for name, value in given["sections"])
        return cls(**plain)


@dataclass(frozen=True, eq=False)
class Validation:
    """Scores over all sections, their masks (H, W) uint8 of class ids, and of instances the objects (H, W) uint32."""

    scores: Scores
    masks: tuple[np.ndarray, ...]
    objects: tuple[np.ndarray, ...] | None = None


def choose_goal(wanted: str, sections: Sequence[Section], classes: int) -> str:
    """Return the score that judges a model: `wanted`, or for `auto` what suits the labels.

    Labels of instances are judged by `pq`. Two classes of which the second fills most of the image in many separate
    regions are membranes and cells: `v_rand`. For other pairs of classes it is `dice` of class 1, for more classes
    `miou`.

    Raises:
        PlanError: `pq` is wanted, and the labels are no ids of objects.
    """
    of_instances = all(section.objects is not None for section in sections)
    if wanted == "pq" and not of_instances:
        raise PlanError("--goal pq is for labels of single objects; leave it out, or read ids with --instances")
    if of_instances:
        return "miou" if wanted == "miou" else "pq"
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
    objects, found = None, None
    if all(section.objects is not None for section in sections):
        objects = tuple(objects_of(mask, model.header.classes) for mask in masks)
        found = _Instances.of(sections, objects)
    if goal == "pq" and found is not None:
        each, value, floor = found.each, found.pooled.pq or 0.0, 0.0
    elif cells is None:
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
        **({} if found is None else found.scores),
    )
    return Validation(scores, masks, objects)


@dataclass(frozen=True)
class _Instances:
    """Scores of objects: of all sections together, and the PQ of each; 1 where there are none and none was found."""

    pooled: ObjectScore
    each: list[float]

    @classmethod
    def of(cls, sections: Sequence[Section], objects: Sequence[np.ndarray]) -> Self:
        tallies = [tally(overlaps_with_objects(section, ids)) for section, ids in zip(sections, objects, strict=True)]
        alone = [pooled([one]).pq for one in tallies]
        return cls(pooled(tallies), [1.0 if pq is None else pq for pq in alone])

    @property
    def scores(self) -> dict[str, float | None]:
        best = self.pooled.at[0]
        return {"f1": best.f1, "ap": best.ap, "pq": self.pooled.pq, "aji": self.pooled.aji}


def predict_sections(
    model: Model, sections: Sequence[Section], device: torch.device, precision: str, *, tta: bool = False
) -> list[np.ndarray]:
    """Predict the class probabilities (K, H, W) of each section."""
    scale, view = model.header.normalisation, model.field_of_view
    predictor = TorchPredictor(model, device, precision, tta=tta, normalisation=of_scaled(scale))
    found = []
    for section in sections:
        step = min(view.step_for(max(section.label.shape)), max(_LARGEST_STEP // view.divisor, 1) * view.divisor)
        found.append(predict_array(predictor, scaled(section, scale)[0], step)[1])
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
    return [score(matrix) for matrix in counts], score(total), score(constant_predictor(total))


def _floor_of_cells(truth: np.ndarray) -> float:
    """V_Rand of a single cell as large as the section."""
    cells, _ = ndimage.label(truth == 1)
    return foreground_scores(cells, np.ones_like(cells))[0]
