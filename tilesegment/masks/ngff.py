"""OME-Zarr metadata, versions 0.4 and 0.5: a mask's documents, and what is needed of the image it is added to."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import ImageError, MaskError
from tilesegment.masks.disk import Group, read_shape
from tilesegment.masks.grid import halved_side
from tilesegment.masks.spec import MaskSpec
from tilesegment.metadata import Frame, Spacing
from tilesegment.ome_zarr.metadata import read_multiscale
from tilesegment.units import MICROMETRE, micrometres

ZARR_FORMAT = {"0.4": 2, "0.5": 3}
_DARK, _GREY = 80, "808080"  # largest part of a colour that hardly shows on black; what is drawn in its place
MAX_HALVINGS = 64  # no image has a side of 2^64 pixels
_WITHOUT_SCALES = ("0.1", "0.2", "0.3")


@dataclass(frozen=True)
class HostImage:
    """The OME-Zarr image that a mask is added to.

    Attributes:
        version: of the metadata that its labels get, `0.4` or `0.5`.
        frame: of its level 0, in its own units.
        halvings: how often each level is half as large as level 0.
        floor: whether the sides of its levels are rounded down, see `Grid`.
    """

    version: str
    frame: Frame
    halvings: tuple[int, ...]
    floor: bool = False


def host_image(path: Path, group: Group) -> HostImage:
    """What the metadata of the image in folder `path` says.

    Labels of 0.1 to 0.3, whose metadata does not say how large pixels are, are written as 0.4, in the same Zarr.

    Raises:
        MaskError: it is no OME-Zarr image of version 0.1 to 0.5, or its levels do not shrink by powers of two.
    """
    advice = "write the mask to a .zarr of its own"
    try:
        image = read_multiscale(str(path), group.attributes)
    except ImageError as error:
        raise MaskError(f"{path} is no OME-Zarr image that takes masks ({error}); {advice}") from error
    if image is None:
        raise MaskError(
            f"{path} is no OME-Zarr image; {advice}, or name an image in it, as {path / '0' / 'labels' / 'NAME'}"
        )
    version = "0.4" if image.version in _WITHOUT_SCALES else image.version
    if ZARR_FORMAT.get(version) != group.format:
        raise MaskError(f"{path} is OME-Zarr {version} in Zarr {group.format}, which takes no masks; {advice}")
    y, x = image.axes.index("y"), image.axes.index("x")
    shapes = [_shape(path / name, len(image.axes)) for name in image.paths]
    planes = [(shape[y], shape[x]) for shape in shapes]
    factors, _ = image.reductions(planes)
    halvings = tuple(_halvings(factor) for factor in factors)
    if -1 in halvings or halvings != tuple(sorted(halvings)) or halvings[-1] >= MAX_HALVINGS:
        raise MaskError(f"the levels of {path} do not shrink by powers of two; {advice}")
    return HostImage(version, image.frame(), halvings, _is_floor(planes, halvings))


def _is_floor(planes: list[tuple[int, int]], halvings: tuple[int, ...]) -> bool:
    """Whether levels of the sizes `planes` (height, width) are rounded down, and not as well up."""
    down, up = (
        all(
            side == halved_side(whole, count, floor)
            for plane, count in zip(planes, halvings, strict=True)
            for side, whole in zip(plane, planes[0], strict=True)
        )
        for floor in (True, False)
    )
    return down and not up


def _shape(level: Path, dimensions: int) -> tuple[int, ...]:
    shape = read_shape(level)
    if shape is None or len(shape) != dimensions or min(shape) < 1:
        raise MaskError(
            f"{level.parent} is no OME-Zarr image that takes masks: level {level.name} is missing or is no array of "
            f"{dimensions} dimensions; write the mask to a .zarr of its own"
        )
    return shape


def _halvings(factors: tuple[float, float]) -> int:
    """How often a level reduced by `factors` (y, x) is halved; -1 if it is no power of two, or another one along x.

    Factors are often ratios of rounded sizes, so they need only be near a power of two.
    """
    exact = [math.log2(factor) for factor in factors]
    nearest = {round(number) if abs(number - round(number)) < 0.25 else -1 for number in exact}
    return nearest.pop() if len(nearest) == 1 else -1


def frame_of(spec: MaskSpec, host: HostImage | None) -> Frame:
    """Where the pixels of a mask lie: in the units of the image that it is added to, else in those of its own image."""
    image = spec.frame if host is None else host.frame
    sizes = (None, None) if spec.pixel_size is None else (spec.pixel_size.y, spec.pixel_size.x)
    return Frame(
        _placed(image.z, 1, None, spec.first_plane),
        _placed(image.y, spec.scale[0], sizes[0], spec.offset[0]),
        _placed(image.x, spec.scale[1], sizes[1], spec.offset[1]),
    )


def _placed(image: Spacing, factor: float, size: float | None, first: float) -> Spacing:
    """The spacing along an axis of a mask.

    Args:
        image: that of the image.
        factor: pixels of the image that one of the mask stands for.
        size: of a pixel of the mask, in micrometres; None if it is not known.
        first: where the mask begins, in pixels of the mask.
    """
    scale, unit, per = image.scale * factor, image.unit, micrometres(image.unit)
    if size is not None and per is None and image == Spacing():
        scale, unit = size, MICROMETRE
    elif size is not None and per is not None and not math.isclose(scale, size / per, rel_tol=1e-3):
        scale = size / per  # the mask is of another image than the one that it is added to
    return Spacing(scale, image.origin + first * scale, unit)


def multiscales(name: str, axes: str, frame: Frame, halvings: tuple[int, ...]) -> dict[str, Any]:
    """The `multiscales` entry of an array of `axes` (`yx` to `czyx`) whose levels are halved `halvings` times."""
    spacings = {"c": Spacing(), "z": frame.z, "y": frame.y, "x": frame.x}
    described: list[dict[str, str]] = []
    for axis in axes:
        described.append({"name": axis, "type": "channel" if axis == "c" else "space"})
        if unit := spacings[axis].unit:
            described[-1]["unit"] = unit
    datasets = []
    for level, count in enumerate(halvings):
        factor = {"c": 1, "z": 1, "y": 2**count, "x": 2**count}
        scale = {axis: spacings[axis].scale for axis in axes}
        # the first pixel of a level covers `factor` pixels of level 0: its centre lies between them
        centre = [spacings[axis].origin + (factor[axis] - 1) / 2 * scale[axis] for axis in axes]
        transformations = [
            {"type": "scale", "scale": [scale[axis] * factor[axis] for axis in axes]},
            {"type": "translation", "translation": centre},
        ]
        datasets.append({"path": str(level), "coordinateTransformations": transformations})
    return {"name": name, "axes": described, "datasets": datasets}


def label_document(spec: MaskSpec, version: str, image: str | None) -> dict[str, Any]:
    """The `image-label` object: names and colours of the ids; `image` is the way to the image that it belongs to.

    Class 0 is background by the field's custom, and drawn transparent.
    """
    colours = [{"label-value": i, "rgba": [*c.rgb, 255 if i else 0]} for i, c in enumerate(spec.classes)]
    names = [{"label-value": i, "name": c.name} for i, c in enumerate(spec.classes)]
    document: dict[str, Any] = {"version": version, "colors": colours, "properties": names}
    return document if image is None else document | {"source": {"image": image}}


def channels_document(spec: MaskSpec, most: float) -> dict[str, Any]:
    """The `omero` object of probabilities: one channel a class, shown from 0 to `most`, which stands for 1.

    Viewers add the channels up from black, on which a dark class would not show: it is grey.
    """
    window = {"start": 0.0, "end": most, "min": 0.0, "max": most}
    channels = []
    for one in spec.classes:
        colour = one.colour[1:].upper() if max(one.rgb) >= _DARK else _GREY
        channels.append({"label": one.name, "color": colour, "active": True, "window": window})
    return {"channels": channels}


def attributes(version: str, multiscale: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """The attributes of a group: under `ome` in 0.5, on the top level in 0.4."""
    if version == "0.5":
        return {"ome": {"version": version, "multiscales": [multiscale], **extra}}
    return {"multiscales": [multiscale | {"version": version}], **extra}


def with_label(group: Group | None, name: str, version: str) -> Group:
    """The group `labels` with `name` among its labels.

    Raises:
        MaskError: the list of labels is none.
    """
    old = Group(ZARR_FORMAT[version], {}) if group is None else group
    holder = old.attributes.get("ome", {}) if old.format == 3 else old.attributes
    labels = holder.get("labels", []) if isinstance(holder, dict) else None
    if not isinstance(labels, list):
        raise MaskError(f"cannot add the label {name}: the list of labels in the image's metadata is damaged")
    new = labels if name in labels else [*labels, name]
    if old.format == 3:
        return Group(3, old.attributes | {"ome": {"version": version} | holder | {"labels": new}})
    return Group(2, old.attributes | {"labels": new})
