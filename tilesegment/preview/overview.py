"""Previews: an image beside the same image under its mask, or under its objects."""

import os
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Protocol

import numpy as np

from tilesegment.draw import (
    PREVIEW,
    Legend,
    check_picture,
    distinct_ids,
    enlarged,
    legend_of,
    overlay,
    overlay_objects,
    reduce,
    save,
    scale_bar,
    sheet,
    stretch,
)
from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.identity import identity
from tilesegment.images.resampled import at_scale
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec
from tilesegment.preview.shown import Place, Shown, mask_digest, open_shown, place_on, shown_mask
from tilesegment.stores import Location

__all__ = ["draw_overview", "draw_preview", "mask_digest"]

_LARGEST = 1024  # pixels of a panel: two of them fill a screen
MOST_APART = 1 << 25  # pixels whose connected regions are found at once, in 0.5 GB


class Ids(Protocol):
    """Class ids that are read by region: a mask, or one in progress."""

    def read(self, region: Region, z: int) -> np.ndarray:
        """(h, w) uint8."""


def draw_preview(
    image: str | Path | Location,
    mask: str | Path | Location,
    out: str | Path,
    *,
    roi: Region | None = None,
    objects: bool = False,
) -> tuple[str, ...]:
    """Draw an image beside the same image under its mask, at most 1024 pixels a side each.

    Objects are drawn in colours of their own; see `draw.object_colours`.

    Args:
        image: the predicted image, read as it was then; of a stack, the mask's first plane is drawn.
        mask: OME-Zarr, TIFF or PNG, as `predict` wrote it; or ids of objects, in a label image of any format and of the
            image's size.
        out: `.png` or `.jpg`.
        roi: only these pixels, of level 0 of the image; None draws all that the mask covers.
        objects: draw each connected region of a class, or of an id, as an object.

    Returns:
        Notes: that the mask was made of another image of this size, or that objects could not be told apart.

    Raises:
        ImageError, MaskError: a file cannot be read or written, or the mask does not cover the image or the roi.
    """
    with open_shown(mask, objects=objects) as shown:
        check_picture(Path(out))
        if os.path.realpath(out) in (os.path.realpath(str(image)), os.path.realpath(str(mask))):
            raise MaskError(f"{out} is the image or the mask that is drawn; choose another name for the picture")
        reading = {} if shown.place is None else shown.place.reading
        step = None if shown.place is None else shown.place.resampled
        with at_scale(open_image(image, **reading), step) as source:
            place = place_on(source, shown)
            notes = _draw(source, shown, place, Path(out), roi)
            if place.stored is None or place.stored == identity(source.place).digest:
                return notes
    return (
        f"{mask} was made of {place.image}, and {image} holds other data: they are drawn over each other as they "
        "have the same size",
        *notes,
    )


def draw_overview(source: ImageSource, ids: Ids, spec: MaskSpec, out: Path, *, roi: Region | None = None) -> None:
    """Draw the part of an image that a mask covers, beside the same part under the mask's first plane.

    Args:
        source: the image.
        ids: level 0 of the mask.
        spec: of the mask.
        out: file of the picture.
        roi: only these pixels, of level 0 of the image.

    Raises:
        MaskError: the mask does not cover the roi, or the picture cannot be written.
    """
    shown = shown_mask(source.path, lambda region: ids.read(region, 0), spec)
    _draw(source, shown, place_on(source, shown), out, roi)


@dataclass(frozen=True)
class _Panels:
    """The two panels of a preview.

    Attributes:
        image, covered: (h, w, 3) uint8.
        spanned: pixels of the image, along a side, that one of theirs spans.
        legend: of the classes, if any.
        found: words for the title.
        notes: for the user.
    """

    image: np.ndarray
    covered: np.ndarray
    spanned: float
    legend: Legend = ()
    found: str = ""
    notes: tuple[str, ...] = ()


