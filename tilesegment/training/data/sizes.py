"""Number, sizes and neighbours of the objects of labelled images."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tilesegment.training.data.sections import Section, diameters, object_areas

_SHIFTS = ((0, 1), (1, 0), (1, 1), (1, -1))  # to half of the 8 neighbours
_PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class ObjectNumbers:
    """The objects of several sections."""

    areas: np.ndarray  # (n,) int64, pixels
    touching: int  # objects that touch another, at a corner too
    without: tuple[str, ...]  # names of the sections without an object

    @classmethod
    def of(cls, sections: Iterable[Section]) -> "ObjectNumbers":
        """Count the objects of sections that have `objects`."""
        areas, touching, without = [np.zeros(0, np.int64)], 0, []
        for section in sections:
            if section.objects is None:
                continue
            own = object_areas(section.objects)
            areas.append(own)
            touching += int(np.count_nonzero(touching_objects(section.objects, own.size)))
            without += [section.name] if own.size == 0 else []
        return cls(np.concatenate(areas), touching, tuple(without))

    def words(self, images: int) -> str:
        """Describe them in one line; `images` is how many hold them."""
        count = self.areas.size
        if count == 0:
            return "none"
        low, median, high = np.percentile(diameters(self.areas), _PERCENTILES)
        held = f"{count:,} in {images:,} image{'s' * (images != 1)}"
        sizes = f"median diameter {median:.0f} px ({low:.0f} to {high:.0f})"
        return f"{held}, {100 * self.touching / count:.0f} % touch another, {sizes}"


def touching_objects(objects: np.ndarray, count: int) -> np.ndarray:
    """Return which objects 1 to `count` of (H, W) touch another, at a corner too: (count + 1,) bool, 0 is False."""
    found = np.zeros(count + 1, bool)
    height, width = objects.shape
    for dy, dx in _SHIFTS:
        a = objects[: height - dy, max(0, -dx) : width - max(0, dx)]
        b = objects[dy:, max(0, dx) : width + min(0, dx)]
        both = (a != b) & (a > 0) & (b > 0)
        found[a[both]] = True
        found[b[both]] = True
    return found
