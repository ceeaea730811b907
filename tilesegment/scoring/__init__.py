"""Masks on disk against the truth: whole folders, stacks and images larger than memory, read block by block."""

from tilesegment.scoring.comparison import evaluate
from tilesegment.scoring.results import CellScore, ClassScore, Evaluation, ImageScore

__all__ = ["CellScore", "ClassScore", "Evaluation", "ImageScore", "evaluate"]
