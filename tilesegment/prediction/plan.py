"""The plan of a prediction: all choices, as plain data, the same for every process of a run."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from tilesegment.errors import PlanError
from tilesegment.geometry import Block, FieldOfView, Region, TileGrid, region_of
from tilesegment.images.identity import Identity
from tilesegment.images.resampled import at_scale
from tilesegment.images.source import ImageSource
from tilesegment.masks.spec import RESAMPLED, STORED
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.prediction.normalisation import Scaling, choose_normalisation
from tilesegment.prediction.resolution import choose_resolution, resolution_notes
from tilesegment.prediction.roi import Roi, choose_roi
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.skipping import Skipping, choose_skipping
from tilesegment.prediction.tiling import Machine, Sides, choose_runtime, default_batch, default_tile, forward_bytes
from tilesegment.stores import Place, is_url, place_of

_PROCESS_BYTES = 350 * 10**6  # measured: Python with torch, zarr and tifffile loaded
_SAMPLE_STEP = 512  # pixels, at most: calibrating int8 holds many more values, and in fp32


@dataclass(frozen=True)
class Plan:
    """All choices of a prediction.

    Attributes:
        image, model: absolute paths, so that every process finds them, or the name of a bundled model; `model` is ""
            if it was given as an object.
        settings: what the user chose.
        shape, scale: (H, W) of the level that is predicted, and (y, x) pixels of level 0 that one of its pixels spans.
        depth: planes of the image; None without a z axis.
        region, planes, channels: what is predicted, in pixels of the level; channels as the model takes them.
        view, classes: the network's field of view, and how many classes it has.
        tile, step, block, chunk: sides in pixels; see the words in geometry.
        batch: tiles at a time.
        device, precision, runtime: where, how exactly, and what runs the network: pytorch, openvino or onnxruntime.
        scaling: normalisation of the grey values, and where it comes from.
        content: identity of the image, which changes with its content.
        raw_bytes, cache_bytes: of a pixel as read, and of the pixels that the source keeps decoded.
        weights_bytes, pixel_bytes: of the network's weights, and of a forward pass in fp32 per input pixel.
        skipping: which blocks are empty and are not predicted.
        roi: the polygons outside of which nothing is predicted; None without any.
        level: number of the level that is predicted.
        resampled: (y, x) pixels of level 0 per pixel of a level that is computed; None for a stored one.
        chosen: the kind of image that the model was chosen for, where none was named.
        decides: the fingerprint: runs with the same one write the same mask.
        is_stored: whether the image lies at `image`; an array in memory does not.
        notes: for the user, on image, model and skipping.
    """

    image: str
    model: str
    settings: Settings
    shape: tuple[int, int]
    scale: tuple[float, float]
    depth: int | None
    region: Region
    planes: range
    channels: tuple[int, ...]
    view: FieldOfView
    classes: int
    tile: int
    step: int
    block: int
    chunk: int
    batch: int
    device: str
    precision: str
    runtime: str
    scaling: Scaling
    content: Identity
    raw_bytes: int
    cache_bytes: int
    weights_bytes: int
    pixel_bytes: int
    skipping: Skipping = field(default_factory=Skipping)
    roi: Roi | None = None
    level: int = 0
    resampled: tuple[float, float] | None = None
    chosen: str = ""
    is_stored: bool = True
    decides: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        """Where the image is."""
        return place_of(self.image, self.settings.store_options)

    @property
    def normalisation(self) -> Normalisation:
        """Of the grey values, the same for all tiles."""
        return self.scaling.normalisation

    @property
    def grid(self) -> TileGrid:
        """The blocks and tiles of one plane."""
        return TileGrid(self.region, self.step, self.block, self.view)

    @property
    def blocks(self) -> int:
        """Number of blocks in all planes; `tiles` and `pixels` likewise."""
        return len(self.grid) * len(self.planes)

    @property
    def tiles(self) -> int:
        return self.grid.tiles * len(self.planes)

    @property
    def pixels(self) -> int:
        return self.region.area * len(self.planes)

    @property
    def areas(self) -> np.ndarray:
        """Pixels of each block, int (planes, rows, columns)."""
        sides = ((self.region.height, self.block), (self.region.width, self.block))
        heights, widths = (np.diff([*range(0, size, block), size]) for size, block in sides)
        return np.broadcast_to(np.outer(heights, widths), (len(self.planes), len(heights), len(widths)))

    @property
    def left_out(self) -> np.ndarray:
        """Whether each block is known to be class 0 before it is read, bool (planes, rows, columns)."""
        return self.skipping.empty if self.roi is None else self.skipping.empty | (self.roi.inside == 0)

    def leaves_out(self, z: int, block: Block) -> bool:
        """Whether a block of plane `z` is known to be class 0 before it is read."""
        is_outside = self.roi is not None and not self.roi.inside[block.row, block.column]
        return is_outside or self.skipping.is_empty(z - self.planes.start, block.row, block.column)

    @property
    def skipped(self) -> dict[str, Any]:
        """What is not predicted, for the record of the mask: as of `skipping`, and what lies outside of `roi`."""
        record = self.skipping.record
        if self.roi is None or "share" not in record:
            return record
        predicted = (self.roi.inside * ~self.skipping.empty).sum()
        blocks = int(np.count_nonzero(self.left_out))
        return record | {"blocks": blocks, "share": round(1 - float(predicted / self.pixels), 6)}

    @property
    def part(self) -> slice:
        """The blocks of this part, in the order of `work`. Parts are contiguous and differ by at most one block."""
        k, n = self.settings.part or (1, 1)
        return slice(self.blocks * (k - 1) // n, self.blocks * k // n)

    def work(self, done: np.ndarray | None = None) -> Iterator[tuple[int, Block]]:
        """Yield plane and block of this part, in order, except those `done`, bool (planes, rows, columns)."""
        grid, shape = self.grid, (len(self.planes), *self.grid.shape)
        left = np.ones(self.blocks, bool) if done is None else ~done.ravel()
        for index in np.flatnonzero(left[self.part]) + self.part.start:
            z, row, column = np.unravel_index(index, shape)
            yield self.planes[int(z)], grid.at(int(row), int(column))

    @property
    def sample_step(self) -> int:
        """Step of the tiles that int8 is calibrated on: at most a few hundred pixels."""
        return min(self.step, max(_SAMPLE_STEP // self.view.divisor, 1) * self.view.divisor)

    @property
    def memory_bytes(self) -> int:
        """Estimate of the largest resident memory on the host; does not depend on the image's size.

        The interpreter with its libraries, the weights twice, a batch's activations (on the host only where it
        computes), and the blocks under way: one being read, one waiting, one normalised to float32, two masks.
        """
        side = min(self.block, -(-max(self.region.shape) // self.step) * self.step) + self.tile - self.step
        blocks = side * side * (3 * self.raw_bytes + 4 * len(self.channels) + 2 + 2)
        activations = self.batch * self.tile**2 * forward_bytes(self.pixel_bytes, self.classes, self.precision)
        if self.precision == "int8":
            # measured while calibrating: a further library, and twice a forward pass in fp32
            sample = self.view.tile_of(self.sample_step)
            activations = max(activations, 10**8 + 2 * sample**2 * self.pixel_bytes)
        held = activations if self.device == "cpu" else 0
        return _PROCESS_BYTES + self.cache_bytes + 2 * self.weights_bytes + blocks + held

    @property
    def disk_bytes(self) -> int:
        """Bytes of the mask and its pyramid without compression; compressed membranes take a tenth."""
        return self.pixels * 4 // 3

    def lines(self) -> list[tuple[str, str]]:
        """Describe the plan in lines of label and text."""
        height, width = self.region.shape
        planes = f" x {len(self.planes)} planes" if self.depth is not None else ""
        return [
            ("image", self.image),
            ("predicted", f"{height} x {width} pixels (y, x){planes}, {self.pixels / 1e6:,.1f} Mpx"),
            ("tile", f"{self.tile} px, of which {self.step} are kept; {self.tiles:,} tiles, {self.batch} at a time"),
            ("block", f"{self.block} px; {self.blocks:,} blocks, chunks of {self.chunk}"),
            ("device", f"{self.device}, {self.precision}, by {self.runtime}"),
            ("memory", f"about {self.memory_bytes / 1e9:.1f} GB, whatever the image's size"),
            ("disk", f"at most {self.disk_bytes / 1e9:.2f} GB for the mask"),
            *self.scaling.lines(),
            *([] if self.roi is None else self.roi.lines()),
            *self.skipping.lines(),
        ]


def make_plan(source: ImageSource, model: Model, settings: Settings, machine: Machine, model_path: str = "") -> Plan:
    """Plan the prediction of an image.

    Args:
        source, model: the image, and the model with the halo and the pruning of the settings.
        settings: what the user chose.
        machine: the one that will predict.
        model_path: where other processes find the model.

    Raises:
        PlanError: a setting that does not fit the image, the model or the machine.
        ImageError: the image cannot be read to measure grey values or tissue.
        DataError: areas cannot be read, or do not lie in the image.
    """
    header, view, classes = model.header, model.field_of_view, len(model.header.classes)
    chosen = choose_resolution(source, header, settings)
    source = at_scale(source, chosen.step)
    if settings.threshold is not None and classes != 2:
        raise PlanError(f"--threshold needs a model of two classes; this one has {classes}: leave it out")
    level, (weights, pixel_bytes) = source.levels[chosen.level], _network_bytes(model)
    rectangle = settings.roi if isinstance(settings.roi, Region) else None
    region, planes = region_of(rectangle, level.shape, level.scale), _planes(source, settings.z)
    needed = forward_bytes(pixel_bytes, classes, machine.precision)
    tile = default_tile(view, region.shape, needed, machine.free_bytes) if settings.tile is None else settings.tile
    sides = Sides.of(view.step_of(tile), region.shape, settings.block)
    tiles = TileGrid(region, sides.step, sides.block, view).tiles * len(planes)
    plan = Plan(
        image=os.path.abspath(source.path) if source.is_stored and not is_url(source.path) else source.path,
        model=model_path,
        settings=replace(settings, model=None),
        shape=level.shape,
        scale=level.scale,
        depth=source.depth,
        region=region,
        planes=planes,
        channels=_channels(source, header.channels, settings.channels),
        view=view,
        classes=classes,
        tile=tile,
        step=sides.step,
        block=sides.block,
        chunk=sides.chunk,
        batch=settings.batch or default_batch(sides.tiles, tile, pixel_bytes, machine.free_bytes),
        device=machine.device,
        precision=machine.precision,
        runtime=_runtime(model, settings, machine, tiles * tile**2),
        scaling=Scaling(header.normalisation),
        content=source.identity(),
        raw_bytes=source.channels * source.dtype.itemsize,
        cache_bytes=source.cache_bytes,
        weights_bytes=weights,
        pixel_bytes=pixel_bytes,
        level=chosen.level,
        resampled=chosen.step,
        is_stored=source.is_stored,
    )
    plan = replace(plan, scaling=choose_normalisation(header.normalisation, source, plan))
    plan = replace(plan, skipping=choose_skipping(source, plan))
    if isinstance(settings.roi, str | Path):
        plan = replace(plan, roi=choose_roi(settings.roi, source, level, plan.grid))
    sized = settings.diameter is not None
    sizes = () if sized else resolution_notes(source, header.pixel_size, plan.level, header.diameter)
    notes = source.notes + chosen.notes + sizes + plan.scaling.notes + plan.skipping.notes(source.path)
    notes += () if plan.roi is None else plan.roi.areas.notes
    return replace(plan, decides=_fingerprint(plan, source, model), notes=notes)


def found_in_files(plan: Plan, content: Identity, source: ImageSource, model: Model) -> dict[str, Any]:
    """Return the part of the fingerprint that the files of image and model determine."""
    header, threshold = model.header, plan.settings.threshold
    return {
        STORED: content.digest,
        "dtype": str(source.dtype),
        "model": header.weights_sha256,
        "classes": [one.name for one in header.classes],
        "halo": model.field_of_view.before,
        "threshold": header.threshold if threshold is None else threshold,
    }


def _fingerprint(plan: Plan, source: ImageSource, model: Model) -> dict[str, Any]:
    """Return what determines the pixels. Batch and device are left out: a run may be resumed elsewhere."""
    chosen, region = plan.settings, plan.region
    decides: dict[str, Any] = {
        "image": source.path.rstrip("/").rsplit("/", 1)[-1],
        "shape": list(plan.shape),
        "region": [region.y0, region.x0, region.y1, region.x1],
        "planes": [plan.planes.start, plan.planes.stop],
        "channels": list(plan.channels),
        "level": plan.level,
        **{name: getattr(plan, name) for name in ("tile", "step", "block", "precision", "runtime")},
        "tta": chosen.tta,
        "normalisation": plan.normalisation.as_json(),
        "axes": chosen.axes,
        "select": dict(chosen.select or {}),
    }
    # absent unless chosen
    decides |= {} if chosen.series is None else {"series": chosen.series}
    decides |= {"invert": True} if chosen.invert else {}
    decides |= {} if plan.resampled is None else {RESAMPLED: list(plan.resampled)}
    decides |= {} if source.orientation == 1 else {"orientation": source.orientation}
    decides |= {} if plan.skipping.mode is None else {"skipped": plan.skipping.decides}
    decides |= {} if plan.roi is None else {"roi": plan.roi.digest}
    return decides | found_in_files(plan, plan.content, source, model)


def _network_bytes(model: Model) -> tuple[int, int]:
    """Return the bytes of the weights, and of a forward pass in fp32 per input pixel."""
    network, activations = model.network, 4 * model.network.values_per_pixel
    if isinstance(network, OnnxNetwork):
        return network.file.size, activations
    return 4 * sum(value.numel() for value in network.parameters()), activations


def _runtime(model: Model, settings: Settings, machine: Machine, pixels: int) -> str:
    """Choose what runs the network on tiles of `pixels` in all."""
    if not isinstance(model.network, OnnxNetwork):
        return choose_runtime(settings.runtime, machine, pixels)
    if settings.runtime != "auto":
        raise PlanError(f"--runtime is {settings.runtime}, but the model runs by onnxruntime; leave it out")
    return "onnxruntime"


def _planes(source: ImageSource, z: tuple[int, int] | None) -> range:
    depth = source.depth or 1
    if z is None:
        return range(depth)
    if source.depth is None:
        raise PlanError(f"--z is {z[0]}:{z[1]}, but {source.path} has no z axis; leave it out")
    if not 0 <= z[0] < z[1] <= depth:
        raise PlanError(f"--z {z[0]}:{z[1]} is empty or outside the stack; allowed: a:b within 0:{depth}")
    return range(*z)


def _channels(source: ImageSource, wanted: int, chosen: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return the channels to read, without the alpha of RGBA if the model takes three."""
    if chosen is None and (source.channels == wanted or (source.channels, wanted) == (4, 3)):
        return tuple(range(wanted))
    if chosen is None or len(chosen) != wanted:
        given = f"{source.channels} channels" if chosen is None else f"{len(chosen)} chosen channels"
        raise PlanError(
            f"{source.path} has {given}, the model takes {wanted}: choose {wanted} of 0 to {source.channels - 1} "
            "with --channels, or name another model (tileseg models lists them, tileseg train makes one)"
        )
    if not all(0 <= channel < source.channels for channel in chosen):
        given = ", ".join(map(str, chosen))
        raise PlanError(f"--channels is {given}; {source.path} has channels 0 to {source.channels - 1}")
    return tuple(chosen)
