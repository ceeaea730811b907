"""Read what was drawn on images of any size, and what surrounds it: only that counts, the rest is not background."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import open_channels
from tilesegment.images.resampled import at_scale
from tilesegment.labels.annotations import is_annotation
from tilesegment.labels.brush import BRUSH
from tilesegment.labels.coding import IGNORE, classes_of, decide
from tilesegment.labels.files import first_notes
from tilesegment.labels.label import LabelOptions
from tilesegment.labels.scanning import MOST_CLASSES, Scan
from tilesegment.labels.touching import touching_boxes
from tilesegment.metadata import LabelClass, PixelSize, default_colours
from tilesegment.training.data.marked import Marked, MarkedLayout, find_marked
from tilesegment.training.data.marks import Marks, Numbers, OutlineMarks, Read, read_label, read_outlines
from tilesegment.training.data.pixel_sizes import Fitted, Sizing, size_warnings
from tilesegment.training.data.sections import Section, read_pixels, without_alpha
from tilesegment.training.data.sparse_data import Group, SparseDataset
from tilesegment.training.data.summary import label_warnings
from tilesegment.training.data.windows import count_squares, windows

MOST = 1 << 28  # pixels that are kept of all images
_WIDEST = 10_000  # pixels of a brush
_GROUND = ("background", "_background_", "ground", "other", "rest")  # names of a class that goes first


@dataclass(frozen=True, eq=False)
class _Found:
    """An image, how it is read, and what was drawn on it."""

    marked: Marked
    fitted: Fitted
    planes: int
    marks: tuple[Marks, ...]
    groups: tuple[np.ndarray, ...]  # of each of the marks: number of its groups among those of the image, from 0
    boxes: np.ndarray  # of the groups of the image, (n, 5) int64 in the pixels that are read


def open_sparse(
    path: Path,
    labels: Path | None,
    *,
    classes: Sequence[str] | None,
    ignore: int | None,
    invert: bool,
    brush: float | None,
    sizing: Sizing,
) -> SparseDataset:
    """Read the parts of images on which something was drawn.

    Args:
        path, labels: see `marked.find_marked`.
        classes: names; of label images in the order of their values, of outlines those of their classes in any order.
        ignore: the value in label images that means "not labelled"; None is 0.
        invert: invert images that declare 0 as white.
        brush: width of lines and diameter of points in pixels of level 0; None is 8.
        sizing: the pixel size at which images are read.

    Raises:
        DataError, ImageError, PlanError: as `open_dataset`; or fewer than two classes were drawn.
    """
    if brush is not None and not 1 <= brush <= _WIDEST:
        raise DataError(f"--brush is {brush:g}; allowed: 1 to {_WIDEST} pixels")
    layout = find_marked(path, labels)
    ignore = (layout.ignore or 0) if ignore is None else ignore
    reader = _Reader(layout, LabelOptions(ignore, invert=invert), BRUSH if brush is None else brush, sizing)
    found = [reader.scan(marked) for marked in layout.images]
    return reader.read(found, classes)


class _Reader:
    """Reads the images of a data set: first what was drawn, then the parts of the images around it."""

    def __init__(self, layout: MarkedLayout, options: LabelOptions, brush: float, sizing: Sizing) -> None:
        self.layout, self.options, self.brush, self.sizing = layout, options, brush, sizing
        self.scans: list[Scan] = []
        self.colours: dict[str, str] = {}  # of the classes of outlines
        self.notes: list[str] = []
        self.kind: tuple[str, int, np.dtype] | None = None  # of the first image
        self.said: dict[str, PixelSize | None] = {}  # pixel sizes as in the files
        self.area = 0

    def scan(self, marked: Marked) -> _Found:
        """Look at an image and read what was drawn on it."""
        with open_channels(marked.images, invert=self.options.invert) as image:
            self.kind = self.kind or (marked.name, image.channels, image.stored_dtype)
            if (image.channels, image.stored_dtype) != self.kind[1:]:
                raise DataError(
                    f"{marked.name} has {image.channels} channels of {image.stored_dtype}, {self.kind[0]} has "
                    f"{self.kind[1]} of {self.kind[2]}; all images must be of one kind"
                )
            marks: list[Marks] = []
            for path, entry in marked.labels:
                if is_annotation(path):
                    outlines = read_outlines(path, entry, image, marked.name, self.brush)
                    self.colours = {**outlines.colours, **self.colours}
                    marks.append(outlines)
                else:
                    what = f"{marked.name}: {path}"
                    label, scan = read_label(path, image, marked.name, self.options, what)
                    self.scans.append(scan)
                    marks.append(label)
            self.said[marked.name] = image.pixel_size
            self.sizing.assume(image)
            fitted = self.sizing.fit(marked.name, image)
            self.notes += (*image.notes, *(note for one in marks for note in one.notes))
            planes = image.depth or 1
        self.area += planes * fitted.shape[0] * fitted.shape[1]
        return _Found(marked, fitted, planes, tuple(marks), *_joined([one.boxes for one in marks], fitted))

    def read(self, found: Sequence[_Found], names: Sequence[str] | None) -> SparseDataset:
        """Read the parts of the images on which something was drawn."""
        self.sizing.check(self.said)
        numbers, described, notes = self._classes(found, names)
        shares = [count_squares(one.boxes) for one in found]
        sections: list[Section] = []
        groups: list[Group] = []
        for one, share in zip(found, shares, strict=True):
            most = MOST * share // max(sum(shares), 1)
            sections += self._sections(one, numbers, most, len(groups))
            groups += [Group(one.marked.name, tuple(box)) for box in one.boxes.tolist()]
        if not sections:
            raise DataError("nothing that was drawn is left within the images; draw more, or outside of Ignore*")
        if len(sections) < sum(shares) and sum(one.image[0].size for one in sections) >= MOST // 2:
            notes.append(f"of large annotations parts alone are read, at random: {MOST / 1e6:,.0f} megapixels in all")
        empty = [one.marked.name for one in found if not any(s.stem == one.marked.name for s in sections)]
        data = SparseDataset(
            tuple(sections),
            described,
            self.sizing.common([one.fitted for one in found]),
            self.layout.words,
            self.layout.warnings,
            self.options.ignore if self.scans else None,
            notes=(*first_notes(self.notes), *notes),
            read_as=tuple(one.fitted for one in found),
            groups=tuple(groups),
            area=self.area,
            validated=self.layout.held_out,
        )
        sizes = size_warnings(data.read_as, data.pixel_size)
        data = replace(data, warnings=(*data.warnings, *sizes, *label_warnings(data, empty)))
        return without_alpha(data)

    def _sections(self, found: _Found, numbers: Numbers, most: int, before: int) -> Iterator[Section]:
        """Yield the parts of an image; its groups are numbered from `before` + 1."""
        marked, fitted = found.marked, found.fitted
        with ExitStack() as stack:
            image = stack.enter_context(open_channels(marked.images, invert=self.options.invert))
            self.sizing.assume(image)
            source = at_scale(image, fitted.step)
            reads = [stack.enter_context(one.opened(fitted, numbers)) for one in found.marks]
            read = _over(reads, [groups + 1 + before for groups in found.groups])
            for window in windows(found.boxes, fitted.shape, read, most):
                plane, y, x = window.plane, window.region.y0, window.region.x0
                name = f"{marked.name}@{y},{x}" if found.planes == 1 else f"{marked.name}[{plane}]@{y},{x}"
                pixels = read_pixels(marked.name, source, window.region, fitted.level, plane)
                yield Section(name, pixels, window.label, groups=window.groups)

    def _classes(
        self, found: Sequence[_Found], names: Sequence[str] | None
    ) -> tuple[Numbers, tuple[LabelClass, ...], list[str]]:
        """What is a class, by name in outlines and by value in label images; and notes on it."""
        outlines = [one for image in found for one in image.marks if isinstance(one, OutlineMarks)]
        void = "only what is drawn counts, what is not drawn is not background"
        if outlines and self.scans:
            raise DataError("some labels are outlines and some are images; draw all as outlines, or save all as images")
        if not outlines:
            coding = decide(self.scans, names, self.options.ignore, certain=True)
            value = f"; value {self.options.ignore} of the labels means not labelled (--ignore names another)"
            return (
                Numbers({}, coding),
                classes_of(coding, self.scans, names, self.layout.names),
                [void + value, *coding.notes],
            )
        ordered = _ordered({kind for one in outlines for kind in one.kinds}, names)
        ground = ordered[0].casefold() in _GROUND
        plain = default_colours(len(ordered) + 1)[0 if ground else 1 :]
        drawn = [self.colours.get(name) or plain[n] for n, name in enumerate(ordered)]
        colours = drawn if len(set(drawn)) == len(drawn) else plain
        described = tuple(LabelClass(name, colours[n], n) for n, name in enumerate(ordered))
        notes = [void]
        if not ground and names is None:
            notes.append(
                f"class 0 is {ordered[0]}, which is no object and is not overlaid; --classes chooses the order"
            )
        return Numbers({name: n for n, name in enumerate(ordered)}), described, notes


def _ordered(kinds: set[str], names: Sequence[str] | None) -> list[str]:
    """The classes of outlines in the order of `names`, or by name with one called background first.

    Raises:
        DataError: fewer than two, too many, or others than `names`.
    """
    found = sorted(kinds, key=lambda name: (name.casefold() not in _GROUND, name))
    if len(found) < 2:
        only = f"of the class {found[0]}" if found else "none that counts"
        raise DataError(
            f"the annotations are {only}; at least two classes are needed, as what is not drawn is not background: "
            "draw some of what is to be told apart from it, too"
        )
    if len(found) > MOST_CLASSES:
        raise DataError(f"the annotations are of {len(found)} classes; allowed: {MOST_CLASSES}")
    if names is None:
        return found
    if len(names) != len(found) or set(names) != set(found):
        raise DataError(
            f"--classes {', '.join(names)}: the annotations are of the classes {', '.join(found)}; name these"
        )
    return list(names)


def _joined(boxes: Sequence[np.ndarray], fitted: Fitted) -> tuple[tuple[np.ndarray, ...], np.ndarray]:
    """Number the groups of several files of an image; groups of different files whose boxes overlap are one.

    Returns:
        Of each file the numbers of its groups among those of the image, from 0; and the boxes of these, (n, 5), in the
        pixels of `fitted`.
    """
    every = np.concatenate([np.zeros((0, 5), np.int64), *boxes])
    file = np.repeat(np.arange(len(boxes)), [len(one) for one in boxes])
    low, high = every[:, 1:3], every[:, 3:5]
    groups = touching_boxes(every, file)
    count = int(groups.max(initial=-1)) + 1
    first, last = np.full((count, 2), np.iinfo(np.int64).max), np.zeros((count, 2), np.int64)
    np.minimum.at(first, groups, low)
    np.maximum.at(last, groups, high)
    planes = np.zeros(count, np.int64)
    planes[groups] = every[:, 0]
    scale, shape = np.array(fitted.scale), np.array(fitted.shape)
    first = np.floor(first / scale).astype(np.int64).clip(0, shape)
    last = np.ceil(last / scale).astype(np.int64).clip(first, shape)
    split = np.split(groups, np.cumsum([len(one) for one in boxes])[:-1]) if boxes else []
    return tuple(split), np.column_stack([planes, first, last])


def _over(reads: Sequence[Read], numbers: Sequence[np.ndarray]) -> Read:
    """Read what was drawn in several files, the later on top; `numbers` are those of the groups of each file."""
    tables = [np.concatenate([[0], one]).astype(np.int32) for one in numbers]

    def read(region: Region, z: int) -> tuple[np.ndarray, np.ndarray]:
        label, groups = np.full(region.shape, IGNORE, np.uint8), np.zeros(region.shape, np.int32)
        for one, table in zip(reads, tables, strict=True):
            own, numbered = one(region, z)
            drawn = own != IGNORE
            label[drawn], groups[drawn] = own[drawn], table[numbered[drawn]]
        return label, groups

    return read
