"""The pieces of all blocks joined: the same numbers as if the whole mask were labelled at once.

The invariant: pieces are the 4-connected regions of one value in one plane, numbered 1, 2, ... by their first pixel in
raster order. Objects are made of pieces: one each, or those that also meet at corners or in neighbouring planes, or
those of one id; they are numbered by their first pixel, too. None of it depends on how the mask is cut. Memory
grows with the number of pieces and with the pixels along the lines between blocks.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tilesegment.errors import MaskError
from tilesegment.geometry import Region
from tilesegment.objects.arrays import SUFFIX, load_arrays, save_arrays
from tilesegment.objects.block_pieces import BlockPieces, Head
from tilesegment.objects.cut import Cut, Place
from tilesegment.objects.runs import Runs, join

MOST = 2**32 - 1  # ids of objects are uint32
_CACHE_BYTES = 96 << 20  # of the blocks last used; each is used by its eight neighbours too
_JOINED = f"joined{SUFFIX}"
_NO_PAIRS = np.zeros((0, 2), np.int64)


@dataclass(frozen=True)
class Joined:
    """Numbers of pieces and objects.

    Attributes:
        offset: (blocks + 1,) int64, how many pieces of blocks lie before each block.
        piece_of: (t,) uint32, the piece, 1, 2, ..., that each piece of a block belongs to.
        object_of: (pieces + 1,) uint32, the object, 1, 2, ..., of each piece; 0 of piece 0, which is no piece.
        value: (objects + 1,) uint32, the value of the pixels of each object; 0 of object 0.
        first: (pieces + 1,) int64, the first pixel of each piece in the flattened stack; -1 of piece 0.
        at_line: (pieces + 1,) bool, whether a piece touches a line between blocks from above or from the left.
    """

    offset: np.ndarray
    piece_of: np.ndarray
    object_of: np.ndarray
    value: np.ndarray
    first: np.ndarray
    at_line: np.ndarray

    @property
    def pieces(self) -> int:
        """Number of pieces."""
        return len(self.object_of) - 1

    @property
    def objects(self) -> int:
        """Number of objects."""
        return len(self.value) - 1

    @cached_property
    def is_whole_object(self) -> np.ndarray:
        """(objects + 1,) bool: whether all pixels of an object lie in one block."""
        return self.in_one_block(self.object_of, self.objects)

    def in_one_block(self, group_of: np.ndarray, groups: int) -> np.ndarray:
        """Return (groups + 1,) bool, whether one block holds all pieces of a group.

        Args:
            group_of: (pieces + 1,), the group of each piece, from 1; 0 is none.
            groups: how many there are.
        """
        block = np.repeat(np.arange(len(self.offset) - 1), np.diff(self.offset))
        found = group_of[self.piece_of]
        low, high = np.full(groups + 1, len(self.offset)), np.full(groups + 1, -1)
        np.minimum.at(low, found, block)
        np.maximum.at(high, found, block)
        return low == high


class Labelling:
    """A labelled mask: a folder with the pieces of every block and, once joined, their numbers. Thread-safe.

    Args:
        folder: where it is kept.
        cut: how the mask is cut.
    """

    def __init__(self, folder: Path, cut: Cut) -> None:
        self.folder, self.cut = folder, cut
        self._cache: OrderedDict[Place, BlockPieces] = OrderedDict()
        self._lock = threading.Lock()

    def path(self, place: Place) -> Path:
        """Return the file of a block."""
        return self.folder / f"{place}{SUFFIX}"

    def load(self, place: Place) -> BlockPieces:
        """Return the pieces of a block that is stored; the ones used last are kept in memory."""
        with self._lock:
            if place in self._cache:
                self._cache.move_to_end(place)
                return self._cache[place]
        found = BlockPieces.load(self.path(place))
        with self._lock:
            self._cache[place] = found
            held = sum(one.nbytes for one in self._cache.values())
            while len(self._cache) > 1 and held > _CACHE_BYTES:
                held -= self._cache.popitem(last=False)[1].nbytes
        return found

    @property
    def is_joined(self) -> bool:
        """Whether `join` has been done."""
        return (self.folder / _JOINED).is_file()

    @cached_property
    def joined(self) -> Joined:
        """The numbers of pieces and objects."""
        found = load_arrays(self.folder / _JOINED)
        return Joined(**found)

    def paint(self, z: int, region: Region, table: np.ndarray) -> np.ndarray:
        """Return (h, w) of what `table` (pieces + 1,) holds for the pieces in `region` of plane `z`.

        `region` may reach beyond the mask. There, and where there is no piece, it is 0.
        """
        painted: np.ndarray | None = None
        touched = list(self.cut.touched(z, region))
        # the block that fills most of the region is painted with its surroundings, which the others then fill
        touched.sort(key=lambda place: -self.cut.region(place).intersect(region).area)
        for place in touched:
            block, pieces, offset = self.cut.region(place), self.load(place), self.joined.offset
            part, number = block.intersect(region), self.cut.number(place)
            local = table[self.joined.piece_of[offset[number] : offset[number + 1]]]
            if painted is None:
                painted = pieces.paint(part.within(block), local, around=region.within(block))
            else:
                painted[part.within(region).slices] = pieces.paint(part.within(block), local)
        return np.zeros(region.shape, table.dtype) if painted is None else painted

    def paint_reduced(self, z: int, region: Region, halvings: int, table: np.ndarray) -> np.ndarray:
        """Return what `paint` gives for every 2^halvings-th row and column, from the first, as (h, w).

        Args:
            z, table: as for `paint`.
            region: in pixels of the reduced plane.
            halvings: how often its sides are halved.
        """
        factor, offset = 1 << halvings, self.joined.offset
        covered = Region(*(end * factor for end in (region.y0, region.x0, region.y1, region.x1)))
        found = []
        for place in self.cut.touched(z, covered):
            block, pieces, number = self.cut.region(place), self.load(place), self.cut.number(place)
            row, left = np.divmod(pieces.runs.start.astype(np.int64), block.width)
            right = pieces.runs.stop - row * block.width
            down, rest = np.divmod(row + block.y0, factor)
            # the first columns at or after both ends
            left, right = (
                np.clip(-(-(end + block.x0) // factor) - region.x0, 0, region.width) for end in (left, right)
            )
            kept = (rest == 0) & (left < right) & (down >= region.y0) & (down < region.y1)
            base = (down[kept] - region.y0) * region.width
            value = table[self.joined.piece_of[offset[number] + pieces.piece[kept]]]
            found.append((base + left[kept], base + right[kept], value))
        if not found:
            return np.zeros(region.shape, table.dtype)
        start, stop, value = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.argsort(start)
        return Runs(region.shape, start[order], stop[order], value).paint(value[order])

    def runs(self, place: Place, table: np.ndarray) -> Runs:
        """Return the runs of a block with what `table` (pieces + 1,) of uint32 holds for their pieces as values."""
        pieces, number = self.load(place), self.cut.number(place)
        value = table[self.joined.piece_of[self.joined.offset[number] + pieces.piece]]
        return replace(pieces.runs, value=value)

    def join(self, *, corners: bool = False, ids: bool = False, numbered: bool = False) -> None:
        """Number the pieces and objects of all blocks, which must be stored, and keep that in the folder.

        Args:
            corners: pieces of one value that meet at a corner are one object.
            ids: pieces of one value and plane are one object.
            numbered: values are numbers of objects, 1, 2, ..., which they keep.

        Raises:
            MaskError: there are more objects than ids.
        """
        blocks: list[_Block] = []
        pairs, meeting, touching = [_NO_PAIRS], [_NO_PAIRS], list[np.ndarray]()
        for before, after in self._lines(blocks):
            pairs.append(_changes(before, after))
            touching.append(np.unique(before[before > 0]) - 1)
            if corners:
                meeting += [_changes(before[1:], after[:-1]), _changes(before[:-1], after[1:])]
        offset = np.concatenate([[0], np.cumsum([len(block.value) for block in blocks])])
        first, value = (np.concatenate([getattr(block, name) for block in blocks]) for name in ("first", "value"))
        if len(value) > MOST:
            raise MaskError(f"the mask holds {len(value):,} regions in its blocks; at most {MOST:,} are numbered")
        meeting += [block.corners + start for block, start in zip(blocks, offset[:-1], strict=True)]
        piece_of, first, value = _numbered(first, value, *_alike(np.concatenate(pairs), value).T)
        at_line = np.zeros(len(first) + 1, bool)
        at_line[piece_of[np.concatenate([np.zeros(0, int), *touching])]] = True
        if numbered:
            object_of, of_objects = value, np.arange(1, value.max(initial=0) + 1)
        else:
            if ids:
                plane = first // (self.cut.shape[0] * self.cut.shape[1])
                alike = _chain(plane << 32 | value)
            else:
                alike = _alike(piece_of[np.concatenate(meeting)].astype(np.int64) - 1, value)
            object_of, _, of_objects = _numbered(first, value, *alike.T)
        first = np.concatenate([[-1], first])
        self._keep(Joined(offset, piece_of, _with_none(object_of), _with_none(of_objects), first, at_line))

    def link(self, pairs: np.ndarray | None) -> None:
        """Join objects of several planes and number them anew; doing so again changes nothing.

        Args:
            pairs: (m, 2) of pieces of one value that meet in neighbouring planes; None joins those of one value.
        """
        joined = self.joined
        if pairs is None:
            pairs = _chain(joined.value[1:].astype(np.int64))
        else:
            pairs = _alike(joined.object_of[pairs].astype(np.int64), joined.value) - 1
        # objects are in the order of their first pixels
        group, _, value = _numbered(np.arange(joined.objects), joined.value[1:], *pairs.T)
        self._keep(replace(joined, object_of=_with_none(group)[joined.object_of], value=_with_none(value)))
        del self.joined

    def _keep(self, joined: Joined) -> None:
        save_arrays(self.folder / _JOINED, {one.name: getattr(joined, one.name) for one in fields(joined)})

    def _lines(self, blocks: list["_Block"]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the pieces (n,) int64 on both sides of each line between blocks, counted over all blocks from 1.

        0 is none. A line across reaches over a whole plane, one down over a row of blocks. `blocks` is filled
        meanwhile.
        """
        count = 0
        for z in range(self.cut.depth):
            above: list[np.ndarray] = []
            for row in range(self.cut.rows):
                here: list[np.ndarray] = []
                below, left_of = [], None
                for column in range(self.cut.columns):
                    place = Place(z, row, column)
                    head = Head.load(self.path(place))
                    top, bottom, left, right = (
                        np.where(edge > 0, edge + np.int64(count), 0)
                        for edge in (head.top, head.bottom, head.left, head.right)
                    )
                    if left_of is not None:
                        yield left_of, left
                    left_of = right
                    here.append(top)
                    below.append(bottom)
                    blocks.append(_Block(self._in_stack(place, head.first), head.value, head.corners.astype(np.int64)))
                    count += len(head.value)
                if row:
                    yield np.concatenate(above), np.concatenate(here)
                above = below

    def _in_stack(self, place: Place, pixel: np.ndarray) -> np.ndarray:
        """Return pixels (n,) of a block, flattened, as pixels int64 of the flattened stack."""
        region, (height, width) = self.cut.region(place), self.cut.shape
        y, x = np.divmod(pixel.astype(np.int64), region.width)
        return (place.z * height + region.y0 + y) * width + region.x0 + x


