"""What was drawn on an image, of any format: a class for each drawn pixel, and the annotation that it belongs to.

Annotations that overlap or touch are one group: parts of one stay together wherever they are used. What is not drawn
has no class.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
from scipy import ndimage

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, open_image
from tilesegment.labels.annotations import check_drawn_on, doubts, read_drawing
from tilesegment.labels.brush import painted
from tilesegment.labels.coding import IGNORE, Coding
from tilesegment.labels.files import stem_of
from tilesegment.labels.geojson import Feature
from tilesegment.labels.label import BLOCK, Label, LabelOptions, open_label
from tilesegment.labels.outlines import Outlines
from tilesegment.labels.resampled import at_centres
from tilesegment.labels.scanning import Scan
from tilesegment.labels.touching import touching
from tilesegment.training.data.marked import PLACED
from tilesegment.training.data.pixel_sizes import Fitted

Read = Callable[[Region, int], tuple[np.ndarray, np.ndarray]]
"""Of a region of a plane: class ids (h, w) uint8, IGNORE where nothing is drawn, and groups (h, w) int32, 0 there."""

_CELLS = 1 << 22  # pixels of a label that are told apart when annotations are grouped; of larger ones squares
_AGREES = 0.01  # relative difference of pixel sizes that agree
_OFF = 0.1  # pixels by which a part may lie beside the pixels of its image


@dataclass(frozen=True)
class Numbers:
    """Class ids: of outlines by the name of their class, of label images by the values in them."""

    by_name: dict[str, int]
    coding: Coding | None = None


class Marks(Protocol):
    """What one file says of an image."""

    @property
    def boxes(self) -> np.ndarray:
        """Of each group, (n, 5) int64: plane, y0, x0, y1, x1 in pixels of the image's level 0."""

    @property
    def notes(self) -> tuple[str, ...]:
        """For the user, one sentence each."""

    def opened(self, fitted: Fitted, numbers: Numbers) -> AbstractContextManager[Read]:
        """Open the file to read it in the pixels of `fitted`; groups are numbered from 1 in the order of `boxes`."""


@dataclass(frozen=True, eq=False)
class OutlineMarks:
    """Annotations of a file of outlines.

    Attributes:
        drawn, left_out: annotations with a class, and those of the class `Ignore*`, which erase what they cover.
        kinds: class of each annotation.
        colours: `#rrggbb` of classes, as far as the file has them.
        groups: of each annotation, (n,) int64 from 0.
    """

    drawn: Outlines
    left_out: Outlines
    kinds: tuple[str, ...]
    colours: dict[str, str]
    groups: np.ndarray
    boxes: np.ndarray
    notes: tuple[str, ...]

    @contextmanager
    def opened(self, fitted: Fitted, numbers: Numbers) -> Iterator[Read]:
        """Rasterise by region; a pixel belongs to an annotation if its centre does, the later in the file is on top."""
        drawn, left_out = (one.within((0, 0), fitted.scale, 0) for one in (self.drawn, self.left_out))
        class_of = np.array([IGNORE, *(numbers.by_name[kind] for kind in self.kinds)], np.uint8)
        group_of = np.concatenate([[0], self.groups + 1]).astype(np.int32)

        def read(region: Region, z: int) -> tuple[np.ndarray, np.ndarray]:
            ids = drawn.rasterise(region, z)[0]
            ids[left_out.rasterise(region, z)[0] > 0] = 0
            return class_of[ids], group_of[ids]

        yield read


def read_outlines(path: Path, entry: str | None, image: ImageSource, name: str, brush: float) -> OutlineMarks:
    """Read the annotations of a file of GeoJSON, labelme or COCO.

    Args:
        path, entry: as in `read_annotation`.
        image, name: what they were drawn on.
        brush: width of lines and diameter of points, pixels of level 0.

    Raises:
        DataError: they were drawn on another image, or none has a class.
    """
    found = read_drawing(path, entry)
    what = path.name if entry is None else f"{entry} in {path.name}"
    check_drawn_on(found.size, image.shape, what, f"image {name}")
    given = [painted(one, brush) for one in found.features]
    classed = [one for one in given if _counts(one)]
    if classed and not all(one.is_object for one in classed):  # what a program detected was not drawn
        classed = [one for one in classed if not one.is_object]
    if given and not classed:
        raise DataError(
            f"none of the {len(given)} annotations in {what} has a class; give each one, such as tumour and stroma"
        )
    kinds = tuple(one.name or "" for one in classed)
    drawn, left_out = (_outlines(some, path.name) for some in (classed, [one for one in given if one.is_void]))
    last = int(drawn.planes.max(initial=0))
    if last >= (image.depth or 1) or drawn.planes.min(initial=0) < 0:
        planes = f"image {name} has the planes 0 to {(image.depth or 1) - 1}"
        raise DataError(f"{what} has annotations in plane {last}; {planes}")
    groups, crossed = touching([one.polygons for one in classed], drawn.planes, kinds)
    notes = [*_left_out(given, classed, what), *doubts(drawn, image.shape, what)]
    if thin := sum(bool(one.paths) and _counts(one) for one in found.features):
        notes.append(f"{what}: {thin} lines or points count as {brush:g} px wide (--brush)")
    if crossed:
        notes.append(f"{what}: {crossed} pairs of annotations of different classes overlap: the later one is on top")
    boxes = _boxes(drawn, groups, image.shape)
    colours = {kind: one.colour for kind, one in zip(kinds, classed, strict=True) if one.colour is not None}
    return OutlineMarks(drawn, left_out, kinds, colours, groups, boxes, tuple(notes))


