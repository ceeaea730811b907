"""Zarr groups that hold images without being one: what is in them, and which image is meant."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tilesegment.errors import ImageError
from tilesegment.images.contents import chosen_series
from tilesegment.images.zarr_metadata import is_array, node
from tilesegment.ome_zarr.metadata import read_multiscale

_SHOWN = 8  # names in a message


def image_within(path: str, attributes: Mapping[str, Any], series: int | None = None) -> str:
    """The folder of an image of a group written by bioformats2raw, which numbers its images: the only one, or `series`.

    Args:
        path, attributes: of a group that is no image itself.
        series: number of the image, None if it was not chosen.

    Raises:
        ImageError: the group holds several images, or is of another kind; the message says what to name.
    """
    ome = attributes.get("ome", attributes)
    known = ome if isinstance(ome, Mapping) else {}
    if isinstance(known.get("plate"), Mapping):
        raise ImageError(_plate(path, known["plate"]))
    if isinstance(known.get("well"), Mapping):
        raise ImageError(_well(path, known["well"]))
    if "spatialdata_attrs" in attributes:
        raise ImageError(_spatial_data(path))
    images = _series(Path(path)) if "bioformats2raw.layout" in known else []
    if images and (len(images) == 1 or series is not None):
        return f"{path.rstrip('/')}/{images[chosen_series(path, series, images, 0)]}"
    if images:
        raise ImageError(
            f"{path} holds {len(images)} images (series): choose one with --series N, or {_choice(path, images)}"
        )
    below = _members(Path(path))
    hint = f"{_choice(path, below)}" if below else "it is empty"
    raise ImageError(f"{path} is a Zarr group without an OME-Zarr image: {hint}")


def _members(folder: Path) -> list[str]:
    """Names of the arrays and groups in `folder`, numbers in their order."""
    found = [p.name for p in folder.iterdir() if p.is_dir() and node(p)] if folder.is_dir() else []
    return sorted(found, key=lambda name: (not name.isdecimal(), int(name) if name.isdecimal() else 0, name))


def _series(folder: Path) -> list[str]:
    """Names of the OME-Zarr images in `folder`."""
    images = []
    for name in _members(folder):
        meta, attributes = node(folder / name) or ({}, {})
        if not is_array(meta) and read_multiscale(str(folder / name), attributes) is not None:
            images.append(name)
    return images


def _choice(path: str, names: list[str]) -> str:
    more = ", ..." if len(names) > _SHOWN else ""
    return f"name one of {', '.join(names[:_SHOWN])}{more} in it, as {path.rstrip('/')}/{names[0]}"


def _plate(path: str, plate: Mapping[str, Any]) -> str:
    """What to say of a plate of a high-content screen, whose images are fields of view in wells."""
    wells = _paths(plate.get("wells"))
    example = f"{path.rstrip('/')}/{wells[0]}/0" if wells else f"{path.rstrip('/')}/ROW/COLUMN/FIELD"
    return f"{path} is a plate of {len(wells)} wells: name one field of a well, as {example}"


def _well(path: str, well: Mapping[str, Any]) -> str:
    fields = _paths(well.get("images")) or ["FIELD"]
    return f"{path} is a well of {len(fields)} fields of a plate: {_choice(path, fields)}"


def _paths(items: Any) -> list[str]:
    """The `path` of each of the items that have one that can be printed."""
    found = [str(item.get("path")) for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    return [name for name in found if name.isprintable() and len(name) < 100]


def _spatial_data(path: str) -> str:
    images = [f"images/{name}" for name in _members(Path(path) / "images")]
    return f"{path} is a SpatialData store: {_choice(path, images) if images else 'it holds no images'}"
