"""Read labelled images into sections; of large images only the labelled parts."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import ndimage

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_channels
from tilesegment.images.resampled import at_scale
from tilesegment.labels.annotations import forget, is_annotation, open_annotation
from tilesegment.labels.coding import IGNORE, Coding, classes_of, decide
from tilesegment.labels.files import first_notes
from tilesegment.labels.label import BLOCK, Label, LabelOptions, check_same_size, open_label
from tilesegment.labels.numbering import dense
from tilesegment.labels.outlines import OutlineLabel
from tilesegment.labels.resampled import at_centres
from tilesegment.labels.scanning import MOST_CLASSES, ObjectsError, Scan, scan
from tilesegment.metadata import PixelSize
from tilesegment.training.data.layouts import find_layout
from tilesegment.training.data.marked import is_list
from tilesegment.training.data.objects import Instances
from tilesegment.training.data.pairs import Layout, Pair
from tilesegment.training.data.pixel_sizes import Fitted, Sizing, size_warnings
from tilesegment.training.data.sections import Dataset, Section, read_pixels, without_alpha
from tilesegment.training.data.sparse import open_sparse
from tilesegment.training.data.summary import label_warnings

WHOLE = 4096 * 4096  # pixels of the largest image that is kept whole
LARGEST_DRAWN = 16_384 * 16_384  # pixels of the largest image with outlines everywhere
GRID = 256  # side of the squares in which labelled parts are found, and of the context around them; divides BLOCK


class Meaning(Protocol):
    """What the values of label files mean."""

    def read(self, name: str, label: Label, region: Region, z: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Read a region of the label `name`: class ids (h, w) uint8, and objects (h, w) int32 if any."""

    def labelled(self, name: str, label: Label, region: Region, z: int) -> np.ndarray:
        """Return where a region of the label `name` says something: (h, w) bool."""


@dataclass(frozen=True)
class _Classes:
    """Values that stand for classes."""

    coding: Coding

    def read(self, name: str, label: Label, region: Region, z: int) -> tuple[np.ndarray, None]:
        return self.coding.ids(label.read(region, z), name), None

    def labelled(self, name: str, label: Label, region: Region, z: int) -> np.ndarray:
        return self.coding.ids(label.read(region, z), name) != IGNORE


def open_dataset(
    path: str | Path,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    instances: bool | None = None,
    invert: bool = False,
    *,
    mpp: float | None = None,
    source_mpp: float | None = None,
    labels: str | Path | None = None,
    sparse: bool = False,
    brush: float | None = None,
) -> Dataset:
    """Read the labelled images in the folder `path`, or of images what was drawn on them.

    Labels are read twice: to collect the values of all files, and then into sections. Of images of more than
    4096 x 4096 pixels only labelled parts are kept, with 256 px of context, so that memory follows the labelled area.

    Args:
        path: a folder in one of the layouts of `layouts`, or an OME-Zarr image with a label. A file may be a stack;
            its planes are sections, (z, y, x) in both image and label.
        classes: names of all classes, in the order of their values.
        ignore: the value that means "not labelled"; by default as `labels.coding.decide` finds it.
        instances: labels are ids of single objects (True) or classes (False); None finds out. Values other than 0 are
            then objects of one class, and sections have `objects`.
        invert: invert files that declare 0 as white (MINISWHITE), so that 0 is black.
        mpp: pixel size in micrometres to which each image and its label are resampled; None keeps them as they are.
        source_mpp: that of all images, whatever their files say; refused if these say several.
        labels: what was drawn on the image `path`, or a folder of such files for a folder of images: outlines, or label
            images with 0 where nothing is drawn. Only what was drawn counts, and the data set is a `SparseDataset`.
        sparse: read a folder of images and labels in this way, too; so is a list, a CSV with columns image and labels.
        brush: width in pixels that lines and points count as, where only what was drawn counts; None is 8.

    Raises:
        DataError: an unknown layout, an image without a label or a label without an image, different sizes, labels
            without classes or with ambiguous ones, images of several kinds, or without the pixel size that is needed.
        PlanError: the pixels of an image differ too much from `mpp`.
        ImageError: a file cannot be read.
    """
    try:
        if sparse or labels is not None or is_list(Path(path)):
            if instances:
                raise DataError("--instances is for labels that hold all objects of an image, not for sparse ones")
            return open_sparse(
                Path(path),
                None if labels is None else Path(labels),
                classes=classes,
                ignore=ignore,
                invert=invert,
                brush=brush,
                sizing=Sizing(mpp, source_mpp),
            )
        if brush is not None:
            raise DataError(f"--brush {brush:g} is for what is drawn as lines; give --labels or --sparse with it")
        layout = find_layout(Path(path))
        options = LabelOptions(layout.ignore if ignore is None else ignore, False, invert, layout.voc)
        return _read(layout, options, classes, instances, Sizing(mpp, source_mpp))
    except OSError as error:
        where = path if error.filename is None else os.fsdecode(error.filename)
        raise DataError(f"{where} cannot be read ({error.strerror}); check the path and its permissions") from error
    finally:
        forget()


