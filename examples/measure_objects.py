"""How fast a mask becomes objects, in what memory, beside what its user would do with scikit-image.

    python examples/measure_objects.py --size 32768 --folder /fast/disk

Masks of cells are made by make_cells.py. Of a large one, `tileseg objects` makes a label image and a table, then
outlines. Of a small one, it makes the same again, and so does a program of a few lines with scikit-image, which holds
all of the mask. Each run is a process of its own. Prints one JSON line per run: seconds from its start to its end,
million pixels and objects a second, and the largest memory in MB (1e6 bytes) of a process.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PROPERTIES = (
    *("label", "area", "centroid", "bbox", "equivalent_diameter_area", "axis_major_length", "axis_minor_length"),
    *("eccentricity", "orientation", "perimeter", "solidity"),
)
TILESEG = (sys.executable, "-c", "from tilesegment_cli.main import main; main()")
MASK = "mask.zarr"
MAKE_CELLS = Path(__file__).resolve().with_name("make_cells.py")


def run(command: Sequence[str | Path], folder: Path) -> dict[str, float]:
    """Run a command in a folder: seconds, and the largest memory of it or a process that it started."""
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen([str(part) for part in command], cwd=folder, stdout=said, stderr=said)
        # unlike `wait`, it tells the memory of this process alone
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            said.seek(0)
            sys.exit(f"{' '.join(map(str, command))} failed: {said.read()[-2000:]}")
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, kB on Linux
    return {"seconds": round(seconds, 2), "peak_mb": round(used.ru_maxrss * scale / 1e6)}


def rows_of(table: Path) -> int:
    """How many rows a CSV file has, without its head."""
    with table.open("rb") as lines:
        return sum(1 for _ in lines) - 1


def report(name: str, size: int, measured: dict[str, float], objects: int) -> None:
    """Print a result."""
    seconds = measured["seconds"]
    rates = {"mpx_per_s": round(size**2 / 1e6 / seconds, 2), "objects_per_s": round(objects / seconds)}
    print(json.dumps({"run": name, "size": size, "objects": objects, **measured, **rates}), flush=True)


def measure_ours(size: int, folder: Path) -> None:
    """Measure `tileseg objects` of the mask in a folder, of `size` x `size` pixels."""
    command = (*TILESEG, "objects", MASK)
    measured = run((*command, "--out", "labels.zarr", "--out", "table.csv"), folder)
    objects = rows_of(folder / "table.csv")
    report("tileseg objects: labels and table", size, measured, objects)
    report("tileseg objects: outlines", size, run((*command, "--out", "cells.geojson.gz"), folder), objects)


def measure_today(size: int, folder: Path) -> None:
    """Measure the same with scikit-image."""
    for what, name in (("table", "labels and table"), ("outlines", "outlines")):
        measured = run((sys.executable, Path(__file__).resolve(), "--today", what), folder)
        if what == "table":
            objects = rows_of(folder / "today.csv")
        report(f"scikit-image: {name}", size, measured, objects)


def today(what: str) -> None:
    """Do what a user would do with scikit-image: write a label image and a `table`, or `outlines`."""
    import zarr
    from skimage.measure import label

    labels = label(zarr.open_group(MASK, mode="r")["0"][:] > 0, connectivity=1)
    if what == "table":
        write_table(labels)
    else:
        write_outlines(labels)


def write_table(labels: Any) -> None:
    """Write labels (H, W) and their measurements."""
    import numpy as np
    import zarr
    from skimage.measure import regionprops_table

    zarr.create_array("today.zarr", data=labels.astype(np.uint32), chunks=(512, 512))
    table = regionprops_table(labels, properties=PROPERTIES)
    columns = np.column_stack(list(table.values()))
    np.savetxt("today.csv", columns, fmt="%.10g", delimiter=",", header=",".join(table), comments="")


def write_outlines(labels: Any) -> None:
    """Write the outlines of labels (H, W) as GeoJSON for QuPath."""
    import gzip

    import numpy as np
    from skimage.measure import find_contours, regionprops

    features = []
    for one in regionprops(labels):
        rings = find_contours(np.pad(one.image, 1), 0.5)
        corner = np.array(one.bbox[:2]) - 0.5
        coordinates = [(ring + corner)[:, ::-1].tolist() for ring in rings]
        properties = {"objectType": "detection", "classification": {"name": "cell", "color": [230, 159, 0]}}
        geometry = {"type": "Polygon", "coordinates": coordinates}
        features.append({"type": "Feature", "id": one.label, "geometry": geometry, "properties": properties})
    with gzip.open("today.geojson.gz", "wt") as file:
        json.dump({"type": "FeatureCollection", "features": features}, file)


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32768, help="of the large mask, pixels a side")
    parser.add_argument("--small", type=int, default=8192, help="of the one for the comparison")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, default=Path(), help="where masks and results are written, and deleted")
    parser.add_argument("--today", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.today:
        today(given.today)
        return
    for size, beside in ((given.size, False), (given.small, True)):
        with tempfile.TemporaryDirectory(dir=given.folder) as name:
            folder = Path(name).resolve()
            run((sys.executable, MAKE_CELLS, MASK, "--size", str(size), "--seed", str(given.seed)), folder)
            measure_ours(size, folder)
            if beside:
                measure_today(size, folder)


if __name__ == "__main__":
    main()
