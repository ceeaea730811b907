"""What a file is: an image, a mask or a model, in a few facts."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilesegment.images import open_image
from tilesegment.masks import Mask, find_mask
from tilesegment.models import TRAINED, bundled_models
from tilesegment.models.header import ModelHeader, read_header

# others' suffixes too: that their files are not opened is said better as of a model than as of an image
_MODELS = (".safetensors", ".pt", ".pth", ".ckpt", ".pkl")
_FOREIGN = (".onnx", ".zip")
_DESCRIBED = ("rdf.yaml", "bioimageio.yaml")


def describe(
    path: str | Path,
    *,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    series: int | None = None,
) -> dict[str, Any]:
    """Facts about an image, a mask or a model, as plain JSON values; `kind` says which of them it is.

    Args:
        path: a file, a Zarr folder, or the name of a bundled model.
        axes, select, series: how to read an image, see `open_image`.

    Raises:
        ImageError, MaskError, ModelError: it is none of them, or damaged.
    """
    path = Path(path)
    if _is_model(path):
        return _described_model(path)
    mask = find_mask(path)
    return _image(path, axes=axes, select=select, series=series) if mask is None else _mask(mask)


def kind_of(path: str | Path) -> str:
    """Return "model", "mask" or "image"; whatever else there is, or is not, is an image."""
    path = Path(path)
    return "model" if _is_model(path) else "image" if find_mask(path) is None else "mask"


def _is_model(path: Path) -> bool:
    is_ours = str(path) in bundled_models() or os.path.isfile(path / TRAINED) or path.suffix in _MODELS
    return is_ours or _is_foreign(path)


def _is_foreign(path: Path) -> bool:
    return (
        path.suffix.lower() in _FOREIGN
        or path.name in _DESCRIBED
        or any((path / name).is_file() for name in _DESCRIBED)
    )


def _described_model(path: Path) -> dict[str, Any]:
    bundled = bundled_models()
    if str(path) in bundled:
        return _model(str(path), read_header(bundled[str(path)]))
    if os.path.isfile(path / TRAINED):  # the folder of a training run
        path /= TRAINED
    if _is_foreign(path):
        from tilesegment.models.model import Model

        return _model(str(path), Model.load(path).header)
    return _model(str(path), read_header(path))


def _image(path: Path, **reading: Any) -> dict[str, Any]:
    with open_image(path, **reading) as source:
        size, depth = source.pixel_size, source.frame.z
        facts: dict[str, Any] = {
            "kind": "image",
            "path": str(path),
            "format": source.format,
            "shape_yx": list(source.shape),
            "planes": source.depth,
            "channels": source.channels,
            "dtype": str(source.stored_dtype),
            "pixel_size_um": None if size is None else [size.y, size.x],
            "levels": [list(level.shape) for level in source.levels],
        }
        if source.depth is not None:
            facts["plane_spacing_um"] = depth.scale if depth.unit else None
        if source.contents:
            facts["series"] = list(source.contents)
        return facts | ({"notes": list(source.notes)} if source.notes else {})


def _mask(mask: Mask) -> dict[str, Any]:
    size = mask.spec.pixel_size
    # of the pixels in all planes
    level, found = mask.class_shares()
    shares, pixels = (
        {str(n): share for n, share in enumerate(found)},
        (mask.spec.depth or 1) * math.prod(mask.spec.shape),
    )
    return {
        "kind": "mask",
        "path": str(mask.path),
        "format": mask.format,
        "shape_yx": list(mask.spec.shape),
        "planes": mask.spec.depth,
        "pixel_size_um": None if size is None else [size.y, size.x],
        "levels": len(mask.levels),
        "block": mask.spec.block,
        "classes": {str(n): one.name for n, one in enumerate(mask.spec.classes)},
        "counted_at_level": level,
        "shares": shares,
        "areas_um2": None if size is None else {n: share * pixels * size.y * size.x for n, share in shares.items()},
        "fingerprint": dict(mask.spec.fingerprint),
        "provenance": dict(mask.spec.provenance),
    }


def _model(name: str, header: ModelHeader) -> dict[str, Any]:
    training = dict(header.training)
    size = header.pixel_size
    return {
        "kind": "model",
        "path": name,
        "name": header.name,
        "licence": header.licence,
        "network": header.network,
        "arguments": dict(header.arguments),
        "channels": header.channels,
        "dtype": header.normalisation.dtype,
        "pixel_size_um": None if size is None else [size.y, size.x],
        "classes": {str(n): one.name for n, one in enumerate(header.classes)},
        "threshold": header.threshold,
        "scores": training.pop("scores", None),
        "training": training,
        "weights_sha256": header.weights_sha256,
    }
