"""Which value in label files means what: decided once for all files, whatever each of them writes for it.

Files of one data set rarely agree: 0 and 1 in some, 0 and 255 in others, a predicted mask with ids and a palette among
grey labels. Each file gets a table from what it stores to the values that all share. What cannot be told is asked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilesegment.errors import DataError
from tilesegment.labels.fitting import Meanings, fitted, ids_of, listed_values
from tilesegment.labels.scanning import MOST_CLASSES, Scan, look_like_objects, objects_error
from tilesegment.metadata import LabelClass

IGNORE = 255  # the class id of pixels without a label
_GREY_AS_COLOUR = 0x010101  # a grey value as red = green = blue
_LEAST_BESIDE_VOID = 3  # a void beside as many ids, from 0 on, means "not labelled"
_VOID = -(1 << 62)  # in a table: not labelled


@dataclass(frozen=True)
class Table:
    """What the values of one file mean.

    Attributes:
        stored: ascending, int64.
        values: what they mean, _VOID where that is "not labelled".
    """

    stored: np.ndarray
    values: np.ndarray

    @classmethod
    def of(cls, meanings: Meanings) -> "Table":
        """The table of `meanings`."""
        stored = sorted(meanings)
        return cls(np.array(stored, np.int64), np.array([meanings[one] for one in stored], np.int64))

    def ids(self, pixels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
        """Class ids (h, w) uint8 of pixels (h, w), IGNORE where not labelled; id n is the value classes[n]."""
        if not self.stored.size:
            return np.full(pixels.shape, IGNORE, np.uint8)
        numbers = {value: number for number, value in enumerate(classes)}
        ids = np.array([numbers.get(value, IGNORE) for value in self.values.tolist()], np.uint8)
        places = np.searchsorted(self.stored, pixels).clip(max=self.stored.size - 1)
        return np.where(self.stored[places] == pixels, ids[places], np.uint8(IGNORE))

    def value(self, stored: int) -> int | None:
        """What one stored value means; None if that is "not labelled"."""
        value = int(self.values[np.searchsorted(self.stored, stored)])
        return None if value == _VOID else value


@dataclass(frozen=True)
class Coding:
    """What the values in all files mean.

    Attributes:
        values: that occur, without the ignored one, ascending, int64.
        ignore: the value that means "not labelled", None if there is none.
        coloured: values are colours, red * 65536 + green * 256 + blue, and not grey values or indices.
        tables: of each file, by name.
        notes: what was decided, a sentence each.
    """

    values: np.ndarray
    ignore: int | None
    coloured: bool
    tables: Mapping[str, Table]
    notes: tuple[str, ...] = ()

    def ids(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Class ids (h, w) uint8, in the order of `values`, of what the file `name` stores; IGNORE: not labelled."""
        return self.tables[name].ids(pixels, self.values.tolist())


