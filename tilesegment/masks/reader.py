"""Reads masks back that were written as OME-Zarr, TIFF or PNG."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray, open_array
from tilesegment.masks.disk import MARK, is_ours, read_group, reporting
from tilesegment.masks.exported import read_exported
from tilesegment.masks.exported_reading import PngLevel, TiffLevel, open_exported
from tilesegment.masks.spec import MaskSpec, spec_from_record
from tilesegment.masks.target import Target, partial_name, recorded_target


@dataclass(frozen=True)
class Mask:
    """A complete mask.

    Attributes:
        path: its folder or file.
        spec: its size, classes, pixel size, fingerprint and provenance.
        levels: its arrays, level 0 first.
    """

    path: Path
    spec: MaskSpec
    levels: tuple[BlockArray, ...] | tuple[TiffLevel, ...] | tuple[PngLevel, ...]

    def read(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """The class ids of `region`, in pixels of `level`, of plane `z`: (h, w) uint8.

        Raises:
            MaskError: some of it is missing or damaged.
        """
        return self.levels[level].read(region, z)


def is_mask(path: str | Path) -> bool:
    """Whether `path` holds the class ids of a mask that we wrote: Zarr, finished or not, TIFF or PNG.

    Probabilities are images: their values are read as such. So is a TIFF or PNG of a mask that was saved anew as
    something else, cropped or in colours.
    """
    path = Path(os.path.abspath(path))
    if os.path.isfile(path):
        return open_exported(path) is not None
    group = read_group(path) if is_ours(path) else None
    record = {} if group is None else group.attributes[MARK]
    layout = record.get("layout") if isinstance(record, dict) else None
    return group is not None and not (isinstance(layout, dict) and layout.get("kind") == "probabilities")


def open_mask(path: str | Path) -> Mask:
    """The mask at `path`, written by `create_mask`: an OME-Zarr folder, a TIFF or a PNG.

    Raises:
        MaskError: there is none, it is not finished, not ours, or damaged; or it is a JPEG, which holds no class ids.
    """
    path = Path(os.path.abspath(path))
    with reporting("read", path):
        group = read_group(path) if path.is_dir() else None
        exported = None if group is not None else open_exported(path)
    if exported is not None:
        return Mask(path, *exported)
    record = group.attributes.get(MARK) if group is not None else None
    if group is None or not isinstance(record, dict):
        raise MaskError(_not_a_mask(path))
    if record.get("state") != "complete":
        raise MaskError(f"{path} is not finished; run the mask again with the same settings to go on")
    spec = spec_from_record(record)
    if record["layout"].get("kind") == "probabilities":
        raise MaskError(f"{path} holds probabilities, no mask; open it as an image")
    return Mask(path, spec, open_levels(path, recorded_target(path, path, record), spec))


def _not_a_mask(path: Path) -> str:
    if os.path.isdir(partial_name(path)):
        return f"{path} is not finished; run the mask again with the same settings to go on"
    if not os.path.exists(path):
        return f"there is no mask {path}: check the path"
    if os.path.isfile(path) and "digest" in (read_exported(path) or {}):
        return f"{path} is a mask as JPEG, which holds colours and no class ids; predict to .zarr, .tif or .png"
    return f"{path} is no mask written by tilesegment; name an OME-Zarr, TIFF or PNG that predict wrote"


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
