"""Which value of a prediction stands for which class, and which value of the truth.

Files rarely agree: membranes are 0 or 1 in one, 0 and 255 in the other. Pixels are therefore counted by pairs of stored
values first, over all images; what the values mean is decided once, from all that occur: among the truths and among the
predictions by `tilesegment.labels`, between the two here.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tilesegment.errors import DataError
from tilesegment.labels import Coding
from tilesegment.labels.scanning import LARGEST, distinct
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.scoring.binary import THRESHOLDS

_SUM_TOLERANCE = 0.05  # of class probabilities that were rounded to 8 bits or half precision

Counts = Counter[tuple[int, int]]  # pixels by (value of the truth, code of the prediction)


@dataclass(frozen=True)
class Kind:
    """How a prediction, or a truth, is stored.

    Attributes:
        channels: of probabilities; 0 for class ids or grey values.
        classes: as the file names them, None if it does not.
        ids: whether values are known to be class ids.
    """

    channels: int
    classes: tuple[LabelClass, ...] | None
    ids: bool

    @property
    def by_threshold(self) -> bool:
        """Whether one number a pixel, the probability of class 1, decides."""
        return self.channels in (1, 2)

    def codes(self, pixels: np.ndarray, path: str) -> np.ndarray:
        """What is counted of a prediction.

        Args:
            pixels: (C, h, w) as stored.
            path: for messages.

        Returns:
            (h, w): the values themselves; of the probability of class 1, how many of THRESHOLDS it exceeds; of three
            channels or more, the id of the largest.

        Raises:
            DataError: probabilities that are none.
        """
        if not self.channels:
            return pixels[0]
        low, high = pixels.min(), pixels.max()
        if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails both
            found = "NaN or infinity" if not np.isfinite(low + high) else f"values from {low:.4g} to {high:.4g}"
            raise DataError(f"{path} holds {found}; expected probabilities from 0 to 1, or class ids as whole numbers")
        if self.channels > 1 and np.abs(pixels.sum(0) - 1).max() > _SUM_TOLERANCE:
            raise DataError(f"{path}: its {self.channels} channels do not sum to 1; expected class probabilities")
        if self.by_threshold:
            return np.searchsorted(np.asarray(THRESHOLDS, pixels.dtype), pixels[-1]).astype(np.uint8)
        return pixels.argmax(0).astype(np.uint8)


@dataclass(frozen=True)
class Matching:
    """What values mean.

    Attributes:
        classes: names and colours, the id is the position.
        truth: value of each class in the truth.
        prediction: value of each class in the prediction; None where thresholds decide between class 0 and 1.
    """

    classes: tuple[LabelClass, ...]
    truth: tuple[int, ...]
    prediction: tuple[int, ...] | None

    def confusion(self, counts: Counts, threshold: int = THRESHOLDS.index(0.5)) -> np.ndarray:
        """The confusion matrix (K, K) int64, rows the truth; `threshold` is an index into THRESHOLDS."""
        matrix = np.zeros((len(self.classes), len(self.classes)), np.int64)
        for (value, code), pixels in counts.items():
            matrix[self.truth.index(value), self.predicted_id(code, threshold)] += pixels
        return matrix

    def predicted_id(self, code: int, threshold: int = THRESHOLDS.index(0.5)) -> int:
        """Class id of a `Kind.codes` value."""
        return int(code > threshold) if self.prediction is None else self.prediction.index(code)


@dataclass(frozen=True)
class Meanings:
    """What is stored in each file, as class ids.

    Attributes:
        matching: which value is which class.
        truth: what the files of the truth store, as values.
        prediction: the same of the prediction; None for probabilities.
    """

    matching: Matching
    truth: Coding
    prediction: Coding | None

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided, a sentence each."""
        void = () if self.truth.ignore is None else (f"the value {self.truth.ignore} in the truth is not counted",)
        return (*self.truth.notes, *(() if self.prediction is None else self.prediction.notes), *self._order, *void)

    @property
    def _order(self) -> tuple[str, ...]:
        """Several values of the truth that stand for others of the prediction do so by their order alone."""
        truth, prediction = self.matching.truth, self.matching.prediction
        if prediction is None or len(truth) < 3 or tuple(truth) == tuple(prediction):
            return ()
        pairs = ", ".join(f"{one} is {other}" for one, other in zip(truth, prediction, strict=True))
        return (f"values of the truth are those of the prediction in their order: {pairs}; else save class ids",)

    def truth_ids(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Class ids (h, w) uint8 of a truth's pixels, IGNORE where they are not scored; `name` is the pair's."""
        return self.truth.tables[name].ids(pixels, self.matching.truth)

    def predicted_ids(self, codes: np.ndarray, name: str) -> np.ndarray:
        """Class ids (h, w) uint8 of what `Layer.codes` hands out; where the truth is ignored they mean nothing."""
        if self.prediction is None or self.matching.prediction is None:
            known = [(code, self.matching.predicted_id(code)) for code in range(int(codes.max()) + 1)]
            return np.array([number for _, number in known], np.uint8)[codes]
        return self.prediction.tables[name].ids(codes, self.matching.prediction)


def count_pairs(truth: np.ndarray, codes: np.ndarray, ignore: int | None) -> Counts:
    """Counts the pixels of a block by their values.

    Args:
        truth: (h, w) whole numbers, as float too.
        codes: (h, w) whole numbers.
        ignore: pixels of this value in the truth are not counted.
    """
    values, rows = _indices(truth)
    found, columns = _indices(codes)
    pairs = np.bincount((rows * found.size + columns).ravel(), minlength=values.size * found.size)
    return Counter(
        {
            (int(values[n // found.size]), int(found[n % found.size])): int(pairs[n])
            for n in np.flatnonzero(pairs)
            if values[n // found.size] != ignore
        }
    )


def match(counts: Counts, kind: Kind, truth_kind: Kind, names: Sequence[str] | None) -> Matching:
    """Decides what values mean, from all those that occur.

    Values are class ids where the file says so. Else those of the truth are grey values, one a class, or ids; those of
    the prediction are the truth's values, as many others in the same order, or ids.

    Args:
        counts: of all images.
        kind, truth_kind: of prediction and truth.
        names: of the classes, as the user names them.

    Raises:
        DataError: the values do not fit each other or the names.
    """
    truths, found = {value for value, _ in counts}, {code for _, code in counts}
    known = kind.classes or truth_kind.classes
    size = _class_count(truths, kind, truth_kind, names)
    own = [one.value for one in known or () if one.value is not None]
    pair = [(0, 255)] if size == 2 else []
    as_ids = tuple(range(size))
    scales = [as_ids] if truth_kind.ids else [tuple(own), tuple(sorted(truths)), as_ids, *pair, tuple(sorted(found))]
    truth = _scale(truths, size, scales)
    if truth is None:
        raise DataError(
            f"the truth holds the values {_list(truths)}, which are not {size} classes: name as many "
            "classes as there are values, or leave values out with --ignore VALUE"
        )
    prediction: tuple[int, ...] | None = None
    if not kind.by_threshold:
        fixed = bool(kind.ids or kind.channels)
        prediction = _scale(found, size, [as_ids] if fixed else [truth, tuple(sorted(found)), as_ids, *pair])
        if prediction is None:
            raise _mismatch(truths, found, size)
    return Matching(_classes(truth, known, names), truth, prediction)


def _class_count(truths: set[int], kind: Kind, truth_kind: Kind, names: Sequence[str] | None) -> int:
    """How many classes there are: as many as are named, as the files say, else as the truth has values."""
    if names is not None and len(set(names)) != len(names):
        raise DataError(f"classes {', '.join(names)}: expected different names")
    channels = max(kind.channels, 2) if kind.channels else None
    every = {
        "named": None if names is None else len(names),
        "in the prediction": channels if kind.classes is None else len(kind.classes),
        "in the truth": None if truth_kind.classes is None else len(truth_kind.classes),
    }
    sizes = {where: count for where, count in every.items() if count is not None}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{count} {where}" for where, count in sizes.items())
        raise DataError(f"the numbers of classes differ: {told}; compare those of the same classes")
    size = next(iter(sizes.values()), len(truths))
    if size < 2:
        raise DataError(
            f"the truth holds {_list(truths)}; two classes are the least: name all in their values' order, such as "
            "--classes membrane,inside"
        )
    return size


def _scale(values: set[int], size: int, candidates: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The first candidate that has as many values as there are classes and holds all that occur."""
    return next((c for c in candidates if len(set(c)) == len(c) == size and values <= set(c)), None)


def _mismatch(truths: set[int], found: set[int], size: int) -> DataError:
    most = max(size, len(found))
    return DataError(
        f"the prediction holds the values {_list(found)}, the truth {_list(truths)}, which is which cannot be told; "
        f"name all {most} classes in the order of their values, such as --classes membrane,inside, or save class ids; "
        "if they are ids of single objects, give --instances"
    )


def _classes(
    values: tuple[int, ...], known: Sequence[LabelClass] | None, names: Sequence[str] | None
) -> tuple[LabelClass, ...]:
    coloured = max(values) > LARGEST  # no grey value is
    if names is None:
        default = [f"#{value:06x}" if coloured else f"value {value}" for value in values]
        names = default if known is None else [one.name for one in known]
    colours = [one.colour for one in known] if known is not None else default_colours(len(values))
    if known is None and coloured:
        colours = [f"#{value:06x}" for value in values]
    return tuple(LabelClass(*one) for one in zip(names, colours, values, strict=True))


def _indices(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, ascending, and each pixel's place among them, int64."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        occurs = np.bincount(pixels.ravel()) > 0
        return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[pixels]
    values = distinct(pixels)
    return values, np.searchsorted(values, pixels)


def _list(values: set[int]) -> str:
    return ", ".join(map(str, sorted(values))) or "none"
