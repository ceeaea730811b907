"""Make a model file of weights that were trained elsewhere."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tilesegment.errors import ModelError
from tilesegment.metadata import LabelClass, PixelSize, default_colours
from tilesegment.models.fitting import fit_network
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.models.model import Model
from tilesegment.models.state_dict import ClassValues, read_state_dict

# common divisors of grey values
_LARGEST = {"uint8": 255.0, "uint16": 65535.0, "float32": 1.0}


def import_weights(
    path: str | Path,
    out: str | Path,
    *,
    network: str,
    options: Mapping[str, Any] | None = None,
    classes: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    dtype: str = "uint8",
    pixel_size: PixelSize | None = None,
    name: str | None = None,
    licence: str = "",
    halo: int | None = None,
    by_order: bool = False,
    overwrite: bool = False,
) -> Model:
    """Make a model file of weights that were trained elsewhere, and return the model; no code in their file is run.

    Args:
        path, out: a state dict, as safetensors or from `torch.save`, alone or in a checkpoint; the model file, float32.
        network: a name of `networks.NETWORKS`; for the public U-Net (github.com/milesial/Pytorch-UNet) `unet-same`.
        options: options of the network that its weights do not show, see `fitting`.
        classes: class names; None is the values in the file, else `class 0`, `class 1`, ...
        mean, std: the network was fed (grey value - mean) / std; one number, or one per channel. None is 0, and the
            largest value of `dtype` (1 for float32): the public U-Net was fed grey values / 255.
        dtype, pixel_size: of the training images: uint8, uint16 or float32; None if the size is unknown.
        name, licence: recorded in the model; None is the name of the file.
        halo: chosen context of a tile in pixels, for a network that no halo makes exact.
        by_order: match weights with unknown names by their order, see `fitting.fit_network`.
        overwrite: replace an existing `out`.

    Raises:
        ModelError: `out` exists or is `path`, the weights cannot be read, or are not those of the network.
    """
    path, out = Path(path), Path(out)
    if os.path.exists(out) and os.path.exists(path) and os.path.samefile(path, out):
        raise ModelError(f"{out} would replace the weights that it is made of; name another output")
    if os.path.exists(out) and not overwrite:
        raise ModelError(f"{out} exists; name another output, or use --overwrite to replace it")
    given = read_state_dict(path)
    try:
        fit = fit_network(given, network, options or {}, by_order)
        header = ModelHeader(
            network=network,
            arguments=fit.arguments,
            classes=_classes(classes, fit.arguments["classes"], given.values),
            normalisation=_normalisation(mean, std, dtype, fit.arguments["in_channels"]),
            pixel_size=pixel_size,
            name=path.stem if name is None else name,
            licence=licence,
            training={"imported": path.name, "recognised_by": fit.layout, "sha256": given.sha256},
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    model = Model(header, fit.network())
    return (model if halo is None else model.with_halo(halo)).save(out)


def _classes(names: Sequence[str] | None, count: int, values: ClassValues | None) -> tuple[LabelClass, ...]:
    """The classes, named and coloured as training does; with the values in the file if there are as many."""
    known = values if values is not None and len(values) == count else (None,) * count
    classes = []
    for number, (value, colour) in enumerate(zip(known, default_colours(count), strict=True)):
        if isinstance(value, tuple):
            colour = "#{:02x}{:02x}{:02x}".format(*value)
            classes.append(LabelClass(colour, colour, int(colour[1:], 16)))
        else:
            classes.append(LabelClass(f"class {number}" if value is None else f"value {value}", colour, value))
    names = [one.name for one in classes] if names is None else names
    if len(names) != count or len(set(names)) != count:
        raise ModelError(f"classes {', '.join(names)}: expected {count} different names, as the network has outputs")
    return tuple(replace(one, name=name) for one, name in zip(classes, names, strict=True))


def _normalisation(
    mean: Sequence[float] | None, std: Sequence[float] | None, dtype: str, channels: int
) -> Normalisation:
    if dtype not in _LARGEST:
        raise ModelError(f"dtype is {dtype!r}; allowed: {', '.join(_LARGEST)}")
    means, stds = mean or (0.0,), std or (_LARGEST[dtype],)
    for what, given in (("mean", means), ("std", stds)):
        if len(given) not in (1, channels):
            raise ModelError(f"{len(given)} values of {what} for {channels} channels; give one, or one per channel")
    mean, std = (tuple(map(float, given)) * (channels // len(given)) for given in (means, stds))
    return Normalisation(mean, std, dtype)
