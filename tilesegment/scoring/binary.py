"""How good a mask is: pixel counts (Dice, IoU, accuracy), and how well it tells cells apart (V_Rand, V_Info).

Arrays in, numbers out. Files, and images larger than memory, are compared by `tilesegment.scoring`.
"""

from tilesegment.scoring.counts import confusion, constant_predictor, dice, iou, pixel_accuracy
from tilesegment.scoring.membranes import (
    THRESHOLDS,
    MembraneScores,
    foreground_scores,
    membrane_scores,
    section_scores,
    segment_cells,
    summarise,
)

__all__ = [
    "THRESHOLDS",
    "MembraneScores",
    "confusion",
    "constant_predictor",
    "dice",
    "foreground_scores",
    "iou",
    "membrane_scores",
    "pixel_accuracy",
    "section_scores",
    "segment_cells",
    "summarise",
]