def _read(
    layout: Layout, options: LabelOptions, names: Sequence[str] | None, instances: bool | None, sizing: Sizing
) -> Dataset:
    """Read labels as objects or as classes."""
    drawn = sum(is_annotation(pair.label) for pair in layout.pairs + layout.held_out)
    if options.ignore is not None and drawn == len(layout.pairs + layout.held_out):
        raise DataError(
            f"--ignore {options.ignore} is a value of label images, and all labels are outlines; leave it out, and "
            "draw what is not labelled as an outline of the class Ignore*"
        )
    if drawn and instances is False:
        if drawn < len(layout.pairs + layout.held_out):
            raise DataError("some labels are outlines and some are images; --no-instances reads labels of one kind")
        return _without_objects(_of_objects(layout, options, names, sizing))
    if not (instances or drawn):
        try:
            return _of_classes(layout, options, names, sizing, certain=instances is not None)
        except ObjectsError as error:
            if instances is not None:
                raise DataError(f"{error.found} (at most {MOST_CLASSES}); leave out --no-instances") from error
            if error.count <= MOST_CLASSES:
                few = (
                    f"the {error.count} values of the labels are taken for ids of single objects; if they are classes, "
                )
                layout = replace(layout, warnings=(*layout.warnings, f"{few}name all {error.count} with --classes"))
    return _of_objects(layout, options, names, sizing)


def _of_classes(
    layout: Layout, options: LabelOptions, names: Sequence[str] | None, sizing: Sizing, *, certain: bool
) -> Dataset:
    """Read labels whose values are classes.

    Raises:
        ObjectsError: they are ids of objects.
    """
    scans: list[Scan] = []

    def look(name: str, label: Label) -> None:
        scans.append(scan(name, label, options.ignore))

    fitted, notes = _scanned(layout, options, look, sizing)
    certain |= set().union(*(one.values for one in scans)) <= set(layout.names)
    coding = decide(scans, names, options.ignore, layout.voc, certain=certain)
    described = classes_of(coding, scans, names, layout.names)

    size = sizing.common(fitted)
    data = Dataset(
        (), described, size, layout.words, ignore=coding.ignore, notes=(*notes, *coding.notes), read_as=fitted
    )
    return _filled(data, layout, options, _Classes(coding), sizing)


def _of_objects(layout: Layout, options: LabelOptions, names: Sequence[str] | None, sizing: Sizing) -> Dataset:
    """Read labels whose values are ids of objects."""
    if names is None and set(layout.names) == {0, 1}:
        names = (layout.names[0], layout.names[1])
    found = Instances(options.ignore, None if names is None else tuple(names))
    fitted, notes = _scanned(layout, options, found.scan, sizing)
    warnings = found.check()
    described = found.classes()
    size = sizing.common(fitted)
    data = Dataset((), described, size, layout.words, warnings, options.ignore, instances=True, read_as=fitted)
    data = _filled(data, layout, options, found, sizing)
    return replace(data, notes=(found.how, *notes, *found.notes(), *data.notes))


def _without_objects(data: Dataset) -> Dataset:
    """The classes alone of outlines, whose first note says that they are objects."""
    sections = tuple(replace(section, objects=None) for section in data.sections)
    return replace(data, sections=sections, instances=False, notes=data.notes[1:])


def _filled(data: Dataset, layout: Layout, options: LabelOptions, meaning: Meaning, sizing: Sizing) -> Dataset:
    """Add the sections to a data set, and what is to be said of them."""
    partly = data.ignore is not None
    parts = [
        [s for pair in pairs for s in _sections(pair, options, meaning, sizing, partly=partly)]
        for pairs in (layout.pairs, layout.held_out)
    ]
    unlabelled = {s.name: s for part in parts for s in part if (s.label == IGNORE).all()}
    data = replace(
        data,
        sections=tuple(s for part in parts for s in part if s.name not in unlabelled),
        held_out=tuple(s.name for s in parts[1] if s.name not in unlabelled),
    )
    data = without_alpha(data)
    sizes = size_warnings(data.read_as, data.pixel_size)
    return replace(data, warnings=(*layout.warnings, *data.warnings, *sizes, *label_warnings(data, [*unlabelled])))


@contextmanager
def _open(pair: Pair, options: LabelOptions) -> Iterator[tuple[ImageSource, Label]]:
    """Open an image and its label as they are stored."""
    with open_channels(pair.images, invert=options.invert) as image, _open_label(pair, image, options) as label:
        yield image, label


