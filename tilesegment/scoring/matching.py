"""Match the values in predictions and truths with classes.

Files rarely agree: 0 and 1 in one, 0 and 255 in the other. Therefore pixels are first counted by pairs of stored
values, over all images. Then all values that occur get their meaning at once: in the truths by `tilesegment.labels`, in
the predictions by comparison with the truth.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilesegment.errors import DataError
from tilesegment.labels.coding import Coding, by_kind, classes_of, decide, listed, meanings, own_values, told_values
from tilesegment.labels.files import first_notes, some_of
from tilesegment.labels.label import OBJECT_NAMES, LabelOptions
from tilesegment.labels.scanning import Scan, distinct
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.scoring.inputs import Pair
from tilesegment.scoring.membranes import THRESHOLDS

HALF = THRESHOLDS.index(0.5)

Counts = Counter[tuple[int, int]]  # pixels by (what the truth stores, what the prediction stores)


@dataclass(frozen=True)
class Plane:
    """One plane of one pair, counted."""

    name: str
    pair: Pair
    z: int
    shape: tuple[int, int]
    counts: Counts


@dataclass(frozen=True)
class Counted:
    """The values in all files."""

    planes: list[Plane]
    truths: list[Scan]  # the values of each file, by the pairs' names
    predictions: list[Scan]  # none where there are probabilities
    channels: int  # of probabilities, 0 for labels
    likely: tuple[LabelClass, ...] | None  # the classes of probabilities, if known
    notes: tuple[str, ...]  # on how files are read, one sentence each

    def scored(self, truth: Coding) -> list[Scan]:
        """Return the predictions with their values where the truth is labelled."""
        found: dict[str, set[int]] = {one.name: set() for one in self.predictions}
        for plane in self.planes if found else ():
            name = plane.pair.name
            found[name].update(code for value, code in plane.counts if truth.tables[name][value] is not None)
        return [replace(one, values=found[one.name]) for one in self.predictions]


@dataclass(frozen=True)
class Matching:
    """The meaning of stored values."""

    classes: tuple[LabelClass, ...]
    truth: Coding  # of the truths, by the pairs' names; its values are those of the classes
    prediction: Coding | None  # of the predictions as values of the truth; None for probabilities
    channels: int  # of probabilities, see `inputs`
    notes: tuple[str, ...]  # what was decided, one sentence each

    @property
    def by_threshold(self) -> bool:
        """Whether a threshold on the probability of class 1 decides."""
        return self.channels in (1, 2)

    def predicted_ids(self, codes: np.ndarray, name: str, threshold: int = HALF) -> np.ndarray:
        """Return the class ids (h, w) uint8 of stored values or codes (h, w) of `name`; `threshold` is an index."""
        if self.prediction is not None:
            return self.prediction.ids(codes, name)
        return (codes > threshold).astype(np.uint8) if self.by_threshold else codes

    def confusion(self, plane: Plane, threshold: int = HALF) -> np.ndarray:
        """Return the confusion matrix (K, K) int64 of a plane, with the truth in rows."""
        matrix = np.zeros((len(self.classes) + 1,) * 2, np.int64)  # the last row and column are void
        true, codes = np.array([*plane.counts], np.int64).reshape(-1, 2).T
        rows = self.truth.ids(true, plane.pair.name).clip(max=len(self.classes))
        columns = self.predicted_ids(codes, plane.pair.name, threshold).clip(max=len(self.classes))
        np.add.at(matrix, (rows, columns), np.fromiter(plane.counts.values(), np.int64))
        return matrix[:-1, :-1]

    def predicted_value(self, number: int) -> int | None:
        """Return the value of a class in the first prediction that has one."""
        if self.prediction is None:
            return None if self.by_threshold else number
        tables = self.prediction.tables.values()
        found = (s for table in tables for s, value in table.items() if value == self.truth.values[number])
        return next(found, None)


def count_pairs(truth: np.ndarray, codes: np.ndarray, ignore: int | None) -> Counts:
    """Count the pixels of a block by the values (h, w) in both files, except where the truth is `ignore`."""
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


def _indices(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The values that occur, ascending, and each pixel's index among them, int64."""
    if pixels.dtype.kind == "u" and pixels.dtype.itemsize <= 2:
        occurs = np.bincount(pixels.ravel()) > 0
        return np.flatnonzero(occurs), (np.cumsum(occurs) - 1)[pixels]
    values = distinct(pixels)
    return values, np.searchsorted(values, pixels)


