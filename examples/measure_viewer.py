"""How fast `tileseg view` shows a slide, how much memory it takes, and what watching a prediction costs.

    python examples/measure_viewer.py --size 32768 --tiles 10000 --folder /large/disk

Slides are drawn by draw_slides.py, a Zarr and a JPEG slide. For each, a JSON line: seconds from the opening of the page
in Chromium to the first picture on it (left out where there is no Chromium); median and 95th percentile of the
milliseconds that a tile takes, of random tiles of all zooms, six requests at a time; the server's processor time per
tile, which other programs change less; the most memory that it took. Beside it, `file_*`: the same for the plain
reading of what the tiles show, in six threads, with nothing scaled or encoded; tiles for which more than 16 megapixels
would be read are left out of it.

The last line is `predict` of a slide of --predicted pixels a side, alone and watched in turns: a client that asks for
the progress once a second and for the tiles of a window whenever it grew. `cost` is the share of speed that is lost,
`cpu_share` the server's processor time, after its start, as a share of the prediction's.
"""

import argparse
import http.client
import json
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import psutil
from draw_slides import draw

from tilesegment.images import open_image
from tilesegment.viewer.means import Zoom
from tilesegment.viewer.tiling import TileAt, shape_at, zooms

AT_ONCE = 6  # requests: what a browser has open to one server
MOST_READ = 1 << 24  # pixels that plain reading decodes for a tile
WINDOW = 4  # tiles that a client watches, along each axis
ADDRESS = re.compile(r"http://\S+")
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking")
DRAWN = """() => {
    const canvas = window.app?.osd?.drawer.canvas;
    if (!canvas?.width) return false;
    const copy = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    copy.drawImage(canvas, -canvas.width / 2, -canvas.height / 2);
    return copy.getImageData(0, 0, 1, 1).data[3] > 0;
}"""


