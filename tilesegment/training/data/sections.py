"""A data set as training sees it, however it is stored."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from tilesegment.errors import DataError, ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource
from tilesegment.labels.coding import IGNORE
from tilesegment.labels.files import some_of
from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.models.header import Normalisation
from tilesegment.training.data.pixel_sizes import Fitted

AnyData = TypeVar("AnyData", bound="Dataset")

_AT_ONCE = 1 << 27  # values of images whose mean and spread are computed at once


@dataclass(frozen=True)
class Section:
    """One labelled image, at the pixel size at which it is read."""

    # stem of its file; `stem[3]` is plane 3 of a stack, `stem@512,0` a part that begins at (512, 0), `stem@512,0#7` one
    # that holds annotation 7 alone
    name: str
    image: np.ndarray  # (C, H, W) in the file's dtype
    label: np.ndarray  # (H, W) uint8 class ids, IGNORE where not labelled
    objects: np.ndarray | None = None  # of instance labels: (H, W) int32, 0 outside, 1 to n numbers the objects
    groups: np.ndarray | None = None  # of sparse labels: (H, W) int32 numbers of annotations, 0 where nothing is drawn

    @property
    def stem(self) -> str:
        """The name without plane and part."""
        return re.sub(r"(\[\d+\])?(@\d+,\d+)?(#\d+)?$", "", self.name)


@dataclass(frozen=True)
class Dataset:
    """Labelled images of one kind."""

    sections: tuple[Section, ...]  # in the order of their names
    classes: tuple[LabelClass, ...]  # in the order of their values in the label files; see `labels.Coding` for colours
    pixel_size: PixelSize | None  # of the sections, if all agree
    layout: str = ""  # of the files, in words
    warnings: tuple[str, ...] = ()  # what the user should know, one sentence each
    ignore: int | None = None  # the value in the label files that means "not labelled"
    held_out: tuple[str, ...] = ()  # names of the sections in a folder val/
    notes: tuple[str, ...] = ()  # on how the labels are read, one sentence each
    instances: bool = False  # the labels hold single objects, so that sections have `objects`
    read_as: tuple[Fitted, ...] = ()  # the pixel size of each image, and how it is read

    def split(self, validation: float | Sequence[str]) -> tuple[tuple[Section, ...], tuple[Section, ...]]:
        """Split into sections to train on and sections to hold out.

        Args:
            validation: names of sections, or of files with all their planes and parts; or the share to hold out, from
                the end, since neighbours in a stack are nearly the same image. If there is a folder val/, any share but
                0 holds out exactly its images.

        Raises:
            DataError: no section has such a name, or nothing is left to train on.
        """
        if isinstance(validation, int | float) and validation > 0 and self.held_out:
            validation = self.held_out
        if isinstance(validation, int | float):
            held = min(round(validation * len(self.sections)), len(self.sections) - 1)
            if validation > 0 and len(self.sections) > 1:
                held = max(held, 1)
            cut = len(self.sections) - held
            return self.sections[:cut], self.sections[cut:]
        names = [validation] if isinstance(validation, str) else validation
        wanted = {unicodedata.normalize("NFC", name) for name in names}
        missing = sorted(wanted - {name for s in self.sections for name in (s.name, s.stem)})
        if missing:
            there = some_of([s.name for s in self.sections], 8)
            raise DataError(f"no labelled image is called {missing[0]}; there are {there}: hold out some of these")
        sides = [tuple(s for s in self.sections if bool({s.name, s.stem} & wanted) == held) for held in (False, True)]
        if not sides[0]:
            raise DataError(f"all {len(sides[1])} labelled images are held out; leave some to train on")
        return sides[0], sides[1]

    def shares(self) -> tuple[float, ...]:
        """Return the share of each class in the labelled pixels."""
        counts = total_counts(self.sections)[: len(self.classes)]
        return tuple(float(count) for count in counts / counts.sum())

    def object_diameter(self) -> float | None:
        """Return the median diameter of the objects in pixels, of the circle of an object's area; None without any."""
        areas = [object_areas(one.objects) for one in self.sections if one.objects is not None]
        sizes = np.concatenate([np.zeros(0, np.int64), *areas])
        return float(diameters(np.median(sizes))) if sizes.size else None


