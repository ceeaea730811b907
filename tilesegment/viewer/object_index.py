"""Where each object of a file lies, on the image and in the file: found in one pass, kept as arrays, 40 bytes each.

Outlines and measurements stay in the file and are read from it, object by object, as they are looked at. What is
compressed, or no text, is written once to a temporary file as GeoJSON, and read from there.
"""

import csv
import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from shutil import copyfileobj
from typing import Any, BinaryIO, TextIO

import numpy as np

from tilesegment.errors import DataError, MaskError, one_line
from tilesegment.labels.geojson import FeatureReader
from tilesegment.metadata import default_colours
from tilesegment.objects.features import table_features

SUFFIXES = (".geojson", ".geojson.gz", ".csv", ".parquet")
LARGE = 16 << 20  # bytes from which a file is read in a process of its own, so that tiles are drawn meanwhile
_BOM = b"\xef\xbb\xbf"
_BATCH = 1 << 16  # objects
_DAMAGES = (TypeError, ValueError, AttributeError, LookupError, OverflowError, RecursionError)
_EVERY = -1  # plane of an object that lies on all


@dataclass(frozen=True)
class ObjectIndex:
    """The objects of a file.

    Attributes:
        boxes: (4, n) int32, y0, x0, y1, x1 in whole pixels of level 0, half-open.
        spans: (2, n) int64, first byte of each in the text, and the one after its last.
        classes: (n,) int16, their place in `names`; -1 without a class.
        planes: (n,) int32, plane of a stack; -1 if it lies on all.
        names: of classes, each with its colour, `#rrggbb`.
        columns: of a table; none of GeoJSON.
    """

    boxes: np.ndarray
    spans: np.ndarray
    classes: np.ndarray
    planes: np.ndarray
    names: tuple[tuple[str, str], ...]
    columns: tuple[str, ...] = ()

    def __len__(self) -> int:
        return self.boxes.shape[1]


class _Rows:
    """Rows of an index, gathered one by one."""

    def __init__(self) -> None:
        self._parts: list[np.ndarray] = []
        self._rows: list[tuple[int, ...]] = []
        self._names: dict[str, int] = {}
        self._colours: dict[str, str] = {}

    def add(self, box: Sequence[float], span: tuple[int, int], name: str | None, colour: str | None, z: int) -> None:
        """Add an object with its box y0, x0, y1, x1; one with an infinite side raises an OverflowError."""
        number = -1
        if name is not None:
            number = self._names.setdefault(name, len(self._names))
            if colour is not None:
                self._colours.setdefault(name, colour)
        y0, x0, y1, x1 = box
        self._rows.append((math.floor(y0), math.floor(x0), math.ceil(y1), math.ceil(x1), *span, number, z))
        if len(self._rows) >= _BATCH:
            self._pack()

    def _pack(self) -> None:
        self._parts.append(np.array(self._rows, np.int64).reshape(-1, 8))
        self._rows = []

    def index(self, columns: Sequence[str] = ()) -> ObjectIndex:
        """Return the index."""
        self._pack()
        rows = np.concatenate(self._parts).T
        usual = default_colours(len(self._names) + 1)[1:]
        names = tuple((name, self._colours.get(name, usual[n])) for name, n in self._names.items())
        limit = np.iinfo(np.int32)
        boxes = rows[:4].clip(limit.min, limit.max).astype(np.int32)
        classes = rows[6].clip(-1, np.iinfo(np.int16).max).astype(np.int16)
        return ObjectIndex(boxes, rows[4:6].copy(), classes, rows[7].astype(np.int32), names, tuple(columns))


def index_of(path: Path, text: Path) -> ObjectIndex:
    """Index a file of objects, in a process of its own if it is large.

    Args:
        path: one of `SUFFIXES`.
        text: what its objects are read from later: the same file, or an empty one that is written.

    Raises:
        MaskError: it cannot be read, or is damaged.
    """
    try:
        if path.stat().st_size < LARGE:
            return _indexed(path, text)
    except OSError as error:
        raise MaskError(f"{path} cannot be read ({error.strerror})") from error
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(_indexed, path, text).result()


def is_text(path: Path) -> bool:
    """Whether the objects of a file can be read from it as it is."""
    return path.name.lower().endswith((".geojson", ".csv"))


def _indexed(path: Path, text: Path) -> ObjectIndex:
    """See `index_of`."""
    name = path.name.lower()
    try:
        if name.endswith(".csv"):
            with path.open("rb") as file:
                return _table(file, path)
        if name.endswith(".parquet"):
            with text.open("wb") as made:
                return _rewritten(table_features(path), made, path)
        if name.endswith(".gz"):
            with gzip.open(path) as packed, text.open("wb") as plain:
                copyfileobj(packed, plain, 1 << 20)
        return _geojson(text, path)
    except DataError as error:
        raise MaskError(error) from error
    except (OSError, EOFError, zlib.error) as error:
        raise MaskError(f"{path} cannot be read ({one_line(error, 80)}); write it again") from error


def _geojson(text: Path, path: Path) -> ObjectIndex:
    """Index GeoJSON."""
    rows, names = _Rows(), dict[str, str | None]()
    # one character a byte, so that places in the text are those in the file
    with text.open("rb") as raw, text.open("r", encoding="latin-1", newline="") as file:
        before = len(_BOM) if raw.read(3) == _BOM else 0
        file.seek(before)
        for number, (document, (start, end)) in enumerate(_spans(file, path), 1):
            span = (start + before, end + before)
            try:
                name, colour = class_of(document.get("properties") or {})
                if name is not None and not name.isascii():  # read it as it is meant, once
                    if name not in names:
                        raw.seek(span[0])
                        names[name] = class_of(json.loads(raw.read(end - start))["properties"])[0]
                    name = names[name]
                _add_feature(rows, document, span, name, colour)
            except _DAMAGES as error:
                what = one_line(error, 80)
                raise MaskError(f"{path}: feature {number} is damaged ({what}); write it again") from error
    return rows.index()


