"""How fast slides are read, blocks with margins into a mask, compared with a plain loop over the library's own tiles.

    python examples/measure_slides.py --size 65536 --folder /large/disk

Slides are drawn by draw_slides.py. `loop` decodes every stored piece once and does nothing with it: tiles of the SVS by
tifffile, squares of the NDPI by OpenSlide, shards of the Zarr by zarr. `read` reads every block with its margins, as a
prediction does. `idle` is `predict` with ready answers instead of a network (measure_pipeline.py), which stores mask
and pyramid, too. Each runs in a process of its own, in turns. One JSON line is printed for each slide: the medians in
Mpx/s, their ratios to `loop`, and the most memory that each took, also for a slide of a quarter of the pixels, which
tells whether memory grows with the image.
"""

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from draw_slides import WRITERS, draw

SQUARE = 2048  # pixels: what is asked of OpenSlide at once
BLOCK = 2048  # pixels: side of the blocks that are read


def loop_svs(path: Path) -> None:
    """Decode every tile."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        for _ in file.pages[0].segments(maxworkers=1):
            pass


def loop_ndpi(path: Path) -> None:
    """Read every square."""
    import openslide

    with openslide.OpenSlide(path) as slide:
        width, height = slide.dimensions
        for y in range(0, height, SQUARE):
            for x in range(0, width, SQUARE):
                slide.read_region((x, y), 0, (min(SQUARE, width - x), min(SQUARE, height - y)))


def loop_zarr(path: Path) -> None:
    """Read every shard."""
    import zarr

    array = zarr.open_array(path / "0", mode="r")
    for y in range(0, array.shape[1], array.shards[1]):
        for x in range(0, array.shape[2], array.shards[2]):
            array[:, y : y + array.shards[1], x : x + array.shards[2]]


LOOPS: dict[str, Callable[[Path], None]] = {".svs": loop_svs, ".ndpi": loop_ndpi, ".zarr": loop_zarr}


def read(path: Path) -> None:
    """Read every block with its margins."""
    from tilesegment.geometry import FieldOfView, Region, TileGrid
    from tilesegment.images import open_image, read_mirrored

    with open_image(str(path)) as source:
        for block in TileGrid(Region.of_shape(source.shape), BLOCK, BLOCK, FieldOfView(16, 92, 96, True)):
            read_mirrored(source, block.read)


def idle(path: Path, model: str, folder: Path | None) -> None:
    """Predict with ready answers."""
    from measure_pipeline import idle as run

    from tilesegment.prediction.settings import Settings

    with TemporaryDirectory(dir=folder) as place:
        run(str(path), Path(place) / "mask.zarr", Settings(model=model, precision="fp32", runtime="pytorch"))


def once(work: Callable[[], None]) -> tuple[float, float]:
    """Return the seconds that `work` takes in a process of its own, and the most memory that it took, in MB."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(work, sender))
    process.start()
    sender.close()
    try:
        found: tuple[float, float] = receiver.recv()
    finally:
        process.join()
    return found


def _report(work: Callable[[], None], sender: Any) -> None:
    start = time.perf_counter()
    work()
    sender.send((time.perf_counter() - start, _peak_mb()))


def _peak_mb() -> float:
    """Return the most memory that this process took; on Linux getrusage knows that of its parent, too."""
    if sys.platform == "linux":
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


def measure(path: Path, size: int, model: str, folder: Path | None, rounds: int) -> dict[str, float]:
    """Return speeds, their ratios, and the most memory that each way took."""
    ways = {
        "loop": partial(LOOPS[path.suffix], path),
        "read": partial(read, path),
        "idle": partial(idle, path, model, folder),
    }
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, work in ways.items():
            found[name].append(once(work))
    rates = {name: size**2 / 1e6 / statistics.median(s for s, _ in each) for name, each in found.items()}
    return {
        **{f"{name}_mpx_per_s": rate for name, rate in rates.items()},
        **{f"{name}_ratio": rate / rates["loop"] for name, rate in rates.items() if name != "loop"},
        **{f"{name}_peak_mb": max(peak for _, peak in each) for name, each in found.items()},
    }


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=65536, help="side of the slides, pixels")
    parser.add_argument("--kinds", nargs="+", choices=sorted(WRITERS), default=sorted(WRITERS))
    parser.add_argument("--model", default="nuclei-he")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where slides and masks are written, and deleted at the end")
    given = parser.parse_args()
    for kind in given.kinds:
        line: dict[str, Any] = {"kind": kind, "size": given.size}
        with TemporaryDirectory(dir=given.folder) as folder:
            large, small = Path(folder, f"large{kind}"), Path(folder, f"small{kind}")
            draw(large, given.size)
            draw(small, given.size // 2)
            line |= measure(large, given.size, given.model, given.folder, given.rounds)
            quarter = measure(small, given.size // 2, given.model, given.folder, 1)
            line |= {f"{name}_of_a_quarter": quarter[name] for name in ("read_peak_mb", "idle_peak_mb")}
        print(json.dumps({name: round(one, 3) if isinstance(one, float) else one for name, one in line.items()}))


if __name__ == "__main__":
    main()
