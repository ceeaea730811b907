"""What is done to the blocks of a mask, stage by stage; each result is a file, and a present file is a done block.

    label      values -> pieces of a block                              labelled/
    link       pieces that meet those of the next plane (3-D only)      linked/
    grow       objects with what they are given -> pieces               grown/
    part       pixels in no object -> pieces                            gaps/
    touch      which objects the gaps of a block touch                  touched/
    fill       objects with their holes -> pieces                       filled/
    measure    sums of the objects in a block                           measured/
    outline    outlines that end in a block, corners of the others      outlined/
    paint      ids of the objects, stored in the label images

Between stages the pieces of all blocks are joined: see `labelling`. A stage reads what the one before stored, so any
process may do any block of it, and repeating a block is harmless.
"""

import hashlib
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np

from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.resampled import at_scale
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskWriter
from tilesegment.masks.blocks import reporting
from tilesegment.objects.arrays import SUFFIX, DamagedError, load_arrays, save_arrays
from tilesegment.objects.block_pieces import BlockPieces
from tilesegment.objects.cut import Place
from tilesegment.objects.growing import grow, neighbours
from tilesegment.objects.labelling import Labelling
from tilesegment.objects.measuring import measure_block
from tilesegment.objects.outlines import corners_of_block, trace
from tilesegment.objects.plan import ObjectPlan
from tilesegment.objects.polygons import polygons_of
from tilesegment.objects.sections import Sections, sections_of
from tilesegment.objects.source import ObjectSource, open_source

PLAN = "plan.json"
# what is read from the work folder, and changes while other processes work there
_READ = ("filling", "is_whole", "sections", "number_of", "number_of_piece")
_GAP = 1  # value of the pixels in no object