def match(counted: Counted, names: Sequence[str] | None, options: LabelOptions) -> Matching:
    """Decide what values mean from all values that occur.

    Values of predicted masks are class ids. Else the truth has grey values or colours, one per class, or ids; the
    prediction has the truth's values, as many others in the same order, or ids.

    Args:
        counted: the values in the files.
        names: class names that the user gives.
        options: how the files were opened.

    Raises:
        DataError: all pixels are ignored, or the values do not fit each other or the names.
    """
    likely = counted.likely if counted.channels else _classes_in(counted.predictions)
    if names is None and likely is None and options.instances:
        names = OBJECT_NAMES
    if names is not None and len(set(names)) != len(names):
        raise DataError(f"classes {', '.join(names)}: expected different names")
    # the classes of the prediction settle ambiguous values
    given = names or (None if likely is None else [one.name for one in likely])
    truths = [_by_colours(one, likely or ()) for one in counted.truths]
    truth = decide(truths, given, options.void)
    if not truth.values:
        raise DataError(
            f"all pixels of the truth have the ignored value {options.ignore}; leave out --ignore, or name another"
        )
    true = _classes_in(truths)
    known = likely or true
    sizes = {
        "named": names,
        "in the prediction": likely or range(max(counted.channels, 2) if counted.channels else 0),
        "in the truth": true if truth.kind == "mask" else None,
    }
    size = _class_count(truth, {where: len(one) for where, one in sizes.items() if one})
    known = known if known is not None and len(known) == size else None
    predictions = counted.scored(truth)
    own = [tuple(one.value for one in known or () if one.value is not None)]
    if truth.coloured and (known or names is None):
        drawn = [one.colour for one in known] if known else default_colours(size)
        own.append(tuple(int(colour[1:], 16) for colour in drawn))
    found = {value for one in predictions for value in one.values}
    truth = replace(truth, values=_scale(truth, size, [*own, truth.values], found))
    classes = _classes(truth, truths, known, names)
    told = names is not None or truth.values in own or (size == 2 and 0 in truth.values)
    if truth.coloured and not told and (counted.channels or {"mask", "grey"} & {*by_kind(predictions)}):
        raise DataError(
            f"the truth holds the colours {listed(truth.values, True)}, the prediction none, so that it is unclear "
            "which class has which colour; save the truth as class ids, or name the classes with --classes in the "
            "order of these colours"
        )
    prediction = None if counted.channels else _fit(predictions, truth, classes, named=names is not None)
    turned = [
        one.name for one in truths if one.kind == "palette" and any(v != m for v, m in own_values(one, "mask").items())
    ]
    notes = [f"{some_of(turned)} (palette): read by the colours of the classes"] * bool(turned)
    notes += (*truth.notes, *(() if prediction is None else prediction.notes))
    notes += [] if truth.ignore is None else [f"the value {truth.ignore} in the truth is not counted"]
    return Matching(classes, truth, prediction, counted.channels, tuple(notes))


def _classes(
    truth: Coding, truths: Sequence[Scan], known: Sequence[LabelClass] | None, names: Sequence[str] | None
) -> tuple[LabelClass, ...]:
    """Name and colour the classes: by the user or the masks, else by the truth's files."""
    if known is None:
        return classes_of(truth, truths, names, strict=False)
    values = zip(known, names or [one.name for one in known], truth.values, strict=True)
    return tuple(LabelClass(name, one.colour, value) for one, name, value in values)


