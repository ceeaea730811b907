"""Labels of one kind among others: predicted masks, palettes and colours, read as the values of the others."""

from collections.abc import Callable, Iterable, Sequence

from tilesegment.errors import DataError
from tilesegment.labels.scanning import Scan
from tilesegment.metadata import default_colours

Meanings = dict[int, int]  # what a file stores: the value that all files share for it


def ids_of(one: Scan) -> Meanings:
    """What a predicted mask stores as ids of its classes; a colour that is none of theirs stays."""
    by_colour = {int(c.colour[1:], 16): number for number, c in enumerate(one.classes or ())}
    return {v: by_colour.get(v, v) if one.kind == "colour" else v for v in one.values.tolist()}


def fitted(
    kind: str, scans: Sequence[Scan], target: Sequence[int], ignore: int | None, coloured: bool, base: Sequence[Scan]
) -> tuple[dict[str, Meanings], list[str]]:
    """Labels of one kind among others: what they store as the values of these, and a sentence on it.

    Args:
        kind: "mask", "palette" or "colour".
        scans: the labels.
        target: the values of the others, ascending.
        ignore: the value that means "not labelled".
        coloured: the values of the others are colours.
        base: the others.

    Raises:
        DataError: it cannot be told.
    """
    tables: dict[str, Meanings] = {}
    notes: list[str] = []
    parts: dict[tuple[object, ...], list[Scan]] = {}
    for one in scans:
        parts.setdefault((one.classes, *one.colours.items()), []).append(one)
    for members in parts.values():
        own = {one.name: ids_of(one) for one in members}
        used = {value for table in own.values() for value in table.values()} - {ignore}
        scale = _scale(kind, members[0], used, target, coloured)
        if scale is None:
            kinds = sorted({base[0].name: _kind(base[0]), members[0].name: kind}.items())
            listed = ", ".join(f"{name} ({one})" for name, one in kinds)
            there, here = listed_values(target, coloured), listed_values(used, kind == "colour")
            raise DataError(
                f"the labels are of several kinds: {listed}; save all as grey values, or all in colours, as it cannot "
                f"be told which of {here} is which of {there}"
            )
        meanings = {value: scale(value) for value in used}
        tables |= {n: {s: v if v == ignore else meanings[v] for s, v in table.items()} for n, table in own.items()}
        if any(value != meaning for value, meaning in meanings.items()):
            told = ", ".join(
                f"{name_of(v, kind == 'colour')} is {name_of(m, coloured)}" for v, m in sorted(meanings.items())
            )
            count = f" and {len(members) - 1} more" if len(members) > 1 else ""
            notes.append(f"{members[0].name}{count} ({kind}) is read by the values of the other labels: {told}")
    return tables, notes


def _scale(
    kind: str,
    one: Scan,
    used: set[int],
    target: Sequence[int],
    coloured: bool,
) -> Callable[[int], int] | None:
    """What turns ids, indices or colours into the values of other labels; None if that cannot be told.

    Those of a mask are the values or colours of its classes, else the same ids, else by their order. Those of a palette
    are the same, else by their order, since programs that lose a mask's record keep its palette. Colours are those that
    classes have by default; of two classes black is the first.
    """
    wanted = set(target)
    candidates: list[Sequence[int]] = []
    if one.classes is not None:
        colours = [int(c.colour[1:], 16) for c in one.classes]
        values = [c.value for c in one.classes if c.value is not None]
        candidates = [*[colours] * coloured, *[values] * (len(values) == len(colours))]
        candidates += [range(len(colours)), *[target] * (len(target) == len(colours))]
    elif kind == "palette":
        drawn = [int(one.colours.get(n, "#000000")[1:], 16) for n in range(256)]
        candidates = [drawn] if coloured else [range(256), target]
    else:
        known = [int(colour[1:], 16) for colour in default_colours(len(target))]
        if len(set(known)) == len(known) and used <= set(known):
            return lambda colour: target[known.index(colour)]
        two = len(target) == 2 and len(used) == 2 and 0 in used
        return (lambda colour: target[int(colour > 0)]) if two else None
    for scale in candidates:
        if used and max(used) >= len(scale):
            continue
        found = {scale[value] for value in used}
        if found <= wanted or (wanted <= set(scale) and len(scale) < 256):
            return scale.__getitem__
    return None


def _kind(one: Scan) -> str:
    return "mask" if one.classes is not None else one.kind


def name_of(value: int, coloured: bool = False) -> str:
    """A value in a message: a number, or a colour."""
    return f"#{value:06x}" if coloured else str(value)


def listed_values(values: Iterable[int], coloured: bool = False) -> str:
    """Values in a message, ascending."""
    return ", ".join(name_of(value, coloured) for value in sorted(values)) or "none"
