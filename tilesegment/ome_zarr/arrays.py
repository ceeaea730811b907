"""Zarr arrays opened for reading: chunks are found by their actual names and read by the faster codec pipeline.

A missing chunk is the fill value to Zarr, so an array whose metadata lost the separator of its chunks' names is all 0
to a library, without an error. Here the names of the stored files decide.

The faster pipeline is zarrs, where it is installed and reads the array: it decodes the chunks of a read in threads of
its own. It is never used for writing: it writes in place, so that a process that is killed leaves half a chunk.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import zarr
from zarr.core.chunk_key_encodings import DefaultChunkKeyEncoding, V2ChunkKeyEncoding
from zarr.core.metadata import ArrayV2Metadata, ArrayV3Metadata
from zarr.storage import LocalStore

from tilesegment.stores import Location
from tilesegment.threads import thread_count

Metadata: TypeAlias = ArrayV2Metadata | ArrayV3Metadata

_MOST_LOOKED_AT = 10_000  # files, where no chunk has the expected name
_CONFIGURING = threading.Lock()


def open_for_reading(folder: Path, **options: Any) -> zarr.Array:
    """Open the array in `folder`, to be indexed by slices, with the faster pipeline; `options` are zarr's.

    Raises:
        Exception: there is none, or its metadata is damaged: zarr has a dozen ways to say so.
    """
    array, _ = open_stored(folder, **options)
    return with_zarrs(array) or array


def open_stored(folder: Path, **options: Any) -> tuple[zarr.Array, str]:
    """Open the array in `folder` with zarr's own pipeline; also return a note on its chunks, or ""."""
    array = zarr.open_array(LocalStore(folder, read_only=True), mode="r", **options)
    return settled(array, _files(folder, array.ndim + 1), folder)


def settled(
    array: zarr.Array, stored: Iterable[str], place: Path | Location, *, is_listed: bool = True
) -> tuple[zarr.Array, str]:
    """Return an array whose chunks have the names that are stored; also a note on them, or "".

    Args:
        array: as its metadata say.
        stored: keys of what is stored, relative to `place`, of which the first few thousand are looked at.
        place: of the array, for messages.
        is_listed: False if `stored` is at most its first chunk, where the others cannot be listed.

    Raises:
        ValueError: what is stored does not belong to the array.
    """
    if not array.shape:
        return array, ""
    metadata, renamed, stray = array.metadata, None, None
    for key in islice(stored, _MOST_LOOKED_AT):
        if key.rpartition("/")[2].startswith(".") or key == "zarr.json":
            continue
        found = _place(key, array)
        if found is not None and metadata.encode_chunk_key(found) == key:
            return array, ""
        renamed = renamed or (None if found is None else _named_as(key, metadata))
        stray = stray or key
    first = metadata.encode_chunk_key((0,) * array.ndim)
    if renamed is not None:
        array = zarr.Array(zarr.AsyncArray(renamed, array.store_path, config=array.async_array.config))
        name = renamed.encode_chunk_key((0,) * array.ndim)
        return array, f"{place} has chunks named as {name}, other than its metadata say: they are read as stored"
    if stray is not None:
        raise ValueError(
            f"not one of its chunks is stored under its name, such as {first}, "
            f"but {stray} is there: its metadata does not belong to what is stored"
        )
    if not is_listed:
        return array, f"{place} does not store its first chunk, {first}, and cannot be listed: it may hold no pixels"
    return array, f"{place} stores no chunk: all its pixels are the fill value {array.fill_value}"


def _files(folder: str | Path, depth: int, prefix: str = "") -> Iterator[str]:
    """Yield the names of the files in an array's folder that are neither hidden nor metadata."""
    with os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith(".") or entry.name == "zarr.json":
                continue
            if not entry.is_dir():
                yield prefix + entry.name
            elif depth > 1:
                yield from _files(entry.path, depth - 1, f"{prefix}{entry.name}/")


def _place(key: str, array: zarr.Array) -> tuple[int, ...] | None:
    """Return which chunk (or shard) `key` names in any of Zarr's ways; None if there is no such chunk."""
    parts = key.split("/" if "/" in key else ".")
    parts = parts[parts[0] == "c" :]
    counts = [-(-size // side) for size, side in zip(array.shape, array.shards or array.chunks, strict=True)]
    if len(parts) != len(counts) or not all(p.isascii() and p.isdecimal() and len(p) < 20 for p in parts):
        return None
    place = tuple(map(int, parts))
    return place if all(number < count for number, count in zip(place, counts, strict=True)) else None


def _named_as(key: str, metadata: Metadata) -> Metadata | None:
    """Return `metadata` with the way to name chunks that explains `key`; None if its version has no such way."""
    separator: Any = "/" if "/" in key else "."
    if isinstance(metadata, ArrayV2Metadata):
        return None if key.startswith("c") else replace(metadata, dimension_separator=separator)
    kind = DefaultChunkKeyEncoding if key.startswith("c") else V2ChunkKeyEncoding
    return replace(metadata, chunk_key_encoding=kind(separator=separator))


def with_zarrs(array: zarr.Array) -> zarr.Array | None:
    """Return `array`, to be indexed by slices, read by zarrs; None if that is not installed, or does not read it."""
    try:
        from zarrs.pipeline import UnsupportedMetadataError, ZarrsCodecPipeline
    except ImportError:
        return None
    metadata: Any = array.metadata
    copy = zarr.Array(zarr.AsyncArray(metadata, array.store_path, config=array.async_array.config))
    # the pipeline keeps these settings; the configuration is global, so they are ones that no other thread uses
    told = {"codec_pipeline.strict": True, "codec_pipeline.chunk_concurrent_minimum": 1}
    with _CONFIGURING, zarr.config.set({**told, "threading.max_workers": thread_count()}):
        try:
            pipeline = ZarrsCodecPipeline.from_array_metadata_and_store(metadata, array.store)
        except UnsupportedMetadataError:
            return None
    # as zarr does it; its own choice goes by the configuration, by which other threads open arrays to write
    object.__setattr__(copy.async_array, "codec_pipeline", pipeline)
    return copy if copy.dtype.isnative and copy.order == "C" else None
