"""Names and colours of the classes, from what the user and the files tell."""

from collections.abc import Mapping, Sequence

from tilesegment.errors import DataError
from tilesegment.labels.coding import Coding
from tilesegment.labels.fitting import ids_of
from tilesegment.labels.scanning import Scan
from tilesegment.metadata import LabelClass, default_colours


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
        DataError: fewer than two values, not as many different names as values, or files that contradict each other.
    """
    values = [int(value) for value in coding.values]
    if len(values) < 2:
        besides = "" if coding.ignore is None else f" besides {coding.ignore}, which means not labelled"
        only = f"one value only, {values[0]}" if values else "no value"
        raise DataError(f"all labels hold {only}{besides}; at least two classes are needed")
    told = (_agreed("name", coding, scans) if names is None else {}) | dict(known)
    drawn = _agreed("colour", coding, scans)
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


def _agreed(what: str, coding: Coding, scans: Sequence[Scan]) -> dict[int, str]:
    """The names or colours that files tell of the values that they hold."""
    first: dict[int, tuple[str, str]] = {}
    for one in scans:
        for stored in one.values.tolist():
            value, told = coding.tables[one.name].value(stored), _told(what, one).get(stored)
            if value is None or told is None:
                continue
            meaning, other = first.setdefault(value, (told, one.name))
            if meaning != told:
                raise DataError(
                    f"label value {value} has the {what} {meaning} in {other} and {told} in {one.name}; "
                    "give all labels the same palette or classes, or save them as RGB"
                )
    return {value: meaning for value, (meaning, _) in first.items()}


def _told(what: str, one: Scan) -> Mapping[int, str]:
    """The names or colours that a file tells, by what it stores."""
    if one.classes is None:
        return one.names if what == "name" else one.colours
    told = {number: c.name if what == "name" else c.colour for number, c in enumerate(one.classes)}
    return {stored: told[number] for stored, number in ids_of(one).items() if number in told}