def without_alpha(data: AnyData) -> AnyData:
    """Leave out the fourth channel of 8-bit images if it is 255 everywhere, as `predict` does for three channels."""
    images = [section.image for section in data.sections]
    if not images or not all(len(one) == 4 and one.dtype == np.uint8 and (one[3] == 255).all() for one in images):
        return data
    sections = tuple(replace(section, image=np.ascontiguousarray(section.image[:3])) for section in data.sections)
    note = "the fourth channel is 255 everywhere, the alpha of RGBA, and is left out"
    return replace(data, sections=sections, notes=(*data.notes, note))


def read_pixels(name: str, source: ImageSource, region: Region, level: int, z: int) -> np.ndarray:
    """Read a region of the image called `name`, (C, h, w).

    Raises:
        ImageError: it cannot be read, or holds NaN or infinity.
    """
    image = np.ascontiguousarray(source.read(region, level, z))
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        raise ImageError(f"image {name} holds NaN or infinity; replace them before training")
    return image


def diameters(areas: np.ndarray) -> np.ndarray:
    """Return the diameters of circles of these areas, pixels."""
    return 2 * np.sqrt(areas / np.pi)


def object_areas(objects: np.ndarray) -> np.ndarray:
    """Count the pixels of the objects 1 to n of (H, W): (n,) int64."""
    return np.bincount(objects.ravel(), minlength=1)[1:]


def class_counts(label: np.ndarray) -> np.ndarray:
    """Count the pixels of `label` (H, W) uint8 by id: (256,) int64, the last those without a label."""
    return np.bincount(label.ravel(), minlength=IGNORE + 1)


def total_counts(sections: Iterable[Section]) -> np.ndarray:
    """Count the pixels of all sections by id, as `class_counts`."""
    return sum((class_counts(section.label) for section in sections), np.zeros(IGNORE + 1, np.int64))


def normalisation_of(sections: Sequence[Section]) -> Normalisation:
    """Return mean and standard deviation of each channel over all pixels of `sections`, see `spreads`.

    Raises:
        DataError: all channels are constant, or one holds NaN.
    """
    if sum(s.image.size for s in sections) > _AT_ONCE:
        mean, std = _moments(sections)
    else:
        flat = np.concatenate([s.image.reshape(len(s.image), -1) for s in sections], axis=1)
        mean, std = flat.mean(1, dtype=np.float64), flat.std(1, dtype=np.float64)
    return Normalisation(tuple(map(float, mean)), tuple(map(float, spreads(std))), str(sections[0].image.dtype))


def _moments(sections: Sequence[Section]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel (C,), image by image."""
    sizes = np.array([one.label.size for one in sections], np.float64)
    means = np.array([one.image.mean((1, 2), dtype=np.float64) for one in sections])
    mean = sizes @ means / sizes.sum()
    squares = np.array([((one.image - mean[:, None, None]) ** 2).mean((1, 2)) for one in sections])
    return mean, np.sqrt(sizes @ squares / sizes.sum())


def spreads(std: np.ndarray) -> np.ndarray:
    """Return what to divide the channels by, given their standard deviations (C,).

    A constant channel, such as red and green of a blue stain saved in colours, is divided by the largest of the others:
    it becomes 0 here, and stays within bounds where another image holds something in it.

    Raises:
        DataError: all channels are constant, or one holds NaN or infinity.
    """
    if not np.isfinite(std).all():
        one = int(np.flatnonzero(~np.isfinite(std))[0])
        raise DataError(f"the training images hold NaN or infinity in channel {one}; write a number there, such as 0")
    if std.max() <= 0:
        raise DataError("each channel of the training images is one value everywhere; there is nothing to learn from")
    return np.where(std > 0, std, std.max())
