"""Places of an image to look at: ranked rectangles, written for QuPath and as a table, and read back."""

import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from tilesegment.errors import DataError, MaskError
from tilesegment.files import write_atomically
from tilesegment.geometry import Region
from tilesegment.labels.geojson import SUFFIXES, is_geojson

ENDINGS = (".geojson", ".csv")
_COLUMNS = ("rank", "score", "y", "x", "height", "width", "plane", "class", "other_class")
_LARGEST = 64 << 20  # bytes of a file of places: some hundred thousand of them


@dataclass(frozen=True)
class Place:
    """A rectangle of an image in which a model is unsure.

    Attributes:
        rank: from 1, the most uncertain first.
        score: mean uncertainty of its pixels, 0 to 1; None where a file does not say it.
        region: in pixels of level 0.
        plane: of a stack; None of an image without a z axis.
        classes: names of the two classes between which the model is unsure; empty where a file does not say them.
    """

    rank: int
    score: float | None
    region: Region
    plane: int | None = None
    classes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What a list shows."""
        return f"{self.rank}: {' / '.join(self.classes)}" if self.classes else f"{self.rank}"

    def as_json(self) -> dict[str, Any]:
        """Return it as plain data, (y, x) in pixels of level 0."""
        region = self.region
        size = {"y": region.y0, "x": region.x0, "height": region.height, "width": region.width}
        return {"rank": self.rank, "name": self.name, "score": self.score, **size, "plane": self.plane} | {
            "classes": list(self.classes)
        }


def check_places(paths: Sequence[str | Path], *, overwrite: bool = False) -> None:
    """Check that places can be written to `paths`, before the work.

    Raises:
        MaskError: a name ends in neither .geojson nor .csv, a folder is missing or read-only, or a file exists.
    """
    for path in map(Path, paths):
        if not path.name.lower().endswith(ENDINGS):
            raise MaskError(f"cannot tell from the name {path} what to write; allowed are NAME.geojson and NAME.csv")
        folder = path.absolute().parent
        if not folder.is_dir():
            raise MaskError(f"cannot write {path}: there is no folder {folder}; create it first")
        if path.is_dir() or path.is_symlink():
            raise MaskError(f"{path} is a folder or a link and is not replaced; name another file")
        if path.exists() and not overwrite:
            raise MaskError(f"{path} exists; name another file, or use --overwrite to replace it")
        if not os.access(folder, os.W_OK | os.X_OK, effective_ids=True):
            raise MaskError(f"cannot write {path}: its folder cannot be written to; name another")


def write_places(path: str | Path, places: Sequence[Place], measure: str, *, overwrite: bool = False) -> None:
    """Write places as GeoJSON that QuPath opens, annotations without a class, or as a table, by the ending of `path`.

    Raises:
        MaskError: as `check_places`, or the file cannot be written.
    """
    check_places([path], overwrite=overwrite)
    text = _table(places) if str(path).lower().endswith(".csv") else _geojson(places, measure)
    try:
        write_atomically(Path(path).absolute(), text.encode())
    except OSError as error:
        raise MaskError(f"cannot write {path}: {error.strerror}; check space and permissions") from error


def _table(places: Sequence[Place]) -> str:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    for one in places:
        region = one.region
        where = (region.y0, region.x0, region.height, region.width, "" if one.plane is None else one.plane)
        writer.writerow((one.rank, f"{one.score:.6f}", *where, *one.classes))
    return text.getvalue()


def _geojson(places: Sequence[Place], measure: str) -> str:
    lines = ",\n".join(json.dumps(_feature(one, measure), separators=(",", ":")) for one in places)
    return f'{{"type":"FeatureCollection","features":[\n{lines}\n]}}\n'


def _feature(place: Place, measure: str) -> dict[str, Any]:
    region, z = place.region, place.plane
    corners = ((region.y0, region.x0), (region.y0, region.x1), (region.y1, region.x1), (region.y1, region.x0))
    ring = [[x, y] for y, x in (*corners, corners[0])]
    plane = {} if z is None else {"plane": {"c": -1, "z": z, "t": 0}}
    assert place.score is not None
    return {
        "type": "Feature",
        "id": str(uuid5(NAMESPACE_URL, f"tilesegment:place:{measure}:{region}:{z}")),
        "geometry": {"type": "Polygon", "coordinates": [ring], **plane},
        "properties": {
            "objectType": "annotation",
            "name": place.name,
            "measurements": {"rank": place.rank, "score": round(place.score, 6)},
            "metadata": {"measure": measure, "class": place.classes[0], "other_class": place.classes[1]},
        },
    }


def read_places(path: str | Path) -> tuple[Place, ...]:
    """Read places from GeoJSON, plain: what `write_places` wrote, or any areas, of which the bounding boxes are taken.

    Raises:
        DataError: the file cannot be read, is too large or no GeoJSON, or holds no area.
    """
    path = Path(path)
    if not is_geojson(path) or path.name.lower().endswith(SUFFIXES[1]):
        raise DataError(f"{path} is no list of places by its name; name a .geojson that tileseg suggest wrote")
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"{path} has more than {_LARGEST >> 20} MiB, too many places to step through")
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        places = tuple(_placed(document["features"]))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); check the path and its permissions") from error
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise DataError(
            f"{path} holds no places ({error!r:.80}); name a .geojson that tileseg suggest wrote"
        ) from error
    if not places:
        raise DataError(f"{path} holds no area; name a .geojson that tileseg suggest wrote")
    return tuple(sorted(places, key=lambda one: one.rank))


def _placed(features: list[dict[str, Any]]) -> Iterator[Place]:
    """Yield the places among features; those without a rank come in their order."""
    for number, feature in enumerate(features, 1):
        geometry, properties = feature["geometry"] or {}, feature.get("properties") or {}
        if geometry.get("type") not in ("Polygon", "MultiPolygon"):
            continue
        polygons = [geometry["coordinates"]] if geometry["type"] == "Polygon" else geometry["coordinates"]
        points = [point for polygon in polygons for ring in polygon for point in ring]
        xs, ys = [round(float(point[0])) for point in points], [round(float(point[1])) for point in points]
        known, said = properties.get("measurements") or {}, properties.get("metadata") or {}
        score, plane = known.get("score"), (geometry.get("plane") or {}).get("z")
        yield Place(
            rank=int(known.get("rank", number)),
            score=None if score is None else float(score),
            region=Region(min(ys), min(xs), max(max(ys), min(ys) + 1), max(max(xs), min(xs) + 1)),
            plane=None if plane is None else int(plane),
            classes=tuple(str(said[name]) for name in ("class", "other_class") if name in said),
        )
