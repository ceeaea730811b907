"""Describe a data set before training: a table of it, and warnings of what makes training or scores worthless."""

import textwrap
from collections import Counter
from collections.abc import Sequence

import numpy as np
from PIL import Image

from tilesegment.labels.coding import IGNORE
from tilesegment.labels.files import some_of
from tilesegment.training.data.pixel_sizes import size_words
from tilesegment.training.data.sections import Dataset, Section, class_counts, total_counts
from tilesegment.training.data.sizes import ObjectNumbers
from tilesegment.training.data.sparse_data import SparseDataset, number_of

_RARE = 0.001  # below this share of the labelled pixels a class is hardly learnt
# Correlations of images reduced to 32 x 32, and of the detail that 128 x 128 adds. Neighbours in the stacks of ISBI
# 2012 and of a ventral nerve cord (50 nm apart) reach 0.77 and 0.44, a JPEG or brighter copy of one 0.999 and 0.99.
# The detail distinguishes copies from images that only share their shading.
_SIDES = (32, 128)
_ALIKE, _DETAIL_ALIKE = 0.99, 0.9
_WIDTH = 100
_LABEL = 14  # columns of the words at the left
_LONGEST_NAME = 40


def label_warnings(data: Dataset, unlabelled: Sequence[str]) -> tuple[str, ...]:
    """Warn of unusual labels; `unlabelled` names images without a labelled pixel, which `data` lacks."""
    found = []
    if unlabelled:
        found.append(f"{some_of(unlabelled)}: no pixel is labelled, left out")
    uniform = [s.name for s in data.sections if np.count_nonzero(class_counts(s.label)[:IGNORE]) == 1]
    if uniform and not (data.instances or isinstance(data, SparseDataset)):
        found.append(f"{some_of(uniform)}: the label is wholly one class; remove it if it was never drawn")
    for one, share in zip(data.classes, data.shares(), strict=True):
        if share < _RARE:
            found.append(f"class {one.name} has {100 * share:.2g} % of the labelled pixels; it will hardly be learnt")
    if data.ignore is not None and not unlabelled and not total_counts(data.sections)[IGNORE]:
        found.append(f"no pixel has the value {data.ignore}, which was to mean not labelled")
    return tuple(found)


def split_warnings(train: Sequence[Section], held_out: Sequence[Section]) -> tuple[str, ...]:
    """Warn of held-out images that are nearly trained on, and of what cannot be learnt or scored, one sentence each."""
    found = []
    pairs = [f"{train[i].name} and {held_out[j].name}" for i, j in np.argwhere(_nearly_same(train, held_out))]
    if pairs:
        found.append(
            f"nearly the same images are trained on and held out, so the scores are too good: {some_of(pairs)}"
        )
    trained, scored = (total_counts(sections)[:IGNORE] > 0 for sections in (train, held_out))
    for number in np.flatnonzero(scored & ~trained):
        found.append(f"class {number} is in held-out images only, so that it is not learnt: hold out others")
    marked = [section.objects for section in held_out if section.objects is not None]
    if marked and not any(objects.any() for objects in marked):
        found.append("no held-out image has an object, so no score of objects is told: hold out others by --validation")
    return tuple(found)


def _nearly_same(train: Sequence[Section], held_out: Sequence[Section]) -> np.ndarray:
    """Which images differ only by compression, smoothing or brightness: bool, (trained on, held out)."""
    alike = np.ones((len(train), len(held_out)), bool)
    if alike.size:
        views = [[_reduced(s) for s in side] for side in (train, held_out)]
        for part, least in ((0, _ALIKE), (1, _DETAIL_ALIKE)):
            a, b = (np.array([view[part] for view in side]) for side in views)
            alike &= a @ b.T > least
    return alike


