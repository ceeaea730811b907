"""Decide what the values in label files mean, once for all files of a data set.

Files of one data set rarely agree: 0 and 1 in some, 0 and 255 in others, a predicted mask with ids and a palette among
grey labels. Each file gets a table from stored values to shared values. Ambiguous values are an error that asks the
user.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilesegment.errors import DataError
from tilesegment.labels.scanning import MOST_CLASSES, Scan, look_like_objects, objects_error
from tilesegment.metadata import LabelClass, default_colours

IGNORE = 255  # the class id of pixels without a label
_GREY = 0x010101  # times a grey value: the colour red = green = blue
_LEAST_BESIDE_VOID = 3  # beside at least this many ids 0, 1, 2, ..., 255 means "not labelled"

Table = dict[int, int]  # meaning by stored value


@dataclass(frozen=True)
class Coding:
    """The meaning of the values in all files of a data set."""

    values: tuple[int, ...]  # of the classes; a class id is a position among them
    kind: str  # "grey", "colour" (red * 65536 + green * 256 + blue), "mask" (predicted ids) or "palette" (indices)
    tables: Mapping[str, Mapping[int, int | None]]  # by file: value, or None for "not labelled", by stored value
    ignore: int | None = None  # the value that means "not labelled"
    notes: tuple[str, ...] = ()  # what was decided, one sentence each

    @property
    def coloured(self) -> bool:
        """Whether values are colours."""
        return self.kind == "colour"

    def ids(self, pixels: np.ndarray, name: str) -> np.ndarray:
        """Return the class ids (h, w) uint8 of stored values (h, w) of the file `name`, IGNORE where not labelled."""
        if not self.tables[name]:
            return np.full(pixels.shape, IGNORE, np.uint8)
        numbers: dict[int | None, int] = {value: number for number, value in enumerate(self.values)}
        entries = [(stored, numbers.get(value, IGNORE)) for stored, value in self.tables[name].items()]
        stored, ids = np.array(sorted(entries)).T
        places = np.searchsorted(stored, pixels).clip(max=stored.size - 1)
        return np.where(stored[places] == pixels, ids.astype(np.uint8)[places], np.uint8(IGNORE))


def decide(
    scans: Sequence[Scan],
    names: Sequence[str] | None = None,
    ignore: int | None = None,
    voc: bool = False,
    *,
    certain: bool = False,
) -> Coding:
    """Decide what the values of the labels of a data set mean.

    RGB labels whose channels are equal everywhere are grey. The ids of predicted masks, or of labels with a palette,
    among other labels are read as the values of these. 255 means "not labelled" if `ignore` says so, in Pascal VOC, or
    beside 0, 1, 2, ...

    Args:
        scans: of the labels, at least one.
        names: class names; if there is one per value, they settle ambiguous values.
        ignore: the value that means "not labelled".
        voc: palette indices are values, as in Pascal VOC.
        certain: the values are classes, even if they look like ids of objects.

    Raises:
        ObjectsError: ids of objects.
        DataError: labels of several kinds, too many values, or ambiguous values.
    """
    groups = by_kind(scans, voc)
    kind, base = next(iter(groups.items()))
    used = set().union(*(one.values for one in base))
    settled = voc or (names is not None and len(names) in (len(used), len(used) - 1))
    if not (settled or certain) and look_like_objects(base):
        name_all = f"{base[0].otherwise}; or, if they are classes, name all {len(used)} with --classes"
        raise objects_error("the labels hold", len(used), name_all)
    _check_count(len(used) - 1)  # one of them may mean "not labelled"
    tables, notes = {one.name: own_values(one, kind) for one in base}, list[str]()
    if kind != "colour":
        ignore = _certain_void(tables, voc) if ignore is None else ignore
        tables, ignore, told = _settled(tables, names, ignore, ask_void=ignore is None and not voc)
        notes += told
    target = sorted({value for table in tables.values() for value in table.values()} - {ignore})
    for other in [other for other in groups if other != kind]:
        fitted, told = _fitted(other, groups[other], target, ignore, (kind, base))
        tables, notes = tables | fitted, notes + told
    final = {name: {s: None if v == ignore else v for s, v in table.items()} for name, table in tables.items()}
    values = sorted({value for table in final.values() for value in table.values() if value is not None})
    _check_count(len(values))
    return Coding(tuple(values), kind, final, ignore, tuple(notes))


def _check_count(count: int) -> None:
    if count > MOST_CLASSES:
        raise DataError(f"the labels hold more than {MOST_CLASSES} values; allowed: {MOST_CLASSES} classes")


def by_kind(scans: Sequence[Scan], voc: bool = False) -> dict[str, list[Scan]]:
    """Group the labels by the kind of their values; other kinds are fitted to the first."""
    coloured = any(v % _GREY for s in scans if s.kind == "colour" and s.classes is None for v in s.values)
    as_grey = {"grey": True, "palette": voc, "colour": not coloured}
    groups: dict[str, list[Scan]] = {"grey": [], "colour": [], "mask": [], "palette": []}
    for one in scans:
        groups["mask" if one.classes is not None else "grey" if as_grey[one.kind] else one.kind].append(one)
    return {kind: members for kind, members in groups.items() if members}


def own_values(one: Scan, kind: str) -> Table:
    """Map what a file stores to values of its kind: grey values, class ids of a mask (by colour if changed), ..."""
    if kind == "mask" and one.kind != "grey":
        colours = [c.colour for c in one.classes or ()]
        drawn = one.colours if one.kind == "palette" else {value: f"#{value:06x}" for value in one.values}
        if one.kind == "colour" or [drawn.get(number) for number in range(len(colours))] != colours:
            return {v: colours.index(drawn[v]) if drawn.get(v) in colours else v for v in one.values}
    return {v: v // _GREY if kind == "grey" and one.kind == "colour" else v for v in one.values}


def _settled(
    tables: dict[str, Table], names: Sequence[str] | None, ignore: int | None, *, ask_void: bool
) -> tuple[dict[str, Table], int | None, list[str]]:
    """Resolve ambiguous values by the number of names: return tables on one scale, the ignored value, and notes.

    Files may write the same classes on several scales, such as 0, 1 and 0, 255; and one large value beside small ids,
    such as 255 beside 0 and 1, may mean "not labelled".
    """
    sets = {name: set(table.values()) - {ignore} for name, table in tables.items()}
    every = set().union(*sets.values())
    count, most = (0 if names is None else len(names)), max(every, default=0)
    scales = _two_scales(sets)
    ids = {value for value in every if value < MOST_CLASSES}
    void = ask_void and len(ids) >= 2 and len(every) == len(ids) + 1
    if count == len(every) or not (scales or void):
        return tables, ignore, []
    if scales:
        scale, places, examples = scales
        told = " but ".join(f"{listed(sets[name])} in {name}" for name in examples)
        if count == len(scale):
            merged = {
                n: {s: v if v == ignore else places[n].get(v, v) for s, v in t.items()} for n, t in tables.items()
            }
            return merged, ignore, [f"the labels hold {told}: read as the same {count} classes"]
        raise DataError(
            f"the labels hold {told}, which may be the same {len(scale)} classes or {len(every)}: name them "
            f"with --classes, or give --ignore {most} if {most} means not labelled"
        )
    if count == len(ids):
        return tables, most, []
    raise DataError(
        f"the labels hold {listed(every)}: it is unclear whether {most} means not labelled or is a class. Give "
        f"--ignore {most} if it means not labelled, or name all {len(every)} classes with --classes"
    )


def _two_scales(sets: Mapping[str, set[int]]) -> tuple[list[int], dict[str, Table], tuple[str, str]] | None:
    """If files may write the same classes on several scales: the values, a table per file, and two example files.

    That is possible if each file holds one value besides 0, but not the same one, or if some hold ids 0, 1, ... and
    others as many grey values. Small values are classes of which each file may hold some.
    """
    values = sorted(set().union(*sets.values()))
    if not values or values[-1] < MOST_CLASSES:
        return None
    inside = [value for value in values if value]
    if len(inside) > 1 and all(len(one - {0}) <= 1 for one in sets.values()):
        first, other = (next(n for n, one in sets.items() if value in one) for value in (inside[0], inside[-1]))
        return [0, inside[-1]], {n: dict.fromkeys(one - {0}, inside[-1]) for n, one in sets.items()}, (first, other)
    high = {name: one for name, one in sets.items() if max(one, default=0) >= MOST_CLASSES}
    low = {name: one for name, one in sets.items() if name not in high}
    scale, ids = sorted(set().union(*high.values())), set().union(*low.values())
    if ids <= set(scale) or len(scale) < 2 or not ids <= set(range(len(scale))):
        return None
    first = next(name for name, one in low.items() if one - set(scale))
    other = next(name for name, one in high.items() if one - ids)
    return scale, {n: dict(enumerate(scale)) if n in low else {} for n in sets}, (first, other)


def _certain_void(tables: Mapping[str, Table], voc: bool) -> int | None:
    """255 if it certainly means "not labelled": in Pascal VOC, or beside 0, 1, 2, ... and not only beside 0."""
    sets = [set(table.values()) for table in tables.values()]
    ids = sorted(set().union(*sets) - {IGNORE})
    plain = len(ids) >= _LEAST_BESIDE_VOID and ids == list(range(len(ids)))
    holding = [one for one in sets if IGNORE in one]
    beside = any(one - {0, IGNORE} for one in holding) or {0, IGNORE} not in holding
    return IGNORE if holding and (voc or (plain and beside)) else None


def _fitted(
    kind: str,
    scans: Sequence[Scan],
    target: Sequence[int],
    ignore: int | None,
    base: tuple[str, Sequence[Scan]],
) -> tuple[dict[str, Table], list[str]]:
    """Map labels of one kind to the values `target` of `base` (a kind and its labels), with notes."""
    tables: dict[str, Table] = {}
    notes: list[str] = []
    parts: dict[tuple[object, ...], list[Scan]] = {}
    for one in scans:
        parts.setdefault(one.classes or (*one.colours.items(),), []).append(one)
    own = {one.name: own_values(one, kind) for one in scans}
    coloured, first = base[0] == "colour", base[1][0].name
    for members in parts.values():
        used = {value for one in members for value in own[one.name].values()} - {ignore}
        found = meanings(kind, members[0], used, target, default_colours(len(target)), coloured=coloured)
        if found is None:
            kinds = sorted({first: base[0], members[0].name: kind}.items())
            raise DataError(
                f"the labels are of several kinds: {', '.join(f'{name} ({one})' for name, one in kinds)}; save all as "
                "grey values, or all in colours, as it is unclear which of "
                f"{listed(used, kind == 'colour')} means which of {listed(target, coloured)}"
            )
        for one in members:
            tables[one.name] = {s: v if v == ignore else found[v] for s, v in own[one.name].items()}
        if any(value != found[value] for value in used):
            more = f" and {len(members) - 1} more" if len(members) > 1 else ""
            told = told_values({value: found[value] for value in used}, kind == "colour", coloured)
            notes.append(f"{members[0].name}{more} ({kind}) is read by the values of the other labels: {told}")
    return tables, notes


def meanings(
    kind: str,
    one: Scan,
    used: set[int],
    target: Sequence[int],
    colours: Sequence[str],
    *,
    coloured: bool,
    ordered: bool = False,
) -> Table | None:
    """Map `used` values of one kind to the values `target` of other labels, drawn in `colours`; None if unclear.

    The ids of a mask mean the values or colours of its classes, else the same ids, else positions among the values; so
    do palette indices, since programs that lose a mask's record keep its palette. Colours are those of the classes; of
    two classes black is the first. If `ordered`, as many values may stand for the target values in order.
    """
    size, candidates = len(target), list[Table]()
    ids, in_order = dict(enumerate(target)), dict(zip(sorted(used), target, strict=False))
    if kind == "mask":
        classes = one.classes or ()
        if coloured:
            candidates.append({number: int(c.colour[1:], 16) for number, c in enumerate(classes)})
        if all(c.value is not None for c in classes):
            candidates.append({number: c.value for number, c in enumerate(classes) if c.value is not None})
        candidates += [{number: number for number in range(len(classes))}]
        if len(classes) == size:
            candidates.append(ids)
    elif kind == "colour":
        by_colour = {int(colour[1:], 16): value for colour, value in zip(colours, target, strict=True)}
        candidates += [by_colour] if len(by_colour) == size else []
        candidates += [in_order] if len(used) == size and (ordered or (size == 2 and 0 in used)) else []
    else:
        drawn = {value: int(colour[1:], 16) for value, colour in one.colours.items()}
        candidates.append(drawn if coloured and kind == "palette" else {value: value for value in target})
        if ordered and len(used) == size:
            candidates.append(in_order)
        if ordered or not coloured:
            candidates.append(ids)
        if ordered and size == 2:
            candidates.append({0: target[0], 255: target[1]})
    for candidate in candidates:
        found = {candidate.get(value) for value in used}
        # a mask may have classes that the other labels lack
        if found <= set(target) or (kind == "mask" and None not in found and set(target) <= set(candidate.values())):
            return candidate
    return None


def classes_of(
    coding: Coding,
    scans: Sequence[Scan],
    names: Sequence[str] | None,
    told: Mapping[int, str] | None = None,
    *,
    strict: bool = True,
) -> tuple[LabelClass, ...]:
    """Name and colour the classes: as given, else as in the files, else "value 0" (or "#ff0000") and a palette.

    Args:
        coding: of the labels.
        scans: of the labels.
        names: of all classes, in the order of their values.
        told: names by value from a file beside the labels.
        strict: refuse files that contradict each other; else the first file wins.

    Raises:
        DataError: fewer than two values, not as many different names as values, or files that contradict each other.
    """
    values = coding.values
    if len(values) < 2:
        besides = "" if coding.ignore is None else f" besides {coding.ignore}, which means not labelled"
        only = f"one value only, {values[0]}" if values else "no value"
        raise DataError(f"all labels hold {only}{besides}; at least two classes are needed")
    drawn = {v: f"#{v:06x}" for v in values} if coding.coloured else _agreed("colour", coding, scans, strict)
    if names is None:
        known = _agreed("name", coding, scans, strict) | dict(told or {})
        names = [known.get(v, drawn[v] if coding.coloured else f"value {v}") for v in values]
    if len(names) != len(values) or len(set(names)) != len(names):
        ignored = "" if coding.ignore is None else f" ({coding.ignore} means not labelled)"
        raise DataError(
            f"classes {', '.join(names)}: expected {len(values)} different names, for the label values "
            f"{listed(values, coding.coloured)}{ignored}"
        )
    colours = [drawn.get(v, plain) for v, plain in zip(values, default_colours(len(values)), strict=True)]
    if len(set(colours)) < len(colours):
        colours = list(default_colours(len(values)))
    return tuple(LabelClass(n, c, v) for n, c, v in zip(names, colours, values, strict=True))


def _agreed(what: str, coding: Coding, scans: Sequence[Scan], strict: bool) -> dict[int, str]:
    """The names or colours of values in the files."""
    first: dict[int, tuple[str, str]] = {}
    for one in scans:
        told: Mapping[int, str] = one.names if what == "name" else one.colours
        if one.classes is not None:
            parts = [c.name if what == "name" else c.colour for c in one.classes]
            told = {s: parts[n] for s, n in own_values(one, "mask").items() if 0 <= n < len(parts)}
        for stored, text in told.items():
            value = coding.tables[one.name].get(stored)
            if value is None:
                continue
            meaning, other = first.setdefault(value, (text, one.name))
            if strict and meaning != text:
                raise DataError(
                    f"label value {value} has the {what} {meaning} in {other} and {text} in {one.name}; "
                    "give all labels the same palette or classes, or save them as RGB"
                )
    return {value: text for value, (text, _) in first.items()}


def listed(values: Iterable[int], coloured: bool = False) -> str:
    """Format values for a message, ascending."""
    return ", ".join(f"#{v:06x}" if coloured else str(v) for v in sorted(values)) or "none"


def told_values(found: Table, coloured: bool, by_colour: bool) -> str:
    """Format the meaning of values for a message."""
    return ", ".join(f"{listed([v], coloured)} is {listed([m], by_colour)}" for v, m in sorted(found.items()))
