"""Outlines of objects, read from GeoJSON and rasterised by region: a label image of any size."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels.files import some_of
from tilesegment.labels.geojson import Feature, read_features
from tilesegment.labels.label import Label, Read


@dataclass(frozen=True, eq=False)
class Outlines:
    """Outlines of n objects, as arrays: an object has polygons, a polygon rings, a ring vertices."""

    vertices: np.ndarray  # (v, 2) float64, (y, x) in pixel corners; rings one after the other, not closed
    ring_starts: np.ndarray  # (r + 1,) int64, of each ring's first vertex, and v
    polygon_starts: np.ndarray  # (p + 1,) int64, of each polygon's first vertex, and v
    ids: np.ndarray  # (p,) uint32, of each polygon's object, from 1 in the order of the file
    planes: np.ndarray  # (n,) int64, of each object, from 0
    notes: tuple[str, ...] = ()  # what was left out, one sentence each
    names: tuple[str | None, ...] = ()  # of each object's class
    is_void: tuple[bool, ...] = ()  # whether each is a region where objects are not labelled

    @classmethod
    def of(cls, features: Iterable[Feature], name: str) -> "Outlines":
        """Collect the objects among features: areas, and where there are detections or cells only these."""
        given = list(features)
        no_areas = Counter(one.geometry for one in given if not one.polygons)
        notes = [f"{name}: {count} features left out, as {kind} is no area" for kind, count in sorted(no_areas.items())]
        areas = [one for one in given if one.polygons]
        objects = [one for one in areas if one.is_object] or areas
        objects.sort(key=lambda one: not one.is_void)  # objects lie on top
        if len(objects) < len(areas):
            left = Counter(one.object_type for one in areas if not one.is_object)
            told = some_of([f"{count} of type {kind}" for kind, count in sorted(left.items())])
            notes.append(f"{name}: only detections and cells are read as objects; left out: {told}")
        rings = [ring for one in objects for polygon in one.polygons for ring in polygon]
        ring_starts = _starts([len(ring) for ring in rings])
        return cls(
            np.concatenate([np.zeros((0, 2)), *rings]),
            ring_starts,
            ring_starts[_starts([len(polygon) for one in objects for polygon in one.polygons])],
            np.repeat(np.arange(1, len(objects) + 1, dtype=np.uint32), [len(one.polygons) for one in objects]),
            np.array([one.plane for one in objects], np.int64),
            tuple(notes),
            tuple(one.name for one in objects),
            tuple(one.is_void for one in objects),
        )

    @property
    def extent(self) -> tuple[int, int]:
        """Height and width of the smallest image that holds all outlines."""
        height, width = np.ceil(self.vertices.max(axis=0, initial=1)).astype(int).tolist()
        return height, width

    def within(self, offset: tuple[float, float], scale: tuple[float, float], first_plane: int) -> "Outlines":
        """Return them in the pixels and planes of a part of the image.

        Args:
            offset: (y, x), corner of the first pixel of the part.
            scale: (y, x) pixels of the image per pixel of the part.
            first_plane: of the image that is plane 0 of the part.
        """
        vertices = (self.vertices - np.asarray(offset)) / np.asarray(scale)
        return replace(self, vertices=vertices, planes=self.planes - first_plane)

    @cached_property
    def _following(self) -> np.ndarray:
        """The vertex after each in its ring, (v,) int64."""
        following = np.arange(1, len(self.vertices) + 1)
        some = np.diff(self.ring_starts) > 0
        following[self.ring_starts[1:][some] - 1] = self.ring_starts[:-1][some]
        return following

    @cached_property
    def _boxes(self) -> np.ndarray:
        """The box of each polygon, (p, 4) float64: y0, x0, y1, x1; of an empty one inverted."""
        boxes = np.tile([np.inf, np.inf, -np.inf, -np.inf], (len(self.ids), 1))
        some = np.diff(self.polygon_starts) > 0
        if some.any():
            starts = self.polygon_starts[:-1][some]
            boxes[some, :2] = np.minimum.reduceat(self.vertices, starts)
            boxes[some, 2:] = np.maximum.reduceat(self.vertices, starts)
        return boxes

    def object_boxes(self) -> np.ndarray:
        """Return the box of each object, (n, 4) float64: y0, x0, y1, x1; of an empty one inverted."""
        boxes = np.tile([np.inf, np.inf, -np.inf, -np.inf], (self.planes.size, 1))
        owner = self.ids.astype(np.int64) - 1
        np.minimum.at(boxes[:, :2], owner, self._boxes[:, :2])
        np.maximum.at(boxes[:, 2:], owner, self._boxes[:, 2:])
        return boxes

    def rasterise(self, region: Region, z: int = 0) -> tuple[np.ndarray, int]:
        """Draw the objects of a plane in a region: a pixel belongs to a polygon if its centre lies in it.

        Of a polygon's rings the even-odd rule decides, so that holes are holes. A centre on an outline belongs to the
        polygon to the right of it or below, so that neighbours share no pixel. Later objects cover earlier ones.

        Returns:
            (h, w) uint32 ids, 0 where no object is; and how many times a pixel was covered again.
        """
        height, width = region.shape
        out = np.zeros(height * width, np.uint32)
        polygons, rows, left, right = self._spans(region, z)
        lengths = right - left
        pixels = _ranges(rows * width + left, lengths)
        out[pixels] = np.repeat(self.ids[polygons], lengths)  # of pixels that occur twice, the last counts
        return out.reshape(height, width), int(pixels.size - np.count_nonzero(out))

    def runs(self, region: Region, z: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the runs of pixels of all polygons of a plane: row, first and end column in `region`, int64 (n,).

        They lie in no particular order, and those of different polygons may overlap.
        """
        return self._spans(region, z)[1:]

    def _spans(self, region: Region, z: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Runs of pixels in polygons, by polygon: its number, row and first and end column in the region, int64."""
        y0, x0, y1, x1 = self._boxes.T
        near = (y0 < region.y1) & (y1 > region.y0) & (x0 < region.x1) & (x1 > region.x0)
        chosen = np.flatnonzero(near & (self.planes[self.ids.astype(np.int64) - 1] == z))
        lengths = np.diff(self.polygon_starts)[chosen]
        vertices, owner = _ranges(self.polygon_starts[chosen], lengths), np.repeat(chosen, lengths)
        a, b = self.vertices[vertices], self.vertices[self._following[vertices]]
        # from above to below, so that polygons that share an edge find the same crossings
        a, b = np.where((a[:, :1] <= b[:, :1]), a, b), np.where((a[:, :1] <= b[:, :1]), b, a)
        # rows whose centre line crosses the edge: a.y <= row + 0.5 < b.y
        first, last = (np.ceil(end[:, 0] - 0.5).clip(region.y0, region.y1).astype(np.int64) for end in (a, b))
        count = last - first
        rows, edges = _ranges(first, count), np.repeat(np.arange(len(a)), count)
        (ya, xa), (yb, xb) = a[edges].T, b[edges].T
        crossings = xa + (rows + 0.5 - ya) * (xb - xa) / (yb - ya)
        order = np.lexsort((crossings, rows, owner[edges]))
        columns = np.ceil(crossings[order] - 0.5).clip(region.x0, region.x1).astype(np.int64) - region.x0
        begin, end = columns[::2], columns[1::2]
        some = end > begin
        owners, lines = owner[edges][order][::2], rows[order][::2] - region.y0
        return owners[some], lines[some], begin[some], end[some]


@dataclass(frozen=True)
class OutlineLabel(Label):
    """Outlines as a label image of ids, from 1 in the order of the file."""

    count: int = 0  # objects in the file
    names_of_objects: tuple[str | None, ...] = ()  # of each object's class, in the order of the ids
    void_objects: tuple[bool, ...] = ()  # whether each is a region where objects are not labelled
    regions: Read | None = None  # outside of which nothing is labelled: 0 there
    covered: Counter[int] = field(default_factory=Counter)  # pixels that were covered again, by plane, of all reads


def read_outlines(path: Path) -> Outlines:
    """Read the objects of a GeoJSON file.

    Raises:
        DataError: it cannot be read, is no GeoJSON, or holds no areas.
    """
    return Outlines.of(read_features(path), str(path))


def label_of(outlines: Outlines, shape: tuple[int, int], planes: int, name: str) -> OutlineLabel:
    """Treat outlines as a label image of `planes` planes of `shape` (H, W); `name` is for messages.

    Raises:
        DataError: an object lies on another plane.
    """
    last = int(outlines.planes.max(initial=0))
    if last >= planes or outlines.planes.min(initial=0) < 0:
        raise DataError(f"{name} has objects in plane {last}; the image has the planes 0 to {planes - 1}")
    covered: Counter[int] = Counter()

    def read(region: Region, z: int) -> np.ndarray:
        ids, again = outlines.rasterise(region, z)
        covered[z] += again
        return ids

    count = outlines.planes.size
    return OutlineLabel(
        shape,
        planes,
        "grey",
        read,
        notes=outlines.notes,
        count=count,
        names_of_objects=outlines.names,
        void_objects=outlines.is_void,
        covered=covered,
    )


def _starts(lengths: Sequence[int] | np.ndarray) -> np.ndarray:
    """First position of each of several runs that follow each other, and the end of the last."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _ranges(first: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Concatenate the ranges `first[n]` to `first[n] + lengths[n]`, int64."""
    offsets = np.repeat(first - _starts(lengths)[:-1], lengths)
    return offsets + np.arange(offsets.size)
