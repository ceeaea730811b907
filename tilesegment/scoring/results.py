"""Results of an evaluation as plain numbers, which `dataclasses.asdict` turns into JSON."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilesegment.labels.scanning import LARGEST
from tilesegment.scoring.pixels import dice, iou, pixel_accuracy


@dataclass(frozen=True)
class ClassScore:
    """One class; Dice and IoU are None if it is in neither truth nor prediction."""

    name: str
    truth_value: int  # its value in the files
    prediction_value: int | None  # None if a threshold decides, or no value stands for it
    share: float  # of the truth's pixels
    dice: float | None
    iou: float | None


@dataclass(frozen=True)
class CellScore:
    """How well cells are separated; class 1 is the inside of cells, class 0 is membrane."""

    v_rand: float  # largest mean over the sections, over all thresholds; ISBI 2012 protocol
    v_info: float
    rand_error: float  # smallest mean over the sections, without border thinning
    threshold_rand: float | None  # that gives it; None for class ids
    threshold_info: float | None
    threshold_error: float | None
    sections: int  # planes, or windows of large ones, that were scored
    without_cells: int  # left out, as the truth has no cell there
    window: int | None  # largest side of a window in pixels, None if planes were scored whole


@dataclass(frozen=True)
class MatchScore:
    """Objects that match at one threshold of the IoU; the formulas are in `scoring.objects.object_scores`."""

    threshold: float
    found: int  # TP
    made_up: int  # FP, predicted objects without a true one
    missed: int  # FN, true objects without a predicted one
    precision: float | None  # None without predicted objects
    recall: float | None  # None without true objects
    f1: float | None  # None, as all below, if there are no objects at all
    ap: float | None


@dataclass(frozen=True)
class ObjectScore:
    """How well objects are found; of several planes, sums of their counts, but AJI and Dice are means over planes."""

    truth: int  # objects
    prediction: int
    split: int  # true objects of which several predictions cover a part each
    merged: int  # predictions that cover several true objects
    at: tuple[MatchScore, ...]  # at 0.5, 0.75 and 0.9
    mean_ap: float | None  # over 0.5, 0.55, ..., 0.95
    pq: float | None
    sq: float | None  # None without matches
    rq: float | None
    aji: float | None
    dice: float | None  # of the pixels in objects


@dataclass(frozen=True)
class ImageScore:
    """One plane."""

    name: str  # stem of its file, with the plane's number where the file is a stack
    shape: tuple[int, int]  # (height, width)
    pixels: int  # how many were counted
    accuracy: float | None  # None, as the next two, if none was counted
    miou: float | None
    mean_dice: float | None
    dice: tuple[float | None, ...]  # one per class, None for one that is in neither truth nor prediction
    iou: tuple[float | None, ...]
    v_rand: float | None = None  # at the thresholds that are best over all images; None if cells were not scored
    v_info: float | None = None
    rand_error: float | None = None
    objects: ObjectScore | None = None  # None if objects were not scored


@dataclass(frozen=True)
class Evaluation:
    """Scores of a prediction, over all counted pixels together, not means over images."""

    prediction: str  # as given
    truth: str
    # `classes`, `objects`, or `probabilities`: classes are the arg-max of these, of two those at 0.5
    kind: str
    pixels: int  # how many were counted
    ignored: int  # how many were not
    confusion: tuple[tuple[int, ...], ...]  # pixels, rows the true class, columns the predicted one
    classes: tuple[ClassScore, ...]
    accuracy: float  # share of the pixels whose class is right
    pixel_error: float  # 1 - accuracy; with one probability the least over the thresholds 0, 0.1, ..., 1
    threshold_pixel: float | None  # that gives it; None for class ids and more than two classes
    miou: float  # mean over the classes that occur, like mean_dice
    mean_dice: float
    floor_accuracy: float  # of always predicting the most frequent class
    floor_miou: float
    cells: CellScore | None  # of two classes only, None if not scored
    images: tuple[ImageScore, ...]  # one per plane
    figure: str | None = None  # where it was drawn
    objects: ObjectScore | None = None  # None if objects were not scored; else classes are background and object
    notes: tuple[str, ...] = ()  # what was left out, and how files are read, one sentence each

    @property
    def coloured(self) -> bool:
        """Whether the values of the classes are colours, red * 65536 + green * 256 + blue."""
        return max(one.truth_value for one in self.classes) > LARGEST


def pixel_scores(confusion: np.ndarray) -> dict[str, Any]:
    """Return the scores of a confusion matrix by their names in `ImageScore`; None for NaN, which JSON lacks."""
    per_dice, per_iou = known(dice(confusion)), known(iou(confusion))
    return {
        "pixels": int(confusion.sum()),
        "accuracy": known([pixel_accuracy(confusion)])[0],
        "miou": _mean(per_iou),
        "mean_dice": _mean(per_dice),
        "dice": per_dice,
        "iou": per_iou,
    }


def known(values: Sequence[float] | np.ndarray) -> tuple[float | None, ...]:
    """Return scores as plain numbers, None for NaN."""
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _mean(values: Sequence[float | None]) -> float | None:
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
