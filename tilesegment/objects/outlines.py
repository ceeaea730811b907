"""Outlines along pixel edges, found block by block and joined exactly.

The invariant: whatever the blocks and their order, the rings equal those of the whole image, vertex for vertex.
A block contributes only the corners of outlines on its own grid points, and which of the four pixels around a point
belong to a piece does not depend on the block. Edges are not stored: between two neighbouring corners of a piece on a
grid line, the first and second, the third and fourth ..., there is an edge.

A piece is a 4-connected component of one object: it has one shell and any number of holes. Where two of its pixels
touch only by a corner, its outline turns there twice, so that it never visits a point twice: rings are simple, and may
touch each other in single points, as valid polygons may.

Grid points are (y, x), pixel (0, 0) covers 0..1. With x to the right and y up, as RFC 7946 looks at coordinates,
shells are counter-clockwise and holes clockwise; on a screen, where y points down, it is the other way round.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from functools import reduce
from itertools import combinations
from typing import Any, Self

import numpy as np

from tilesegment.geometry import Region

# bits of `kind`: which of the four pixels around a grid point belong to the piece
_NW, _NE, _SW, _SE = 1, 2, 4, 8
_FALLING, _RISING = _NW | _SE, _NE | _SW  # two pixels that touch by a corner
_IS_CORNER = np.zeros(16, bool)
_IS_CORNER[[1, 2, 4, 8, 7, 11, 13, 14, _FALLING, _RISING]] = True
_KIND_BITS = 4


@dataclass(frozen=True)
class Corners:
    """Corners of the outlines of pieces: four arrays of one length, in no particular order.

    Attributes:
        piece: (n,) uint32, number of the piece, at least 1.
        y, x: (n,) int32, the grid point.
        kind: (n,) uint8, which pixels around it belong to the piece: the sum of 1 (above left), 2 (above right),
            4 (below left) and 8 (below right). Two on a diagonal stand for two corners.
    """

    piece: np.ndarray
    y: np.ndarray
    x: np.ndarray
    kind: np.ndarray

    def __len__(self) -> int:
        return len(self.piece)

    def __getitem__(self, chosen: np.ndarray | slice) -> Self:
        """The corners that an index, a mask or a slice names."""
        return type(self)(*(array[chosen] for array in self.to_arrays().values()))

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, as `numpy.savez` takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        """Build them from what `to_arrays` returns."""
        return cls(*(arrays[field.name] for field in fields(cls)))

    @classmethod
    def concatenate(cls, parts: "Iterable[Corners]") -> Self:
        """Join the corners of blocks."""
        empty = cls(*(np.empty(0, dtype) for dtype in (np.uint32, np.int32, np.int32, np.uint8)))
        all_parts: list[Corners] = [empty, *parts]
        arrays = [tuple(part.to_arrays().values()) for part in all_parts]
        return cls(*(np.concatenate(column) for column in zip(*arrays, strict=True)))

    def renumbered(self, numbers: np.ndarray) -> Self:
        """Return the corners with `numbers[piece]` for each piece, leaving out those that become 0."""
        piece = numbers[self.piece].astype(np.uint32, copy=False)
        renumbered = type(self)(piece, self.y, self.x, self.kind)
        return renumbered if piece.all() else renumbered[piece > 0]


def corners_of_block(pieces: np.ndarray, region: Region, shape: tuple[int, int]) -> Corners:
    """Find the corners of outlines on the grid points of a block.

    Those with y0 <= y < y1 and x0 <= x < x1 are the block's; those on the bottom and right edges of the image
    belong to the last blocks.

    Args:
        pieces: (h + 2, w + 2) uint32, numbers of pieces in the block with a margin of one pixel; 0 is background,
            and all that lies outside the image.
        region: the block, without the margin.
        shape: (height, width) of the image.
    """
    assert pieces.shape == (region.height + 2, region.width + 2), f"{pieces.shape} for {region}"
    rows, columns = region.height + (region.y1 == shape[0]), region.width + (region.x1 == shape[1])
    pixels = pieces[: rows + 1, : columns + 1]
    # an outline turns where it crosses a vertical and a horizontal line of the grid: few points
    across, down = pixels[:, 1:] != pixels[:, :-1], pixels[1:] != pixels[:-1]
    points = np.flatnonzero((across[1:] | across[:-1]) & (down[:, 1:] | down[:, :-1]))
    y, x = np.divmod(points, columns)
    flat, width = np.ascontiguousarray(pieces).ravel(), pieces.shape[1]
    corners = _corners_at([flat[y * width + x + shift] for shift in (0, 1, width, width + 1)])
    which, piece, kind = (np.concatenate(column) for column in zip(*corners, strict=True))
    y, x = (y + region.y0).astype(np.int32), (x + region.x0).astype(np.int32)
    return Corners(piece.astype(np.uint32, copy=False), y[which], x[which], kind)


def _corners_at(around: list[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield (index of the point, piece, kind) of the corners at grid points with these four pixels around them."""
    bits: list[list[Any]] = [[np.uint8(1 << place)] * 4 for place in range(4)]
    for place, other in combinations(range(4), 2):
        is_same = (around[place] == around[other]).view(np.uint8)
        bits[place][other], bits[other][place] = is_same << other, is_same << place
    for place, piece in enumerate(around):
        kind = reduce(np.bitwise_or, bits[place])
        # each piece once: for the first of its pixels
        is_first = kind & np.uint8((1 << place) - 1) == 0
        which = np.flatnonzero(_IS_CORNER[kind] & is_first & (piece > 0))
        yield which, piece[which], kind[which]


