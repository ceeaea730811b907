"""Zarr arrays and OME-Zarr images, versions 2 and 3."""

from collections.abc import Mapping, Sequence
from io import UnsupportedOperation
from pathlib import Path
from typing import Any

from tilesegment.errors import DeniedError, ImageError
from tilesegment.images.axes import axes_of
from tilesegment.images.chunked import ChunkedSource
from tilesegment.images.layout import Choices, Layout, arrange, chosen_series, note_on_inversion
from tilesegment.images.source import Shown
from tilesegment.images.zarr_chunks import Chunks, open_chunks
from tilesegment.metadata import UNKNOWN_FRAME, Frame
from tilesegment.ome_zarr.multiscale import Multiscale, multiscale_names, read_multiscale
from tilesegment.ome_zarr.node import Node, check_array, consolidated_members, read_node
from tilesegment.stores import Location, Place, store_at

_LISTED = 8  # names in a message


class ZarrSource(ChunkedSource):
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
        super().__init__(path, format, levels, scales, frame, shown)
        self._arrays = [array for array, _ in levels]

    @property
    def decoded_bytes(self) -> int:
        """Size of the chunks decoded: of chunks that span several planes, all of these. On a server: what came."""
        received = [array.received for array in self._arrays if array.received is not None]
        return sum(received) if received else super().decoded_bytes

    @property
    def requests(self) -> int:
        """Requests sent to the server."""
        return sum(array.requests for array in self._arrays)

    def close(self) -> None:
        """Forget the arrays and what is kept of them: no file stays open between reads."""
        for array in self._arrays:
            array.close()
        super().close()


def open_zarr(place: str | Location, choices: Choices) -> ZarrSource:
    """Open the Zarr array or OME-Zarr image in a folder, or on a server."""
    path, node = str(place), read_node(_place(place))
    if node is None:
        if isinstance(place, Location):
            raise ImageError(f"{path} does not exist: there is neither a file nor a Zarr array or group")
        raise ImageError(f"{path} is a folder without a Zarr array or group in it: give a file or a Zarr folder")
    notes = note_on_inversion(path, choices.invert)
    if node.is_array:
        chosen_series(path, choices.series, ())
        shape, names = check_array(path, node)
        layout, array = (
            arrange(path, axes_of(path, shape, names, choices.axes, notes), shape, choices.select),
            open_chunks(place, node),
        )
        shown = Shown(notes=[*notes, *array.notes])
        return ZarrSource(path, "Zarr", [(array, layout)], [(1.0, 1.0)], UNKNOWN_FRAME, shown)
    images = multiscale_names(node)
    number, others = chosen_series(path, choices.series, images) if images else (0, [])
    image = read_multiscale(path, node, number)
    if image is None:
        below = _image_within(place, node, choices.series)
        return open_zarr(_below(place, below), Choices(choices.axes, choices.select, None, choices.invert))
    return _open_multiscale(place, image, choices, notes + others, images if len(images) > 1 else ())


def _open_multiscale(
    place: str | Location, image: Multiscale, choices: Choices, notes: list[str], contents: Sequence[str]
) -> ZarrSource:
    """Open the levels down to the first with other planes or channels, as where z is reduced too."""
    path, names = str(place), image.axes if choices.axes is None else tuple(choices.axes)
    levels: list[tuple[Chunks, Layout]] = []
    for name in image.paths:
        level = _below(place, name)
        node = read_node(_place(level))
        if node is None or not node.is_array:
            raise ImageError(f"{path} names a level {name} that is not in it: the store is not complete")
        layout = arrange(str(level), names, check_array(str(level), node)[0], choices.select)
        if levels and (layout.depth, layout.channels) != (levels[0][1].depth, levels[0][1].channels):
            break
        array = open_chunks(level, node)
        if levels and array.dtype != levels[0][0].dtype:
            raise ImageError(f"{path} has levels of {levels[0][0].dtype} and {array.dtype}: the store is damaged")
        levels.append((array, layout))
    scales, doubts = image.reductions([layout.plane for _, layout in levels])
    notes = [*notes, *(note for array, _ in levels for note in array.notes), *image.notes, *doubts]
    if left := image.paths[len(levels) :]:
        notes.append(f"{path}: level {', '.join(left)} has other planes or channels than level 0 and is left out")
    shown = Shown(notes=notes, contents=contents)
    return ZarrSource(path, f"OME-Zarr {image.version}", levels, scales, image.frame(names), shown)


def _image_within(place: str | Location, node: Node, series: int | None) -> str:
    """Return where the only image of a group written by bioformats2raw is in it, or image number `series`."""
    path = str(place)
    if isinstance(plate := node.ome.get("plate"), Mapping):
        wells = _paths(plate.get("wells"))
        example = f"{path.rstrip('/')}/{wells[0]}/0" if wells else f"{path.rstrip('/')}/ROW/COLUMN/FIELD"
        raise ImageError(f"{path} is a plate of {len(wells)} wells: name one field of a well, as {example}")
    if isinstance(well := node.ome.get("well"), Mapping):
        fields = _paths(well.get("images")) or ["FIELD"]
        raise ImageError(f"{path} is a well of {len(fields)} fields of a plate: {_choice(path, fields)}")
    if "spatialdata_attrs" in node.attributes:
        below = [f"images/{name}" for name, _ in _members(_place(_below(place, "images")))]
        raise ImageError(f"{path} is a SpatialData store: {_choice(path, below) if below else 'it holds no images'}")
    members = _members(_place(place), node)
    if "bioformats2raw.layout" in node.ome:
        images = [name for name, one in members if not one.is_array and read_multiscale(f"{path}/{name}", one)]
        if images and (len(images) == 1 or series is not None):
            return images[chosen_series(path, series, images)[0]]
        if images:
            choice = _choice(path, images)
            raise ImageError(f"{path} holds {len(images)} images (series): choose one with --series N, or {choice}")
    hint = _choice(path, [name for name, _ in members]) if members else "it is empty"
    raise ImageError(f"{path} is a Zarr group without an OME-Zarr image: {hint}")


def _members(folder: Place, node: Node | None = None) -> list[tuple[str, Node]]:
    """Return the arrays and groups in `folder`, numbers in their order; unlisted, those that the metadata names."""
    if isinstance(folder, Path):
        names = [path.name for path in folder.iterdir() if path.is_dir()] if folder.is_dir() else []
    else:
        try:
            names = list(store_at(folder).folders())
        except (UnsupportedOperation, DeniedError):
            names = [] if node is None else consolidated_members(folder, node)
    found = [(name, member) for name in names if (member := read_node(folder / name)) is not None]
    return sorted(found, key=lambda member: (not member[0].isdecimal(), len(member[0]), member[0]))


def _place(place: str | Location) -> Place:
    return Path(place) if isinstance(place, str) else place


def _below(place: str | Location, name: str) -> str | Location:
    return str(Path(place, name)) if isinstance(place, str) else place / name


def _choice(path: str, names: list[str]) -> str:
    more = ", ..." if len(names) > _LISTED else ""
    return f"name one of {', '.join(names[:_LISTED])}{more} in it, as {path.rstrip('/')}/{names[0]}"


def _paths(items: Any) -> list[str]:
    """Return the `path` of each of the items that have one that can be printed."""
    found = [str(item.get("path")) for item in items if isinstance(item, Mapping)] if isinstance(items, list) else []
    return [name for name in found if name.isprintable() and len(name) < 100]
