"""Collect the values in a label file block by block; refuse those that cannot be classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from skimage.measure import label as label_pieces

from tilesegment.errors import DataError
from tilesegment.labels.label import Kind, Label
from tilesegment.metadata import LabelClass

MOST_CLASSES = 32  # more distinct values mean object ids, a grey image, or a smoothed or JPEG-compressed mask
LARGEST = 65_535  # of uint16; larger values are no classes
_BLOCKS = 16  # blocks of a file in which pieces are counted
_LEAST_PIXELS = 4  # smaller pieces, on average, are noise
_PIECES = 1.5  # up to so many connected pieces, on average, a value is an object id
PIECES_OF_CLASS = 3.0  # beyond so many, it is a class
_LEAST_OBJECTS = 4  # with fewer values besides background, pieces tell nothing
_MANY_OBJECTS = 8  # with as many values besides background, one piece of each is enough
_DENSE = 0.35  # share of the numbers from 1 to the largest that ids of few objects use
_RECURRENCE = 2.0  # in so many files or more, on average, a value is a class


class ObjectsError(DataError):
    """Labels hold ids of single objects where classes are expected.

    `found` says so, without what to do; `count` is how many values there are.
    """

    def __init__(self, found: str, count: int, advice: str) -> None:
        super().__init__(f"{found}. {advice}")
        self.found, self.count = found, count


class Pieces(NamedTuple):
    """Connected pieces of the values in blocks of labels; each block counts its values anew."""

    number: int = 0
    values: int = 0
    pixels: int = 0

    @staticmethod
    def of(parts: Iterable["Pieces"]) -> "Pieces":
        """Sum the pieces of several blocks."""
        return Pieces(*map(sum, zip(Pieces(), *parts, strict=True)))

    @property
    def are_objects(self) -> bool:
        """Whether the values may be object ids: each in about one piece, of several pixels."""
        return 0 < self.number <= _PIECES * self.values and self.pixels >= _LEAST_PIXELS * self.number


@dataclass
class Scan:
    """The distinct values of a label file, collected while reading it; colours, names and classes as in `Label`."""

    name: str
    kind: Kind
    values: set[int] = field(default_factory=set)
    colours: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    classes: tuple[LabelClass, ...] | None = None
    ignore: int | None = None  # a value that is always allowed
    jpeg: bool = False
    what: str = ""  # in messages, such as "label 01"
    blocks: list[Pieces] = field(default_factory=list)
    otherwise: str = ""  # what else the user can do with ids of objects, for the error that refuses them

    @classmethod
    def of(cls, what: str, name: str, label: Label, ignore: int | None = None, otherwise: str = "") -> "Scan":
        """Begin a scan of `label`."""
        told = (label.colours, label.names, label.classes, ignore, label.jpeg, what)
        return cls(name, label.kind, set(), *told, otherwise=otherwise)

    def add(self, pixels: np.ndarray) -> None:
        """Add the values of a block (h, w).

        Raises:
            DataError: too many values for classes.
        """
        found = distinct(pixels)
        self.values.update(found.tolist())
        if len(self.blocks) < _BLOCKS:
            self.blocks.append(pieces_of(pixels, found))
        if len(self.values) > MOST_CLASSES + 1:
            self.check()

    def check(self) -> None:
        """Check that the values can stand for classes.

        Raises:
            DataError: they cannot.
        """
        values, colour = sorted(self.values - {self.ignore}), self.kind == "colour"
        count, many = len(values), len(values) > MOST_CLASSES
        whole = all(np.isfinite(value) and value == np.rint(value) for value in values)
        outside = [] if colour else [value for value in values if value < 0 or value > LARGEST]
        # one large value may mean "not labelled"
        if (many or len(outside) > 1) and whole and Pieces.of(self.blocks).are_objects:
            raise objects_error(f"{self.what} holds", count, self.otherwise)
        if many or not whole or outside or (self.jpeg and count > 2) or (not colour and _smeared(values)):
            listed = ", ".join(f"#{value:06x}" if colour else f"{value:g}" for value in [*values[:4], *values[4:][-1:]])
            advice = "".join(f"; if {one:.0f} means not labelled, give --ignore {one:.0f}" for one in outside[:1])
            pieces = Pieces.of(self.blocks)
            if many:
                solid = not colour and pieces.pixels >= _LEAST_PIXELS * pieces.number
                advice = "; if they are ids of single objects, give --instances" if solid else ""
            raise DataError(
                f"{self.what} holds {count} {'colours' if colour else 'values'}, such as {listed}; expected at most "
                f"{MOST_CLASSES}{'' if colour else f' whole ones from 0 to {LARGEST}'}, one per class: save labels as "
                f"PNG or TIFF, not as JPEG, and without smoothing{advice if whole else ''}"
            )
        self.values = {int(value) for value in self.values}


def scan(name: str, label: Label, ignore: int | None) -> Scan:
    """Scan a label block by block.

    Raises:
        DataError: its values cannot be classes.
    """
    found = Scan.of(f"label {name}", name, label, ignore)
    for z, region in label.blocks():
        found.add(label.read(region, z))
    found.check()
    return found


def distinct(pixels: np.ndarray) -> np.ndarray:
    """Return the values that occur, ascending."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:  # counting is several times faster than sorting
        return np.flatnonzero(np.bincount(pixels.ravel()))
    return np.unique(pixels)


def pieces_of(pixels: np.ndarray, values: np.ndarray) -> Pieces:
    """Count the pieces in a block (h, w) of all its `values`, ascending, except 0."""
    count = np.count_nonzero(values)
    if count == 0 or not np.isfinite(values).all():
        return Pieces()
    ids = np.searchsorted(values, pixels) + 1
    ids[pixels == 0] = 0
    return Pieces(int(label_pieces(ids, background=0, connectivity=2).max()), int(count), int(np.count_nonzero(ids)))


def look_like_objects(scans: Sequence[Scan]) -> bool:
    """Whether labels hold object ids: many values, each in about one connected piece.

    Few values are ids only if they differ between files and are either several, or nearly consecutive from 1, or, in
    parts cut out of larger images, rarely the same in two files.
    """
    plain = [one for one in scans if one.classes is None]
    sets = [frozenset(value for value in one.values if value > 0) for one in plain]
    used = frozenset().union(*sets)
    blocks = [block for one in plain for block in one.blocks]
    # masks of one value may lie among them
    several = [block for block in blocks if block.values > 1] or blocks
    if len(used) < _LEAST_OBJECTS or not Pieces.of(several).are_objects:
        return False
    if len(used) > MOST_CLASSES:
        return True
    count, coloured = sum(map(len, sets)), any(one.kind == "colour" for one in plain)
    dense = not coloured and count >= _DENSE * sum(max(one, default=0) for one in sets)
    are_ids = dense or len(used) >= _MANY_OBJECTS or count < _RECURRENCE * len(used)
    return are_ids and (len(sets) == 1 or len(set(sets)) > 1)


def objects_error(what: str, count: int, otherwise: str = "") -> ObjectsError:
    """Return the error for labels that hold object ids; `what` is for example "the labels hold"."""
    return ObjectsError(
        f"{what} {count} values, nearly all of them in one connected piece each: ids of single objects, not classes",
        count,
        f"Give --instances for the classes background and object, with a border between touching objects{otherwise}",
    )


def _smeared(values: Sequence[float]) -> bool:
    """Whether all values lie around 0 and 255, at least two around each."""
    low, high = [v for v in values if v <= 32], [v for v in values if 223 <= v <= 255]
    return len(low) + len(high) == len(values) and len(low) > 1 and len(high) > 1
