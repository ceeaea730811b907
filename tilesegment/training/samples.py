"""What a model made of held-out images: image, labels, prediction and errors side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tilesegment.metadata import LabelClass
from tilesegment.preview import overlay, stretch
from tilesegment.training.data import IGNORE
from tilesegment.training.sheet import draw_sheet, enlarged

_LARGEST, _SMALLEST = 700, 320  # sides of a panel in pixels
# of Okabe and Ito's palette, told apart by colour-blind readers
_MISSED, _FALSE, _CONFUSED, UNLABELLED = "#d55e00", "#56b4e9", "#f0e442", "#808080"


@dataclass(frozen=True)
class Sample:
    """A held-out image and what a model made of it.

    Attributes:
        name: of the image.
        image: (C, H, W), any number type.
        truth: (H, W) uint8 class ids, `IGNORE` where there is no label.
        prediction: (H, W) uint8 class ids.
        score: how good the prediction is.
        what: the score's name, such as "V_Rand".
    """

    name: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    score: float
    what: str


def draw_samples(samples: Sequence[Sample], classes: Sequence[LabelClass], path: Path) -> None:
    """Draws a row a sample: image, labels, prediction, errors. Writes a PNG to `path`.

    Two classes are drawn as the outlines of class 1, so that the image stays visible, more as half-transparent colours.

    Args:
        samples: one or more, the worst first. Panels are reduced to at most 700 pixels a side.
        classes: names and colours.
        path: of the PNG.
    """
    rows = [_panels(sample, tuple(classes)) for sample in samples]
    first = classes[0].name
    errors = {f"missed ({first} predicted)": _MISSED, f"false ({first} in the labels)": _FALSE}
    if len(classes) > 2:
        errors["another class than in the labels"] = _CONFUSED
    if any(np.any(sample.truth == IGNORE) for sample in samples):
        errors["not labelled"] = UNLABELLED
    drawn = "outlines" if len(classes) == 2 else "classes"
    draw_sheet(
        path,
        rows,
        title="Held-out images" + (", the worst first" if len(samples) > 1 else ""),
        headings=("image", "labels", "prediction", "errors"),
        captions=[f"{one.name}: {one.what} {one.score:.3f}" for one in samples],
        legends={drawn: {one.name: one.colour for one in classes[1:]}, "errors": errors},
    )


def _panels(sample: Sample, classes: tuple[LabelClass, ...]) -> list[np.ndarray]:
    """The four panels of a row, each (h, w, 3) uint8."""
    factor = -(-max(sample.truth.shape) // _LARGEST)
    # pixels are averaged, class ids cannot be
    plain = np.asarray(Image.fromarray(stretch(sample.image)).reduce(factor))
    truth, prediction = sample.truth[::factor, ::factor], sample.prediction[::factor, ::factor]
    bare, opacity = np.moveaxis(plain, -1, 0), 0.0 if len(classes) == 2 else 0.5
    known = truth != IGNORE
    labels = painted(overlay(bare, truth, classes, opacity), ~known, UNLABELLED, 0.6)
    decided = overlay(bare, prediction, classes, opacity)
    errors = painted((plain * 0.55).astype(np.uint8), ~known, UNLABELLED, 0.6)
    wrong = known & (truth != prediction)
    for part, colour in ((prediction == 0, _MISSED), (truth == 0, _FALSE), ((prediction > 0) & (truth > 0), _CONFUSED)):
        errors = painted(errors, wrong & part, colour, 0.9)
    return [enlarged(panel, _SMALLEST) for panel in (plain, labels, decided, errors)]


def painted(picture: np.ndarray, where: np.ndarray, colour: str, opacity: float) -> np.ndarray:
    """A picture (h, w, 3) uint8 with `colour` over the pixels `where` (h, w) bool."""
    cover = opacity * where[..., None]
    return np.rint(picture * (1 - cover) + np.array(LabelClass("", colour).rgb) * cover).astype(np.uint8)
