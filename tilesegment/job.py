"""A prediction, decided: an image, a model, a plan; as plain data, and opened, ready to predict blocks."""

import os
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilesegment.errors import ImageError, ModelError, PlanError
from tilesegment.exchange.onnx_model import OnnxModel, load_model
from tilesegment.exchange.onnx_network import why_on_cpu
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.header import Normalisation
from tilesegment.images import open_image, read_mirrored
from tilesegment.images.identity import identity
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec
from tilesegment.metadata import PixelSize
from tilesegment.model import Model
from tilesegment.models import DEFAULT, bundled_models, find_model
from tilesegment.normalisation import choose_normalisation
from tilesegment.plan import ImageFacts, Machine, NetworkFacts, Plan, fingerprint, make_plan
from tilesegment.predictors.block import BlockPredictor
from tilesegment.predictors.choice import make_predictor
from tilesegment.predictors.devices import choose_device, this_machine
from tilesegment.predictors.quantisation import folder_for, sample_blocks
from tilesegment.settings import Settings
from tilesegment.skipping import Skipping, choose_skipping


@dataclass(frozen=True)
class Order:
    """A prediction, decided: plain data, the same for every process that carries out a part of it.

    Attributes:
        image, model: paths, absolute so that every process finds them.
        settings: what the user chose.
        axes, select: how to read the image, see `open_image`.
        plan: what was made of it.
        normalisation: of the grey values.
        decides: what decides the pixels, see `fingerprint`.
        skipping: which blocks are not predicted.
        notes: what a user should know of how the model is taken, and of what is skipped.
    """

    image: str
    model: str
    settings: Settings
    axes: str | None
    select: Mapping[str, int]
    plan: Plan
    normalisation: Normalisation
    decides: Mapping[str, Any]
    skipping: Skipping
    notes: tuple[str, ...] = ()

    def is_empty(self, z: int, block: Block) -> bool:
        """Whether a block is known to be empty, and will not even be read."""
        return self.skipping.is_empty(z - self.plan.planes.start, block.row, block.column)

    def lines(self) -> list[tuple[str, str]]:
        """What and how much, for people."""
        return self.plan.lines() + self.skipping.lines()


class Job:
    """An order whose image and model are open. Closes the image when left."""

    def __init__(self, order: Order, source: ImageSource, model: Model) -> None:
        self.order, self.source, self.model = order, source, model
        self.plan, self.settings = order.plan, order.settings

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
        machine = ask(settings)
        source = open_image(image, axes=axes, select=select)
        try:
            facts = _image_facts(source, settings.level)
            path = _absolute(model if model is not None else _default_model(source, settings))
            loaded = _load(path, settings)
            notes: tuple[str, ...] = () if model is not None else (f"no model was named: using the bundled {path}",)
            if isinstance(loaded, OnnxModel):
                settings, machine, notes = _for_onnx(loaded, settings, machine, ask)
            plan = make_plan(facts, _network_facts(loaded), settings, machine)
            normalisation = choose_normalisation(loaded.header.normalisation, source, plan, settings)
            chosen = {"normalisation": asdict(normalisation), "axes": axes, "select": dict(select or {})}
            skipping = choose_skipping(source, plan, settings)
            notes += skipping.notes(plan.image.path)
            if skipping.mode is not None:
                chosen["skipped"] = skipping.decides
            decides = fingerprint(plan, settings, chosen | _decisive(source, loaded, settings))
            given = (os.path.abspath(image), path, settings, axes, dict(select or {}))
            return cls(Order(*given, plan, normalisation, decides, skipping, notes), source, loaded)
        except BaseException:
            source.close()
            raise

    @classmethod
    def open(cls, order: Order) -> Self:
        """Opens what was decided elsewhere.

        Raises:
            ImageError, ModelError, PlanError: image or model are not to be had here, or are others here.
        """
        source = open_image(order.image, axes=order.axes, select=order.select)
        try:
            model = _load(order.model, order.settings)
            for name, here in _decisive(source, model, order.settings).items():
                if here != order.decides[name]:
                    raise PlanError(
                        f"{order.image} or {order.model} is another on {platform.node()} ({name} differs); "
                        "let every machine see the same files"
                    )
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
            self.plan.precision,
            self.plan.tile,
            lambda: [(self.read(z, block), block) for z, block in sample_blocks(self.plan)],
            folder_for(self.order.model),
            batch=self.plan.batch,
            tta=self.settings.tta,
            normalisation=self.order.normalisation,
            threshold=self.settings.threshold,
        )

    @property
    def disagreement(self) -> float | None:
        """Share of the pixels of some tiles that another class than in fp32 was found for, where that was measured."""
        return self.predictor.disagreement if "predictor" in self.__dict__ else None

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
            fingerprint=self.order.decides,
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
            "skipped": self.order.skipping.record,
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("tilesegment", "torch", "zarr", "numpy")},
            "machine": platform.platform(),
        }


def _decisive(source: ImageSource, model: Model, settings: Settings) -> dict[str, Any]:
    """What decides the pixels and is found in the files themselves."""
    header = model.header
    return {
        "content": identity(source.path),
        "dtype": str(source.dtype),
        "model": header.weights_sha256,
        "classes": [one.name for one in header.classes],
        "halo": model.field_of_view.before,
        "threshold": header.threshold if settings.threshold is None else settings.threshold,
    }


def _for_onnx(
    model: OnnxModel, settings: Settings, machine: Machine, ask: Callable[[Settings], Machine]
) -> tuple[Settings, Machine, tuple[str, ...]]:
    """Where onnxruntime predicts: on the CPU where it lacks the device's own support, in the file's own precision."""
    on_cpu = why_on_cpu(settings.device)
    if on_cpu:
        settings = replace(settings, device="cpu")
        machine = ask(settings)
    if settings.precision == "auto":
        machine = replace(machine, precision="fp32")
    return settings, machine, tuple(note for note in (on_cpu, model.assumed) if note)


def _absolute(model: str | Path) -> str:
    """A path that other processes find too; the name of a bundled model, which each has in a place of its own."""
    if str(model) in bundled_models():
        return str(model)
    return os.path.abspath(model) if os.path.exists(model) else str(find_model(model))  # which says that there is none


def _load(path: str, settings: Settings) -> Model:
    """The model, pruned and with the halo that was chosen; kept, as many images mostly take one model.

    Raises:
        ModelError: there is none, or it cannot be pruned or have that halo.
    """
    state = os.stat(path) if os.path.exists(path) else None
    return _loaded(path, state and (state.st_mtime_ns, state.st_size), settings.prune, settings.halo)


@lru_cache(maxsize=2)
def _loaded(path: str, state: tuple[int, int] | None, prune: int | None, halo: int | None) -> Model:
    model = load_model(path)
    model = model if prune is None else model.pruned(prune)
    return model if halo is None else model.with_halo(halo)


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


def _default_model(source: ImageSource, settings: Settings) -> str:
    channels = source.channels if settings.channels is None else len(settings.channels)
    if channels != 1:
        raise ModelError(
            f"{source.path} has {channels} channels and no model was named; {DEFAULT} takes 1: name a model for such "
            "images (tileseg models lists them, tileseg train makes one), or choose one channel with channels"
        )
    return DEFAULT
