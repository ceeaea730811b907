"""A prediction, ready to run: an image, a model, a plan and what is recorded of them."""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilesegment.engine import Progress, stream
from tilesegment.errors import ImageError, ModelError, PlanError
from tilesegment.exchange.onnx_model import OnnxModel, load_model
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.images import open_image, read_mirrored
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec, MaskWriter
from tilesegment.metadata import PixelSize
from tilesegment.model import Model
from tilesegment.models import DEFAULT
from tilesegment.normalisation import choose_normalisation
from tilesegment.plan import ImageFacts, NetworkFacts, Settings, fingerprint, make_plan
from tilesegment.predictors.devices import choose_device, choose_precision, free_memory
from tilesegment.predictors.torch import TorchPredictor


class Job:
    """An image, a model and a plan, ready to run. Closes the image when left.

    Args:
        image: path of the image.
        model: path or bundled name; None takes the bundled default for one-channel images.
        settings: what the user chose.
        axes, select: how to read the image, see `open_image`.

    Raises:
        ImageError, ModelError, PlanError, DeviceError: one of them is not to be had or does not fit the others.
    """

    def __init__(
        self,
        image: str | Path,
        model: str | Path | None,
        settings: Settings,
        *,
        axes: str | None = None,
        select: Mapping[str, int] | None = None,
    ) -> None:
        settings.check()
        device = choose_device(settings.device)
        self.settings, self.axes, self.select = settings, axes, dict(select or {})
        self.source = open_image(image, axes=axes, select=select)
        try:
            facts = _image_facts(self.source, settings.level)
            loaded = load_model(model if model is not None else _default_model(self.source, settings))
            self.model = _as_wanted(loaded, settings)
            precision = choose_precision(device, settings.precision)
            if isinstance(self.model, OnnxModel) and settings.precision == "auto":
                precision = "fp32"  # it computes in its own
            network = _network_facts(self.model)
            free = free_memory(device)
            self.plan = make_plan(facts, network, settings, device=str(device), precision=precision, free_bytes=free)
            trained = self.model.header.normalisation
            self.normalisation = choose_normalisation(trained, self.source, self.plan, settings)
        except BaseException:
            self.source.close()
            raise
        self.predictor = TorchPredictor(
            self.model,
            device,
            precision,
            batch=self.plan.batch,
            tta=settings.tta,
            normalisation=self.normalisation,
            threshold=settings.threshold,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.close()

    def read(self, z: int, block: Block) -> np.ndarray:
        """Pixels (C, H, W) of `block.read` in plane `z`, mirrored beyond the image.

        Raises:
            ImageError: they cannot be read, or hold NaN or infinity.
        """
        pixels = read_mirrored(self.source, block.read, self.settings.level, z)
        if self.plan.channels != tuple(range(len(pixels))):
            pixels = pixels[list(self.plan.channels)]
        if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
            raise ImageError(
                f"{self.plan.image.path} holds NaN or infinity within {block.read}, plane {z}; replace them, or leave "
                "the region out with roi"
            )
        return pixels

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
        header = self.model.header
        decides = {
            "model": header.weights_sha256,
            "classes": [one.name for one in header.classes],
            "normalisation": asdict(self.normalisation),
            "halo": self.plan.network.view.before,
            "threshold": self.predictor.threshold,
            "dtype": str(self.source.dtype),
            "axes": self.axes,
            "select": self.select,
        }
        return MaskSpec(
            shape=plan.region.shape,
            depth=None if plan.image.depth is None else len(plan.planes),
            block=plan.block,
            chunk=plan.chunk,
            classes=header.classes,
            pixel_size=None if size is None else PixelSize(size.y * sy, size.x * sx),
            # the centre of a pixel of a reduced level lies between those of level 0
            offset=(plan.region.y0 + (sy - 1) / (2 * sy), plan.region.x0 + (sx - 1) / (2 * sx)),
            scale=(sy, sx),
            first_plane=plan.planes.start,
            fingerprint=fingerprint(plan, self.settings, decides),
            provenance=self._provenance(),
        )

    def _provenance(self) -> dict[str, Any]:
        header = self.model.header
        model = {"name": header.name, "licence": header.licence, "network": header.network, **header.arguments}
        return {
            "image": str(Path(self.plan.image.path).resolve()),
            "model": model | {"weights_sha256": header.weights_sha256, "training": dict(header.training)},
            "batch": self.plan.batch,
            "device": self.plan.device,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("tilesegment", "torch", "zarr", "numpy")},
            "machine": platform.platform(),
        }

    def run(
        self, mask: MaskWriter, probabilities: MaskWriter | None, report: Callable[[Progress, int], None]
    ) -> Progress:
        """Predicts every block that is not stored yet and stores it; the mask is not finished.

        Args:
            mask, probabilities: where to.
            report: called after every block with how far it is, and the pixels that this run decides in all.

        Raises:
            ImageError, MaskError: pixels cannot be read, or blocks not be written; what is stored stays.
        """
        origin = self.plan.region
        stores = [mask] if probabilities is None else [probabilities, mask]

        def is_open(z: int, block: Block) -> bool:
            region, plane = block.write.within(origin), z - self.plan.planes.start
            return not all(store.is_done(region, plane) for store in stores)

        def decide(pixels: np.ndarray, block: Block) -> list[np.ndarray]:
            if probabilities is None:
                return [self.predictor.predict(pixels, block)]
            ids, likely = self.predictor.predict_probabilities(pixels, block)
            return [likely.astype(np.float32, copy=False), ids]

        def write(z: int, block: Block, results: list[np.ndarray]) -> None:
            region, plane = block.write.within(origin), z - self.plan.planes.start
            for store, result in zip(stores, results, strict=True):
                store.write(region, result, plane)

        total = sum(block.write.area for z, block in self.plan.work() if is_open(z, block))
        work = ((z, block) for z, block in self.plan.work() if is_open(z, block))
        return stream(work, self.read, decide, write, lambda progress: report(progress, total))


def _image_facts(source: ImageSource, level: int) -> ImageFacts:
    if not 0 <= level < len(source.levels):
        raise PlanError(f"level {level}: {source.path} has levels 0 to {len(source.levels) - 1}")
    here = source.levels[level]
    return ImageFacts(
        path=source.path,
        format=source.format,
        shape=here.shape,
        depth=source.depth,
        channels=source.channels,
        itemsize=source.dtype.itemsize,
        cache_bytes=source.cache_bytes,
        scale=here.scale,
    )


def _network_facts(model: Model) -> NetworkFacts:
    weights = sum(value.numel() for value in model.network.parameters()) * 4
    if isinstance(model, OnnxModel):
        weights = model.network.file.size
    values, header = model.network.values_per_pixel, model.header
    return NetworkFacts(model.field_of_view, header.channels, len(header.classes), weights, values * 4)


def _as_wanted(model: Model, settings: Settings) -> Model:
    """The model, pruned and with the halo that was chosen."""
    if settings.prune is not None:
        model = model.pruned(settings.prune)
    return model if settings.halo is None else model.with_halo(settings.halo)


def _default_model(source: ImageSource, settings: Settings) -> str:
    channels = source.channels if settings.channels is None else len(settings.channels)
    if channels != 1:
        raise ModelError(
            f"{source.path} has {channels} channels and no model was named; {DEFAULT} takes 1: name a model for such "
            "images (tileseg models lists them, tileseg train makes one), or choose one channel with channels"
        )
    return DEFAULT
