"""Metadata of Zarr arrays and groups as plain JSON, checked before a library reads it.

Anybody can write such a file: a shape of 1e15, a chunk larger than memory, a codec that runs code.
"""

import json
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

from tilesegment.errors import DeniedError, ImageError, StoreError, TilesegmentError
from tilesegment.files import write_atomically
from tilesegment.stores import Location, Place, store_at

METADATA = ("zarr.json", ".zarray", ".zgroup", ".zattrs")  # files
PIXEL_TYPES = "1-bit, integers of 8 to 64 bits and floats of 16 to 64 bits"
_MAX_NAME = 255  # characters of the name of an axis or level
_MAX_JSON = 64 << 20
_MAX_CHUNK = 2 << 30
_MAX_INNER_CHUNKS = 1 << 20  # of a shard, whose index is read as a whole
_MAX_DIMENSIONS = 8
_SIZES = {"bool": 1, "|b1": 1, "|u1": 1, "|i1": 1, "int8": 1, "uint8": 1}  # bytes by data type
_SIZES |= {f"{kind}{8 * size}": size for kind in ("int", "uint", "float") for size in (2, 4, 8)}
_SIZES |= {f"{order}{kind}{size}": size for order in "<>" for kind in "uif" for size in (2, 4, 8)}
_CODECS = {
    2: {"blosc", "zlib", "gzip", "zstd", "lz4", "lzma", "bz2", "shuffle", "delta", "crc32"},
    3: {"bytes", "transpose", "blosc", "gzip", "zstd", "crc32c", "sharding_indexed"},
}


@dataclass(frozen=True)
class Node:
    """The metadata of an array or group."""

    format: int  # Zarr's, 2 or 3
    attributes: dict[str, Any]
    document: dict[str, Any] = field(default_factory=dict)  # zarr.json, or .zarray or .zgroup

    @property
    def is_array(self) -> bool:
        return self.document.get("node_type") == "array" or "chunks" in self.document

    @property
    def files(self) -> dict[str, bytes]:
        """The files of an array's metadata, as a library reads them."""
        if self.format == 3:
            return {"zarr.json": json.dumps(self.document).encode()}
        return {".zarray": json.dumps(self.document).encode(), ".zattrs": json.dumps(self.attributes).encode()}

    @property
    def ome(self) -> Mapping[str, Any]:
        """The attributes of OME-Zarr, which 0.5 keeps under `ome`."""
        ome = self.attributes.get("ome", self.attributes)
        return ome if isinstance(ome, Mapping) else {}


def is_zarr(folder: Path) -> bool:
    """Return whether a folder has the metadata of a Zarr array or group, or a part of it."""
    return any(os.path.isfile(folder / name) for name in METADATA)  # False where the folder is locked


def read_node(folder: Place, error: type[TilesegmentError] = ImageError) -> Node | None:
    """Read the metadata of the array or group in `folder`, of Zarr 2 or 3; None if there is none.

    Raises:
        TilesegmentError: it is damaged, or cannot be read; raised as `error`.
    """
    found = _documents(folder, error)
    if (document := found.get("zarr.json")) is not None:
        attributes = document.get("attributes") or {}
        if not isinstance(attributes, dict):
            raise error(f"the metadata {folder / 'zarr.json'} is damaged: its attributes are not a JSON object")
        return Node(3, attributes, document)
    array, group, attributes = (found.get(name) for name in METADATA[1:])
    return Node(2, attributes or {}, array or group or {}) if found else None


def consolidated_members(folder: Place, node: Node) -> list[str]:
    """Return the names of the arrays and groups directly in a group that its consolidated metadata lists."""
    listed = node.document.get("consolidated_metadata") if node.format == 3 else read_json(folder / ".zmetadata")
    keys = listed.get("metadata") if isinstance(listed, Mapping) else None
    names = {str(key).partition("/")[0] for key in keys} if isinstance(keys, Mapping) else set()
    return sorted(names - set(METADATA))


def _documents(folder: Place, error: type[TilesegmentError]) -> dict[str, dict[str, Any]]:
    """Return the metadata in `folder` by the names of the files: zarr.json, or all of Zarr 2."""
    denied: list[TilesegmentError] = []

    def read(name: str) -> dict[str, Any] | None:
        try:
            return read_json(folder / name, error)
        except error as failure:
            if not isinstance(failure.__cause__, DeniedError):
                raise
            denied.append(failure)  # to those who may not list a bucket, what is missing is denied, too
            return None

    first, *others = METADATA
    if (document := read(first)) is not None:
        return {first: document}
    with ThreadPoolExecutor(len(others) if isinstance(folder, Location) else 1) as pool:
        documents = dict(zip(others, pool.map(read, others), strict=True))
    found = {name: document for name, document in documents.items() if document is not None}
    if denied and not found:
        raise denied[0]
    return found


def read_json(file: Place, error: type[TilesegmentError] = ImageError) -> dict[str, Any] | None:
    """Read a file of metadata; None if it is missing, as when another process has just renamed its folder."""
    content = _read(file, error)
    if content is None:
        return None
    try:
        document = json.loads(content) if len(content) <= _MAX_JSON else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise error(f"{file} is not the metadata of a Zarr array or group: the store is damaged")
    return document


def _read(file: Place, error: type[TilesegmentError]) -> bytes | None:
    """Read a file, of a large one as much as shows that it is too large; None if it is missing."""
    try:
        if isinstance(file, Location):
            return store_at(file.parent).get(file.name)
        if not file.is_file():
            return None
        with file.open("rb") as stream:
            return stream.read(_MAX_JSON + 1)
    except FileNotFoundError:
        return None
    except StoreError as failure:
        raise error(failure) from failure
    except OSError as failure:
        raise error(f"cannot read {file}: {failure.strerror}; check its permissions") from failure


