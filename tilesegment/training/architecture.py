"""Which network is trained, and with which options."""

from dataclasses import replace
from typing import Any

from tilesegment.errors import PlanError, option
from tilesegment.models.model import Model
from tilesegment.networks import options_of
from tilesegment.training.settings import DEFAULT_OPTIONS, SLOW_BASE, TrainingSettings


def settled(settings: TrainingSettings, slow: bool) -> TrainingSettings:
    """The settings with the base that is chosen for the machine, so that they make the same network on another.

    Args:
        settings: what was asked for.
        slow: whether updates are slow here: on a CPU, in fp32.
    """
    own = DEFAULT_OPTIONS.get(settings.network or "unet", {}).get("base")
    asked = settings.base is not None or "base" in settings.options or settings.init is not None
    return settings if own is None or asked else replace(settings, base=min(own, SLOW_BASE) if slow else own)


def choose_network(
    settings: TrainingSettings, channels: int, classes: int, init: Model | None
) -> tuple[str, dict[str, Any]]:
    """Name and arguments, as `networks.build_network` takes them.

    Args:
        settings: what was asked for.
        channels: of the images.
        classes: in the labels.
        init: the model that training starts from.

    Raises:
        PlanError: `init` takes other images, or is another network than was asked for.
        ModelError: no such network, no such option.
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
    data = {"in_channels": channels, "classes": classes}
    if init is None:
        arguments = {**DEFAULT_OPTIONS.get(name, {}), **asked, **data}
    else:
        _check_init(settings, init, name, asked, channels)
        arguments = {**init.header.arguments, **asked, "classes": classes}
    arguments.pop("reduction", None)
    return name, arguments if settings.reduction == 1 else {**arguments, "reduction": settings.reduction}


def _check_init(settings: TrainingSettings, init: Model, name: str, asked: dict[str, Any], channels: int) -> None:
    """Whether the weights of `init` fit, those that tell classes apart excepted."""
    given = init.header.arguments
    if name != init.header.network:
        raise PlanError(
            f"init {settings.init} is a {init.header.network}, not a {name}; leave out --network, or --init"
        )
    if given["in_channels"] != channels:
        raise PlanError(f"init {settings.init} has {given['in_channels']} channels, the data have {channels}")
    for key, value in asked.items():
        # dropout has no weights
        if key != "dropout" and key in given and given[key] != value:
            raise PlanError(f"init {settings.init} has {key} {given[key]}; leave out {option(key)}, or --init")
    if given.get("reduction", 1) != settings.reduction:
        raise PlanError(f"init {settings.init} works at scale {1 / given.get('reduction', 1):g}; give that --scale")
