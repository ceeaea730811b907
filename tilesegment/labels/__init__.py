"""Labels as people keep them, for training and for scoring: which file goes with which, and what their values mean.

`files` pairs files by name, `label` reads label files of any kind (and makes classes of ids of objects), `scanning`
collects their values, `coding` decides what they mean.
"""

from tilesegment.labels.coding import IGNORE, Coding, classes_of, decide
from tilesegment.labels.files import core_of, is_folder_of_files, list_images, match_stems, some_of, stem_of
from tilesegment.labels.label import BLOCK, OBJECTS_NOTE, Label, LabelOptions, check_same_size
from tilesegment.labels.scanning import Scan, check_objects, scan

__all__ = [
    "BLOCK",
    "IGNORE",
    "OBJECTS_NOTE",
    "Coding",
    "Label",
    "LabelOptions",
    "Scan",
    "check_objects",
    "check_same_size",
    "classes_of",
    "core_of",
    "decide",
    "is_folder_of_files",
    "list_images",
    "match_stems",
    "scan",
    "some_of",
    "stem_of",
]
