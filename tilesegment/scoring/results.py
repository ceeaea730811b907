"""What an evaluation found, as plain numbers that `dataclasses.asdict` makes JSON of."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilesegment.scoring.binary import THRESHOLDS, constant_predictor, dice, iou, pixel_accuracy
from tilesegment.scoring.matching import Counts, Matching


@dataclass(frozen=True)
class ClassScore:
    """One class.

    Attributes:
        name: what it is called.
        truth_value, prediction_value: what stands for it in the files; None where a threshold decides.
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
        dice, iou: one a class, None for one that is in neither truth nor prediction.
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
        images: one a plane.
        figure: where it was drawn.
        notes: what was left out, and what was decided on how files are read, a sentence each.
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


def class_scores(confusion: np.ndarray, matching: Matching) -> tuple[ClassScore, ...]:
    """The rows of the classes."""
    values = matching.prediction or (None,) * len(matching.classes)
    shares = confusion.sum(1) / confusion.sum()
    rows = zip(
        matching.classes, matching.truth, values, shares, known(dice(confusion)), known(iou(confusion)), strict=True
    )
    return tuple(
        ClassScore(one.name, truth, value, float(share), *scores) for one, truth, value, share, *scores in rows
    )


def image_score(name: str, shape: tuple[int, int], confusion: np.ndarray, cells: Sequence[float] | None) -> ImageScore:
    """The row of a plane; `cells` are its V_Rand, V_Info and Rand error."""
    per_dice, per_iou = known(dice(confusion)), known(iou(confusion))
    v_rand, v_info, rand_error = (None, None, None) if cells is None else cells
    return ImageScore(
        name=name,
        shape=shape,
        pixels=int(confusion.sum()),
        accuracy=known([pixel_accuracy(confusion)])[0],
        miou=mean(per_iou),
        mean_dice=mean(per_dice),
        dice=per_dice,
        iou=per_iou,
        v_rand=v_rand,
        v_info=v_info,
        rand_error=rand_error,
    )


def pixel_error(counts: Counts, matching: Matching) -> tuple[float, float | None]:
    """The least part of wrong pixels, and the threshold where that is."""
    if matching.prediction is not None:
        return 1 - pixel_accuracy(matching.confusion(counts)), None
    errors = [1 - pixel_accuracy(matching.confusion(counts, t)) for t in range(len(THRESHOLDS))]
    best = int(np.argmin(errors))
    return errors[best], THRESHOLDS[best]


def floor_scores(confusion: np.ndarray) -> tuple[float, float]:
    """Accuracy and mIoU of always predicting the most frequent class."""
    floor = constant_predictor(confusion)
    return pixel_accuracy(floor), mean(known(iou(floor))) or 0.0


def known(values: Sequence[float] | np.ndarray) -> tuple[float | None, ...]:
    """JSON has no NaN."""
    return tuple(None if np.isnan(value) else float(value) for value in values)


def mean(values: Sequence[float | None]) -> float | None:
    """Mean of those that are known, None if none is."""
    there = [value for value in values if value is not None]
    return sum(there) / len(there) if there else None
