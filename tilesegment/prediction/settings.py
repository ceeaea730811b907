"""What a user may choose about a prediction."""

from collections.abc import Iterable
from dataclasses import dataclass

from tilesegment.errors import PlanError
from tilesegment.geometry import Region


@dataclass(frozen=True)
class Settings:
    """What a user may choose about a prediction; None means: chosen by the plan.

    Attributes:
        tile: side of the network's input, pixels; by default what computes least.
        batch: tiles at a time.
        device: auto, cpu, cuda, cuda:N or mps.
        precision: auto, fp32, bf16, fp16 or, on a CPU with OpenVINO, int8.
        runtime: what runs the network: auto, pytorch or, on a CPU, openvino.
        roi: only these pixels, of level 0.
        level: of the image's pyramid.
        z: only these planes, half-open.
        channels: of the image, in the order in which the model wants them.
        halo: context of a tile, pixels, instead of what makes tiles exact.
        prune: of a U-Net++, the level of the head that is used.
        threshold: two classes: probability above which a pixel is class 1.
        tta: average over the 8 symmetries of the square: 8 times the work, often a better mask.
        normalise: `model` takes the grey values that the model was trained on, `image` measures those of this image.
        skip_empty: which blocks become class 0 without being predicted: `constant`, those of one value; `tissue`, those
            without tissue; or the file of a mask, those where it is zero. None predicts all.
        series: number of the image in a file that holds several, counted from 0; by default the largest.
        invert: where a file says that 0 is white (MINISWHITE), turn its values so that 0 is black.
    """

    tile: int | None = None
    batch: int | None = None
    device: str = "auto"
    precision: str = "auto"
    runtime: str = "auto"
    roi: Region | None = None
    level: int = 0
    z: tuple[int, int] | None = None
    channels: tuple[int, ...] | None = None
    halo: int | None = None
    prune: int | None = None
    threshold: float | None = None
    tta: bool = False
    normalise: str = "model"
    skip_empty: str | None = None
    series: int | None = None
    invert: bool = False

    def check(self) -> None:
        """Whether the values can be.

        Raises:
            PlanError: they cannot; says which.
        """
        if self.batch is not None and not 1 <= self.batch <= 1024:
            raise PlanError(f"--batch is {self.batch}; allowed: auto, 1 to 1024")
        if self.halo is not None and not 0 <= self.halo <= 65_536:
            raise PlanError(f"--halo is {self.halo}; allowed: 0 to 65536 pixels")
        if self.series is not None and self.series < 0:
            raise PlanError(f"--series is {self.series}; images of a file are counted from 0")
        if self.threshold is not None and not 0 < self.threshold < 1:
            raise PlanError(f"--threshold is {self.threshold}; allowed: between 0 and 1")
        if self.roi is not None and not isinstance(self.roi, Region):
            raise PlanError(f"--roi is {self.roi}; expected a tilesegment.Region(y0, x0, y1, x1)")
        if self.runtime not in ("auto", "pytorch", "openvino"):
            raise PlanError(f"--runtime is {self.runtime!r}; allowed: auto, pytorch, openvino")
        if self.normalise not in ("model", "image"):
            raise PlanError(f"--normalise is {self.normalise!r}; allowed: model, image")


def check_names(given: Iterable[str], known: Iterable[str]) -> None:
    """Whether every setting that was given exists.

    Raises:
        PlanError: one does not; lists those that do.
    """
    known = list(known)
    for name in given:
        if name not in known:
            raise PlanError(f"there is no setting {name!r}; there are: {', '.join(known)}")
