"""How sure a core must be to make an object, and how large an object: chosen on held-out sections.

A network that is unsure where two nuclei touch takes the place for a core of both, and a crumb of stain for a nucleus.
Both can be weighed against what is lost on the other side.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from tilesegment.metadata import LabelClass
from tilesegment.models.model import Model
from tilesegment.scoring.overlaps import Overlaps
from tilesegment.training.data import Section
from tilesegment.training.data.sections import object_areas
from tilesegment.training.targets import objects_of, overlaps_with_objects

BIASES = (0.0, -0.5, -1.0, -1.5, -2.0, 0.5)  # added to the logits of the objects' classes; the first is none
_AREAS = (0, 5, 10, 15, 20, 25, 30, 40, 50, 60, 80, 100, 150, 200)  # pixels
_LEAST_GAIN = 0.002  # of PQ, for a choice to be made
_SMALLEST = 10  # percentile of the true areas that the least area does not exceed, as a bad model would leave out most
_TINY = 1e-12


@dataclass(frozen=True)
class Cores:
    """What makes an object, and the PQ of the held-out sections with it.

    Attributes:
        bias: added to the logits of the objects' classes; below 0 a core must be surer.
        min_area: pixels of the smallest object.
        pq, pq_before: with these, and with neither.
    """

    bias: float
    min_area: int
    pq: float
    pq_before: float


def choose_cores(
    sections: Sequence[Section], probabilities: Sequence[np.ndarray], classes: Sequence[LabelClass]
) -> Cores:
    """Choose bias and least area of the best PQ, both as small as serves; nine in ten true objects are large enough.

    Args:
        sections: with objects.
        probabilities: of each section, (K, H, W) float.
        classes: with their roles.
    """
    made = np.array([one.role == "object" for one in classes])
    true = np.concatenate([object_areas(section.objects) for section in sections if section.objects is not None])
    areas = [area for area in _AREAS if area == 0 or (true.size and area <= np.percentile(true, _SMALLEST))]
    found = np.zeros((len(BIASES), len(areas)))
    for row, bias in enumerate(BIASES):
        tables = []
        for section, p in zip(sections, probabilities, strict=True):
            logits = np.log(np.maximum(p, _TINY)) + bias * made[:, None, None]
            tables.append(overlaps_with_objects(section, objects_of(logits.argmax(0).astype(np.uint8), classes)))
        found[row] = [_quality(tables, area) for area in areas]
    best = found.max()
    if best < found[0, 0] + _LEAST_GAIN:
        return Cores(0.0, 0, float(found[0, 0]), float(found[0, 0]))
    # of nearly equal ones the mildest
    good = np.argwhere(found >= best - _LEAST_GAIN / 2)
    row, column = min(good.tolist(), key=lambda at: (abs(BIASES[at[0]]), areas[at[1]]))
    return Cores(BIASES[row], areas[column], float(found[row, column]), float(found[0, 0]))


def _quality(tables: Sequence[Overlaps], min_area: int) -> float:
    """Panoptic quality of all sections together, without predicted objects of fewer pixels than `min_area`."""
    shared, objects = 0.0, 0
    for table in tables:
        matches = (table.iou > 0.5) & (table.prediction_area[table.columns] >= min_area)
        shared += float(table.iou[matches].sum())
        objects += table.truth.size + int((table.prediction_area >= min_area).sum())
    return 2 * shared / max(objects, 1)


def with_cores(model: Model, cores: Cores) -> Model:
    """Return the model with the bias in its last layer, and the least area in its objects' classes."""
    network = copy.deepcopy(model.network)
    made = [n for n, one in enumerate(model.header.classes) if one.role == "object"]
    for head in network.heads:
        assert head.bias is not None
        with torch.no_grad():
            head.bias[made] += cores.bias
    classes = tuple(
        replace(one, min_area=cores.min_area) if one.role == "object" else one for one in model.header.classes
    )
    return Model(replace(model.header, classes=classes), network)