def _draw(source: ImageSource, shown: Shown, place: Place, out: Path, roi: Region | None) -> tuple[str, ...]:
    """Draw what is shown at its place; return notes."""
    part = _part(source, place, roi)
    factor = -(-max(part.shape) // _LARGEST)
    image = reduce(
        lambda region: source.read(region.shift(part.y0, part.x0), place.level, place.plane),
        part.shape,
        factor,
        mean=True,
    )
    panels = (_objects if shown.is_objects else _classes)(stretch(image), shown, part.within(place.region), factor)
    size, where = shown.pixel_size, "" if part == place.region else f"{part} of "
    first = panels.image if size is None else scale_bar(panels.image, size.x * panels.spanned)
    title = f"{Path(source.path).name}, {part.height:,} x {part.width:,} px"
    title += f" from {part.y0:,}, {part.x0:,} (y, x)" if where else ""
    legends = {"": panels.legend} if panels.legend else {}
    picture = sheet([[first, panels.covered]], title=title + panels.found, legends=legends)
    save(picture, out, f"{PREVIEW}{'objects in ' if shown.is_objects else ''}{where}{shown.digest}")
    return panels.notes


def _part(source: ImageSource, place: Place, roi: Region | None) -> Region:
    """Return the part of the level that is drawn; `roi` is in pixels of level 0."""
    if roi is None:
        return place.region
    sy, sx = source.levels[place.level].scale
    touched = Region(floor(roi.y0 / sy), floor(roi.x0 / sx), ceil(roi.y1 / sy), ceil(roi.x1 / sx))
    part = touched.intersect(place.region)
    if part.area == 0:
        raise MaskError(f"the mask covers {place.region} of level {place.level}, nothing of roi {roi}")
    return part


def _classes(plain: np.ndarray, shown: Shown, part: Region, factor: int) -> _Panels:
    assert shown.classes is not None
    ids = reduce(lambda region: shown.read(region.shift(part.y0, part.x0))[None], part.shape, factor)[0]
    return _Panels(plain, overlay(plain, ids, shown.classes), factor, legend_of(shown.classes))


def _objects(plain: np.ndarray, shown: Shown, part: Region, factor: int) -> _Panels:
    ids, count = _ids(shown, part, factor)
    notes: tuple[str, ...] = ()
    if count is None:
        notes = (
            f"objects are told apart in the reduced picture, where close ones run together: {part.area:,} px are more "
            f"than {MOST_APART:,}. Draw a part with --roi, or the ids that `tileseg objects` writes",
        )
    elif count == 1 and not shown.apart and part.shape == shown.shape:
        notes = (f"{shown.path} holds one id: give --objects to draw each connected region as an object",)
    # small parts are enlarged, so that outlines are finer than a pixel of the image
    times = max(_LARGEST // max(ids.shape), 1)
    plain, ids = enlarged(plain, _LARGEST), ids.repeat(times, axis=0).repeat(times, axis=1)
    found = "" if count is None else f", {count:,} object{'' if count == 1 else 's'}"
    return _Panels(plain, overlay_objects(plain, ids), factor / times, found=found, notes=notes)


def _ids(shown: Shown, part: Region, factor: int) -> tuple[np.ndarray, int | None]:
    """Return ids of objects, (h, w), every `factor`-th, and how many objects the part holds; None if too many pixels.

    Connected regions of more than `MOST_APART` pixels are found in the reduced picture.
    """
    if shown.apart and part.area <= MOST_APART:
        regions = _connected(_of_objects(shown, part))
        return regions[::factor, ::factor], int(regions.max())
    seen = []

    def read(region: Region) -> np.ndarray:
        ids = _of_objects(shown, region.shift(part.y0, part.x0))
        seen.append(distinct_ids(ids))
        return ids[None]

    ids = reduce(read, part.shape, factor)[0]
    return (_connected(ids), None) if shown.apart else (ids, distinct_ids(np.concatenate(seen)[None]).size)


def _of_objects(shown: Shown, region: Region) -> np.ndarray:
    """Read ids, (h, w) integers; 0 where a class makes no objects."""
    ids = shown.read(region)
    if shown.classes is None:
        return ids
    made = [one.role == "object" for one in shown.classes]
    makes = np.zeros(256, bool)
    makes[1 : len(made)] = made[1:] if any(made) else True
    return np.where(makes[ids], ids, 0)


def _connected(ids: np.ndarray) -> np.ndarray:
    """Number the 4-connected regions of equal ids above 0, from 1."""
    from skimage.measure import label

    regions: np.ndarray = label(np.maximum(ids, 0), background=0, connectivity=1)
    return regions