def _open_label(
    pair: Pair, image: ImageSource, options: LabelOptions, fitted: Fitted | None = None
) -> AbstractContextManager[Label]:
    """Open the label of an image; outlines in the pixels of `fitted`, others as they are stored."""
    if not is_annotation(pair.label):
        return open_label(pair.label, options)
    drawn_at = None if fitted is None else (fitted.shape, fitted.scale)
    planes, name = image.depth or 1, f"image {pair.name}"
    return open_annotation(pair.label, pair.entry, image.shape, planes, name, drawn_at)


@contextmanager
def _open_fitted(pair: Pair, options: LabelOptions, sizing: Sizing) -> Iterator[tuple[ImageSource, int, Label]]:
    """Open an image, with the number of the level that is read, and its label in the pixels of that level."""
    with open_channels(pair.images, invert=options.invert) as image:
        sizing.assume(image)
        fitted = sizing.fit(pair.name, image)
        with _open_label(pair, image, options, fitted) as label:
            if fitted.scale != (1.0, 1.0) and not isinstance(label, OutlineLabel):
                label = at_centres(label, fitted.shape, fitted.scale)
            yield at_scale(image, fitted.step), fitted.level, label


def _scanned(
    layout: Layout, options: LabelOptions, look: Callable[[str, Label], None], sizing: Sizing
) -> tuple[tuple[Fitted, ...], tuple[str, ...]]:
    """Let `look` see each label as stored; return how images are read, and notes.

    Images must be of one kind and fit their labels.
    """
    notes: list[str] = []
    fitted: list[Fitted] = []
    said: dict[str, PixelSize | None] = {}
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
            said[pair.name] = source.pixel_size
            sizing.assume(source)
            fitted.append(sizing.fit(pair.name, source))
            look(pair.name, label)
            notes += (*source.notes, *label.notes)
    sizing.check(said)
    return tuple(fitted), first_notes(notes)


def _sections(
    pair: Pair, options: LabelOptions, meaning: Meaning, sizing: Sizing, *, partly: bool
) -> Iterator[Section]:
    """Yield the sections of an image: its planes, or their labelled parts if it is large and labelled only `partly`."""
    with _open_fitted(pair, options, sizing) as (source, level, label):
        whole = Region.of_shape(label.shape)
        if isinstance(label, OutlineLabel):
            partly = label.regions is not None
            if not partly and whole.area > LARGEST_DRAWN:
                raise DataError(
                    f"image {pair.name} has {whole.y1} x {whole.x1} pixels, and nothing says which part of it is "
                    "labelled: draw an annotation of the class Region* around what is, or cut that part out"
                )

        def labelled(region: Region) -> np.ndarray:
            return meaning.labelled(pair.name, label, region, z)

        for z in range(label.planes):
            name = pair.name if label.planes == 1 else f"{pair.name}[{z}]"
            if not partly or whole.area <= WHOLE:
                read = meaning.read(pair.name, label, whole, z)
                yield Section(name, read_pixels(pair.name, source, whole, level, z), *read)
                continue
            parts = _labelled_parts(label.shape, labelled)
            count = int(parts.max())
            if count == 0:  # reported as an image without labels
                yield Section(name, np.zeros((1, 1, 1), source.dtype), np.full((1, 1), IGNORE, np.uint8))
            for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
                # with one more square on each side as context
                y0, y1, x0, x1 = (
                    n * GRID for n in (rows.start - 1, rows.stop + 1, columns.start - 1, columns.stop + 1)
                )
                region = Region(y0, x0, y1, x1).intersect(whole)
                own, objects = meaning.read(pair.name, label, region, z)
                y, x = np.arange(region.y0, region.y1) // GRID, np.arange(region.x0, region.x1) // GRID
                other = parts[np.ix_(y, x)] != number  # labels of another part
                own[other] = IGNORE
                if objects is not None:
                    objects = dense(np.where(other, 0, objects))[0]
                image = read_pixels(pair.name, source, region, level, z)
                yield Section(f"{name}@{region.y0},{region.x0}", image, own, objects)


def _labelled_parts(shape: tuple[int, int], is_labelled: Callable[[Region], np.ndarray]) -> np.ndarray:
    """Connected labelled parts of a plane, numbered from 1, on a grid of squares of GRID pixels; 0 elsewhere."""
    grid = np.zeros([-(-side // GRID) for side in shape], bool)
    for region in Region.of_shape(shape).squares(BLOCK):
        labelled = is_labelled(region)
        for axis in (0, 1):
            labelled = np.logical_or.reduceat(labelled, np.arange(0, labelled.shape[axis], GRID), axis=axis)
        y, x = region.y0 // GRID, region.x0 // GRID
        grid[y : y + labelled.shape[0], x : x + labelled.shape[1]] = labelled
    return ndimage.label(grid, np.ones((3, 3)))[0]
