"""What the tests of masks in object stores share: places in memory, and what is stored there."""

import itertools
import os
from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from mask_files import PROCESSES, SPEC, ids_of
from s3_server import CREDENTIALS
from zarr.core.buffer import cpu

from tilesegment.geometry import Region
from tilesegment.masks import (
    MaskWriter,
    open_mask,
)
from tilesegment.stores import Location, store_at

_NAMES = itertools.count()
WHOLE = Region.of_shape(SPEC.shape)


def in_memory() -> Location:
    """An empty place."""
    return Location("memory", f"masks {next(_NAMES)}", "some")


def process_of(target: Callable[..., None], *given: Any) -> Any:
    """A process that has the server's credentials; the environment of the fork server is older than they are."""
    return PROCESSES.Process(target=_with_credentials, args=(target, *given))


def _with_credentials(target: Callable[..., None], *given: Any) -> None:
    os.environ.update(CREDENTIALS)
    target(*given)


def keys(place: Location) -> list[str]:
    """All that is stored, sorted."""
    return sorted(entry.key for entry in store_at(place).list())


def contents(place: Location) -> dict[str, bytes]:
    store = store_at(place)
    return {key: store.get(key) for key in keys(place)}


def read(path: Location) -> np.ndarray:
    return open_mask(path).read(WHOLE)


def write_some(writer: MaskWriter, count: int, seed: int = 0) -> None:
    ids = ids_of(SPEC, seed)
    for region, z in list(writer.base.blocks())[:count]:
        writer.write(region, ids[z][region.slices], z)


def open_foreign(path: Location) -> Any:
    """What zarr finds under a name, from the objects alone."""
    files = {key: cpu.Buffer.from_bytes(content) for key, content in contents(path).items()}
    return zarr.open(zarr.storage.MemoryStore(files), mode="r")


def level_0(path: Location) -> np.ndarray:
    """Level 0 as OME-Zarr says where it is."""
    group = open_foreign(path)
    attributes = group.attrs.asdict()
    return np.asarray(group[attributes.get("ome", attributes)["multiscales"][0]["datasets"][0]["path"]])
