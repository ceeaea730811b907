"""Scores of a model on whole held-out sections, predicted as any image is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from tilesegment.engine import predict_array
from tilesegment.evaluation import confusion, dice, iou, membrane_scores, pixel_accuracy
from tilesegment.model import Model
from tilesegment.predictors.torch import TorchPredictor
from tilesegment.training.data import Section


@dataclass(frozen=True)
class Scores:
    """How good a model is on sections that it was not trained on.

    Attributes:
        accuracy: part of the pixels whose class is right.
        floor: the accuracy of always saying the most frequent class.
        dice, iou: one a class, None for a class that is in neither truth nor prediction.
        v_rand, v_info: two classes: of the regions of class 1 (ISBI 2012 protocol), else None.
    """

    accuracy: float
    floor: float
    dice: tuple[float | None, ...]
    iou: tuple[float | None, ...]
    v_rand: float | None
    v_info: float | None


def validate(
    model: Model, sections: Sequence[Section], device: torch.device, tile: int, *, tta: bool = False
) -> Scores:
    """Predicts each section whole in float32, tile by tile, and compares with its label.

    Args:
        model: what is judged.
        sections: labelled, of the model's channels and classes.
        device: where it runs.
        tile: side of the network's input.
        tta: average over the 8 symmetries of the square.
    """
    predictor = TorchPredictor(model, device, "fp32", tta=tta)
    step = model.field_of_view.step_of(tile)
    classes = len(model.header.classes)
    counts = np.zeros((classes, classes), np.int64)
    truths, insides = [], []
    for section in sections:
        ids, probabilities = predict_array(predictor, section.image, step)
        counts += confusion(section.label, ids, classes)
        truths.append(section.label == 1)
        insides.append(probabilities[1])
    cells = membrane_scores(truths, insides) if classes == 2 else None
    return Scores(
        accuracy=pixel_accuracy(counts),
        floor=float(counts.sum(1).max() / counts.sum()),
        dice=tuple(_known(dice(counts))),
        iou=tuple(_known(iou(counts))),
        v_rand=None if cells is None else cells.v_rand,
        v_info=None if cells is None else cells.v_info,
    )


def _known(values: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]
