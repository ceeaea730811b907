"""Tables and outlines of the objects in the order in which they are written, some at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from tilesegment.metadata import LabelClass, PixelSize
from tilesegment.objects.arrays import load_arrays
from tilesegment.objects.batches import CLASS, LABEL, PLANE, Batch, Placement
from tilesegment.objects.cut import Place
from tilesegment.objects.outlines import Corners, trace
from tilesegment.objects.polygons import Polygons, polygons_of, simplify
from tilesegment.objects.stages import Stages
from tilesegment.objects.sums import Sums
from tilesegment.objects.table import measurement_table

_ROWS = 50_000  # of a batch without outlines


@dataclass(frozen=True)
class Described:
    """What tables say of the mask.

    Attributes:
        classes: of the mask; None if its values are ids of objects.
        size: of its pixels; None if unknown.
        plane_distance: in micrometres; None if unknown.
        first_plane: plane of the image under its first one.
        placement: where it lies in level 0 of the image, if elsewhere than at its first pixel.
        simplify: by how many pixels outlines may deviate.
    """

    classes: Sequence[LabelClass] | None
    size: PixelSize | None
    plane_distance: float | None
    first_plane: int
    placement: Placement | None
    simplify: float = 0.0


class Rows:
    """The objects that are kept, with their measurements.

    Attributes:
        by_class: number of objects of each class whose regions are objects; empty for ids of objects.

    Args:
        stages: whose blocks are all measured and, where outlines are wanted, outlined.
        sums: of all objects.
        described: the rest.
    """

    def __init__(self, stages: Stages, sums: Sums, described: Described) -> None:
        self._stages, self._sums, self._described = stages, sums, described
        self._kept = stages.number_of[sums.ids] > 0
        self.by_class = self._count()

    def __len__(self) -> int:
        return int(np.count_nonzero(self._kept))

    def _count(self) -> dict[str, int]:
        stages, taken = self._stages, self._stages.plan.taken
        if taken is None:
            return {}
        counts = np.bincount(stages.class_of[self._sums.ids[self._kept]], minlength=max(taken) + 1)
        return {str(self._class_names[value]): int(counts[value]) for value in taken}

    def tables(self) -> Iterator[Batch]:
        """Yield the table; at least one batch, which may be empty."""
        for start in range(0, max(len(self._sums), 1), _ROWS):
            yield Batch(self._table(start, start + _ROWS))

    def outlined(self) -> Iterator[Batch]:
        """Yield the table with outlines, one row per object, or per object and plane of a stack of volumes.

        Rows are in the order of the first pixels, whatever the blocks.
        """
        sections, plan = self._stages.sections, self._stages.plan
        yield self._batch(Polygons.concatenate([_none()]))
        for z in range(plan.depth):
            for row in range(plan.cut.rows):
                found = [*self._whole(z, row), self._crossing(z, row)]
                outlines = Polygons.concatenate(found).sorted()
                if len(outlines):
                    assert (sections.plane[outlines.ids] == z).all()
                    yield self._batch(simplify(outlines, self._described.simplify))

    def _batch(self, outlines: Polygons) -> Batch:
        """Return the rows of sections, whose numbers the outlines have as ids."""
        sections, ids = self._stages.sections, self._sums.ids
        rows = np.searchsorted(ids, sections.object[outlines.ids])
        start, stop = (int(rows.min()), int(rows.max()) + 1) if len(rows) else (0, 0)
        table = self._table(start, stop)
        within = np.cumsum(self._kept[start:stop])[rows - start] - 1
        columns = {name: column[within] for name, column in table.items()}
        if self._stages.plan.volume:
            plane = sections.plane[outlines.ids] + self._described.first_plane
            columns = {LABEL: columns.pop(LABEL), PLANE: plane, **columns}
        return Batch(columns, replace(outlines, ids=columns[LABEL].astype(np.uint32)))

    def _table(self, start: int, stop: int) -> dict[str, np.ndarray]:
        """Return the table of the kept ones of some objects."""
        stages, described = self._stages, self._described
        sums, kept = self._sums.take(slice(start, stop)), self._kept[start:stop]
        is_stack = stages.plan.depth > 1 and not stages.plan.volume
        columns = measurement_table(
            sums,
            size=described.size,
            depth=described.plane_distance,
            planes=is_stack,
            volume=stages.plan.volume,
            place=described.placement,
        )
        columns = {name: column[kept] for name, column in columns.items()}
        for name in ("centroid-0_px", "bbox-0_px", "bbox-3_px") if stages.plan.volume else (PLANE,) * is_stack:
            columns[name] = columns[name] + described.first_plane
        columns[LABEL] = stages.number_of[sums.ids[kept]].astype(np.int64)
        if stages.plan.taken is None:
            return columns
        return {LABEL: columns.pop(LABEL), CLASS: self._class_names[stages.class_of[sums.ids[kept]]], **columns}

    @cached_property
    def _class_names(self) -> np.ndarray:
        classes, taken = self._described.classes, self._stages.plan.taken or ()
        names = [str(value) for value in range(max(taken) + 1)] if classes is None else [one.name for one in classes]
        return np.array(names)

    def _whole(self, z: int, row: int) -> Iterator[Polygons]:
        """Yield the outlines that lie in a block each, of a row of blocks."""
        for column in range(self._stages.cut.columns):
            found = load_arrays(self._stages.file("outline", Place(z, row, column)))
            yield Polygons(*(found[name] for name in ("ids", "objects", "polygons", "rings", "vertices")))

    def _crossing(self, z: int, row: int) -> Polygons:
        """Return the outlines that cross lines between blocks and begin in a row of blocks."""
        corners, of_piece = self._corners, self._stages.sections.of_piece
        bands = self._bands
        first, last = np.searchsorted(bands, (z * self._stages.cut.rows + row + np.arange(2)))
        return polygons_of(trace(corners[int(first) : int(last)]), of_piece)

    @cached_property
    def _corners(self) -> Corners:
        """The corners of all outlines that cross lines between blocks, in the order of the rows where they begin."""
        files = (load_arrays(self._stages.file("outline", place)) for place in self._stages.cut)
        found = Corners.concatenate(Corners.from_arrays(one) for one in files)
        return found[np.argsort(self._band_of(found.piece), kind="stable")]

    @cached_property
    def _bands(self) -> np.ndarray:
        return self._band_of(self._corners.piece)

    def _band_of(self, piece: np.ndarray) -> np.ndarray:
        """Return the row of blocks, counted over all planes, in which the section of each piece begins."""
        cut, sections = self._stages.cut, self._stages.sections
        z, pixel = np.divmod(sections.first, cut.shape[0] * cut.shape[1])
        band = z * cut.rows + pixel // cut.shape[1] // cut.side
        return band[sections.of_piece[piece]]


def _none() -> Polygons:
    zero = np.zeros(1, np.int64)
    return Polygons(np.zeros(0, np.uint32), zero, zero, zero, np.zeros((0, 2), np.int32))
