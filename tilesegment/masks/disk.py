"""The seam to the disk: files and metadata, synced and atomic; deleting what is ours; failures as one line."""

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment import metadata
from tilesegment.errors import MaskError
from tilesegment.files import delete_folder, write_atomically

MARK = metadata.MARK  # the attribute by which we know our own folders
_METADATA_LIMIT = 1 << 24  # bytes; a thousand times what metadata takes


@dataclass(frozen=True)
class Group:
    """A Zarr group's metadata: its format (2 or 3) and its attributes."""

    format: int
    attributes: dict[str, Any]


@contextmanager
def reporting(deed: str, path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into a MaskError: `cannot <deed> <path>: <reason>`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "see to space and permissions, then run it again"
        raise MaskError(f"cannot {deed} {path}: {reason}; {advice}") from error


def group_file(path: Path) -> Path | None:
    """The file with the metadata of the Zarr group in folder `path`; None if there is none."""
    found = [path / name for name in ("zarr.json", ".zattrs") if (path / name).is_file()]
    return found[0] if found else None


def read_group(path: Path) -> Group | None:
    """The metadata of the Zarr group in folder `path`; None if there is none.

    Raises:
        MaskError: there is some, but it is no JSON object.
    """
    file = group_file(path)
    if file is None or (document := read_json(file)) is None:
        return None
    version = 3 if file.name == "zarr.json" else 2
    attributes = document.get("attributes", {}) if version == 3 else document
    if not isinstance(attributes, dict):
        raise MaskError(f"the metadata {file} is damaged: attributes are no JSON object")
    return Group(version, attributes)


def read_shape(path: Path) -> tuple[int, ...] | None:
    """The shape of the Zarr array in folder `path`; None if there is none.

    Raises:
        MaskError: its metadata is damaged.
    """
    for name in ("zarr.json", ".zarray"):
        document = read_json(path / name) if (path / name).is_file() else None
        if document is not None:
            shape = document.get("shape")
            if not isinstance(shape, list) or not all(type(side) is int for side in shape):
                raise MaskError(f"the metadata {path / name} is damaged: no shape of an array")
            return tuple(shape)
    return None


def write_group(path: Path, group: Group) -> None:
    """Writes the metadata of the Zarr group in folder `path`, in place of what is there."""
    if group.format == 3:
        write_json(path / "zarr.json", {"zarr_format": 3, "node_type": "group", "attributes": group.attributes})
    else:
        write_json(path / ".zattrs", group.attributes)
        write_json(path / ".zgroup", {"zarr_format": 2})


def is_ours(path: Path) -> bool:
    """Whether `path` is a folder that we made: no link, and marked."""
    if os.path.islink(path) or not os.path.isdir(path):  # unlike those of Path, False for a name that cannot be
        return False
    group = read_group(path)
    return group is not None and MARK in group.attributes


def remove_ours(path: Path, output: Path) -> None:
    """Deletes a folder that we made, which is gone at once.

    What an interruption leaves of it has a private name of `output`.

    Raises:
        MaskError: we did not make it.
    """
    if not is_ours(path):
        raise MaskError(f"{path} was not made by tilesegment and is not deleted; move it away")
    delete_folder(path, output)


def read_json(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file; None if the file is gone: another process may have renamed its folder just now."""
    with reporting("read", path):
        try:
            if path.stat().st_size > _METADATA_LIMIT:
                raise MaskError(f"the metadata {path} is larger than {_METADATA_LIMIT >> 20} MiB: not read")
            content = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise MaskError(f"the metadata {path} is damaged: {error}") from error
    if not isinstance(document, dict):
        raise MaskError(f"the metadata {path} is damaged: no JSON object")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file durably, in place of what is there."""
    write_atomically(path, json.dumps(document, indent=2).encode())
