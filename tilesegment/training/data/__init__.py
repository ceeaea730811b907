"""Training data as people have them: found, checked, brought into one form, and described before training starts.

`layouts` finds which image belongs to which label, `tilesegment.labels` says what the labels mean, `reading` cuts both
into sections, `summary` tells all of it and what makes training or its scores worthless.
"""

from tilesegment.training.data.reading import open_dataset
from tilesegment.training.data.sections import IGNORE, Dataset, Section, normalisation_of
from tilesegment.training.data.summary import summary

__all__ = ["IGNORE", "Dataset", "Section", "normalisation_of", "open_dataset", "summary"]
