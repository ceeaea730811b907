"""Outlines of objects: pieces grouped to polygons, taken in rows, simplified, handed to shapely."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import shapely

from tilesegment.objects.outlines import Rings, twice_areas


@dataclass(frozen=True)
class Polygons:
    """The outlines of objects, one row per object: each has polygons, each polygon a shell and holes.

    Three levels of offsets, which all begin with 0: row i has the polygons objects[i] .. objects[i + 1] - 1, polygon p
    the rings polygons[p] .. polygons[p + 1] - 1, ring r the vertices rings[r] .. rings[r + 1] - 1.

    Attributes:
        ids: (n,) uint32, id of the object of each row.
        objects: (n + 1,) int64, offsets into polygons.
        polygons: (polygons + 1,) int64, offsets into rings; the first ring of a polygon is its shell.
        rings: (rings + 1,) int64, offsets into vertices.
        vertices: (vertices, 2) int32, grid points (y, x) of the mask; rings are not closed, shells are
            counter-clockwise with y up, holes clockwise.
    """

    ids: np.ndarray
    objects: np.ndarray
    polygons: np.ndarray
    rings: np.ndarray
    vertices: np.ndarray

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, start: int, stop: int) -> Self:
        """The objects of rows start .. stop - 1, without copying vertices."""
        objects = self.objects[start : stop + 1]
        polygons = self.polygons[objects[0] : objects[-1] + 1]
        rings = self.rings[polygons[0] : polygons[-1] + 1]
        vertices = self.vertices[rings[0] : rings[-1]]
        return type(self)(
            self.ids[start:stop], objects - objects[0], polygons - polygons[0], rings - rings[0], vertices
        )

    def take(self, rows: np.ndarray) -> Self:
        """The objects of `rows` (indices), in that order."""
        objects, chosen = _pick(self.objects, rows)
        polygons, chosen = _pick(self.polygons, chosen)
        rings, chosen = _pick(self.rings, chosen)
        return type(self)(self.ids[rows], objects, polygons, rings, self.vertices[chosen])

    @classmethod
    def concatenate(cls, parts: "Sequence[Polygons]") -> Self:
        """Put the rows of several one after the other; at least one is given."""
        return cls(
            np.concatenate([part.ids for part in parts]),
            _joined([part.objects for part in parts]),
            _joined([part.polygons for part in parts]),
            _joined([part.rings for part in parts]),
            np.concatenate([part.vertices for part in parts]),
        )

    def sorted(self) -> Self:
        """Sort the rows by id."""
        return self if (self.ids[1:] >= self.ids[:-1]).all() else self.take(np.argsort(self.ids, kind="stable"))

    def areas(self) -> np.ndarray:
        """Return the area of each object in pixels, (n,) float64, without its holes; whole unless simplified."""
        total = np.concatenate([[0], np.cumsum(twice_areas(self.vertices, self.rings))])
        return np.diff(total[self.polygons[self.objects]]) / 2

    def ends(self) -> np.ndarray:
        """Return how many vertices all objects before each row have, (n + 1,) int64."""
        return self.rings[self.polygons[self.objects]]

    def closed(self) -> tuple[np.ndarray, np.ndarray]:
        """Return indices of the vertices of closed rings, whose first is repeated as last, and the rings' offsets."""
        counts = np.diff(self.rings)
        offsets = self.rings + np.arange(len(self.rings))
        indices = np.arange(offsets[-1]) - np.repeat(np.arange(len(counts)), counts + 1)
        indices[offsets[1:] - 1] = self.rings[:-1]
        return indices, offsets

    def shapes(self, offset: tuple[float, float] = (0, 0), scale: tuple[float, float] = (1, 1)) -> np.ndarray:
        """Return shapely polygons and multipolygons (x, y), (n,) object.

        Args:
            offset, scale: (y, x); a vertex becomes `offset + scale * vertex`.
        """
        indices, rings = self.closed()
        placed = self.vertices[indices] * np.asarray(scale, float) + np.asarray(offset, float)
        offsets = (rings, self.polygons, self.objects)
        shapes = shapely.from_ragged_array(
            shapely.GeometryType.MULTIPOLYGON, np.ascontiguousarray(placed[:, ::-1]), offsets
        )
        is_single = np.diff(self.objects) == 1
        shapes[is_single] = shapely.get_geometry(shapes[is_single], 0)
        return shapes


