"""ONNX files and bioimage.io packages: what a foreign network takes and means, by its file or by running it.

A bare ONNX file may describe itself in its `metadata_props`:

    props = {"tilesegment.classes": "membrane, inside", "tilesegment.mean": "128", "tilesegment.std": "60"}
    onnx.helper.set_model_props(model, props | {"tilesegment.dtype": "uint8"})

Mean and std are those of the training images, one number per channel, in grey values of their dtype. A graph that takes
grey values divided by 255 has a mean of 0 and a std of 255. Without them, grey values of the input's type are fed
unchanged; others must be normalised by the image (`normalise="image"`).

Only the first output is used. One channel is the probability of class 1 of two or, if any of its values lies outside 0
to 1, its logit; K channels are probabilities if they lie within 0 to 1 and sum to 1, else logits.
"""

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.models.header import KEY, ModelHeader, Normalisation
from tilesegment.models.onnx_file import VIEW_KEY, OnnxFile, check_installed, read_onnx, values_per_pixel
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.models.package import Description, is_package, read_package
from tilesegment.networks.any_network import activation_of
from tilesegment.networks.field_of_view import ADVICE, side_of
from tilesegment.networks.probing import LARGEST, InexactError, Prober, widened

_KEYS = _CLASSES, _MEAN, _STD, _DTYPE = tuple(f"{KEY}.{name}" for name in ("classes", "mean", "std", "dtype"))
_USUAL = 512  # pixels, side of a usual tile


class OnnxModel(NamedTuple):
    """The parts of a `Model`: header, network, the field of view that the file claims, and a line of assumptions."""

    header: ModelHeader
    network: OnnxNetwork
    claimed: FieldOfView | None
    assumed: str


def load_onnx(path: Path) -> OnnxModel:
    """Load an ONNX file, or a bioimage.io 0.5 package: a zip, its folder or its rdf.yaml.

    Raises:
        ModelError: onnxruntime is missing, or the model cannot be used.
    """
    check_installed("onnx", "onnxruntime", "yaml")
    description, file = read_package(path) if is_package(path) else (None, read_onnx(path))
    network = OnnxNetwork(file)
    try:
        if KEY in file.metadata:
            model = _exported(file, network)
        else:
            model = _foreign(file, network, description or _describe_file(file))
    except ModelError as error:
        raise ModelError(f"{file.path}: {error}") from error
    network.pixel_values = values_per_pixel(file, _side(network, model.claimed, _USUAL))
    return model


def onnx_view(network: OnnxNetwork, claimed: FieldOfView | None, halo: int | None) -> FieldOfView:
    """Find the field of view: as the file claims, verified, or by running the network; or with a chosen `halo`.

    Raises:
        ModelError: no halo makes its tiles exact, and none was chosen; or it crops, so that its halo is fixed.
    """
    prober = _prober(network)
    try:
        if halo is not None:
            return prober.chosen(halo) if claimed is None else widened(claimed, halo)
        if claimed is not None and max(claimed.before, claimed.after) > LARGEST:
            raise InexactError(f"it sees more than {LARGEST} px, too far to verify")
        return claimed if claimed is not None and prober.holds(claimed) else prober.view()
    except ModelError as error:
        advice = ADVICE if isinstance(error, InexactError) else ""
        hint = "" if claimed is None or halo is not None else f" (its description gives {claimed.before} px)"
        raise ModelError(f"{network.file.path}: {error}{advice}{hint}") from error