def write_json(file: Path, document: Mapping[str, Any]) -> None:
    """Write a JSON file atomically."""
    write_atomically(file, _as_json(document))


def _as_json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=2).encode()


def group_file(folder: Path) -> Path | None:
    """Return the file with the attributes of the Zarr group in `folder`; None if there is none."""
    return next((folder / name for name in ("zarr.json", ".zattrs") if (folder / name).is_file()), None)


def group_documents(group: Node) -> dict[str, bytes]:
    """Return the files of a Zarr group's metadata; that with the attributes is the last."""
    if group.format == 3:
        document = {"zarr_format": 3, "node_type": "group", "attributes": group.attributes}
        return {"zarr.json": _as_json(document)}
    return {".zgroup": _as_json({"zarr_format": 2}), ".zattrs": _as_json(group.attributes)}


def write_group(folder: Path, group: Node) -> None:
    """Write the metadata of a Zarr group, in place of what is there."""
    for name, document in reversed(group_documents(group).items()):
        write_atomically(folder / name, document)


def check_array(path: str, node: Node) -> tuple[tuple[int, ...], tuple[str, ...] | None]:
    """Return the shape of an array and the names of its dimensions, if it has any.

    Raises:
        ImageError: its pixel type, chunks or codecs are not supported, or the metadata contradicts itself.
    """
    meta = node.document
    try:
        dtype, chunks, codecs = (_version_3 if node.format == 3 else _version_2)(meta)
        shape, sizes = _integers(meta["shape"]), [_integers(chunk) for chunk in chunks]
    except (LookupError, TypeError, ValueError) as error:
        raise ImageError(f"{path} has damaged Zarr metadata ({error!r:.200})") from error
    if not isinstance(dtype, str) or dtype not in _SIZES:
        raise ImageError(f"{path} holds pixels of type {str(dtype)[:40]!r}; {PIXEL_TYPES} are supported: convert it")
    if foreign := [str(codec)[:40] for codec in codecs if codec not in _CODECS[node.format]]:
        allowed = ", ".join(sorted(_CODECS[node.format]))
        raise ImageError(
            f"{path} is compressed with {foreign[0]!r}; allowed are {allowed}: rewrite it with one of them"
        )
    _check_chunks(path, shape, sizes, _SIZES[dtype])
    names = meta.get("dimension_names") or node.attributes.get("_ARRAY_DIMENSIONS")
    if not isinstance(names, list) or not all(isinstance(name, str) and is_printable(name) for name in names):
        return shape, None
    return shape, tuple(axis_name({"name": name}) for name in names)


def _check_chunks(path: str, shape: tuple[int, ...], chunks: list[tuple[int, ...]], itemsize: int) -> None:
    """Check the chunks: of a sharded array the shards, then their chunks."""
    if len(shape) > _MAX_DIMENSIONS or any(len(chunk) != len(shape) or min(chunk, default=1) < 1 for chunk in chunks):
        raise ImageError(f"{path} has damaged Zarr metadata: chunks {chunks[0]} do not fit the shape {shape}")
    if (size := math.prod(chunks[-1]) * itemsize) > _MAX_CHUNK:
        raise ImageError(
            f"{path} has chunks of {size / 2**30:.1f} GiB; at most {_MAX_CHUNK >> 30} are supported: "
            "rewrite it with smaller chunks, say 512 x 512"
        )
    if any(math.prod(outer) // math.prod(inner) > _MAX_INNER_CHUNKS for outer, inner in pairwise(chunks)):
        raise ImageError(f"{path} has shards of more than {_MAX_INNER_CHUNKS} chunks: rewrite it with smaller shards")


def _integers(values: Any) -> tuple[int, ...]:
    if not isinstance(values, list) or not all(type(v) is int and v >= 0 for v in values):
        raise ValueError(f"{str(values)[:60]} is not a list of whole numbers")
    return tuple(values)


def _version_2(meta: Mapping[str, Any]) -> tuple[Any, list[Any], list[Any]]:
    """Return data type, chunk shapes from the outermost inwards, and codecs."""
    codecs = [codec for codec in [meta.get("compressor"), *(meta.get("filters") or [])] if codec is not None]
    return meta["dtype"], [meta["chunks"]], [str(codec["id"]) for codec in codecs]


def _version_3(meta: Mapping[str, Any]) -> tuple[Any, list[Any], list[Any]]:
    if meta["chunk_grid"]["name"] != "regular" or meta.get("storage_transformers"):
        raise ValueError("only regular chunk grids without storage transformers are supported")
    chunks, names = [meta["chunk_grid"]["configuration"]["chunk_shape"]], []
    pending = list(meta["codecs"])
    while pending:
        codec = pending.pop()
        names.append(codec if isinstance(codec, str) else str(codec["name"]))
        if names[-1] == "sharding_indexed":
            chunks.append(codec["configuration"]["chunk_shape"])
            pending += codec["configuration"]["codecs"] + codec["configuration"].get("index_codecs", [])
    return meta["data_type"], chunks, names


def is_printable(text: str) -> bool:
    """Return whether a name from a file can be shown in a message."""
    return text.isprintable() and len(text) <= _MAX_NAME


def axis_name(axis: Mapping[str, Any]) -> str:
    """Return our name of an axis: channels are c and time is t, whatever they are called."""
    name = str(axis["name"]).lower()
    return {"channel": "c", "channels": "c", "time": "t"}.get(str(axis.get("type") or name), name)
