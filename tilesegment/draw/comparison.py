"""A sheet of images, their labels, predictions and errors."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy.ndimage import label

from tilesegment.draw.colours import Legend, legend_of, overlay, paint, stretch
from tilesegment.draw.objects import overlay_objects
from tilesegment.draw.reduction import enlarged
from tilesegment.draw.sheet import sheet
from tilesegment.metadata import LabelClass

# from Okabe and Ito's palette (2008), distinguishable by colour-blind readers
_MISSED, _FALSE, _CONFUSED, UNLABELLED = "#d55e00", "#56b4e9", "#f0e442", "#808080"
_LARGEST, _SMALLEST = 700, 320  # sides of the panels in pixels


@dataclass(frozen=True)
class Sample:
    """An image, its labels and a prediction.

    Attributes:
        caption: its name and score.
        image: (C, H, W) of any number type; None to compare without it.
        truth, prediction: (H, W) uint8 class ids; larger ids in `truth` mean not labelled.
        objects: (H, W) ids of the objects of class 1 in truth and prediction; None takes its connected regions.
    """

    caption: str
    image: np.ndarray | None
    truth: np.ndarray
    prediction: np.ndarray
    objects: tuple[np.ndarray, np.ndarray] | None = None


def compare(samples: Sequence[Sample], classes: Sequence[LabelClass], title: str) -> Image.Image:
    """Draw one row per sample: image, labels, prediction and errors, at most 700 pixels a side.

    Over an image with two classes, each object of class 1 gets its own colour, so that merged and split ones show; more
    classes are drawn in half-transparent colours. Either all samples have an image or none; without one, two
    classes are black and white.
    """
    first, pictured = classes[0].name, samples[0].image is not None
    if not pictured and len(classes) == 2:
        classes = (classes[0], replace(classes[1], colour="#ffffff"))
    errors = [(f"missed ({first} predicted)", _MISSED), (f"false ({first} in the labels)", _FALSE)]
    if len(classes) > 2:
        errors.append(("another class than in the labels", _CONFUSED))
    if any(np.any(sample.truth >= len(classes)) for sample in samples):
        errors.append(("not labelled", UNLABELLED))
    legends: dict[str, Legend] = {"classes": legend_of(classes), "errors": errors}
    if pictured and len(classes) == 2:
        del legends["classes"]
    return sheet(
        [_row(sample, classes) for sample in samples],
        title=title,
        headings=("image", "labels", "prediction", "errors")[not pictured :],
        captions=[sample.caption for sample in samples],
        legends=legends,
    )


def _row(sample: Sample, classes: Sequence[LabelClass]) -> list[np.ndarray]:
    factor = -(-max(sample.truth.shape) // _LARGEST)
    truth, prediction = sample.truth[::factor, ::factor], sample.prediction[::factor, ::factor]
    known = truth < len(classes)
    if sample.image is None:
        base, opacity = np.zeros((*truth.shape, 3), np.uint8), 1.0
        dim = np.repeat(np.uint8(60) * (known & (truth > 0))[..., None], 3, -1)
    else:
        base = np.asarray(Image.fromarray(stretch(sample.image)).reduce(factor))
        dim, opacity = (base * 0.55).astype(np.uint8), 0.5
    if sample.image is not None and len(classes) == 2:
        objects = sample.objects or [label(ids == 1)[0] for ids in (sample.truth, sample.prediction)]
        drawn = [overlay_objects(base, ids[::factor, ::factor]) for ids in objects]
    else:
        drawn = [overlay(base, ids, classes, opacity) for ids in (truth, prediction)]
    labels = paint(drawn[0], ~known, UNLABELLED, 0.6)
    errors, wrong = paint(dim, ~known, UNLABELLED, 0.6), known & (truth != prediction)
    for part, colour in ((prediction == 0, _MISSED), (truth == 0, _FALSE), ((prediction > 0) & (truth > 0), _CONFUSED)):
        errors = paint(errors, wrong & part, colour, 0.9)
    panels = [base, labels, drawn[1], errors]
    return [enlarged(panel, _SMALLEST) for panel in panels[sample.image is None :]]
