"""What the name of an output asks for, and whether it may be written there."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.masks.disk import is_ours, read_group
from tilesegment.masks.exported import KINDS
from tilesegment.masks.grid import Grid
from tilesegment.masks.record import differing, read_record
from tilesegment.masks.spec import MaskSpec, as_json
from tilesegment.ome_zarr.labels import MAX_HALVINGS, ZARR_FORMAT, HostImage, host_image

_ALLOWED = "allowed are NAME.zarr, IMAGE.zarr/labels/NAME, NAME.tif, NAME.png and NAME.jpg"
PROBABILITY_TYPES = ("float32", "uint8")
_PICTURE_LIMIT = 64_000_000  # pixels of a PNG or JPEG, which is held in memory whole
_PICTURE_SIDE = 65_535  # the most that JPEG's header can say
_SMALLEST_LEVEL = 512  # pixels of the larger side at which a pyramid ends


@dataclass(frozen=True)
class Target:
    """An output.

    Attributes:
        path: its final name.
        partial: the folder in which it grows.
        kind: `zarr`, `labels` (in the image `host`), `tiff`, `png`, `jpeg` or `probabilities`.
        version: of the OME-Zarr metadata in `partial`.
        halvings: how often each level is half as large as level 0.
        host: the image that the mask is added to.
        values: type of probabilities, `float32` or `uint8`.
        floor: whether the sides of smaller levels are rounded down, as those of `host` are.
    """

    path: Path
    partial: Path
    kind: str
    version: str
    halvings: tuple[int, ...]
    host: HostImage | None = None
    values: str = "float32"
    floor: bool = False

    @property
    def is_folder(self) -> bool:
        """Whether the folder in progress becomes the output; else a file is exported from it."""
        return self.kind in ("zarr", "labels", "probabilities")

    def grid(self, spec: MaskSpec) -> Grid:
        """How level 0 is cut."""
        channels = len(spec.classes) if self.kind == "probabilities" else None
        cut = (spec.shape, spec.depth, channels, spec.block, spec.chunk)
        return Grid(*cut, ZARR_FORMAT[self.version], self.values, self.floor)

    def record(self, spec: MaskSpec, state: str) -> dict[str, Any]:
        """What is kept of a mask under our own attribute; `state` is `partial` or `complete`."""
        layout = {"kind": self.kind, "ngff": self.version, "halvings": self.halvings} | spec.layout()
        if self.values != "float32":
            layout["values"] = self.values
        if self.floor:
            layout["floor"] = True
        record = {"state": state, "layout": layout, "fingerprint": spec.fingerprint, "provenance": spec.provenance}
        return as_json(record)


def mask_target(path: Path, spec: MaskSpec, ngff: str) -> Target:
    """What the name `path` asks for.

    Raises:
        MaskError: no format has such a name, or the format cannot hold the mask.
    """
    if ngff not in ZARR_FORMAT:
        raise MaskError(f"OME-Zarr version {ngff!r} is not written; allowed are {' and '.join(ZARR_FORMAT)}")
    path = Path(os.path.abspath(path))
    host = find_host(path)
    if host is not None:
        return Target(path, partial_name(path), "labels", host.version, host.halvings, host, floor=host.floor)
    kind = "zarr" if path.suffix.lower() == ".zarr" else KINDS.get(path.suffix.lower())
    if kind is None:
        raise MaskError(f"cannot tell from the name {path} what to write; {_ALLOWED}")
    if kind in ("png", "jpeg"):
        _check_picture(path, spec)
    halvings = (0,) if kind in ("png", "jpeg") else _default_halvings(spec.shape)
    return Target(path, partial_name(path), kind, ngff if kind == "zarr" else "0.5", halvings)


def probabilities_target(path: Path, spec: MaskSpec, values: str = "float32") -> Target:
    """Where probabilities of type `values` go: `path`, which ends in `.zarr`.

    Raises:
        MaskError: it does not, or there is no such type.
    """
    path = Path(os.path.abspath(path))
    if path.suffix.lower() != ".zarr":
        raise MaskError(f"probabilities cannot be written to {path}; allowed is NAME.zarr")
    if values not in PROBABILITY_TYPES:
        raise MaskError(f"probabilities are written as {' or '.join(PROBABILITY_TYPES)}, not {values!r}")
    return Target(path, partial_name(path), "probabilities", "0.5", _default_halvings(spec.shape), values=values)


def recorded_target(path: Path, partial: Path, record: Mapping[str, Any]) -> Target:
    """The target that `record` was made of, without the image that it belongs to.

    Raises:
        MaskError: it is not such a record.
    """
    layout = record.get("layout")
    found = [layout.get(name) for name in ("kind", "ngff", "halvings")] if isinstance(layout, dict) else [None] * 3
    kind, version, halvings = found
    counts = halvings if isinstance(halvings, list) and all(type(count) is int for count in halvings) else []
    if not counts or counts != sorted(counts) or counts[0] < 0 or counts[-1] >= MAX_HALVINGS:
        raise MaskError(f"the mask's record is damaged (halvings {halvings!r}); compute the mask again")
    if kind not in ("zarr", "labels", "probabilities", *KINDS.values()) or version not in tuple(ZARR_FORMAT):
        raise MaskError(f"the mask's record is damaged ({kind!r}, OME-Zarr {version!r}); compute the mask again")
    values = layout.get("values", "float32") if isinstance(layout, dict) else None
    if values not in PROBABILITY_TYPES:
        raise MaskError(f"the mask's record is damaged (values {values!r}); compute the mask again")
    floor = isinstance(layout, dict) and layout.get("floor") is True
    return Target(path, partial, kind, version, tuple(counts), values=values, floor=floor)


def check_free(target: Target, spec: MaskSpec, overwrite: bool) -> None:
    """Sees to it that the output may be put under its final name.

    Raises:
        MaskError: something is there that may not be replaced, or the folder around it is missing.
    """
    path = target.path
    folder = path.parent.parent if target.kind == "labels" else path.parent
    if not folder.is_dir():
        raise MaskError(f"cannot write {path}: there is no folder {folder}; create it first")
    for name in (path, target.partial):
        if name.is_symlink():
            raise MaskError(f"{name} is a symbolic link and is not written through; name the file that it stands for")
    if not path.exists():
        return
    if not overwrite:
        there = read_record(path)
        difference = "" if there is None else differing(there, target.record(spec, "complete"))
        made = f" and was made with other settings ({difference})" if difference else ""
        raise MaskError(f"{path} exists{made}; name another output, or use --overwrite to replace it")
    if target.is_folder and not is_ours(path):
        raise MaskError(f"{path} was not made by tilesegment and is not replaced; name another output")
    if not target.is_folder and not path.is_file():
        raise MaskError(f"{path} is no file and is not replaced; name another output")


def _check_picture(path: Path, spec: MaskSpec) -> None:
    advice = "write NAME.zarr or NAME.tif"
    if spec.depth not in (None, 1):
        raise MaskError(f"{path} cannot hold {spec.depth} planes, only one; {advice}")
    height, width = spec.shape
    if height * width > _PICTURE_LIMIT or max(spec.shape) > _PICTURE_SIDE:
        limit = f"{_PICTURE_LIMIT // 10**6} megapixels and {_PICTURE_SIDE} pixels a side"
        raise MaskError(f"{path} cannot hold {height} x {width} pixels, at most {limit}; {advice}")


def _default_halvings(shape: tuple[int, int]) -> tuple[int, ...]:
    return tuple(range(1 + ((max(shape) - 1) // _SMALLEST_LEVEL).bit_length()))


def partial_name(path: Path) -> Path:
    """The folder in which the output `path` grows; viewers do not look at hidden labels."""
    return path.with_name(f"{'.' if _image(path) else ''}{path.name}.partial")


def _image(path: Path) -> Path | None:
    """The folder of the Zarr image whose label `path` is or would be."""
    image = path.parent.parent
    return image if path.parent.name == "labels" and read_group(image) is not None else None


def find_host(path: Path) -> HostImage | None:
    """The image whose label `path` is or would be, None if there is none.

    Raises:
        MaskError: it is one that takes no masks.
    """
    image = _image(path)
    group = None if image is None else read_group(image)
    return None if image is None or group is None else host_image(image, group)
