"""Scores of masks: by pixels (Dice, IoU, accuracy), by how well cells are separated (V_Rand, V_Info), and of objects.

`pixels`, `membranes` and `objects` take arrays and return numbers. `inputs` pairs and opens files, `matching` counts
their values and matches them with classes, `evaluation` scores folders, stacks and images larger than memory, `results`
holds the outcome, `figure` draws it. For objects `instances` opens files, `overlaps` counts, `object_evaluation` scores
and `object_figure` draws.
"""

from tilesegment.scoring.evaluation import evaluate
from tilesegment.scoring.membranes import (
    THRESHOLDS,
    MembraneScores,
    foreground_scores,
    membrane_scores,
    section_scores,
    segment_cells,
    summarise,
)
from tilesegment.scoring.objects import object_scores
from tilesegment.scoring.pixels import confusion, constant_predictor, dice, iou, pixel_accuracy
from tilesegment.scoring.results import (
    CellScore,
    ClassScore,
    Evaluation,
    ImageScore,
    MatchScore,
    ObjectScore,
)

__all__ = [
    "THRESHOLDS",
    "CellScore",
    "ClassScore",
    "Evaluation",
    "ImageScore",
    "MatchScore",
    "MembraneScores",
    "ObjectScore",
    "confusion",
    "constant_predictor",
    "dice",
    "evaluate",
    "foreground_scores",
    "iou",
    "membrane_scores",
    "object_scores",
    "pixel_accuracy",
    "section_scores",
    "segment_cells",
    "summarise",
]
