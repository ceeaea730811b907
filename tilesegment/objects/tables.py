"""Tables of objects, as streams: CSV, and Parquet with outlines as GeoParquet; and the choice of a writer by name."""

import json
from collections.abc import Mapping
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely

from tilesegment.errors import MaskError
from tilesegment.objects import text
from tilesegment.objects.batches import LABEL, Batch, ObjectsWriter, Placement, coded, is_number
from tilesegment.objects.geojson import GeoJSONWriter

if TYPE_CHECKING:
    import pyarrow as pa

GEOMETRY = "geometry"
_ROWS = 4096  # formatted at once
GROUP_ROWS, _GROUP_VERTICES = 50_000, 4_000_000  # of a row group, which is held in memory


class CSVWriter(ObjectsWriter):
    """Writes `.csv`: names of the columns, then one line per object; see `ObjectsWriter`.

    Floats are written so that reading them gives the same float64, NaN as nothing. Outlines are not written.
    """

    def __init__(self, path: Path, to: Path | None = None) -> None:
        super().__init__(path, to)
        self._names: list[str] | None = None

    def write(self, batch: Batch) -> None:
        """Append lines."""
        self._begin(list(batch.columns))
        for piece in Batch(batch.columns).pieces(_ROWS, 1):
            fields = []
            for column in piece.columns.values():
                fields += [_csv_column(column), text.constant(",", len(piece))]
            fields[-1] = text.constant("\n", len(piece))
            with self._reporting():
                self._file.write(text.join(fields).tobytes().translate(None, text.NUL))

    def close(self) -> None:
        """Complete the file; if nothing was written, the only column is `label`."""
        if self._names is None:
            self._begin([LABEL])
        with self._reporting():
            self._file.close()

    def _begin(self, names: list[str]) -> None:
        """Write the first line, once."""
        if self._names is None:
            self._names = names
            with self._reporting():
                self._file.write((",".join(map(_quoted, names)) + "\n").encode())
        assert self._names == names, f"columns {names} after {self._names}"


def _csv_column(column: np.ndarray) -> np.ndarray:
    if not is_number(column):
        values, which = coded(column)
        return text.choices([_quoted(value) for value in values], which)
    return text.floats(column, whole=".0") if column.dtype.kind == "f" else text.integers(column)


def _quoted(value: str) -> str:
    """Quote a text as RFC 4180 says, where it must be."""
    return '"' + value.replace('"', '""') + '"' if any(mark in value for mark in ',"\r\n') else value


