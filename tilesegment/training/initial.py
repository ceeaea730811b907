"""What training takes over from the model that it starts from, `init`: weights, the classes in them, grey values."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tilesegment.errors import DataError
from tilesegment.metadata import TOLERATED, LabelClass, size_difference
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.networks import build_network
from tilesegment.training.data import Dataset, Section, normalisation_of

# names that only count: labels without names of their own get them
_UNNAMED = re.compile(r"(value|class) \d+")
# the images are other ones if their mean is so many spreads away, or if their spread differs by this factor
_FAR, _OTHER_SPREAD = 3.0, 4.0


def begin_from(
    init: str, header: ModelHeader, start: nn.Module, network: nn.Module, arguments: Mapping[str, Any], data: Dataset
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Gives `network` the weights of the model `init`, as far as they are of the same classes.

    Args:
        init: file or name of the model, for the notes.
        header, start: of that model, and its network.
        network, arguments: what is trained, and what it was built with.
        data: what it is trained on.

    Returns:
        The layers that begin at random, or do so for some classes; and what is to be said, a sentence each.
    """
    matches = match_classes(data.classes, header.classes)
    anew = take_over(network, start, class_axes(header.network, arguments), matches)
    return anew, (*class_notes(init, data.classes, header.classes, anew), *pixel_notes(init, header, data))


def match_classes(new: Sequence[LabelClass], old: Sequence[LabelClass]) -> tuple[int | None, ...]:
    """For each of the `new` classes the number of the same one among the `old`, or None.

    Classes are the same if their names are. Where no name is shared, or names only count ("value 255"), as many classes
    are taken to be the same in their order.
    """
    names, known = ([one.name.strip().casefold() for one in classes] for classes in (new, old))
    shared = set(names) & set(known)
    counted = any(_UNNAMED.fullmatch(name) for name in (*names, *known))
    if shared not in (set(names), set(known)) and (counted or not shared):
        return tuple(range(len(new))) if len(new) == len(old) else (None,) * len(new)
    return tuple(known.index(name) if name in shared else None for name in names)


def class_axes(name: str, arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """The weights of a network that tell classes apart, and which of their axes count them.

    Args:
        name, arguments: as `networks.build_network` takes them.
    """
    classes = arguments["classes"]
    with torch.device("meta"):
        one = build_network(name, arguments).state_dict()
        other = build_network(name, {**arguments, "classes": classes - 1 if classes > 2 else classes + 1}).state_dict()
    return {
        key: tuple(
            axis for axis, sides in enumerate(zip(value.shape, other[key].shape, strict=True)) if len({*sides}) > 1
        )
        for key, value in one.items()
        if value.shape != other[key].shape
    }


def take_over(
    network: nn.Module, start: nn.Module, axes: Mapping[str, Sequence[int]], matches: Sequence[int | None]
) -> tuple[str, ...]:
    """Gives `network` the weights of `start`, the same network but perhaps for other classes.

    Args:
        network, start: what is trained, what it begins with.
        axes: as `class_axes` gives them.
        matches: as `match_classes` gives them, one for each class of `network`.

    Returns:
        The layers that begin at random, or do so for some classes.
    """
    weights, own = start.state_dict(), network.state_dict()
    for key, value in own.items():
        if key not in axes:
            own[key] = weights[key]
            continue
        pairs = [
            _channels(value.shape[axis], weights[key].shape[axis], matches) if axis in axes[key] else None
            for axis in range(value.ndim)
        ]
        own[key] = _filled(value, weights[key], pairs)
    network.load_state_dict(own)
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in own if key in axes)) if None in matches else ()


def _channels(here: int, there: int, matches: Sequence[int | None]) -> tuple[list[int], list[int]]:
    """Channels of an axis of `here` channels, and those of `there` that they take: class by class, perhaps repeated."""
    groups = here // len(matches)
    size = there // groups
    found = [
        (g * len(matches) + n, g * size + m) for g in range(groups) for n, m in enumerate(matches) if m is not None
    ]
    return [n for n, _ in found], [m for _, m in found]


