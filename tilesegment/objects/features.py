"""Tables of objects with outlines, read back as features, as GeoJSON has them."""

import math
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import shapely

from tilesegment.errors import MaskError, one_line
from tilesegment.objects.batches import CLASS, NAME, PLANE
from tilesegment.objects.tables import GEOMETRY

_ROWS = 4096  # that are read at once


def table_features(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the rows of a GeoParquet file, such as `tileseg objects` writes, as features: numbers are measurements.

    Raises:
        MaskError: pyarrow is missing, or the file cannot be read or has no outlines.
    """
    if find_spec("pyarrow") is None:
        raise MaskError(f"{path} cannot be read without pyarrow; pip install 'tilesegment[parquet]'")
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            if GEOMETRY not in file.schema_arrow.names:
                raise MaskError(f"{path} has no column {GEOMETRY}: write it again with outlines, or name the .csv")
            for batch in file.iter_batches(_ROWS):
                yield from _features(batch.to_pydict())
    except (OSError, pa.ArrowException, shapely.errors.ShapelyError) as error:
        raise MaskError(f"{path} cannot be read ({one_line(error, 80)}); write it again") from error


def _features(columns: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    shapes = shapely.from_wkb(columns.pop(GEOMETRY))
    for number, shape in enumerate(shapes):
        row = {name: values[number] for name, values in columns.items()}
        properties: dict[str, Any] = {"objectType": "detection"}
        if row.get(CLASS):
            properties["classification"] = {"name": row[CLASS]}
        if row.get(NAME):
            properties["name"] = row[NAME]
        if row.get(PLANE) is not None:
            properties["plane"] = {"z": row[PLANE]}
        properties["measurements"] = {
            name: value
            for name, value in row.items()
            if isinstance(value, int | float) and math.isfinite(value) and name != PLANE
        }
        geometry = {} if shape is None else shapely.geometry.mapping(shape)
        yield {"type": "Feature", "geometry": geometry, "properties": properties}