class _Block(NamedTuple):
    """The pieces of a block: first pixels in the stack, values, and pairs that meet at corners."""

    first: np.ndarray
    value: np.ndarray
    corners: np.ndarray


def _changes(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return the different pairs (m, 2) int64, from 0, of pieces that face each other along a line; 0 is none."""
    facing = np.stack([one, other], axis=-1)[(one > 0) & (other > 0)] - 1
    if not len(facing):
        return facing
    return facing[np.append(True, np.any(facing[1:] != facing[:-1], axis=1))]


def _alike(pairs: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the pairs (m, 2) of parts of one value."""
    return pairs[value[pairs[:, 0]] == value[pairs[:, 1]]]


def _chain(value: np.ndarray) -> np.ndarray:
    """Return pairs (m, 2) that join all things of equal values (n,)."""
    order = np.argsort(value, kind="stable")
    same = value[order[1:]] == value[order[:-1]]
    return np.stack([order[:-1][same], order[1:][same]], axis=-1)


def _numbered(
    first: np.ndarray, value: np.ndarray, one: np.ndarray, other: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Join parts by pairs and number the groups by their first pixel.

    Args:
        first, value: (n,) of each part.
        one, other: (m,) pairs of parts of one value.

    Returns:
        The number (n,) uint32 of each part's group, from 1; and first pixel and value of each group.
    """
    count, group = join(len(first), one, other)
    lowest = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(lowest, group, first)
    order = np.argsort(lowest)
    number = np.empty(count, np.uint32)
    number[order] = np.arange(1, count + 1, dtype=np.uint32)
    values = np.empty(count, value.dtype)
    values[group] = value
    return number[group], lowest[order], values[order]


def _with_none(array: np.ndarray) -> np.ndarray:
    return np.concatenate([np.zeros(1, np.uint32), array.astype(np.uint32)])
