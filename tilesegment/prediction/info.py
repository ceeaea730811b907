"""Facts about a file: an image, a mask or a model."""

import math
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tilesegment.errors import PlanError
from tilesegment.images import ImageSource, Level, open_image
from tilesegment.masks import Mask, find_mask
from tilesegment.metadata import PixelSize
from tilesegment.models import PACKAGED, TRAINED, WEIGHTS, bundled_models
from tilesegment.models.header import ModelHeader, read_header
from tilesegment.stores import Options, Place, place_of

_FOREIGN = (".onnx", ".zip")


def describe(
    path: str | Path,
    *,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    series: int | None = None,
    store_options: Options = (),
    tissue: bool = False,
) -> dict[str, Any]:
    """Return facts about an image, a mask or a model as JSON values; `kind` says which of them it is.

    Args:
        path: a file, a Zarr folder, the name of a bundled model, or the URL of an image or a mask.
        axes, select, series, store_options: how to read an image, see `open_image`.
        tissue: also measure how much of an image is tissue.

    Raises:
        PlanError: the tissue of a mask or a model is asked for.
        ImageError, MaskError, ModelError: it is none of them, or damaged.
    """
    place = place_of(path, store_options)
    is_model = isinstance(place, Path) and _is_model(place)
    mask = None if is_model else find_mask(place)
    is_image = mask is None and not is_model
    if tissue and not is_image:
        raise PlanError(
            f"--tissue is about images, and {place} is a {'model' if mask is None else 'mask'}: leave it out"
        )
    if is_image:
        return _image(place, tissue, axes=axes, select=select, series=series)
    if mask is not None:
        return _mask(mask)
    assert isinstance(place, Path)
    return _model(place)


def _is_model(path: Path) -> bool:
    # weights that only `import` takes count too: the error of the model reader fits them better than that of an image
    is_ours = str(path) in bundled_models() or os.path.isfile(path / TRAINED) or path.suffix in WEIGHTS
    return is_ours or _is_foreign(path)


def _is_foreign(path: Path) -> bool:
    names = {path.name, *(name for name in PACKAGED if (path / name).is_file())}
    return path.suffix.lower() in _FOREIGN or not names.isdisjoint(PACKAGED)


def _image(path: Place, tissue: bool, **reading: Any) -> dict[str, Any]:
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
            "levels": [_level(level, size) for level in source.levels],
        }
        about = source.about
        facts |= {"vendor": about.vendor} if about.vendor else {}
        facts |= {"objective": about.objective} if about.objective else {}
        facts |= (
            {"associated": {name: list(shape) for name, shape in about.associated.items()}} if about.associated else {}
        )
        if source.depth is not None:
            facts["plane_spacing_um"] = depth.scale if depth.unit else None
        if source.contents:
            facts["series"] = list(source.contents)
        facts |= {"tissue": _tissue(source)} if tissue else {}
        return facts | ({"notes": list(source.notes)} if source.notes else {})


def _tissue(source: ImageSource) -> dict[str, float | None]:
    """Return the share of tissue, glass, pen marks and blur, from 0 to 1, over all planes; None where it is unknown."""
    from tilesegment.prediction.tissue import colours_of, mean_shares, tissue_of

    channels, planes = colours_of(source), range(source.depth or 1)
    shares = asdict(mean_shares(tissue_of(source, channels, z).shares for z in planes))
    glass = shares["glass"]
    found = {"share": None if glass is None else 1 - glass} | shares
    return {name: None if share is None else round(share, 4) for name, share in found.items()}


def _level(level: Level, size: PixelSize | None) -> dict[str, Any]:
    """Return the size of a level, and that of its pixels if `size`, of level 0, is known."""
    own = (
        None
        if size is None
        else [round(side * scale, 9) for side, scale in zip((size.y, size.x), level.scale, strict=True)]
    )
    return {"shape_yx": list(level.shape), "pixel_size_um": own}


def _mask(mask: Mask) -> dict[str, Any]:
    size, spec = mask.spec.pixel_size, mask.spec
    level, found = mask.class_shares()
    shares, pixels = {str(n): share for n, share in enumerate(found)}, (spec.depth or 1) * math.prod(spec.shape)
    return {
        "kind": "mask",
        "path": str(mask.path),
        "format": mask.format,
        "shape_yx": list(spec.shape),
        "planes": spec.depth,
        "pixel_size_um": None if size is None else [size.y, size.x],
        "levels": len(mask.levels),
        "block": spec.block,
        "classes": {str(n): one.name for n, one in enumerate(spec.classes)},
        "counted_at_level": level,
        "shares": shares,
        "areas_um2": None if size is None else {n: share * pixels * size.y * size.x for n, share in shares.items()},
        "fingerprint": dict(spec.fingerprint),
        "provenance": dict(spec.provenance),
    }


def _model(path: Path) -> dict[str, Any]:
    if os.path.isfile(path / TRAINED):  # the folder of a training run
        path /= TRAINED
    header = _header(path)
    training, size = dict(header.training), header.pixel_size
    return {
        "kind": "model",
        "path": str(path),
        "name": header.name,
        "licence": header.licence,
        "network": header.network,
        "arguments": dict(header.arguments),
        "channels": header.channels,
        "dtype": header.normalisation.types,
        "grey_values": header.normalisation.words or "normalised by the mean and spread of the training images",
        "ground": header.ground,
        "pixel_size_um": None if size is None else [size.y, size.x],
        "diameter_px": None if header.diameter is None else round(header.diameter, 2),
        "classes": {str(n): one.name for n, one in enumerate(header.classes)},
        "threshold": header.threshold,
        "scores": training.pop("scores", None),
        "training": training,
        "weights_sha256": header.weights_sha256,
    }


def _header(path: Path) -> ModelHeader:
    bundled = bundled_models()
    if str(path) in bundled:
        return read_header(bundled[str(path)])
    if _is_foreign(path):
        from tilesegment.models.model import Model  # which imports torch

        return Model.load(path).header
    return read_header(path)
