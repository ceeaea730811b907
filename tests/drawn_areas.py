"""GeoJSON of areas, as QuPath exports them."""

import json
from pathlib import Path
from typing import Any


def feature(*rings: list[list[float]], kind: str = "annotation", name: str = "", z: int = 0) -> dict[str, Any]:
    """A polygon of rings of (x, y), which are closed here."""
    geometry = {"type": "Polygon", "coordinates": [[*ring, ring[0]] for ring in rings], "plane": {"z": z}}
    classes = {"classification": {"name": name}} if name else {}
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": kind, **classes}}


def box(y0: float, x0: float, y1: float, x1: float, **more: Any) -> dict[str, Any]:
    return feature([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], **more)


def saved(folder: Path, *features: dict[str, Any]) -> Path:
    path = folder / "areas.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path
