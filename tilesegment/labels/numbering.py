"""Number the objects of a label of ids: 1, 2, ... in any plane, one number for each place."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from skimage.measure import label as label_pieces

_TABLE = 1 << 24  # ids below are found by counting, others by sorting
_GAP = 0.5  # of the larger piece's diameter; pieces of an id that lie closer are one object
_DEBRIS = 0.1  # of the largest piece's area; smaller pieces belong to the nearest piece of their id
_PIECES_OF_MASK = 2  # beyond so many pieces the only id of a plane is a mask of several objects
_MASK = 255  # the value of masks


@dataclass(frozen=True)
class Numbered:
    """The objects of a plane."""

    objects: np.ndarray  # (h, w) int32, 0 outside, 1, 2, ... in the order of the ids
    ids: np.ndarray  # (n,) the id of each object
    repeated: tuple[tuple[int, int], ...] = ()  # ids that lie in separate places, and in how many
    is_mask: bool = False  # one value whose connected pieces are the objects


def dense(ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the positive whole values of `ids` (h, w) in their order: (h, w) int32, 0 elsewhere, and the values."""
    if ids.size == 0:
        return np.zeros(ids.shape, np.int32), np.zeros(0, np.int64)
    if ids.dtype.kind in "iub" and int(ids.max()) < _TABLE:
        positive = np.maximum(ids, 0) if ids.dtype.kind == "i" else ids
        there = np.bincount(positive.ravel()) > 0
        there[0] = False
        return np.cumsum(there, dtype=np.int32)[positive], np.flatnonzero(there)
    values, places = np.unique(ids, return_inverse=True)
    first = int(np.searchsorted(values, 0, side="right"))  # of the positive values
    return np.maximum(places.reshape(ids.shape) - first + 1, 0).astype(np.int32), values[first:]


def number_objects(ids: np.ndarray, *, is_mask: bool = False) -> Numbered:
    """Number the objects of a plane of ids (h, w) of whole numbers; values up to 0 are background.

    An id that lies in several 8-connected pieces far from each other is as many objects. Pieces that lie within half a
    diameter, such as the halves of an object that a line cuts, and debris are one object. The pieces of a plane's only
    value are objects if there are more than two, or if it is 255, or if the plane `is_mask`.
    """
    numbers, values = dense(ids)
    pieces, count = label_pieces(numbers, background=0, connectivity=2, return_num=True)
    if count == len(values):
        return Numbered(numbers, values)
    owner = np.zeros(count + 1, np.int32)
    owner[pieces] = numbers
    areas = np.bincount(pieces.ravel(), minlength=count + 1)
    areas[0] = 0
    if len(values) == 1:
        large = np.count_nonzero(areas >= _DEBRIS * areas.max())
        if is_mask or large > _PIECES_OF_MASK or (values[0] == _MASK and large > 1):
            return Numbered(pieces.astype(np.int32), np.repeat(values, count), is_mask=True)
    return _by_places(numbers, values, pieces, owner, areas)


def _by_places(
    numbers: np.ndarray, values: np.ndarray, pieces: np.ndarray, owner: np.ndarray, areas: np.ndarray
) -> Numbered:
    """Give each further place of an id a new number; `owner` and `areas` (p + 1,) are of the pieces."""
    boxes = _boxes(pieces, len(areas) - 1)
    order = np.lexsort((-areas[1:], owner[1:])) + 1
    groups = np.split(order, np.flatnonzero(np.diff(owner[order])) + 1)
    place_of = owner.copy()
    ids, repeated = list(values), []
    for group in (one for one in groups if len(one) > 1):
        places = _places(boxes[group], areas[group])
        number, several = int(owner[group[0]]), int(places.max())
        if several:
            repeated.append((int(values[number - 1]), several + 1))
            place_of[group] = np.where(places == 0, number, len(ids) + places)
            ids += [values[number - 1]] * several
    return Numbered(place_of[pieces] if repeated else numbers, np.array(ids, values.dtype), tuple(repeated))


def _boxes(pieces: np.ndarray, count: int) -> np.ndarray:
    """The boxes of pieces 1 to `count`, (count + 1, 4) int64: y0, x0, y1, x1; half-open."""
    found = [(0, 0, 0, 0)]
    found += [(y.start, x.start, y.stop, x.stop) for y, x in ndimage.find_objects(pieces, count)]
    return np.array(found, np.int64)


def _places(boxes: np.ndarray, areas: np.ndarray) -> np.ndarray:
    """The place of each piece of an id, from 0, (p,) int64; pieces by falling area."""
    places = np.zeros(len(areas), np.int64)
    for n in range(1, len(areas)):
        gaps = np.maximum(boxes[n, :2] - boxes[:n, 2:], boxes[:n, :2] - boxes[n, 2:]).max(axis=1)
        near = int(gaps.argmin())
        diameter = 2 * np.sqrt(areas[near] / np.pi)
        same = gaps[near] <= _GAP * diameter or areas[n] < _DEBRIS * areas[0]
        places[n] = places[near] if same else places[:n].max() + 1
    return places
