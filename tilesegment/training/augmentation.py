"""Augmentation: draw parameters once, combine them in one sampling grid, and apply it to image and label alike."""

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor
from torch.nn import functional

from tilesegment.training.data import IGNORE
from tilesegment.training.stains import StainDraw, Stains, draw_stains, vary_stains

ZOOM = 1.25  # suits images of one magnification
CELL_SHADES = 0.7  # suits cells that fill the image
_JPEG_QUALITY = (30, 90)  # lowest and highest
_PLACES = 10  # tries to find a place with labelled pixels
# shaded cells: share of the examples, half-range of the factor, number of different shades
_SHADED, _SHADE_FACTOR, _SHADES = 0.7, 0.3, 1024
# Defects as in Funke's gunpowder (`DefectAugment`), each with the ranges of its width and strength. A fold hides a band
# of tissue under a dark line, a missing part is a grey band, an artefact is a dark or bright spot.
DEFECTS = {
    "fold": ((3, 9), (-3.0, -2.0)),
    "missing": ((3, 15), (-2.0, 2.0)),
    "contrast": ((0, 0), (0.2, 0.6)),
    "artefact": ((8, 40), (-2.5, 2.5)),
}


@dataclass(frozen=True)
class Augmentation:
    """How strongly examples are varied.

    Attributes:
        elastic_sigma: std of the elastic displacements, pixels (10 in the U-Net paper); 0 is none.
        elastic_grid: distance of the displacement field's control points in pixels, interpolated bicubically; None is
            half a tile: a 3 x 3 grid, as in the paper.
        rotation: rotate by any angle.
        flip: mirror with probability 1/2.
        zoom: largest factor of enlarging and shrinking. None is 1.5 for labels of instances, as magnifications differ,
            else 1.25.
        contrast, brightness: half-ranges, in std of the image.
        gamma: largest exponent; the smallest is its inverse.
        noise: largest std of additive Gaussian noise, in std of the image.
        blur: largest sigma of a Gaussian blur, pixels; one example in five is blurred.
        defects: share of the examples with a defect of serial-section electron microscopy: `Defect`.
        shades: largest std of the brightness between cells, in std of the image: `shade_cells`. None is `CELL_SHADES`
            if the goal is V_Rand, else 0.
        exposure: largest factor of the grey values above the dark level, which is 0 after normalisation by percentiles;
            the smallest is its inverse. None is 2 for such a normalisation, else 1.
        stains: how much the colours of stains vary, see `stains.draw_stains`. None is 1 for stained sections, else 0.
        jpeg: share of the examples with the artefacts of JPEG. None is 0.2 for labels of instances, else 0.
    """

    elastic_sigma: float = 10.0
    elastic_grid: float | None = None
    rotation: bool = True
    flip: bool = True
    zoom: float | None = None
    contrast: float = 0.25
    brightness: float = 0.3
    gamma: float = 1.4
    noise: float = 0.15
    blur: float = 1.0
    defects: float = 0.0
    shades: float | None = None
    exposure: float | None = None
    stains: float | None = None
    jpeg: float | None = None


