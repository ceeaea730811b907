"""Zarr arrays and OME-Zarr images, versions 2 and 3."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.axes import Layout, arrange
from tilesegment.images.pieces import MOST_KEPT, PieceReader, Take
from tilesegment.images.source import ImageSource, Level
from tilesegment.images.zarr_chunks import Chunks
from tilesegment.images.zarr_metadata import ArrayFacts, Multiscale, array_facts, is_array, multiscale, node
from tilesegment.metadata import PixelSize

_MOST_PIECE = 1 << 27  # bytes: larger chunks are not kept


class ZarrSource(ImageSource):
    """A Zarr array, or the arrays of an OME-Zarr image.

    A chunk that is not stored is fill value, as Zarr has it; one that is there but empty is an error. Levels of an
    OME-Zarr image that are reduced along z too are left out.
    """

    def __init__(
        self,
        path: str,
        format: str,
        arrays: list[Chunks],
        layouts: list[Layout],
        scales: list[tuple[float, float]],
        pixel_size: PixelSize | None,
    ) -> None:
        first = layouts[0]
        levels = tuple(
            Level(layout.plane, (scale[0] / scales[0][0], scale[1] / scales[0][1]))
            for layout, scale in zip(layouts, scales, strict=True)
        )
        super().__init__(path, format, levels, first.depth, first.channels, arrays[0].array.dtype, pixel_size)
        self._arrays = arrays
        self._layouts = layouts
        self._pieces = PieceReader()

    @property
    def cache_bytes(self) -> int:
        """Chunks that reads to come will need, at most as many as the image has."""
        return min(MOST_KEPT, self._bytes)

    @property
    def decoded_bytes(self) -> int:
        """Of whole chunks: of chunks that span several planes, all of these."""
        return self._pieces.decoded_bytes

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        layout = self._layouts[level]
        chunk = dict(zip(layout.axes, self._arrays[level].array.chunks, strict=True))
        if chunk["y"] * chunk["x"] * self.channels * self.dtype.itemsize > _MOST_PIECE:
            return self._decode(region, level, z)
        pixels = np.empty((self.channels, *region.shape), self.dtype)

        def decode(needed: list[Region], take: Take) -> None:
            """All at once: where blocks are read row by row they fill a rectangle."""
            box = Region(needed[0].y0, min(p.x0 for p in needed), needed[-1].y1, max(p.x1 for p in needed))
            decoded = self._decode(box, level, z)
            for own in needed:
                take(own, decoded[:, *own.within(box).slices])

        self._pieces.read(pixels, region, ((level, z), layout.plane, (chunk["y"], chunk["x"])), decode)
        return pixels

    def _decode(self, region: Region, level: int, z: int) -> np.ndarray:
        array, layout = self._arrays[level], self._layouts[level]
        index = layout.index(region, z)
        self._pieces.decoded_bytes += array.decoded_bytes(index)
        return layout.to_planes(array.read(index))

    def close(self) -> None:
        """Forget the arrays and what is kept of them: no file stays open between reads."""
        self._arrays = []
        self._pieces.close()


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
        return ZarrSource(path, "Zarr", [Chunks(folder)], [layout], [(1.0, 1.0)], None)
    image = multiscale(path, attributes)
    if image is None:
        below = sorted(p.name for p in folder.iterdir() if p.is_dir() and node(p))
        hint = f"name one of {', '.join(below[:8])} in it, as {path.rstrip('/')}/{below[0]}" if below else "it is empty"
        raise ImageError(f"{path} is a Zarr group without an OME-Zarr image: {hint}")
    return _open_multiscale(folder, image, axes, select)


def _open_multiscale(folder: Path, image: Multiscale, axes: str | None, select: Mapping[str, int]) -> ZarrSource:
    names = image.axes if axes is None else tuple(axes)
    arrays: list[Chunks] = []
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
        array = Chunks(folder / name)
        if arrays and array.array.dtype != arrays[0].array.dtype:
            kinds = f"{arrays[0].array.dtype} and {array.array.dtype}"
            raise ImageError(f"{folder} has levels of {kinds}: the store is damaged")
        arrays.append(array)
        layouts.append(layout)
        scales.append(scale)
    return ZarrSource(str(folder), f"OME-Zarr {image.version}", arrays, layouts, scales, image.pixel_size)


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
        "give its --axes, a letter of t, z, c, y, x each"
    )
