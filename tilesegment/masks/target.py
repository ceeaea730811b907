"""Outputs by name: the kind of output, what exists there, and whether it may be written."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.masks.export import KINDS, read_exported
from tilesegment.masks.spec import Grid, MaskSpec, differing
from tilesegment.metadata import MARK
from tilesegment.ome_zarr.labels import MAX_HALVINGS, ZARR_FORMAT, HostImage, host_image
from tilesegment.ome_zarr.node import Node, read_node
from tilesegment.stores import Location, Place, place_of

PROBABILITY_TYPES = ("float32", "uint8")
OBJECTS = "uint32"  # dtype of the ids of objects
_PNG_LIMIT = 64_000_000  # pixels, which are held in memory
_SMALLEST_LEVEL = 512  # pixels of the larger side at which a pyramid ends
PREFIX = re.compile(r"(?:[0-9a-f]{8}-\d{1,9}/)?")
_FOLDERS = ("zarr", "labels", "probabilities")


@dataclass(frozen=True)
class Target:
    """An output.

    Attributes:
        path: its final name.
        partial: the folder in which it grows.
        kind: `zarr`, `labels` (in the image `host`), `tiff`, `png` or `probabilities`.
        version: of the OME-Zarr metadata in `partial`.
        halvings: how often each level is halved from level 0.
        host: the image that the mask is added to.
        values: dtype: `uint8` of class ids, `uint32` of objects, `float32` or `uint8` of probabilities.
        floor: the sides of smaller levels are rounded down, as those of `host` are.
        prefix: what the names of the levels begin with, in a store; see `bucket`.
    """

    path: Place
    partial: Place
    kind: str
    version: str
    halvings: tuple[int, ...]
    host: HostImage | None = None
    values: str = "uint8"
    floor: bool = False
    prefix: str = ""

    @property
    def is_folder(self) -> bool:
        """Whether the folder in progress becomes the output; otherwise a file is exported from it."""
        return self.kind in _FOLDERS

    def grid(self, spec: MaskSpec) -> Grid:
        """Return how level 0 is cut."""
        channels = len(spec.classes) if self.kind == "probabilities" else None
        cut = (spec.shape, spec.depth, channels, spec.block, spec.chunk)
        return Grid(*cut, ZARR_FORMAT[self.version], self.values, self.floor)

    def record(self, spec: MaskSpec, state: str) -> dict[str, Any]:
        """Return the record of a mask under our attribute, as JSON; `state` is `partial` or `complete`."""
        layout = {"kind": self.kind, "ngff": self.version, "halvings": self.halvings} | spec.layout()
        if self.values != _usual_values(self.kind):
            layout["values"] = self.values
        if self.floor:
            layout["floor"] = True
        record = {"state": state, "layout": layout, "fingerprint": spec.fingerprint, "provenance": spec.provenance}
        record |= {"prefix": self.prefix} if self.prefix else {}
        as_read: dict[str, Any] = json.loads(json.dumps(record))  # tuples are lists there
        return as_read


def absolute(path: str | Path | Location) -> Place:
    """Return the place of a path as every process finds it."""
    place = place_of(path)
    return place if isinstance(place, Location) else Path(os.path.abspath(place))


def _output(path: Place) -> Place:
    """Return the place of an output; refuse those that nothing can be written to."""
    if isinstance(path, Location) and path.scheme.startswith("http"):
        raise MaskError(
            f"{path} cannot be written: plain http is only read; name s3://, gs:// or az://BUCKET/NAME.zarr"
        )
    return absolute(path)


def mask_target(path: Place, spec: MaskSpec, ngff: str) -> Target:
    """Return the target of the name `path`; refuse unknown suffixes and formats that cannot hold the mask."""
    if ngff not in ZARR_FORMAT:
        raise MaskError(f"OME-Zarr version {ngff!r} is not written; allowed are {' and '.join(ZARR_FORMAT)}")
    path = _output(path)
    if (host := find_host(path)) is not None:
        return Target(path, partial_name(path), "labels", host.version, host.halvings, host, floor=host.floor)
    kind = (KINDS | {".zarr": "zarr"}).get(path.suffix.lower())
    if kind is None:
        raise MaskError(
            f"cannot tell from the name {path} what to write; allowed are NAME.zarr, IMAGE.zarr/labels/NAME, NAME.tif "
            "and NAME.png"
        )
    if isinstance(path, Location) and kind != "zarr":
        raise MaskError(f"{path} cannot be written to a store, only NAME.zarr; write it to a disk, then copy it")
    if kind == "png" and ((spec.depth or 1) > 1 or spec.shape[0] * spec.shape[1] > _PNG_LIMIT):
        size = " x ".join(map(str, (spec.depth or 1, *spec.shape)))
        limit = f"at most one plane of {_PNG_LIMIT // 10**6} megapixels"
        raise MaskError(f"{path} cannot hold {size} pixels (z, y, x), {limit}; write NAME.zarr or NAME.tif")
    halvings = (0,) if kind == "png" else _halvings(spec.shape)
    return Target(path, partial_name(path), kind, ngff if kind == "zarr" else "0.5", halvings)


def probabilities_target(path: Place, spec: MaskSpec, values: str = "float32") -> Target:
    """Return the target of probabilities of dtype `values`: `path`, which ends in `.zarr`."""
    path = _output(path)
    if path.suffix.lower() != ".zarr":
        raise MaskError(f"probabilities cannot be written to {path}; allowed is NAME.zarr")
    if values not in PROBABILITY_TYPES:
        raise MaskError(f"probabilities are written as {' or '.join(PROBABILITY_TYPES)}, not {values!r}")
    return Target(path, partial_name(path), "probabilities", "0.5", _halvings(spec.shape), values=values)


def objects_target(path: Place, spec: MaskSpec, ngff: str) -> Target:
    """Return the target of ids of objects: `path`, which ends in `.zarr` or lies among the labels of an image."""
    if path.parent.name == "labels" and path.suffix.lower() != ".zarr" and find_host(path) is None:
        raise MaskError(f"cannot write {path}: {path.parent.parent} is no OME-Zarr image; name an image, or NAME.zarr")
    target = mask_target(path, spec, ngff)
    if not target.is_folder:
        raise MaskError(f"ids of objects cannot be written to {path}; allowed are NAME.zarr and IMAGE.zarr/labels/NAME")
    return replace(target, values=OBJECTS)


def _usual_values(kind: str) -> str:
    """Return the dtype that the record of such an output leaves out."""
    return "float32" if kind == "probabilities" else "uint8"


def recorded_target(path: Place, partial: Place, record: Mapping[str, Any]) -> Target:
    """Return the target that `record` was made from, without the image that it belongs to."""
    layout: dict[str, Any] = record["layout"] if isinstance(record.get("layout"), dict) else {}
    kind, version = str(layout.get("kind")), str(layout.get("ngff"))
    halvings = layout.get("halvings")
    values = layout.get("values", _usual_values(kind))
    counts = halvings if isinstance(halvings, list) and all(type(count) is int for count in halvings) else []
    prefix = record.get("prefix", "")
    is_pyramid = counts and counts == sorted(counts) and counts[0] >= 0 and counts[-1] < MAX_HALVINGS
    allowed = PROBABILITY_TYPES if kind == "probabilities" else ("uint8", OBJECTS)
    is_known = kind in (*_FOLDERS, *KINDS.values()) and version in ZARR_FORMAT and values in allowed
    if not is_pyramid or not is_known or not isinstance(prefix, str) or not PREFIX.fullmatch(prefix):
        what = f"{kind!r}, OME-Zarr {version!r}, halvings {halvings!r}, values {values!r}"
        raise MaskError(f"the mask's record is damaged ({what:.200}); compute the mask again")
    more: dict[str, Any] = {"values": values, "floor": layout.get("floor") is True, "prefix": prefix}
    return Target(path, partial, kind, version, tuple(counts), **more)


def _halvings(shape: tuple[int, int]) -> tuple[int, ...]:
    return tuple(range(1 + ((max(shape) - 1) // _SMALLEST_LEVEL).bit_length()))


def partial_name(path: Place) -> Place:
    """Return the folder in which the output `path` grows; viewers do not look at hidden labels."""
    return path.with_name(f"{'.' if _image_of(path) else ''}{path.name}.partial")


def find_host(path: Place) -> HostImage | None:
    """Return the image whose label `path` is or would be, None if there is none; refuse one that takes no masks."""
    node, image = _image_of(path), path.parent.parent
    if node is None:
        return None
    if isinstance(image, Location):
        raise MaskError(
            f"{path} cannot be written: masks are not added to images in a store; write NAME.zarr beside it"
        )
    return host_image(image, node)


def _image_of(path: Place) -> Node | None:
    """Return the metadata of the image whose label `path` is or would be."""
    return read_node(path.parent.parent, MaskError) if path.parent.name == "labels" else None


def is_ours(path: Place) -> bool:
    """Return whether `path` is a folder that we made: not a link, and marked."""
    # unlike those of Path, False for impossible names
    if isinstance(path, Path) and (os.path.islink(path) or not os.path.isdir(path)):
        return False
    group = read_node(path, MaskError)
    return group is not None and MARK in group.attributes


def existing(path: Place, record: Mapping[str, Any]) -> MaskError:
    """Return the error for the output `path` that exists, where one with this complete `record` is to be made."""
    there = read_record(path)
    difference = "" if there is None else differing(there, record)
    made = f" and was made with other settings ({difference})" if difference else ""
    return MaskError(f"{path} exists{made}; name another output, or use --overwrite to replace it")


def read_record(path: Place) -> dict[str, Any] | None:
    """Return the record of the mask or probabilities at `path`, finished or not; None if it is not ours."""
    if isinstance(path, Path):
        if os.path.islink(path):
            return None
        if os.path.isfile(path):
            exported = read_exported(path)
            return None if exported is None else exported.record
        if not os.path.isdir(path):
            return None
    group = read_node(path, MaskError)
    record = None if group is None else group.attributes.get(MARK)
    return record if isinstance(record, dict) else None
