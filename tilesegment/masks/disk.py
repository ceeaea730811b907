"""The seam to the disk: files and metadata, synced and atomic; deleting what is ours; failures as one line."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tilesegment import metadata
from tilesegment.errors import MaskError
from tilesegment.files import delete_folder
from tilesegment.ome_zarr.node import Node, group_file, read_node, write_group

MARK = metadata.MARK  # the attribute by which we know our own folders
Group = Node
__all__ = ["MARK", "Group", "group_file", "is_ours", "read_group", "remove_ours", "reporting", "write_group"]


@contextmanager
def reporting(deed: str, path: Path) -> Iterator[None]:
    """Turns what the operating system refuses into a MaskError: `cannot <deed> <path>: <reason>`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        advice = "see to space and permissions, then run it again"
        raise MaskError(f"cannot {deed} {path}: {reason}; {advice}") from error


def read_group(path: Path) -> Node | None:
    """The metadata of the Zarr group in folder `path`; None if there is none.

    Raises:
        MaskError: there is some, but it is no JSON object.
    """
    return read_node(path, MaskError)


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
