"""What an evaluation found, as plain numbers that `dataclasses.asdict` makes JSON of."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tilesegment.labels.scanning import LARGEST
from tilesegment.scoring.pixels import dice, iou, pixel_accuracy


@dataclass(frozen=True)
class ClassScore:
    """One class.

    Attributes:
        name: what it is called.
        truth_value, prediction_value: what stands for it in the files; None where a threshold decides, or none does.
        share: part of the truth's pixels.
        dice, iou: None if it is in neither truth nor prediction.
    """

    name: str
    truth_value: int
    prediction_value: int | None
    share: float
    dice: float | None
    iou: float | None


@dataclass(frozen=True)
class CellScore:
    """How well cells are told apart; class 1 is the inside of cells, class 0 is membrane.

    Attributes:
        v_rand, v_info: largest mean over the sections, of the thresholds; ISBI 2012 protocol.
        rand_error: smallest mean over the sections, without border thinning.
        threshold_rand, threshold_info, threshold_error: where that is; None for class ids.
        sections: planes, or windows of large ones, that were scored.
        without_cells: those that have no cell in the truth and were left out.
        window: largest side of a window in pixels, None if planes were scored whole.
    """

    v_rand: float
    v_info: float
    rand_error: float
    threshold_rand: float | None
    threshold_info: float | None
    threshold_error: float | None
    sections: int
    without_cells: int
    window: int | None


@dataclass(frozen=True)
class ImageScore:
    """One plane.

    Attributes:
        name: stem of its file, with the plane's number where the file is a stack.
        shape: (height, width).
        pixels: how many were counted.
        accuracy, miou, mean_dice: None if none was counted.
        dice, iou: one per class, None for one that is in neither truth nor prediction.
        v_rand, v_info, rand_error: at the thresholds that are best over all images; None if cells were not scored.
    """

    name: str
    shape: tuple[int, int]
    pixels: int
    accuracy: float | None
    miou: float | None
    mean_dice: float | None
    dice: tuple[float | None, ...]
    iou: tuple[float | None, ...]
    v_rand: float | None
    v_info: float | None
    rand_error: float | None


@dataclass(frozen=True)
class Evaluation:
    """How good a prediction is. Scores are of all counted pixels together, not means of images.

    Attributes:
        prediction, truth: as given.
        kind: `classes` or `probabilities`; of the latter, classes are the arg-max, of two those at 0.5.
        pixels, ignored: how many were counted, how many were not.
        confusion: pixels, rows the true class, columns the predicted one.
        classes: one after another.
        accuracy: part of the pixels whose class is right.
        pixel_error: 1 - accuracy, of one probability the least over the thresholds 0, 0.1, ..., 1.
        threshold_pixel: where that is, None for class ids and for more than two classes.
        miou, mean_dice: means over the classes that occur.
        floor_accuracy, floor_miou: of always predicting the most frequent class.
        cells: two classes only, None if not scored.
        images: one per plane.
        figure: where it was drawn.
        notes: what was left out, and what was decided on how files are read, one sentence each.
    """

    prediction: str
    truth: str
    kind: str
    pixels: int
    ignored: int
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassScore, ...]
    accuracy: float
    pixel_error: float
    threshold_pixel: float | None
    miou: float
    mean_dice: float
    floor_accuracy: float
    floor_miou: float
    cells: CellScore | None
    images: tuple[ImageScore, ...]
    figure: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def coloured(self) -> bool:
        """Whether the values of the classes are colours, red * 65536 + green * 256 + blue."""
        return max(one.truth_value for one in self.classes) > LARGEST


def pixel_scores(confusion: np.ndarray) -> dict[str, Any]:
    """The scores of a confusion matrix by their names in `ImageScore`; None for NaN, which JSON lacks."""
    per_dice, per_iou = _known(dice(confusion)), _known(iou(confusion))
    return {
        "pixels": int(confusion.sum()),
        "accuracy": _known([pixel_accuracy(confusion)])[0],
        "miou": _mean(per_iou),
        "mean_dice": _mean(per_dice),
        "dice": per_dice,
        "iou": per_iou,
    }


def _known(values: Sequence[float] | np.ndarray) -> tuple[float | None, ...]:
    return tuple(None if np.isnan(value) else float(value) for value in values)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
