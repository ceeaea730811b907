"""Masks on disk against the truth: whole folders, stacks and images larger than memory, read block by block."""

from tilesegment.comparison.comparison import evaluate
from tilesegment.comparison.results import CellScore, ClassScore, Evaluation, ImageScore

__all__ = ["CellScore", "ClassScore", "Evaluation", "ImageScore", "evaluate"]
