"""The names under which the chunks of a Zarr array are stored, found where its metadata name others.

A missing chunk is fill value to Zarr, so an array whose metadata lost the separator of its chunks' names is all 0 to a
library: no error tells. Here the names that are there decide.
"""

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding, V2ChunkKeyEncoding
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata

Metadata: TypeAlias = ArrayV2Metadata | ArrayV3Metadata

_METADATA = ("zarr.json",)  # besides hidden files
_MOST_LOOKED_AT = 10_000  # files and folders, where no chunk is found


def stored_metadata(folder: Path, metadata: Metadata) -> Metadata:
    """`metadata`, or, where not one chunk has the name that they say, with other names that chunks are stored under.

    Raises:
        ValueError: no chunk is stored under any name of Zarr's, but other files are.
    """
    if not metadata.shape:
        return metadata
    for candidate in (metadata, *_others(metadata)):
        if has_chunk(folder, candidate):
            return candidate
    stray = _stray(folder)
    if stray is None:
        return metadata
    first = metadata.encode_chunk_key((0,) * len(metadata.shape))
    raise ValueError(
        f"not one of its chunks is stored under its name, such as {first}, but {stray} is there: its metadata are not "
        "those of what is stored"
    )


def has_chunk(folder: Path, metadata: Metadata) -> bool:
    """Whether any chunk (or shard) is stored under the name that `metadata` say; stops at the first."""
    prefix, separator = _names(metadata)
    counts = _counts(metadata)
    if separator == "/":
        return _is_nested(folder / "c" if prefix else folder, counts)
    return any(_is_key(name.split("."), prefix, counts) for name, _ in _entries(folder))


def _names(metadata: Metadata) -> tuple[bool, str]:
    """Whether names begin with c, and what separates their numbers."""
    if isinstance(metadata, ArrayV2Metadata):
        return False, metadata.dimension_separator
    encoding = metadata.chunk_key_encoding
    return isinstance(encoding, DefaultChunkKeyEncoding), str(getattr(encoding, "separator", "/"))


def _others(metadata: Metadata) -> Iterator[Metadata]:
    """The same with every other way to name chunks."""
    if isinstance(metadata, ArrayV2Metadata):
        yield replace(metadata, dimension_separator="." if metadata.dimension_separator == "/" else "/")
        return
    for kind in (DefaultChunkKeyEncoding, V2ChunkKeyEncoding):
        for separator in ("/", "."):
            encoding = kind(separator=separator)
            if encoding != metadata.chunk_key_encoding:
                yield replace(metadata, chunk_key_encoding=encoding)


def _counts(metadata: Metadata) -> tuple[int, ...]:
    """How many chunks (or shards) there are along each dimension."""
    grid: Any = metadata if isinstance(metadata, ArrayV2Metadata) else metadata.chunk_grid
    sides = grid.chunks if grid is metadata else grid.chunk_shape
    return tuple(-(-size // side) for size, side in zip(metadata.shape, sides, strict=True))


def _entries(folder: Path) -> Iterator[tuple[str, bool]]:
    """Name of each entry of a folder, and whether it is a folder itself; nothing where there is no such folder."""
    try:
        with os.scandir(folder) as found:
            for entry in found:
                yield entry.name, entry.is_dir()
    except (FileNotFoundError, NotADirectoryError):
        return


def _is_nested(folder: Path, counts: tuple[int, ...]) -> bool:
    for name, is_folder in _entries(folder):
        if _is_number(name, counts[0]):
            if len(counts) == 1:
                return True
            if is_folder and _is_nested(folder / name, counts[1:]):
                return True
    return False


def _is_key(parts: list[str], prefix: bool, counts: tuple[int, ...]) -> bool:
    if prefix:
        if parts[0] != "c":
            return False
        parts = parts[1:]
    return len(parts) == len(counts) and all(map(_is_number, parts, counts))


def _is_number(text: str, below: int) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 20 and int(text) < below


def _stray(folder: Path) -> str | None:
    """A file in an array's folder that is neither metadata nor hidden; None if there is none."""
    looked_at = 0
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in files:
            if not name.startswith(".") and name not in _METADATA:
                return str((Path(root) / name).relative_to(folder))
        looked_at += len(folders) + len(files)
        if looked_at > _MOST_LOOKED_AT:
            return None
    return None
