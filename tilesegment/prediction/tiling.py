"""Choice of the sides of tiles, blocks and chunks, of batch and runtime: arithmetic only."""

from dataclasses import dataclass
from math import ceil

from tilesegment.errors import PlanError
from tilesegment.geometry import FieldOfView

STEPS = (256, 384, 512, 768, 1024)  # pixels: sides of the kept part of a tile to choose from
# side of a block, about: large enough that margins are cheap, small enough that a few fit anywhere
BLOCK = 2048
_CHUNK = 384  # side of a chunk, about
_PAPER_TILE = 572  # pixels
_MOST_ACTIVATIONS = 5 << 28  # bytes that the activations of a chosen tile may take
_VALUE_BYTES = {"int8": 1, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}
WORTH_CONVERTING = 16_000_000  # pixels of tiles from which OpenVINO's conversion, some seconds, pays
_MOST_STEP = 1 << 17  # pixels; a U-Net's activations for it take terabytes
_MOST_CHUNK = 1 << 14  # pixels; a reader has to decode a chunk whole


@dataclass(frozen=True)
class Machine:
    """The machine that predicts, as far as a plan depends on it.

    Attributes:
        device, precision: as chosen.
        free_bytes: memory on the device that a batch may take; None if it is shared with everything else.
        openvino: whether OpenVINO is installed and computes in that precision.
    """

    device: str
    precision: str
    free_bytes: int | None = None
    openvino: bool = False


def forward_bytes(pixel_bytes: int, classes: int, precision: str) -> int:
    """Return the bytes of a forward pass per input pixel; `pixel_bytes` for fp32. Logits and soft-max stay fp32."""
    return max(pixel_bytes * _VALUE_BYTES[precision] // 4, 8 * classes)


def default_tile(view: FieldOfView, shape: tuple[int, int], pixel_bytes: int, free_bytes: int | None) -> int:
    """Return the side of the tile that computes the fewest pixels for `shape` (H, W), if its activations fit.

    Context is computed once per tile, so large tiles compute less, except for what lies beyond the region. This is
    calculated, not timed, so that all machines with enough memory, and all parts of a run, choose the same.
    """
    tiles = [view.tile_of(view.step_for(step)) for step in STEPS]
    most = _MOST_ACTIVATIONS if free_bytes is None else min(_MOST_ACTIVATIONS, free_bytes)
    fitting = [tile for tile in tiles if tile**2 * pixel_bytes <= most]

    def pixels(tile: int) -> int:
        step = view.step_of(tile)
        return ceil(shape[0] / step) * ceil(shape[1] / step) * tile**2

    return min(fitting or tiles[:1], key=pixels)


@dataclass(frozen=True)
class Sides:
    """Sides in pixels of the kept part of a tile, of a block and of its chunks."""

    step: int
    block: int
    chunk: int

    @property
    def tiles(self) -> int:
        """Tiles of a block."""
        return (self.block // self.step) ** 2

    @classmethod
    def of(cls, step: int, shape: tuple[int, int], wanted: int | None = None) -> "Sides":
        """Choose whole tiles and whole chunks for a block of about `wanted` pixels, no larger than a region of `shape`.

        Raises:
            PlanError: the step is far too large.
        """
        wanted = BLOCK if wanted is None else wanted
        chunk = _chunk(step, min(_CHUNK, wanted // 2))
        if step > _MOST_STEP or chunk > _MOST_CHUNK:
            raise PlanError(f"a tile that keeps {step} pixels is much too large; keep at most a few thousand")
        unit = max(step, chunk)
        return cls(step, unit * min(max(round(wanted / unit), 1), -(-max(shape) // unit)), chunk)


def _chunk(step: int, goal: int) -> int:
    """One or several tiles, or an even part of one, of a few hundred pixels."""
    if step < goal:
        return step * round(goal / step)
    while step > 1024 and step % 2 == 0:
        step //= 2
    return step


def default_batch(tiles: int, tile: int, pixel_bytes: int, free_bytes: int | None) -> int:
    """Return the largest worthwhile batch that divides a block's `tiles`.

    Where memory is shared, as many pixels as one tile of the U-Net paper; more only where memory is free, as on a GPU.
    """
    most = _PAPER_TILE**2 // tile**2 if free_bytes is None else free_bytes // (tile**2 * pixel_bytes)
    return max(size for size in range(1, min(max(most, 1), tiles, 64) + 1) if tiles % size == 0)


def choose_runtime(wanted: str, machine: Machine, pixels: int) -> str:
    """Choose `pytorch` or `openvino` for tiles of `pixels` in all; OpenVINO is faster on a CPU, once it has converted.

    Raises:
        PlanError: the `wanted` runtime cannot be used on this machine.
    """
    if wanted == "pytorch" and machine.precision == "int8":
        raise PlanError("precision int8 is computed by openvino; leave out --runtime, or choose another --precision")
    if wanted == "openvino" and not machine.openvino:
        raise PlanError(
            f"openvino is not available for {machine.device} in {machine.precision}; it runs on CPUs, in fp32, and in "
            "bf16 where they have that: pip install 'tilesegment[cpu]'"
        )
    if wanted == "openvino" or machine.precision == "int8":
        return "openvino"
    return "openvino" if wanted == "auto" and machine.openvino and pixels >= WORTH_CONVERTING else "pytorch"
