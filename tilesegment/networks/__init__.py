"""The networks, by the names used in model files and by `tileseg train`."""

import inspect
from collections.abc import Mapping
from typing import Any

import torch

from tilesegment.errors import ModelError
from tilesegment.networks.fcn import FCN
from tilesegment.networks.network import Network, Number, Option
from tilesegment.networks.rescaled import Rescaled
from tilesegment.networks.u2net import U2Net
from tilesegment.networks.unet import UNet
from tilesegment.networks.unet_same import UNetSame
from tilesegment.networks.unet_strided import UNetStrided
from tilesegment.networks.unetpp import UNetPlusPlus

# class, and the arguments that the name implies
NETWORKS: dict[str, tuple[type[Network], Mapping[str, Any]]] = {
    "unet": (UNet, {}),
    "unet-same": (UNetSame, {}),
    "unet-strided": (UNetStrided, {}),
    "unetpp": (UNetPlusPlus, {}),
    "u2net": (U2Net, {"small": False}),
    "u2net-small": (U2Net, {"small": True}),
    "fcn32": (FCN, {"finest": 32}),
    "fcn16": (FCN, {"finest": 16}),
    "fcn8": (FCN, {"finest": 8}),
}

# networks of same padding with the weights of one that crops
_PADDED: dict[str, tuple[str, Mapping[str, Any]]] = {"unet": ("unet-same", {"norm": "none"})}

_DATA: dict[str, Option] = {
    "in_channels": Number("channels of the images", 1, 64),
    "classes": Number("classes of the masks", 2, 256),
}
_SCALE: dict[str, Option] = {"reduction": Number("factor by which the images are reduced first", 1, 16)}


def build_network(name: str, arguments: Mapping[str, Any]) -> Network:
    """Build the network `name`, randomly initialised, in training mode.

    Args:
        name: one of `NETWORKS`.
        arguments: `in_channels`, `classes`, `reduction` (the network works on an image reduced by this factor, see
            `Rescaled`), and the network's own options, see `options_of`.

    Raises:
        ModelError: no such network or argument, or a value that is not allowed.
    """
    kind, fixed = _kind(name)
    options = {**_DATA, **kind.options, **_SCALE}
    for argument, value in arguments.items():
        if argument not in options:
            raise ModelError(f"network {name} takes no {argument!r}; it takes: {', '.join(options)}")
        if not options[argument].allows(value):
            raise ModelError(f"network {name}: {argument} is {value!r}; allowed: {options[argument].allowed}")
    given = {**arguments, **fixed}
    reduction = given.pop("reduction", 1)
    network = kind(**given)
    return network if reduction == 1 else Rescaled(network, reduction)


def with_padding(name: str, arguments: Mapping[str, Any]) -> tuple[str, dict[str, Any]] | None:
    """Return name and arguments of the network whose convolutions pad and which has the same weights; None for none.

    Away from the edges of a tile both compute the same, but for the phase of the poolings.
    """
    if name not in _PADDED:
        return None
    padded, more = _PADDED[name]
    return padded, {**arguments, **more}


def options_of(name: str) -> dict[str, str]:
    """Return the options of the network `name` and, in words, their meaning, allowed values and default.

    Without `in_channels` and `classes`, which follow from the data, and `reduction`.

    Raises:
        ModelError: no such network.
    """
    kind, _ = _kind(name)
    defaults = inspect.signature(kind).parameters
    return {
        option: f"{choice.text}: {choice.allowed} (default {defaults[option].default})"
        for option, choice in kind.options.items()
    }


def describe_network(name: str) -> dict[str, Any]:
    """Describe a network with its default options, for images of one channel and masks of two classes.

    Returns:
        `name`, `words`, `parameters`, `divisor`, `halo` (pixels that make tiles exact), `options` (name to words).

    Raises:
        ModelError: no such network.
    """
    with torch.device("meta"):
        network = build_network(name, {"in_channels": 1, "classes": 2})
    assert network.__doc__ is not None
    view = network.field_of_view
    return {
        "name": name,
        "words": network.__doc__.splitlines()[0],
        "parameters": sum(value.numel() for value in network.parameters()),
        "divisor": view.divisor,
        "halo": view.before,
        "options": options_of(name),
    }


def _kind(name: str) -> tuple[type[Network], Mapping[str, Any]]:
    if name not in NETWORKS:
        raise ModelError(f"no network is called {name!r}; there are: {', '.join(NETWORKS)}")
    return NETWORKS[name]
