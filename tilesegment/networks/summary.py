"""What there is to choose from, in words and figures."""

from typing import Any

import torch

from tilesegment.networks import build_network, options_of
from tilesegment.networks.field_of_view import derive


def describe_network(name: str, channels: int = 1, classes: int = 2) -> dict[str, Any]:
    """What a network is, with its own defaults: what it is called, its size, what it sees, and its options.

    Args:
        name: of `networks.NETWORKS`.
        channels, classes: of the images and the masks, for the size.

    Returns:
        `name`, `words`, `parameters`, `divisor`, `halo` (pixels that make tiles exact), `options` (name to words).

    Raises:
        ModelError: no such network.
    """
    with torch.device("meta"):
        network = build_network(name, {"in_channels": channels, "classes": classes}).eval()
    view = derive(network)
    assert network.__doc__ is not None
    return {
        "name": name,
        "words": network.__doc__.splitlines()[0],
        "parameters": sum(value.numel() for value in network.parameters()),
        "divisor": view.divisor,
        "halo": view.before,
        "options": options_of(name),
    }
