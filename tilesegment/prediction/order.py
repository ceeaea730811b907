"""A prediction, decided: an image, a model, a plan; plain data, the same for every process."""

import os
import platform
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from tilesegment.errors import ModelError, PlanError
from tilesegment.geometry import Block
from tilesegment.images.identity import Identity, former_identity, identity
from tilesegment.images.source import ImageSource
from tilesegment.masks.spec import STORED
from tilesegment.models import DEFAULT, bundled_models, find_model
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.prediction.devices import choose_device, why_onnx_on_cpu
from tilesegment.prediction.facts import ImageFacts, Machine, NetworkFacts
from tilesegment.prediction.normalisation import choose_normalisation
from tilesegment.prediction.plan import Plan, fingerprint, make_plan
from tilesegment.prediction.resolution import resolution_notes
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.skipping import Skipping, choose_skipping


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
        content: what tells the image from what it was before a change.
        notes: what a user should know of how image and model are taken, and of what is skipped.
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
    content: Identity
    notes: tuple[str, ...] = ()

    def is_empty(self, z: int, block: Block) -> bool:
        """Whether a block is known to be empty, and will not even be read."""
        return self.skipping.is_empty(z - self.plan.planes.start, block.row, block.column)

    def lines(self) -> list[tuple[str, str]]:
        """What and how much, for people."""
        return self.plan.lines() + self.skipping.lines()


def decide(
    source: ImageSource,
    image: str | Path,
    model: str | Path | None,
    settings: Settings,
    machine: Machine,
    ask: Callable[[Settings], Machine],
    *,
    axes: str | None,
    select: dict[str, int],
) -> tuple[Order, Model]:
    """Decides all there is to decide.

    Args:
        source, image: the image, open, and its path as given.
        model: path or bundled name; None takes the bundled default for one-channel images.
        settings: what the user chose.
        machine: that will predict.
        ask: tells of it for other settings.
        axes, select: how the image was opened, see `open_image`.

    Returns:
        The order and the model, loaded.

    Raises:
        ImageError, ModelError, PlanError, DeviceError: one of them is not to be had or does not fit the others.
    """
    # the image that was opened, which may be one of several in what was named: it is not chosen once more
    if not os.path.samefile(image, source.path):
        settings = replace(settings, series=None)
    facts = _image_facts(source, settings.level)
    path = _absolute(model if model is not None else _default_model(source, settings))
    loaded = load(path, settings)
    notes: tuple[str, ...] = () if model is not None else (f"no model was named: using the bundled {path}",)
    if isinstance(loaded.network, OnnxNetwork):
        settings, machine, more = _for_onnx(loaded, settings, machine, ask)
        notes += more
    plan = make_plan(facts, _network_facts(loaded), settings, machine)
    normalisation = choose_normalisation(loaded.header.normalisation, source, plan, settings)
    chosen: dict[str, Any] = {"normalisation": asdict(normalisation), "axes": axes, "select": select}
    # only where they are chosen: masks in progress of earlier versions are gone on with
    chosen |= {} if settings.series is None else {"series": settings.series}
    chosen |= {"invert": True} if settings.invert else {}
    chosen |= {} if source.orientation == 1 else {"orientation": source.orientation}
    skipping = choose_skipping(source, plan, settings)
    notes = source.notes + notes + resolution_notes(source, loaded.header.pixel_size, settings.level)
    notes += skipping.notes(plan.image.path)
    if skipping.mode is not None:
        chosen["skipped"] = skipping.decides
    content = identity(source.path)
    chosen["content"] = former_identity(source.path)  # for masks that earlier releases have begun
    decides = fingerprint(plan, settings, chosen | _decisive(content, source, loaded, settings))
    given = (os.path.abspath(source.path), path, settings, axes, select)
    return Order(*given, plan, normalisation, decides, skipping, content, notes), loaded


def check_same(order: Order, source: ImageSource, model: Model) -> None:
    """Whether image and model are here what they were where the order was made.

    Raises:
        PlanError: one is another.
    """
    for name, here in _decisive(identity(source.path), source, model, order.settings).items():
        if here != order.decides[name]:
            raise PlanError(
                f"{order.image} or {order.model} is another on {platform.node()} ({name} differs); "
                "let every machine see the same files"
            )


def load(path: str, settings: Settings) -> Model:
    """The model, pruned and with the halo that was chosen; kept, as many images mostly take one model.

    Raises:
        ModelError: there is none, or it cannot be pruned or have that halo.
    """
    state = os.stat(path) if os.path.exists(path) else None
    return _loaded(path, state and (state.st_mtime_ns, state.st_size), settings.prune, settings.halo)


@lru_cache(maxsize=2)
def _loaded(path: str, state: tuple[int, int] | None, prune: int | None, halo: int | None) -> Model:
    model = Model.load(path)
    model = model if prune is None else model.pruned(prune)
    return model if halo is None else model.with_halo(halo)


def _decisive(content: Identity, source: ImageSource, model: Model, settings: Settings) -> dict[str, Any]:
    """What decides the pixels and is found in the files themselves."""
    header = model.header
    return {
        STORED: content.digest,
        "dtype": str(source.dtype),
        "model": header.weights_sha256,
        "classes": [one.name for one in header.classes],
        "halo": model.field_of_view.before,
        "threshold": header.threshold if settings.threshold is None else settings.threshold,
    }


def _for_onnx(
    model: Model, settings: Settings, machine: Machine, ask: Callable[[Settings], Machine]
) -> tuple[Settings, Machine, tuple[str, ...]]:
    """Where onnxruntime predicts: on the CPU where it lacks the device's own support, in the file's own precision."""
    on_cpu = why_onnx_on_cpu(choose_device()) if settings.device == "auto" else ""
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
    return os.path.abspath(find_model(model))


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
    if isinstance(model.network, OnnxNetwork):
        weights = model.network.file.size
    values, header = model.network.values_per_pixel, model.header
    runtime = "onnxruntime" if isinstance(model.network, OnnxNetwork) else None
    return NetworkFacts(model.field_of_view, header.channels, len(header.classes), weights, values * 4, runtime)


def _default_model(source: ImageSource, settings: Settings) -> str:
    channels = source.channels if settings.channels is None else len(settings.channels)
    if channels != 1:
        raise ModelError(
            f"{source.path} has {channels} channels and no model was named; {DEFAULT} takes 1: name a model for such "
            "images (tileseg models lists them, tileseg train makes one), or choose one channel with --channels"
        )
    return DEFAULT
