"""Areas drawn on an image, as QuPath exports them: which pixels lie in them, and which blocks they touch."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import shapely

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels.annotations import doubts, is_annotation
from tilesegment.labels.files import some_of
from tilesegment.labels.geojson import Feature, read_features
from tilesegment.labels.outlines import Outlines
from tilesegment.stores import Location, place_of

_FEWEST = 3  # vertices of an area
_FILLED = 0.5  # of both sides of a smaller level: areas that reach so far in it may have been drawn on it
Runs = tuple[np.ndarray, np.ndarray, np.ndarray]  # row, first and end column of each, int64 (n,)


@dataclass(frozen=True, eq=False)
class Areas:
    """What lies in one of several areas, and in none that is left out.

    Attributes:
        drawn: the areas, in pixels of a level.
        left_out: those of QuPath's class `Ignore*`.
        notes: for the user, one sentence each.
    """

    drawn: Outlines
    left_out: Outlines
    notes: tuple[str, ...] = ()

    @property
    def by_plane(self) -> bool:
        """Whether areas lie in different planes, each in its own; if not, they count in all planes."""
        return len({*self.drawn.planes.tolist()}) > 1

    def at(self, scale: tuple[float, float]) -> "Areas":
        """Return them in pixels of a level, of which one spans `scale` (y, x) of those here."""
        return replace(self, drawn=self.drawn.within((0, 0), scale, 0), left_out=self.left_out.within((0, 0), scale, 0))

    def in_all_planes(self) -> "Areas":
        """Return them in plane 0 alone, which stands for all planes of a stack."""
        return replace(self, drawn=_flat(self.drawn), left_out=_flat(self.left_out))

    def runs(self, region: Region, z: int = 0) -> Runs:
        """Return the runs of pixels in the areas, in rows and columns of `region`: sorted, apart from each other.

        A pixel lies in an area if its centre does; see `Outlines.rasterise`.
        """
        stride, events = region.width + 1, []  # the column more keeps the runs of neighbouring rows apart
        for outlines, entering in ((self.drawn, (1, 0)), (self.left_out, (0, 1))):
            rows, left, right = outlines.runs(region, z)
            for columns, sign in ((left, 1), (right, -1)):
                events.append((rows * stride + columns, np.tile(np.multiply(entering, sign), (len(rows), 1))))
        places = np.concatenate([one for one, _ in events])
        order = np.argsort(places, kind="stable")
        places, depth = places[order], np.concatenate([one for _, one in events])[order].cumsum(0)
        last = np.flatnonzero(np.diff(places, append=-1))  # all that happens at a place has happened
        is_in = (depth[last, 0] > 0) & (depth[last, 1] == 0)
        ends = places[last][np.diff(is_in, prepend=False)]
        rows, starts = np.divmod(ends[::2], stride)
        return rows, starts, ends[1::2] - rows * stride

    def inside(self, region: Region, z: int = 0) -> np.ndarray:
        """Return which pixels of `region` lie in the areas, bool (h, w)."""
        rows, starts, stops = self.runs(region, z)
        changes = np.zeros((region.height, region.width + 1), np.int8)
        changes[rows, starts], changes[rows, stops] = 1, -1
        return changes.cumsum(1, dtype=np.int8)[:, :-1].view(bool)

    def touches(self, boxes: np.ndarray, z: int = 0) -> np.ndarray:
        """Return which boxes (n, 4), y0, x0, y1, x1, share more than an edge with an area of plane `z`, bool (n,)."""
        y0, x0, y1, x1 = boxes.T
        squares = shapely.box(x0, y0, x1, y1)
        tree, found = shapely.STRtree(squares), np.zeros(len(boxes), bool)
        left_out = shapely.union_all(_shapes(self.left_out, z))
        for area in _shapes(self.drawn, z):
            rest = area if left_out.is_empty else shapely.difference(area, left_out)
            shapely.prepare(rest)
            near = tree.query(rest)
            near = near[~found[near]]
            within = shapely.contains_properly(rest, squares[near])
            found[near[within]] = True
            near = near[~within]
            found[near] = shapely.relate_pattern(rest, squares[near], "T********")
        return found


def read_areas(path: str | Path, shapes: Sequence[tuple[int, int]], planes: int = 1, image: str = "") -> Areas:
    """Read the areas of a GeoJSON file: its annotations, or all of its areas if there are no annotations.

    Areas that all lie in one plane of a stack count in every plane: they are in plane 0 here, and so are the areas of
    other images.

    Args:
        path: of the file; coordinates are pixels of level 0.
        shapes: (height, width) of the levels of the image.
        planes: of the image.
        image: its name, for a note if the file names another.

    Raises:
        DataError: it cannot be read, is a URL or no GeoJSON, holds no area, or most of its areas lie outside the image.
    """
    file = place_of(path)
    if isinstance(file, Location):
        raise DataError(f"{file} is a URL, and areas are read from a disk: download it")
    features = list(read_features(file))
    given = [one for one in features if one.polygons]
    annotations = [one for one in given if not one.is_object]
    areas = [one for one in annotations or given if not one.is_void]
    if not any(len(ring) >= _FEWEST for one in areas for polygon in one.polygons for ring in polygon[:1]):
        raise DataError(f"{path} holds no area: export annotations that are polygons, rectangles or ellipses")
    drawn, left_out = (
        Outlines.of([replace(one, object_type="annotation") for one in some], file.name)
        for some in (areas, [one for one in annotations if one.is_void])
    )
    notes = [*_left(features, annotations, file.name), *doubts(drawn, shapes[0], file.name)]
    notes += _doubts_of_scale(drawn, shapes, file.name)
    others = {one.image for one in areas if one.image} - {image}
    if image and others:
        notes.append(f"{file.name} was made of {some_of(sorted(others))}, not of {image}: its areas may lie elsewhere")
    found = Areas(drawn, left_out, tuple(notes))
    used = sorted({*drawn.planes.tolist()})
    if used[0] < 0 or used[-1] >= planes:
        raise DataError(f"{path} has areas in plane {used[-1]}; the image has the planes 0 to {planes - 1}")
    return found if len(used) > 1 else found.in_all_planes()


def is_areas(path: str | Path) -> bool:
    """Whether a file may hold areas by its name."""
    return is_annotation(Path(path))


def _left(features: list[Feature], annotations: list[Feature], name: str) -> list[str]:
    """Say which features are no areas of interest, and which are left out of them."""
    notes = []
    if kinds := Counter(one.geometry for one in features if not one.polygons):
        told = some_of([f"{count} of geometry {kind}" for kind, count in sorted(kinds.items())])
        notes.append(f"{name}: features that are no area are left out: {told}")
    objects = sum(1 for one in features if one.polygons and one.is_object)
    if objects and annotations:
        notes.append(f"{name}: annotations are read as areas; left out: {objects} detections and cells")
    elif objects:
        notes.append(f"{name}: there are no annotations: {objects} detections and cells are read as areas")
    if ignored := sum(1 for one in annotations if one.is_void):
        notes.append(f"{name}: {ignored} areas of class Ignore* are left out of the others")
    return notes


def _doubts_of_scale(drawn: Outlines, shapes: Sequence[tuple[int, int]], name: str) -> list[str]:
    """Say if the areas fit a smaller level, as if they had been drawn on it."""
    height, width = drawn.extent
    for number, (rows, columns) in reversed([*enumerate(shapes)][1:]):
        if _FILLED * rows <= height <= rows and _FILLED * columns <= width <= columns:
            return [
                f"{name}: all areas lie in the first {height} x {width} pixels (y, x) of level 0, as if they had been "
                f"drawn on level {number}, {rows} x {columns}; coordinates have to be pixels of level 0"
            ]
    return []


def _flat(outlines: Outlines) -> Outlines:
    return replace(outlines, planes=np.zeros_like(outlines.planes))


def _shapes(outlines: Outlines, z: int) -> np.ndarray:
    """Return the polygons of a plane as valid shapely geometries (x, y); rings follow the even-odd rule."""
    starts, found = outlines.ring_starts, []
    first = np.searchsorted(starts, outlines.polygon_starts)
    planes = outlines.planes[outlines.ids.astype(np.int64) - 1]
    for number in np.flatnonzero(planes == z):
        rings = [outlines.vertices[starts[n] : starts[n + 1], ::-1] for n in range(first[number], first[number + 1])]
        rings = [ring for ring in rings if len(ring) >= _FEWEST]
        if rings:
            found.append(shapely.make_valid(shapely.Polygon(rings[0], rings[1:])))
    return np.array(found, object)
