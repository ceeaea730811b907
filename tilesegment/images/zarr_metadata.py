"""A Zarr store's metadata, checked before a library believes it: shapes, chunks, codecs.

Metadata is small JSON that anybody can write: a shape of 1e15, a chunk that does not fit the memory, a codec that runs
code. Nothing is opened that has not passed here.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.images.pixels import PIXEL_TYPES
from tilesegment.ome_zarr.metadata import axis_name, is_printable

_MAX_JSON = 64 << 20
_MAX_CHUNK = 2 << 30
_MAX_INNER_CHUNKS = 1 << 20  # of a shard, whose index is read as a whole
_MAX_DIMENSIONS = 8
_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "float32", "float64"),
    *("|b1", "|u1", "|i1"),
    *(order + kind for order in "<>" for kind in ("u2", "u4", "u8", "i2", "i4", "i8", "f2", "f4", "f8")),
}
_CODECS_V2 = {"blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "shuffle", "delta", "crc32"}
_CODECS_V3 = {"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed"}


@dataclass(frozen=True)
class ArrayFacts:
    """What the metadata of an array says: its shape, and the names of its dimensions if it has any."""

    shape: tuple[int, ...]
    names: tuple[str, ...] | None


def node(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The metadata and attributes of the array or group in `folder`, v2 or v3; None if there is none."""
    if (folder / "zarr.json").is_file():
        meta = _json(folder / "zarr.json")
        return meta, meta.get("attributes") or {}
    for name in (".zarray", ".zgroup"):
        if (folder / name).is_file():
            return _json(folder / name), _json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    return None


def is_array(meta: Mapping[str, Any]) -> bool:
    """Whether `meta` describes an array and not a group."""
    return meta.get("node_type") == "array" or "chunks" in meta


def _json(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        text = stream.read(_MAX_JSON + 1)
    try:
        meta = json.loads(text) if len(text) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        meta = None
    if not isinstance(meta, dict):
        raise ImageError(f"{file} is not the metadata of a Zarr array or group: the store is damaged")
    return meta


def array_facts(path: str, meta: Mapping[str, Any], attributes: Mapping[str, Any]) -> ArrayFacts:
    """What `meta` says of an array.

    Raises:
        ImageError: pixel type, chunks or codecs that are not supported, or metadata that contradicts itself.
    """
    try:
        if meta.get("zarr_format") == 3:
            dtype, chunks, codecs = _version_3(meta)
        else:
            dtype, chunks, codecs = meta["dtype"], [meta["chunks"]], _codecs_v2(meta)
        shape = _integers(meta["shape"])
        sizes = [_integers(chunk) for chunk in chunks]
    except (LookupError, TypeError, ValueError) as error:
        raise ImageError(f"{path} has damaged Zarr metadata ({error!r:.200})") from error
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ImageError(f"{path} holds pixels of type {str(dtype)[:40]!r}; {PIXEL_TYPES} are supported: convert it")
    if codecs:
        allowed = ", ".join(sorted(_CODECS_V3 if meta.get("zarr_format") == 3 else _CODECS_V2))
        raise ImageError(f"{path} is compressed with {codecs[0]!r}; allowed are {allowed}: rewrite it with one of them")
    _check_chunks(path, shape, sizes, np.dtype(dtype).itemsize)
    names = meta.get("dimension_names") or attributes.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list) or not all(isinstance(name, str) and is_printable(name) for name in names):
        names = None
    return ArrayFacts(shape, None if names is None else tuple(axis_name({"name": name}) for name in names))


def _check_chunks(path: str, shape: tuple[int, ...], chunks: list[tuple[int, ...]], itemsize: int) -> None:
    """`chunks`: of the array, outermost first; if sharded, the shard and then what it is divided into."""
    if len(shape) > _MAX_DIMENSIONS or any(len(chunk) != len(shape) or min(chunk, default=1) < 1 for chunk in chunks):
        raise ImageError(f"{path} has damaged Zarr metadata: chunks {chunks[0]} do not fit the shape {shape}")
    if math.prod(chunks[-1]) * itemsize > _MAX_CHUNK:
        raise ImageError(
            f"{path} has chunks of {math.prod(chunks[-1]) * itemsize / 2**30:.1f} GiB; at most 2 are supported: "
            "rewrite it with smaller chunks, say 512 x 512"
        )
    for outer, inner in pairwise(chunks):
        if math.prod(outer) // math.prod(inner) > _MAX_INNER_CHUNKS:
            raise ImageError(
                f"{path} has shards of more than {_MAX_INNER_CHUNKS} chunks: rewrite it with smaller shards"
            )


def _integers(values: Sequence[Any]) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"{str(values)[:60]} is not a list of whole numbers")
    return tuple(values)


def _codecs_v2(meta: Mapping[str, Any]) -> list[str]:
    """Names of the codecs of a v2 array that are not allowed."""
    codecs = [codec for codec in [meta.get("compressor"), *(meta.get("filters") or [])] if codec is not None]
    return [str(codec["id"])[:40] for codec in codecs if codec["id"] not in _CODECS_V2]


def _version_3(meta: Mapping[str, Any]) -> tuple[Any, list[Any], list[str]]:
    """Data type, chunk shapes from outside to inside, and the names of codecs that are not allowed."""
    if meta["chunk_grid"]["name"] != "regular" or meta.get("storage_transformers"):
        raise ValueError("only regular chunk grids without storage transformers are supported")
    chunks, foreign = [meta["chunk_grid"]["configuration"]["chunk_shape"]], []
    pending = list(meta["codecs"])
    while pending:
        codec = pending.pop()
        name = codec if isinstance(codec, str) else codec["name"]
        if name not in _CODECS_V3:
            foreign.append(str(name)[:40])
        elif name == "sharding_indexed":
            chunks.append(codec["configuration"]["chunk_shape"])
            pending += codec["configuration"]["codecs"] + codec["configuration"].get("index_codecs", [])
    return meta["data_type"], chunks, foreign
