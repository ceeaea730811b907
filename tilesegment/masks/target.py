"""What the name of an output asks for, and whether it may be written there."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.masks.disk import MARK, Group, is_ours, read_group, remove_ours, write_group
from tilesegment.masks.ngff import ZARR_FORMAT, HostImage, host_image
from tilesegment.masks.spec import MaskSpec, as_json

_KINDS = {".zarr": "zarr", ".tif": "tiff", ".tiff": "tiff", ".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
_ALLOWED = "allowed are NAME.zarr, IMAGE.zarr/labels/NAME, NAME.tif, NAME.png and NAME.jpg"
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
    """

    path: Path
    partial: Path
    kind: str
    version: str
    halvings: tuple[int, ...]
    host: HostImage | None = None

    @property
    def is_folder(self) -> bool:
        """Whether the folder in progress becomes the output; else a file is exported from it."""
        return self.kind in ("zarr", "labels", "probabilities")


def mask_target(path: Path, spec: MaskSpec, ngff: str) -> Target:
    """What the name `path` asks for.

    Raises:
        MaskError: no format has such a name, or the format cannot hold the mask.
    """
    if ngff not in ZARR_FORMAT:
        raise MaskError(f"OME-Zarr version {ngff!r} is not written; allowed are {' and '.join(ZARR_FORMAT)}")
    path = Path(os.path.abspath(path))
    image = path.parent.parent
    if path.parent.name == "labels" and (group := read_group(image)) is not None:
        host = host_image(image, group)
        return Target(path, path.with_name(f".{path.name}.partial"), "labels", host.version, host.halvings, host)
    kind = _KINDS.get(path.suffix.lower())
    if kind is None:
        raise MaskError(f"cannot tell from the name {path} what to write; {_ALLOWED}")
    if kind in ("png", "jpeg"):
        _check_picture(path, spec)
    halvings = (0,) if kind in ("png", "jpeg") else _default_halvings(spec.shape)
    return Target(path, _partial(path), kind, ngff if kind == "zarr" else "0.5", halvings)


def probabilities_target(path: Path) -> Target:
    """Where probabilities go: `path`, which ends in `.zarr`.

    Raises:
        MaskError: it does not.
    """
    path = Path(os.path.abspath(path))
    if path.suffix.lower() != ".zarr":
        raise MaskError(f"probabilities cannot be written to {path}; allowed is NAME.zarr")
    return Target(path, _partial(path), "probabilities", "0.5", (0,))


def check_free(target: Target, overwrite: bool) -> None:
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
        raise MaskError(f"{path} exists; name another output, or use --overwrite to replace it")
    if target.is_folder and not is_ours(path):
        raise MaskError(f"{path} was not made by tilesegment and is not replaced; name another output")
    if not target.is_folder and not path.is_file():
        raise MaskError(f"{path} is no file and is not replaced; name another output")


def begin(target: Target, spec: MaskSpec, overwrite: bool) -> None:
    """Makes the folder in progress, or checks that the one that is there was begun for the same mask.

    Raises:
        MaskError: it is for another mask and `overwrite` is not set, or it is not ours.
    """
    partial, record = target.partial, make_record(target, spec, "partial")
    if is_ours(partial):
        group = read_group(partial)
        assert group is not None
        differing = _differing(group.attributes[MARK], record)
        if not differing:
            return
        if not overwrite:
            advice = "run it with the same settings to go on, or use --overwrite to start anew"
            raise MaskError(f"{partial} was begun with other settings ({differing}); {advice}")
        remove_ours(partial)
    elif partial.exists() and not (partial.is_dir() and not any(partial.iterdir())):
        raise MaskError(f"{partial} is in the way and was not made by tilesegment; move it away")
    if target.kind == "labels":
        partial.parent.mkdir(exist_ok=True)
    partial.mkdir(exist_ok=True)
    write_group(partial, Group(ZARR_FORMAT[target.version], {MARK: record}))


def make_record(target: Target, spec: MaskSpec, state: str) -> dict[str, Any]:
    """What is kept of a mask under our own attribute; `state` is `partial` or `complete`."""
    layout = {"kind": target.kind, "ngff": target.version, "halvings": target.halvings} | spec.layout()
    record = {"state": state, "layout": layout, "fingerprint": spec.fingerprint, "provenance": spec.provenance}
    return as_json(record)


def _differing(there: Any, now: Mapping[str, Any]) -> str:
    """The settings in which two records differ, with both values; empty if the masks are the same."""
    differences = []
    for part in ("layout", "fingerprint"):
        old, new = there.get(part) if isinstance(there, dict) else None, now[part]
        if not isinstance(old, dict):
            return "its record is damaged"
        for key in sorted(old.keys() | new.keys()):
            if key not in old or key not in new or old[key] != new[key]:
                differences.append(f"{key}: {_short(old, key)} there, {_short(new, key)} now")
    return "; ".join(differences)


def _short(values: Mapping[str, Any], key: str) -> str:
    text = repr(values[key]) if key in values else "none"
    return text if len(text) <= 60 else f"{text[:57]}..."


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


def _partial(path: Path) -> Path:
    return path.with_name(f"{path.name}.partial")
