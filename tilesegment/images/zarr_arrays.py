"""Zarr arrays and OME-Zarr images, versions 2 and 3."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.axes import Layout, arrange, is_thin
from tilesegment.images.contents import chosen_series, inverted_in_vain, others_note
from tilesegment.images.pieces import MOST_KEPT, PieceReader, Take
from tilesegment.images.source import UPRIGHT, ImageSource, Level, Shown
from tilesegment.images.zarr_chunks import Chunks
from tilesegment.images.zarr_groups import image_within
from tilesegment.images.zarr_metadata import ArrayFacts, array_facts, is_array, node
from tilesegment.metadata import UNKNOWN_FRAME, Frame
from tilesegment.ome_zarr.metadata import Multiscale, multiscale_names, read_multiscale

_COLOURS = 4  # no more channels are told by the shape of an array alone
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
        reductions: Sequence[tuple[float, float]],
        frame: Frame = UNKNOWN_FRAME,
        shown: Shown = UPRIGHT,
    ) -> None:
        first = layouts[0]
        levels = tuple(Level(layout.plane, scale) for layout, scale in zip(layouts, reductions, strict=True))
        super().__init__(path, format, levels, first.depth, first.channels, arrays[0].array.dtype, frame, shown)
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
        if chunk["y"] * chunk["x"] * self.channels * self.stored_dtype.itemsize > _MOST_PIECE:
            return self._decode(region, level, z)
        pixels = np.empty((self.channels, *region.shape), self._arrays[level].array.dtype)

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


def open_zarr(path: str, axes: str | None, select: Mapping[str, int], series: int | None, invert: bool) -> ZarrSource:
    """Open the Zarr array or OME-Zarr image in the folder `path`; arguments as in `open_image`.

    Raises:
        ImageError: neither is there, or something in its metadata is not supported.
    """
    folder = Path(path)
    found = node(folder)
    if found is None:
        raise ImageError(f"{path} is a folder without a Zarr array or group in it: give a file or a Zarr folder")
    meta, attributes = found
    notes = inverted_in_vain(path) if invert else ()
    if is_array(meta):
        chosen_series(path, series, ("",), 0)
        facts = array_facts(path, meta, attributes)
        names, guess = _axes(path, facts, axes)
        layout, chunks = arrange(path, names, facts.shape, select), Chunks(folder)
        return ZarrSource(
            path, "Zarr", [chunks], [layout], [(1.0, 1.0)], shown=Shown(notes=notes + guess + chunks.notes)
        )
    images = multiscale_names(attributes)
    number = chosen_series(path, series, images, 0) if images else 0
    image = read_multiscale(path, attributes, number)
    if image is None:
        return open_zarr(image_within(path, attributes, series), axes, select, None, invert)
    contents = images if len(images) > 1 else ()
    notes += () if series is not None else others_note(path, contents, number)
    return _open_multiscale(folder, image, axes, select, notes, contents)


def _open_multiscale(
    folder: Path,
    image: Multiscale,
    axes: str | None,
    select: Mapping[str, int],
    notes: tuple[str, ...],
    contents: tuple[str, ...],
) -> ZarrSource:
    names = image.axes if axes is None else tuple(axes)
    arrays: list[Chunks] = []
    layouts: list[Layout] = []
    for name in image.paths:
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
    reductions, said = image.reductions([layout.plane for layout in layouts])
    notes += tuple(note for array in arrays for note in array.notes) + image.notes + said
    if left := image.paths[len(layouts) :]:
        notes += (f"{folder}: level {', '.join(left)} has other planes or channels than level 0 and is left out",)
    kind, shown = f"OME-Zarr {image.version}", Shown(notes=notes, contents=contents)
    return ZarrSource(str(folder), kind, arrays, layouts, reductions, image.frame(names), shown)


def _axes(path: str, facts: ArrayFacts, axes: str | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What the dimensions of an array on its own are: as told, as it says itself, or as its shape suggests; and a note.

    Raises:
        ImageError: the shape suggests nothing, or two things.
    """
    if axes is not None:
        return tuple(axes), ()
    if facts.names is not None and {"y", "x"} <= set(facts.names):
        return facts.names, ()
    sizes, guess = " x ".join(map(str, facts.shape)), _guess(facts.shape)
    if guess is None:
        raise ImageError(
            f"{path} is an array of {sizes} that does not say what its dimensions are: "
            "give its --axes, a letter of t, z, c, y, x each"
        )
    said = f"{path} does not say what its {sizes} are: they are taken for {', '.join(guess)}; --axes tells otherwise"
    return tuple(guess), (said,) if guess not in ("yx", "yxc") else ()


def _guess(shape: tuple[int, ...]) -> str | None:
    """The likely axes of an array of `shape`; None if none are likely, or several."""
    match len(shape):
        case 2:
            return "yx"
        case 3 if shape[-1] <= _COLOURS:
            return "yxc" if shape[0] > _COLOURS else None
        case 3 if shape[0] <= _COLOURS:
            return "cyx"
        case 3:
            return None if is_thin(shape) else "zyx"
        case 4 if shape[1] <= _COLOURS < shape[-1]:
            return "zcyx"
        case 4 if shape[-1] <= _COLOURS < shape[1]:
            return "zyxc"
        case 5 if shape[-1] > _COLOURS:
            return "tczyx"
    return None
