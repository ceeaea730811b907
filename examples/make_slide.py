"""Draw a synthetic slide of any size that looks like a transmission electron micrograph of fly neuropil.

    python examples/make_slide.py slide.tif --size 4096 --seed 0 --truth truth.tif

The slide is a tiled, deflate-compressed uint8 grey TIFF of 4 nm a pixel; the truth has the same shape and layout, 0 on
membrane and 1 inside a cell. Both are drawn in units of 256 x 256 pixels, in constant memory. What a unit shows is a
function of the seed and of its place only: structures come from numbers hashed from whole coordinates, so that they
continue in the next unit, and a smaller slide is the corner of a larger one.

Cells are a power diagram of chains of discs: three jittered grids of discs, large to small, where the larger swallow
the smaller; the plane is warped first, so that outlines curve.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tifffile

UNIT = 256  # pixels a side drawn at once
TILE = 512  # side of the tiles of the file
NANOMETRES = 4.0  # a pixel
REACH = 52  # how far beyond its discs a cell may extend, pixels

# spacing of a grid of discs, share of its places that is taken, smallest and largest radius, discs a cell; pixels
LAYERS = ((250, 0.8, 42, 88, 4), (96, 0.8, 17, 36, 4), (40, 1.0, 7, 15, 2))


@dataclass(frozen=True)
class Cell:
    """One neurite: a chain of discs (y, x, radius), (N, 3) float32, in pixels of the warped plane from the unit's corner."""

    discs: np.ndarray
    key: int


@dataclass(frozen=True)
class Geometry:
    """Where things are in one unit; arrays of (256, 256) float32.

    Attributes:
        depth: distance to the nearest border between cells, in pixels; less at corners.
        width: half the width of the membrane there.
        tone: brightness of the cell, standard normal.
        y, x: warped coordinates from the unit's corner.
        cells: the cells that may be seen.
    """

    depth: np.ndarray
    width: np.ndarray
    tone: np.ndarray
    y: np.ndarray
    x: np.ndarray
    cells: list[Cell]


def uniform(seed: int, channel: int, i: np.ndarray, j: np.ndarray, count: int) -> np.ndarray:
    """`count` numbers in 0 .. 1 for each pair of integers (i, j): splitmix64 of the coordinates, (..., count) float64."""
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


def smooth_field(seed: int, channel: int, origin: tuple[int, int], scale: int, size: int = UNIT) -> np.ndarray:
    """Smooth noise of about unit variance, (size, size) float32: cubic B-splines over random nodes `scale` pixels apart."""
    weights, nodes = zip(*(_spline(start, scale, size) for start in origin), strict=True)
    values = (uniform(seed, channel, nodes[0][:, None], nodes[1], 1)[..., 0] - 0.5) * 7.2
    return (weights[0] @ values.astype(np.float32)) @ weights[1].T