def _spans(file: TextIO, path: Path) -> Iterator[tuple[dict[str, Any], tuple[int, int]]]:
    """Yield features and where they lie."""
    reader = FeatureReader(file, path)
    for document in reader.features():
        yield document, reader.span


def _add_feature(
    rows: _Rows, document: dict[str, Any], span: tuple[int, int], name: str | None, colour: str | None
) -> None:
    """Add a feature, unless it has no points."""
    geometry, properties = document.get("geometry") or {}, document.get("properties") or {}
    box = extent(geometry)
    if box is not None:
        plane = geometry.get("plane") or properties.get("plane")
        rows.add(box, span, name, colour, _EVERY if plane is None else int(plane.get("z", 0)))


def class_of(properties: dict[str, Any]) -> tuple[str | None, str | None]:
    """Return name and colour of the class of a feature, as QuPath and we write them; None where there are none."""
    known = properties.get("classification") or {}
    names = known.get("names") or []
    name = known.get("name") or ": ".join(map(str, names)) or None
    given = known.get("color") or []
    is_colour = isinstance(given, list) and len(given) == 3 and all(type(v) is int and 0 <= v <= 255 for v in given)
    return None if name is None else str(name), f"#{bytes(given).hex()}" if is_colour else None


def extent(geometry: dict[str, Any]) -> tuple[float, float, float, float] | None:
    """Return the box y0, x0, y1, x1 of a geometry of any kind; None if it has no points."""
    points: list[Sequence[float]]
    if geometry.get("type") == "GeometryCollection":
        boxes = [box for one in geometry["geometries"] if (box := extent(one)) is not None]
        points = [point for y0, x0, y1, x1 in boxes for point in ((x0, y0), (x1, y1))]
    else:
        points = list(_points(geometry.get("coordinates") or []))
    if not points:
        return None
    xs, ys = [point[0] for point in points], [point[1] for point in points]
    return min(ys), min(xs), max(ys), max(xs)


def _points(coordinates: Any) -> Iterable[Sequence[float]]:
    """Return the points in nested lists; of polygons those of the shells, within which the holes lie."""
    first = coordinates[0]
    if not isinstance(first, list | tuple):
        return (coordinates,)
    if not isinstance(first[0], list | tuple):
        points: Sequence[Sequence[float]] = coordinates
        return points
    if not isinstance(first[0][0], list | tuple):
        return _points(first)
    return (point for polygon in coordinates for point in _points(polygon))


def _table(file: BinaryIO, path: Path) -> ObjectIndex:
    """Index a CSV file by the boxes of its objects."""
    rows, columns, at = _Rows(), list[str](), 0
    where: tuple[list[int], int | None, int | None] = ([], None, None)
    for number, record in enumerate(_records(file)):
        values = parse_record(record)
        try:
            if number == 0:
                columns = [name.strip() for name in values]
                where = _box_columns(columns, path)
            elif values:
                sides, kind, plane = where
                box = [float(values[column]) for column in sides]
                z = _EVERY if plane is None else int(values[plane])
                rows.add(box, (at, at + len(record)), None if kind is None else values[kind] or None, None, z)
        except _DAMAGES as error:
            raise MaskError(f"{path}: line {number + 1} is damaged ({one_line(error, 80)}); write it again") from error
        at += len(record)
    return rows.index(columns)


def _records(file: BinaryIO) -> Iterator[bytes]:
    """Yield the records of a CSV file: lines, but for line breaks within quotes."""
    record = b""
    for line in file:
        record += line
        if record.count(b'"') % 2 == 0:
            yield record
            record = b""
    if record:
        yield record


def parse_record(record: bytes) -> list[str]:
    """Return the values of a record of a CSV file."""
    return next(csv.reader(record.removeprefix(_BOM).decode("utf-8", errors="replace").splitlines(keepends=True)), [])


def _box_columns(columns: Sequence[str], path: Path) -> tuple[list[int], int | None, int | None]:
    """Return the columns of y0, x0, y1 and x1, of the class, and of the plane."""
    plain = {name.removesuffix("_px"): number for number, name in enumerate(columns)}
    order = (1, 2, 4, 5) if "bbox-5" in plain else (0, 1, 2, 3)  # of volumes, planes come first
    sides = [plain.get(f"bbox-{side}") for side in order]
    if None in sides:
        raise MaskError(
            f"{path} has no columns bbox-0 to bbox-3, which say where its objects lie: name what `tileseg objects` "
            "wrote, .geojson or .parquet for their outlines"
        )
    return [side for side in sides if side is not None], plain.get("class"), plain.get("plane")


def _rewritten(features: Iterable[dict[str, Any]], file: BinaryIO, path: Path) -> ObjectIndex:
    """Write features as text, one a line, and index them."""
    rows, at = _Rows(), 0
    for number, document in enumerate(features, 1):
        line = json.dumps(document, separators=(",", ":")).encode()
        file.write(line + b"\n")
        try:
            _add_feature(rows, document, (at, at + len(line)), *class_of(document["properties"]))
        except _DAMAGES as error:
            raise MaskError(f"{path}: row {number} is damaged ({one_line(error, 80)}); write it again") from error
        at += len(line) + 1
    file.flush()
    return rows.index()
