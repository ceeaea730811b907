"""Read labelled images into sections; of large images only the labelled parts."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from tilesegment.errors import DataError, ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_channels
from tilesegment.labels.coding import IGNORE, Coding, classes_of, decide
from tilesegment.labels.files import first_notes
from tilesegment.labels.label import BLOCK, OBJECTS_NOTE, Label, LabelOptions, check_same_size, open_label
from tilesegment.labels.scanning import Scan, check_objects, scan
from tilesegment.metadata import PixelSize
from tilesegment.training.data.layouts import Layout, Pair, find_layout
from tilesegment.training.data.sections import Dataset, Section
from tilesegment.training.data.summary import label_warnings

_WHOLE = 4096 * 4096  # pixels of the largest image that is kept whole
_GRID = 256  # side of the squares in which labelled parts are found, and of the context around them; divides BLOCK


def open_dataset(
    path: str | Path,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    instances: bool = False,
    invert: bool = False,
) -> Dataset:
    """Read the labelled images in the folder `path`.

    Labels are read twice: to collect the values of all files, and then into sections. Of images of more than
    4096 x 4096 pixels only labelled parts are kept, with 256 px of context, so that memory follows the labelled area.

    Args:
        path: a folder in one of the layouts of `layouts`, or an OME-Zarr image with a label. A file may be a stack;
            its planes are sections, (z, y, x) in both image and label.
        classes: names of all classes, in the order of their values.
        ignore: the value that means "not labelled"; by default as `labels.coding.decide` finds it.
        instances: labels are object ids, read as background and object, see `labels.label.part_objects`.
        invert: invert files that declare 0 as white (MINISWHITE), so that 0 is black.

    Raises:
        DataError: an unknown layout, an image without a label or a label without an image, different sizes, labels
            without classes or with ambiguous ones, images of several kinds.
        ImageError: a file cannot be read.
    """
    try:
        layout = find_layout(Path(path))
    except OSError as error:
        where = path if error.filename is None else os.fsdecode(error.filename)
        raise DataError(f"{where} cannot be read ({error.strerror}); check the path and its permissions") from error
    ignore = layout.ignore if ignore is None else ignore
    options = LabelOptions(ignore, instances, invert, layout.voc)
    warnings = check_objects(_labels(layout, options)) if instances else ()
    scans, sizes, notes = _scanned(layout, options)
    coding = decide(scans, classes, options.void, layout.voc)
    described = classes_of(coding, scans, classes, layout.names)
    parts = [
        [s for pair in pairs for s in _sections(pair, options, coding)] for pairs in (layout.pairs, layout.held_out)
    ]
    unlabelled = {s.name: s for part in parts for s in part if (s.label == IGNORE).all()}
    data = Dataset(
        sections=tuple(s for part in parts for s in part if s.name not in unlabelled),
        classes=described,
        pixel_size=sizes.pop() if len(sizes) == 1 else None,
        layout=layout.words,
        ignore=ignore if instances else coding.ignore,
        held_out=tuple(s.name for s in parts[1] if s.name not in unlabelled),
        notes=(*notes, *coding.notes, *(OBJECTS_NOTE,) * instances),
    )
    return replace(data, warnings=(*layout.warnings, *warnings, *label_warnings(data, [*unlabelled])))


def _labels(layout: Layout, options: LabelOptions) -> Iterator[Label]:
    """Yield all labels as stored, one open at a time."""
    for pair in layout.pairs + layout.held_out:
        with open_label(pair.label, options) as label:
            yield label


@contextmanager
def _open(pair: Pair, options: LabelOptions) -> Iterator[tuple[ImageSource, Label]]:
    image = open_channels(pair.images, invert=options.invert)
    with image, options.open(pair.label, f"label {pair.name}") as label:
        yield image, label


def _scanned(layout: Layout, options: LabelOptions) -> tuple[list[Scan], set[PixelSize | None], tuple[str, ...]]:
    """Scan the labels; return scans, pixel sizes and notes. Check that images are of one kind and fit their labels."""
    scans: list[Scan] = []
    notes: list[str] = []
    sizes: set[PixelSize | None] = set()
    first: tuple[str, int, np.dtype] | None = None
    for pair in layout.pairs + layout.held_out:
        with _open(pair, options) as (source, label):
            first = first or (pair.name, source.channels, source.stored_dtype)
            if (source.channels, source.stored_dtype) != first[1:]:
                raise DataError(
                    f"{pair.name} has {source.channels} channels of {source.stored_dtype}, {first[0]} has {first[1]} "
                    f"of {first[2]}; all images must be of one kind"
                )
            check_same_size(f"image {pair.name}", source.shape, source.depth or 1, "its label", label)
            sizes.add(source.pixel_size)
            scans.append(scan(pair.name, label, options.void))
            notes += (*source.notes, *label.notes)
    return scans, sizes, first_notes(notes)


def _sections(pair: Pair, options: LabelOptions, coding: Coding) -> Iterator[Section]:
    """Yield the sections of an image: its planes, or their labelled parts if it is large."""
    with _open(pair, options) as (source, label):
        whole = Region.of_shape(label.shape)

        def ids(region: Region) -> np.ndarray:
            return coding.ids(label.read(region, z), pair.name)

        for z in range(label.planes):
            name = pair.name if label.planes == 1 else f"{pair.name}[{z}]"
            if coding.ignore is None or whole.area <= _WHOLE:
                yield Section(name, _pixels(pair.name, source, whole, z), ids(whole))
                continue
            parts = _labelled_parts(label.shape, ids)
            count = int(parts.max())
            if count == 0:  # reported as an image without labels
                yield Section(name, np.zeros((1, 1, 1), source.dtype), np.full((1, 1), IGNORE, np.uint8))
            for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
                # with one more square on each side as context
                y0, y1, x0, x1 = (
                    n * _GRID for n in (rows.start - 1, rows.stop + 1, columns.start - 1, columns.stop + 1)
                )
                region = Region(y0, x0, y1, x1).intersect(whole)
                own = ids(region)
                y, x = np.arange(region.y0, region.y1) // _GRID, np.arange(region.x0, region.x1) // _GRID
                own[parts[np.ix_(y, x)] != number] = IGNORE  # labels of another part
                yield Section(f"{name}@{region.y0},{region.x0}", _pixels(pair.name, source, region, z), own)


def _pixels(name: str, source: ImageSource, region: Region, z: int) -> np.ndarray:
    image = np.ascontiguousarray(source.read(region, 0, z))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError(f"image {name} holds NaN or infinity; replace them before training")
    return image


def _labelled_parts(shape: tuple[int, int], ids: Callable[[Region], np.ndarray]) -> np.ndarray:
    """Connected labelled parts of a plane, numbered from 1, on a grid of squares of _GRID pixels; 0 elsewhere."""
    grid = np.zeros([-(-side // _GRID) for side in shape], bool)
    for region in Region.of_shape(shape).squares(BLOCK):
        labelled = ids(region) != IGNORE
        for axis in (0, 1):
            labelled = np.logical_or.reduceat(labelled, np.arange(0, labelled.shape[axis], _GRID), axis=axis)
        y, x = region.y0 // _GRID, region.x0 // _GRID
        grid[y : y + labelled.shape[0], x : x + labelled.shape[1]] = labelled
    return ndimage.label(grid, np.ones((3, 3)))[0]
