"""Which value in the label files is which class: decided once for a whole data set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilesegment.errors import DataError
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.training.data.labels import MOST_CLASSES, Kind, Scan
from tilesegment.training.data.sections import IGNORE

_GREY_AS_COLOUR = 0x010101  # a grey value as red = green = blue
_LEAST_BESIDE_IGNORE = 3  # 255 beside fewer classes is one itself, as in 0 and 255


@dataclass(frozen=True)
class Coding:
    """The classes of a data set: a bijection from values in the label files to ids 0, 1, ...

    Attributes:
        values: of the classes, ascending, int64; the id is the position.
        ignore: the value that means "not labelled", None if there is none.
        coloured: values are colours, red * 65536 + green * 256 + blue, and not grey values or indices.
    """

    values: np.ndarray
    ignore: int | None
    coloured: bool

    def stored_ignore(self, kind: Kind) -> int | None:
        """`ignore` as a label of `kind` hands it out."""
        return None if self.ignore is None else self.ignore * self._factor(kind)

    def ids(self, pixels: np.ndarray, kind: Kind) -> np.ndarray:
        """Class ids (H, W) uint8 of the values (H, W) that a label of `kind` hands out; IGNORE where not labelled."""
        ids = np.searchsorted(self.values * self._factor(kind), pixels).astype(np.uint8)
        ignore = self.stored_ignore(kind)
        if ignore is not None:
            ids[pixels == ignore] = IGNORE
        return ids

    def _factor(self, kind: Kind) -> int:
        return _GREY_AS_COLOUR if kind == "colour" and not self.coloured else 1


def decide(scans: Sequence[Scan], ignore: int | None, voc: bool) -> Coding:
    """The coding that all labels of a data set share.

    RGB labels whose channels are equal everywhere are grey. 255 means "not labelled" if `ignore` says so, in Pascal
    VOC, or beside 0, 1, 2, ...

    Raises:
        DataError: labels of several kinds, too many values, or too few.
    """
    coloured = any((s.values % _GREY_AS_COLOUR).any() for s in scans if s.kind == "colour")
    as_grey = {"grey": True, "palette": voc, "colour": not coloured}
    kinds = {"grey" if as_grey[s.kind] else s.kind: s.name for s in scans}
    if len(kinds) > 1:
        listed = ", ".join(f"{name} ({kind})" for kind, name in sorted(kinds.items()))
        raise DataError(f"the labels are of several kinds: {listed}; save all as grey values, or all in colours")
    values = np.zeros(0, np.int64)
    for one in scans:
        grey_rgb = one.kind == "colour" and not coloured
        values = np.union1d(values, one.values // _GREY_AS_COLOUR if grey_rgb else one.values)
        if values.size > MOST_CLASSES + 1:
            raise DataError(f"the labels up to {one.name} hold {values.size} values; allowed: {MOST_CLASSES} classes")
    if ignore is None and not coloured and (voc or _besides_ids(values)) and IGNORE in values:
        ignore = IGNORE
    values = values[values != ignore]
    if values.size < 2:
        besides = "" if ignore is None else f" besides {ignore}, which means not labelled"
        only = f"one value only, {values[0]}" if values.size else "no value"
        raise DataError(f"all labels hold {only}{besides}; at least two classes are needed")
    if values.size > MOST_CLASSES:
        raise DataError(f"the labels hold {values.size} values; allowed: {MOST_CLASSES} classes")
    return Coding(values, ignore, coloured)


def _besides_ids(values: np.ndarray) -> bool:
    """Whether the values, apart from 255, are 0, 1, 2, ..."""
    ids = values[values != IGNORE]
    return ids.size >= _LEAST_BESIDE_IGNORE and bool((ids == np.arange(ids.size)).all())


def classes_of(
    coding: Coding, scans: Sequence[Scan], names: Sequence[str] | None, known: Mapping[int, str]
) -> tuple[LabelClass, ...]:
    """Names and colours: those given, else those in the files, else "value 0", "#ff0000" and a palette.

    Args:
        coding: of the labels.
        scans: of the labels, with the names and colours that each of them tells.
        names: of all classes, in the order of their values.
        known: names by value that a file beside the labels tells.

    Raises:
        DataError: not as many different names as values, or files that contradict each other.
    """
    values = [int(value) for value in coding.values]
    told = _agreed("name", [(s.name, s.names, s.values) for s in scans]) | dict(known)
    drawn = _agreed("colour", [(s.name, s.colours, s.values) for s in scans])
    if coding.coloured:
        drawn = {value: f"#{value:06x}" for value in values}
    if names is None:
        default = "{colour}" if coding.coloured else "value {value}"
        names = [told.get(v, default.format(value=v, colour=drawn.get(v))) for v in values]
    if len(names) != len(values) or len(set(names)) != len(names):
        listed = ", ".join(drawn[v] if coding.coloured else str(v) for v in values)
        ignored = "" if coding.ignore is None else f" ({coding.ignore} means not labelled)"
        raise DataError(
            f"classes {', '.join(names)}: expected {len(values)} different names, for the label values "
            f"{listed}{ignored}"
        )
    colours = [drawn.get(v, plain) for v, plain in zip(values, default_colours(len(values)), strict=True)]
    if len(set(colours)) < len(colours):
        colours = list(default_colours(len(values)))
    return tuple(LabelClass(n, c, v) for n, c, v in zip(names, colours, values, strict=True))


def _agreed(what: str, told: Sequence[tuple[str, Mapping[int, str], np.ndarray]]) -> dict[int, str]:
    """What files (name, meanings by value, values that they hold) say of the values that they hold."""
    first: dict[int, tuple[str, str]] = {}
    for file, meanings, values in told:
        for value in values.tolist():
            if value in meanings:
                meaning, other = first.setdefault(value, (meanings[value], file))
                if meaning != meanings[value]:
                    raise DataError(
                        f"label value {value} has the {what} {meaning} in {other} and {meanings[value]} in {file}; "
                        "give all labels the same palette or classes, or save them as RGB"
                    )
    return {value: meaning for value, (meaning, _) in first.items()}