def _by_colours(one: Scan, classes: tuple[LabelClass, ...]) -> Scan:
    """Treat a palette with the colours of `classes` as a mask that another program reordered; else change nothing."""
    used = {one.colours.get(value) for value in one.values - {one.ignore}}
    is_mask = (
        one.kind == "palette" and used <= {c.colour for c in classes} and len(used) == len(one.values - {one.ignore})
    )
    return replace(one, classes=classes) if is_mask and one.classes is None else one


def _classes_in(scans: Sequence[Scan]) -> tuple[LabelClass, ...] | None:
    """The classes of the predicted masks among labels; None if there is no mask."""
    found = {one.classes: one.name for one in scans if one.classes is not None}
    if len(found) > 1:
        raise DataError(f"{' and '.join(found.values())} hold different classes; compare those of one kind at a time")
    return next(iter(found), None)


def _class_count(truth: Coding, sizes: Mapping[str, int]) -> int:
    """The number of classes: as named, else as the files say, else the number of the truth's values."""
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{count} {where}" for where, count in sizes.items())
        raise DataError(f"the numbers of classes differ: {told}; compare those of the same classes")
    size = next(iter(sizes.values()), len(truth.values))
    if size < 2:
        raise DataError(
            f"the truth holds {listed(truth.values, truth.coloured)}; at least two classes are needed: name all in the "
            "order of their values, such as --classes membrane,inside"
        )
    return size


def _scale(truth: Coding, size: int, likely: list[tuple[int, ...]], predicted: set[int]) -> tuple[int, ...]:
    """The value of each class in the truth, even if it does not occur."""
    ids = tuple(range(size))
    scales = [*likely, ids, *[(0, 255)] * (size == 2), tuple(sorted(predicted))]
    for scale in [ids] if truth.kind == "mask" else scales:
        if len(set(scale)) == len(scale) == size and set(truth.values) <= set(scale):
            return scale
    raise DataError(
        f"the truth holds the values {listed(truth.values, truth.coloured)}, which are not {size} classes: name as "
        "many classes as there are values, or leave values out with --ignore VALUE"
    )


def _fit(predictions: Sequence[Scan], truth: Coding, classes: Sequence[LabelClass], *, named: bool) -> Coding:
    """Map the values of predictions to those of the truth.

    Raises:
        DataError: they are ambiguous.
    """
    tables: dict[str, Mapping[int, int | None]] = {}
    notes: list[str] = []

    def meant(kind: str, one: Scan, used: set[int], *, ordered: bool) -> dict[int, int] | None:
        if kind == "mask":
            found = dict(enumerate(truth.values))
            return found if used <= found.keys() else None
        colours = [c.colour for c in classes]
        return meanings(kind, one, used, truth.values, colours, coloured=truth.coloured, ordered=ordered)

    for kind, scans in by_kind(predictions).items():
        own = {one.name: own_values(one, kind) for one in scans}
        every, coloured = {value for table in own.values() for value in table.values()}, kind == "colour"
        # each file has its own palette
        joint = (
            None
            if kind == "palette" and truth.coloured
            else meant(kind, scans[0], every, ordered=named or not coloured)
        )
        for one in scans:
            used = set(own[one.name].values())
            # files on several scales, such as 0, 1 and 0, 255, are read one by one
            found = joint or meant(kind, one, used, ordered=used <= {0, 255} or (named and kind == "palette"))
            if found is None:
                raise DataError(
                    f"the prediction holds the values {listed(every, coloured)}, the truth "
                    f"{listed(truth.values, truth.coloured)}, and it is unclear which is which; name all "
                    f"{max(len(every), len(classes))} classes in the order of their values, such as --classes "
                    "membrane,inside, or save class ids; if they are ids of single objects, give --instances"
                )
            tables[one.name] = found | {stored: found[value] for stored, value in own[one.name].items()}
            if (len(classes) > 2 or truth.coloured or coloured) and any(value != found[value] for value in used):
                told = told_values({value: found[value] for value in used}, coloured, truth.coloured)
                notes.append(f"values of the prediction of {one.name} are read as those of the truth: {told}")
    return Coding(truth.values, "prediction", tables, notes=first_notes(notes))
