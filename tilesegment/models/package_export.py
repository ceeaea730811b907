"""Writing a bioimage.io 0.5 model package: ONNX weights, rdf.yaml, test tensors and a README in one zip.

The specification: https://bioimage-io.github.io/spec-bioimage-io.
"""

import hashlib
import io
import re
import zipfile
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.images.limits import limits
from tilesegment.models.export import GreyValues, example_image, exported_view, random_image, to_onnx
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import parse_onnx
from tilesegment.models.package import RDF
from tilesegment.networks.probing import LARGEST

# the first version in which authors, citations and licence may be missing
_VERSION = "0.5.5"
_EPSILON = 1e-6  # what scale_range adds to the difference that it divides by; the default of the specification
# SPDX identifiers; any other licence is named in the README only
_SPDX = ("Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CC-BY-4.0", "CC-BY-SA-4.0", "CC-BY-NC-4.0", "MIT")


def to_package(model: Model) -> bytes:
    """Convert a model to a zipped package whose output is as large as its input and has the halo that tiles need.

    A network that crops gets a mirrored rim, as programs that run packages block by block expect an output as large as
    the input. The test tensors are random grey values and PyTorch's result.

    Raises:
        ModelError: it cannot be exported, see `to_onnx`.
    """
    import yaml

    view = exported_view(model, same_size=True)
    if view.before > LARGEST:
        raise ModelError(
            f"{model.header.name}: exact tiles need {view.before} px of context, which takes too large a test image; "
            "export it to onnx, or give the model a halo"
        )
    weights = to_onnx(model, same_size=True)
    side = view.tile_of(view.step_for(128))
    image, scaled = _example(model, side)
    with torch.inference_mode():
        result = GreyValues(model, same_size=True)(scaled).numpy()
    files = {
        "weights.onnx": weights,
        "input.npy": _npy(image),
        "output.npy": _npy(result),
        "README.md": _readme(model, view).encode(),
    }
    opset = max(entry.version for entry in parse_onnx(weights, "weights").proto.opset_import if entry.domain == "")
    rdf = _describe(model, view, opset, {name: hashlib.sha256(data).hexdigest() for name, data in files.items()})
    files[RDF] = yaml.safe_dump(rdf, sort_keys=False, allow_unicode=True).encode()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return packed.getvalue()


def _example(model: Model, side: int) -> tuple[np.ndarray, Tensor]:
    """Return random grey values (1, C, side, side) in the type of the images, and what the graph takes, float32."""
    scale, dtype = model.header.normalisation, _dtype(model.header.normalisation)
    if scale.percentiles is None:
        image = example_image(model, side, side)
        return image.astype(dtype), torch.from_numpy(image)
    most = np.iinfo(dtype).max if dtype.startswith("uint") else 1.0
    grey = scale.for_limits(((most / 8, most / 2),) * model.header.channels, dtype)
    image = random_image(grey, side, side).astype(dtype)
    low, high = np.array(limits(image[0], scale.percentiles)).T[:, :, None, None]
    return image, torch.from_numpy(((image - low) / (high - low + _EPSILON)).astype(np.float32))


def _dtype(scale: Normalisation) -> str:
    """Return the type of the images that a package names: of a model that takes any, that of the training images."""
    return scale.dtype or "float32"


def _preprocessing(scale: Normalisation) -> list[dict[str, Any]]:
    """Return what is to be done before the graph normalises."""
    steps: list[dict[str, Any]] = [{"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    if scale.percentiles is not None:
        low, high = scale.percentiles
        ends = {"min_percentile": low, "max_percentile": high, "eps": _EPSILON}
        steps.append({"id": "scale_range", "kwargs": {"axes": ["y", "x"], **ends}})
    return steps


def _describe(model: Model, view: FieldOfView, opset: int, digests: dict[str, str]) -> dict[str, Any]:
    """The rdf.yaml as plain values; `view` belongs to the exported graph."""
    header = model.header
    file = {name: {"source": name, "sha256": digest} for name, digest in digests.items()}
    classes = [one.name for one in header.classes]
    given = {
        "id": "image",
        "description": "grey values as they are; the network normalises them itself",
        "axes": _axes(
            model,
            [f"channel{n}" for n in range(header.channels)],
            lambda _: {"size": {"min": view.tile_of(view.divisor), "step": view.divisor}},
        ),
        "test_tensor": file["input.npy"],
        "data": {"type": _dtype(header.normalisation)},
        "preprocessing": _preprocessing(header.normalisation),
    }
    halo = {"halo": view.before} if view.before else {}
    result = {
        "id": "probabilities",
        "description": "class probabilities",
        "axes": _axes(
            model, classes, lambda axis: {"size": {"tensor_id": "image", "axis_id": axis, "offset": 0}, **halo}
        ),
        "test_tensor": file["output.npy"],
        "data": {"type": "float32", "range": [0.0, 1.0]},
    }
    name = re.sub(r"[^A-Za-z0-9_+\- ()]", "-", header.name).strip() or "model"  # other characters are not allowed
    return {
        "type": "model",
        "format_version": _VERSION,
        "name": (name if len(name) >= 5 else f"model {name}")[:64],
        "description": f"Segmentation into {', '.join(classes)} by a {header.network}.",
        "documentation": file["README.md"],
        "tags": ["segmentation", "semantic-segmentation", "2d", header.network],
        "timestamp": datetime.now(UTC).isoformat(timespec="seconds"),
        **({"license": header.licence} if header.licence in _SPDX else {}),
        "inputs": [given],
        "outputs": [result],
        "weights": {"onnx": {**file["weights.onnx"], "opset_version": opset}},
    }


def _axes(model: Model, channels: list[str], size: Callable[[str], dict[str, Any]]) -> list[dict[str, Any]]:
    """Batch, channel, y and x; the last two with their `size`, and the pixel size if known."""
    axes: list[dict[str, Any]] = [{"type": "batch"}, {"type": "channel", "channel_names": channels}]
    for axis in "yx":
        pixel = model.header.pixel_size
        scale = {} if pixel is None else {"unit": "micrometer", "scale": getattr(pixel, axis)}
        axes.append({"type": "space", "id": axis, **scale, **size(axis)})
    return axes


def _npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, np.ascontiguousarray(array), allow_pickle=False)
    return content.getvalue()


def _readme(model: Model, view: FieldOfView) -> str:
    header, scale, size = model.header, model.header.normalisation, model.header.pixel_size
    pixels = "unknown" if size is None else f"{size.y} x {size.x} um (y, x)"
    scores = header.training.get("scores")
    lines = [
        f"# {header.name or header.network}",
        f"A {header.network} that gives the probabilities of {', '.join(one.name for one in header.classes)}.",
        f"- images: {header.channels} channel(s) of {scale.types}, pixels of {pixels}",
        *([f"- {scale.words}: scale the whole image so before it is cut into tiles"] if scale.words else []),
        f"- normalised by the network itself: mean {list(scale.mean)}, std {list(scale.std)}",
        f"- tiles need a halo of {view.before} px; those that start at multiples of {view.divisor} px show no seams",
        f"- between two classes the line is drawn at a probability of {header.threshold}",
        f"- licence: {header.licence or 'not stated'}",
        "## Validation",
        f"Scores on held-out images: {scores}." if scores else "No scores were recorded; compare it with your labels.",
        "Exported by tilesegment; the test tensors are random grey values.",
    ]
    return "\n\n".join(lines) + "\n"