def _filled(value: Tensor, source: Tensor, pairs: Sequence[tuple[list[int], list[int]] | None]) -> Tensor:
    """`value` with the channels of `source` that `pairs` name along each axis; None is all, in their order."""
    targets, sources = (
        np.ix_(
            *(
                np.arange(side) if pair is None else np.array(pair[which], int)
                for pair, side in zip(pairs, shape, strict=True)
            )
        )
        for which, shape in ((0, value.shape), (1, source.shape))
    )
    filled = value.clone()
    filled[targets] = source[sources]
    return filled


def class_notes(
    init: str, new: Sequence[LabelClass], old: Sequence[LabelClass], anew: Sequence[str]
) -> tuple[str, ...]:
    """What became of the classes of the model `init`, as far as it is not plain.

    Args:
        init: file or name of the model.
        new, old: classes of the data, and of the model.
        anew: as `take_over` gives them.
    """
    matches = match_classes(new, old)
    names, known = ([one.name for one in classes] for classes in (new, old))
    if anew:
        kept = [name for name, match in zip(names, matches, strict=True) if match is not None]
        others = [name for name, match in zip(names, matches, strict=True) if match is None]
        which = f" for {', '.join(others)}; kept for {', '.join(kept)}" if kept else ""
        return (f"{init} tells other classes apart; begun at random: {', '.join(anew)}{which}",)
    if names == known:
        return ()
    taken = [known[match] for match in matches if match is not None]
    if [one.casefold() for one in taken] != [one.casefold() for one in names]:
        pairs = ", ".join(f"{name} from {old_name}" for name, old_name in zip(names, taken, strict=True))
        return (f"the classes of {init} have other names and are taken in their order: {pairs}",)
    return (f"{init} tells {', '.join(known)} apart; its head is kept, by these names, for {', '.join(names)}",)


def choose_normalisation(
    init: str | None, header: ModelHeader | None, sections: Sequence[Section]
) -> tuple[Normalisation, tuple[str, ...]]:
    """The grey values that training sees as 0 and 1, and what is to be said of them.

    Those of the model that it starts from are kept, unless these images are of another dtype or far from them: the
    network has learnt from values around 0, and gets such from the mean and spread of these images.

    Args:
        init: file or name of the model to start from, with its `header`; None for none.
        sections: that are trained on.

    Raises:
        DataError: a channel is constant or holds NaN.
    """
    dtype = str(sections[0].image.dtype)
    if header is None:
        return normalisation_of(sections), ()
    kept = header.normalisation
    try:
        own = normalisation_of(sections)
    except DataError:
        if kept.dtype == dtype:
            return kept, ()
        raise
    if kept.dtype == dtype and not _is_far(own, kept):
        return kept, ()
    said = f"{init} was trained on {_described(kept)}, these images are {_described(own)}"
    return own, (f"{said}: training starts with the mean and spread of these, and the model is one for {dtype}",)


def pixel_notes(init: str, header: ModelHeader, data: Dataset) -> tuple[str, ...]:
    """Whether the model that training starts from has learnt from pixels of another size."""
    one, other = header.pixel_size, data.pixel_size
    if one is None or other is None or size_difference(other, one) <= TOLERATED:
        return ()
    sizes = (f"{size.y:.4g} x {size.x:.4g}" for size in (one, other))
    was, are = sizes
    return (f"{init} was trained on pixels of {was} micrometres (y, x), these are of {are}",)


def _is_far(own: Normalisation, kept: Normalisation) -> bool:
    """Whether images of mean and spread `own` lie outside of what a network has learnt from images of `kept`."""
    return any(
        abs(mean - before) > _FAR * spread or abs(math.log(std / spread)) > math.log(_OTHER_SPREAD)
        for mean, std, before, spread in zip(own.mean, own.std, kept.mean, kept.std, strict=True)
    )


def _described(scale: Normalisation) -> str:
    mean, std = (", ".join(f"{value:,.4g}" for value in values) for values in (scale.mean, scale.std))
    return f"{scale.dtype} of mean {mean} and spread {std}"