def polygons_of(rings: Rings, object_of: np.ndarray) -> Polygons:
    """Group the rings of pieces to objects, sorted by id, the pieces of an object by their first corner.

    Args:
        rings: of complete pieces, as `trace` gives them.
        object_of: id of the object of each piece, indexed by its number; pieces of object 0 are left out.
    """
    shells = np.flatnonzero(~rings.is_hole)
    ids = object_of[rings.piece[shells]].astype(np.uint32)
    corner = rings.vertices[rings.offsets[shells]]
    order = np.lexsort((corner[:, 1], corner[:, 0], ids))
    order = order[np.searchsorted(ids[order], 1) :]
    heads = np.flatnonzero(np.diff(ids[order], prepend=np.uint32(0)))
    polygons, chosen = _pick(np.append(shells, len(rings)), order)
    offsets, chosen = _pick(rings.offsets, chosen)
    return Polygons(
        ids[order][heads], np.append(heads, len(order)).astype(np.int64), polygons, offsets, rings.vertices[chosen]
    )


def simplify(polygons: Polygons, tolerance: float) -> Polygons:
    """Leave out vertices whose absence moves the outline by at most `tolerance` pixels (Douglas and Peucker's way).

    An object that would vanish, fall apart or become invalid keeps its exact outline. Neighbours are simplified each
    by themselves: they may overlap or part by up to `tolerance`.
    """
    if len(polygons) == 0 or tolerance <= 0:
        return polygons
    exact = polygons.shapes()
    simple = shapely.simplify(exact, tolerance, preserve_topology=True)
    return _from_shapes(polygons.ids, shapely.orient_polygons(np.where(is_intact(simple, exact), simple, exact)))


def is_intact(simple: np.ndarray, exact: np.ndarray) -> np.ndarray:
    """Return for each shape whether it is valid, has an area, and has as many parts as the exact one."""
    has_all = shapely.get_num_geometries(simple) == shapely.get_num_geometries(exact)
    return shapely.is_valid(simple) & (shapely.area(simple) > 0) & has_all


def _from_shapes(ids: np.ndarray, shapes: np.ndarray) -> Polygons:
    """Build them from shapely polygons and multipolygons (x, y) with whole coordinates, shells counter-clockwise."""
    parts, owner = shapely.get_parts(shapes, return_index=True)
    _, points, (rings, polygons) = _ragged(parts)
    # shapely repeats the first vertex
    keeps = np.ones(len(points), bool)
    keeps[rings[1:] - 1] = False
    vertices = np.rint(points[keeps, ::-1]).astype(np.int32)
    objects = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=len(shapes)))])
    return Polygons(ids, objects, polygons, rings - np.arange(len(rings)), vertices)


def _ragged(parts: np.ndarray) -> tuple[Any, np.ndarray, tuple[np.ndarray, np.ndarray]]:
    kind, points, offsets = shapely.to_ragged_array(parts, include_z=False)
    rings, polygons = (np.asarray(column, np.int64) for column in offsets)
    return kind, points, (rings, polygons)


def _pick(offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the offsets of `rows` when they lie one after the other, and the indices of what is in them."""
    counts = np.diff(offsets)[rows]
    picked = np.concatenate([[0], np.cumsum(counts)])
    return picked, np.arange(picked[-1]) + np.repeat(offsets[rows] - picked[:-1], counts)


def _joined(offsets: Sequence[np.ndarray]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(np.concatenate([np.diff(part) for part in offsets]))])
