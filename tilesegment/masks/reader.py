"""Reads masks back that were written as OME-Zarr."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray, Grid, open_array
from tilesegment.masks.disk import MARK, read_group, reporting
from tilesegment.masks.ngff import MAX_HALVINGS
from tilesegment.masks.pyramid import level_shape
from tilesegment.masks.spec import MaskSpec, spec_from_record


@dataclass(frozen=True)
class Mask:
    """A complete mask.

    Attributes:
        path: its folder.
        spec: its size, classes, pixel size, fingerprint and provenance.
        levels: its arrays, level 0 first.
    """

    path: Path
    spec: MaskSpec
    levels: tuple[BlockArray, ...]

    def read(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """The class ids of `region`, in pixels of `level`, of plane `z`: (h, w) uint8.

        Raises:
            MaskError: some of it is missing or damaged.
        """
        return self.levels[level].read(region, z)


def open_mask(path: str | Path) -> Mask:
    """The OME-Zarr mask in folder `path`, written by `create_mask`.

    Raises:
        MaskError: there is none, it is not finished, not ours, or damaged.
    """
    path = Path(os.path.abspath(path))
    with reporting("read", path):
        group = read_group(path) if path.is_dir() else None
    record = group.attributes.get(MARK) if group is not None else None
    if group is None or not isinstance(record, dict):
        raise MaskError(f"{path} is no mask written by tilesegment as OME-Zarr; name one")
    if record.get("state") != "complete":
        raise MaskError(f"{path} is not finished; run the mask again with the same settings to go on")
    spec = spec_from_record(record)
    if record["layout"].get("kind") == "probabilities":
        raise MaskError(f"{path} holds probabilities, no mask; open it as an image")
    grid = Grid(spec.shape, spec.depth, None, spec.block, spec.chunk, group.format)
    shapes = [level_shape(spec.shape, halvings) for halvings in _halvings(record)]
    levels = [open_array(path / str(number), replace(grid, shape=shape)) for number, shape in enumerate(shapes)]
    return Mask(path, spec, tuple(levels))


def _halvings(record: dict[str, Any]) -> list[int]:
    halvings = record["layout"].get("halvings")
    allowed = range(MAX_HALVINGS)
    if not isinstance(halvings, list) or not halvings or any(number not in allowed for number in halvings):
        raise MaskError(f"the mask's record is damaged (halvings {halvings!r}); compute the mask again")
    return halvings