@dataclass(frozen=True)
class Rings:
    """Closed outlines in canonical order: by piece, its shell first, then its holes by their first vertex.

    Attributes:
        offsets: (rings + 1,) int64; ring r is `vertices[offsets[r] : offsets[r + 1]]`.
        vertices: (n, 2) int32, grid points (y, x) in the order of the outline; each ring begins at its smallest
            (y, x), which is not repeated at its end. No three in a row lie on a line.
        piece: (rings,) uint32.
        is_hole: (rings,) bool.
    """

    offsets: np.ndarray
    vertices: np.ndarray
    piece: np.ndarray
    is_hole: np.ndarray

    def __len__(self) -> int:
        return len(self.piece)

    def areas(self) -> np.ndarray:
        """Return the pixels inside each ring, (rings,) int64, negative for holes."""
        return twice_areas(self.vertices, self.offsets) // 2


def twice_areas(vertices: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Return twice the area in each ring, (rings,) int64: positive if it is counter-clockwise with y up (shoelace)."""
    if len(offsets) == 1:
        return np.zeros(0, np.int64)
    y, x = vertices.T.astype(np.int64)
    after = np.arange(1, len(vertices) + 1)
    after[offsets[1:] - 1] = offsets[:-1]
    # relative to the first vertex of the ring the products stay small
    counts = np.diff(offsets)
    y -= np.repeat(y[offsets[:-1]], counts)
    x -= np.repeat(x[offsets[:-1]], counts)
    return np.add.reduceat(x * y[after] - x[after] * y, offsets[:-1])


def trace(corners: Corners) -> Rings:
    """Join the corners of complete pieces into rings.

    Args:
        corners: all corners of each piece that occurs, from any blocks, in any order. Time and memory grow with
            their number; several calls, with some of the pieces each, give the same rings.
    """
    if len(corners) == 0:
        empty = np.zeros((0, 2), np.int32)
        return Rings(np.zeros(1, np.int64), empty, np.empty(0, np.uint32), np.empty(0, bool))
    piece, y, x, kind, second = _along_rows(corners)
    count = len(piece)
    assert count % 2 == 0 and np.array_equal(piece[::2], piece[1::2]), "corners of a piece are missing"
    # horizontal edges join nodes 2k and 2k + 1; the piece lies left of an edge with y up: right on its top side
    rightwards = kind[::2] & _SE > 0
    start = np.arange(0, count, 2) + ~rightwards
    end = start ^ 1
    step = (_vertical_partners(piece, y, x, kind, second)[end] >> 1).astype(np.intp)
    ring, position, lengths, first = _order_in_rings(step, piece[::2])
    # a shell begins at the start of its first edge, a hole at the end of it
    offsets = np.concatenate([[0], np.cumsum(2 * lengths)])
    is_hole = ~rightwards[first]
    place = 2 * position - is_hole[ring]
    place = np.where(place < 0, 2 * lengths[ring] - 1, place) + offsets[ring]
    vertices = np.empty((count, 2), np.int32)
    turned = np.where(is_hole[ring], offsets[ring] + 2 * position, place + 1)
    for node, slot in ((start, place), (end, turned)):
        vertices[slot, 0], vertices[slot, 1] = y[node], x[node]
    return Rings(offsets, vertices, piece[2 * first], is_hole)


def _along_rows(corners: Corners) -> tuple[np.ndarray, ...]:
    """Return piece, y, x, kind and `second` of the nodes of rings, sorted by piece, y, x.

    A node has one horizontal and one vertical edge. Two pixels on a diagonal have two nodes: the first has the edge
    to the left, the second (`second`) the one to the right.
    """
    twice = np.flatnonzero((corners.kind == _FALLING) | (corners.kind == _RISING))
    low = [int(column.min()) for column in (corners.piece, corners.y, corners.x)]
    high = [int(column.max()) for column in (corners.piece, corners.y, corners.x)]
    bits = [(top - bottom).bit_length() for top, bottom in zip(high, low, strict=True)]
    if sum(bits) + 1 + _KIND_BITS > 64:  # rare: huge numbers of pieces in a huge image
        nodes = [np.concatenate([column, column[twice]]) for column in corners.to_arrays().values()]
        second = np.arange(len(nodes[0])) >= len(corners)
        order = np.lexsort((second, nodes[2], nodes[1], nodes[0]))
        return (*(column[order] for column in nodes), second[order])
    # all in one number: sorting numbers is several times faster than sorting indices
    key = corners.piece.astype(np.uint64) - np.uint64(low[0])
    for column, least, width in zip((corners.y, corners.x), low[1:], bits[1:], strict=True):
        key = key << np.uint64(width) | (column - least).astype(np.uint64)
    key = key << np.uint64(1 + _KIND_BITS) | corners.kind
    key = np.sort(np.concatenate([key, key[twice] | np.uint64(1 << _KIND_BITS)]))
    kind, second = (key & np.uint64(15)).astype(np.uint8), (key >> np.uint64(_KIND_BITS) & np.uint64(1)).astype(bool)
    key >>= np.uint64(1 + _KIND_BITS)
    x = (key & np.uint64((1 << bits[2]) - 1)).astype(np.int32) + np.int32(low[2])
    key >>= np.uint64(bits[2])
    y = (key & np.uint64((1 << bits[1]) - 1)).astype(np.int32) + np.int32(low[1])
    return (key >> np.uint64(bits[1])).astype(np.uint32) + np.uint32(low[0]), y, x, kind, second


def _vertical_partners(
    piece: np.ndarray, y: np.ndarray, x: np.ndarray, kind: np.ndarray, second: np.ndarray
) -> np.ndarray:
    """Return the node at the other end of each node's vertical edge; nodes are sorted by piece, y, x."""
    # background right above and left below: the second node has the edge upwards, and so comes first in its column
    lower = np.where(kind == _FALLING, ~second, second)
    heads = np.flatnonzero(np.concatenate([[True], piece[1:] != piece[:-1]]))
    counts = np.diff(heads, append=len(piece))
    left, right = np.minimum.reduceat(x, heads), np.maximum.reduceat(x, heads)
    # a number for each column of each piece, which keeps the key short
    widths = (right - left).astype(np.int64) + 1
    bases = np.cumsum(widths) - widths - left
    column = np.repeat(bases, counts) + x
    row = y - np.repeat(y[heads], counts)
    row_bits, index_bits = int(row.max()).bit_length(), len(piece).bit_length()
    if int(widths.sum()).bit_length() + row_bits + 1 + index_bits > 63:
        order = np.lexsort((lower, row, column))
    else:
        key = ((column << row_bits | row) << 1 | lower) << index_bits | np.arange(len(piece))
        order = np.sort(key) & ((1 << index_bits) - 1)
    partner = np.empty(len(piece), np.int64)
    partner[order[::2]], partner[order[1::2]] = order[1::2], order[::2]
    return partner


def _order_in_rings(step: np.ndarray, piece: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Follow edges around their rings, all rings at once.

    Args:
        step: (m,) the next edge of each.
        piece: (m,) of each edge, sorted.

    Returns:
        ring (m,) and position in it (m,) of each edge; number of edges (rings,) and first edge (rings,) of each ring.
        Rings are sorted by their first edge, the smallest.
    """
    edges = np.arange(len(step))
    heads = np.flatnonzero(np.concatenate([[True], piece[1:] != piece[:-1]]))
    counts = np.diff(heads, append=len(piece))
    # pointer jumping: after k rounds each edge knows the smallest of the 2^k that follow it
    first, jump = edges.copy(), step.copy()
    for active in _rounds(np.repeat(counts, counts)):
        first[active] = np.minimum(first[active], first[jump[active]])
        jump[active] = jump[jump[active]]
    firsts = np.flatnonzero(first == edges)
    number = np.zeros(len(step), np.intp)
    number[firsts] = np.arange(len(firsts))
    ring = number[first]
    lengths = np.bincount(ring, minlength=len(firsts))
    # the same with the number of steps to the first edge, where all stop
    jump = step.copy()
    jump[firsts] = firsts
    left = np.ones(len(step), np.intp)
    left[firsts] = 0
    for active in _rounds(lengths[ring]):
        left[active] += left[jump[active]]
        jump[active] = jump[jump[active]]
    position = np.where(left > 0, lengths[ring] - left, 0)
    return ring, position, lengths, firsts


def _rounds(lengths: np.ndarray) -> Iterator[np.ndarray | slice]:
    """Yield who still jumps in each round of pointer jumping: those whose ring may be longer than 2^round."""
    reached, longest = 1, int(lengths.max())
    active: np.ndarray | slice = slice(None)
    while reached < longest:
        yield active
        reached *= 2
        active = np.flatnonzero(lengths > reached)
