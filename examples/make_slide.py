"""Draw a synthetic slide of any size that looks like a transmission electron micrograph of fly neuropil.

    python examples/make_slide.py slide.tif --size 4096 --seed 0 --truth truth.tif

The slide is a tiled, deflate-compressed uint8 grey TIFF of 4 nm a pixel; the truth has the same shape and layout, 0 on
membrane and 1 inside a cell. Both are drawn in units of 512 x 512 pixels, in constant memory. What a unit shows is a
function of the seed and of its place only: structures come from numbers hashed from whole coordinates, so that they
continue in the next unit, and a smaller slide is the corner of a larger one.

Cells are a power diagram of chains of discs: three jittered grids of discs, large to small, where the larger swallow
the smaller; the plane is warped first, so that outlines curve.
"""

import argparse
import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import tifffile

UNIT = 512  # pixels a side drawn at once, a tile of the file
NANOMETRES = 4.0  # a pixel
REACH = 52  # how far beyond its discs a cell may extend, pixels

# spacing of a grid of discs, share of its places that is taken, smallest and largest radius, discs a cell; pixels
LAYERS = ((240, 0.85, 40, 85, 4), (92, 0.95, 15, 38, 4), (50, 1.0, 6, 20, 3))


@dataclass(frozen=True)
class Cell:
    """One neurite.

    Attributes:
        discs: chain of (y, x, radius), (N, 3) float32, pixels of the warped plane from the unit's corner.
        tone: its brightness, about standard normal.
        draw: (8,) numbers in 0 .. 1 that say where its mitochondrion is and how it looks.
    """

    discs: np.ndarray
    tone: float
    draw: np.ndarray


@dataclass(frozen=True)
class Geometry:
    """Where things are in one unit; arrays of (512, 512), float32 but for `owner`.

    Attributes:
        depth: distance to the nearest border between cells, in pixels; less at corners.
        width: half the width of the membrane there.
        owner: index of the cell, int.
        y, x: warped coordinates from the unit's corner.
        cells: the cells that may be seen.
    """

    depth: np.ndarray
    width: np.ndarray
    owner: np.ndarray
    y: np.ndarray
    x: np.ndarray
    cells: list[Cell]


