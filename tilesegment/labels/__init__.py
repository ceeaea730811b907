"""Labels as people keep them, for training and for scoring: which file goes with which, and what their values mean.

`files` pairs files by name, `label` reads label files of any kind, `scanning` looks through their values, `coding`
decides what they mean, with `fitting` where kinds of labels are mixed, `naming` says what the classes are called, and
`instances` makes two classes of ids of single objects.
"""

from tilesegment.labels.coding import IGNORE, Coding, by_colours, decide
from tilesegment.labels.files import (
    Listing,
    core_of,
    is_folder_of_files,
    labels_among,
    list_images,
    match_stems,
    stem_of,
)
from tilesegment.labels.instances import NOT_LABELLED, OBJECT_NAMES, parted
from tilesegment.labels.label import BLOCK, Label, open_label
from tilesegment.labels.naming import classes_of
from tilesegment.labels.scanning import MOST_CLASSES, Scan, Scanner, scan

__all__ = [
    "BLOCK",
    "IGNORE",
    "MOST_CLASSES",
    "NOT_LABELLED",
    "OBJECT_NAMES",
    "Coding",
    "Label",
    "Listing",
    "Scan",
    "Scanner",
    "by_colours",
    "classes_of",
    "core_of",
    "decide",
    "is_folder_of_files",
    "labels_among",
    "list_images",
    "match_stems",
    "open_label",
    "parted",
    "scan",
    "stem_of",
]
