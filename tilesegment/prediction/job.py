"""An order whose image and model are open: blocks can be read and predicted."""

import platform
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.images import open_image, read_mirrored
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec
from tilesegment.metadata import PixelSize
from tilesegment.models.model import Model
from tilesegment.prediction.devices import choose_device, this_machine
from tilesegment.prediction.facts import Machine
from tilesegment.prediction.int8 import folder_for, sample_blocks
from tilesegment.prediction.order import Order, check_same, decide, load
from tilesegment.prediction.predictor import BlockPredictor, make_predictor
from tilesegment.prediction.settings import Settings


class Job:
    """An order whose image and model are open. Closes the image when left."""

    def __init__(self, order: Order, source: ImageSource, model: Model) -> None:
        self.order, self.source, self.model = order, source, model
        self.plan, self.settings = order.plan, order.settings
        self._wanted_bytes = 0

    @classmethod
    def prepare(
        cls,
        image: str | Path,
        model: str | Path | None,
        settings: Settings,
        *,
        axes: str | None = None,
        select: Mapping[str, int] | None = None,
        ask: Callable[[Settings], Machine] = this_machine,
    ) -> Self:
        """Decides all there is to decide.

        Args:
            image: path of the image.
            model: path or bundled name; None takes the bundled default for one-channel images.
            settings: what the user chose.
            axes, select: how to read the image, see `open_image`.
            ask: tells of the machine that will predict.

        Raises:
            ImageError, ModelError, PlanError, DeviceError: one of them is not to be had or does not fit the others.
        """
        settings.check()
        source = open_image(image, axes=axes, select=select, series=settings.series, invert=settings.invert)
        try:
            machine = ask(settings)  # may be waited for, an image that cannot be read need not
            order, loaded = decide(source, image, model, settings, machine, ask, axes=axes, select=dict(select or {}))
            return cls(order, source, loaded)
        except BaseException:
            source.close()
            raise

    @classmethod
    def open(cls, order: Order) -> Self:
        """Opens what was decided elsewhere.

        Raises:
            ImageError, ModelError, PlanError: image or model are not to be had here, or are others here.
        """
        chosen = order.settings
        source = open_image(
            order.image, axes=order.axes, select=order.select, series=chosen.series, invert=chosen.invert
        )
        try:
            model = load(order.model, order.settings)
            check_same(order, source, model)
            return cls(order, source, model)
        except BaseException:
            source.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.close()

    @cached_property
    def predictor(self) -> BlockPredictor:
        """The model on this machine's device, made when it is first asked for.

        Raises:
            DeviceError: the device or the precision is not to be had here.
        """
        return make_predictor(
            self.model,
            choose_device(self.settings.device),
            self.plan,
            lambda: [(self.read(z, block), block) for z, block in sample_blocks(self.plan)],
            folder_for(self.order.model),
            batch=self.plan.batch,
            tta=self.settings.tta,
            normalisation=self.order.normalisation,
            threshold=self.settings.threshold,
        )

    @property
    def batch(self) -> int:
        """Tiles at a time: as planned, or what the device's memory allows."""
        fewer = "predictor" in self.__dict__ and self.predictor.lacked_memory
        return self.predictor.batch if fewer else self.plan.batch

    @property
    def disagreement(self) -> float | None:
        """Share of the pixels of some tiles that another class than in fp32 was found for, where that was measured."""
        return self.predictor.disagreement if "predictor" in self.__dict__ else None

    @property
    def read_amplification(self) -> float | None:
        """Bytes of the image that were decoded so far, for each byte of the blocks that were read, margins left out."""
        return self.source.decoded_bytes / self._wanted_bytes if self._wanted_bytes else None

    def read(self, z: int, block: Block, needed: Region | None = None) -> np.ndarray:
        """Pixels (C, H, W) of `block.read` in plane `z`, mirrored beyond the image.

        Args:
            z, block: what is read.
            needed: the part of `block.read` that decides `block.write`; None takes it from the field of view. The last
                tiles may reach further: what is not finite there becomes 0, and decides nothing.

        Raises:
            ImageError: they cannot be read, or hold NaN or infinity where they are needed.
        """
        pixels = read_mirrored(self.source, block.read, self.settings.level, z)
        self._wanted_bytes += block.write.area * len(pixels) * pixels.itemsize
        if self.plan.channels != tuple(range(len(pixels))):
            pixels = pixels[list(self.plan.channels)]
        if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
            return pixels
        needed = self._needed(block) if needed is None else needed
        if not np.isfinite(pixels[:, *needed.within(block.read).slices]).all():
            raise ImageError(
                f"{self.plan.image.path} holds NaN or infinity within {needed}, plane {z}; replace them, or leave "
                "the region out with --roi"
            )
        return np.nan_to_num(pixels, nan=0, posinf=0, neginf=0)

    def _needed(self, block: Block) -> Region:
        """The pixels that decide `block.write`: its last pooling cells whole, and the margin behind them."""
        view, write, read = self.plan.network.view, block.write, block.read
        y1, x1 = (-(-end // view.divisor) * view.divisor + view.after for end in (write.y1, write.x1))
        return Region(read.y0, read.x0, y1, x1).intersect(read)

    def seconds_per_tile(self) -> float:
        """What a tile takes here, measured on one batch after another that warms up."""
        plan = self.plan
        row = Region(0, 0, plan.step, plan.step * plan.batch)
        block = TileGrid(row, plan.step, plan.step * plan.batch, plan.network.view).at(0, 0)
        blank = np.zeros((plan.network.channels, *block.read.shape), self.source.dtype)
        times = []
        for _ in range(2):
            start = time.monotonic()
            self.predictor.predict(blank, block)
            times.append(time.monotonic() - start)
        return times[-1] / plan.batch

    def spec(self) -> MaskSpec:
        """The mask that this job writes."""
        plan, size, (sy, sx) = self.plan, self.source.pixel_size, self.plan.image.scale
        return MaskSpec(
            shape=plan.region.shape,
            depth=None if plan.image.depth is None else len(plan.planes),
            block=plan.block,
            chunk=plan.chunk,
            classes=self.model.header.classes,
            pixel_size=None if size is None else PixelSize(size.y * sy, size.x * sx),
            # the centre of a pixel of a reduced level lies between those of level 0
            offset=(plan.region.y0 + (sy - 1) / (2 * sy), plan.region.x0 + (sx - 1) / (2 * sx)),
            scale=(sy, sx),
            first_plane=plan.planes.start,
            frame=self.source.frame,
            fingerprint=self.order.decides,
            provenance=self._provenance(),
        )

    def _provenance(self) -> dict[str, Any]:
        header = self.model.header
        model = {"name": header.name, "licence": header.licence, "network": header.network, **header.arguments}
        return {
            "image": str(Path(self.plan.image.path).resolve()),
            "image_written": self.order.content.written,
            "model": model | {"weights_sha256": header.weights_sha256, "training": dict(header.training)},
            "batch": self.plan.batch,
            "device": self.plan.device,
            "skipped": self.order.skipping.record,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("tilesegment", "torch", "zarr", "numpy")},
            "machine": platform.platform(),
        }
