"""A data set in a table, for reading before the training starts."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import numpy as np

from tilesegment.training.data.checks import split_warnings
from tilesegment.training.data.sections import IGNORE, Dataset, Section, class_counts

_WIDTH = 100
_LABEL = 14  # columns of the words at the left
_LONGEST_NAME = 40


def summary(data: Dataset, held_out: Sequence[Section]) -> str:
    """What the data are, what is held out, and what is unusual about them: lines of at most 100 columns.

    Args:
        data: as read.
        held_out: of its sections; the others are trained on.
    """
    sections = data.sections
    files = len({section.stem for section in sections})
    pairs = f"{len(sections)} labelled images" + (f" from {files} files" if files < len(sections) else "")
    shapes = Counter(f"{s.image.shape[1]} x {s.image.shape[2]}" for s in sections)
    one_shape = len(shapes) == 1
    listed = ", ".join(shape if one_shape else f"{n} of {shape}" for shape, n in shapes.most_common(4))
    image = sections[0].image
    channels = f"{len(image)} channel" + "s" * (len(image) > 1)
    lines = [
        *_row("data", pairs),
        *_row("layout", data.layout),
        *_row("size (y x x)", listed + ", ..." * (len(shapes) > 4)),
        *_row("pixels", f"{channels} of {image.dtype}"),
    ]
    if data.pixel_size is not None:
        lines += _row("pixel size", f"{data.pixel_size.y:.4g} x {data.pixel_size.x:.4g} micrometres (y, x)")
    lines += _classes(data)
    names = [section.name for section in held_out]
    lines += _row("held out", f"{len(names)}: {', '.join(names)}" if names else "nothing, so there will be no score")
    held = {id(section) for section in held_out}
    train = [section for section in sections if id(section) not in held]
    for note in data.notes:
        lines += _row("note", note)
    for warning in (*data.warnings, *split_warnings(train, held_out)):
        lines += _row("warning", warning)
    return "\n".join(lines)


def _row(label: str, text: str) -> list[str]:
    """`text` beside `label`, wrapped."""
    indent = " " * _LABEL
    return textwrap.wrap(text, _WIDTH, initial_indent=label.ljust(_LABEL), subsequent_indent=indent)


def _classes(data: Dataset) -> list[str]:
    """A line a class, and one for what is not labelled."""
    coloured = all(one.value == int(one.colour[1:], 16) for one in data.classes)
    values = [one.colour if coloured else str(one.value) for one in data.classes]
    names = [one.name[:_LONGEST_NAME] + "..." * (len(one.name) > _LONGEST_NAME) for one in data.classes]
    head = ("id", "class", "colour" if coloured else "value", "share")
    shares = [f"{100 * share:.2f} %" for share in data.shares()]
    rows = [head, *zip(map(str, range(len(names))), names, values, shares, strict=True)]
    wide = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        " " * _LABEL
        + "  ".join((row[0].rjust(wide[0]), row[1].ljust(wide[1]), row[2].rjust(wide[2]), row[3].rjust(wide[3])))
        for row in rows
    ]
    lines[0] = "classes".ljust(_LABEL) + lines[0][_LABEL:]
    counts = sum((class_counts(section.label) for section in data.sections), np.zeros(IGNORE + 1, np.int64))
    if counts[IGNORE]:
        value = "" if data.ignore is None else f" (value {data.ignore})"
        lines += _row("not labelled", f"{100 * counts[IGNORE] / counts.sum():.2f} % of the pixels{value}")
    return lines