class Stages:
    """The open work folder of a plan. Thread-safe.

    Results are kept in a folder in it that is named by the plan: a worker that is late and still follows another plan
    does not find it.

    Args:
        folder: the work folder.
        plan: what is decided.
        writers: the label images in progress.
    """

    def __init__(self, folder: Path, plan: ObjectPlan, writers: Sequence[MaskWriter] = ()) -> None:
        self.folder, self.plan, self.cut, self.writers = folder, plan, plan.cut, writers
        self.results = results_folder(folder, plan)
        self.labelled, self.grown, self.gaps, self.filled = (
            Labelling(self.results / name, self.cut) for name in ("labelled", "grown", "gaps", "filled")
        )
        self._open = ExitStack()
        self._lock = threading.RLock()

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Open the work folder that another process made."""
        with reporting("read", folder):
            return cls(folder, ObjectPlan.from_json((folder / PLAN).read_text()))

    def close(self) -> None:
        """Close mask and image."""
        self._open.close()

    def refresh(self, writers: Sequence[MaskWriter]) -> None:
        """Forget what was read of results that other processes have made anew; no thread may be at work meanwhile.

        The pieces of blocks stay: for one plan they are always the same.

        Args:
            writers: the label images in progress.
        """
        self.writers = tuple(writers)
        for name in _READ:
            vars(self).pop(name, None)
        for labelling in (self.labelled, self.grown, self.gaps, self.filled):
            vars(labelling).pop("joined", None)

    def discard_damaged(self) -> None:
        """Delete all damaged results, so that they are made again; a loss of power may leave many."""
        for path in list(self.results.rglob(f"*{SUFFIX}")):
            with suppress(DamagedError):
                load_arrays(path)

    @cached_property
    def source(self) -> ObjectSource:
        """The mask."""
        with self._lock:
            return self._open.enter_context(open_source(self.plan.place))

    @cached_property
    def image(self) -> ImageSource:
        """The image whose grey values are measured."""
        grey = self.plan.grey
        assert grey is not None
        with self._lock:
            return self._open.enter_context(at_scale(open_image(grey.place), grey.resampled))

    @property
    def final(self) -> Labelling:
        """The labelling that holds the objects as they are measured."""
        if self.plan.fill_holes:
            return self.filled
        return self.grown if self.plan.radius else self.labelled

    @property
    def _before_filling(self) -> Labelling:
        return self.grown if self.plan.radius else self.labelled

    def file(self, stage: str, place: Place) -> Path:
        """Return the file in which a stage keeps a block."""
        names = {"label": "labelled", "link": "linked", "grow": "grown", "part": "gaps", "touch": "touched"}
        names |= {"fill": "filled", "measure": "measured", "outline": "outlined"}
        return self.results / names[stage] / f"{place}{SUFFIX}"

    def do(self, stage: str, place: Place) -> None:
        """Do one block of a stage and keep its result.

        Raises:
            ImageError, MaskError: the mask or the image cannot be read, or the result cannot be written.
            DamagedError: a result of an earlier stage has to be made again.
        """
        with reporting("write to", self.folder):
            getattr(self, stage)(place)

    @property
    def class_of(self) -> np.ndarray:
        """(objects + 1,) uint32: the class id of each object, or the id that a label image gives it."""
        values = self.labelled.joined.value
        return values if self.plan.taken is None else values - np.uint32(1)

    # the stages

    def label(self, place: Place) -> None:
        """Label the values of a block."""
        values = self.source.values(self.cut.region(place), place.z)
        choose = None if self.plan.taken is None else partial(chosen, taken=self.plan.taken)
        pieces = BlockPieces.of(values, corners=self._meets_at_corners, choose=choose)
        pieces.save(self.file("label", place))

    def link(self, place: Place) -> None:
        """Find the pieces that meet those of the next plane."""
        region, pieces = self.cut.region(place), self.labelled.joined.pieces
        found = [np.zeros((0, 2), np.uint32)]
        if place.z + 1 < self.plan.depth:
            numbers = np.arange(pieces + 1, dtype=np.uint32)
            reach = int(self._meets_at_corners)
            here = self.labelled.paint(place.z, region, numbers)
            around = Region(region.y0 - reach, region.x0 - reach, region.y1 + reach, region.x1 + reach)
            above = self.labelled.paint(place.z + 1, around, numbers)
            for dy in range(2 * reach + 1):
                for dx in range(2 * reach + 1):
                    there = above[dy : dy + region.height, dx : dx + region.width]
                    both = (here > 0) & (there > 0)
                    found.append(np.unique(np.stack([here[both], there[both]], axis=-1), axis=0))
        save_arrays(self.file("link", place), {"pairs": np.unique(np.concatenate(found), axis=0)})

    def grow(self, place: Place) -> None:
        """Give pixels to the nearest object."""
        region, plan, margin = self.cut.region(place), self.plan, int(self.plan.radius)
        around = Region(region.y0 - margin, region.x0 - margin, region.y1 + margin, region.x1 + margin)
        ids = self.labelled.paint(place.z, around, self.labelled.joined.object_of)
        allowed = np.ones(region.shape, bool)
        if plan.border is not None:
            allowed = self.source.values(region, place.z) == plan.border
        BlockPieces.of(grow(ids, allowed, plan.radius)).save(self.file("grow", place))

    def part(self, place: Place) -> None:
        """Label the pixels that are in no object."""
        before = self._before_filling
        ids = before.paint(place.z, self.cut.region(place), before.joined.object_of)
        values = np.where(ids == 0, np.uint8(_GAP), np.uint8(0))
        # what encloses a gap holds together at sides where objects do not meet at corners, and the other way round
        BlockPieces.of(values, corners=not self._meets_at_corners).save(self.file("part", place))

    def touch(self, place: Place) -> None:
        """Find which objects the gaps touch, and which gaps touch an edge of the mask."""
        region, before = self.cut.region(place), self._before_filling
        around = Region(region.y0 - 1, region.x0 - 1, region.y1 + 1, region.x1 + 1)
        gaps = self.gaps.paint(place.z, around, self.gaps.joined.object_of)
        gap, thing = neighbours(gaps, before.paint(place.z, around, before.joined.object_of))
        height, width = self.plan.shape
        inner = gaps[1:-1, 1:-1]
        is_edge = (region.y0 == 0, region.y1 == height, region.x0 == 0, region.x1 == width)
        lines = (inner[0], inner[-1], inner[:, 0], inner[:, -1])
        at_edge = [line for line, is_one in zip(lines, is_edge, strict=True) if is_one]
        outer = np.unique(np.concatenate([np.zeros(0, np.uint32), *at_edge]))
        save_arrays(self.file("touch", place), {"gap": gap, "object": thing, "outer": outer})

    def fill(self, place: Place) -> None:
        """Give the gaps that a single object encloses to it."""
        region, before, gaps = self.cut.region(place), self._before_filling, self.gaps
        ids = before.paint(place.z, region, before.joined.object_of)
        ids |= gaps.paint(place.z, region, self.filling[gaps.joined.object_of])
        BlockPieces.of(ids).save(self.file("fill", place))

    @cached_property
    def filling(self) -> np.ndarray:
        """(gaps + 1,) uint32: the object that each gap is given to, 0 for none."""
        low = np.full(self.gaps.joined.objects + 1, np.uint32(2**32 - 1))
        high = np.zeros(len(low), np.uint32)
        is_outer = np.zeros(len(low), bool)
        for place in self.cut:
            found = load_arrays(self.file("touch", place))
            np.minimum.at(low, found["gap"], found["object"])
            np.maximum.at(high, found["gap"], found["object"])
            is_outer[found["outer"]] = True
        return np.where((low == high) & ~is_outer, high, np.uint32(0))

    def measure(self, place: Place) -> None:
        """Measure what lies of each object in a block."""
        region, final = self.cut.region(place), self.final
        around = Region(region.y0 - 2, region.x0 - 2, region.y1 + 2, region.x1 + 2)
        ids = final.paint(place.z, around, final.joined.object_of)
        grey = self.plan.grey
        image = None
        if grey is not None:
            image = self.image.read(region.shift(*grey.shift), grey.level, place.z + grey.plane)
        runs = final.runs(place, final.joined.object_of)
        sums = measure_block(ids, region, place.z, self.is_whole, image, volume=self.plan.volume, runs=runs)
        save_arrays(self.file("measure", place), sums.to_arrays())

    @cached_property
    def is_whole(self) -> np.ndarray:
        """(objects + 1,) bool: whether all of an object lies in one block."""
        return self.final.joined.is_whole_object

    def outline(self, place: Place) -> None:
        """Trace the outlines that end in the block, and find the corners of the others."""
        region, sections = self.cut.region(place), self.sections
        around = Region(region.y0 - 1, region.x0 - 1, region.y1 + 1, region.x1 + 1)
        numbers = np.where(sections.of_piece > 0, np.arange(len(sections.of_piece), dtype=np.uint32), np.uint32(0))
        corners = corners_of_block(self.final.paint(place.z, around, numbers), region, self.plan.shape)
        ends_here = sections.is_whole[sections.of_piece[corners.piece]]
        whole = polygons_of(trace(corners[ends_here]), sections.of_piece)
        save_arrays(self.file("outline", place), corners[~ends_here].to_arrays() | vars(whole))

    @cached_property
    def sections(self) -> Sections:
        """What the objects that are kept have of outlines."""
        return sections_of(self.final.joined, self.number_of, self.plan.shape[0] * self.plan.shape[1])

    def paint(self, place: Place) -> None:
        """Store the ids of a block in the label images."""
        region = self.cut.region(place)
        ids = self.final.paint(place.z, region, self.number_of_piece)
        for writer in self.writers:
            writer.write(region, ids, place.z)

    @cached_property
    def number_of_piece(self) -> np.ndarray:
        """(pieces + 1,) uint32: the id of the object of each piece in the outputs."""
        return self.number_of[self.final.joined.object_of]

    def reduced(self, region: Region, halvings: int, z: int) -> np.ndarray:
        """Return the ids (h, w) uint32 in `region` of a level of the label images that is halved so often."""
        return self.final.paint_reduced(z, region, halvings, self.number_of_piece)

    @property
    def numbers(self) -> Path:
        """The file of `number_of`."""
        return self.results / f"numbers{SUFFIX}"

    @cached_property
    def number_of(self) -> np.ndarray:
        """(objects + 1,) uint32: the id that each object gets in the outputs, 0 for those that are left out."""
        return load_arrays(self.numbers)["number"]

    @property
    def _meets_at_corners(self) -> bool:
        return self.plan.connectivity == 8


def results_folder(folder: Path, plan: ObjectPlan) -> Path:
    """Return where in a work folder the results for a plan are kept."""
    return folder / hashlib.sha256(plan.to_json().encode()).hexdigest()[:16]


def chosen(values: np.ndarray, taken: Sequence[int]) -> np.ndarray:
    """Return `values` (n,) with 0 for those that are not `taken`, and value + 1 for those that are."""
    if values.dtype.itemsize <= 2:
        size = np.iinfo(values.dtype).max + 1
        known = [one for one in taken if one < size]
        table = np.zeros(size, np.min_scalar_type(max(known, default=0) + 1))
        table[known] = np.array(known) + 1
        return table[values]
    return np.where(np.isin(values, taken), values.astype(np.uint32) + np.uint32(1), np.uint32(0))
