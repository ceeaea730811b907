"""OME-Zarr metadata to write, 0.4 and 0.5: of masks, probabilities and the labels of an image."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import ImageError, MaskError
from tilesegment.files import in_turn
from tilesegment.metadata import Frame, LabelClass, Spacing, halved_side
from tilesegment.ome_zarr.multiscale import read_multiscale
from tilesegment.ome_zarr.node import METADATA, Node, group_file, read_json, read_node, write_json

ZARR_FORMAT = {"0.4": 2, "0.5": 3}
MAX_HALVINGS = 64  # no image has a side of 2^64 pixels
_DARK, _GREY = 80, "808080"  # colours whose largest part is less hardly show on black: they become grey
_WITHOUT_SCALES = ("0.1", "0.2", "0.3")
_OWN_ZARR = "write the mask to a separate .zarr"
_DEEPEST = 8  # groups within groups


@dataclass(frozen=True)
class HostImage:
    """The OME-Zarr image that a mask is added to.

    Attributes:
        version: of the metadata that its labels get, `0.4` or `0.5`.
        frame: of its level 0, in its own units.
        halvings: how often each level is half as large as level 0.
        floor: whether the sides of its levels are rounded down.
    """

    version: str
    frame: Frame
    halvings: tuple[int, ...]
    floor: bool = False


def host_image(path: Path, node: Node) -> HostImage:
    """Describe the image in folder `path`, to which a mask is added.

    Labels of 0.1 to 0.3, whose metadata does not give the pixel size, are written as 0.4, in the same Zarr.

    Raises:
        MaskError: it is not an OME-Zarr image of version 0.1 to 0.5, or its levels do not shrink by powers of two.
    """
    try:
        image = read_multiscale(str(path), node)
    except ImageError as error:
        raise MaskError(f"{path} is no OME-Zarr image that takes masks ({error}); {_OWN_ZARR}") from error
    if image is None:
        example = path / "0" / "labels" / "NAME"
        raise MaskError(f"{path} is no OME-Zarr image; {_OWN_ZARR}, or name an image in it, as {example}")
    version = "0.4" if image.version in _WITHOUT_SCALES else image.version
    if ZARR_FORMAT.get(version) != node.format:
        raise MaskError(f"{path} is OME-Zarr {version} in Zarr {node.format}, which takes no masks; {_OWN_ZARR}")
    y, x = image.axes.index("y"), image.axes.index("x")
    shapes = [_shape(path / name, len(image.axes)) for name in image.paths]
    planes = [(shape[y], shape[x]) for shape in shapes]
    halvings = tuple(_halvings(factor) for factor in image.reductions(planes)[0])
    if -1 in halvings or halvings != tuple(sorted(halvings)) or halvings[-1] >= MAX_HALVINGS:
        raise MaskError(f"the levels of {path} do not shrink by powers of two; {_OWN_ZARR}")
    return HostImage(version, image.frame(), halvings, _is_floor(planes, halvings))


def _is_floor(planes: list[tuple[int, int]], halvings: tuple[int, ...]) -> bool:
    """Return whether the sizes of the levels can only have been rounded down."""

    def fits(floor: bool) -> bool:
        return all(
            plane == tuple(halved_side(side, count, floor) for side in planes[0])
            for plane, count in zip(planes, halvings, strict=True)
        )

    return fits(True) and not fits(False)


def _shape(level: Path, dimensions: int) -> list[int]:
    node = read_node(level, MaskError)
    shape = [] if node is None else node.document.get("shape")
    if not isinstance(shape, list) or not all(type(n) is int and n > 0 for n in shape) or len(shape) != dimensions:
        raise MaskError(
            f"{level.parent} is no OME-Zarr image that takes masks: level {level.name} is missing, damaged, or no "
            f"array of {dimensions} dimensions; {_OWN_ZARR}"
        )
    return shape


def _halvings(factors: tuple[float, float]) -> int:
    """Return how often a level reduced by `factors` (y, x) is halved; -1 if by no power of two, or two different ones.

    Factors are often ratios of rounded sizes, so they need only be near a power of two.
    """
    exact = [math.log2(factor) for factor in factors]
    nearest = {round(number) if abs(number - round(number)) < 0.25 else -1 for number in exact}
    return nearest.pop() if len(nearest) == 1 else -1


def multiscales(name: str, axes: str, frame: Frame, halvings: tuple[int, ...], prefix: str = "") -> dict[str, Any]:
    """Return the `multiscales` entry of an array of `axes` (`yx` to `czyx`).

    Its levels are halved `halvings` times, and called `prefix` and their number.
    """
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
        datasets.append({"path": f"{prefix}{level}", "coordinateTransformations": transformations})
    return {"name": name, "axes": described, "datasets": datasets}


def label_document(classes: Sequence[LabelClass], version: str, image: str | None) -> dict[str, Any]:
    """Return the `image-label` object: names and colours of the ids; `image` is the path to the image it belongs to.

    Class 0 is background by the field's custom, and drawn transparent. Without `classes` viewers choose the colours.
    """
    document: dict[str, Any] = {"version": version}
    if classes:
        document["colors"] = [{"label-value": i, "rgba": [*c.rgb, 255 if i else 0]} for i, c in enumerate(classes)]
        document["properties"] = [{"label-value": i, "name": c.name} for i, c in enumerate(classes)]
    return document if image is None else document | {"source": {"image": image}}


def channels_document(classes: Sequence[LabelClass], most: float) -> dict[str, Any]:
    """Return the `omero` object of probabilities: one channel per class, from 0 to `most`, which stands for 1.

    Viewers add the channels up from black, on which a dark class would not show: it is grey.
    """
    window = {"start": 0.0, "end": most, "min": 0.0, "max": most}
    colours = [one.colour[1:].upper() if max(one.rgb) >= _DARK else _GREY for one in classes]
    return {
        "channels": [
            {"label": one.name, "color": colour, "active": True, "window": window}
            for one, colour in zip(classes, colours, strict=True)
        ]
    }


def attributes(version: str, multiscale: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    """Return the attributes of a group: under `ome` in 0.5, on the top level in 0.4."""
    if version == "0.5":
        return {"ome": {"version": version, "multiscales": [multiscale], **extra}}
    return {"multiscales": [multiscale | {"version": version}], **extra}


def with_label(group: Node | None, name: str, version: str) -> Node:
    """Return the group `labels` with `name` among its labels."""
    old = Node(ZARR_FORMAT[version], {}) if group is None else group
    holder = old.attributes.get("ome", {}) if old.format == 3 else old.attributes
    labels = holder.get("labels", []) if isinstance(holder, dict) else None
    if not isinstance(labels, list):
        raise MaskError(f"cannot add the label {name}: the list of labels in the image's metadata is damaged")
    new = {"labels": labels if name in labels else [*labels, name]}
    more = {"ome": {"version": version} | holder | new} if old.format == 3 else new
    return Node(old.format, old.attributes | more)


def update_consolidated(labels: Path) -> None:
    """Bring consolidated metadata up to date below the group `labels`, in it and in all groups around it.

    Programs read these copies in place of the metadata itself: to them, what is missing there does not exist. Groups
    without copies stay without. `zarr.consolidate_metadata` would read a whole plate, and list masks in progress.

    Raises:
        MaskError: a copy is damaged, or cannot be replaced.
    """
    groups: list[Path] = []
    group = labels
    while len(groups) < _DEEPEST and any((group / name).is_file() for name in (*METADATA, ".zmetadata")):
        groups.append(group)
        group = group.parent
    with ExitStack() as turns:
        for group in reversed(groups):  # masks of other images of this store may be finished at this moment
            turns.enter_context(in_turn(group_file(group)))
        for group in groups:
            inside = "".join(f"{name}/" for name in labels.relative_to(group).parts)
            for file in (group / "zarr.json", group / ".zmetadata"):
                document = read_json(file, MaskError)
                if document is not None and _refresh(document, labels, inside):
                    _replace(file, document)


def _replace(file: Path, document: dict[str, Any]) -> None:
    try:
        write_json(file, document)
    except OSError as error:
        raise MaskError(
            f"the mask is stored, but {file} cannot be brought up to date ({error.strerror}), so that programs which "
            "read consolidated metadata do not see it: make it writable, or delete the consolidated metadata"
        ) from error


def _refresh(document: dict[str, Any], labels: Path, inside: str) -> bool:
    """Replace the copies of what is stored below `labels` in a group's document; False if nothing changes."""
    is_v2 = "zarr_consolidated_format" in document
    holder = document if is_v2 else document.get("consolidated_metadata")
    copies = holder.get("metadata") if isinstance(holder, dict) else None
    if not isinstance(holder, dict) or not isinstance(copies, dict):
        return False
    kept = {key: copy for key, copy in copies.items() if not f"{key}/".startswith(inside)}
    holder["metadata"] = kept | _stored(labels, inside, is_v2)
    return bool(holder["metadata"] != copies)


def _stored(folder: Path, name: str, is_v2: bool, depth: int = 0) -> dict[str, Any]:
    """Return the metadata of `folder` and all below it, by their names in consolidated metadata."""
    found = {file: read_json(folder / file, MaskError) for file in (METADATA[1:] if is_v2 else METADATA[:1])}
    documents = {file: document for file, document in found.items() if document is not None}
    is_group = ".zgroup" in documents or documents.get("zarr.json", {}).get("node_type") == "group"
    if is_group and not is_v2:
        # as Zarr has it: what is below a group is listed once, at the top
        documents["zarr.json"]["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {}}
    if is_v2:
        copies: dict[str, Any] = {f"{name}{file}": document for file, document in documents.items()}
    else:  # a group has no copy of itself
        copies = {name.rstrip("/"): document for document in documents.values() if name}
    for below in sorted(folder.iterdir()) if is_group and depth < _DEEPEST else ():
        if below.is_dir() and not below.name.startswith("."):  # masks in progress are hidden
            copies |= _stored(below, f"{name}{below.name}/", is_v2, depth + 1)
    return copies