def decide(
    scans: Sequence[Scan],
    names: Sequence[str] | None = None,
    ignore: int | None = None,
    voc: bool = False,
    *,
    ask: bool = True,
) -> Coding:
    """The coding that all labels of a data set share.

    RGB labels whose channels are equal everywhere are grey. Predicted masks hold ids of classes whose values they
    tell; where they, or labels with a palette, lie among others, their ids are read as the values of these.
    255 means "not labelled" if `ignore` says so, in Pascal VOC, or beside 0, 1, 2, ...

    Args:
        scans: of the labels, at least one.
        names: of the classes; as many as there are values settles what would be asked otherwise.
        ignore: the value that means "not labelled".
        voc: the indices of palettes are values, as in Pascal VOC.
        ask: refuse what may be ids of objects, and see to what may mean "not labelled"; of predictions neither.

    Raises:
        DataError: labels of several kinds, too many values, or values that may mean one thing or another.
    """
    coloured = any((s.values % _GREY_AS_COLOUR).any() for s in scans if s.kind == "colour" and s.classes is None)
    groups = _groups(scans, voc, coloured)
    kind, base = next(iter(groups.items()))
    coloured = kind == "colour"
    _check_count(base, names, ask and not voc)
    factor = _GREY_AS_COLOUR if kind == "grey" else 1
    tables = {s.name: {v: v // (factor if s.kind == "colour" else 1) for v in s.values.tolist()} for s in base}
    notes: list[str] = []
    if kind == "mask":
        tables = {s.name: ids_of(s) for s in base}
    if not coloured:
        ignore = _certain_void(list(tables.values()), voc) if ask and ignore is None else ignore
        tables, notes = _on_one_scale(tables, names, ignore, ask)
        ignore = _asked_void(list(tables.values()), names) if ask and ignore is None and not voc else ignore
    target = sorted({value for table in tables.values() for value in table.values()} - {ignore})
    for other, members in list(groups.items())[1:]:
        more, said = fitted(other, members, target, ignore, coloured, base)
        tables |= more
        notes += said
    void = {ignore, _VOID}
    final = {name: {s: _VOID if v in void else v for s, v in table.items()} for name, table in tables.items()}
    values = sorted({value for table in final.values() for value in table.values()} - {_VOID})
    if len(values) > MOST_CLASSES:
        raise DataError(f"the labels hold {len(values)} values; allowed: {MOST_CLASSES} classes")
    by_name = {name: Table.of(table) for name, table in final.items()}
    return Coding(np.array(values, np.int64), ignore, coloured, by_name, tuple(notes))


def by_colours(coding: Coding, scans: Sequence[Scan], classes: Sequence[LabelClass]) -> Coding:
    """The same, but indices of palettes that hold the colours of `classes` in another order are ids of these.

    So are masks that another program has saved with a palette of its own.

    Args:
        coding: of labels whose values are ids.
        scans: of these labels.
        classes: whose ids they are.
    """
    ids = {one.colour: number for number, one in enumerate(classes)}
    tables, notes = dict(coding.tables), list(coding.notes)
    for one in scans:
        meanings = {v: ids.get(one.colours.get(v, "")) for v in one.values.tolist() if v != coding.ignore}
        found = {value: number for value, number in meanings.items() if number is not None}
        is_theirs = one.kind == "palette" and one.classes is None and len(meanings) == len({*found.values()})
        if is_theirs and any(value != number for value, number in found.items()):
            told = ", ".join(f"{value} is {number}" for value, number in found.items())
            notes.append(f"{one.name} (palette) is read by the colours of the classes: {told}")
            void = {value: _VOID for value in one.values.tolist() if value == coding.ignore}
            tables[one.name] = Table.of(found | void)
    values = sorted({v for table in tables.values() for v in table.values.tolist()} - {_VOID})
    return replace(coding, values=np.array(values, np.int64), tables=tables, notes=tuple(notes))


def _groups(scans: Sequence[Scan], voc: bool, coloured: bool) -> dict[str, list[Scan]]:
    """The labels by what their values are; the first group is the one that the others are fitted to."""
    groups: dict[str, list[Scan]] = {"grey": [], "colour": [], "mask": [], "palette": []}
    as_grey = {"grey": True, "palette": voc, "colour": not coloured}
    for one in scans:
        if one.classes is not None:
            groups["mask"].append(one)
        else:
            groups["grey" if as_grey[one.kind] else one.kind].append(one)
    return {kind: members for kind, members in groups.items() if members}


def _check_count(scans: Sequence[Scan], names: Sequence[str] | None, ask: bool) -> None:
    """Whether there are as few values as there may be classes, and they are no ids of objects."""
    values: set[int] = set()
    for one in scans:
        values.update(one.values.tolist())
    settled = names is not None and len(names) in (len(values), len(values) - 1)
    if ask and not settled and look_like_objects(scans):
        raise objects_error(
            "the labels", len(values), f", or, if they are classes, name all {len(values)} with --classes"
        )
    seen: set[int] = set()
    for one in scans:
        seen.update(one.values.tolist())
        if len(seen) > MOST_CLASSES + 1:
            raise DataError(f"the labels up to {one.name} hold {len(seen)} values; allowed: {MOST_CLASSES} classes")


def _on_one_scale(
    tables: Mapping[str, Meanings], names: Sequence[str] | None, ignore: int | None, ask: bool
) -> tuple[dict[str, Meanings], list[str]]:
    """Labels that write the same classes in several ways, such as 0, 1 and 0, 255: in one, if the names say so.

    Raises:
        DataError: they do not.
    """
    sets = {name: set(table.values()) - {ignore} for name, table in tables.items()}
    found = _two_scales(sets)
    if found is None:
        return dict(tables), []
    scale, places, examples = found
    every = set().union(*sets.values())
    told = " but ".join(f"{listed_values(sets[name])} in {name}" for name in examples)
    if names is not None and len(names) == len(scale):
        merged = {
            name: {stored: scale[places[name][v]] if v in places[name] else v for stored, v in table.items()}
            for name, table in tables.items()
        }
        return merged, [f"the labels hold {told}: read as the same {len(scale)} classes"]
    if not ask or (names is not None and len(names) == len(every)):
        return dict(tables), []
    most = max(every)
    raise DataError(
        f"the labels hold {told}, which may be the same {len(scale)} classes or {len(every)}: name the {len(scale)} "
        f"(or {len(every)}) classes with --classes, or give --ignore {most} if {most} means not labelled"
    )


def _two_scales(
    sets: Mapping[str, set[int]],
) -> tuple[list[int], dict[str, Meanings], tuple[str, str]] | None:
    """Whether files may write the same classes in several ways; None if not.

    So they do where each holds one value besides 0, but not the same, or where some hold ids 0, 1, ... and others as
    many grey values. Values that are all small are classes of which each file may hold a part.

    Args:
        sets: the values in each file, by name.

    Returns:
        The values of the classes in one way, the places in it of the values in each file, and two files that differ.
    """
    values = sorted(set().union(*sets.values()))
    if not values or values[-1] < MOST_CLASSES:
        return None
    inside = [value for value in values if value]
    if len(inside) > 1 and all(len(one - {0}) <= 1 for one in sets.values()):
        first, other = (next(n for n, one in sets.items() if value in one) for value in (inside[0], inside[-1]))
        return [0, inside[-1]], {name: {v: int(v > 0) for v in one} for name, one in sets.items()}, (first, other)
    high = {name: one for name, one in sets.items() if max(one, default=0) >= MOST_CLASSES}
    low = {name: one for name, one in sets.items() if name not in high}
    scale, ids = sorted(set().union(*high.values())), set().union(*low.values())
    if ids <= set(scale) or len(scale) < 2 or not ids <= set(range(len(scale))):
        return None
    examples = tuple(
        next(n for n, one in part.items() if one - both) for part, both in ((low, set(scale)), (high, ids))
    )
    places = {n: {v: v if n in low else scale.index(v) for v in one} for n, one in sets.items()}
    return scale, places, (examples[0], examples[1])


def _certain_void(tables: Sequence[Meanings], voc: bool) -> int | None:
    """255 where it surely means "not labelled": in Pascal VOC, or beside 0, 1, 2, ... and not only beside 0."""
    sets = [set(table.values()) for table in tables]
    ids = sorted(set().union(*sets) - {IGNORE})
    plain = len(ids) >= _LEAST_BESIDE_VOID and ids == list(range(len(ids)))
    holding = [one for one in sets if IGNORE in one]
    beside = any(one - {0, IGNORE} for one in holding) or {0, IGNORE} not in holding
    return IGNORE if holding and (voc or (plain and beside)) else None


def _asked_void(tables: Sequence[Meanings], names: Sequence[str] | None) -> int | None:
    """The one large value beside small ids, such as 255 beside 0 and 1, if the number of names says that it is void.

    Raises:
        DataError: nothing says what it means.
    """
    every = set().union(*(table.values() for table in tables))
    ids = {value for value in every if value < MOST_CLASSES}
    if len(ids) < 2 or len(every) != len(ids) + 1:
        return None
    void = max(every)
    if names is not None and len(names) in (len(ids), len(every)):
        return void if len(names) == len(ids) else None
    raise DataError(
        f"the labels hold {listed_values(every)}: whether {void} means not labelled or is a class cannot be told. Give "
        f"--ignore {void} if it means not labelled, or name all {len(every)} classes with --classes"
    )
