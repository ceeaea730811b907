"""Zarr arrays and OME-Zarr images, versions 2 and 3."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import zarr
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import LocalStore

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.axes import Layout, arrange
from tilesegment.images.source import ImageSource, Level
from tilesegment.images.zarr_metadata import ArrayFacts, Multiscale, array_facts, is_array, multiscale, node
from tilesegment.metadata import PixelSize


class ZarrSource(ImageSource):
    """A Zarr array, or the arrays of an OME-Zarr image.

    A chunk that is not stored is fill value, as Zarr has it; one that is there but empty is an error. Levels of an
    OME-Zarr image that are reduced along z too are left out.
    """

    def __init__(
        self,
        path: str,
        format: str,
        arrays: list[zarr.Array],
        layouts: list[Layout],
        scales: list[tuple[float, float]],
        pixel_size: PixelSize | None,
    ) -> None:
        first = layouts[0]
        levels = tuple(
            Level(layout.plane, (scale[0] / scales[0][0], scale[1] / scales[0][1]))
            for layout, scale in zip(layouts, scales, strict=True)
        )
        super().__init__(path, format, levels, first.depth, first.channels, arrays[0].dtype, pixel_size)
        self._arrays = arrays
        self._layouts = layouts

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        layout = self._layouts[level]
        return layout.to_planes(np.asarray(self._arrays[level][layout.index(region, z)]))

    def close(self) -> None:
        """Forget the arrays: no file stays open between reads."""
        self._arrays = []


def open_zarr(path: str, axes: str | None, select: Mapping[str, int]) -> ZarrSource:
    """Open the Zarr array or OME-Zarr image in the folder `path`; `axes` and `select` as in `open_image`.

    Raises:
        ImageError: neither is there, or something in its metadata is not supported.
    """
    folder = Path(path)
    found = node(folder)
    if found is None:
        raise ImageError(f"{path} is a folder without a Zarr array or group in it: give a file or a Zarr folder")
    meta, attributes = found
    if is_array(meta):
        facts = array_facts(path, meta, attributes)
        layout = arrange(path, _axes(path, facts, axes), facts.shape, select)
        return ZarrSource(path, "Zarr", [_open(folder)], [layout], [(1.0, 1.0)], None)
    image = multiscale(path, attributes)
    if image is None:
        below = sorted(p.name for p in folder.iterdir() if p.is_dir() and node(p))
        hint = f"name one of {', '.join(below[:8])} in it, as {path.rstrip('/')}/{below[0]}" if below else "it is empty"
        raise ImageError(f"{path} is a Zarr group without an OME-Zarr image: {hint}")
    return _open_multiscale(folder, image, axes, select)


def _open_multiscale(folder: Path, image: Multiscale, axes: str | None, select: Mapping[str, int]) -> ZarrSource:
    names = image.axes if axes is None else tuple(axes)
    arrays: list[zarr.Array] = []
    layouts: list[Layout] = []
    scales = []
    for name, scale in zip(image.paths, image.scales, strict=True):
        path = str(folder / name)
        found = node(folder / name)
        if found is None or not is_array(found[0]):
            raise ImageError(f"{folder} names a level {name} that is not in it: the store is not complete")
        layout = arrange(path, names, array_facts(path, *found).shape, select)
        if layouts and (layout.depth, layout.channels) != (layouts[0].depth, layouts[0].channels):
            break
        array = _open(folder / name)
        if arrays and array.dtype != arrays[0].dtype:
            raise ImageError(f"{folder} has levels of {arrays[0].dtype} and {array.dtype}: the store is damaged")
        arrays.append(array)
        layouts.append(layout)
        scales.append(scale)
    return ZarrSource(str(folder), f"OME-Zarr {image.version}", arrays, layouts, scales, image.pixel_size)


class _StrictStore(LocalStore):
    """A folder of chunks in which whatever is no chunk is damage, where Zarr would take it for a missing one.

    That is an empty file, a folder, or a link to what is not there.
    """

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """What is stored under `key`, None if nothing is."""
        value = await super().get(key, prototype, byte_range)
        if value is None:
            self._check_missing(key)
        elif len(value) == 0:
            raise ValueError(f"{key} is an empty file")
        return value

    def _check_missing(self, key: str) -> None:
        """Whether there is nothing on the way to `key` but folders."""
        path = self.root
        for name in key.split("/"):
            if not path.is_dir():
                raise ValueError(f"{path.relative_to(self.root)} is no folder of chunks")
            path /= name
            if not os.path.lexists(path):
                return
        raise ValueError(f"{key} is not a file that can be read")


def _open(folder: Path) -> zarr.Array:
    return zarr.open_array(_StrictStore(folder, read_only=True), mode="r")


def _axes(path: str, facts: ArrayFacts, axes: str | None) -> tuple[str, ...]:
    """What the dimensions of an array on its own are: as told, as it says itself, or as its shape suggests."""
    if axes is not None:
        return tuple(axes)
    if facts.names is not None and {"y", "x"} <= set(facts.names):
        return facts.names
    shape = facts.shape
    match len(shape):
        case 2:
            return tuple("yx")
        case 3:
            return tuple("yxc" if shape[-1] <= 4 else "cyx" if shape[0] <= 4 else "zyx")
        case 4 if shape[1] <= 4 or shape[-1] <= 4:
            return tuple("zcyx" if shape[1] <= 4 else "zyxc")
        case 5:
            return tuple("tczyx")
    raise ImageError(
        f"{path} is an array of {' x '.join(map(str, shape))} that does not say what its dimensions are: "
        "give its axes, a letter of t, z, c, y, x each"
    )
