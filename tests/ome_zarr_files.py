"""OME-Zarr images as other programs write them: with and without scales, in any version."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr


def transformations(scale: Sequence[float] | None = None, translation: Sequence[float] | None = None) -> dict[str, Any]:
    """The `coordinateTransformations` of a level or image, to be merged into its description; nothing of nothing."""
    named = [("scale", scale), ("translation", translation)]
    listed = [{"type": kind, kind: [float(n) for n in numbers]} for kind, numbers in named if numbers is not None]
    return {"coordinateTransformations": listed} if listed else {}


def axes_of(letters: str, units: dict[str, str] | None = None) -> list[dict[str, str]]:
    """The axes `letters`, with `units` by letter."""
    kinds = {"t": "time", "c": "channel"}
    given = units or {}
    return [{"name": a, "type": kinds.get(a, "space")} | ({"unit": given[a]} if a in given else {}) for a in letters]


def write_image(
    path: Path,
    levels: Sequence[np.ndarray],
    version: str = "0.5",
    *,
    axes: Any = None,
    described: Sequence[dict[str, Any]] = (),
    **more: Any,
) -> Path:
    """Writes an OME-Zarr image.

    Args:
        path: of its group.
        levels: its arrays, the finest first.
        version: up to 0.4 in Zarr v2.
        axes: as the metadata has them; None for none, as in 0.1 and 0.2.
        described: what the metadata says of each level besides its path.
        more: what it says of the whole image.
    """
    is_v3 = version >= "0.5"
    about = [{"path": str(n)} | dict(one) for n, one in enumerate([*described, *[{}] * len(levels)][: len(levels)])]
    image: dict[str, Any] = {"datasets": about} | ({} if axes is None else {"axes": axes}) | more
    if is_v3:
        attributes: dict[str, Any] = {"ome": {"version": version, "multiscales": [image]}}
    else:
        attributes = {"multiscales": [image | {"version": version}]}
    group = zarr.open_group(path, mode="w", zarr_format=3 if is_v3 else 2, attributes=attributes)
    for n, pixels in enumerate(levels):
        chunks = (1,) * (pixels.ndim - 2) + tuple(min(side, 256) for side in pixels.shape[-2:])
        group.create_array(str(n), data=pixels, chunks=chunks)
    return path


def means(pixels: np.ndarray, count: int) -> list[np.ndarray]:
    """`pixels` and `count - 1` levels of the means of 2 x 2 pixels each; their last two dimensions are y and x."""
    levels = [pixels]
    while len(levels) < count:
        last = levels[-1]
        height, width = (side // 2 * 2 for side in last.shape[-2:])
        cells = last[..., :height, :width].reshape(*last.shape[:-2], height // 2, 2, width // 2, 2)
        levels.append(cells.mean((-3, -1)).astype(pixels.dtype))
    return levels


def placement(path: Path, level: int = 0) -> tuple[list[float], list[float], list[str | None]]:
    """Scale and translation of a level of a mask, and the units of its axes."""
    attributes: dict[str, Any] = dict(zarr.open_group(path, mode="r", use_consolidated=False).attrs)
    (image,) = attributes.get("ome", attributes)["multiscales"]
    found = {one["type"]: one[one["type"]] for one in image["datasets"][level]["coordinateTransformations"]}
    return found["scale"], found["translation"], [axis.get("unit") for axis in image["axes"]]


def consolidate(path: Path) -> None:
    """Writes consolidated metadata."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # in v3 it is not part of the specification yet
        zarr.consolidate_metadata(path)


def consolidated(path: Path) -> zarr.Group:
    """The group in `path`, as its consolidated metadata has it."""
    return zarr.open_group(path, mode="r", use_consolidated=True)
