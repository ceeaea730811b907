"""A prediction with its image, model and outputs open: load, predict and store blocks, then finish."""

import platform
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from importlib.metadata import version
from math import prod
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tilesegment.errors import ImageError, PlanError
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.images import ResampledSource, announce_mirrored, read_mirrored
from tilesegment.images.arrays import ImageArray
from tilesegment.images.resampled import at_scale
from tilesegment.images.source import ImageSource
from tilesegment.masks import MaskSpec
from tilesegment.metadata import PixelSize
from tilesegment.models.model import Model
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.prediction.devices import choose_device, this_machine, why_onnx_on_cpu
from tilesegment.prediction.int8 import folder_for, sample_blocks
from tilesegment.prediction.opening import load, open_model
from tilesegment.prediction.outputs import Stores, begin_outputs
from tilesegment.prediction.plan import Plan, found_in_files, make_plan
from tilesegment.prediction.predictor import BlockPredictor, Pending, make_predictor
from tilesegment.prediction.resolution import open_source
from tilesegment.prediction.result import Result
from tilesegment.prediction.seams import mismatch
from tilesegment.prediction.settings import Outputs, Settings
from tilesegment.prediction.tiling import Machine
from tilesegment.stores import Place, is_url, place_of

AskMachine = Callable[[str, str], Machine]

# what a mask says of the training of its model, whose file holds the rest: some 30 KB, and each task carries its record
_TRAINED = ("steps", "seconds", "kept_step", "versions")


