"""Truth against prediction: pixels that are right, missed, made up, or of another class."""

from collections.abc import Mapping

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.metadata import LabelClass
from tilesegment.viewer.layer import JSON, Look, Picture, Progress
from tilesegment.viewer.looks import check_names, choice, numbers
from tilesegment.viewer.mask_files import ClassEntry
from tilesegment.viewer.mask_layers import DRAWN, MaskLayer, shown_only
from tilesegment.viewer.palettes import picture
from tilesegment.viewer.tiling import TileAt

RIGHT, MISSED, MADE_UP, CONFUSED, UNLABELLED = 1, 2, 3, 4, 5
# from Okabe and Ito's palette (2008), distinguishable by colour-blind readers
_FOUND = (
    (RIGHT, "right", "#009e73"),
    (MISSED, "missed (background predicted)", "#d55e00"),
    (MADE_UP, "made up (background in the truth)", "#56b4e9"),
    (CONFUSED, "another class than in the truth", "#f0e442"),
    (UNLABELLED, "not labelled", "#808080"),
)
_VOID = 255  # beside the classes, it means "not labelled" in a truth
_ALL = "all"


class DifferenceLayer:
    """The difference of two masks that lie on one image. See `Layer`.

    A look has `class`, the number of the only class that is compared, or `all`; `hidden`, what is not shown, as
    `described` numbers it (`5`, not labelled, if it is not given); and `draw`, `fill` or `outline`.

    Args:
        truth, prediction: they stay open as long as this, and are closed by who opened them.

    Raises:
        MaskError: their classes cannot be matched.
    """

    kind = "difference"

    def __init__(self, truth: MaskLayer, prediction: MaskLayer) -> None:
        self.truth, self.prediction = truth, prediction
        self.name = f"{prediction.name} against {truth.name}"
        self.shape, self.placement, self.depth = prediction.shape, prediction.placement, prediction.depth
        self._step = self.placement.height / self.shape[0], self.placement.width / self.shape[1]
        self.classes = _classes(prediction)
        self._true, self.note = matched(truth, prediction)

    def described(self) -> dict[str, JSON]:
        """Return what is found, and the classes that can be compared alone."""
        return {
            "classes": [{"id": number, "name": name, "colour": colour} for number, name, colour in _FOUND],
            "hidden": [UNLABELLED],
            "draw": list(DRAWN),
            "compared": [{"id": one.id, "name": one.name} for one in self.classes],
            "notes": [self.note],
        }

    def tile(self, at: TileAt, z: int, look: Look) -> Picture:
        """Draw a tile."""
        check_names(look, ("class", "hidden", "draw"))
        alone = choice(look, "class", (_ALL, *(str(one.id) for one in self.classes)))
        hidden = numbers(look, "hidden", UNLABELLED + 1, frozenset({UNLABELLED}))
        own = at.pixels(self.shape)
        ys, xs = (
            start + (np.arange(first - 1, stop + 1) + 0.5).clip(0.5, side / at.step) * at.step * step
            for start, first, stop, side, step in (
                (self.placement.y, own.y0, own.y1, self.shape[0], self._step[0]),
                (self.placement.x, own.x0, own.x1, self.shape[1], self._step[1]),
            )
        )
        found = self.found(ys, xs, at.step * self._step[0], z, None if alone == _ALL else int(alone))
        shown, rgb = np.zeros(256, bool), np.zeros((256, 3), np.uint8)
        for number, _, colour in _FOUND:
            shown[number], rgb[number] = number not in hidden, LabelClass("", colour).rgb
        indices, colours = shown_only(found, rgb, shown, choice(look, "draw", DRAWN))
        return picture(indices, colours, lasting=self.progress() is None)

    def found(self, ys: np.ndarray, xs: np.ndarray, step: float, z: int, alone: int | None = None) -> np.ndarray:
        """Compare at pixels of the image, (n, m) uint8: 0 where both are background, or nothing is predicted.

        Args:
            ys, xs, step, z: as for `MaskLayer.classes_over`.
            alone: compare only this class with all others.
        """
        true = self.truth.classes_over(ys, xs, step, z)
        true = np.where(true < 0, -1, self._true[true])
        predicted = self.prediction.classes_over(ys, xs, step, z)
        return difference(true, predicted, alone)

    def value(self, y: int, x: int, z: int) -> JSON:
        """Return what was found at a pixel of the image."""
        found = int(self.found(np.array([y + 0.5]), np.array([x + 0.5]), 1.0, z)[0, 0])
        name = next((name for number, name, _ in _FOUND if number == found), None)
        return None if name is None else {"text": name, "id": found}

    def progress(self) -> Progress | None:
        """Return how far the prediction is."""
        return self.prediction.progress()

    def close(self) -> None:
        """Nothing of its own is open."""