class ParquetWriter(ObjectsWriter):
    """Writes `.parquet`; with outlines it is GeoParquet 1.1, whose column `geometry` holds them as WKB.

    Args:
        path, to: see `ObjectsWriter`.
        placement: of the mask in level 0.
    """

    def __init__(self, path: Path, to: Path | None = None, *, placement: Placement | None = None) -> None:
        super().__init__(path, to)
        self._placement = placement or Placement()
        self._writer: Any = None
        self._waiting: list[pa.Table] = []
        self._rows = self._vertices = 0
        self._kinds: set[str] = set()
        self._has_geometry = False

    def write(self, batch: Batch) -> None:
        """Append rows."""
        for piece in batch.pieces(GROUP_ROWS, _GROUP_VERTICES):
            self._add(piece)
        if len(batch) == 0:
            self._add(batch)

    def close(self) -> None:
        """Complete the file; if nothing was written, the only column is `label`."""
        if self._writer is None and not self._waiting:
            self._add(Batch({LABEL: np.zeros(0, np.uint32)}))
        self._flush()
        with self._reporting():
            if self._has_geometry:
                self._writer.add_key_value_metadata({"geo": json.dumps(_geo(self._kinds))})
            self._writer.close()
            self._file.close()

    def _add(self, batch: Batch) -> None:
        import pyarrow as pa

        arrays = {name: _parquet_column(column) for name, column in batch.columns.items()}
        polygons = batch.polygons
        if polygons is not None:
            shapes = polygons.shapes(self._placement.offset, self._placement.scale)
            is_multi = np.diff(polygons.objects) > 1
            self._kinds |= {"MultiPolygon"} if is_multi.any() else set()
            self._kinds |= set() if is_multi.all() else {"Polygon"}
            self._has_geometry = True
            arrays[GEOMETRY] = pa.array(shapely.to_wkb(shapes, flavor="iso").tolist(), pa.binary())
        self._waiting.append(pa.table(arrays))
        self._rows += len(batch)
        self._vertices += 0 if polygons is None else len(polygons.vertices)
        if self._rows >= GROUP_ROWS or self._vertices >= _GROUP_VERTICES:
            self._flush()

    def _flush(self) -> None:
        """Write what waits as one row group."""
        import pyarrow as pa
        from pyarrow import parquet

        if not self._waiting:
            return
        with self._reporting():
            group = pa.concat_tables(self._waiting)
            if self._writer is None:
                # readers take `geo`, which is known only at the end, for lost where the file holds a copy of the schema
                settings = {"compression": "zstd", "store_schema": False}
                self._writer = parquet.ParquetWriter(self._file, group.schema, **settings)
            if self._rows:
                self._writer.write_table(group, row_group_size=self._rows)
        self._waiting, self._rows, self._vertices = [], 0, 0

    def _abandon(self) -> None:
        if self._writer is not None and not self._file.closed:
            with suppress(OSError):
                self._writer.close()
        super()._abandon()


def _parquet_column(column: np.ndarray) -> "pa.Array":
    import pyarrow as pa

    return pa.array(column) if is_number(column) else pa.array(column.tolist(), pa.string())


def _geo(kinds: set[str]) -> dict[str, Any]:
    """Return the metadata of GeoParquet 1.1; coordinates are pixels, which no reference system describes."""
    column = {"encoding": "WKB", "geometry_types": sorted(kinds), "crs": None, "orientation": "counterclockwise"}
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}


SUFFIXES = (".geojson", ".geojson.gz", ".csv", ".parquet")
ALLOWED = ("NAME.zarr", "IMAGE.zarr/labels/NAME", *(f"NAME{suffix}" for suffix in SUFFIXES))


def suffix_of(path: Path) -> str | None:
    """Return which of `SUFFIXES` a name ends in, None if in none of them."""
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def check_name(path: Path) -> str:
    """Return which of `SUFFIXES` the name of a file of objects ends in.

    Raises:
        MaskError: in none of them, there is no such folder, or pyarrow is missing.
    """
    suffix = suffix_of(path)
    if suffix is None:
        raise MaskError(f"cannot tell from the name {path} what to write; allowed are {', '.join(ALLOWED)}")
    if not path.parent.is_dir():
        raise MaskError(f"cannot write {path}: there is no folder {path.parent}; create it first")
    if suffix == ".parquet" and find_spec("pyarrow") is None:
        raise MaskError(f"cannot write {path} without pyarrow; pip install 'tilesegment[parquet]', or name a .csv")
    return suffix


def objects_writer(
    path: Path,
    to: Path | None = None,
    *,
    fingerprint: str = "",
    object_type: str = "detection",
    colours: Mapping[str, tuple[int, int, int]] | None = None,
    placement: Placement | None = None,
) -> ObjectsWriter:
    """Return the writer of the file that `path` names.

    Args:
        path: final name; its suffix says what is written.
        to: the file to write, if it gets its final name later.
        fingerprint, object_type, colours, placement: see `GeoJSONWriter`.

    Raises:
        MaskError: as `check_name`, or the file cannot be written.
    """
    suffix = check_name(path)
    if suffix == ".csv":
        return CSVWriter(path, to)
    if suffix == ".parquet":
        return ParquetWriter(path, to, placement=placement)
    return GeoJSONWriter(
        path, to, fingerprint=fingerprint, object_type=object_type, colours=colours, placement=placement
    )
