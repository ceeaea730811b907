"""Augmentation: parameters are drawn once, composed into one sampling grid, and applied to image and label alike."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Augmentation:
    """How strongly examples are varied.

    Attributes:
        elastic_sigma: std of the elastic displacements, pixels (10 in the U-Net paper).
        elastic_grid: control points a side of the displacement field (3 in the paper), interpolated bicubically.
        rotation: of any angle, or none at all.
        flip: mirror images with probability 1/2.
        scale: largest factor of enlarging or shrinking.
        contrast, brightness: half-ranges, in std of the image.
        gamma: largest exponent, and its inverse the smallest.
        noise: largest std of additive Gaussian noise, in std of the image.
    """

    elastic_sigma: float = 10.0
    elastic_grid: int = 3
    rotation: bool = True
    flip: bool = True
    scale: float = 1.25
    contrast: float = 0.25
    brightness: float = 0.3
    gamma: float = 1.4
    noise: float = 0.15


def draw_example(
    image: Tensor, label: Tensor, tile: int, output: int, strength: Augmentation, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One training example from a section, at a random place.

    Args:
        image: (C, H, W) float, normalised.
        label: (H, W) class ids.
        tile: side of the network's input.
        output: side of the network's output, at the centre of the input.
        strength: of the variations.
        generator: where the randomness comes from.

    Returns:
        Input (C, tile, tile) float, bilinear, mirrored beyond the section, and its label (output, output) int64,
        nearest.
    """
    grid = sampling_grid(image.shape[-2:], tile, output, strength, generator)
    # align_corners puts -1 and 1 at the centres of the edge pixels, so that reflection does not repeat them
    x = functional.grid_sample(image[None], grid[None], "bilinear", "reflection", align_corners=True)[0]
    crop = (tile - output) // 2
    inner = grid[crop : crop + output, crop : crop + output]
    t = functional.grid_sample(label[None, None].float(), inner[None], "nearest", "reflection", align_corners=True)
    return vary_grey(x, strength, generator), t[0, 0].round().long()


def sampling_grid(
    shape: torch.Size | tuple[int, int], tile: int, output: int, strength: Augmentation, generator: torch.Generator
) -> Tensor:
    """Where each pixel of an example comes from: shift, rotation, scale, flip and elastic displacement in one.

    Returns:
        (tile, tile, 2) as (x, y) in -1 .. 1 from the first to the last pixel centre of a section of `shape` (H, W).
    """
    uniform = torch.rand(6, generator=generator)
    axis = torch.arange(tile, dtype=torch.float32) - (tile - 1) / 2
    x, y = axis[None, :].expand(tile, tile), axis[:, None].expand(tile, tile)
    if strength.elastic_sigma > 0:
        coarse = torch.randn(1, 2, strength.elastic_grid, strength.elastic_grid, generator=generator)
        fine = functional.interpolate(coarse * strength.elastic_sigma, (tile, tile), mode="bicubic", align_corners=True)
        x, y = x + fine[0, 0], y + fine[0, 1]
    angle = uniform[0] * (2 * torch.pi if strength.rotation else 0)
    zoom = strength.scale ** (2 * uniform[1] - 1)
    mirror = -1.0 if strength.flip and uniform[2] < 0.5 else 1.0
    cos, sin = torch.cos(angle) * zoom, torch.sin(angle) * zoom
    x, y = (cos * x - sin * y) * mirror, sin * x + cos * y
    centre_y, centre_x = (_centre(n, output, u) for n, u in zip(shape, uniform[3:5], strict=True))
    height, width = shape
    return torch.stack([2 * (x + centre_x) / max(width - 1, 1) - 1, 2 * (y + centre_y) / max(height - 1, 1) - 1], -1)


def _centre(size: int, output: int, uniform: Tensor) -> Tensor:
    """A random place along an axis for the middle of the output, such that it lies inside where it can."""
    free = max(size - output, 0)
    return (size - 1 - free) / 2 + free * uniform


def vary_grey(x: Tensor, strength: Augmentation, generator: torch.Generator) -> Tensor:
    """Contrast, brightness, gamma and noise on a normalised image (C, H, W); one draw for all channels."""
    uniform = 2 * torch.rand(4, generator=generator) - 1
    low, high = x.amin(), x.amax()
    if strength.gamma > 1 and high > low:
        x = ((x - low) / (high - low)) ** (strength.gamma ** uniform[0]) * (high - low) + low
    mean = x.mean()
    x = (x - mean) * (1 + strength.contrast * uniform[1]) + mean + strength.brightness * uniform[2]
    if strength.noise > 0:
        x = x + torch.randn(x.shape, generator=generator) * (strength.noise * (uniform[3] + 1) / 2)
    return x
