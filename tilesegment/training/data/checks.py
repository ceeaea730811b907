"""What makes training or its scores worthless without stopping them: told as warnings."""

from collections.abc import Sequence
from hashlib import sha256

import numpy as np
from PIL import Image

from tilesegment.training.data.sections import IGNORE, Dataset, Section, class_counts

_RARE = 0.001  # share of the labelled pixels below which a class is hardly learnt
_MOST_NAMES = 3
# Correlations of images reduced to 32 x 32, and of the detail that 128 x 128 adds. Neighbours in the stacks of ISBI
# 2012 and of a ventral nerve cord (50 nm apart) reach 0.77 and 0.44, a JPEG or brighter copy of one 0.999 and 0.99.
# The detail tells copies from images that share no more than their shading.
_SIDES = (32, 128)
_ALIKE, _DETAIL_ALIKE = 0.99, 0.9


def label_warnings(data: Dataset, unlabelled: Sequence[str]) -> tuple[str, ...]:
    """What is unusual about the labels.

    Args:
        data: as read.
        unlabelled: names of images without a labelled pixel, which are not in `data`.
    """
    found = []
    if unlabelled:
        found.append(f"{_some(unlabelled)}: no pixel is labelled, left out")
    uniform = [s.name for s in data.sections if np.count_nonzero(class_counts(s.label)[:IGNORE]) == 1]
    if uniform:
        found.append(f"{_some(uniform)}: the label is wholly one class; remove it if it was never drawn")
    for one, share in zip(data.classes, data.shares(), strict=True):
        if share < _RARE:
            found.append(f"class {one.name} has {100 * share:.2g} % of the labelled pixels; it will hardly be learnt")
    if data.ignore is not None and not unlabelled and not any((s.label == IGNORE).any() for s in data.sections):
        found.append(f"no pixel has the value {data.ignore}, which was to mean not labelled")
    return tuple(found)


def split_warnings(train: Sequence[Section], held_out: Sequence[Section]) -> tuple[str, ...]:
    """Held-out images that were trained on, the same or nearly, and classes that are never trained: a sentence each."""
    found = []
    same, near = _same(train, held_out), _nearly_same(train, held_out)
    for what, alike in (("the same images", same), ("nearly the same images", near & ~same)):
        pairs = [f"{train[i].name} and {held_out[j].name}" for i, j in np.argwhere(alike)]
        if pairs:
            found.append(f"{what} are trained on and held out, which makes the scores too good: {_some(pairs)}")
    trained, scored = (_classes_in(sections) for sections in (train, held_out))
    for number in np.flatnonzero(scored & ~trained):
        found.append(f"class {number} is in held-out images only, so that it is not learnt: hold out others")
    return tuple(found)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more


def _classes_in(sections: Sequence[Section]) -> np.ndarray:
    """Which ids occur: (255,) bool."""
    return sum((class_counts(s.label) for s in sections), np.zeros(IGNORE + 1, np.int64))[:IGNORE] > 0


def _same(train: Sequence[Section], held_out: Sequence[Section]) -> np.ndarray:
    """Which images are equal: bool, (trained on, held out)."""
    a, b = ([(s.image.shape, sha256(s.image.tobytes()).digest()) for s in side] for side in (train, held_out))
    return np.array([[one == other for other in b] for one in a], bool).reshape(len(a), len(b))


def _nearly_same(train: Sequence[Section], held_out: Sequence[Section]) -> np.ndarray:
    """Which images differ by no more than compression, smoothing or brightness: bool, (trained on, held out)."""
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
