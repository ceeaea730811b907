"""How fast images on an S3 server are read, against a bare copy of the same objects.

    python examples/measure_remote.py --size 16384 --delay 0.02

Starts a real S3 server (moto's) on this machine, delays each of its replies, and writes one image to it as Zarr in
chunks, as Zarr in shards and as tiled TIFF. `blocks` reads it as a prediction does, block by block with margins; `copy`
fetches the same objects with obstore alone, with as many requests at a time as our reader sends, and decodes nothing.
Prints a JSON line for each: million pixels a second (the median over the turns), requests, bytes, and how often each
stored byte came. Then, from Zarr to Zarr on the server: `predict`, with ready answers instead of a network
(measure_pipeline.py), and `copy there`, which stores every object again that it fetches. With `--model` at last the
same prediction with that model, from server to server and from disk to disk. Needs moto[s3], flask and flask-cors.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import tifffile
import zarr
from measure_pipeline import idle

import tilesegment
from tilesegment.geometry import Block, FieldOfView, Region, TileGrid
from tilesegment.images import ImageSource, announce_mirrored, open_image, read_mirrored
from tilesegment.ome_zarr.fetched import CONNECTIONS
from tilesegment.prediction.engine import AHEAD
from tilesegment.prediction.settings import Settings
from tilesegment.stores import Location, Options, store_at

_BUCKET = "images"
_CREDENTIALS = {"AWS_ACCESS_KEY_ID": "measured", "AWS_SECRET_ACCESS_KEY": "measured"}


@contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """Start an S3 server with an empty bucket on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        host, port = free.getsockname()
    command = [sys.executable, "-m", "moto.server", "-H", host, "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        request = urllib.request.Request(f"http://{host}:{port}/{_BUCKET}", method="PUT")
        for attempt in range(600):
            try:
                urllib.request.urlopen(request, timeout=10).close()
                break
            except OSError:
                if attempt == 599 or process.poll() is not None:
                    raise
                time.sleep(0.1)
        yield host, port
    finally:
        process.kill()
        process.wait()


@contextmanager
def delayed(target: tuple[str, int], delay: float) -> Iterator[str]:
    """Pass connections on to a server; each reply begins `delay` seconds late. Yields the address."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def forward(source: socket.socket, sink: socket.socket, asked: threading.Event, is_reply: bool) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(1 << 18):
                if not is_reply:
                    asked.set()
                elif asked.is_set():
                    asked.clear()
                    time.sleep(delay)
                sink.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                server, asked = socket.create_connection(target), threading.Event()
                for one in ((client, server, asked, False), (server, client, asked, True)):
                    threading.Thread(target=forward, args=one, daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    with listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def upload_images(options: Options, size: int, chunk: int) -> None:
    """Write the same grey pixels (size, size) uint8 in every way of storing them."""
    pixels = np.random.default_rng(0).integers(0, 64, (size, size), np.uint8)
    store = store_at(Location("s3", _BUCKET, "", options))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        zarr.create_array(folder / "chunks.zarr", data=pixels, chunks=(chunk, chunk))
        zarr.create_array(folder / "shards.zarr", data=pixels, chunks=(chunk, chunk), shards=(4 * chunk, 4 * chunk))
        tifffile.imwrite(folder / "tiles.tif", pixels, tile=(chunk, chunk), compression="zlib")
        files = [path for path in folder.rglob("*") if path.is_file()]
        for path in files:
            store.put(path.relative_to(folder).as_posix(), path.read_bytes())


def announced(source: ImageSource, grid: TileGrid) -> Iterator[Block]:
    """Announce each block as it is taken."""
    for block in grid:
        announce_mirrored(source, block.read)
        yield block


def read_blocks(place: Location, block: int, margin: int) -> tuple[float, int, int]:
    """Read every block with its margins; return seconds, requests and bytes."""
    with open_image(place) as source:
        grid = TileGrid(Region.of_shape(source.shape), block, block, FieldOfView(16, margin, margin, True))
        begun = time.perf_counter()
        blocks = announced(source, grid)
        ahead = deque(islice(blocks, AHEAD))
        while ahead:
            ahead.extend(islice(blocks, 1))
            read_mirrored(source, ahead.popleft().read)
        seconds = time.perf_counter() - begun
        return seconds, source.requests, source.decoded_bytes


def copy_objects(place: Location) -> tuple[float, int, int]:
    """Fetch every object of an image, a large one in ranges; return seconds, requests and bytes."""
    store, begun = store_at(Location("s3", _BUCKET, "", place.options)), time.perf_counter()
    keys = [one.key for one in store.list(place.key)] or [place.key]
    if keys == [place.key]:
        size, step = store.head(place.key).size, 1 << 20
        spans = [(start, min(start + step, size)) for start in range(0, size, step)]
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(lambda span: store.get_ranges(place.key, [span]), spans))
    else:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            list(pool.map(store.get, keys))
    return time.perf_counter() - begun, store.requests, store.bytes_read


def copy_there(place: Location, target: Location) -> None:
    """Fetch every object of an image and store it again."""
    source, sink = (store_at(Location("s3", _BUCKET, "", one.options)) for one in (place, target))

    def again(key: str) -> None:
        sink.put(f"{target.key}/{key}", source.get(key))

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        list(pool.map(again, [one.key for one in source.list(place.key)]))


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long it takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def measure_storing(place: Location, size: int, repeats: int) -> None:
    """Print how fast a Zarr becomes a mask on the server, and how fast its objects become others."""
    settings = Settings(model="em-membrane", precision="fp32", runtime="pytorch")
    times: dict[str, list[float]] = {"predict": [], "copy there": []}
    for turn in range(repeats + 1):
        ends = (replace(place, key=f"{name}-{turn}-of-{place.key}") for name in ("mask", "copy"))
        for (work, taken), end in zip(times.items(), ends, strict=True):
            taken.append(
                seconds_of(
                    partial(idle, place, end, settings) if work == "predict" else partial(copy_there, place, end)
                )
            )
    times = {work: taken[1:] for work, taken in times.items()}  # the first one imports
    print_rates(place.key, times, size)


def measure_model(place: Location, size: int, repeats: int, model: str) -> None:
    """Print how fast a model predicts from server to server, and from disk to disk."""
    times: dict[str, list[float]] = {"server": [], "disk": []}
    with tempfile.TemporaryDirectory() as name:
        stored = Path(name, "image.zarr")
        for one in store_at(place).list():
            file = stored / one.key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(store_at(place).get(one.key))
        for turn in range(repeats):
            ends = {
                "server": (place, replace(place, key=f"by-model-{turn}-of-{place.key}")),
                "disk": (stored, Path(name, "m.zarr")),
            }
            for where, (image, mask) in ends.items():
                run = partial(tilesegment.predict, image, mask, model, overwrite=True, precision="fp32")
                times[where].append(seconds_of(run))
    print_rates(place.key, times, size)


def print_rates(image: str, times: dict[str, list[float]], size: int) -> None:
    """Print a line for each way, and the ratio of the first two."""
    rates = {work: size**2 / 1e6 / statistics.median(each) for work, each in times.items()}
    first, second = rates.values()
    print(json.dumps({"image": image, **{k: round(v, 2) for k, v in rates.items()}, "ratio": round(first / second, 3)}))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=8192, help="side of the image, pixels")
    parser.add_argument("--chunk", type=int, default=512, help="side of its chunks and tiles")
    parser.add_argument("--block", type=int, default=2048, help="side of the blocks that are read")
    parser.add_argument("--margin", type=int, default=92, help="pixels around them")
    parser.add_argument("--delay", type=float, default=0.02, help="seconds by which each reply is late")
    parser.add_argument("--repeats", type=int, default=3, help="turns")
    parser.add_argument("--model", help="predict with this model, too")
    chosen = parser.parse_args()
    os.environ |= _CREDENTIALS
    with s3_server() as target, delayed(target, chosen.delay) as address:
        region = ("region", "us-east-1")
        upload_images((("endpoint", "http://{}:{}".format(*target)), region), chosen.size, chosen.chunk)
        for name in ("chunks.zarr", "shards.zarr", "tiles.tif"):
            place = Location("s3", _BUCKET, name, (("endpoint", address), region))
            turns = [
                (read_blocks(place, chosen.block, chosen.margin), copy_objects(place)) for _ in range(chosen.repeats)
            ]
            stored = turns[0][1][2]
            for number, work in enumerate(("blocks", "copy")):
                seconds = statistics.median(turn[number][0] for turn in turns)
                _, requests, received = turns[0][number]
                line = {"image": name, "work": work, "mpx_per_s": round(chosen.size**2 / 1e6 / seconds, 2)}
                line |= {"requests": requests, "bytes": received, "times": round(received / stored, 3)}
                print(json.dumps(line), flush=True)
        for name in ("chunks.zarr", "shards.zarr"):
            place = Location("s3", _BUCKET, name, (("endpoint", address), region))
            measure_storing(place, chosen.size, chosen.repeats)
            if chosen.model:
                measure_model(place, chosen.size, chosen.repeats, chosen.model)


if __name__ == "__main__":
    main()
