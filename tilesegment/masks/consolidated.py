"""Consolidated metadata: copies, in a Zarr group, of the metadata of all below it, which programs read in its place.

What is added to a store, and not to the copies, does not exist for these programs.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tilesegment.errors import MaskError
from tilesegment.files import in_turn
from tilesegment.masks.disk import group_file, read_json, write_json

_GROUP = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")
_V2 = (".zgroup", ".zarray", ".zattrs")
_DEEPEST = 8  # groups within groups


def update_consolidated(labels: Path) -> None:
    """Bring the copies of the metadata below the group `labels` up to date, in it and in all groups around it.

    Groups without consolidated metadata stay without.

    Raises:
        MaskError: a copy is damaged, or cannot be replaced.
    """
    groups: list[Path] = []
    group = labels
    while len(groups) < _DEEPEST and any((group / name).is_file() for name in _GROUP):
        groups.append(group)
        group = group.parent
    with ExitStack() as turns:
        for group in reversed(groups):  # masks of other images of this store may be finished at this moment
            turns.enter_context(in_turn(group_file(group)))
        for group in groups:
            inside = labels.relative_to(group).as_posix()
            for file in (group / "zarr.json", group / ".zmetadata"):
                document = read_json(file) if file.is_file() else None
                if document is not None and _refresh(document, labels, "" if inside == "." else f"{inside}/"):
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
    """Put what is stored below `labels` in place of its copies in `document`; False if nothing changes, or it has none.

    Args:
        document: a group's `zarr.json` or `.zmetadata`.
        labels: the folder of a group within it, or its own.
        inside: the name of `labels` in the group, with a slash; empty for the group's own folder.
    """
    is_v2 = "zarr_consolidated_format" in document
    holder = document if is_v2 else document.get("consolidated_metadata")
    if not isinstance(holder, dict) or not isinstance(holder.get("metadata"), dict):
        return False
    copies = holder["metadata"]
    fresh = _stored_v2(labels, inside) if is_v2 else _stored_v3(labels, inside)
    kept = {key: copy for key, copy in copies.items() if not f"{key}/".startswith(inside)}
    if copies == kept | fresh:
        return False
    holder["metadata"] = kept | fresh
    return True


def _stored_v2(folder: Path, name: str, depth: int = 0) -> dict[str, Any]:
    """The metadata files of `folder` and all below it, by their names in the group."""
    found = {f"{name}{file}": read_json(folder / file) for file in _V2 if (folder / file).is_file()}
    is_group = f"{name}.zgroup" in found
    for below in _members(folder) if is_group and depth < _DEEPEST else ():
        found |= _stored_v2(below, f"{name}{below.name}/", depth + 1)
    return found


def _stored_v3(folder: Path, name: str, depth: int = 0) -> dict[str, Any]:
    """The metadata of `folder` and all below it, by their names in the group; that of the group itself has no name."""
    document = read_json(folder / "zarr.json") if (folder / "zarr.json").is_file() else None
    if document is None:
        return {}
    is_group = document.get("node_type") == "group"
    if is_group:
        # as Zarr has it: what is below a group is listed once, at the top
        document["consolidated_metadata"] = {"kind": "inline", "must_understand": False, "metadata": {}}
    found = {name.rstrip("/"): document} if name else {}
    for below in _members(folder) if is_group and depth < _DEEPEST else ():
        found |= _stored_v3(below, f"{name}{below.name}/", depth + 1)
    return found


def _members(folder: Path) -> list[Path]:
    """Groups and arrays in a group's folder; those in progress are hidden."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
