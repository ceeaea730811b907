"""Masks read back, from OME-Zarr, TIFF or PNG."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.masks.blocks import BlockArray, reporting
from tilesegment.masks.export import KINDS, PngLevel, TiffLevel, read_exported
from tilesegment.masks.home import home_of
from tilesegment.masks.pyramid import Tally
from tilesegment.masks.spec import MaskSpec, spec_from_record
from tilesegment.masks.target import OBJECTS, Target, absolute, is_ours, partial_name, read_record, recorded_target
from tilesegment.metadata import MARK, LabelClass
from tilesegment.ome_zarr.node import read_node
from tilesegment.stores import Location, Place

CLASS_PIXELS = "class_pixels"
"""Key of a finished mask's record: how many pixels of level 0 each class has, in all planes."""
_MOST_COUNTED = 1 << 26  # pixels to count in a mask without a count in its record
_UNFINISHED = "is not finished; run it again with the same settings to go on"


@dataclass(frozen=True)
class Mask:
    """A complete mask.

    Attributes:
        path: its folder or file.
        spec: its size, classes, pixel size, fingerprint and provenance.
        levels: its arrays, level 0 first.
        record: as stored in it.
    """

    path: Place
    spec: MaskSpec
    levels: tuple[BlockArray, ...] | tuple[TiffLevel, ...] | tuple[PngLevel, ...]
    record: dict[str, Any] = field(repr=False)

    @property
    def format(self) -> str:
        """`OME-Zarr`, `TIFF` or `PNG`."""
        return "OME-Zarr" if isinstance(self.levels[0], BlockArray) else KINDS[self.path.suffix.lower()].upper()

    def read(self, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        """Return the class ids of `region`, in pixels of `level`, of plane `z`: (h, w) uint8.

        Raises:
            MaskError: some of it is missing or damaged.
        """
        return self.levels[level].read(region, z)

    @property
    def class_pixels(self) -> tuple[int, ...] | None:
        """Pixels of each class in all planes, if they were counted when the mask was finished."""
        known, whole = self.record.get(CLASS_PIXELS), (self.spec.depth or 1) * self.spec.shape[0] * self.spec.shape[1]
        counts = known if isinstance(known, list) and all(type(n) is int and n >= 0 for n in known) else []
        return tuple(counts) if len(counts) == len(self.spec.classes) and sum(counts) == whole else None

    def class_shares(self) -> tuple[int, tuple[float, ...]]:
        """Return a level, and the share of each class in its pixels, 0 to 1, in all planes.

        That is level 0 if its pixels were counted when the mask was finished, else the finest level of at most 64 Mpx.
        """
        depth = self.spec.depth or 1
        if self.class_pixels is not None:
            return 0, tuple(count / sum(self.class_pixels) for count in self.class_pixels)
        sizes = [depth * level.shape[0] * level.shape[1] for level in self.levels]
        chosen = next((n for n, size in enumerate(sizes) if size <= _MOST_COUNTED), len(sizes) - 1)
        tally = Tally(len(self.spec.classes))
        for z in range(depth):
            for region in Region.of_shape(self.levels[chosen].shape).squares(4096):
                tally.add(self.read(region, chosen, z))
        return chosen, tuple(count / sizes[chosen] for count in tally.pixels.tolist())


def find_mask(path: str | Place) -> Mask | None:
    """Open the mask at `path`: an OME-Zarr folder, a TIFF or a PNG; None if it is something else.

    Probabilities and ids of objects count as images, and so does a mask that another program saved in colours.

    Raises:
        MaskError: it is a mask that is not finished, or damaged.
    """
    place = absolute(path)
    with reporting("read", place):
        if isinstance(place, Path) and not place.is_dir():
            exported = read_exported(place) if place.is_file() else None
            ids = None if exported is None else exported.ids()
            return None if exported is None or ids is None else Mask(place, *ids, exported.record)
        found = _open_folder(place)
        is_mask = found is not None and found[0].kind != "probabilities" and found[0].values != OBJECTS
        return Mask(place, *found[1:]) if found is not None and is_mask else None


def open_mask(path: str | Place) -> Mask:
    """Open the mask at `path`, written by `create_mask`: an OME-Zarr folder, a TIFF or a PNG.

    Raises:
        MaskError: there is none, or it is not finished, not ours, or damaged.
    """
    mask = find_mask(path)
    if mask is not None:
        return mask
    place = absolute(path)
    with reporting("read", place):
        if is_ours(partial_name(place)):
            raise MaskError(f"{place} {_UNFINISHED}")
        if recorded_classes(place, probabilities=True) is not None:
            raise MaskError(f"{place} holds probabilities, no mask; open it as an image")
        if read_node(place, MaskError) is None if isinstance(place, Location) else not os.path.exists(place):
            check = (
                "check the URL, and download it if it is no Zarr" if isinstance(place, Location) else "check the path"
            )
            raise MaskError(f"there is no mask {place}: {check}")
    raise MaskError(f"{place} is no mask written by tilesegment; name an OME-Zarr, TIFF or PNG that predict wrote")


def open_probabilities(path: str | Place) -> tuple[MaskSpec, tuple[BlockArray, ...]]:
    """Return the spec and the levels of the complete probabilities in folder `path`."""
    place = absolute(path)
    with reporting("read", place):
        found = _open_folder(place) if isinstance(place, Location) or place.is_dir() else None
    if found is None or found[0].kind != "probabilities":
        raise MaskError(f"{place} holds no probabilities written by tilesegment; name some")
    return found[1], found[2]


def _open_folder(path: Place) -> tuple[Target, MaskSpec, tuple[BlockArray, ...], dict[str, Any]] | None:
    """Open what `create_mask` or `create_probabilities` wrote; None if it is something else."""
    group = read_node(path, MaskError)
    if group is None or MARK not in group.attributes:
        return None
    record = group.attributes[MARK]
    if not isinstance(record, dict):
        raise MaskError(f"{path} is no mask written by tilesegment that can be read: its record is damaged")
    if record.get("state") != "complete":
        raise MaskError(f"{path} {_UNFINISHED}")
    spec, target = spec_from_record(record), recorded_target(path, path, record)
    return target, spec, open_levels(target, spec), record


def open_levels(target: Target, spec: MaskSpec) -> tuple[BlockArray, ...]:
    """Open the arrays, level 0 first, of a complete mask or complete probabilities."""
    grids = [target.grid(spec).halved(halvings) for halvings in target.halvings]
    home = home_of(target)
    return tuple(home.finished_level(number, grid) for number, grid in enumerate(grids))


def recorded_classes(path: Place, *, probabilities: bool) -> tuple[LabelClass, ...] | None:
    """Return the classes of a mask, or of probabilities, from the record in it; None for any other file.

    Ids of objects are such an other file.
    """
    record = read_record(path)
    layout = None if record is None else record.get("layout")
    if record is None or not isinstance(layout, dict) or (layout.get("kind") == "probabilities") != probabilities:
        return None
    if layout.get("values") == OBJECTS:
        return None
    return spec_from_record(record).classes