class Job:
    """A plan with its image and model open, and, once begun, its outputs. As a context manager it closes the image."""

    def __init__(self, plan: Plan, source: ImageSource, model: Model, stores: Stores | None = None) -> None:
        self.plan, self.source, self.model = plan, source, model
        self.stores = stores or Stores()
        self._wanted_bytes = 0.0
        self._spanned = prod(source.factor) if isinstance(source, ResampledSource) else 1  # stored pixels per pixel

    @classmethod
    def prepare(
        cls, image: str | Place | ImageArray, settings: Settings | None = None, *, ask: AskMachine = this_machine
    ) -> Self:
        """Open an image and its model, and plan the prediction.

        Args:
            image: its path, or an array.
            settings: what the user chose.
            ask: describes the machine that will predict, for a device and a precision.

        Raises:
            ImageError, ModelError, PlanError, DeviceError: one of them is unavailable, or they are incompatible.
        """
        settings = Settings() if settings is None else settings
        source = open_source(image, settings)
        try:
            machine = ask(settings.device, settings.precision)  # may wait for workers, so only once the image is open
            if source.is_stored and _path_of(image) != source.path:  # an image inside the given path
                settings = replace(settings, series=None)
            opened = open_model(source, settings)
            model, notes = opened.model, opened.notes
            if isinstance(model.network, OnnxNetwork):
                on_cpu = why_onnx_on_cpu(choose_device()) if settings.device == "auto" else ""
                if on_cpu:
                    settings = replace(settings, device="cpu")
                    machine = ask("cpu", settings.precision)
                if settings.precision == "auto":  # the file's own
                    machine = replace(machine, precision="fp32")
                notes += tuple(note for note in (on_cpu, model.assumed) if note)
            plan = make_plan(source, model, settings, machine, opened.path)
            plan = replace(plan, chosen=opened.chosen, notes=plan.notes + notes)
            return cls(plan, at_scale(source, plan.resampled), model)
        except BaseException:
            source.close()
            raise

    @classmethod
    def open(cls, plan: Plan, stores: Stores | None = None) -> Self:
        """Open a plan of another process.

        Raises:
            ImageError, ModelError, PlanError: image or model are unavailable here, or are not the same.
        """
        source = at_scale(open_source(plan.place, plan.settings), plan.resampled)
        try:
            model = load(plan.model, plan.settings)
            for name, here in found_in_files(plan, source.identity(), source, model).items():
                if here != plan.decides[name]:
                    raise PlanError(
                        f"{plan.image} or {plan.model} differs on {platform.node()} (its {name}); "
                        "let every machine see the same files"
                    )
            return cls(plan, source, model, stores)
        except BaseException:
            source.close()
            raise

    def begin(self, outputs: Outputs) -> None:
        """Create the outputs, or reopen those that an earlier run began.

        Raises:
            PlanError, MaskError: they cannot be written; nothing has been changed.
        """
        self.stores = begin_outputs(self.plan, self.spec(), outputs)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.source.close()

    # the steps of a block: announce, load, predict, store

    def announce(self, z: int, block: Block) -> None:
        """Tell that `block` is loaded soon, so that an image on a server is fetched meanwhile."""
        if not self.plan.leaves_out(z, block):
            announce_mirrored(self.source, block.read, self.plan.level, z)

    def load(self, z: int, block: Block) -> np.ndarray | None:
        """Read the pixels (C, H, W) of `block.read` in plane `z`; None if the block is empty: decided only here.

        Raises:
            ImageError: as `read`.
        """
        if self.plan.leaves_out(z, block):
            return None
        pixels = self.read(z, block)
        return None if self.plan.skipping.finds_empty(pixels) else pixels

    def read(self, z: int, block: Block, needed: Region | None = None) -> np.ndarray:
        """Read the pixels (C, H, W) of `block.read` in plane `z`, mirrored beyond the image.

        Args:
            z, block: what is read.
            needed: the part of `block.read` that decides `block.write`; None takes it from the field of view. The last
                tiles may reach further: values there that are not finite become 0, without effect.

        Raises:
            ImageError: they cannot be read, or hold NaN or infinity where they are needed.
        """
        pixels = read_mirrored(self.source, block.read, self.plan.level, z)
        self._wanted_bytes += self._spanned * block.write.area * len(pixels) * pixels.itemsize
        if self.plan.channels != tuple(range(len(pixels))):
            pixels = pixels[list(self.plan.channels)]
        if pixels.dtype.kind != "f" or np.isfinite(pixels).all():
            return pixels
        needed = self._needed(block) if needed is None else needed
        if not np.isfinite(pixels[:, *needed.within(block.read).slices]).all():
            raise ImageError(
                f"{self.source.path} holds NaN or infinity within {needed}, plane {z}; replace them, or leave "
                "the region out with --roi"
            )
        return np.nan_to_num(pixels, nan=0, posinf=0, neginf=0)

    def _needed(self, block: Block) -> Region:
        """Return the pixels that decide `block.write`: its last pooling cells whole, and the margin behind them."""
        view, write, read = self.plan.view, block.write, block.read
        y1, x1 = (-(-end // view.divisor) * view.divisor + view.after for end in (write.y1, write.x1))
        return Region(read.y0, read.x0, y1, x1).intersect(read)

    def predict(self, block: Block, pixels: np.ndarray | None) -> Pending | None:
        """Begin to predict `block` from what `load` gave; None for an empty one. A GPU may go on after this returns."""
        if pixels is None:
            return None
        return self.predictor.begin(pixels, block, probabilities=self.stores.likely is not None)

    def store(self, z: int, block: Block, pending: Pending | None) -> bool:
        """Wait for what `predict` began, store it durably, and return whether the block was empty.

        Raises:
            MaskError: it cannot be written; stored blocks are kept.
        """
        stores, region, plane = self.stores, block.write.within(self.plan.region), z - self.plan.planes.start
        ids, *more = self._class_0(block.write.shape) if pending is None else pending()
        if self.plan.roi is not None and pending is not None:
            self.plan.roi.confine(block.write, ids, more[0] if more else None)
        if stores.likely is not None:
            likely, dtype = more[0], stores.likely.base.grid.dtype
            if dtype.kind != "f":  # whole numbers, from 0 to the largest
                likely = np.rint(likely * np.iinfo(dtype).max)
            stores.likely.write(region, likely.astype(dtype, copy=False), plane)
        if stores.mask is not None:
            stores.mask.write(region, ids, plane)
        return pending is None

    def _class_0(self, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
        """Return ids (h, w) and probabilities (K, h, w) of an empty block: class 0."""
        likely = np.zeros((self.plan.classes, 1, 1), np.float32)
        likely[0] = 1
        return np.zeros(shape, np.uint8), np.broadcast_to(likely, (self.plan.classes, *shape))

    def finish(self, result: Result) -> Result:
        """Finish an image whose blocks are stored: pyramids, final names, pictures. Fills in and returns `result`.

        Of several parts, the one that stored the last block does this, after releasing its own claim.

        Raises:
            MaskError: blocks are missing or damaged, or writing fails; it can be called again.
        """
        result.read_amplification = self.source.decoded_bytes / self._wanted_bytes if self._wanted_bytes else None
        if "predictor" in self.__dict__:
            result.disagreement = self.predictor.disagreement
            if self.predictor.lacked_memory:
                result.batch = self.predictor.batch
        finished, complete, measured = [], True, False
        for writer in self.stores.writers:
            alone = self.plan.settings.part is None
            with nullcontext(True) if alone else writer.claimed_to_finish() as is_ours_to_do:
                if is_ours_to_do:
                    if self.model.header.halo is not None and not measured:
                        result.mismatch, measured = mismatch(self), True
                    writer.finish(self._record(result, measured))
                    finished.append(writer)
            complete &= is_ours_to_do or writer.is_finished()
        self.stores.draw(self.plan.place, finished)
        result.unmeasured = measured and result.mismatch is None
        result.finished, result.complete = True, complete
        result.is_finisher = self.stores.mask is None or self.stores.mask in finished
        return result

    def _record(self, result: Result, measured: bool) -> dict[str, Any]:
        """Return what the outputs record of the run."""
        known: dict[str, Any] = {"seconds": round(result.seconds, 3), "mpx_per_s": round(result.mpx_per_s, 4)}
        if self.plan.skipping.blocks is None:  # known only of the blocks that this run read
            found: dict[str, Any] = {"blocks": result.blocks_skipped, "of_blocks": result.blocks}
            if self.plan.roi is None:  # else the share would have to be that of the pixels inside
                share = result.pixels_skipped / max(result.pixels + result.pixels_skipped, 1)
                found["share"] = round(share, 6)
            known["skipped"] = self.plan.skipping.record | found
        known |= {"read_amplification": result.read_amplification, "batch": result.batch}
        known |= {} if result.disagreement is None else {"disagreement": result.disagreement}
        return known | ({"halo": self.plan.view.before, "mismatch": result.mismatch} if measured else {})

    @cached_property
    def predictor(self) -> BlockPredictor:
        """The model on this machine's device, made on first use.

        Raises:
            DeviceError: the device or the precision is not available here.
        """
        plan = self.plan
        return make_predictor(
            self.model,
            choose_device(plan.settings.device),
            plan,
            lambda: [(self.read(z, block), block) for z, block in sample_blocks(plan)],
            folder_for(plan.model),
            batch=plan.batch,
            tta=plan.settings.tta,
            normalisation=plan.normalisation,
            threshold=plan.settings.threshold,
        )

    def seconds_per_tile(self) -> float:
        """Measure the seconds per tile on a batch, after one that warms up."""
        plan = self.plan
        row = Region(0, 0, plan.step, plan.step * plan.batch)
        block = TileGrid(row, plan.step, plan.step * plan.batch, plan.view).at(0, 0)
        blank = np.zeros((len(plan.channels), *block.read.shape), self.source.dtype)
        for _ in range(2):
            start = time.monotonic()
            self.predictor.predict(blank, block)
        return (time.monotonic() - start) / plan.batch

    def spec(self) -> MaskSpec:
        """Describe the mask that this job writes."""
        plan, size, (sy, sx) = self.plan, self.source.pixel_size, self.plan.scale
        sides = [] if size is None else [size.y * sy, size.x * sx]
        if plan.resampled is not None:  # 0.5, not 0.49999999999999994
            sides = [float(f"{side:.12g}") for side in sides]
        return MaskSpec(
            shape=plan.region.shape,
            depth=None if plan.depth is None else len(plan.planes),
            block=plan.block,
            chunk=plan.chunk,
            classes=self.model.header.classes,
            pixel_size=PixelSize(*sides) if sides else None,
            # the centre of a pixel of a reduced level lies between those of level 0
            offset=(plan.region.y0 + (sy - 1) / (2 * sy), plan.region.x0 + (sx - 1) / (2 * sx)),
            scale=(sy, sx),
            first_plane=plan.planes.start,
            frame=self.source.frame,
            fingerprint=plan.decides,
            provenance=self._provenance(),
        )

    def _provenance(self) -> dict[str, Any]:
        header, plan = self.model.header, self.plan
        model = {"name": header.name, "licence": header.licence, "network": header.network, **header.arguments}
        model |= {"chosen_for": plan.chosen} if plan.chosen else {}
        trained = {name: header.training[name] for name in _TRAINED if name in header.training}
        return {
            "image": str(plan.place.resolve() if plan.is_stored and isinstance(plan.place, Path) else plan.image),
            "image_written": plan.content.written,
            "model": model | {"weights_sha256": header.weights_sha256, "training": trained},
            "batch": plan.batch,
            "device": plan.device,
            "skipped": plan.skipped,
            **({} if plan.roi is None else {"roi": plan.roi.record}),
            **({"grey_values": plan.scaling.record} if plan.scaling.record else {}),
            "started": datetime.now(UTC).isoformat(timespec="seconds"),
            "versions": {name: version(name) for name in ("tilesegment", "torch", "zarr", "numpy")},
            "machine": platform.platform(),
        }


def _path_of(image: str | Place | ImageArray) -> str:
    """Return what a source of it is called, unless it was found inside."""
    return str(image if isinstance(image, ImageArray) or not is_url(image) else place_of(image))
