"""Instance labels as training data: every object of a section has a number."""

from dataclasses import dataclass, field
from itertools import islice

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels.coding import IGNORE
from tilesegment.labels.files import some_of
from tilesegment.labels.label import OBJECT_NAMES, Label
from tilesegment.labels.numbering import dense, number_objects
from tilesegment.labels.outlines import OutlineLabel
from tilesegment.labels.scanning import MOST_CLASSES, PIECES_OF_CLASS, Pieces, distinct, pieces_of
from tilesegment.metadata import LabelClass, default_colours

_BLOCKS = 16  # blocks of a file in which pieces are counted
_ENOUGH = 128  # blocks of several values, of all files
_LEAST_PIXELS = 4  # smaller pieces, on average, are noise
_BACKGROUND = ("background", "_background_")  # names of outlines that erase what they cover
_OVERLAP = 0.01  # of the pixels of objects; less need not be told


@dataclass
class Instances:
    """How the instance labels of a data set are read, and what was found in them."""

    ignore: int | None  # the stored value that means "not labelled"
    given: tuple[str, ...] | None = None  # names of all classes by the user
    blocks: list[Pieces] = field(default_factory=list)
    values: set[int] = field(default_factory=set)  # of the largest file, up to MOST_CLASSES + 1 of them
    images: list[str] = field(default_factory=list)  # labels that are images of ids
    kinds: set[str] = field(default_factory=set)  # names of classes of outlines
    masks: list[str] = field(default_factory=list)  # labels of one value, whose pieces are the objects
    repeated: list[tuple[str, int, int]] = field(default_factory=list)  # label, id, in how many places
    overlaps: dict[str, int] = field(default_factory=dict)  # pixels that outlines cover again, by label
    drawn: int = 0  # outlines
    found: int = 0  # outlines that hold a pixel
    pixels: int = 0  # of outlines

    def scan(self, name: str, label: Label) -> None:
        """Look at a label before it is read.

        Raises:
            DataError: it holds no ids.
        """
        if isinstance(label, OutlineLabel):
            self.kinds |= {_kind(one) for one in label.names_of_objects} - {*_BACKGROUND}
            self.drawn += label.count
            return
        self.images.append(name)
        if label.jpeg:
            raise DataError(f"label {name} is a JPEG, which blurs ids of objects; save labels as PNG or TIFF")
        if label.classes is not None and len(label.classes) > 2:
            listed = ", ".join(one.name for one in label.classes)
            raise DataError(
                f"label {name} is a mask of the classes {listed}, not of ids of objects: write these with "
                "tileseg objects, or leave out --instances"
            )
        values: set[int] = set()
        for z, region in islice(label.blocks(), _BLOCKS):
            if sum(block.values > 1 for block in self.blocks) >= _ENOUGH:
                break
            pixels = label.read(region, z)
            found = distinct(pixels)
            _check_whole(name, found, self.ignore)
            self.blocks.append(pieces_of(pixels, found))
            values.update(found[found != 0][: MOST_CLASSES + 1].tolist())
        self.values = max(self.values, values, key=len)

    def check(self) -> tuple[str, ...]:
        """Check that what was scanned may be objects. Return what the user should know, one sentence each.

        Raises:
            DataError: the values are classes, or there are too many classes.
        """
        if len(self.kinds) >= MOST_CLASSES:
            raise DataError(f"the outlines are of {len(self.kinds)} classes; allowed: {MOST_CLASSES - 1}")
        if len(self.kinds) > 1 and self.images:
            raise DataError(
                f"label {self.images[0]} is an image of ids, which have no class; the outlines of other labels are "
                f"{', '.join(sorted(self.kinds))}: draw all labels as outlines, or give all one class"
            )
        several = Pieces.of(block for block in self.blocks if block.values > 1)
        if several.values == 0 and len(self.values) == 1 and Pieces.of(self.blocks).number > len(self.blocks):
            return ("the labels hold one value besides background, so that touching objects are taken for one",)
        noise = several.pixels < _LEAST_PIXELS * several.number
        if several.number > PIECES_OF_CLASS * several.values and (noise or len(self.values) <= MOST_CLASSES):
            raise DataError(
                f"the values of the labels lie in {several.number / several.values:.0f} connected pieces each: "
                "classes, not ids of single objects; leave out --instances"
            )
        return ()

    @property
    def names(self) -> tuple[str, ...]:
        """Names of background and of the classes of objects, as found; in the order of those given."""
        found = sorted(self.kinds) or [OBJECT_NAMES[1]]
        if self.given is not None and set(found) == set(self.given[1:]):
            found = [*self.given[1:]]
        return OBJECT_NAMES[0], *found

    def read(self, name: str, label: Label, region: Region, z: int) -> tuple[np.ndarray, np.ndarray]:
        """Read a region of the label `name`: class ids (h, w) uint8, and objects (h, w) int32."""
        values = label.read(region, z)
        if isinstance(label, OutlineLabel):
            classes, objects = self._read_outlines(values, name, label)
            if label.regions is not None:
                classes[(label.regions(region, z) == 0) & (values == 0)] = IGNORE
            return classes, objects
        if values.dtype.kind not in "ub":
            _check_whole(name, distinct(values), self.ignore)
        unknown = None if self.ignore is None else values == self.ignore
        ids = values if unknown is None else np.where(unknown, 0, values)
        found = number_objects(ids, is_mask=label.classes is not None)
        if found.is_mask and name not in self.masks:
            self.masks.append(name)
        self.repeated += [(name, *one) for one in found.repeated]
        classes = (found.objects > 0).astype(np.uint8)
        if unknown is not None:
            classes[unknown] = IGNORE
        return classes, found.objects

    def _read_outlines(self, ids: np.ndarray, name: str, label: OutlineLabel) -> tuple[np.ndarray, np.ndarray]:
        numbers, there = dense(ids)
        class_of = {kind: number for number, kind in enumerate(self.names)} | dict.fromkeys(_BACKGROUND, 0)
        of_objects = [
            IGNORE if void else class_of[_kind(kind)]
            for kind, void in zip(label.names_of_objects, label.void_objects, strict=True)
        ]
        classes = np.array([0, *of_objects], np.uint8)[[0, *there]]
        is_object = (classes > 0) & (classes != IGNORE)
        order = np.cumsum(is_object, dtype=np.int32) * is_object
        objects = order[numbers]
        self.found += there.size
        self.pixels += int(np.count_nonzero(objects))
        self.overlaps[name] = sum(label.covered.values())
        return classes[numbers], objects

    def labelled(self, name: str, label: Label, region: Region, z: int) -> np.ndarray:
        """Return where a region of a label says something: (h, w) bool."""
        if isinstance(label, OutlineLabel):
            return np.ones(region.shape, bool) if label.regions is None else label.regions(region, z) > 0
        return np.ones(region.shape, bool) if self.ignore is None else label.read(region, z) != self.ignore

    def classes(self) -> tuple[LabelClass, ...]:
        """Name and colour the classes, as given or as found.

        Raises:
            DataError: not as many different names as classes.
        """
        names = self.given or self.names
        if len(names) != len(self.names) or len(set(names)) != len(names):
            raise DataError(
                f"classes {', '.join(names)}: expected {len(self.names)} different names, as for "
                f"{', '.join(self.names)}, as the labels hold single objects; --no-instances makes their ids classes"
            )
        colours = default_colours(len(names))
        return tuple(LabelClass(name, colours[n], n) for n, name in enumerate(names))

    @property
    def how(self) -> str:
        """How the labels are read, in one sentence."""
        if self.images:
            return (
                "the labels hold ids of single objects, and each is an object to learn; to read ids as classes, name "
                "all with --classes and give --no-instances"
            )
        return "each outline is an object to learn; to learn only the classes of outlines, give --no-instances"

    def notes(self) -> tuple[str, ...]:
        """Say what was found, after all labels were read: one sentence each."""
        told = []
        if self.masks:
            told.append(f"{some_of(self.masks)}: a mask without ids, whose connected pieces are read as objects")
        if self.repeated:
            name, number, places = self.repeated[0]
            more = f", and {len(self.repeated) - 1} more such ids" if len(self.repeated) > 1 else ""
            told.append(
                f"{name}: id {number} lies in {places} separate places{more}; each is read as an object of its own"
            )
        overlap = sum(self.overlaps.values())
        if overlap > _OVERLAP * self.pixels:
            most = max(self.overlaps, key=lambda name: self.overlaps[name])
            told.append(
                f"outlines overlap in {overlap:,} pixels, most in {most} ({self.overlaps[most]:,}): the later is on top"
            )
        if lost := self.drawn - self.found:
            told.append(f"{lost:,} of {self.drawn:,} outlines hold no pixel of their own and are left out")
        return tuple(told)


def _kind(name: str | None) -> str:
    """The class of an outline by its name."""
    return OBJECT_NAMES[1] if name is None else name


def _check_whole(name: str, found: np.ndarray, ignore: int | None) -> None:
    """Check that values, ascending, are whole and not negative, except the ignored one."""
    if not (np.isfinite(found).all() and (found == np.rint(found)).all()):
        odd = found[~(np.isfinite(found) & (found == np.rint(found)))][0]
        raise DataError(
            f"label {name} holds values that are not whole, such as {odd:g}; expected ids of objects: whole numbers, "
            "0 outside"
        )
    if negative := [value for value in found.tolist() if value < 0 and value != ignore]:
        least = f"{negative[0]:.0f}"
        raise DataError(f"label {name} holds {least}; expected ids from 0: give --ignore {least} if it means no label")
