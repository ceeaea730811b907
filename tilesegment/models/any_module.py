"""A `Model` of any torch.nn.Module, which is run to find what it takes and returns."""

import copy
from collections.abc import Sequence
from dataclasses import astuple

from torch import nn

from tilesegment.errors import ModelError
from tilesegment.metadata import LabelClass, PixelSize, default_colours
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.models.model import Model, weights_hash
from tilesegment.networks.any_network import MODULE, VIEW, adapt
from tilesegment.networks.field_of_view import channels_of, chosen, derive, side_of


def model_of(
    module: nn.Module,
    *,
    channels: int | None = None,
    classes: Sequence[str] | None = None,
    normalisation: Normalisation | None = None,
    pixel_size: PixelSize | None = None,
    threshold: float = 0.5,
    halo: int | None = None,
    name: str = "",
) -> Model:
    """Make a `Model` of a module with one output pixel per input pixel, or per pixel of the input's centre.

    Its file keeps the weights, not the module: `Model.load(path, network=module)` loads them into another of its class.

    Args:
        module: (B, C, H, W) float32 -> (B, K, h, w); a copy of it is used, in evaluation mode. One output channel is
            class 1 of two. Outputs within 0 to 1 that sum to 1 are probabilities, others are logits.
        channels: C; None is that of its first convolution.
        classes: class names, one per output channel (two for a single channel); None is `class 0`, `class 1`, ...
        normalisation: mean, std and dtype of the grey values that the module was trained on; None is for float32 images
            that are already normalised: others need normalise="image".
        pixel_size: of the images it was trained on.
        threshold: for two classes, the probability above which a pixel is class 1.
        halo: chosen context in pixels, for a module that no halo makes exact.
        name: for people.

    Raises:
        ModelError: no halo makes its tiles exact and none was chosen, or it is no such network.
    """
    channels = channels_of(module, channels)
    view = derive(module, channels) if halo is None else chosen(module, halo, channels)
    network = adapt(copy.deepcopy(module), channels, side_of(view)).requires_grad_(False).eval()
    count, kind = network.classes, type(module).__qualname__
    names = tuple(f"class {n}" for n in range(count)) if classes is None else tuple(classes)
    if len(names) != count:
        raise ModelError(f"{len(names)} class names are given, the network gives {count} classes")
    scale = normalisation or Normalisation((0.0,) * channels, (1.0,) * channels, "float32")
    if len(scale.mean) != channels:
        raise ModelError(f"the normalisation is of {len(scale.mean)} channels, the network takes {channels}")
    header = ModelHeader(
        network=MODULE,
        arguments={"in_channels": channels, "classes": count, "class": kind, VIEW: list(astuple(view))},
        classes=tuple(LabelClass(one, colour) for one, colour in zip(names, default_colours(count), strict=True)),
        normalisation=scale,
        pixel_size=pixel_size,
        threshold=threshold,
        halo=halo,
        name=name or kind,
        weights_sha256=weights_hash({key: value.cpu() for key, value in network.state_dict().items()}),
    )
    header.check()
    return Model(header, network)
