"""All pictures: pixels become colours, panels a sheet, and a sheet a file."""

from tilesegment.draw.colours import Legend, heat, legend_of, overlay, paint, stretch
from tilesegment.draw.comparison import UNLABELLED, Sample, compare
from tilesegment.draw.objects import distinct_ids, object_colours, overlay_objects
from tilesegment.draw.picture_files import (
    HEATMAP,
    PREVIEW,
    check_picture,
    comment_of,
    is_picture_of_ours,
    save,
)
from tilesegment.draw.reduction import enlarged, reduce
from tilesegment.draw.sheet import scale_bar, sheet

__all__ = [
    "HEATMAP",
    "PREVIEW",
    "UNLABELLED",
    "Legend",
    "Sample",
    "check_picture",
    "comment_of",
    "compare",
    "distinct_ids",
    "enlarged",
    "heat",
    "is_picture_of_ours",
    "legend_of",
    "object_colours",
    "overlay",
    "overlay_objects",
    "paint",
    "reduce",
    "save",
    "scale_bar",
    "sheet",
    "stretch",
]
