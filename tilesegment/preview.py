"""Pictures of whole images of any size: previews with the mask on top, and heat maps of probabilities."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, floor
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from tilesegment.draw import (
    HEATMAP,
    PREVIEW,
    check_picture,
    heat,
    legend_of,
    overlay,
    reduce,
    save,
    scale_bar,
    sheet,
    stretch,
)
from tilesegment.errors import MaskError, PlanError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.identity import identity
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec, open_mask
from tilesegment.masks.reader import open_probabilities
from tilesegment.masks.spec import STORED, digest
from tilesegment.metadata import LabelClass

_LARGEST = 1024  # pixels of a panel: two of them fill a screen
_LARGEST_HEATMAP = 2048


class Ids(Protocol):
    """Class ids that are read by region: a mask, or one in progress."""

    def read(self, region: Region, z: int) -> np.ndarray:
        """(h, w) uint8."""


@dataclass(frozen=True)
class _Predicted:
    """Which part of which image a mask covers, and how the image was read."""

    image: str
    shape: tuple[int, int]
    level: int
    plane: int
    region: Region
    reading: Mapping[str, Any]


def draw_preview(image: str | Path, mask: str | Path, out: str | Path, *, roi: Region | None = None) -> tuple[str, ...]:
    """Draw an image beside the same image under its mask, at most 1024 pixels a side each.

    Args:
        image: the predicted image, read as it was then; of a stack, the mask's first plane is drawn.
        mask: OME-Zarr, TIFF or PNG, as `predict` wrote it.
        out: `.png` or `.jpg`.
        roi: only these pixels, of level 0 of the image; None draws all that the mask covers.

    Returns:
        A note if the mask was made of another image of this size, else nothing.

    Raises:
        ImageError, MaskError: a file cannot be read or written, or the mask does not cover the image or the roi.
    """
    found = open_mask(mask)
    predicted = _predicted(found.spec, str(found.path))
    check_picture(Path(out))
    if os.path.realpath(out) in (os.path.realpath(image), os.path.realpath(mask)):
        raise MaskError(f"{out} is the image or the mask that is drawn; choose another name for the picture")
    with open_image(image, **predicted.reading) as source:
        sizes = [level.shape for level in source.levels]
        is_there = predicted.level < len(sizes) and predicted.plane < (source.depth or 1)
        if not is_there or sizes[predicted.level] != predicted.shape:
            height, width = predicted.shape
            raise MaskError(
                f"{mask} is not a mask of {image}: it was made of {predicted.image}, {height} x {width} (y, x), level "
                f"{predicted.level}, plane {predicted.plane}; the levels of the image are "
                f"{', '.join(f'{h} x {w}' for h, w in sizes[:8])}, planes {source.depth or 1}"
            )
        draw_overview(source, found.levels[0], found.spec, Path(out), roi=roi)
        if found.spec.fingerprint.get(STORED) == identity(source.path).digest:
            return ()
    return (
        f"{mask} was made of {predicted.image}, and {image} holds other data: they are drawn over each other as they "
        "have the same size",
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
    predicted = _predicted(spec, source.path)
    region, shown = predicted.region, predicted.region
    if roi is not None:
        sy, sx = source.levels[predicted.level].scale
        touched = Region(floor(roi.y0 / sy), floor(roi.x0 / sx), ceil(roi.y1 / sy), ceil(roi.x1 / sx))
        shown = touched.intersect(region)
        if shown.area == 0:
            raise MaskError(f"the mask covers {region} of level {predicted.level}, nothing of roi {roi}")
    factor = -(-max(shown.shape) // _LARGEST)
    inside = shown.within(region)
    mask = reduce(lambda part: ids.read(part.shift(inside.y0, inside.x0), 0)[None], shown.shape, factor)[0]
    image = reduce(
        lambda part: source.read(part.shift(shown.y0, shown.x0), predicted.level, predicted.plane),
        shown.shape,
        factor,
        mean=True,
    )
    plain, size = stretch(image), spec.pixel_size
    panels = [plain if size is None else scale_bar(plain, size.x * factor), overlay(plain, mask, spec.classes)]
    title = f"{Path(source.path).name}, {shown.height:,} x {shown.width:,} px"
    part = "" if shown == region else f"{shown} of "
    title += f" from {shown.y0:,}, {shown.x0:,} (y, x)" if part else ""
    picture = sheet([panels], title=title, legends={"": legend_of(spec.classes)})
    save(picture, out, f"{PREVIEW}{part}{mask_digest(spec)}")


def mask_digest(spec: MaskSpec) -> str:
    """Return the digest by which a preview identifies its mask, in whatever format the mask is stored."""
    return digest({"layout": spec.layout(), "fingerprint": spec.fingerprint})


def _predicted(spec: MaskSpec, path: str) -> _Predicted:
    decided: Mapping[str, Any] = spec.fingerprint
    try:
        height, width = decided["shape"]
        return _Predicted(
            image=str(decided.get("image")),
            shape=(int(height), int(width)),
            level=int(decided["level"]),
            plane=int(decided["planes"][0]),
            region=Region(*decided["region"]),
            reading={n: decided[n] for n in ("axes", "select", "series", "invert") if decided.get(n) is not None},
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise MaskError(f"{path} does not say which image it was made of ({error!r}); compute it again") from error


@dataclass(frozen=True)
class Heatmap:
    """A heat map to draw.

    Attributes:
        path: file of the picture.
        probabilities: Zarr store of the probabilities.
        shown: class id; None is every class but 0.
    """

    path: Path
    probabilities: Path
    shown: int | None = None

    def draw(self, largest: int = _LARGEST_HEATMAP) -> None:
        """Draw plane 0 of the finest level that has at most `largest` pixels a side, and write the picture.

        Raises:
            MaskError: the probabilities cannot be read, or the picture cannot be written.
        """
        spec, levels = open_probabilities(self.probabilities)
        number = next((n for n, level in enumerate(levels) if max(level.shape) <= largest), len(levels) - 1)
        level = levels[number]

        def likely(region: Region) -> np.ndarray:
            pixels = level.read(region, 0)
            unit = pixels.astype(np.float32) / (255 if pixels.dtype == np.uint8 else 1)
            return 1 - unit[:1] if self.shown is None else unit[self.shown, None]

        # every n-th pixel where even the smallest level is too large
        values = reduce(likely, level.shape, -(-max(level.shape) // largest))[0]
        shown = 1 if self.shown is None and len(spec.classes) == 2 else self.shown
        name = "any class but 0" if shown is None else spec.classes[shown].name
        panel, legend = heat(values)
        title = f"{self.probabilities.name}: probability of {name}, level {number}"
        save(sheet([[panel]], title=title, legends={"": legend}), self.path, f"{HEATMAP}{name}")


def class_to_show(wanted: str | None, classes: tuple[LabelClass, ...]) -> int | None:
    """Return the id of the class with this name or number; None for the foreground, every class but 0.

    Raises:
        PlanError: no such class.
    """
    if wanted is None or wanted == "foreground":
        return None
    names = [one.name for one in classes]
    if wanted in names:
        return names.index(wanted)
    if wanted.isdecimal() and int(wanted) < len(names):
        return int(wanted)
    raise PlanError(
        f"--heatmap-class {wanted}: the model has no such class; allowed: foreground, {', '.join(names)}, "
        f"or a number from 0 to {len(names) - 1}"
    )
