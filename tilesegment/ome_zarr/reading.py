"""Zarr arrays opened for reading, with the faster of two codec pipelines where it is installed and reads them.

That is zarrs, which decodes the chunks of a read in threads of its own. It is never written with: it writes in place,
so that a process that is killed leaves half a chunk.
"""

import threading
from pathlib import Path
from typing import Any

import zarr
from zarr.storage import LocalStore

from tilesegment.ome_zarr.keys import stored_metadata
from tilesegment.threads import thread_count

_TELLING = threading.Lock()


def open_for_reading(folder: Path, **options: Any) -> zarr.Array:
    """The array in `folder`, to be indexed by slices; `options` as zarr's.

    Raises:
        Exception: there is none, or its metadata is damaged: zarr has a dozen ways to say so.
    """
    array = open_with_zarrs(folder, **options)
    return open_with_zarr(folder, **options) if array is None else array


def open_with_zarr(folder: Path, **options: Any) -> zarr.Array:
    """The array in `folder`, decoded by zarr itself, its chunks under the names that they are stored under.

    Raises:
        ValueError: not one chunk is stored under a name that Zarr has for it, but other files are.
    """
    array = declared(folder, **options)
    metadata = stored_metadata(folder, array.metadata)
    if metadata is array.metadata:
        return array
    return zarr.Array(zarr.AsyncArray(metadata, array.store_path, config=array.async_array.config))


def declared(folder: Path, **options: Any) -> zarr.Array:
    """The array in `folder` as its metadata describe it, whatever is stored."""
    return zarr.open_array(LocalStore(folder, read_only=True), mode="r", **options)


def open_with_zarrs(folder: Path, **options: Any) -> zarr.Array | None:
    """The array in `folder`, to be indexed by slices; None if zarrs is not installed, or does not read it."""
    try:
        from zarrs.pipeline import UnsupportedMetadataError, ZarrsCodecPipeline
    except ImportError:
        return None
    array = open_with_zarr(folder, **options)
    # the pipeline keeps what it is told here; the configuration is that of all threads, so nothing that others go by
    told = {"codec_pipeline.strict": True, "codec_pipeline.chunk_concurrent_minimum": 1}
    with _TELLING, zarr.config.set({**told, "threading.max_workers": thread_count()}):
        try:
            pipeline = ZarrsCodecPipeline.from_array_metadata_and_store(array.metadata, array.store)
        except UnsupportedMetadataError:
            return None
    # as zarr itself does it; it would choose by its configuration, by which other threads open what they write
    object.__setattr__(array.async_array, "codec_pipeline", pipeline)
    return array if array.dtype.isnative and array.order == "C" else None
