"""Reads masks back that were written as OME-Zarr."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray, open_array
from tilesegment.masks.disk import MARK, read_group, reporting
from tilesegment.masks.spec import MaskSpec, spec_from_record
from tilesegment.masks.target import Target, recorded_target


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
    return Mask(path, spec, open_levels(path, recorded_target(path, path, record), spec))


def open_probabilities(path: str | Path) -> tuple[MaskSpec, tuple[BlockArray, ...]]:
    """The classes, and the levels, of the complete probabilities in folder `path`.

    Raises:
        MaskError: there are none, or they are not finished or damaged.
    """
    path = Path(os.path.abspath(path))
    with reporting("read", path):
        group = read_group(path) if path.is_dir() else None
    record = group.attributes.get(MARK) if group is not None else None
    layout = record.get("layout") if isinstance(record, dict) else None
    if not isinstance(record, dict) or not isinstance(layout, dict) or layout.get("kind") != "probabilities":
        raise MaskError(f"{path} holds no probabilities written by tilesegment; name some")
    if record.get("state") != "complete":
        raise MaskError(f"{path} is not finished; run it again with the same settings to go on")
    spec = spec_from_record(record)
    return spec, open_levels(path, recorded_target(path, path, record), spec)


def open_levels(path: Path, target: Target, spec: MaskSpec) -> tuple[BlockArray, ...]:
    """The arrays, level 0 first, of the complete mask, or probabilities, in folder `path`.

    Raises:
        MaskError: one is missing or another one.
    """
    grids = [target.grid(spec).halved(halvings) for halvings in target.halvings]
    return tuple(open_array(path / str(number), grid) for number, grid in enumerate(grids))
