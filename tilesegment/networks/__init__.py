"""The networks, by the name that a model file and `tileseg train` call them."""

import inspect
from collections.abc import Mapping
from typing import Any

from tilesegment.errors import ModelError
from tilesegment.networks.fcn import FCN
from tilesegment.networks.network import Network
from tilesegment.networks.options import Number, Option
from tilesegment.networks.rescaled import Rescaled
from tilesegment.networks.u2net import U2Net
from tilesegment.networks.unet import UNet
from tilesegment.networks.unet_same import UNetSame
from tilesegment.networks.unet_strided import UNetStrided
from tilesegment.networks.unetpp import UNetPlusPlus

# each with what its name says of it
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

_DATA: dict[str, Option] = {
    "in_channels": Number("channels of the images", 1, 64),
    "classes": Number("classes of the masks", 2, 256),
}
_SCALE: dict[str, Option] = {"reduction": Number("factor by which the images are reduced first", 1, 16)}


def build_network(name: str, arguments: Mapping[str, Any]) -> Network:
    """The network `name` with `arguments`, randomly initialised, in training mode.

    All take `in_channels` and `classes`, and `reduction`, which lets it work on an image reduced by this factor:
    `Rescaled`. What else there is, `options_of` says.

    Raises:
        ModelError: no such network, no such argument, or a value that is not allowed.
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


def options_of(name: str) -> dict[str, str]:
    """What can be chosen of the network `name`, and in words what it is, what is allowed, and the default.

    Not among them is what all take, `in_channels` and `classes`, which follow from the data, and `reduction`.

    Raises:
        ModelError: no such network.
    """
    kind, _ = _kind(name)
    defaults = inspect.signature(kind).parameters
    return {
        option: f"{choice.text}: {choice.allowed} (default {defaults[option].default})"
        for option, choice in kind.options.items()
    }


def _kind(name: str) -> tuple[type[Network], Mapping[str, Any]]:
    if name not in NETWORKS:
        raise ModelError(f"no network is called {name!r}; there are: {', '.join(NETWORKS)}")
    return NETWORKS[name]
