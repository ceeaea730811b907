"""Choose the network to train, and start it from the weights of another model, `init`."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tilesegment.errors import PlanError, option
from tilesegment.metadata import TOLERATED, LabelClass, size_difference
from tilesegment.models.header import ModelHeader
from tilesegment.models.model import Model
from tilesegment.networks import build_network, options_of
from tilesegment.training.data import Dataset
from tilesegment.training.settings import DEFAULT_OPTIONS, TrainingSettings

_UNNAMED = re.compile(r"(value|class) \d+")  # default names of classes


def choose_network(
    settings: TrainingSettings, channels: int, classes: int, init: Model | None
) -> tuple[str, dict[str, Any]]:
    """Return name and arguments for `networks.build_network`; those of `init` if it is given.

    Raises:
        PlanError: `init` takes other images, or is not the network asked for; no such option.
        ModelError: no such network.
    """
    name = settings.network or ("unet" if init is None else init.header.network)
    known = options_of(name)
    asked = dict(settings.options)
    for key in ("base", "depth", "dropout"):
        if getattr(settings, key) is not None:
            asked[key] = getattr(settings, key)
    for key in asked:
        if key not in known:
            raise PlanError(f"network {name} has no option {key}; it has: {', '.join(known) or 'none'}")
    if init is None:
        arguments = {**DEFAULT_OPTIONS.get(name, {}), **asked, "in_channels": channels, "classes": classes}
    else:
        _check_init(settings, init, name, asked, channels)
        arguments = {**init.header.arguments, **asked, "classes": classes}
    arguments.pop("reduction", None)
    return name, arguments if settings.reduction == 1 else {**arguments, "reduction": settings.reduction}


def _check_init(settings: TrainingSettings, init: Model, name: str, asked: dict[str, Any], channels: int) -> None:
    """Raise PlanError unless the weights of `init` fit, except those that depend on the classes."""
    given, said = init.header.arguments, f"--init {settings.init}"
    if name != init.header.network:
        raise PlanError(f"{said} is a {init.header.network}, not a {name}; leave out --network, or --init")
    if given["in_channels"] != channels:
        raise PlanError(f"{said} has {given['in_channels']} channels, the data have {channels}")
    for key, value in asked.items():
        if key != "dropout" and key in given and given[key] != value:  # dropout has no weights
            raise PlanError(f"{said} has {key} {given[key]}; leave out {option(key)}, or --init")
    if given.get("reduction", 1) != settings.reduction:
        raise PlanError(f"{said} works at scale {1 / given.get('reduction', 1):g}; give that --scale")


def begin_from(
    init: str, header: ModelHeader, start: nn.Module, network: nn.Module, arguments: Mapping[str, Any], data: Dataset
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Give `network`, built with `arguments`, the weights of the model `init`, as far as the classes are the same.

    Returns:
        The layers that start at random, at least for some classes; and notes for the user.
    """
    matches = match_classes(data.classes, header.classes)
    anew = take_over(network, start, class_axes(header.network, arguments), matches)
    notes = class_notes(init, data.classes, header.classes, anew)
    was, now = header.pixel_size, data.pixel_size
    if was is not None and now is not None and size_difference(now, was) > TOLERATED:
        sizes = [f"{size.y:.4g} x {size.x:.4g}" for size in (was, now)]
        notes += (f"{init} was trained on pixels of {sizes[0]} micrometres (y, x), these are of {sizes[1]}",)
    return anew, notes


def match_classes(new: Sequence[LabelClass], old: Sequence[LabelClass]) -> tuple[int | None, ...]:
    """Return for each of the `new` classes the number of the same class among the `old`, or None.

    Classes are the same if their names are. If no name is shared, or names are only numbers ("value 255"), equally many
    classes are taken to be the same, in order.
    """
    names, known = ([one.name.strip().casefold() for one in classes] for classes in (new, old))
    shared = set(names) & set(known)
    counted = any(_UNNAMED.fullmatch(name) for name in (*names, *known))
    if shared not in (set(names), set(known)) and (counted or not shared):
        return tuple(range(len(new))) if len(new) == len(old) else (None,) * len(new)
    return tuple(known.index(name) if name in shared else None for name in names)


def class_axes(name: str, arguments: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Return the weights of a network (see `build_network`) that depend on the classes, and along which axes."""
    classes = arguments["classes"]
    with torch.device("meta"):
        one = build_network(name, arguments).state_dict()
        other = build_network(name, {**arguments, "classes": classes - 1 if classes > 2 else classes + 1}).state_dict()
    return {
        key: tuple(axis for axis in range(value.ndim) if value.shape[axis] != other[key].shape[axis])
        for key, value in one.items()
        if value.shape != other[key].shape
    }


def take_over(
    network: nn.Module, start: nn.Module, axes: Mapping[str, Sequence[int]], matches: Sequence[int | None]
) -> tuple[str, ...]:
    """Give `network` the weights of `start`, the same network for other classes; see `class_axes`, `match_classes`.

    Returns:
        The layers that start at random, at least for some classes.
    """
    weights, own = start.state_dict(), network.state_dict()
    for key, value in own.items():
        own[key] = _filled(value, weights[key], axes[key], matches) if key in axes else weights[key]
    network.load_state_dict(own)
    return tuple(dict.fromkeys(key.rpartition(".")[0] for key in own if key in axes)) if None in matches else ()


def _filled(value: Tensor, source: Tensor, axes: Sequence[int], matches: Sequence[int | None]) -> Tensor:
    """`value` with the channels of `source` for the same classes; `axes` are those that run over classes."""
    targets, sources = [], []
    for axis, (here, there) in enumerate(zip(value.shape, source.shape, strict=True)):
        pairs = [(n, n) for n in range(here)]
        if axis in axes:  # class by class, perhaps repeated
            groups = here // len(matches)
            size, same = there // groups, [(n, m) for n, m in enumerate(matches) if m is not None]
            pairs = [(g * len(matches) + n, g * size + m) for g in range(groups) for n, m in same]
        targets.append(np.array([n for n, _ in pairs], int))
        sources.append(np.array([m for _, m in pairs], int))
    filled = value.clone()
    filled[np.ix_(*targets)] = source[np.ix_(*sources)]
    return filled


def class_notes(
    init: str, new: Sequence[LabelClass], old: Sequence[LabelClass], anew: Sequence[str]
) -> tuple[str, ...]:
    """Explain what became of the classes of the model `init`, unless they are the same."""
    matches = match_classes(new, old)
    names, known = ([one.name for one in classes] for classes in (new, old))
    if anew:
        kept = [name for name, match in zip(names, matches, strict=True) if match is not None]
        others = [name for name, match in zip(names, matches, strict=True) if match is None]
        which = f" for {', '.join(others)}; kept for {', '.join(kept)}" if kept else ""
        return (f"{init} has other classes; begun at random: {', '.join(anew)}{which}",)
    if names == known:
        return ()
    pairs = [(name, known[match]) for name, match in zip(names, matches, strict=True) if match is not None]
    taken = ", ".join(name if name.casefold() == old.casefold() else f"{name} from {old}" for name, old in pairs)
    return (f"{init} has the classes {', '.join(known)}; its head is kept for {taken}",)
