"""What the values of a label file are: looked through block by block, and refused where they cannot be classes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from skimage.measure import label as label_pieces

from tilesegment.errors import DataError
from tilesegment.labels.label import Kind, Label
from tilesegment.metadata import LabelClass

MOST_CLASSES = 32  # more distinct values are ids of objects, a grey image, a smoothed mask or one saved as JPEG
LARGEST = 65_535  # of uint16; a larger value is no class
_LEAST_OBJECTS = 4  # values besides background below which pieces tell nothing
_MANY_OBJECTS = 8  # values besides background from which one piece of each tells enough
_PIECES = 1.5  # mean number of connected pieces of a value, up to which it is the id of an object
_LEAST_PIXELS = 4  # mean number of pixels of a piece, below which it is noise
_DENSE = 0.35  # of few values, the least part of the numbers from 1 to the largest that are used in a file
_RECURRENCE = 2.0  # or else the mean number of files that hold a value, from which it is a class
_BLOCKS = 16  # blocks of a file in which pieces are counted


@dataclass(frozen=True)
class Pieces:
    """The connected pieces of one value in a label, counted block by block.

    Attributes:
        count: how many there are.
        values: of how many values, each counted anew in every block.
        pixels: how many are in them.
    """

    count: int = 0
    values: int = 0
    pixels: int = 0

    def __add__(self, other: "Pieces") -> "Pieces":
        return Pieces(self.count + other.count, self.values + other.values, self.pixels + other.pixels)

    @property
    def are_objects(self) -> bool:
        """Whether the values may be ids of objects: each in one piece, or hardly more, of some pixels."""
        return 0 < self.count <= _PIECES * self.values and self.pixels >= _LEAST_PIXELS * self.count


@dataclass(frozen=True)
class Scan:
    """What all of a label file holds: its distinct values, ascending, int64; the rest as in `Label`.

    Attributes:
        pieces: of values other than 0.
    """

    name: str
    values: np.ndarray
    kind: Kind
    colours: Mapping[int, str] = field(default_factory=dict)
    names: Mapping[int, str] = field(default_factory=dict)
    classes: tuple[LabelClass, ...] | None = None
    pieces: Pieces = field(default_factory=Pieces)


class Scanner:
    """Collects what a label holds while it is read.

    Args:
        name: for messages, such as "label 01".
        label: the open file.
        ignore: a value that is allowed whatever it is.
    """

    def __init__(self, name: str, label: Label, ignore: int | None) -> None:
        self.name = name
        self.label = label
        self.ignore = ignore
        self.values: set[float] = set()
        self._pieces, self._blocks = Pieces(), 0

    def add(self, pixels: np.ndarray) -> None:
        """Take note of a block (h, w).

        Raises:
            DataError: what was read so far cannot be classes.
        """
        found = distinct(pixels)
        self.values.update(found.tolist())
        if self._blocks < _BLOCKS:
            self._blocks += 1
            self._pieces += pieces_of(pixels, found)
        if len(self.values) > MOST_CLASSES + 1:
            self.scan()

    def scan(self) -> Scan:
        """What was read.

        Raises:
            DataError: it cannot be classes.
        """
        values = sorted(value for value in self.values if value != self.ignore)
        _check(self.name, self.label, values, self._pieces)
        stored, one = np.array(sorted(self.values), np.int64), self.label
        return Scan(self.name, stored, one.kind, one.colours, one.names, one.classes, self._pieces)


def scan(name: str, label: Label, ignore: int | None) -> Scan:
    """Look through all of a label, block by block.

    Raises:
        DataError: it holds what cannot be classes.
    """
    scanner = Scanner(name, label, ignore)
    for z, region in label.blocks():
        scanner.add(label.read(region, z))
    return scanner.scan()


def distinct(pixels: np.ndarray) -> np.ndarray:
    """The values that occur, ascending."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:  # counting is several times faster than sorting
        return np.flatnonzero(np.bincount(pixels.ravel()))
    return np.unique(pixels)


