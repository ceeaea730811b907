"""A data set of which only what was drawn counts; annotations are held out whole."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels.coding import IGNORE
from tilesegment.labels.files import some_of
from tilesegment.training.data.sections import Dataset, Section
from tilesegment.training.data.windows import box_of, widened

_CONTEXT = 96  # pixels around a held-out annotation


@dataclass(frozen=True)
class Group:
    """Annotations that overlap or touch, which are held out together.

    Attributes:
        image: its name.
        box: plane, y0, x0, y1, x1 in the pixels that are read.
    """

    image: str
    box: tuple[int, int, int, int, int]


@dataclass(frozen=True)
class SparseDataset(Dataset):
    """Labelled parts of images; `groups` of a section numbers what is in the tuple `groups` from 1.

    Attributes:
        groups: annotations, or several that overlap or touch.
        area: pixels of all images.
        validated: images whose annotations are held out, as those in a folder val/.
    """

    groups: tuple[Group, ...] = ()
    area: int = 0
    validated: tuple[str, ...] = ()

    def counts(self) -> np.ndarray:
        """Count the pixels of each class in each group: (groups, classes) int64."""
        classes = len(self.classes)
        counts = np.zeros((len(self.groups) + 1) * classes, np.int64)
        for section in self.sections:
            assert section.groups is not None
            drawn = section.label != IGNORE
            at = section.groups[drawn].astype(np.int64) * classes + section.label[drawn]
            counts += np.bincount(at, minlength=counts.size)
        return counts.reshape(-1, classes)[1:]

    def split(self, validation: float | Sequence[str]) -> tuple[tuple[Section, ...], tuple[Section, ...]]:
        """Split into sections to train on, and held-out annotations with context around each.

        Args:
            validation: the share of the annotations of each class to hold out, spread over the images; or names of
                images, all of whose annotations are held out.

        Raises:
            DataError: no image has such a name, or nothing is left to train on.
        """
        if isinstance(validation, int | float):
            held = self._held(validation)
        else:
            held = self._named([validation] if isinstance(validation, str) else validation)
        numbers = np.flatnonzero(held) + 1
        train = [self._without(section, numbers) for section in self.sections]
        kept = tuple(section for section in train if (section.label != IGNORE).any())
        if not kept:
            raise DataError(f"all {len(self.groups)} annotations are held out; leave some to train on")
        inside = [set(np.unique(np.asarray(section.groups)).tolist()) for section in self.sections]
        parts = [
            (n, one) for n in numbers.tolist() for one, some in zip(self.sections, inside, strict=True) if n in some
        ]
        return kept, tuple(self._of_group(section, n) for n, section in parts)

    def _held(self, share: float) -> np.ndarray:
        """Choose what to hold out, bool (groups,): of each class `share` of its groups, at least one, never all.

        The rarest class chooses first, each in even steps along the rows of the images.
        """
        if share > 0 and self.validated:
            return self._named(self.validated)
        has = self.counts() > 0
        held = np.zeros(len(self.groups), bool)
        order = sorted(range(len(self.groups)), key=lambda n: (self.groups[n].image, self.groups[n].box))
        for one in np.argsort(has.sum(0), kind="stable") if share > 0 else ():
            own = [n for n in order if has[n, one]]
            free = [n for n in own if not held[n]]
            wanted = min(max(round(share * len(own)), 1) - int(held[own].sum()), len(free))
            spread = [free[len(free) * (2 * k + 1) // (2 * wanted)] for k in range(wanted)]
            for n in [*spread, *(n for n in free if n not in spread)]:
                held[n] = wanted > 0
                if held[n] and (has[~held].sum(0) < has.any(0)).any():  # a class would have nothing to learn from
                    held[n] = False
                wanted -= int(held[n])
        return held

    def _named(self, names: Sequence[str]) -> np.ndarray:
        there = sorted({group.image for group in self.groups})
        if missing := sorted(set(names) - set(there)):
            raise DataError(
                f"no image with annotations is called {missing[0]}; there are {some_of(there, 8)}: hold out some of "
                "these, or give a share such as 0.2"
            )
        return np.array([group.image in names for group in self.groups], bool)

    def _without(self, section: Section, numbers: np.ndarray) -> Section:
        """A section of which the groups `numbers` are not drawn."""
        assert section.groups is not None
        label = np.where(np.isin(section.groups, numbers), np.uint8(IGNORE), section.label)
        return replace(section, label=label, groups=None)

    def _of_group(self, section: Section, number: int) -> Section:
        """What a section holds of one group, with some context: views of its image."""
        assert section.groups is not None
        own = section.groups == number
        box = box_of(own)
        assert box is not None
        around = widened(box, _CONTEXT, Region.of_shape(own.shape))
        inside = around.slices
        label = np.where(own[inside], section.label[inside], np.uint8(IGNORE))
        name, _, origin = section.name.rpartition("@")
        y, x = map(int, origin.split(","))
        return Section(f"{name}@{y + around.y0},{x + around.x0}#{number}", section.image[:, *inside], label)


def number_of(held_out: Section) -> int:
    """Return the number of the group that a held-out section holds."""
    return int(held_out.name.rpartition("#")[2])
