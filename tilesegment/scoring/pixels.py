"""Pixel scores: confusion matrix, Dice, IoU, accuracy.

All scores start from a confusion matrix, which may first be summed over any number of blocks or images.
"""

import numpy as np

from tilesegment.errors import DataError


def confusion(truth: np.ndarray, prediction: np.ndarray, classes: int, ignore: int | None = None) -> np.ndarray:
    """Count the pixels of each true class by predicted class.

    Args:
        truth: class ids, integers (or bool) of any shape.
        prediction: class ids, of the same shape.
        classes: how many classes there are, K; ids are 0 .. K - 1.
        ignore: pixels where `truth` has this value are not counted.

    Returns:
        (K, K) int64, rows the truth, columns the prediction.

    Raises:
        DataError: shapes differ or a class id is out of range.
    """
    check_shapes(truth, prediction)
    counted = np.ones(truth.shape, bool) if ignore is None else truth != ignore
    rows, columns = truth[counted].astype(np.int64), prediction[counted].astype(np.int64)
    for name, ids in (("truth", rows), ("prediction", columns)):
        if ids.size and not 0 <= ids.min() <= ids.max() < classes:
            raise DataError(
                f"the {name} holds class ids {ids.min()} to {ids.max()}; allowed: 0 to {classes - 1}; "
                "map its values to class ids first"
            )
    return np.bincount(rows * classes + columns, minlength=classes * classes).reshape(classes, classes)


def dice(confusion: np.ndarray) -> np.ndarray:
    """Dice score 2 |T n P| / (|T| + |P|) of each class, (K,) float64; NaN for a class that is in neither."""
    return _ratio(2 * np.diagonal(confusion), confusion.sum(0) + confusion.sum(1))


def iou(confusion: np.ndarray) -> np.ndarray:
    """Intersection over union of each class, (K,) float64; NaN for a class in neither truth nor prediction."""
    both = np.diagonal(confusion)
    return _ratio(both, confusion.sum(0) + confusion.sum(1) - both)


def pixel_accuracy(confusion: np.ndarray) -> float:
    """Share of the counted pixels whose class is right; NaN if none was counted."""
    return float(_ratio(np.trace(confusion), confusion.sum()))


def constant_predictor(confusion: np.ndarray) -> np.ndarray:
    """Return the confusion matrix (K, K) int64 of always predicting the most frequent class of the truth.

    Its scores are the floor: those of a mask that ignores the image.
    """
    floor = np.zeros_like(confusion)
    totals = confusion.sum(1)
    floor[:, totals.argmax()] = totals
    return floor


def check_shapes(truth: np.ndarray, other: np.ndarray) -> None:
    """Check that truth and prediction have the same shape.

    Raises:
        DataError: they do not.
    """
    if truth.shape != other.shape:
        raise DataError(f"the truth is {truth.shape} and the prediction {other.shape}: they must be of one shape")


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=whole > 0)