@dataclass(frozen=True)
class Defect:
    """A defect of a serial section: `fold`, `missing`, `contrast` or `artefact`.

    Its line or spot lies at `place`, (x, y) pixels from the example's centre; a line runs along `angle`, radians.
    `width` is the line's width or the spot's sigma, `strength` the remaining contrast, or a grey value in std.
    """

    kind: str
    angle: float
    place: tuple[float, float]
    width: float
    strength: float

    def displace(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sources of pixels at (x, y) from the centre, each (T, T): farther away beyond a fold."""
        if self.kind != "fold":
            return x, y
        shift = torch.sign(self._distance(x, y)) * self.width
        return x - math.sin(self.angle) * shift, y + math.cos(self.angle) * shift

    def paint(self, image: Tensor) -> Tensor:
        """Draw the defect on a normalised example (C, T, T)."""
        if self.kind == "contrast":
            mean = image.mean()
            return mean + (image - mean) * self.strength
        axis = torch.arange(image.shape[-1], dtype=torch.float32) - (image.shape[-1] - 1) / 2
        x, y = axis[None, :].expand(image.shape[-2:]), axis[:, None].expand(image.shape[-2:])
        if self.kind == "artefact":
            spot = torch.exp(-((x - self.place[0]) ** 2 + (y - self.place[1]) ** 2) / (2 * self.width**2))
            return image + self.strength * spot
        band = (self.width / 2 - self._distance(x, y).abs() + 0.5).clamp(0, 1)
        return image * (1 - band) + self.strength * band

    def _distance(self, x: Tensor, y: Tensor) -> Tensor:
        """Signed distance of (x, y) from the line."""
        return (y - self.place[1]) * math.cos(self.angle) - (x - self.place[0]) * math.sin(self.angle)


class Source(NamedTuple):
    """A section to draw from."""

    image: Tensor  # (C, H, W) float, normalised
    label: Tensor  # (H, W) uint8 class ids, `IGNORE` where there is none
    border: Tensor | None = None  # (H, W) float weights of the pixels
    cells: Tensor | None = None  # (H, W) int16 of `number_cells`; None if cells keep their shades
    stains: Stains | None = None  # of a stained section; None if its colours stay
    dark: Tensor | float = 0.0  # (C, 1, 1) grey value of the dark level, normalised
    near: tuple[float, float] | None = None  # (y, x) that the output of an example holds; None is anywhere


@dataclass(frozen=True, eq=False)
class Draw:
    """The parameters of one example."""

    elastic: Tensor  # (2, g, g) displacements of the control points as (x, y), pixels
    angle: float  # radians
    zoom: float  # pixels of the section per pixel of the example
    mirror: float  # -1 or 1, on x
    place: Tensor  # (2,) as (y, x) in 0 .. 1, from the first to the last possible place in the section
    contrast: float
    brightness: float
    gamma: float
    noise: float
    blur: float
    defect: Defect | None
    shade: float  # std of the cells' brightness
    seed: int  # of noise and shades
    exposure: float = 1.0
    stains: StainDraw | None = None
    quality: int | None = None  # of JPEG


def draw(strength: Augmentation, tile: int, generator: torch.Generator) -> Draw:
    """Draw the parameters of one example of side `tile`."""
    points = 3 if strength.elastic_grid is None else max(round((tile - 1) / strength.elastic_grid) + 1, 2)
    elastic = torch.randn(2, points, points, generator=generator) * strength.elastic_sigma
    u = torch.rand(11, generator=generator, dtype=torch.float64).tolist()
    drawn = Draw(
        elastic=elastic,
        angle=2 * math.pi * u[0] if strength.rotation else 0.0,
        zoom=(strength.zoom or ZOOM) ** (2 * u[1] - 1),
        mirror=-1.0 if strength.flip and u[2] < 0.5 else 1.0,
        place=torch.rand(2, generator=generator),
        contrast=1 + strength.contrast * (2 * u[3] - 1),
        brightness=strength.brightness * (2 * u[4] - 1),
        gamma=strength.gamma ** (2 * u[5] - 1),
        noise=strength.noise * u[6],
        blur=strength.blur * (5 * u[7] if u[7] < 0.2 else 0),
        defect=draw_defect(tile, generator) if u[8] < strength.defects else None,
        shade=(strength.shades or 0.0) * (u[9] if u[10] < _SHADED else 0),
        seed=int(torch.randint(2**31, (), generator=generator)),
    )
    # drawn last and only if wanted, so that runs without them stay the same
    if (strength.exposure or 1) > 1 or strength.jpeg:
        u = torch.rand(3, generator=generator, dtype=torch.float64).tolist()
        low, high = _JPEG_QUALITY
        quality = round(low + (high - low) * u[2]) if u[1] < (strength.jpeg or 0) else None
        drawn = replace(drawn, exposure=(strength.exposure or 1) ** (2 * u[0] - 1), quality=quality)
    return replace(drawn, stains=draw_stains(strength.stains, generator)) if strength.stains else drawn


def draw_defect(tile: int, generator: torch.Generator) -> Defect:
    """Draw a defect of any kind somewhere in an example of side `tile`."""
    u = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    kind = list(DEFECTS)[int(u[0] * len(DEFECTS))]
    (thin, wide), (weak, strong) = DEFECTS[kind]
    place = (u[2] - 0.5) * tile, (u[3] - 0.5) * tile
    return Defect(kind, math.pi * u[1], place, thin + (wide - thin) * u[4], weak + (strong - weak) * u[5])


def draw_example(
    source: Source, tile: int, output: int, strength: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Draw one example from a section, at a random place with labelled pixels.

    Returns:
        Input (C, tile, tile) float, bilinear, mirrored beyond the section; label (output, output) int64 of its centre,
        nearest; border weights (output, output), bilinear, or None.
    """
    crop = (tile - output) // 2
    for _ in range(_PLACES):
        drawn = draw(strength, tile, generator)
        if source.near is not None:
            drawn = replace(drawn, place=_place_near(source.near, source.label.shape, output, drawn.place))
        grid = sampling_grid(source.image.shape[-2:], tile, output, drawn)
        inner = grid[crop : crop + output, crop : crop + output]
        t = _sample(source.label[None].float(), inner, "nearest")[0].round().long()
        if bool((t != IGNORE).any()):
            break
    w = None if source.border is None else _sample(source.border[None], inner, "bilinear")[0]
    x = _sample(source.image, grid, "bilinear")
    if source.cells is not None and drawn.shade > 0:
        x = shade_cells(x, _sample(source.cells[None].float(), grid, "nearest")[0].round().long(), drawn)
    if source.stains is not None and drawn.stains is not None:
        x = vary_stains(x, source.stains, drawn.stains)
    if drawn.exposure != 1:
        x = (x - source.dark) * drawn.exposure + source.dark
    return vary_grey(x, drawn), t, w


def _sample(values: Tensor, grid: Tensor, mode: str) -> Tensor:
    """`values` (C, H, W) at `grid` (h, w, 2): (C, h, w)."""
    # align_corners puts -1 and 1 at the centres of the edge pixels, so that reflection does not repeat them
    return functional.grid_sample(values[None], grid[None], mode, "reflection", align_corners=True)[0]


def sampling_grid(shape: torch.Size | tuple[int, int], tile: int, output: int, drawn: Draw) -> Tensor:
    """Return the source of each pixel of an example: shift, rotation, scale, flip and displacement in one.

    Returns:
        (tile, tile, 2) as (x, y) in -1 .. 1 from the first to the last pixel centre of a section of `shape` (H, W).
    """
    axis = torch.arange(tile, dtype=torch.float32) - (tile - 1) / 2
    x, y = axis[None, :].expand(tile, tile), axis[:, None].expand(tile, tile)
    if drawn.defect is not None:
        x, y = drawn.defect.displace(x, y)
    if drawn.elastic.any():
        weights = _bicubic(drawn.elastic.shape[-1], tile)
        fine_x, fine_y = weights @ drawn.elastic @ weights.T
        x, y = x + fine_x, y + fine_y
    cos, sin = math.cos(drawn.angle) * drawn.zoom, math.sin(drawn.angle) * drawn.zoom
    x, y = (cos * x - sin * y) * drawn.mirror, sin * x + cos * y
    centre_y, centre_x = (_centre(n, output, float(u)) for n, u in zip(shape, drawn.place, strict=True))
    height, width = shape
    return torch.stack([2 * (x + centre_x) / max(width - 1, 1) - 1, 2 * (y + centre_y) / max(height - 1, 1) - 1], -1)


@lru_cache(maxsize=4)
def _bicubic(points: int, tile: int) -> Tensor:
    """(tile, points) weights of bicubic interpolation along an axis, the first and last pixel on the outer points.

    Two products with small matrices are fifty times as fast as interpolating the plane.
    """
    units = torch.eye(points)[None, None]
    return functional.interpolate(units, (tile, points), mode="bicubic", align_corners=True)[0, 0]


def _place_near(near: tuple[float, float], shape: Sequence[int], output: int, place: Tensor) -> Tensor:
    """A place, as `Draw.place`, at which `near` lies anywhere in the output, as `place` says, if the section allows."""
    places = []
    for at, size, u in zip(near, shape, place.tolist(), strict=True):
        free = max(size - output, 0)
        centre = at + (u - 0.5) * output
        places.append(min(max((centre - (size - 1 - free) / 2) / free, 0.0), 1.0) if free else 0.5)
    return torch.tensor(places)


def _centre(size: int, output: int, place: float) -> float:
    """Centre of the output along an axis, so that it lies inside if possible."""
    free = max(size - output, 0)
    return (size - 1 - free) / 2 + free * place


def inside_cells(label: np.ndarray) -> np.ndarray:
    """Return the pixels of a label (H, W) uint8 with any class but the first: (H, W) bool."""
    return (label > 0) & (label != IGNORE)


def number_cells(label: np.ndarray) -> np.ndarray:
    """Number the cells of a label (H, W) uint8, the 4-connected regions of any class but the first.

    Returns:
        (H, W) int16: 1 to 1023, which distant cells may share, and 0 outside of cells.
    """
    cells, _ = ndimage.label(inside_cells(label))
    return np.where(cells > 0, 1 + (cells - 1) % (_SHADES - 1), 0).astype(np.int16)


def shade_cells(x: Tensor, cells: Tensor, drawn: Draw) -> Tensor:
    """Vary brightness and contrast of each cell in `x` (C, H, W), numbered in `cells` (H, W) int64.

    With few labelled images, few pairs of neighbours differ in shade, and a network does not learn that a change of
    shade, such as from an axon to dark glia, may be the only sign of an obliquely cut membrane.
    """
    generator = torch.Generator().manual_seed(drawn.seed + 1)  # a different stream from the noise's
    added = torch.randn(_SHADES, generator=generator) * drawn.shade
    factor = 1 + _SHADE_FACTOR * (2 * torch.rand(_SHADES, generator=generator) - 1)
    added[0], factor[0] = 0, 1
    maps = torch.stack([factor, added]).index_select(1, cells.flatten()).view(2, *cells.shape)
    # edges no sharper than a microscope's; avg_pool2d would take six times as long
    maps = functional.pad(maps, (2, 2, 2, 2), mode="replicate")
    for axis in (-2, -1, -2, -1):
        size = maps.shape[axis] - 2
        maps = (maps.narrow(axis, 0, size) + maps.narrow(axis, 1, size) + maps.narrow(axis, 2, size)) / 3
    return x * maps[0] + maps[1]


def vary_grey(x: Tensor, drawn: Draw) -> Tensor:
    """Apply defect, blur, gamma, contrast, brightness, noise, JPEG to a normalised (C, H, W), alike in all channels."""
    if drawn.defect is not None:
        x = drawn.defect.paint(x)
    if drawn.blur > 0:
        x = _blur(x, drawn.blur)
    low, high = x.amin(), x.amax()
    if drawn.gamma != 1 and high > low:
        x = ((x - low) / (high - low)) ** drawn.gamma * (high - low) + low
    mean = x.mean()
    x = (x - mean) * drawn.contrast + (mean + drawn.brightness)
    if drawn.noise > 0:
        generator = torch.Generator().manual_seed(drawn.seed)
        x = x + torch.randn(x.shape, generator=generator) * drawn.noise
    return x if drawn.quality is None else compress(x, drawn.quality)


def compress(x: Tensor, quality: int) -> Tensor:
    """Store (C, H, W) as JPEG and read it again: grey, RGB, or each channel by itself; its range becomes 0 to 255."""
    low, high = x.amin(), x.amax()
    if not high > low:
        return x
    levels = ((x - low) / (high - low) * 255).round().byte().numpy()
    pictures = [levels.transpose(1, 2, 0)] if len(levels) == 3 else list(levels)
    read = []
    for picture in pictures:
        stream = io.BytesIO()
        Image.fromarray(picture).save(stream, "JPEG", quality=quality)
        read.append(np.asarray(Image.open(stream)))
    joined = read[0].transpose(2, 0, 1) if len(levels) == 3 else np.stack(read)
    return torch.from_numpy(joined.astype(np.float32)) / 255 * (high - low) + low


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (C, H, W), mirrored at the edges."""
    radius = min(math.ceil(3 * sigma), min(x.shape[-2:]) - 1)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * sigma**2))
    kernel = kernel / kernel.sum()
    padded = functional.pad(x[:, None], (radius,) * 4, mode="reflect")
    across = functional.conv2d(padded, kernel[None, None, None, :])
    return functional.conv2d(across, kernel[None, None, :, None])[:, 0]
