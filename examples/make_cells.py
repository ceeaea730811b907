"""Make a synthetic mask of cells of any size, to be counted, measured and outlined.

    python examples/make_cells.py mask.zarr --size 32768 --seed 0

The mask has the classes background and cell and pixels of 0.5 um. It holds ellipses of 12 to 36 pixels, about a million
in 32768 x 32768 pixels; some touch, some form clusters, some have a hole. All about an ellipse is hashed from the seed
and its place in a lattice: any part of a mask can be drawn on its own, a smaller mask is the corner of a larger one,
and memory holds one block. Prints the number of ellipses whose centre lies in the mask.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass, PixelSize, frame_of_size

BLOCK, CHUNK = 2048, 512  # pixels a side
PIXEL = PixelSize(0.5, 0.5)
CLASSES = (LabelClass("background", "#000000"), LabelClass("cell", "#e69f00", role="object"))
PITCH = 29  # pixels between the places of the lattice
JITTER = 7  # pixels by which a centre lies off its place, at most
SMALLEST, LARGEST = 6.0, 18.0  # half axes, pixels
CLUSTER = 9  # places of the lattice along the side of a square that may hold a cluster
REACH = LARGEST + JITTER


@dataclass(frozen=True)
class Ellipses:
    """Ellipses by their centres and quadratic forms: a pixel centre is inside where a dy^2 + 2 b dy dx + c dx^2 <= 1.

    Attributes:
        y, x: (N,) float64 centres, pixels; the first pixel is 0 to 1.
        a, b, c: (N,) float64.
        sign: (N,) int8, 1, or -1 for the hole of another ellipse.
    """

    y: np.ndarray
    x: np.ndarray
    a: np.ndarray
    b: np.ndarray
    c: np.ndarray
    sign: np.ndarray


def uniform(seed: int, channel: int, i: np.ndarray, j: np.ndarray, count: int) -> np.ndarray:
    """Return `count` numbers in 0 .. 1 for each pair of integers (i, j), by splitmix64: (count, ...) float64."""
    i, j = np.broadcast_arrays(i, j)
    state = np.full(i.shape, (seed * 1000 + channel) & 0xFFFFFFFF, np.uint64)
    for part in (i, j):
        state = _mix(state ^ part.astype(np.int64).view(np.uint64))
    return np.stack([_mix(state + np.uint64(n)) / 2.0**64 for n in range(count)])


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def ellipses_near(seed: int, region: Region) -> Ellipses:
    """Return the ellipses, and their holes, that may reach into a region; of all others nothing is computed."""
    rows, columns = (
        np.arange(int((start - REACH) // PITCH) - 1, int((end + REACH) // PITCH) + 1)
        for start, end in ((region.y0, region.y1), (region.x0, region.x1))
    )
    crowded = uniform(seed, 0, rows[:, None] // CLUSTER, columns // CLUSTER, 1)[0] < 0.1
    layers = []
    for layer, (here, elsewhere) in enumerate(((1.0, 0.8), (0.5, 0.0)), 1):  # a second layer fills the clusters
        draws = uniform(seed, layer, rows[:, None], columns, 8)
        row, column = np.nonzero(draws[0] < np.where(crowded, here, elsewhere))
        layers.append((row, column, draws[:, row, column]))
    row, column, draw = (np.concatenate(parts, axis=-1) for parts in zip(*layers, strict=True))
    y = (rows[row] + 0.5) * PITCH + (2 * draw[1] - 1) * JITTER
    x = (columns[column] + 0.5) * PITCH + (2 * draw[2] - 1) * JITTER
    long = SMALLEST + (LARGEST - SMALLEST) * draw[3] ** 2
    short = np.maximum(long * (0.6 + 0.4 * draw[4]), SMALLEST)
    holed = (draw[6] < 0.03) & (short > 8)
    size = 0.2 + 0.2 * draw[7]  # of a hole, as a share of its ellipse
    whole = _forms(y, x, long, short, np.pi * draw[5], 1)
    holes = _forms(*(one[holed] for one in (y, x, long * size, short * size, np.pi * draw[5])), -1)
    return Ellipses(*(np.concatenate(pair) for pair in zip(whole, holes, strict=True)))


def _forms(
    y: np.ndarray, x: np.ndarray, long: np.ndarray, short: np.ndarray, angle: np.ndarray, sign: int
) -> tuple[np.ndarray, ...]:
    """The attributes of `Ellipses` for half axes and the angle between the long one and the x axis."""
    sine, cosine = np.sin(angle), np.cos(angle)
    a, c = ((one / long) ** 2 + (other / short) ** 2 for one, other in ((sine, cosine), (cosine, sine)))
    return y, x, a, sine * cosine * (1 / long**2 - 1 / short**2), c, np.full(y.shape, sign, np.int8)


def draw(seed: int, region: Region) -> np.ndarray:
    """Draw a region of the mask: class ids (h, w) uint8."""
    found = ellipses_near(seed, region)
    # the pixels of each ellipse in each row, as first and last + 1
    first = np.floor(found.y - LARGEST).astype(np.int64)
    rows = first[:, None] + np.arange(int(2 * LARGEST) + 2)
    dy = rows + 0.5 - found.y[:, None]
    a, b, c = found.a[:, None], found.b[:, None], found.c[:, None]
    root = (b * dy) ** 2 - c * (a * dy**2 - 1)
    half = np.sqrt(np.maximum(root, 0)) / c
    middle = found.x[:, None] - b * dy / c - 0.5
    starts, ends = np.ceil(middle - half), np.floor(middle + half) + 1
    meets = (root >= 0) & (starts < ends) & (ends > region.x0) & (starts < region.x1)
    meets &= (rows >= region.y0) & (rows < region.y1)
    height, width = region.shape
    line = rows[meets] - region.y0
    sign = np.broadcast_to(found.sign[:, None], rows.shape)[meets]
    # how many ellipses begin less how many end at each pixel; their sum along a row is how many cover it
    steps = np.zeros((height, width + 1), np.int8)
    for columns, step in ((starts, sign), (ends, -sign)):
        at = np.clip(columns[meets] - region.x0, 0, width).astype(np.int64)
        np.add.at(steps.reshape(-1), line * (width + 1) + at, step)
    return (np.cumsum(steps[:, :-1], axis=1, dtype=np.int8) > 0).astype(np.uint8)


def centres_within(seed: int, region: Region) -> int:
    """Count the ellipses whose centre lies in a region."""
    found = ellipses_near(seed, region)
    inside = (found.y >= region.y0) & (found.y < region.y1) & (found.x >= region.x0) & (found.x < region.x1)
    return int(np.count_nonzero(inside & (found.sign > 0)))


def make_cells(path: Path, size: int, seed: int = 0) -> int:
    """Write a mask of `size` x `size` pixels; return the number of ellipses whose centre lies in it."""
    whole = Region.of_shape((size, size))
    place = {"image": "cells", "shape": [size, size], "level": 0, "planes": [0, 1], "region": [0, 0, size, size]}
    spec = MaskSpec(
        (size, size), None, BLOCK, CHUNK, CLASSES, PIXEL, frame=frame_of_size(PIXEL), fingerprint=place | {"seed": seed}
    )
    writer, count = create_mask(path, spec), 0
    with writer.claimed():
        for region in whole.squares(BLOCK):
            writer.write(region, draw(seed, region))
            count += centres_within(seed, region)
        writer.finish()
    return count


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="NAME.zarr")
    parser.add_argument("--size", type=int, default=32768, help="pixels a side")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    print(make_cells(given.out, given.size, given.seed))


if __name__ == "__main__":
    main()