@dataclass(frozen=True)
class Viewer:
    """A running `tileseg view`: the address of its page, and its process."""

    url: str
    process: psutil.Process

    def get(self, name: str, connection: http.client.HTTPConnection) -> bytes:
        """Ask for what lies below the page."""
        connection.request("GET", urlsplit(self.url).path + name)
        answer = connection.getresponse()
        content = answer.read()
        assert answer.status == 200, f"{name}: {answer.status} {content[:200]!r}"
        return content

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection that stays open."""
        parts = urlsplit(self.url)
        assert parts.hostname is not None
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=120)

    def cpu_seconds(self) -> float:
        """Return the processor time that it took so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    def peak_mb(self) -> float:
        """Return the most memory that it took so far, in MB; elsewhere than on Linux what it takes now."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            return self.process.memory_info().rss / 1e6
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6


@contextmanager
def viewing(*files: Path) -> Iterator[Viewer]:
    """Start `tileseg view` of an image and masks, and stop it in the end."""
    command = [sys.executable, "-m", "tilesegment_cli.main", "view", *map(str, files), "--no-browser"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            assert process.stdout is not None
            said = iter(process.stdout.readline, "")
            address = next((found[0] for line in said if (found := ADDRESS.search(line))), None)
            assert address is not None, "tileseg view said no address"
            threading.Thread(target=process.stdout.read, daemon=True).start()  # what it says is not kept
            yield Viewer(address, psutil.Process(process.pid))
        finally:
            process.terminate()


def random_tiles(shape: tuple[int, int], count: int) -> list[TileAt]:
    """Return `count` tiles, each of all zooms as likely as any other; the same every time."""
    every = [
        TileAt(zoom, row, column)
        for zoom in range(zooms(shape))
        for row in range(-(-shape_at(shape, zoom)[0] // 512))
        for column in range(-(-shape_at(shape, zoom)[1] // 512))
    ]
    return random.Random(0).choices(every, k=count)


def timed(work: Callable[[TileAt], object], tiles: Sequence[TileAt]) -> list[tuple[TileAt, float]]:
    """Return tiles and the milliseconds that each took, six at a time."""

    def one(at: TileAt) -> tuple[TileAt, float]:
        start = time.perf_counter()
        work(at)
        return at, (time.perf_counter() - start) * 1e3

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(pool.map(one, tiles))


def request_tiles(viewer: Viewer, tiles: Sequence[TileAt]) -> list[tuple[TileAt, float]]:
    """Ask for tiles of the image."""
    mine = threading.local()

    def ask(at: TileAt) -> bytes:
        if not hasattr(mine, "connection"):
            mine.connection = viewer.connect()
        return viewer.get(f"tile/0/0/{at.zoom}/{at.row}/{at.column}", mine.connection)

    return timed(ask, tiles)


def read_tiles(path: Path, tiles: Sequence[TileAt]) -> list[tuple[TileAt, float]]:
    """Read what tiles show from the file, in its own pixels."""
    with open_image(path) as source:
        levels = {at.zoom: Zoom(source, at.zoom) for at in tiles}

        def read(at: TileAt) -> None:
            scale = source.levels[levels[at.zoom].base].scale
            region, height, width = at.region(source.shape), *source.levels[levels[at.zoom].base].shape
            rows = range(int(region.y0 / scale[0]), min(round(region.y1 / scale[0]), height))
            columns = range(int(region.x0 / scale[1]), min(round(region.x1 / scale[1]), width))
            part = type(region)(rows.start, columns.start, rows.stop, columns.stop)
            source.read(part, levels[at.zoom].base)

        cheap = [at for at in tiles if 512**2 * levels[at.zoom].factor[0] * levels[at.zoom].factor[1] <= MOST_READ]
        return timed(read, cheap)


def quantiles(times: Sequence[tuple[TileAt, float]], prefix: str = "") -> dict[str, float]:
    """Return the median and the 95th percentile, and the median of each zoom."""
    values = sorted(one for _, one in times)
    of_zooms: dict[int, list[float]] = {}
    for at, one in times:
        of_zooms.setdefault(at.zoom, []).append(one)
    found = {"median_ms": statistics.median(values), "p95_ms": values[int(len(values) * 0.95)]}
    found |= {f"zoom_{zoom}_median_ms": statistics.median(each) for zoom, each in sorted(of_zooms.items())}
    return {prefix + name: value for name, value in found.items()}


def first_picture(viewer: Viewer) -> float | None:
    """Return the seconds from the opening of the page to a picture in the middle of it; None without Chromium."""
    program = shutil.which("chromium")
    if program is None:
        return None
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=program, args=FLAGS) as browser:
        page = browser.new_page()
        start = time.perf_counter()
        page.goto(viewer.url, wait_until="commit")
        page.wait_for_function(DRAWN, polling="raf")
        return time.perf_counter() - start


def measure(path: Path, tiles: int) -> dict[str, Any]:
    """Return the figures of one slide."""
    with open_image(path) as source:
        chosen = random_tiles(source.shape, tiles)
    with viewing(path) as viewer:
        found: dict[str, Any] = {"start_mb": viewer.peak_mb(), "first_picture_s": first_picture(viewer)}
        before = viewer.cpu_seconds()
        found |= quantiles(request_tiles(viewer, chosen))
        found["cpu_ms_per_tile"] = (viewer.cpu_seconds() - before) / tiles * 1e3
        found["peak_mb"] = viewer.peak_mb()
    return found | quantiles(read_tiles(path, chosen), "file_")


def predict(image: Path, mask: Path, model: str) -> tuple[float, float]:
    """Return the seconds that a prediction takes in a process of its own, and its processor time."""
    command = [sys.executable, "-m", "tilesegment_cli.main", "predict", str(image), "--out", str(mask)]
    start = time.perf_counter()
    with subprocess.Popen([*command, "--model", model, "--quiet"]) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return time.perf_counter() - start, used.ru_utime + used.ru_stime


def watch(image: Path, mask: Path, stop: threading.Event) -> tuple[int, float]:
    """Watch a mask grow as a page does, from its first block until `stop`.

    Returns:
        How often it had grown, and the processor time of the server after its start, which takes about a second.
    """
    while not stop.is_set() and not mask.with_name(f"{mask.name}.partial").is_dir():
        time.sleep(0.1)
    if stop.is_set():
        return 0, 0.0
    with open_image(image) as source:
        zoom = max(zooms(source.shape) - 2, 0)
    seen, grown = -1, 0
    with viewing(image, mask) as viewer:
        connection, start = viewer.connect(), viewer.cpu_seconds()
        while not stop.wait(1.0):
            layers = json.loads(viewer.get("progress", connection))["layers"]
            version = max((one["version"] for one in layers if one["layer"] == 1), default=seen)
            if version == seen:
                continue
            seen, grown = version, grown + 1
            for row in range(WINDOW // 2):
                for column in range(WINDOW // 2):
                    viewer.get(f"tile/1/0/{zoom}/{row}/{column}?v={version}", connection)
        return grown, viewer.cpu_seconds() - start


def cost_of_watching(image: Path, model: str, folder: Path, rounds: int) -> dict[str, Any]:
    """Return seconds of predictions alone and watched, in turns, what share of speed is lost, and processor times."""
    alone, watched, grown, used = [], [], 0, 0.0
    for number in range(rounds):
        alone.append(predict(image, folder / f"alone{number}.zarr", model))
        mask, stop = folder / f"watched{number}.zarr", threading.Event()
        with ThreadPoolExecutor(1) as pool:
            watcher = pool.submit(watch, image, mask, stop)
            try:
                watched.append(predict(image, mask, model))
            finally:
                stop.set()
            grown, used = grown + watcher.result()[0], used + watcher.result()[1]
    before, after = (statistics.median(seconds for seconds, _ in each) for each in (alone, watched))
    of_runs = sum(cpu for _, cpu in watched)
    return {
        "alone_s": before,
        "watched_s": after,
        "cost": 1 - before / after,
        "grown": grown,
        "server_cpu_s": used,
        "predict_cpu_s": of_runs,
        "cpu_share": used / of_runs,
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=32768, help="side of the slides, pixels")
    parser.add_argument("--tiles", type=int, default=10_000)
    parser.add_argument("--predicted", type=int, default=4096, help="side of the slide that is predicted; 0: none")
    parser.add_argument("--rounds", type=int, default=3, help="of predictions")
    parser.add_argument("--model", default="nuclei-he")
    parser.add_argument("--folder", type=Path, help="where slides and masks are written, and deleted at the end")
    given = parser.parse_args()
    with TemporaryDirectory(dir=given.folder) as name:
        folder = Path(name)
        for kind in (".zarr", ".svs"):
            draw(folder / f"slide{kind}", given.size)
            say(
                {"kind": kind, "size": given.size, "tiles": given.tiles} | measure(folder / f"slide{kind}", given.tiles)
            )
        if given.predicted:
            draw(folder / "predicted.svs", given.predicted)
            found = cost_of_watching(folder / "predicted.svs", given.model, folder, given.rounds)
            say({"kind": "watching", "size": given.predicted, "rounds": given.rounds} | found)


def say(line: dict[str, Any]) -> None:
    """Print a line."""
    rounded = {name: round(one, 3) if isinstance(one, float) else one for name, one in line.items()}
    print(json.dumps(rounded), flush=True)


if __name__ == "__main__":
    main()
