"""Label images of objects, and files of every kind that hold them."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
from compared_files import array, save
from data_sets import write_palette


def nuclei(height: int, width: int, seed: int, count: int = 40) -> np.ndarray:
    """Ids of ellipses, of which later ones lie over earlier ones, (H, W) uint16; some ids may be missing."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:height, :width]
    ids = np.zeros((height, width), np.uint16)
    for number in range(1, count + 1):
        y, x, a, b = rng.uniform(0, height), rng.uniform(0, width), *rng.uniform(3, 8, 2)
        ids[((ys - y) / a) ** 2 + ((xs - x) / b) ** 2 < 1] = number
    return ids


TRUTH = nuclei(70, 90, 0)
GUESS = np.where(np.roll(TRUTH, 2, axis=1) % 7 == 3, 0, np.roll(TRUTH, 2, axis=1)) + np.uint16(500) * (TRUTH == 5)


def as_geojson(path: Path, ids: np.ndarray, **properties: object) -> Path:
    """The objects of a label image as polygons, one rectangle for each run of a row, by id."""
    features = []
    for number in np.unique(ids[ids > 0]):
        runs = []
        for y, row in enumerate(ids == number):
            edges = np.flatnonzero(np.diff(np.concatenate([[0], row.astype(int), [0]]))).tolist()
            for a, b in zip(edges[::2], edges[1::2], strict=True):
                runs.append([[[a, y], [b, y], [b, y + 1], [a, y + 1], [a, y]]])
        features.append(
            {
                "type": "Feature",
                "geometry": {"type": "MultiPolygon", "coordinates": runs},
                "properties": {"objectType": "detection", **properties},
            }
        )
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    return path


def coloured(path: Path, ids: np.ndarray) -> Path:
    colours = np.random.default_rng(1).integers(30, 256, (1100, 3), np.uint8)
    colours[0] = 0
    return save(path, colours[ids])


def in_palette(path: Path, ids: np.ndarray) -> Path:
    small = np.unique(ids, return_inverse=True)[1].reshape(ids.shape).astype(np.uint8)
    write_palette(path, small, [(0, 0, 0), *((n, 255 - n, n) for n in range(1, 200))])
    return path


KINDS: dict[str, Callable[[Path, np.ndarray], Path]] = {
    "PNG": lambda folder, ids: save(folder / "a.png", ids),
    "TIFF uint32": lambda folder, ids: save(folder / "a.tif", ids.astype(np.uint32) * 70_001),
    "TIFF float": lambda folder, ids: save(folder / "a.tif", ids.astype(np.float32)),
    "Zarr": lambda folder, ids: array(folder, ids.astype(np.int64)),
    "colours": lambda folder, ids: coloured(folder / "a.png", ids),
    "palette": lambda folder, ids: in_palette(folder / "a.png", ids),
    "GeoJSON": lambda folder, ids: as_geojson(folder / "a.geojson", ids),
}