def _counts(feature: Feature) -> bool:
    """Whether a feature says what is where: it has a class, but for `Region*` and others that QuPath ignores."""
    has_class = feature.name is not None and not feature.name.endswith("*")
    return has_class and not feature.is_void and bool(feature.polygons or feature.paths)


def _outlines(features: Sequence[Feature], name: str) -> Outlines:
    """Features in the order of the file, whatever their type."""
    return Outlines.of([replace(one, name=None, object_type="annotation") for one in features], name)


def _left_out(given: Sequence[Feature], classed: Sequence[Feature], what: str) -> Iterator[str]:
    """Say which features do not count, and why."""
    counted = set(map(id, classed))
    reasons = Counter(_reason(one) for one in given if id(one) not in counted and not one.is_void)
    for reason, count in reasons.items():
        yield f"{what}: {count} annotations {reason} and are left out"


def _reason(feature: Feature) -> str:
    if not feature.polygons:
        return "have no geometry"
    if feature.name is None:
        return "have no class"
    return f"are of the class {feature.name}" if feature.name.endswith("*") else "were detected, not drawn,"


def _boxes(drawn: Outlines, groups: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The boxes of groups as `Marks.boxes`, cut at the image; empty ones lie at its origin."""
    own, count = drawn.object_boxes(), int(groups.max(initial=-1)) + 1
    low, high = np.full((count, 2), np.inf), np.full((count, 2), -np.inf)
    np.minimum.at(low, groups, own[:, :2])
    np.maximum.at(high, groups, own[:, 2:])
    low, high = np.clip(np.floor(low), 0, shape), np.clip(np.ceil(high), 0, shape)
    planes = np.zeros(count, np.int64)
    planes[groups] = drawn.planes
    return np.column_stack([planes, low, np.maximum(low, high)]).astype(np.int64)


@dataclass(frozen=True, eq=False)
class ImageMarks:
    """Annotations in a label image, which may cover a part of its image.

    Attributes:
        path, options, name: of the label.
        shape, at: (H, W) of the image, and where (y, x) in it the first pixel of the label lies.
        grid: groups from 1, on squares of `cell` pixels of the label: (planes, h, w) int32.
    """

    path: Path
    options: LabelOptions
    name: str
    shape: tuple[int, int]
    at: tuple[int, int]
    grid: np.ndarray
    cell: int
    boxes: np.ndarray
    notes: tuple[str, ...]

    @contextmanager
    def opened(self, fitted: Fitted, numbers: Numbers) -> Iterator[Read]:
        """Read by region; of another size, each pixel takes the value at its centre."""
        assert numbers.coding is not None
        with open_label(self.path, self.options) as label:
            packed = replace(label, shape=self.shape, read=self._packed(label, numbers.coding))
            if fitted.scale != (1.0, 1.0):
                packed = at_centres(packed, fitted.shape, fitted.scale)

            def read(region: Region, z: int) -> tuple[np.ndarray, np.ndarray]:
                values = packed.read(region, z)
                return (values & 255).astype(np.uint8), (values >> 8).astype(np.int32)

            yield read

    def _packed(self, label: Label, coding: Coding) -> Callable[[Region, int], np.ndarray]:
        """Class ids and, times 256, groups, in the pixels of the image: int64."""
        own = Region.of_shape(label.shape).shift(*self.at)

        def read(region: Region, z: int) -> np.ndarray:
            found = np.full(region.shape, IGNORE, np.int64)
            part = region.intersect(own)
            if part.area:
                inner = part.within(own)
                classes = coding.ids(label.read(inner, z), self.name).astype(np.int64)
                rows, columns = (np.arange(a, b) // self.cell for a, b in zip(*_corners(inner), strict=True))
                groups = np.where(classes == IGNORE, 0, self.grid[z][np.ix_(rows, columns)])
                found[part.within(region).slices] = classes | groups.astype(np.int64) << 8
            return found

        return read


def _corners(region: Region) -> tuple[tuple[int, int], tuple[int, int]]:
    return (region.y0, region.x0), (region.y1, region.x1)


def read_label(path: Path, image: ImageSource, name: str, options: LabelOptions, what: str) -> tuple[ImageMarks, Scan]:
    """Read a label image block by block: the values in it, and where something is drawn.

    Args:
        path: of the label, of the image's size or of a part of it, see `place_of_label`.
        image, name: what it was drawn on.
        options: with the value that means "not labelled".
        what: name of the label for `Coding`.

    Raises:
        DataError: it does not belong to the image, or its values are no classes.
    """
    with open_label(path, options) as label:
        at = place_of_label(path, label, image, name)
        found = Scan.of(f"label {path.name}", what, label, options.ignore)
        cell = 1
        while label.shape[0] * label.shape[1] > _CELLS * cell**2 and cell < BLOCK:
            cell *= 2
        grid = np.zeros((label.planes, *(-(-side // cell) for side in label.shape)), bool)
        for z, region in label.blocks():
            values = label.read(region, z)
            found.add(values)
            marked = values != options.ignore
            for axis in (0, 1):
                marked = np.logical_or.reduceat(marked, np.arange(0, marked.shape[axis], cell), axis=axis)
            y, x = region.y0 // cell, region.x0 // cell
            grid[z, y : y + marked.shape[0], x : x + marked.shape[1]] = marked
        found.check()
        notes = label.notes
    touching = np.zeros((3, 3, 3), bool)
    touching[1] = True  # planes are apart
    groups, _ = ndimage.label(grid, touching)
    boxes = [
        [
            plane.start,
            *(at[n] + side.start * cell for n, side in enumerate(sides)),
            *_ends(at, sides, cell, image.shape),
        ]
        for plane, *sides in ndimage.find_objects(groups)
    ]
    boxed = np.array(boxes, np.int64).reshape(-1, 5)
    return ImageMarks(path, options, what, image.shape, at, groups, cell, boxed, notes), found


def _ends(at: tuple[int, int], sides: Sequence[slice], cell: int, shape: tuple[int, int]) -> list[int]:
    return [min(first + side.stop * cell, most) for first, side, most in zip(at, sides, shape, strict=True)]


def place_of_label(path: Path, label: Label, image: ImageSource, name: str) -> tuple[int, int]:
    """Return where (y, x) in an image the first pixel of a label lies: as its name says, NAME@Y,X, or its metadata.

    Raises:
        DataError: it is no part of the image, or does not say where it lies.
    """
    named, planes = PLACED.search(stem_of(path)), image.depth or 1
    sizes = "label {} is {} x {} x {}, image {} {} x {} x {} (z, y, x)".format(
        path.name, label.planes, *label.shape, name, planes, *image.shape
    )
    if label.planes != planes:
        raise DataError(f"{sizes}; they must have the same planes")
    if named is not None:
        at = (int(named[1]), int(named[2]))
    elif label.shape == image.shape:
        return 0, 0
    else:
        found = _by_metadata(path, image)
        if found is None:
            raise DataError(
                f"{sizes}; they must be of one size, or the label a part that says where it lies: call it "
                f"{name}@Y,X{path.suffix or '.tif'}, by its first pixel"
            )
        at = found
    if not Region.of_shape(image.shape).contains(Region.of_shape(label.shape).shift(*at)):
        raise DataError(f"{sizes}; from {at[0]},{at[1]} (y, x) on it reaches beyond the image: correct its place")
    return at


def _by_metadata(path: Path, image: ImageSource) -> tuple[int, int] | None:
    """Where a label lies by the origin that its file states; None if it states none or other pixel sizes."""
    with open_image(path) as source:
        own = source.frame
    at = []
    for here, there in ((own.y, image.frame.y), (own.x, image.frame.x)):
        if here.unit != there.unit or abs(here.scale / there.scale - 1) > _AGREES:
            return None
        at.append((here.origin - there.origin) / there.scale)
    if at == [0, 0] or any(one < -_OFF or abs(one - round(one)) > _OFF for one in at):
        return None
    return round(at[0]), round(at[1])