def uniform(seed: int, channel: int, i: np.ndarray, j: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in 0 .. 1 for each pair of integers (i, j), by splitmix64: (..., count) float64."""
    i, j = np.broadcast_arrays(i, j)
    state = np.full(i.shape, (seed * 1000 + channel) & 0xFFFFFFFF, np.uint64)
    for part in (i, j):
        state = _mix(state ^ part.astype(np.int64).view(np.uint64))
    return _mix(state[..., None] + np.arange(count, dtype=np.uint64)) / 2.0**64


def _mix(state: np.ndarray) -> np.ndarray:
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def smooth_field(seed: int, channel: int, origin: tuple[int, int], scale: int, more: int = 0) -> np.ndarray:
    """Smooth noise of about unit variance, (512 + more, ...) float32: cubic B-splines, nodes `scale` pixels apart."""
    weights = [_spline(start % scale, scale, UNIT + more) for start in origin]
    nodes = [start // scale - 1 + np.arange(weight.shape[1]) for start, weight in zip(origin, weights, strict=True)]
    values = (uniform(seed, channel, nodes[0][:, None], nodes[1], 1)[..., 0] - 0.5) * 7.2
    return (weights[0] @ values.astype(np.float32)) @ weights[1].T


@lru_cache(maxsize=256)
def _spline(start: int, scale: int, size: int) -> np.ndarray:
    """Weights (size, N) float32 that the nodes at -1, 0, 1, ... have for pixels start, start + 1, ..."""
    at = (start + np.arange(size)) / scale
    far = np.abs(at[:, None] - np.arange(-1, int(at[-1]) + 3))
    near = 2 / 3 - far**2 * (1 - far / 2)
    return np.where(far < 1, near, np.clip(2 - far, 0, None) ** 3 / 6).astype(np.float32)


def cells_near(seed: int, origin: tuple[int, int], low: float, high: float) -> list[Cell]:
    """The cells that may matter to the warped coordinates `low` .. `high` (from the unit's corner)."""
    cells = []
    for layer, (spacing, share, smallest, largest, longest) in enumerate(LAYERS):
        reach = largest * (1 + 0.9 * longest) + REACH
        rows, columns = (
            np.arange(int((start + low - reach) // spacing), int((start + high + reach) // spacing) + 1)
            for start in origin
        )
        draws = uniform(seed, layer, rows[:, None], columns, 19)
        row, column = np.nonzero(draws[..., 0] < share)
        draw = draws[row, column]
        discs = _chains(draw, smallest, largest, longest)
        discs[..., 0] += ((rows[row] + draw[:, 6]) * spacing - origin[0])[:, None]
        discs[..., 1] += ((columns[column] + draw[:, 7]) * spacing - origin[1])[:, None]
        margin = discs[..., 2:] + REACH
        near = ((discs[..., :2] + margin > low) & (discs[..., :2] - margin < high)).all(2).any(1)
        counts = (1 + longest * draw[:, 2] ** 1.5).astype(int)
        tones = 2 * (draw[:, 8:11].sum(1) - 1.5)
        cells += [Cell(discs[k, : counts[k]].astype(np.float32), tones[k], draw[k, 11:]) for k in np.flatnonzero(near)]
    return cells


def _chains(draw: np.ndarray, smallest: float, largest: float, longest: int) -> np.ndarray:
    """The longest chains of discs, in bent rows from the origin, that the draws (M, 6..) allow: (M, longest, 3)."""
    draw = draw.T[..., None]
    along = np.arange(longest)
    angle = 2 * np.pi * draw[3] + along * (draw[4] - 0.5) * 0.9
    radii = smallest + (largest - smallest) * draw[1] ** 1.5
    radii = radii * (1 - 0.12 * along) * (1 + 0.15 * np.sin(7 * draw[5] + 2 * along))
    return np.stack([*(np.cumsum(turn(angle) * radii * 0.9, 1) for turn in (np.sin, np.cos)), radii], 2)


def geometry(seed: int, origin: tuple[int, int]) -> Geometry:
    """Cells and membranes of the unit at `origin` (y, x)."""
    more = 1  # to interpolate up to the last pixel
    bend = np.zeros((2, UNIT + more, UNIT + more), np.float32)
    for scale, push in ((256, 22), (64, 8), (24, 1.6)):
        bend += [push * smooth_field(seed, 10 + axis + scale, origin, scale, more) for axis in (0, 1)]
    ramp = np.arange(UNIT + more, dtype=np.float32)
    y, x = bend[0] + ramp[:, None], bend[1] + ramp
    cells = cells_near(seed, origin, float(min(y.min(), x.min())), float(max(y.max(), x.max())))
    depth, owner = _depth(cells, y[::2, ::2], x[::2, ::2])
    width = 2.45 + 0.45 * smooth_field(seed, 21, origin, 48)
    width += 2.5 * np.clip(smooth_field(seed, 22, origin, 32) - 1.7, 0, None)
    owner = np.repeat(np.repeat(owner[:-1, :-1], 2, 0), 2, 1)
    return Geometry(_double(depth), np.maximum(width, 1.5), owner, y[:-1, :-1], x[:-1, :-1], cells)


def _depth(cells: list[Cell], y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest border (float32) and index of the cell (int) at the warped coordinates `y`, `x`.

    The power distances of the three nearest cells are kept, each as an integer whose low bits name the disc.
    """
    bits, fine = 10, 4  # power distances in steps of 1 / fine^2
    nearest = np.full((3, *y.shape), np.iinfo(np.int32).max, np.int32)
    discs = np.concatenate([cell.discs for cell in cells]) * fine
    assert len(discs) < 1 << bits, f"{len(discs)} discs meet one unit"
    y, x = y * fine, x * fine
    counts = [len(cell.discs) for cell in cells]
    starts = np.cumsum([0, *counts[:-1]])
    box = discs[:, :2] - discs[:, 2:], discs[:, :2] + discs[:, 2:]
    lows, highs = np.minimum.reduceat(box[0], starts), np.maximum.reduceat(box[1], starts)
    for start, count, window in zip(starts, counts, _windows(lows, highs, y, x, REACH * fine), strict=True):
        around = y[window], x[window]
        power = np.minimum.reduce([_power(discs[k], *around, bits) + k for k in range(start, start + count)])
        for level in nearest:
            here = level[window]
            power, level[window] = np.maximum(power, here), np.minimum(power, here)
    disc, rank = nearest & (1 << bits) - 1, nearest >> bits
    apart = [np.hypot(*(discs[disc[0], axis] - discs[disc[k], axis] for axis in (0, 1))) for k in (1, 2)]
    second, third = ((rank[k] - rank[0]) / (2 * fine * np.maximum(apart[k - 1], 1)) for k in (1, 2))
    corner = np.clip(second, 1e-3, 40) / np.clip(0.55 * third, 1e-3, 40)  # both small: a corner, to be rounded
    owner = np.repeat(np.arange(len(cells)), counts)
    return (np.clip(second, 0, 40) / np.sqrt(1 + corner**2)).astype(np.float32), owner[disc[0]]


def _power(disc: np.ndarray, y: np.ndarray, x: np.ndarray, bits: int) -> np.ndarray:
    power = (y - disc[0]) ** 2 + (x - disc[1]) ** 2 - disc[2] ** 2
    return power.astype(np.int32) << bits


def _windows(
    lows: np.ndarray, highs: np.ndarray, y: np.ndarray, x: np.ndarray, reach: float
) -> list[tuple[slice, slice]]:
    """Where the coordinates `y`, `x` are within `reach` of boxes from `lows` to `highs`, each (N, 2)."""
    # all bounds rise, since the warp folds nothing over
    bounds = (y.min(1), y.max(1)), (x.min(0), x.max(0))
    starts = [np.searchsorted(high, lows[:, axis] - reach) for axis, (_, high) in enumerate(bounds)]
    stops = [np.searchsorted(low, highs[:, axis] + reach) for axis, (low, _) in enumerate(bounds)]
    return [
        (slice(y0, y1), slice(x0, x1)) for y0, y1, x0, x1 in zip(starts[0], stops[0], starts[1], stops[1], strict=True)
    ]


def _double(half: np.ndarray) -> np.ndarray:
    """Linear interpolation of (n + 1, n + 1) to (2 n, 2 n)."""
    for _ in (0, 1):
        wide = np.empty((2 * (half.shape[0] - 1), half.shape[1]), np.float32)
        wide[::2], wide[1::2] = half[:-1], (half[:-1] + half[1:]) / 2
        half = wide.T
    return half


def draw_image(seed: int, origin: tuple[int, int]) -> np.ndarray:
    """The micrograph of the unit at `origin`, (512, 512) uint8."""
    place = geometry(seed, origin)
    rng = np.random.Generator(np.random.SFC64([seed, *(part // UNIT for part in origin)]))
    inside = _step((place.depth - place.width - 1.5) / 1.0)
    tones = np.array([cell.tone for cell in place.cells], np.float32)
    grey = 151 + 9 * tones[place.owner] + 4 * smooth_field(seed, 30, origin, 32)
    grey += (9 * smooth_field(seed, 31, origin, 8) + 13 * smooth_field(seed, 32, origin, 4)) * (0.4 + 0.6 * inside)
    _add_organelles(grey, seed, origin, inside)
    _add_mitochondria(grey, place)
    stain = 70 + 9 * smooth_field(seed, 33, origin, 16) + 14 * np.clip(place.width - 3.5, 0, 1.5)
    edge = _step((place.depth - place.width) / 0.75)
    grey = stain + (grey - stain) * edge
    dense = np.clip(smooth_field(seed, 34, origin, 64) - 1.9, 0, 1) * np.exp(-((place.depth / 9) ** 2))
    grey -= 45 * dense
    noise = rng.standard_normal((UNIT, UNIT), np.float32)
    for axis in (0, 1):  # neighbours share noise, as in a scanned micrograph
        noise += 0.9 * np.roll(noise, 1, axis)
    grey += 11 * noise
    contrast = 1 + 0.08 * smooth_field(seed, 35, origin, 1024)
    grey = 126 + (grey - 126) * contrast + 7 * smooth_field(seed, 36, origin, 512)
    return np.clip(grey, 0, 255).astype(np.uint8)


def draw_truth(seed: int, origin: tuple[int, int]) -> np.ndarray:
    """0 on membrane, 1 inside a cell, of the unit at `origin`, (512, 512) uint8."""
    place = geometry(seed, origin)
    return (place.depth > place.width).astype(np.uint8)


def _step(x: np.ndarray) -> np.ndarray:
    """0 to 1 around x = 0, over about 4."""
    return 0.5 + 0.5 * np.tanh(x)


def _add_organelles(grey: np.ndarray, seed: int, origin: tuple[int, int], inside: np.ndarray) -> None:
    """Vesicles (rings) and microtubules (dots), one candidate every 13 pixels."""
    spacing, reach = 13, 7
    rows, columns = (np.arange(start // spacing - 1, (start + UNIT) // spacing + 1) for start in origin)
    draws = uniform(seed, 40, rows[:, None], columns, 6)
    row, column = np.nonzero(draws[..., 0] < 0.75)
    draw = draws[row, column].astype(np.float32)
    y = (rows[row] + draw[:, 1]) * spacing - origin[0]
    x = (columns[column] + draw[:, 2]) * spacing - origin[1]
    radius = np.where(draw[:, 3] < 0.5, 0, 2.5 + 3 * draw[:, 4])
    offset = np.arange(-reach, reach + 1)
    at_y, at_x = (np.round(centre)[:, None].astype(int) + offset for centre in (y, x))
    dy, dx = ((at - centre[:, None]).astype(np.float32) for at, centre in ((at_y, y), (at_x, x)))
    away = np.hypot(dy[:, :, None], dx[:, None, :])
    ring = np.exp(-(((away - radius[:, None, None]) / 1.2) ** 2)) * (-25 - 50 * draw[:, 5])[:, None, None]
    border = 3 * spacing
    canvas = np.zeros((UNIT + 2 * border, UNIT + 2 * border), np.float32)
    np.add.at(canvas, (at_y[:, :, None] + border, at_x[:, None, :] + border), ring)
    grey += inside * canvas[border:-border, border:-border]


def _add_mitochondria(grey: np.ndarray, place: Geometry) -> None:
    """Dark ovals with a membrane and cristae, in some of the larger discs."""
    cells = [index for index, cell in enumerate(place.cells) if cell.draw[1] < 0.5 and cell.discs[0, 2] > 26]
    for index in cells:
        draw, discs = place.cells[index].draw.tolist(), place.cells[index].discs
        y, x, radius = discs[int(draw[0] * len(discs))].tolist()
        short = (0.34 + 0.2 * draw[2]) * min(radius, 60)
        centre = np.array([[y + (draw[3] - 0.5) * radius * 0.5, x + (draw[4] - 0.5) * radius * 0.5]])
        (window,) = _windows(centre, centre, place.y, place.x, 1.7 * short + 4)
        if grey[window].size == 0:
            continue
        dy, dx = (at[window] - np.float32(middle) for at, middle in zip((place.y, place.x), centre[0], strict=True))
        sine, cosine = math.sin(math.pi * draw[5]), math.cos(math.pi * draw[5])
        u, v = (cosine * dy + sine * dx) / (1 + 0.5 * draw[6]), cosine * dx - sine * dy
        edge = short - np.hypot(u, v)  # pixels to its outline
        stripes = np.sin(v * (0.75 + 0.2 * draw[7]) + 2.2 * np.sin(u / 9 + 6 * draw[7]))
        body = 86 + 19 * stripes * _step((edge - 5) / 1.5) - 32 * np.exp(-(((edge - 1.5) / 1.8) ** 2))
        cover = _step(edge / 0.9) * _step((place.depth[window] - place.width[window] - 4) / 1.5)
        cover *= place.owner[window] == index
        grey[window] += (body + 0.5 * (grey[window] - 141) - grey[window]) * cover


def make_slide(path: Path, size: int, seed: int = 0, truth: bool = False) -> None:
    """Write the slide of `seed`, or its truth.

    Args:
        path: TIFF file to write; BigTIFF from 2 GB.
        size: height and width in pixels.
        seed: another seed, another slide.
        truth: write the mask, 0 membrane and 1 inside a cell, instead of the micrograph.
    """
    draw = draw_truth if truth else draw_image
    per_cm = 1e7 / NANOMETRES
    corners = range(0, size, UNIT)
    with tifffile.TiffWriter(path, bigtiff=size * size >= 2**31) as file:
        file.write(
            # whole tiles, row by row
            (draw(seed, (y, x)) for y in corners for x in corners),
            shape=(size, size),
            dtype=np.uint8,
            tile=(UNIT, UNIT),
            photometric="minisblack",
            compression="adobe_deflate",
            compressionargs={"level": 1},
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            metadata=None,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a synthetic electron micrograph of fly neuropil.")
    parser.add_argument("path", type=Path, help="TIFF file to write")
    parser.add_argument("--size", type=int, default=4096, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another slide (default: %(default)s)")
    parser.add_argument("--truth", type=Path, help="also write the true mask: 0 membrane, 1 inside a cell")
    arguments = parser.parse_args()
    if arguments.size < 1 or arguments.seed < 0:
        parser.error("--size is at least 1, --seed at least 0")
    make_slide(arguments.path, arguments.size, arguments.seed)
    if arguments.truth:
        make_slide(arguments.truth, arguments.size, arguments.seed, truth=True)


if __name__ == "__main__":
    main()
