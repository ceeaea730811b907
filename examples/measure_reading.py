"""How fast images are read as a prediction reads them: blocks with their margins, from Zarr and from tiled TIFF.

    python examples/measure_reading.py --size 16384 --repeats 5

`read` is reading alone; `copy` reads in a thread ahead and writes a mask of zeros, all that a prediction does but for
the network. Zarr is read by zarr's own codec pipeline and, where it is installed, by zarrs, everything in turns. Prints
a JSON line for each: million pixels of the image a second (the median over the turns), and how often a pixel of the
image was decoded.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import tifffile
import zarr
from scipy import ndimage
from zarr.codecs import BloscCodec

from tilesegment.geometry import Block, FieldOfView, Region, TileGrid
from tilesegment.images import ImageSource, open_image, read_mirrored
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass
from tilesegment.prediction.engine import stream

Work = Callable[[ImageSource, TileGrid, Path], None]


def write_images(folder: Path, size: int, chunk: int) -> list[Path]:
    """The same grey pixels (size, size) uint8, smooth with some noise, in every way of storing them."""
    rng, side = np.random.default_rng(0), min(size, 2048)
    smooth = ndimage.gaussian_filter(rng.normal(size=(side, side)).astype(np.float32), 3, mode="wrap")
    unit = smooth / smooth.std() * 40 + 128 + rng.normal(size=smooth.shape) * 4
    pixels = np.tile(unit.clip(0, 255).astype(np.uint8), [-(-size // side)] * 2)[:size, :size]
    blosc = BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")
    options: dict[str, Any] = {"data": pixels, "chunks": (chunk, chunk), "compressors": blosc}
    zarr.create_array(folder / "chunks.zarr", **options)
    zarr.create_array(folder / "shards.zarr", shards=(4 * chunk, 4 * chunk), **options)
    for tile in (chunk // 2, chunk):
        tifffile.imwrite(folder / f"tiles-{tile}.tif", pixels, tile=(tile, tile), compression="zlib", predictor=True)
    return sorted(folder.iterdir())


def read(source: ImageSource, grid: TileGrid, out: Path) -> None:
    """Reads every block with its margins."""
    for block in grid:
        read_mirrored(source, block.read)


def copy(source: ImageSource, grid: TileGrid, out: Path) -> None:
    """Reads every block with its margins, and writes a mask of zeros to `out`."""
    spec = MaskSpec(source.shape, None, grid.block, grid.block // 4, (LabelClass("background", "#000000"),), None)

    def fetch(block: Block) -> np.ndarray:
        return read_mirrored(source, block.read)

    def zeros(block: Block, pixels: np.ndarray) -> np.ndarray:
        return np.zeros(block.write.shape, np.uint8)

    mask = create_mask(out, spec)
    for _, error in stream(grid, fetch, zeros, lambda block, ids: mask.write(block.write, ids)):
        if isinstance(error, Exception):
            raise error


def once(image: Path, work: Work, pipeline: str | None, block: int, margin: int) -> tuple[float, float]:
    """Million pixels a second, and bytes decoded for each byte of the image."""
    with ExitStack() as stack:
        out = stack.enter_context(tempfile.TemporaryDirectory(dir=image.parent))
        if pipeline == "zarr":
            stack.enter_context(patch.dict(sys.modules, {"zarrs.pipeline": None}))  # as if it were not installed
        start = time.perf_counter()
        source = stack.enter_context(open_image(image))
        view = FieldOfView(16, margin, margin, True)
        work(source, TileGrid(Region.of_shape(source.shape), block // 4, block, view), Path(out, "mask.zarr"))
        pixels = source.shape[0] * source.shape[1]
        return pixels / 1e6 / (time.perf_counter() - start), source.decoded_bytes / pixels


def measure(images: list[Path], block: int, margin: int, repeats: int) -> Iterator[dict[str, Any]]:
    """A line for each image, pipeline and work; all of them are done once before any is done again."""
    zarrs = ["zarr", "zarrs"] if find_spec("zarrs") is not None else ["zarr"]
    pipelines = {image: zarrs if image.is_dir() else [None] for image in images}
    ways = [(image, pipeline, work) for image in images for pipeline in pipelines[image] for work in (read, copy)]
    rates: dict[Any, list[float]] = {way: [] for way in ways}
    decoded = {}
    for _ in range(repeats):
        for image, pipeline, work in ways:
            rate, decoded[image, pipeline, work] = once(image, work, pipeline, block, margin)
            rates[image, pipeline, work].append(rate)
    for image, pipeline, work in ways:
        way = image, pipeline, work
        named = {"image": image.name, "pipeline": pipeline, "work": work.__name__}
        yield named | {"mpx_per_s": statistics.median(rates[way]), "decoded": decoded[way]}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=16384, help="side of the image")
    parser.add_argument("--block", type=int, default=2048)
    parser.add_argument("--margin", type=int, default=92)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the images are written, and deleted at the end")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        images = write_images(Path(folder), given.size, given.block // 4)
        for line in measure(images, given.block, given.margin, given.repeats):
            print(json.dumps(line))


if __name__ == "__main__":
    main()
