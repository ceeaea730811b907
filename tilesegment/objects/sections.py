"""Sections: what an object has of outline in one plane. Without a third dimension a section is an object."""

from dataclasses import dataclass

import numpy as np

from tilesegment.objects.labelling import Joined


@dataclass(frozen=True)
class Sections:
    """The sections of all objects that are kept, numbered 1, 2, ... by their first pixel.

    Attributes:
        of_piece: (pieces + 1,) uint32, the section of each piece; 0 for those of objects that are left out.
        object: (sections + 1,) uint32, the object of each section.
        plane: (sections + 1,) int64.
        first: (sections + 1,) int64, first pixel in the flattened stack.
        is_whole: (sections + 1,) bool, whether one block holds all corners of the outline of a section.
    """

    of_piece: np.ndarray
    object: np.ndarray
    plane: np.ndarray
    first: np.ndarray
    is_whole: np.ndarray


def sections_of(joined: Joined, number_of: np.ndarray, plane_pixels: int) -> Sections:
    """Return the sections of the objects whose `number_of` (objects + 1,) is not 0.

    Args:
        joined: the pieces and objects.
        number_of: id of each object in the outputs.
        plane_pixels: how many pixels a plane has.
    """
    kept = np.flatnonzero(number_of[joined.object_of] > 0)
    plane = joined.first[kept] // plane_pixels
    objects = joined.object_of[kept]
    _, head, group = np.unique(plane << 32 | objects, return_index=True, return_inverse=True)
    # pieces are in the order of their first pixels: so are the first ones of the groups
    order = np.argsort(head)
    number = np.empty(len(head), np.uint32)
    number[order] = np.arange(1, len(head) + 1, dtype=np.uint32)
    of_piece = np.zeros(joined.pieces + 1, np.uint32)
    of_piece[kept] = number[group]
    heads = head[order]
    none = np.zeros(1, np.int64)
    return Sections(
        of_piece,
        np.concatenate([none, objects[heads]]).astype(np.uint32),
        np.concatenate([none, plane[heads]]),
        np.concatenate([none - 1, joined.first[kept][heads]]),
        joined.in_one_block(of_piece, len(heads))
        & (np.bincount(of_piece, joined.at_line, minlength=len(heads) + 1) == 0),
    )
