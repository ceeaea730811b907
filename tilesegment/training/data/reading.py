"""Reads the labelled images of a data set into sections; of large ones only the parts that are labelled."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from tilesegment.errors import DataError, ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.metadata import PixelSize
from tilesegment.training.data.checks import label_warnings
from tilesegment.training.data.coding import Coding, classes_of, decide
from tilesegment.training.data.labels import Label, Scan, open_label, scan
from tilesegment.training.data.layouts import Layout, Pair, find_layout
from tilesegment.training.data.sections import IGNORE, Dataset, Section

_WHOLE = 4096 * 4096  # pixels of the largest image that is kept whole
_GRID = 256  # side of the squares in which labelled parts are looked for, and the context around them; divides BLOCK


def open_dataset(path: str | Path, classes: Sequence[str] | None = None, ignore: int | None = None) -> Dataset:
    """Reads the labelled images in the folder `path`.

    Labels are read twice: for their values, which all files share, and then into sections. Of an image of more than
    4096 x 4096 pixels only labelled parts are kept, with 256 px of context, so that memory follows the labelled area.

    Args:
        path: a folder in one of the layouts of `layouts`, or an OME-Zarr image with a label. A file may be a stack;
            then its label is one, too.
        classes: names, in the order of the values in the labels; colours are ordered by red, then green, then blue.
        ignore: the value in the labels that means "not labelled". None: 255 in Pascal VOC, and where the other values
            are 0, 1, 2, ...; else there is none.

    Raises:
        DataError: no layout that is known, an image without its label or the other way round, sizes that differ, labels
            that hold no classes, images of several kinds.
        ImageError: a file that cannot be read.
    """
    try:
        layout = find_layout(Path(path))
    except OSError as error:
        where = path if error.filename is None else os.fsdecode(error.filename)
        raise DataError(f"{where} cannot be read ({error.strerror}); see to the path and its permissions") from error
    scans, sizes = _scanned(layout, ignore)
    coding = decide(scans, ignore, layout.voc)
    described = classes_of(coding, scans, classes, layout.names)
    every = [s for pair in layout.pairs for s in _sections(pair, layout.voc, coding)]
    sections = tuple(s for s in every if not (s.label == IGNORE).all())
    data = Dataset(sections, described, sizes.pop() if len(sizes) == 1 else None, layout.words, (), coding.ignore)
    unlabelled = [s.name for s in every if (s.label == IGNORE).all()]
    return replace(data, warnings=(*layout.warnings, *label_warnings(data, unlabelled)))


def _scanned(layout: Layout, ignore: int | None) -> tuple[list[Scan], set[PixelSize | None]]:
    """What the labels hold, and the pixel sizes of the images; checks that the images are of one kind and fit."""
    scans: list[Scan] = []
    sizes: set[PixelSize | None] = set()
    first: tuple[str, int, np.dtype] | None = None
    for pair in layout.pairs:
        with open_image(pair.image) as source, open_label(pair.label, layout.voc) as label:
            first = first or (pair.name, source.channels, source.dtype)
            if (source.channels, source.dtype) != first[1:]:
                raise DataError(
                    f"{pair.name} has {source.channels} channels of {source.dtype}, {first[0]} has {first[1]} of "
                    f"{first[2]}; all images must be of one kind"
                )
            _check_fit(pair.name, source, label)
            sizes.add(source.pixel_size)
            scans.append(scan(pair.name, label, ignore))
    return scans, sizes


def _check_fit(name: str, image: ImageSource, label: Label) -> None:
    planes = image.depth or 1
    if planes != label.planes:
        raise DataError(f"{name}: {planes} planes in the image, {label.planes} in its label; expected as many")
    if image.shape != label.shape:
        sizes = [f"{height} x {width} (y, x)" for height, width in (label.shape, image.shape)]
        raise DataError(f"label {name} is {sizes[0]}, its image {sizes[1]}; they must be of one size")


def _sections(pair: Pair, voc: bool, coding: Coding) -> Iterator[Section]:
    """The sections of an image: its planes, or the labelled parts of them if it is large."""
    with open_image(pair.image) as source, open_label(pair.label, voc) as label:
        whole = Region.of_shape(label.shape)
        for z in range(label.planes):
            name = pair.name if label.planes == 1 else f"{pair.name}[{z}]"
            ignore = coding.stored_ignore(label.kind)
            if ignore is None or whole.area <= _WHOLE:
                yield _section(name, source, whole, z, coding.ids(label.read(whole, z), label.kind))
                continue
            parts = _labelled_parts(label, z, ignore)
            count = int(parts.max())
            if count == 0:  # told as an image that is not labelled anywhere
                yield Section(name, np.zeros((1, 1, 1), source.dtype), np.full((1, 1), IGNORE, np.uint8))
            for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
                region = _with_context(rows, columns, whole)
                ids = coding.ids(label.read(region, z), label.kind)
                y, x = np.arange(region.y0, region.y1) // _GRID, np.arange(region.x0, region.x1) // _GRID
                ids[parts[np.ix_(y, x)] != number] = IGNORE  # another part has those
                yield _section(f"{name}@{region.y0},{region.x0}", source, region, z, ids)


def _section(name: str, source: ImageSource, region: Region, z: int, ids: np.ndarray) -> Section:
    image = np.ascontiguousarray(source.read(region, 0, z))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError(f"image {name} holds NaN or infinity; replace them before training")
    return Section(name, image, ids)


def _labelled_parts(label: Label, z: int, ignore: int) -> np.ndarray:
    """The connected labelled parts of plane `z`, numbered from 1, on a grid of squares of _GRID pixels; 0 elsewhere."""
    grid = np.zeros([-(-side // _GRID) for side in label.shape], bool)
    for plane, region in label.blocks():
        if plane == z:
            labelled = label.read(region, z) != ignore
            starts = [np.arange(0, side, _GRID) for side in labelled.shape]
            for axis in (0, 1):
                labelled = np.logical_or.reduceat(labelled, starts[axis], axis=axis)
            y, x = region.y0 // _GRID, region.x0 // _GRID
            grid[y : y + labelled.shape[0], x : x + labelled.shape[1]] = labelled
    return ndimage.label(grid, np.ones((3, 3)))[0]


def _with_context(rows: slice, columns: slice, whole: Region) -> Region:
    """A part of the grid in pixels, with a square of context around it, inside the image."""
    y0, y1, x0, x1 = (n * _GRID for n in (rows.start - 1, rows.stop + 1, columns.start - 1, columns.stop + 1))
    return Region(y0, x0, y1, x1).intersect(whole)
