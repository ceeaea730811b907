"""How fast `tileseg view` shows a million objects, and how much memory it takes.

    python examples/measure_viewer_objects.py --size 32768 --folder /large/disk

A mask of cells is drawn by make_cells.py, and `tileseg objects` outlines them, unless both are in the folder already.
The viewer is started with them over a black image. Prints a JSON line: the number of objects, and the seconds until
they are indexed; the median, 95th percentile and largest of the milliseconds that an answer takes over loopback, one
request at a time: for the object under the cursor at random places, for the outlines of random tiles, and for the dots
of those that have too many; the most memory that the server took, with the process that made the index and without.
"""

import argparse
import json
import random
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.request import urlopen

import psutil
import zarr

from tilesegment.viewer.tiling import shape_at, zooms

TILESEG = (sys.executable, "-c", "from tilesegment_cli.main import main; main()")
MAKE_CELLS = Path(__file__).resolve().with_name("make_cells.py")
ADDRESS = re.compile(r"http://\S+")


class Memory:
    """Watches the memory of a process and of those that it started, in MB: of itself, and of all together."""

    def __init__(self, process: psutil.Process) -> None:
        self.own, self.all = 0.0, 0.0
        self._process, self._stopped = process, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while True:
            with suppress(psutil.NoSuchProcess):
                own = self._process.memory_info().rss / 1e6
                others = sum(one.memory_info().rss / 1e6 for one in self._process.children(recursive=True))
                self.own, self.all = max(self.own, own), max(self.all, own + others)
            if self._stopped.wait(0.2):
                return

    def stop(self) -> None:
        """Watch no longer."""
        self._stopped.set()
        self._thread.join()


@contextmanager
def viewer(image: Path, objects: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Start `tileseg view`, and yield the address of its page and its process."""
    command = [*TILESEG, "view", str(image), str(objects), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            found = ADDRESS.search(process.stdout.readline())
            assert found is not None, "the viewer did not start"
            yield found[0], psutil.Process(process.pid)
        finally:
            process.terminate()


def get(address: str) -> tuple[bytes, float]:
    """Ask; return the answer and the milliseconds that it took."""
    start = time.perf_counter()
    with urlopen(address, timeout=120) as answer:
        content: bytes = answer.read()
    return content, (time.perf_counter() - start) * 1e3


def summary(times: Sequence[float]) -> dict[str, float]:
    """Return median, 95th percentile and largest."""
    ordered = sorted(times)
    high = ordered[min(int(0.95 * len(ordered)), len(ordered) - 1)]
    return {
        "median_ms": round(statistics.median(ordered), 1),
        "p95_ms": round(high, 1),
        "most_ms": round(ordered[-1], 1),
    }


def measure(url: str, size: int, count: int, seed: int) -> dict[str, Any]:
    """Ask for the objects of random places and tiles."""
    rng = random.Random(seed)
    hits, hovers = 0, []
    for _ in range(count):
        answer, took = get(f"{url}objects/1/at?y={rng.uniform(0, size):.2f}&x={rng.uniform(0, size):.2f}")
        hovers.append(took)
        hits += answer != b"null"
    outlines, dots, largest = [], [], 0
    for _ in range(count):
        zoom = rng.randrange(zooms((size, size)))
        rows = -(-shape_at((size, size), zoom)[0] // 512)
        row, column = rng.randrange(rows), rng.randrange(rows)
        answer, took = get(f"{url}objects/1/tile/{zoom}/{row}/{column}")
        if b'"kind":"many"' in answer[:40]:
            dots.append(took + get(f"{url}tile/1/0/{zoom}/{row}/{column}?hidden=")[1])
        else:
            outlines.append(took)
            largest = max(largest, len(answer))
    found: dict[str, Any] = {"hover": summary(hovers) | {"share_on_objects": round(hits / count, 2)}}
    for name, times in (("outlines", outlines), ("dots", dots)):
        if times:
            found[name] = summary(times) | {"tiles": len(times)}
    return found | {"largest_answer_kb": round(largest / 1e3)}


def make(folder: Path, size: int) -> tuple[Path, Path]:
    """Make the image and the objects that are not in a folder yet."""
    mask, objects, image = folder / "mask.zarr", folder / "cells.geojson", folder / "black.zarr"
    commands: list[tuple[str, ...]] = []
    if not (objects.exists() or mask.exists()):
        commands.append((sys.executable, str(MAKE_CELLS), str(mask), "--size", str(size)))
    if not objects.exists():
        commands.append((*TILESEG, "objects", str(mask), "--out", str(objects)))
    for command in commands:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    if not image.exists():  # of which no chunk is stored
        zarr.create_array(image, shape=(size, size), chunks=(512, 512), dtype="uint8", fill_value=0)
    return image, objects


def main() -> None:
    """Make what is missing, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32768, help="pixels a side")
    parser.add_argument("--folder", type=Path, help="where the files are, or are made; they stay there")
    parser.add_argument("--count", type=int, default=500, help="requests of each kind")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with TemporaryDirectory() as made:
        image, objects = make(given.folder or Path(made), given.size)
        with viewer(image, objects) as (url, process):
            start, memory = time.perf_counter(), Memory(process)
            while not (described := json.loads(get(f"{url}objects/1")[0]))["ready"]:
                time.sleep(0.1)
            indexed = time.perf_counter() - start
            found = measure(url, given.size, given.count, given.seed)
            memory.stop()
    megabytes = {"server_mb": round(memory.own), "with_index_mb": round(memory.all)}
    told = {"objects": described["count"], "index_s": round(indexed, 1)}
    print(json.dumps({"size": given.size, **told, **found, **megabytes}))


if __name__ == "__main__":
    main()
