"""Heat maps of probabilities."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.draw import HEATMAP, heat, reduce, save, sheet
from tilesegment.errors import PlanError
from tilesegment.geometry import Region
from tilesegment.masks.reader import open_probabilities
from tilesegment.metadata import LabelClass
from tilesegment.stores import Place

_LARGEST = 2048  # pixels a side


@dataclass(frozen=True)
class Heatmap:
    """A heat map to draw.

    Attributes:
        path: file of the picture.
        probabilities: Zarr store of the probabilities.
        shown: class id; None is every class but 0.
    """

    path: Path
    probabilities: Place
    shown: int | None = None

    def draw(self, largest: int = _LARGEST) -> None:
        """Draw plane 0 of the finest level that has at most `largest` pixels a side, and write the picture.

        Raises:
            MaskError: the probabilities cannot be read, or the picture cannot be written.
        """
        spec, levels = open_probabilities(self.probabilities)
        number = next((n for n, level in enumerate(levels) if max(level.shape) <= largest), len(levels) - 1)
        level = levels[number]

        def likely(region: Region) -> np.ndarray:
            pixels = level.read(region, 0)
            unit = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
            return 1 - unit[:1] if self.shown is None else unit[self.shown, None]

        # every n-th pixel where even the smallest level is too large
        values = reduce(likely, level.shape, -(-max(level.shape) // largest))[0]
        shown = 1 if self.shown is None and len(spec.classes) == 2 else self.shown
        name = "any class but 0" if shown is None else spec.classes[shown].name
        panel, legend = heat(values)
        title = f"{self.probabilities.name}: probability of {name}, level {number}"
        save(sheet([[panel]], title=title, legends={"": legend}), self.path, f"{HEATMAP}{name}")


def class_to_show(wanted: str | None, classes: tuple[LabelClass, ...]) -> int | None:
    """Return the id of the class with this name or number; None for the foreground, every class but 0.

    Raises:
        PlanError: no such class.
    """
    if wanted is None or wanted == "foreground":
        return None
    names = [one.name for one in classes]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise PlanError(
        f"--heatmap-class {wanted}: the model has no such class; allowed: foreground, {', '.join(names)}, "
        f"or a number from 0 to {len(names) - 1}"
    )
