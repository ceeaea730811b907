"""Training data: found in any known layout, checked, brought into one form, and described before training starts.

`layouts` pairs images with labels, `tilesegment.labels` interprets the labels, `reading` cuts both into sections,
`sparse` reads what was drawn on images of any size, where only that counts, `summary` describes the data and warns of
what makes training or its scores worthless.
"""

from tilesegment.training.data.reading import open_dataset
from tilesegment.training.data.sections import IGNORE, Dataset, Section, normalisation_of
from tilesegment.training.data.sparse_data import SparseDataset
from tilesegment.training.data.summary import summary

__all__ = ["IGNORE", "Dataset", "Section", "SparseDataset", "normalisation_of", "open_dataset", "summary"]