def _spline(start: int, scale: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights (size, N) float32 of the nodes (N,) for pixels start, start + 1, ..."""
    at = (start + np.arange(size)) / scale
    nodes = np.arange(int(np.floor(at[0])) - 1, int(np.floor(at[-1])) + 3)
    far = np.abs(at[:, None] - nodes)
    near = 2 / 3 - far**2 * (1 - far / 2)
    return np.where(far < 1, near, np.clip(2 - far, 0, None) ** 3 / 6).astype(np.float32), nodes


def cells_near(seed: int, origin: tuple[int, int], low: float, high: float) -> list[Cell]:
    """The cells with a disc that may matter to the warped coordinates `low` .. `high` (from the unit's corner)."""
    cells = []
    for layer, (spacing, share, smallest, largest, longest) in enumerate(LAYERS):
        reach = largest * (1 + 0.9 * longest) + REACH
        rows, columns = (
            np.arange(int((start + low - reach) // spacing), int((start + high + reach) // spacing) + 1)
            for start in origin
        )
        draws = uniform(seed, layer, rows[:, None], columns, 8)
        for r, c in np.argwhere(draws[..., 0] < share):
            discs = _chain(draws[r, c], smallest, largest, longest)
            discs[:, 0] += (rows[r] + draws[r, c, 6]) * spacing - origin[0]
            discs[:, 1] += (columns[c] + draws[r, c, 7]) * spacing - origin[1]
            margin = discs[:, 2:] + REACH
            if np.any((discs[:, :2] + margin > low).all(1) & (discs[:, :2] - margin < high).all(1)):
                cells.append(Cell(discs.astype(np.float32), int(draws[r, c, 0] / share * 2**31)))
    return cells


def _chain(draw: np.ndarray, smallest: float, largest: float, longest: int) -> np.ndarray:
    """Discs of one cell around the origin, in a bent row, (N, 3)."""
    radius = smallest + (largest - smallest) * draw[1] ** 1.5
    along = np.arange(int(1 + longest * draw[2] ** 1.5))
    angle = 2 * np.pi * draw[3] + along * (draw[4] - 0.5) * 0.9
    radii = radius * (1 - 0.12 * along) * (1 + 0.15 * np.sin(7 * draw[5] + 2 * along))
    return np.stack([np.cumsum(np.sin(angle) * radii * 0.9), np.cumsum(np.cos(angle) * radii * 0.9), radii], 1)


def geometry(seed: int, origin: tuple[int, int]) -> Geometry:
    """Cells and membranes of the unit at `origin` (y, x)."""
    size = UNIT + 1  # one more, to interpolate up to the last pixel
    bend = [
        sum(push * smooth_field(seed, 10 + axis + scale, origin, scale, size) for scale, push in ((256, 20), (48, 3.5)))
        for axis in (0, 1)
    ]
    ramp = np.arange(size, dtype=np.float32)
    y, x = bend[0] + ramp[:, None], bend[1] + ramp
    cells = cells_near(seed, origin, float(min(y.min(), x.min())), float(max(y.max(), x.max())))
    depth, owner = _depth(cells, y[::2, ::2], x[::2, ::2])
    tones = np.array([(uniform(seed, 20, np.array(cell.key), 0, 3).sum() - 1.5) * 2 for cell in cells], np.float32)
    wide = smooth_field(seed, 21, origin, 48)
    width = 3.0 + 0.55 * wide + 2.2 * np.clip(smooth_field(seed, 22, origin, 32) - 1.7, 0, None)
    tone = np.repeat(np.repeat(tones[owner[:-1, :-1]], 2, 0), 2, 1)
    return Geometry(_double(depth), np.maximum(width, 1.6), tone, y[:-1, :-1], x[:-1, :-1], cells)


def _depth(cells: list[Cell], y: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest border (float32) and index of the cell (int) at the warped coordinates `y`, `x`.

    The power distances of the three nearest cells are kept, each as an integer whose low bits name the disc.
    """
    bits, fine = 10, 4  # power distances in steps of 1 / fine^2
    nearest = np.full((3, *y.shape), np.iinfo(np.int32).max, np.int32)
    discs = np.concatenate([cell.discs for cell in cells]) * fine
    assert len(discs) < 1 << bits, f"{len(discs)} discs meet one unit"
    y, x, first = y * fine, x * fine, 0
    for cell in cells:
        own = np.arange(first, first + len(cell.discs))
        first += len(cell.discs)
        window = _window(discs[own], y, x, REACH * fine)
        if window is None:
            continue
        power = np.minimum.reduce([_power(discs[k], y[window], x[window], bits) + k for k in own])
        for level in nearest:
            here = level[window]
            power, level[window] = np.maximum(power, here), np.minimum(power, here)
    disc, rank = nearest & (1 << bits) - 1, nearest >> bits
    apart = [np.hypot(*(discs[disc[0], axis] - discs[disc[k], axis] for axis in (0, 1))) for k in (1, 2)]
    second, third = ((rank[k] - rank[0]) / (2 * fine * np.maximum(apart[k - 1], 1)) for k in (1, 2))
    corner = np.clip(second, 1e-3, 40) / np.clip(0.7 * third, 1e-3, 40)  # both small: a corner, to be rounded
    owner = np.repeat(np.arange(len(cells)), [len(cell.discs) for cell in cells])
    return (np.clip(second, 0, 40) / np.sqrt(1 + corner**2)).astype(np.float32), owner[disc[0]]


def _power(disc: np.ndarray, y: np.ndarray, x: np.ndarray, bits: int) -> np.ndarray:
    power = (y - disc[0]) ** 2 + (x - disc[1]) ** 2 - disc[2] ** 2
    return power.astype(np.int32) << bits


def _window(discs: np.ndarray, y: np.ndarray, x: np.ndarray, reach: float) -> tuple[slice, slice] | None:
    """The part of the (monotonous) coordinates within `reach` of the discs."""
    slices = []
    for axis, (low, high) in enumerate(((y.min(1), y.max(1)), (x.min(0), x.max(0)))):
        near = discs[:, axis], discs[:, 2] + reach
        hit = np.flatnonzero((high > (near[0] - near[1]).min()) & (low < (near[0] + near[1]).max()))
        if hit.size == 0:
            return None
        slices.append(slice(hit[0], hit[-1] + 1))
    return slices[0], slices[1]


def _double(half: np.ndarray) -> np.ndarray:
    """Linear interpolation of (n + 1, n + 1) to (2 n, 2 n)."""
    for _ in (0, 1):
        wide = np.empty((2 * (half.shape[0] - 1), half.shape[1]), np.float32)
        wide[::2], wide[1::2] = half[:-1], (half[:-1] + half[1:]) / 2
        half = wide.T
    return half


def draw_image(seed: int, origin: tuple[int, int]) -> np.ndarray:
    """The micrograph of the unit at `origin`, (256, 256) uint8."""
    place = geometry(seed, origin)
    rng = np.random.Generator(np.random.SFC64([seed, *(part // UNIT for part in origin)]))
    inside = _step((place.depth - place.width - 1.5) / 1.0)
    grey = 141 + 9 * place.tone + 4 * smooth_field(seed, 30, origin, 32)
    grey += (9 * smooth_field(seed, 31, origin, 8) + 15 * smooth_field(seed, 32, origin, 4)) * (0.4 + 0.6 * inside)
    _add_organelles(grey, seed, origin, inside)
    _add_mitochondria(grey, place, seed)
    stain = 70 + 9 * smooth_field(seed, 33, origin, 16) + 14 * np.clip(place.width - 3.5, 0, 1.5)
    edge = _step((place.depth - place.width) / 0.75)
    grey = stain + (grey - stain) * edge
    dense = np.clip(smooth_field(seed, 34, origin, 64) - 1.9, 0, 1) * np.exp(-((place.depth / 9) ** 2))
    grey -= 45 * dense
    noise = rng.standard_normal((UNIT, UNIT), np.float32)
    noise += 0.5 * (np.roll(noise, 1, 0) + np.roll(noise, 1, 1))
    grey += 16 * noise
    contrast = 1 + 0.08 * smooth_field(seed, 35, origin, 1024)
    grey = 126 + (grey - 126) * contrast + 7 * smooth_field(seed, 36, origin, 512)
    return np.clip(grey, 0, 255).astype(np.uint8)


def draw_truth(seed: int, origin: tuple[int, int]) -> np.ndarray:
    """0 on membrane, 1 inside a cell, of the unit at `origin`, (256, 256) uint8."""
    place = geometry(seed, origin)
    return (place.depth > place.width).astype(np.uint8)


def _step(x: np.ndarray) -> np.ndarray:
    """0 to 1 around x = 0, over about 4."""
    return 0.5 + 0.5 * np.tanh(x)


def _add_organelles(grey: np.ndarray, seed: int, origin: tuple[int, int], inside: np.ndarray) -> None:
    """Vesicles (rings) and microtubules (dots), one candidate every 16 pixels."""
    spacing, reach = 16, 8
    rows, columns = (np.arange(start // spacing - 1, (start + UNIT) // spacing + 1) for start in origin)
    draws = uniform(seed, 40, rows[:, None], columns, 6)
    taken = draws[..., 0] < 0.75
    draw = draws[taken]
    y = (np.repeat(rows, len(columns)).reshape(taken.shape)[taken] + draw[:, 1]) * spacing - origin[0]
    x = (np.tile(columns, len(rows)).reshape(taken.shape)[taken] + draw[:, 2]) * spacing - origin[1]
    radius = np.where(draw[:, 3] < 0.5, 0, 2.5 + 3 * draw[:, 4])
    offset = np.arange(-reach, reach + 1)
    at_y, at_x = (np.round(centre)[:, None].astype(int) + offset for centre in (y, x))
    away = np.hypot((at_y - y[:, None])[:, :, None], (at_x - x[:, None])[:, None, :])
    ring = np.exp(-(((away - radius[:, None, None]) / 1.2) ** 2)) * (-20 - 45 * draw[:, 5])[:, None, None]
    canvas = np.zeros((UNIT + 4 * spacing, UNIT + 4 * spacing))
    np.add.at(canvas, (at_y[:, :, None] + 2 * spacing, at_x[:, None, :] + 2 * spacing), ring)
    grey += inside * canvas[2 * spacing : -2 * spacing, 2 * spacing : -2 * spacing].astype(np.float32)


def _add_mitochondria(grey: np.ndarray, place: Geometry, seed: int) -> None:
    """Dark ovals with a membrane and cristae, in some of the larger discs."""
    for cell in place.cells:
        draw = uniform(seed, 50, np.array(cell.key), 0, 8)
        y, x, radius = cell.discs[int(draw[0] * len(cell.discs))]
        if radius < 26 or draw[1] > 0.5:
            continue
        short = (0.34 + 0.2 * draw[2]) * min(radius, 60)
        y, x = y + (draw[3] - 0.5) * radius * 0.5, x + (draw[4] - 0.5) * radius * 0.5
        window = _window(np.array([[y, x, 1.7 * short]]), place.y, place.x, 4)
        if window is None:
            continue
        dy, dx = place.y[window] - y, place.x[window] - x
        sine, cosine = np.sin(np.pi * draw[5]), np.cos(np.pi * draw[5])
        u, v = (cosine * dy + sine * dx) / (1 + 0.5 * draw[6]), cosine * dx - sine * dy
        edge = short - np.hypot(u, v)  # pixels to its outline
        stripes = np.sin(v * (0.75 + 0.2 * draw[7]) + 2.2 * np.sin(u / 9 + 6 * draw[7]))
        body = 88 + 17 * stripes * _step((edge - 5) / 1.5) - 32 * np.exp(-(((edge - 1.5) / 1.8) ** 2))
        cover = _step(edge / 0.9) * _step((place.depth[window] - place.width[window] - 4) / 1.5)
        grey[window] += (body + 0.5 * (grey[window] - 141) - grey[window]) * cover


def make_slide(path: Path, size: int, seed: int = 0, truth: bool = False, tile: int = TILE) -> None:
    """Write the slide of `seed`, or its truth.

    Args:
        path: TIFF file to write; BigTIFF from 2 GB.
        size: height and width in pixels.
        seed: another seed, another slide.
        truth: write the mask, 0 membrane and 1 inside a cell, instead of the micrograph.
        tile: side of the file's tiles, a multiple of 256.
    """
    draw = draw_truth if truth else draw_image
    per_cm = 1e7 / NANOMETRES
    with tifffile.TiffWriter(path, bigtiff=size * size >= 2**31) as file:
        file.write(
            _tiles(draw, size, seed, tile),
            shape=(size, size),
            dtype=np.uint8,
            tile=(tile, tile),
            photometric="minisblack",
            compression="adobe_deflate",
            compressionargs={"level": 1},
            resolution=(per_cm, per_cm),
            resolutionunit="CENTIMETER",
            metadata=None,
        )


def _tiles(draw, size: int, seed: int, tile: int) -> Iterator[np.ndarray]:
    """The file's tiles, row by row; all are whole, what is beyond the slide is not shown."""
    for top in range(0, size, tile):
        for left in range(0, size, tile):
            canvas = np.zeros((tile, tile), np.uint8)
            for y in range(0, min(tile, size - top), UNIT):
                for x in range(0, min(tile, size - left), UNIT):
                    canvas[y : y + UNIT, x : x + UNIT] = draw(seed, (top + y, left + x))
            yield canvas


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw a synthetic electron micrograph of fly neuropil.")
    parser.add_argument("path", type=Path, help="TIFF file to write")
    parser.add_argument("--size", type=int, default=4096, help="height and width in pixels (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another slide (default: %(default)s)")
    parser.add_argument("--truth", type=Path, help="also write the true mask: 0 membrane, 1 inside a cell")
    arguments = parser.parse_args()
    make_slide(arguments.path, arguments.size, arguments.seed)
    if arguments.truth:
        make_slide(arguments.truth, arguments.size, arguments.seed, truth=True)


if __name__ == "__main__":
    main()
