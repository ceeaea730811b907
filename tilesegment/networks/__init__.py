"""The networks, by the name that a model file and `tileseg train` call them."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from tilesegment.errors import ModelError
from tilesegment.networks.rescaled import Rescaled
from tilesegment.networks.unet import UNet

NETWORKS: dict[str, type[nn.Module]] = {"unet": UNet}

# beyond these a network is no mistake of taste but of typing, or a file that wants all our memory
_LIMITS = {"in_channels": (1, 64), "classes": (2, 256), "depth": (1, 7), "base": (1, 512), "dropout": (0, 0.95)}
_LIMITS["reduction"] = (1, 16)


def build_network(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network `name` with `arguments`, randomly initialised.

    The argument `reduction`, which all take, lets it work on an image reduced by this factor: `Rescaled`.

    Raises:
        ModelError: no such network, no such argument, or a value out of its range.
    """
    if name not in NETWORKS:
        raise ModelError(f"no network is called {name!r}; there are: {', '.join(NETWORKS)}")
    for argument, value in arguments.items():
        if argument not in _LIMITS:
            raise ModelError(f"network {name} takes no {argument!r}; it takes: {', '.join(_LIMITS)}")
        low, high = _LIMITS[argument]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (argument == "dropout" and isinstance(value, float))) or not low <= value <= high:
            raise ModelError(f"network {name}: {argument} is {value!r}; allowed: {low} to {high}")
    given = dict(arguments)
    reduction = given.pop("reduction", 1)
    network = NETWORKS[name](**given)
    return network if reduction == 1 else Rescaled(network, reduction)
