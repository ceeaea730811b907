"""Instance labels as training data: every object of a section has a number."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from tilesegment.errors import DataError
from tilesegment.labels.coding import IGNORE
from tilesegment.labels.files import some_of
from tilesegment.labels.label import OBJECT_NAMES, Label
from tilesegment.labels.numbering import number_objects
from tilesegment.labels.scanning import MOST_CLASSES, PIECES_OF_CLASS, Pieces, distinct, pieces_of
from tilesegment.metadata import LabelClass, default_colours

_BLOCKS = 16  # blocks of a file in which pieces are counted
_LEAST_PIXELS = 4  # smaller pieces, on average, are noise


@dataclass
class Instances:
    """How the instance labels of a data set are read, and what was found in them."""

    ignore: int | None  # the stored value that means "not labelled"
    names: tuple[str, ...] = OBJECT_NAMES  # background, then the classes of objects
    blocks: list[Pieces] = field(default_factory=list)
    values: set[int] = field(default_factory=set)  # of the largest file, up to MOST_CLASSES + 1 of them
    masks: list[str] = field(default_factory=list)  # sections of one value, whose pieces are the objects
    repeated: list[tuple[str, int, int]] = field(default_factory=list)  # section, id, in how many places

    def scan(self, name: str, label: Label) -> None:
        """Look at a label before it is read.

        Raises:
            DataError: it holds no ids.
        """
        if label.jpeg:
            raise DataError(f"label {name} is a JPEG, which blurs ids of objects; save labels as PNG or TIFF")
        if label.classes is not None and len(label.classes) > 2:
            listed = ", ".join(one.name for one in label.classes)
            raise DataError(
                f"label {name} is a mask of the classes {listed}, not of ids of objects: write these with "
                "tileseg objects, or leave out --instances"
            )
        values: set[int] = set()
        for number, (z, region) in enumerate(label.blocks()):
            pixels = label.read(region, z)
            if number < _BLOCKS or pixels.dtype.kind not in "ub":
                found = distinct(pixels)
                self._check(name, found)
                if number < _BLOCKS:
                    self.blocks.append(pieces_of(pixels, found))
                    values.update(found[found != 0][: MOST_CLASSES + 1].tolist())
        self.values = max(self.values, values, key=len)

    def _check(self, name: str, found: np.ndarray) -> None:
        if not (np.isfinite(found).all() and (found == np.rint(found)).all()):
            raise DataError(
                f"label {name} holds values that are not whole, such as {found[found != np.rint(found)][0]:g}; "
                "expected ids of objects: whole numbers, 0 outside"
            )
        if negative := [value for value in found.tolist() if value < 0 and value != self.ignore]:
            least = f"{negative[0]:.0f}"
            raise DataError(
                f"label {name} holds {least}; expected ids from 0: give --ignore {least} if it means no label"
            )

    def check(self) -> tuple[str, ...]:
        """Check that what was scanned may be ids of objects. Return what the user should know, one sentence each.

        Raises:
            DataError: the values are classes.
        """
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

    def read(self, ids: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Read stored values (h, w) of the section `name`: class ids (h, w) uint8, and objects (h, w) int32."""
        unknown = None if self.ignore is None else ids == self.ignore
        found = number_objects(ids if unknown is None else np.where(unknown, 0, ids))
        if found.is_mask and name not in self.masks:
            self.masks.append(name)
        self.repeated += [(name, *one) for one in found.repeated]
        label = (found.objects > 0).astype(np.uint8)
        if unknown is not None:
            label[unknown] = IGNORE
        return label, found.objects

    def labelled(self, ids: np.ndarray, name: str) -> np.ndarray:
        """Return where stored values (h, w) are a label: (h, w) bool."""
        return np.ones(ids.shape, bool) if self.ignore is None else ids != self.ignore

    def classes(self, given: Sequence[str] | None) -> tuple[LabelClass, ...]:
        """Name and colour the classes, as given or as found.

        Raises:
            DataError: not as many different names as classes.
        """
        names = self.names if given is None else tuple(given)
        if len(names) != len(self.names) or len(set(names)) != len(names):
            raise DataError(
                f"classes {', '.join(names)}: expected {len(self.names)} different names, as for "
                f"{', '.join(self.names)}, as the labels hold ids of single objects; --no-instances makes these classes"
            )
        colours = default_colours(len(names))
        return tuple(LabelClass(name, colours[n], n) for n, name in enumerate(names))

    def notes(self) -> tuple[str, ...]:
        """Say how the labels were read, one sentence each; masks and repeated ids only after `read`."""
        told = [
            "the labels hold ids of single objects, and each is an object to learn; to read ids as classes, name all "
            "with --classes and give --no-instances"
        ]
        if self.masks:
            told.append(f"{some_of(self.masks)}: a mask without ids, whose connected pieces are read as objects")
        if self.repeated:
            name, number, places = self.repeated[0]
            more = f", and {len(self.repeated) - 1} more such ids" if len(self.repeated) > 1 else ""
            told.append(
                f"{name}: id {number} lies in {places} separate places{more}; each is read as an object of its own"
            )
        return tuple(told)