def _reduced(section: Section) -> tuple[np.ndarray, np.ndarray]:
    """The image at 32 x 32 and the detail that 128 x 128 adds, as unit vectors: their products are correlations."""
    grey = Image.fromarray(section.image.mean(axis=0, dtype=np.float32))
    small, large = (np.asarray(grey.resize((side, side), Image.Resampling.BOX)) for side in _SIDES)
    detail = large - np.kron(small, np.ones((_SIDES[1] // _SIDES[0],) * 2, np.float32))
    return _unit(small), _unit(detail)


def _unit(values: np.ndarray) -> np.ndarray:
    centred = values.ravel() - values.mean()
    length = np.linalg.norm(centred)
    return centred / length if length > 1e-9 else centred


def summary(data: Dataset, held_out: Sequence[Section]) -> str:
    """Describe the data, what is held out, and what is unusual, in lines of at most 100 columns.

    Args:
        data: the data set.
        held_out: its held-out sections; the others are trained on.
    """
    if isinstance(data, SparseDataset):
        return "\n".join(_sparse(data, held_out))
    sections = data.sections
    files = len({section.stem for section in sections})
    shapes = Counter(f"{s.image.shape[1]} x {s.image.shape[2]}" for s in sections).most_common()
    listed = [shape if len(shapes) == 1 else f"{n} of {shape}" for shape, n in shapes]
    names = [section.name for section in held_out]
    of_files = f" from {files} file{'s' * (files > 1)}" if files < len(sections) else ""
    lines = [
        *_row("data", f"{len(sections)} labelled image{'s' * (len(sections) > 1)}{of_files}"),
        *_row("layout", data.layout),
        *_row("size (y x x)", some_of(listed, 4)),
        *_pixels(data),
    ]
    lines += _classes(data) + _objects(data)
    lines += _row("held out", f"{len(names)}: {some_of(names, 12)}" if names else "nothing, so there will be no score")
    train = [section for section in sections if section.name not in names]
    lines += _told(data, split_warnings(train, held_out))
    return "\n".join(lines)


def _sparse(data: SparseDataset, held_out: Sequence[Section]) -> list[str]:
    """The lines on annotations, of which only the drawn pixels count."""
    images, parts, count = len(data.read_as), len(data.sections), len(data.groups)
    read = sum(section.label.size for section in data.sections)
    held = sorted({number_of(section) for section in held_out})
    has = data.counts() > 0
    names = some_of([section.name for section in held_out], 6)
    told = f"{len(held)} of {count} annotations, each whole: {names}" if held else "nothing, so there will be no score"
    each = [
        f"{one.name} {some.sum()} ({some[[n - 1 for n in held]].sum()} held out)"
        for one, some in zip(data.classes, has.T, strict=True)
    ]
    few = [
        one.name
        for one, some in zip(data.classes, has.T, strict=True)
        if held and not some[[n - 1 for n in held]].any()
    ]
    warnings = [f"no annotation of {some_of(few)} is held out: draw more of it, so that it is scored"] if few else []
    return [
        *_row("data", f"{count} annotations on {images} image{'s' * (images > 1)}; those that touch count as one"),
        *_row("layout", data.layout),
        *_row("read", f"{parts} parts around them, {read / 1e6:,.1f} of {data.area / 1e6:,.1f} megapixels"),
        *_pixels(data),
        *_classes(data),
        *_row("annotations", ", ".join(each)),
        *_row("held out", told),
        *_told(data, warnings),
    ]


def _told(data: Dataset, more: Sequence[str]) -> list[str]:
    """The lines of notes and warnings."""
    notes = [line for note in data.notes for line in _row("note", note)]
    return notes + [line for warning in (*data.warnings, *more) for line in _row("warning", warning)]


def _pixels(data: Dataset) -> list[str]:
    """The lines on the pixels: channels, type, size."""
    first = data.sections[0].image
    lines = _row("pixels", f"{len(first)} channel{'s' * (len(first) > 1)} of {first.dtype}")
    for number, text in enumerate(size_words(data.read_as, data.pixel_size)):
        lines += _row("" if number else "pixel size", text)
    return lines


def _row(label: str, text: str) -> list[str]:
    """`text` beside `label`, wrapped."""
    indent = " " * _LABEL
    return textwrap.wrap(text, _WIDTH, initial_indent=label.ljust(_LABEL), subsequent_indent=indent)


def _objects(data: Dataset) -> list[str]:
    """One line on the single objects, and one on the images without any."""
    if not data.instances:
        return []
    found = ObjectNumbers.of(data.sections)
    lines = _row("objects", found.words(len(data.sections) - len(found.without)))
    if found.without:
        count = len(found.without)
        lines += _row("", f"{count} image{'s have' if count > 1 else ' has'} none: {some_of(found.without)}")
    return lines


def _classes(data: Dataset) -> list[str]:
    """One line per class, and one for unlabelled pixels."""
    drawn = isinstance(data, SparseDataset) and data.ignore is None  # outlines, which have no values
    coloured = drawn or all(one.value == int(one.colour[1:], 16) for one in data.classes)
    rows = [("id", "class", "colour" if coloured else "value", "share")]
    for id_, (one, share) in enumerate(zip(data.classes, data.shares(), strict=True)):
        name = one.name[:_LONGEST_NAME] + "..." * (len(one.name) > _LONGEST_NAME)
        value = "-" if one.value is None else str(one.value)
        rows.append((str(id_), name, one.colour if coloured else value, f"{100 * share:.2f} %"))
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for n, row in enumerate(rows):
        cells = [one.rjust(width) for one, width in zip(row, wide, strict=True)]
        cells[1] = row[1].ljust(wide[1])
        lines.append(("" if n else "classes").ljust(_LABEL) + "  ".join(cells))
    counts = total_counts(data.sections)
    if counts[IGNORE] and not drawn:
        value = "" if data.ignore is None else f" (value {data.ignore})"
        lines += _row("not labelled", f"{100 * counts[IGNORE] / counts.sum():.2f} % of the pixels{value}")
    return lines