def pieces_of(pixels: np.ndarray, values: np.ndarray) -> Pieces:
    """The pieces in a block (h, w) that holds `values`, ascending."""
    count = np.count_nonzero(values)
    if count == 0 or not np.isfinite(values).all():
        return Pieces()
    ids = np.searchsorted(values, pixels) + 1
    ids[pixels == 0] = 0
    return Pieces(int(label_pieces(ids, background=0, connectivity=2).max()), int(count), int(np.count_nonzero(ids)))


def look_like_objects(scans: Sequence[Scan]) -> bool:
    """Whether the labels hold ids of single objects: many values, each in one connected piece or hardly more.

    Few values are ids only if they are not the same in all files, and are either several, or about those from 1 to
    their number or, where parts were cut out of larger images, hardly ever the same in two files.
    """
    plain = [one for one in scans if one.classes is None]
    sets = [frozenset(one.values[one.values > 0].tolist()) for one in plain]
    used = frozenset().union(*sets)
    if len(used) < _LEAST_OBJECTS or not sum((one.pieces for one in plain), Pieces()).are_objects:
        return False
    if len(used) > MOST_CLASSES:
        return True
    count, coloured = sum(map(len, sets)), any(one.kind == "colour" for one in plain)
    dense = not coloured and count >= _DENSE * sum(max(one, default=0) for one in sets)
    are_ids = dense or len(used) >= _MANY_OBJECTS or count < _RECURRENCE * len(used)
    return are_ids and (len(sets) == 1 or len(set(sets)) > 1)


def objects_error(what: str, count: int, settled: str = "") -> DataError:
    """What to say of labels that hold ids of objects."""
    return DataError(
        f"{what} hold{'s' * what.startswith(('label ', 'truth ', 'prediction '))} {count} values, nearly each of them "
        "in one connected piece: ids of single objects, not classes. Give --instances for the two classes background "
        f"and object, in which touching objects are parted by a border of background{settled}"
    )


def _check(name: str, label: Label, values: list[float], pieces: Pieces) -> None:
    """Whether `values`, ascending, may stand for classes."""
    if label.jpeg and len(values) > 2:
        raise _smeared_error(name, label, values)
    whole = all(np.isfinite(value) and value == np.rint(value) for value in values)
    # one large value may mean "not labelled"
    beyond = label.kind != "colour" and sum(value > LARGEST for value in values) > 1
    if (len(values) > MOST_CLASSES or beyond) and whole and pieces.are_objects:
        raise objects_error(name, len(values))
    if label.kind != "colour" and _smeared(values):
        raise _smeared_error(name, label, values)
    if label.kind == "colour":
        if len(values) > MOST_CLASSES:
            raise DataError(
                f"{name} holds more than {MOST_CLASSES} colours; expected one a class: save labels as PNG or TIFF "
                "without smoothing"
            )
        return
    if len(values) > MOST_CLASSES or not whole or (values and (values[0] < 0 or values[-1] > LARGEST)):
        odd = values[0] if values[0] < 0 else values[-1]
        few = whole and len(values) <= MOST_CLASSES
        marker = f"; if {odd:.0f} means not labelled, give --ignore {odd:.0f}" if few else ""
        raise DataError(
            f"{name} holds {len(values)} values from {values[0]} to {values[-1]}; expected at most {MOST_CLASSES} "
            f"whole ones from 0 to {LARGEST}, one a class: save labels as PNG or TIFF without smoothing{marker}"
        )


def _smeared_error(name: str, label: Label, values: Iterable[float]) -> DataError:
    values = list(values)
    listed = ", ".join(f"#{int(v):06x}" if label.kind == "colour" else f"{v:g}" for v in values[:4])
    return DataError(
        f"{name} holds {len(values)} values, {listed}, ..., smeared as by JPEG or by smoothing; "
        "export it again as PNG or TIFF, without smoothing, or set each pixel to the nearest class"
    )


def _smeared(values: list[float]) -> bool:
    """Whether values lie around 0 and 255 only, at least two around each."""
    low, high = [v for v in values if v <= 32], [v for v in values if v >= 223]
    return len(low) + len(high) == len(values) and len(low) > 1 and len(high) > 1 and values[-1] <= 255
