"""From an image file to a mask file: opens what is named, plans, streams, records. The top of the library."""

import platform
import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilesegment.engine import Progress, stream
from tilesegment.errors import ImageError, ModelError, PlanError
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.header import Normalisation
from tilesegment.images import open_image, read_mirrored
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec, MaskWriter, create_mask, create_probabilities
from tilesegment.metadata import PixelSize
from tilesegment.model import Model
from tilesegment.models import DEFAULT
from tilesegment.overview import overview
from tilesegment.plan import ImageFacts, NetworkFacts, Plan, Settings, fingerprint, make_plan
from tilesegment.predictors.devices import choose_device, choose_precision, free_memory
from tilesegment.predictors.torch import TorchPredictor

_SAMPLES = 64
_SAMPLE_SIDE = 512


@dataclass(frozen=True)
class Prediction:
    """What a run did.

    Attributes:
        out: the mask.
        pixels, blocks: decided in this run; `blocks_resumed` were there already.
        seconds: from the first block to the finished mask.
        mpx_per_s: millions of pixels a second, this run.
        tile, step, batch, device, precision: as planned.
        peak_rss_bytes: largest resident memory of the process.
        model: its name.
    """

    out: str
    pixels: int
    blocks: int
    blocks_resumed: int
    seconds: float
    mpx_per_s: float
    tile: int
    step: int
    batch: int
    device: str
    precision: str
    peak_rss_bytes: int
    model: str


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
        precision = choose_precision(device, settings.precision)
        self.settings = settings
        self.source = open_image(image, axes=axes, select=select)
        try:
            facts = _image_facts(self.source, settings.level)
            self.model = Model.load(model if model is not None else _default_model(self.source, settings))
            network = _network_facts(self.model)
            free = free_memory(device)
            self.plan = make_plan(facts, network, settings, device=str(device), precision=precision, free_bytes=free)
            self.normalisation = _normalisation(self.source, self.model, self.plan, settings)
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
            "threshold": self.predictor.threshold,
            "dtype": str(self.source.dtype),
        }
        return MaskSpec(
            shape=plan.region.shape,
            depth=None if plan.image.depth is None else len(plan.planes),
            block=plan.block,
            chunk=plan.chunk,
            classes=header.classes,
            pixel_size=None if size is None else PixelSize(size.y * sy, size.x * sx),
            offset=(plan.region.y0, plan.region.x0),
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

    def run(self, mask: MaskWriter, probabilities: MaskWriter | None, report: Callable[[Progress], None]) -> Progress:
        """Predicts every block that is not stored yet and writes it; the mask is not finished."""
        origin = self.plan.region

        def place(z: int, block: Block) -> tuple[Region, int]:
            return block.write.within(origin), z - self.plan.planes.start

        def is_open(z: int, block: Block) -> bool:
            region, plane = place(z, block)
            return not mask.is_done(region, plane) or (probabilities is not None and not probabilities.is_done(region, plane))

        def write(z: int, block: Block, result: np.ndarray | tuple[np.ndarray, np.ndarray]) -> None:
            region, plane = place(z, block)
            if probabilities is None:
                assert isinstance(result, np.ndarray)
                mask.write(region, result, plane)
            else:
                probabilities.write(region, result[1], plane)
                mask.write(region, result[0], plane)

        work = ((z, block) for z, block in self.plan.work() if is_open(z, block))
        predict = self.predictor.predict if probabilities is None else self.predictor.predict_probabilities
        return stream(work, self.read, predict, write, report)


def predict(
    image: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    overwrite: bool = False,
    ngff: str = "0.5",
    probabilities: str | Path | None = None,
    preview: str | Path | None = None,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    report: Callable[[Job, Progress], None] = lambda job, progress: None,
    **settings: Any,
) -> Prediction:
    """Segments an image of any size into a mask, seamlessly: equal to one pass over the whole mirror-padded image.

    Args:
        image: TIFF, OME-TIFF, Zarr, OME-Zarr, PNG or JPEG; uint8, uint16 or float32.
        out: `mask.zarr`, `image.zarr/labels/NAME`, `mask.tif`, `mask.png` or `mask.jpg`. An unfinished run with the same
            settings is continued.
        model: file, or name of a bundled model; None takes `em-membrane` for one-channel images.
        overwrite: replace an existing mask, once the new one is complete.
        ngff: OME-Zarr version of a mask on its own: 0.5, or 0.4 for QuPath and Fiji.
        probabilities: `p.zarr`, also writes the class probabilities (K, H, W) float32 there.
        preview: a PNG or JPEG, image and overlay side by side.
        axes, select: how the image's dimensions are to be read, see `open_image`.
        report: called after every block.
        settings: the fields of `Settings`: tile, batch, device, precision, roi, level, z, channels, threshold, tta,
            normalise.

    Raises:
        TilesegmentError: the image, the model, the settings or the output is not to be had; nothing that existed is lost.
    """
    with Job(image, model, make_settings(settings), axes=axes, select=select) as job:
        return run_job(
            job, out, overwrite=overwrite, ngff=ngff, probabilities=probabilities, preview=preview, report=report
        )


def run_job(
    job: Job,
    out: str | Path,
    *,
    overwrite: bool = False,
    ngff: str = "0.5",
    probabilities: str | Path | None = None,
    preview: str | Path | None = None,
    report: Callable[[Job, Progress], None] = lambda job, progress: None,
) -> Prediction:
    """Runs a prepared job; arguments and errors as in `predict`."""
    _refuse_self(job, out)
    spec, start = job.spec(), time.monotonic()
    writer = create_mask(out, spec, ngff=ngff, overwrite=overwrite)
    likely = None if probabilities is None else create_probabilities(probabilities, spec, overwrite=overwrite)
    done = job.run(writer, likely, lambda progress: report(job, progress))
    if preview is not None:
        # before the mask is finished: after that a TIFF or a PNG is all there is
        plan = job.plan
        overview(
            job.source,
            writer.base,
            plan.region,
            job.settings.level,
            plan.planes.start,
            spec.classes,
            spec.pixel_size,
            Path(preview),
        )
    seconds = time.monotonic() - start
    speed = done.pixels / 1e6 / max(seconds, 1e-9)
    for store in (likely, writer):
        if store is not None:
            store.finish({"seconds": round(seconds, 3), "mpx_per_s": round(speed, 4)})
    plan = job.plan
    return Prediction(
        out=str(out),
        pixels=done.pixels,
        blocks=done.blocks,
        blocks_resumed=plan.blocks - done.blocks,
        seconds=time.monotonic() - start,
        mpx_per_s=done.pixels / 1e6 / max(time.monotonic() - start, 1e-9),
        tile=plan.tile,
        step=plan.step,
        batch=plan.batch,
        device=plan.device,
        precision=plan.precision,
        peak_rss_bytes=peak_memory(),
        model=job.model.header.name,
    )


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments.

    Raises:
        PlanError: there is no such setting, or its value cannot be.
    """
    known = Settings.__dataclass_fields__
    for name in given:
        if name not in known:
            raise PlanError(f"there is no setting {name!r}; there are: {', '.join(known)}")
    settings = Settings(**given)
    settings.check()
    return settings


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _image_facts(source: ImageSource, level: int) -> ImageFacts:
    if not 0 <= level < len(source.levels):
        raise PlanError(f"level {level}: {source.path} has levels 0 to {len(source.levels) - 1}")
    here = source.levels[level]
    itemsize = source.dtype.itemsize
    return ImageFacts(source.path, source.format, here.shape, source.depth, source.channels, itemsize, here.scale)


def _network_facts(model: Model) -> NetworkFacts:
    weights = sum(value.numel() for value in model.network.parameters()) * 4
    values = model.network.values_per_pixel
    assert isinstance(values, int)
    header = model.header
    return NetworkFacts(model.field_of_view, header.channels, len(header.classes), weights, values * 4)


def _default_model(source: ImageSource, settings: Settings) -> str:
    channels = source.channels if settings.channels is None else len(settings.channels)
    if channels != 1:
        raise ModelError(
            f"{source.path} has {channels} channels and no model was named; {DEFAULT} takes 1: name a model for such images "
            "(tileseg models lists them, tileseg train makes one), or choose one channel with channels"
        )
    return DEFAULT


def _normalisation(source: ImageSource, model: Model, plan: Plan, settings: Settings) -> Normalisation:
    """The model's own, or that of this image: never that of a tile, which would show as seams."""
    scale = model.header.normalisation
    if settings.normalise == "image":
        return _measure(source, plan, settings.level)
    if scale.dtype != str(source.dtype):
        raise PlanError(
            f"{source.path} is {source.dtype}, the model was trained on {scale.dtype}: its grey values mean something "
            "else; use normalise image to scale by this image's own mean and spread"
        )
    return scale


def _measure(source: ImageSource, plan: Plan, level: int) -> Normalisation:
    """Mean and std of each channel over at most 64 windows, evenly spread over what is predicted."""
    grid = TileGrid(plan.region, _SAMPLE_SIDE, _SAMPLE_SIDE, type(plan.network.view)(1, 0, 0, True))
    rows, columns = grid.shape
    count = len(plan.planes) * rows * columns
    chosen = sorted({round(n) for n in np.linspace(0, count - 1, min(count, _SAMPLES))})
    sums = np.zeros((3, len(plan.channels)))
    for n in chosen:
        plane, place = divmod(n, rows * columns)
        region = grid.at(*divmod(place, columns)).write
        pixels = source.read(region, level, plan.planes[plane])[list(plan.channels)].astype(np.float64)
        sums += [np.full(len(pixels), region.area), pixels.sum((1, 2)), (pixels**2).sum((1, 2))]
    mean = sums[1] / sums[0]
    std = np.sqrt(np.maximum(sums[2] / sums[0] - mean**2, 0))
    if not np.isfinite(std).all() or std.min() <= 0:
        raise ImageError(f"{source.path} is constant or holds NaN in a channel; it cannot be normalised by itself")
    return Normalisation(tuple(map(float, mean)), tuple(map(float, std)), str(source.dtype))


def _refuse_self(job: Job, out: str | Path) -> None:
    """An output must not be the image that is read."""
    if Path(out).resolve() == Path(job.source.path).resolve():
        raise PlanError(f"{out} is the image itself; choose another name for the mask")
