"""Zarr arrays and OME-Zarr images, versions 2 and 3."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.axes import axes_of
from tilesegment.images.layout import Choices, Layout, arrange, chosen_series, note_on_inversion
from tilesegment.images.pieces import MOST_KEPT, PieceReader, Take
from tilesegment.images.source import ImageSource, Level, Shown
from tilesegment.images.zarr_chunks import Chunks
from tilesegment.metadata import UNKNOWN_FRAME, Frame
from tilesegment.ome_zarr.multiscale import Multiscale, multiscale_names, read_multiscale
from tilesegment.ome_zarr.node import Node, check_array, read_node

_MOST_PIECE = 1 << 27  # bytes: larger chunks are not kept
_LISTED = 8  # names in a message


class ZarrSource(ImageSource):
    """A Zarr array, or the arrays of an OME-Zarr image.

    A missing chunk is the fill value, as Zarr has it; an empty one is an error.
    """

    def __init__(
        self,
        path: str,
        format: str,
        levels: Sequence[tuple[Chunks, Layout]],
        scales: Sequence[tuple[float, float]],
        frame: Frame,
        shown: Shown,
    ) -> None:
        array, layout = levels[0]
        described = [Level(one.plane, scale) for (_, one), scale in zip(levels, scales, strict=True)]
        super().__init__(path, format, described, layout.depth, layout.channels, array.dtype, frame, shown)
        self._levels = list(levels)
        self._pieces = PieceReader()

    @property
    def cache_bytes(self) -> int:
        """Size of the chunks that reads to come will need, at most as many as the image has."""
        return min(MOST_KEPT, self._bytes)

    @property
    def decoded_bytes(self) -> int:
        """Size of the chunks decoded: of chunks that span several planes, all of these."""
        return self._pieces.decoded_bytes

    def _read(self, region: Region, level: int, z: int) -> np.ndarray:
        array, layout = self._levels[level]

        def decoded(region: Region) -> np.ndarray:
            index = layout.index(region, z)
            self._pieces.decoded_bytes += array.decoded_bytes(index)
            return layout.to_planes(array.read(index))

        def decode(needed: list[Region], take: Take) -> None:
            """Decode all at once: where blocks are read row by row they fill a rectangle."""
            box = Region(needed[0].y0, min(p.x0 for p in needed), needed[-1].y1, max(p.x1 for p in needed))
            pixels = decoded(box)
            for own in needed:
                take(own, pixels[:, *own.within(box).slices])

        side = array.side(layout.axes.index("y")), array.side(layout.axes.index("x"))
        if side[0] * side[1] * self.channels * self.stored_dtype.itemsize > _MOST_PIECE:
            return decoded(region)
        pixels = np.empty((self.channels, *region.shape), array.dtype)
        self._pieces.read(pixels, region, ((level, z), layout.plane, side), decode)
        return pixels

    def close(self) -> None:
        """Forget the arrays and what is kept of them: no file stays open between reads."""
        self._levels = []
        self._pieces.close()


def open_zarr(path: str, choices: Choices) -> ZarrSource:
    """Open the Zarr array or OME-Zarr image in the folder `path`."""
    node = read_node(Path(path))
    if node is None:
        raise ImageError(f"{path} is a folder without a Zarr array or group in it: give a file or a Zarr folder")
    notes = note_on_inversion(path, choices.invert)
    if node.is_array:
        chosen_series(path, choices.series, ())
        shape, names = check_array(path, node)
        layout, array = (
            arrange(path, axes_of(path, shape, names, choices.axes, notes), shape, choices.select),
            Chunks(path),
        )
        shown = Shown(notes=[*notes, *array.notes])
        return ZarrSource(path, "Zarr", [(array, layout)], [(1.0, 1.0)], UNKNOWN_FRAME, shown)
    images = multiscale_names(node)
    number, others = chosen_series(path, choices.series, images) if images else (0, [])
    image = read_multiscale(path, node, number)
    if image is None:
        below = _image_within(path, node, choices.series)
        return open_zarr(below, Choices(choices.axes, choices.select, None, choices.invert))
    return _open_multiscale(path, image, choices, notes + others, images if len(images) > 1 else ())


def _open_multiscale(
    path: str, image: Multiscale, choices: Choices, notes: list[str], contents: Sequence[str]
) -> ZarrSource:
    """Open the levels down to the first with other planes or channels, as where z is reduced too."""
    names = image.axes if choices.axes is None else tuple(choices.axes)
    levels: list[tuple[Chunks, Layout]] = []
    for name in image.paths:
        level = str(Path(path, name))
        node = read_node(Path(level))
        if node is None or not node.is_array:
            raise ImageError(f"{path} names a level {name} that is not in it: the store is not complete")
        layout = arrange(level, names, check_array(level, node)[0], choices.select)
        if levels and (layout.depth, layout.channels) != (levels[0][1].depth, levels[0][1].channels):
            break
        array = Chunks(level)
        if levels and array.dtype != levels[0][0].dtype:
            raise ImageError(f"{path} has levels of {levels[0][0].dtype} and {array.dtype}: the store is damaged")
        levels.append((array, layout))
    scales, doubts = image.reductions([layout.plane for _, layout in levels])
    notes = [*notes, *(note for array, _ in levels for note in array.notes), *image.notes, *doubts]
    if left := image.paths[len(levels) :]:
        notes.append(f"{path}: level {', '.join(left)} has other planes or channels than level 0 and is left out")
    shown = Shown(notes=notes, contents=contents)
    return ZarrSource(path, f"OME-Zarr {image.version}", levels, scales, image.frame(names), shown)


def _image_within(path: str, node: Node, series: int | None) -> str:
    """Return the folder of the only image of a group written by bioformats2raw, or of image number `series`."""
    if isinstance(plate := node.ome.get("plate"), Mapping):
        wells = _paths(plate.get("wells"))
        example = f"{path.rstrip('/')}/{wells[0]}/0" if wells else f"{path.rstrip('/')}/ROW/COLUMN/FIELD"
        raise ImageError(f"{path} is a plate of {len(wells)} wells: name one field of a well, as {example}")
    if isinstance(well := node.ome.get("well"), Mapping):
        fields = _paths(well.get("images")) or ["FIELD"]
        raise ImageError(f"{path} is a well of {len(fields)} fields of a plate: {_choice(path, fields)}")
    if "spatialdata_attrs" in node.attributes:
        below = [f"images/{name}" for name, _ in _members(Path(path, "images"))]
        raise ImageError(f"{path} is a SpatialData store: {_choice(path, below) if below else 'it holds no images'}")
    members = _members(Path(path))
    if "bioformats2raw.layout" in node.ome:
        images = [name for name, one in members if not one.is_array and read_multiscale(f"{path}/{name}", one)]
        if images and (len(images) == 1 or series is not None):
            return f"{path.rstrip('/')}/{images[chosen_series(path, series, images)[0]]}"
        if images:
            choice = _choice(path, images)
            raise ImageError(f"{path} holds {len(images)} images (series): choose one with --series N, or {choice}")
    hint = _choice(path, [name for name, _ in members]) if members else "it is empty"
    raise ImageError(f"{path} is a Zarr group without an OME-Zarr image: {hint}")


def _members(folder: Path) -> list[tuple[str, Node]]:
    """Return the arrays and groups in `folder`, numbers in their order."""
    folders = [path for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    found = [(path.name, node) for path in folders if (node := read_node(path)) is not None]
    return sorted(found, key=lambda member: (not member[0].isdecimal(), len(member[0]), member[0]))


def _choice(path: str, names: list[str]) -> str:
    more = ", ..." if len(names) > _LISTED else ""
    return f"name one of {', '.join(names[:_LISTED])}{more} in it, as {path.rstrip('/')}/{names[0]}"


def _paths(items: Any) -> list[str]:
    """Return the `path` of each of the items that have one that can be printed."""
    found = [str(item.get("path")) for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    return [name for name in found if name.isprintable() and len(name) < 100]
