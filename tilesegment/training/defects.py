"""Defects of serial sections in electron microscopy, for networks that are to bear them.

The kinds are those of Funke's gunpowder (`DefectAugment`): a section that is missing, here in part, low contrast, folds
and artefacts.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

KINDS = ("fold", "missing", "contrast", "artefact")


@dataclass(frozen=True)
class Defect:
    """One defect of one example. Its line or spot lies at `place`, its lines run along `angle`.

    Attributes:
        kind: one of `KINDS`. A fold hides a band of tissue under a dark line; a missing part is a grey band; low
            contrast is that of the whole example; an artefact is a dark or bright spot.
        angle: radians.
        place: (x, y) from the example's centre, pixels.
        width: of the fold, the band or the spot's sigma, pixels.
        strength: contrast that is left, or grey value, in std of the image.
    """

    kind: str
    angle: float
    place: tuple[float, float]
    width: float
    strength: float

    def displace(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Where pixels at (x, y) from the centre come from, each (T, T): beyond a fold, from farther away."""
        if self.kind != "fold":
            return x, y
        shift = torch.sign(self._distance(x, y)) * self.width
        return x - math.sin(self.angle) * shift, y + math.cos(self.angle) * shift

    def paint(self, image: Tensor) -> Tensor:
        """The normalised example (C, T, T) with the defect on it."""
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
        """Of (x, y) from the line, with a sign."""
        return (y - self.place[1]) * math.cos(self.angle) - (x - self.place[0]) * math.sin(self.angle)


def draw_defect(tile: int, generator: torch.Generator) -> Defect:
    """A defect of any kind somewhere in an example of side `tile`."""
    u = torch.rand(6, generator=generator, dtype=torch.float64).tolist()
    kind = KINDS[int(u[0] * len(KINDS))]
    widths = {"fold": (3, 9), "missing": (3, 15), "contrast": (0, 0), "artefact": (8, 40)}
    strengths = {"fold": (-3.0, -2.0), "missing": (-2.0, 2.0), "contrast": (0.2, 0.6), "artefact": (-2.5, 2.5)}
    (thin, wide), (weak, strong) = widths[kind], strengths[kind]
    return Defect(
        kind=kind,
        angle=math.pi * u[1],
        place=((u[2] - 0.5) * tile, (u[3] - 0.5) * tile),
        width=thin + (wide - thin) * u[4],
        strength=weak + (strong - weak) * u[5],
    )