def _side(network: OnnxNetwork, claimed: FieldOfView | None, least: int = 64) -> int:
    """An image side of at least `least` pixels that the network takes."""
    if claimed is not None:
        # larger than the halo, which some graphs mirror
        rim = 0 if claimed.crops else min(claimed.before, LARGEST) + claimed.divisor
        return side_of(claimed, max(least, rim))
    first, unit, _ = _prober(network).sizes
    return first + -(-max(least - first, 0) // unit) * unit


@lru_cache(maxsize=2)  # a prober remembers which sizes the network takes
def _prober(network: OnnxNetwork) -> Prober:
    """A prober with images on the scale that the graph takes; on two scales if that is unknown."""
    scale = network.feeds
    scales = [(0.0, 1.0), (128.0, 64.0)] if scale is None else [(float(np.mean(scale.mean)), float(np.mean(scale.std)))]
    return Prober(network.run, network.file.channels, scales)


def _exported(file: OnnxFile, network: OnnxNetwork) -> OnnxModel:
    """A model that `export` wrote: its graph takes grey values and returns probabilities."""
    try:
        header = ModelHeader.from_json(file.metadata[KEY])
        view = FieldOfView(**json.loads(file.metadata[VIEW_KEY]))
        most = LARGEST if view.crops else 65_536
        limits = ((view.divisor, 1, 512), (view.before, 0, most), (view.after, 0, most))
        if not all(isinstance(n, int) and low <= n <= high for n, low, high in limits):
            raise ValueError(f"field of view {view}")
        if header.channels != file.channels:
            raise ValueError(f"{header.channels} channels, its graph takes {file.channels}")
    except (ModelError, KeyError, TypeError, ValueError) as error:
        raise ModelError(f"its own description is damaged ({error}); export it again") from error
    network.feeds, network.activation = header.normalisation, "probabilities"
    given = network.run(_prober(network).images(_side(network, view))[0][0]).shape[1]
    if given != len(header.classes):
        raise ModelError(f"gives {given} classes, but names {len(header.classes)}; export it again")
    return OnnxModel(replace(header, weights_sha256=file.sha256), network, view, "")


def _foreign(file: OnnxFile, network: OnnxNetwork, about: Description) -> OnnxModel:
    """A model from elsewhere, by its description and by what it does on random images."""
    prober = _prober(network)
    side = prober.sizes[0] if about.view is None else side_of(about.view)
    results = [network.run(image) for image, _, _ in prober.images(side)]
    network.activation = about.activation or activation_of([torch.from_numpy(result) for result in results])
    count, guesses = max(results[0].shape[1], 2), []
    # a single channel is class 1, and only that has a name
    names = ("background", *about.names) if len(about.names) == 1 else about.names
    if len(names) != count:
        said = f" (it names {len(about.names)} of {count})" if about.names else ""
        guesses.append(f"classes called class 0 to class {count - 1}{said}")
        names = tuple(f"class {n}" for n in range(count))
    if about.normalisation is None:
        guesses.append("grey values fed as they are, unless normalised by the image")
    header = ModelHeader(
        network="onnx",
        arguments={"in_channels": file.channels, "classes": count},
        classes=tuple(LabelClass(name, colour) for name, colour in zip(names, default_colours(count), strict=True)),
        normalisation=about.normalisation or Normalisation((0.0,) * file.channels, (1.0,) * file.channels, file.dtype),
        pixel_size=about.pixel_size,
        name=about.name,
        licence=about.licence,
        weights_sha256=file.sha256,
    )
    header.check()
    assumed = guesses and (
        f"{file.path} does not say all that is needed; assumed: {'; '.join(guesses)}. "
        f"Put {', '.join(_KEYS)} into its metadata_props, or make a bioimage.io package of it"
    )
    return OnnxModel(header, network, about.view, assumed or "")


def _describe_file(file: OnnxFile) -> Description:
    """Read the description in the file's `metadata_props`.

    Raises:
        ModelError: they are incomplete, contradict the graph or are not allowed.
    """
    text = file.metadata.get(_CLASSES)
    names = () if text is None else tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) != len(names):
        raise ModelError(f"its {_CLASSES} are {text!r}; they must be different names, separated by commas")
    about, given = Description(Path(file.path).stem, names=names), [key for key in _KEYS[1:] if key in file.metadata]
    if not given:
        return about
    if len(given) < 3:
        raise ModelError(f"gives {' and '.join(given)}; {_MEAN}, {_STD} and {_DTYPE} are needed together")
    try:
        mean, std = (tuple(float(part) for part in file.metadata[key].split(",")) for key in (_MEAN, _STD))
    except ValueError as error:
        raise ModelError(f"its {_MEAN} and {_STD} are not numbers, separated by commas ({error})") from error
    if len(mean) != file.channels or len(std) != file.channels:
        raise ModelError(f"has {len(mean)} {_MEAN} and {len(std)} {_STD}; it takes {file.channels} channels")
    dtype, allowed = file.metadata[_DTYPE], ("uint8", "uint16", "float32")
    if dtype not in allowed:
        raise ModelError(f"its {_DTYPE} is {dtype!r}; allowed: {', '.join(allowed)}")
    return replace(about, normalisation=Normalisation(mean, std, dtype))
