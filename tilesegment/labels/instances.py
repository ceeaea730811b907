"""Ids of single objects as two classes: background and object, touching objects parted by a border of background."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels.label import Label
from tilesegment.labels.scanning import Pieces, distinct, pieces_of

NOT_LABELLED = -1  # what `parted` hands out where the label has the ignored value
OBJECT_NAMES = ("background", "object")
OBJECTS_NOTE = (
    "ids of objects are read as background and object; where two objects touch, a border 2 px wide parts them"
)
_MOST_PIECES = 3.0  # mean number of connected pieces of a value, beyond which it is a class and no object
_BLOCKS = 16  # blocks of a file in which pieces are counted


def parted(label: Label, name: str, ignore: int | None) -> Label:
    """The label with 1 inside objects, 0 elsewhere, and NOT_LABELLED where it has the value `ignore`.

    A pixel of an object is 0 if one of its 8 neighbours is of another object, so that the border between two objects is
    two pixels wide and no connected piece of 1 holds two ids. Which blocks the label is read in does not matter.

    Args:
        label: ids of objects, 0 (or black) being the background.
        name: for messages, such as "label 01".
        ignore: the id that means "not labelled".
    """
    whole = Region.of_shape(label.shape)

    def read(region: Region, z: int) -> np.ndarray:
        """1 within objects, 0 around them, NOT_LABELLED (h, w) int16; one pixel more is looked at on each side."""
        around = Region(region.y0 - 1, region.x0 - 1, region.y1 + 1, region.x1 + 1).intersect(whole)
        ids = label.read(around, z)
        unknown = ids == ignore if ignore is not None else np.zeros(ids.shape, bool)
        if (ids[~unknown] < 0).any():
            least = ids[~unknown].min()
            raise DataError(f"{name} holds {least}; expected ids from 0: give --ignore {least} if it means no label")
        values = np.where(inside_objects(np.where(unknown, 0, ids)), 1, 0)
        return np.where(unknown, NOT_LABELLED, values)[region.within(around).slices].astype(np.int16)

    return replace(
        label, kind="grey", jpeg=False, read=read, colours={}, names=dict(enumerate(OBJECT_NAMES)), classes=None
    )


def inside_objects(ids: np.ndarray) -> np.ndarray:
    """Where an object is that no other one touches: (h, w) bool."""
    padded = np.pad(ids, 1)
    height, width = ids.shape
    inside = ids != 0
    for y in range(3):
        for x in range(3):
            neighbour = padded[y : y + height, x : x + width]
            inside &= (neighbour == 0) | (neighbour == ids)
    return inside


def count_pieces(label: Label) -> list[Pieces]:
    """The pieces in each of the first blocks of a label: what `check_objects` is told."""
    blocks = [label.read(region, z) for _, (z, region) in zip(range(_BLOCKS), label.blocks(), strict=False)]
    return [pieces_of(pixels, distinct(pixels)) for pixels in blocks]


def check_objects(blocks: Sequence[Pieces]) -> tuple[str, ...]:
    """Whether labels that are to be ids of objects may be such; what the user should know, a sentence each.

    Args:
        blocks: of all labels, as `count_pieces` gives them.

    Raises:
        DataError: the values are classes.
    """
    total = sum(blocks, Pieces())
    if max((one.values for one in blocks), default=0) <= 1:
        return ("the labels hold one value besides background, so that objects that touch are taken for one",)
    if total.count > _MOST_PIECES * total.values:
        each = f"{total.count / total.values:.0f} connected pieces"
        raise DataError(
            f"the values of the labels lie in {each} each: they are classes, not ids of single objects; leave out "
            "--instances"
        )
    return ()
