"""OME-Zarr metadata, versions 0.4 and 0.5: a mask's documents, and what is needed of the image it is added to."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.masks.disk import Group
from tilesegment.masks.spec import MaskSpec

ZARR_FORMAT = {"0.4": 2, "0.5": 3}
_DARK, _GREY = 80, "808080"  # largest part of a colour that hardly shows on black; what is drawn in its place
MAX_HALVINGS = 64  # no image has a side of 2^64 pixels
_PER_MICROMETRE = {"angstrom": 1e4, "nanometer": 1e3, "micrometer": 1.0, "millimeter": 1e-3, "meter": 1e-6}


@dataclass(frozen=True)
class HostImage:
    """The OME-Zarr image that a mask is added to.

    Attributes:
        version: of its metadata, `0.4` or `0.5`.
        unit: of its y axis, None if it has none.
        scale, origin: of its level 0 by axis name, in its unit.
        halvings: how often each level is half as large as level 0.
    """

    version: str
    unit: str | None
    scale: Mapping[str, float]
    origin: Mapping[str, float]
    halvings: tuple[int, ...]


@dataclass(frozen=True)
class Frame:
    """Where the pixels of level 0 lie: spacing and centre of the first one by axis name (z, y, x), in `unit`."""

    scale: Mapping[str, float]
    origin: Mapping[str, float]
    unit: str | None


def host_image(path: Path, group: Group) -> HostImage:
    """What the metadata of the image in folder `path` says.

    Raises:
        MaskError: it is no OME-Zarr image of version 0.4 or 0.5, or its levels do not shrink by powers of two.
    """
    ome = group.attributes.get("ome", {}) if group.format == 3 else group.attributes
    try:
        image = ome["multiscales"][0]
        version = str((ome if group.format == 3 else image)["version"])
        axes = {str(axis["name"]): axis.get("unit") for axis in image["axes"]}
        levels = [_placement(dataset, tuple(axes)) for dataset in image["datasets"]]
        halvings = tuple(_halvings(scale, levels[0][0]) for scale, _ in levels)
        host = HostImage(version, axes["y"], *levels[0], halvings)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise MaskError(f"{path} is no OME-Zarr image ({error!r}); write the mask to a .zarr of its own") from error
    if ZARR_FORMAT.get(version) != group.format:
        raise MaskError(f"{path} is OME-Zarr {version}; masks can be added to 0.4 and 0.5, or be a .zarr of their own")
    if -1 in halvings or halvings != tuple(sorted(halvings)) or halvings[-1] >= MAX_HALVINGS:
        raise MaskError(f"the levels of {path} do not shrink by powers of two; write the mask to a .zarr of its own")
    return host


def _placement(dataset: Mapping[str, Any], axes: tuple[str, ...]) -> tuple[dict[str, float], dict[str, float]]:
    """Scale and translation of a level by axis name."""
    found = {item["type"]: item for item in dataset["coordinateTransformations"]}
    scale = [float(number) for number in found["scale"]["scale"]]
    origin = [float(number) for number in found.get("translation", {}).get("translation", [0] * len(axes))]
    if not all(map(math.isfinite, scale + origin)) or min(scale) <= 0:
        raise ValueError("a scale or translation is not finite and positive")
    return dict(zip(axes, scale, strict=True)), dict(zip(axes, origin, strict=True))


def _halvings(scale: Mapping[str, float], first: Mapping[str, float]) -> int:
    """How often a level of `scale` is half of the first; -1 if it is no power of two, or another one along x.

    Scales are often ratios of rounded sizes, so they need only be near a power of two.
    """
    exact = [math.log2(scale[axis] / first[axis]) for axis in "yx"]
    nearest = {round(number) if abs(number - round(number)) < 0.25 else -1 for number in exact}
    return nearest.pop() if len(nearest) == 1 else -1


def frame_of(spec: MaskSpec, host: HostImage | None) -> Frame:
    """Where a mask lies: in the unit and from the origin of the image that it is added to, else in micrometres."""
    size, per = spec.pixel_size, 1.0
    unit = None if size is None else "micrometer"
    scale = {"z": 1.0, "y": 1.0, "x": 1.0}
    origin = dict.fromkeys("zyx", 0.0)
    if host is not None:
        if host.unit in _PER_MICROMETRE or size is None:
            unit, per = host.unit, _PER_MICROMETRE.get(host.unit or "", 1.0)
        scale |= {axis: host.scale[axis] for axis in "zyx" if axis in host.scale}
        origin |= {axis: host.origin[axis] for axis in "zyx" if axis in host.origin}
    if size is not None:
        scale |= {"y": size.y * per, "x": size.x * per}
    else:
        scale |= {axis: scale[axis] * factor for axis, factor in zip("yx", spec.scale, strict=True)}
    for axis, pixels in zip("zyx", (spec.first_plane, *spec.offset), strict=True):
        origin[axis] += pixels * scale[axis]
    return Frame(scale, origin, unit)


def multiscales(name: str, axes: str, frame: Frame, halvings: tuple[int, ...]) -> dict[str, Any]:
    """The `multiscales` entry of an array of `axes` (`yx` to `czyx`) whose levels are halved `halvings` times."""
    described: list[dict[str, str]] = []
    for axis in axes:
        described.append({"name": axis, "type": "channel" if axis == "c" else "space"})
        if axis != "c" and frame.unit is not None:
            described[-1]["unit"] = frame.unit
    datasets = []
    for level, count in enumerate(halvings):
        factor = {"c": 1, "z": 1, "y": 2**count, "x": 2**count}
        scale = {axis: frame.scale.get(axis, 1.0) for axis in axes}
        # the first pixel of a level covers `factor` pixels of level 0: its centre lies between them
        centre = [frame.origin.get(axis, 0.0) + (factor[axis] - 1) / 2 * scale[axis] for axis in axes]
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
