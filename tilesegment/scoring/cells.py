"""The scores of cells, section by section; a plane that is too large for that is cut into windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels import BLOCK, Label
from tilesegment.scoring.binary import THRESHOLDS, section_scores, summarise
from tilesegment.scoring.inputs import Layer, Plane
from tilesegment.scoring.matching import Meanings
from tilesegment.scoring.results import CellScore

_LARGEST = 4096 * 4096  # pixels of a plane that is scored whole
_HARD = (0.5,)  # the one threshold of a mask, whose 'probabilities' are 0 and 1


@dataclass(frozen=True)
class CellPart:
    """The sections of one plane.

    Attributes:
        scores: (3, T) a section, as `section_scores` gives them.
        without_cells: sections that have no cell in the truth.
        window: whether the plane was cut.
    """

    scores: tuple[np.ndarray, ...]
    without_cells: int
    window: bool


def windows_of(shape: tuple[int, int]) -> list[Region]:
    """The sections of a plane of `shape` (H, W): itself, or windows of about equal size, at most 2048 pixels a side."""
    if shape[0] * shape[1] <= _LARGEST:
        return [Region.of_shape(shape)]
    (rows, columns) = (-(-side // BLOCK) for side in shape)
    return [
        Region(shape[0] * r // rows, shape[1] * c // columns, shape[0] * (r + 1) // rows, shape[1] * (c + 1) // columns)
        for r in range(rows)
        for c in range(columns)
    ]


def score_cells(
    files: tuple[Layer, Label], plane: Plane, meanings: Meanings, report: Callable[[int], None]
) -> CellPart:
    """Score the cells of a plane. Pixels of the truth that are not class 1, ignored ones too, are not scored.

    Args:
        files: prediction and truth.
        plane: of them.
        meanings: what values mean; two classes.
        report: called after each section with its pixels.
    """
    (prediction, truth), name = files, plane.pair.name
    windows, scores = windows_of(truth.shape), []
    for window in windows:
        inside = meanings.truth_ids(truth.read(window, plane.z), name) == 1
        if inside.any():
            if meanings.matching.prediction is None:
                scores.append(section_scores(inside, prediction.read(window, plane.z)[-1]))
            else:
                ids = meanings.predicted_ids(prediction.codes(window, plane.z), name)
                scores.append(section_scores(inside, ids == 1, _HARD))
        report(window.area)
    return CellPart(tuple(scores), len(windows) - len(scores), len(windows) > 1)


def cell_score(parts: Sequence[CellPart]) -> tuple[CellScore, list[tuple[float, float, float] | None]]:
    """The score of all planes, and that of each at the thresholds that are best over all.

    A plane's is the mean of its sections; None if it has no cell.

    Raises:
        DataError: no section has a cell in the truth.
    """
    sections = [scores for part in parts for scores in part.scores]
    if not sections:
        raise DataError(
            "the truth has no pixel inside a cell (class 1), so there are no cells to score: use --no-cells"
        )
    hard = sections[0].shape[1] == 1
    total = summarise(sections, _HARD if hard else THRESHOLDS)
    thresholds = (total.threshold_rand, total.threshold_info, total.threshold_error)
    best = [total.thresholds.index(threshold) for threshold in thresholds]
    rows: list[tuple[float, float, float] | None] = []
    for part in parts:
        values = [float(np.mean([scores[n, t] for scores in part.scores])) for n, t in enumerate(best) if part.scores]
        rows.append((values[0], values[1], values[2]) if values else None)
    score = CellScore(
        v_rand=total.v_rand,
        v_info=total.v_info,
        rand_error=total.rand_error,
        threshold_rand=None if hard else total.threshold_rand,
        threshold_info=None if hard else total.threshold_info,
        threshold_error=None if hard else total.threshold_error,
        sections=len(sections),
        without_cells=sum(part.without_cells for part in parts),
        window=BLOCK if any(part.window for part in parts) else None,
    )
    return score, rows
