"""Reads the labelled images of a data set into sections; of large ones only the parts that are labelled."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy import ndimage

from tilesegment.errors import DataError, ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_channels
from tilesegment.labels import (
    BLOCK,
    IGNORE,
    NOT_LABELLED,
    Coding,
    Label,
    Scan,
    classes_of,
    decide,
    open_label,
    parted,
    scan,
)
from tilesegment.labels.instances import OBJECTS_NOTE, check_objects, count_pieces
from tilesegment.labels.label import first_notes
from tilesegment.metadata import PixelSize
from tilesegment.training.data.checks import label_warnings
from tilesegment.training.data.layouts import Layout, Pair, find_layout
from tilesegment.training.data.sections import Dataset, Section

_WHOLE = 4096 * 4096  # pixels of the largest image that is kept whole
_GRID = 256  # side of the squares in which labelled parts are looked for, and the context around them; divides BLOCK


@dataclass(frozen=True)
class _Reading:
    """How the files of a data set are opened.

    Attributes:
        voc: labels are those of Pascal VOC.
        ignore: the value in the labels that means "not labelled", as given.
        instances: labels are ids of objects, which are read as two classes.
        invert: of images and labels that say that 0 is white, the values are turned round.
    """

    voc: bool
    ignore: int | None
    instances: bool
    invert: bool

    @property
    def read_ignore(self) -> int | None:
        """`ignore` as the labels that are opened hand it out."""
        return NOT_LABELLED if self.instances and self.ignore is not None else self.ignore

    def open_label(self, pair: Pair) -> AbstractContextManager[Label]:
        """Its label, as it is stored."""
        return open_label(pair.label, self.voc, invert=self.invert)

    @contextmanager
    def open(self, pair: Pair) -> Iterator[tuple[ImageSource, Label]]:
        """An image and its label."""
        with open_channels(pair.images, invert=self.invert) as source, self.open_label(pair) as label:
            yield source, parted(label, f"label {pair.name}", self.ignore) if self.instances else label


def open_dataset(
    path: str | Path,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    instances: bool = False,
    invert: bool = False,
) -> Dataset:
    """Read the labelled images in the folder `path`.

    Labels are read twice: for their values, which all files share, and then into sections. Of an image of more than
    4096 x 4096 pixels only labelled parts are kept, with 256 px of context, so that memory follows the labelled area.

    Args:
        path: a folder in one of the layouts of `layouts`, or an OME-Zarr image with a label. A file may be a stack;
            then its label is one, too.
        classes: names, in the order of the values in the labels; colours are ordered by red, then green, then blue.
        ignore: the value in the labels that means "not labelled". None: 255 in Pascal VOC, and where the other values
            are 0, 1, 2, ...; in nnU-Net's folders what its dataset.json says; else there is none.
        instances: the labels are ids of single objects: read as background and object, see `labels.parted`.
        invert: where a file says that 0 is white (MINISWHITE), turn its values so that 0 is black.

    Raises:
        DataError: no layout that is known, an image without its label or the other way round, sizes that differ, labels
            that hold no classes, or of which it cannot be told which, images of several kinds.
        ImageError: a file that cannot be read.
    """
    try:
        layout = find_layout(Path(path))
    except OSError as error:
        where = path if error.filename is None else os.fsdecode(error.filename)
        raise DataError(f"{where} cannot be read ({error.strerror}); see to the path and its permissions") from error
    ignore = layout.ignore if ignore is None else ignore
    reading = _Reading(layout.voc, ignore, instances, invert)
    warnings = _check_instances(layout, reading) if instances else ()
    scans, sizes, told = _scanned(layout, reading)
    coding = decide(scans, classes, reading.read_ignore, layout.voc)
    described = classes_of(coding, scans, classes, layout.names)
    parts = [[s for pair in pairs for s in _sections(pair, reading, coding)] for pairs in layout.both]
    every = [section for part in parts for section in part]
    unlabelled = [s.name for s in every if (s.label == IGNORE).all()]
    data = Dataset(
        sections=tuple(s for s in every if s.name not in unlabelled),
        classes=described,
        pixel_size=sizes.pop() if len(sizes) == 1 else None,
        layout=layout.words,
        ignore=ignore if instances else coding.ignore,
        held_out=tuple(s.name for s in parts[1] if s.name not in unlabelled),
        notes=(*told, *coding.notes, *(OBJECTS_NOTE,) * instances),
    )
    return replace(data, warnings=(*layout.warnings, *warnings, *label_warnings(data, unlabelled)))


def _check_instances(layout: Layout, reading: _Reading) -> tuple[str, ...]:
    """Whether the labels may be ids of objects; what the user should know, a sentence each."""
    blocks = []
    for pair in layout.every:
        with reading.open_label(pair) as label:
            blocks += count_pieces(label)
    return check_objects(blocks)


def _scanned(layout: Layout, reading: _Reading) -> tuple[list[Scan], set[PixelSize | None], tuple[str, ...]]:
    """What labels hold, pixel sizes of the images, and notes; checks that the images are of one kind and fit."""
    scans: list[Scan] = []
    notes: list[str] = []
    sizes: set[PixelSize | None] = set()
    first: tuple[str, int, np.dtype] | None = None
    for pair in layout.every:
        with reading.open(pair) as (source, label):
            first = first or (pair.name, source.channels, source.stored_dtype)
            if (source.channels, source.stored_dtype) != first[1:]:
                raise DataError(
                    f"{pair.name} has {source.channels} channels of {source.stored_dtype}, {first[0]} has {first[1]} "
                    f"of {first[2]}; all images must be of one kind"
                )
            _check_fit(pair.name, source, label)
            sizes.add(source.pixel_size)
            found = scan(f"label {pair.name}", label, reading.read_ignore)
            scans.append(replace(found, name=pair.name))
            notes += (*source.notes, *label.notes)
    return scans, sizes, first_notes(notes)


def _check_fit(name: str, image: ImageSource, label: Label) -> None:
    planes = image.depth or 1
    if planes != label.planes:
        raise DataError(f"{name}: {planes} planes in the image, {label.planes} in its label; expected as many")
    if image.shape != label.shape:
        sizes = [f"{height} x {width} (y, x)" for height, width in (label.shape, image.shape)]
        raise DataError(f"label {name} is {sizes[0]}, its image {sizes[1]}; they must be of one size")


def _sections(pair: Pair, reading: _Reading, coding: Coding) -> Iterator[Section]:
    """The sections of an image: its planes, or the labelled parts of them if it is large."""
    with reading.open(pair) as (source, label):
        whole = Region.of_shape(label.shape)

        def ids(region: Region) -> np.ndarray:
            return coding.ids(label.read(region, z), pair.name)

        for z in range(label.planes):
            name = pair.name if label.planes == 1 else f"{pair.name}[{z}]"
            if coding.ignore is None or whole.area <= _WHOLE:
                yield _section(name, source, whole, z, ids(whole))
                continue
            parts = _labelled_parts(label.shape, ids)
            count = int(parts.max())
            if count == 0:  # told as an image that is not labelled anywhere
                yield Section(name, np.zeros((1, 1, 1), source.dtype), np.full((1, 1), IGNORE, np.uint8))
            for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
                region = _with_context(rows, columns, whole)
                own = ids(region)
                y, x = np.arange(region.y0, region.y1) // _GRID, np.arange(region.x0, region.x1) // _GRID
                own[parts[np.ix_(y, x)] != number] = IGNORE  # another part has those
                yield _section(f"{name}@{region.y0},{region.x0}", source, region, z, own)


def _section(name: str, source: ImageSource, region: Region, z: int, ids: np.ndarray) -> Section:
    image = np.ascontiguousarray(source.read(region, 0, z))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError(f"image {name} holds NaN or infinity; replace them before training")
    return Section(name, image, ids)


def _labelled_parts(shape: tuple[int, int], ids: Callable[[Region], np.ndarray]) -> np.ndarray:
    """The connected labelled parts of a plane, numbered from 1, on a grid of squares of _GRID pixels; 0 elsewhere."""
    grid = np.zeros([-(-side // _GRID) for side in shape], bool)
    for region in Region.of_shape(shape).squares(BLOCK):
        labelled = ids(region) != IGNORE
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