def difference(true: np.ndarray, predicted: np.ndarray, alone: int | None = None) -> np.ndarray:
    """Compare class ids.

    Args:
        true: (n, m) integers, -1 where nothing is labelled.
        predicted: (n, m) integers, -1 where nothing is predicted.
        alone: compare only this class with all others.

    Returns:
        (n, m) uint8: 0 where both are background or nothing is predicted, else RIGHT, MISSED, MADE_UP, CONFUSED or
        UNLABELLED.
    """
    there, known = predicted >= 0, true >= 0
    if alone is not None:
        true, predicted = (true == alone).astype(np.int64), (predicted == alone).astype(np.int64)
    found = np.zeros(true.shape, np.uint8)
    found[(true == predicted) & (true > 0)] = RIGHT
    found[(true > 0) & (predicted == 0)] = MISSED
    found[(true == 0) & (predicted > 0)] = MADE_UP
    found[(true > 0) & (predicted > 0) & (true != predicted)] = CONFUSED
    found[~known] = UNLABELLED
    found[~there] = 0
    return found


def _classes(layer: MaskLayer) -> tuple[ClassEntry, ...]:
    """Return the classes of a mask; ids of objects are one class."""
    if layer.kind == "ids":
        return ClassEntry(0, "background", "#000000", 0), ClassEntry(1, "object", "#e69f00", 1)
    opened, _ = layer.current()
    if layer.kind == "probabilities" and len(opened.classes) == 1:
        only = opened.classes[0]
        return ClassEntry(0, "background", "#000000", 0), ClassEntry(1, only.name, only.colour, 1)
    return opened.classes


def matched(truth: MaskLayer, prediction: MaskLayer) -> tuple[np.ndarray, str]:
    """Match the ids of a truth with the classes of a prediction: by name, by number, by order, else foreground alone.

    Returns:
        (256,) int64, the class of the prediction by the id in the truth, -1 for "not labelled"; and a note on it.

    Raises:
        MaskError: the prediction has ids of objects, and the truth several classes.
    """
    true, predicted = _classes(truth), _classes(prediction)
    named = {one.name.casefold(): one.id for one in predicted}
    void = [one for one in true if one.stored == _VOID and len(true) > len(predicted)]
    rest = [one for one in true if one not in void]
    if all(one.name.casefold() in named for one in rest):
        return _table({one.id: named[one.name.casefold()] for one in rest}), "classes are matched by their names"
    if all(one.stored in [other.id for other in predicted] for one in rest):
        return _table({one.id: one.stored for one in rest}), "values of the truth are numbers of classes"
    if len(rest) == len(predicted):
        pairs = {one.id: other.id for one, other in zip(rest, predicted, strict=True)}
        return _table(pairs), "values of the truth are matched with the classes in their order"
    if len(predicted) == 2:
        pairs = {one.id: int(one.stored != 0) for one in rest}
        return _table(pairs), f"every value of the truth but 0 counts as {predicted[1].name}"
    raise MaskError(
        f"{truth.name} holds {len(rest)} values ({', '.join(one.name for one in rest[:8])}), {prediction.name} the "
        f"classes {', '.join(one.name for one in predicted[:8])}: give a truth whose values are the numbers of these"
    )


def _table(pairs: Mapping[int, int]) -> np.ndarray:
    table = np.full(256, -1, np.int64)
    table[list(pairs)] = list(pairs.values())
    return table
