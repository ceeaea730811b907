"""Every choice that is made before a pixel moves: plain data that prints, pickles and can be argued with."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, floor
from typing import Any

import numpy as np

from tilesegment.errors import PlanError
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.prediction.facts import ImageFacts, Machine, NetworkFacts
from tilesegment.prediction.settings import Settings

_PAPER_TILE = 572  # pixels
STEPS = (256, 384, 512, 768, 1024)  # pixels: sides of what is kept of a tile, where none was chosen
_MOST_ACTIVATIONS = 5 << 28  # bytes that those of a tile may take where its side is not chosen
_SAMPLE_STEP = 512  # pixels, at most: while int8 is calibrated, many more values are held, and in fp32
_VALUE_BYTES = {"int8": 1, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
# side of a block, about: large enough that margins are cheap, small enough that a few fit anywhere
_BLOCK = 2048
_CHUNK = 384
_WORTH_CONVERTING = 16_000_000  # pixels of tiles; the conversion takes some seconds
_MOST_STEP = 1 << 17  # pixels; a U-Net's activations for it take terabytes
_MOST_CHUNK = 1 << 14  # pixels; a reader has to decode a chunk whole


@dataclass(frozen=True)
class Plan:
    """A prediction, decided.

    Attributes:
        image, network: what it is about.
        region: what is predicted, in pixels of the level.
        planes: along z.
        channels: of the image, as the model wants them.
        tile, step, block, chunk: sides in pixels; see the words in geometry.
        batch: tiles at a time.
        device, precision: where and how exactly.
        runtime: what runs the network: pytorch, openvino or onnxruntime.
    """

    image: ImageFacts
    network: NetworkFacts
    region: Region
    planes: range
    channels: tuple[int, ...]
    tile: int
    step: int
    block: int
    chunk: int
    batch: int
    device: str
    precision: str
    runtime: str

    @property
    def grid(self) -> TileGrid:
        """The blocks and tiles of one plane."""
        return TileGrid(self.region, self.step, self.block, self.network.view)

    @property
    def blocks(self) -> int:
        """How many blocks there are, over all planes."""
        return len(self.grid) * len(self.planes)

    @property
    def tiles(self) -> int:
        """How many tiles the network sees, over all planes."""
        return self.grid.tiles * len(self.planes)

    @property
    def pixels(self) -> int:
        """How many pixels are decided."""
        return self.region.area * len(self.planes)

    @property
    def areas(self) -> np.ndarray:
        """How many pixels of each block are decided, int (planes, rows, columns)."""
        sides = ((self.region.height, self.block), (self.region.width, self.block))
        heights, widths = (np.diff([*range(0, size, block), size]) for size, block in sides)
        return np.broadcast_to(np.outer(heights, widths), (len(self.planes), len(heights), len(widths)))

    def work(self) -> Iterator[tuple[int, Block]]:
        """Plane and block, in the order in which they are predicted."""
        return ((z, block) for z in self.planes for block in self.grid)

    @property
    def sample_step(self) -> int:
        """Of the tiles on which int8 is calibrated: where the plan's are large, these are smaller."""
        divisor = self.network.view.divisor
        return min(self.step, max(_SAMPLE_STEP // divisor, 1) * divisor)

    @property
    def memory_bytes(self) -> int:
        """Estimate of the largest resident memory on the host; does not depend on the image's size.

        The interpreter with its libraries, the weights twice, a batch's activations (on the host they count only where
        it computes), and the blocks under way: one being read, one waiting, one normalised to float32, two masks.
        """
        side = min(self.block, -(-max(self.region.shape) // self.step) * self.step) + self.tile - self.step
        raw = side * side * self.image.channels * self.image.itemsize
        blocks = 3 * raw + side * side * (4 * self.network.channels + 2 + 2)
        activations = self._activations if self.device == "cpu" else 0
        return _PROCESS_BYTES + self.image.cache_bytes + 2 * self.network.weights_bytes + blocks + activations

    @property
    def _activations(self) -> int:
        """Bytes of those of a batch; or, where int8 is calibrated first, what that takes."""
        predicting = self.batch * self.tile**2 * _pixel_bytes(self.network, self.precision)
        if self.precision != "int8":
            return predicting
        sample = self.network.view.tile_of(self.sample_step)
        # measured: a library of its own, and twice as much as a forward pass in fp32
        return max(predicting, 10**8 + 2 * sample**2 * self.network.pixel_bytes)

    @property
    def disk_bytes(self) -> int:
        """Room that the mask and its pyramid take without compression; compressed, membranes take a tenth of it."""
        return self.pixels * 4 // 3

    def lines(self) -> list[tuple[str, str]]:
        """What and how much, for people."""
        height, width = self.region.shape
        planes = f" x {len(self.planes)} planes" if self.image.depth is not None else ""
        return [
            ("image", f"{self.image.path} ({self.image.format}, {self.image.channels} channels)"),
            ("predicted", f"{height} x {width} pixels (y, x){planes}, {self.pixels / 1e6:,.1f} Mpx"),
            ("tile", f"{self.tile} px, of which {self.step} are kept; {self.tiles:,} tiles, {self.batch} at a time"),
            ("block", f"{self.block} px; {self.blocks:,} blocks, chunks of {self.chunk}"),
            ("device", f"{self.device}, {self.precision}, by {self.runtime}"),
            ("memory", f"about {self.memory_bytes / 1e9:.1f} GB, whatever the image's size"),
            ("disk", f"at most {self.disk_bytes / 1e9:.2f} GB for the mask"),
        ]


# measured: Python with torch, zarr and tifffile loaded
_PROCESS_BYTES = 350 * 10**6


def make_plan(image: ImageFacts, network: NetworkFacts, settings: Settings, machine: Machine) -> Plan:
    """Decides what `settings` leave open.

    Args:
        image, network: what it is about.
        settings: what the user chose.
        machine: that predicts.

    Raises:
        PlanError: a setting that does not fit the image or the network.
    """
    settings.check()
    if settings.threshold is not None and network.classes != 2:
        raise PlanError(f"--threshold needs a model of two classes; this one has {network.classes}: leave it out")
    region, planes = region_of(settings.roi, image.shape, image.scale), _planes(image, settings.z)
    tile = settings.tile if settings.tile is not None else _default_tile(network, region, machine)
    step = network.view.step_of(tile)
    chunk = _chunk(step)
    if step > _MOST_STEP or chunk > _MOST_CHUNK:
        raise PlanError(f"tile is {tile}, much too large; a few thousand pixels are as good")
    # whole tiles and whole chunks: one of the two is a multiple of the other
    unit = max(step, chunk)
    block = unit * min(max(round(_BLOCK / unit), 1), -(-max(region.shape) // unit))
    batch = settings.batch or _batch((block // step) ** 2, tile, network.pixel_bytes, machine.free_bytes)
    channels = _channels(image, network.channels, settings.channels)
    sides = (tile, step, block, chunk)
    tiles = TileGrid(region, step, block, network.view).tiles * len(planes)
    runtime = _runtime(network, settings, machine, tiles * tile**2)
    return Plan(image, network, region, planes, channels, *sides, batch, machine.device, machine.precision, runtime)


def fingerprint(plan: Plan, settings: Settings, more: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the pixels of a mask: two runs of one fingerprint write the same mask.

    Batch and device are left out: a run may be resumed elsewhere.
    """
    return {
        "image": plan.image.path.rstrip("/").rsplit("/", 1)[-1],
        "shape": list(plan.image.shape),
        "region": [plan.region.y0, plan.region.x0, plan.region.y1, plan.region.x1],
        "planes": [plan.planes.start, plan.planes.stop],
        "channels": list(plan.channels),
        "level": settings.level,
        "tile": plan.tile,
        "step": plan.step,
        "block": plan.block,
        "precision": plan.precision,
        "runtime": plan.runtime,
        "tta": settings.tta,
        **more,
    }


def _runtime(network: NetworkFacts, settings: Settings, machine: Machine, pixels: int) -> str:
    """What runs the network on tiles of so many `pixels` in all.

    OpenVINO, where there is one, is faster on a CPU, once it has converted the network.
    """
    if network.runtime is not None:
        if settings.runtime != "auto":
            raise PlanError(
                f"runtime {settings.runtime} was given, but the model runs by {network.runtime}; leave it out"
            )
        return network.runtime
    if settings.runtime == "pytorch" and machine.precision == "int8":
        raise PlanError("precision int8 is computed by openvino; leave out --runtime, or choose another --precision")
    if settings.runtime == "openvino" and not machine.openvino:
        raise PlanError(
            f"openvino is not to be had for {machine.device} in {machine.precision}; it is for CPUs, in fp32, and in "
            "bf16 where they have that: pip install 'tilesegment[cpu]'"
        )
    pays = machine.openvino and pixels >= _WORTH_CONVERTING
    wanted = settings.runtime == "openvino" or machine.precision == "int8"
    return "openvino" if wanted or (settings.runtime == "auto" and pays) else "pytorch"


def _default_tile(network: NetworkFacts, region: Region, machine: Machine) -> int:
    """Side of a tile where none was chosen: of those whose activations fit, the one with the fewest pixels to compute.

    Context is computed once for each tile, so large ones compute less, but for what lies beyond the region. That is
    reckoned and not timed, so that all machines with the memory, and all parts of a run, come to the same.
    """
    view = network.view
    tiles = [view.tile_of(view.step_for(step)) for step in STEPS]
    most = _MOST_ACTIVATIONS if machine.free_bytes is None else min(_MOST_ACTIVATIONS, machine.free_bytes)
    pixel_bytes = _pixel_bytes(network, machine.precision)
    fitting = [tile for tile in tiles if tile**2 * pixel_bytes <= most]

    def pixels(tile: int) -> int:
        step = view.step_of(tile)
        return ceil(region.height / step) * ceil(region.width / step) * tile**2

    return min(fitting or tiles[:1], key=pixels)


def _pixel_bytes(network: NetworkFacts, precision: str) -> int:
    """Memory that a forward pass takes for each input pixel; logits and their soft-max are always in fp32."""
    return max(network.pixel_bytes * _VALUE_BYTES[precision] // 4, 8 * network.classes)


def region_of(roi: Region | None, shape: tuple[int, int], scale: tuple[float, float]) -> Region:
    """The pixels of a level that a region of level 0 touches; all of them without one.

    Args:
        roi: in pixels of level 0.
        shape: (height, width) of the level.
        scale: (y, x) pixels of level 0 per pixel of the level.

    Raises:
        PlanError: it is empty, or reaches beyond the image.
    """
    whole = Region.of_shape(shape)
    if roi is None:
        return whole
    (sy, sx), (height, width) = scale, shape
    touched = Region(floor(roi.y0 / sy), floor(roi.x0 / sx), ceil(roi.y1 / sy), ceil(roi.x1 / sx))
    region = touched.intersect(whole)
    # sides of levels are rounded down: the last pixels of level 0, fewer than one here, may have none of their own
    beyond = roi.y1 >= (height + 1) * sy or roi.x1 >= (width + 1) * sx
    if roi.area == 0 or min(roi.y0, roi.x0) < 0 or beyond or region.area == 0:
        allowed = f"0:{round(height * sy)},0:{round(width * sx)}"
        raise PlanError(f"roi {roi} is empty or outside the image; allowed: y0:y1,x0:x1 within {allowed}")
    return region


def _planes(image: ImageFacts, z: tuple[int, int] | None) -> range:
    depth = image.depth or 1
    if z is None:
        return range(depth)
    if image.depth is None:
        raise PlanError(f"z {z[0]}:{z[1]} was given, but {image.path} has no z axis; leave out --z")
    if not 0 <= z[0] < z[1] <= depth:
        raise PlanError(f"z {z[0]}:{z[1]} is empty or outside the stack; allowed: a:b within 0:{depth}")
    return range(*z)


def _channels(image: ImageFacts, wanted: int, chosen: tuple[int, ...] | None) -> tuple[int, ...]:
    """Which channels are read; of RGBA the alpha is left out where the model takes three."""
    if chosen is None and (image.channels == wanted or (image.channels, wanted) == (4, 3)):
        return tuple(range(wanted))
    if chosen is None or len(chosen) != wanted:
        given = f"{image.channels} channels" if chosen is None else f"{len(chosen)} chosen channels"
        raise PlanError(
            f"{image.path} has {given}, the model takes {wanted}: choose {wanted} of 0 to {image.channels - 1} "
            "with --channels, or name another model (tileseg models lists them, tileseg train makes one)"
        )
    if not all(0 <= channel < image.channels for channel in chosen):
        raise PlanError(f"channels {', '.join(map(str, chosen))}: {image.path} has channels 0 to {image.channels - 1}")
    return chosen


def _chunk(step: int) -> int:
    """Side of a chunk for a step: one to some tiles, or an even part of a tile, of a few hundred pixels."""
    if step < _CHUNK:
        return step * round(_CHUNK / step)
    while step > 1024 and step % 2 == 0:
        step //= 2
    return step


def _batch(tiles: int, tile: int, pixel_bytes: int, free_bytes: int | None) -> int:
    """The largest batch that divides a block's `tiles` and is no larger than pays.

    Where memory is shared with all else, small tiles in batches as large as one of the paper; more only where there is
    memory to spare, as on a GPU.
    """
    most = _PAPER_TILE**2 // tile**2 if free_bytes is None else free_bytes // (tile**2 * pixel_bytes)
    return max(size for size in range(1, min(max(most, 1), tiles, 64) + 1) if tiles % size == 0)
