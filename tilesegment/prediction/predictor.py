"""Prediction of a block on a device: upload, normalise, cut into tiles, run in batches, decide, assemble."""

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias, TypedDict, Unpack

import numpy as np
import torch
from torch import Tensor

from tilesegment.errors import DeviceError
from tilesegment.geometry import Block, Region, Tile
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.prediction.devices import PRECISIONS, has_openvino
from tilesegment.prediction.plan import Plan

# the symmetries of the square: 0 to 3 quarter turns, each without and with a flip before
_SYMMETRIES = [(turns, flip) for flip in (False, True) for turns in range(4)]

Pending: TypeAlias = Callable[[], tuple[np.ndarray, ...]]
"""Waits for a result that a device computes: class ids (h, w), then the probabilities (K, h, w) if asked for."""


class Options(TypedDict, total=False):
    """How blocks are predicted, the same for every predictor.

    Attributes:
        batch: tiles at a time (default 1).
        tta: average the probabilities over the 8 symmetries of the square.
        normalisation: of the grey values; None is the model's own.
        threshold: two classes: probability above which a pixel is class 1; None is the model's own.
    """

    batch: int
    tta: bool
    normalisation: Normalisation | None
    threshold: float | None


class BlockPredictor:
    """Predict whole blocks with a network; a subclass says how the network is run (`_logits`).

    A block goes to the device once, in the image's own dtype; one byte per pixel comes back, and the probabilities
    where they are asked for.

    Args:
        model, options: the network with its header; see `Options`.
        device: where the block is cut and put together.
        exact: dtype of normalised values and probabilities.

    Attributes:
        view: the network's field of view.
        batch: tiles at a time; halved whenever the device runs out of memory (then `lacked_memory` is set).
        disagreement: int8 only: share of the pixels to which the same network in fp32 gives another class.
    """

    def __init__(self, model: Model, device: torch.device, exact: torch.dtype, options: Options) -> None:
        self.view, self.device = model.field_of_view, device
        self.batch, self.lacked_memory = options.get("batch", 1), False
        self.symmetries = _SYMMETRIES if options.get("tta") else _SYMMETRIES[:1]
        threshold = options.get("threshold")
        self.threshold = model.header.threshold if threshold is None else threshold
        self.classes = len(model.header.classes)
        self.disagreement: float | None = None
        self._exact = exact
        scale = options.get("normalisation") or model.header.normalisation
        assert scale.percentiles is None, "percentiles are those of an image: give its normalisation"
        self._mean, self._std = (
            torch.tensor(values, dtype=exact, device=device)[:, None, None] for values in (scale.mean, scale.std)
        )
        # on CUDA one block arrives and another leaves while the network computes
        self._streams = (torch.cuda.Stream(device), torch.cuda.Stream(device)) if device.type == "cuda" else None

    def predict(self, pixels: np.ndarray, block: Block) -> np.ndarray:
        """Return the class ids of a block, (h, w) uint8 as `block.write`, of pixels (C, H, W), `block.read`."""
        return self.begin(pixels, block)()[0]

    def predict_probabilities(self, pixels: np.ndarray, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """Return class ids as `predict` does, and class probabilities (K, h, w), float32 (float64 for fp64)."""
        ids, found = self.begin(pixels, block, probabilities=True)()
        return ids, found

    def begin(self, pixels: np.ndarray, block: Block, *, probabilities: bool = False) -> Pending:
        """Begin `predict` or `predict_probabilities`; the returned function waits for the result, in any thread.

        A GPU works in the background: the next block can be begun before the result of this one has arrived.

        Raises:
            DeviceError: the device lacks the memory for a single tile.
        """
        if not probabilities:
            ids = torch.empty(block.write.shape, dtype=torch.uint8, device=self.device)
            for region, tile in self._tiles(pixels, block):
                ids[region.slices] = self._decide(tile)
            return self._download(ids)
        found = torch.empty((self.classes, *block.write.shape), dtype=self._exact, device=self.device)
        for region, tile in self._tiles(pixels, block):
            found[:, *region.slices] = tile
        return self._download(self._decide(found), found)

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """Return the network's input for pixels (C, H, W): the same shape, on the device."""
        return (self._upload(pixels).to(self._exact) - self._mean) / self._std

    def _logits(self, tiles: Tensor) -> Tensor:
        """Logits (B, K, h, w) of normalised tiles (B, C, H, W)."""
        raise NotImplementedError

    def _decide(self, probabilities: Tensor) -> Tensor:
        """Class ids (h, w) uint8 from probabilities (K, h, w)."""
        if self.classes == 2:
            return (probabilities[1] > self.threshold).to(torch.uint8)
        # on a CPU argmax over any axis but the last takes some twenty times as long
        return probabilities.max(0).indices.to(torch.uint8)

    @torch.inference_mode()
    def _tiles(self, pixels: np.ndarray, block: Block) -> Iterator[tuple[Region, Tensor]]:
        """Each tile's `write` region relative to the block's, and its probabilities (K, h, w) there."""
        image, start = self.normalised(pixels), 0
        while start < len(block.tiles):
            tiles = block.tiles[start : start + self.batch]
            found = self._batch(image, [tile.read.within(block.read) for tile in tiles])
            if found is None:
                self._halve_batch(tiles[0])
                continue
            for tile, probabilities in zip(tiles, found, strict=False):
                yield tile.write.within(block.write), probabilities[:, *self._kept(tile)]
            start += len(tiles)

    def _batch(self, image: Tensor, regions: list[Region]) -> Tensor | None:
        """Class probabilities (B, K, h, w) of `regions` of an image (C, H, W); None if memory is short."""
        # a batch is always full: another shape may be computed by another kernel, with other rounding
        regions = [*regions, *regions[-1:] * (self.batch - len(regions))]
        try:
            return self._probabilities(torch.stack([image[:, *region.slices] for region in regions]))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _halve_batch(self, tile: Tile) -> None:
        if self.batch == 1:
            raise DeviceError(
                f"{self.device} lacks the memory for a tile of {tile.read.width} pixels; choose a smaller --tile"
            )
        self.batch, self.lacked_memory = self.batch // 2, True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # it holds memory for batches of the old size

    def _kept(self, tile: Tile) -> tuple[slice, slice]:
        """The tile's `write` region in the network's output."""
        crop = self.view.before if self.view.crops else 0
        return tile.write.shift(-tile.read.y0 - crop, -tile.read.x0 - crop).slices

    def _probabilities(self, inputs: Tensor) -> Tensor:
        """Class probabilities (B, K, h, w) of normalised tiles (B, C, H, W), averaged over the symmetries."""
        total: Tensor | None = None
        for turns, flip in self.symmetries:
            turned = inputs.flip(-1) if flip else inputs
            logits = self._logits(torch.rot90(turned, turns, (-2, -1)))
            # turn the output back before anything is cropped: its surplus lies on one side only
            back = torch.rot90(torch.softmax(logits.to(self._exact), 1), -turns, (-2, -1))
            back = back.flip(-1) if flip else back
            total = back if total is None else total + back
        assert total is not None
        return total / len(self.symmetries)

    def _upload(self, array: np.ndarray) -> Tensor:
        """Upload an array in its own dtype, ready for what the calling thread computes next."""
        # torch shares the array's memory and wants it writable, which a view of a file is not
        here = torch.from_numpy(np.require(array, requirements=["C", "W"]))
        if self._streams is None:
            return here.to(self.device)
        computing, aside = torch.cuda.current_stream(self.device), self._streams[0]
        with torch.cuda.stream(aside):
            there = here.pin_memory().to(self.device, non_blocking=True)
        computing.wait_stream(aside)
        # its memory belongs to the other stream, which must not reuse it before this one is done with it
        there.record_stream(computing)
        return there

    def _download(self, *tensors: Tensor) -> Pending:
        """Begin to fetch what the calling thread has computed."""
        if self._streams is None:
            arrays = tuple(tensor.cpu().numpy() for tensor in tensors)
            return lambda: arrays
        aside = self._streams[1]
        aside.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(aside):
            pinned = [torch.empty(there.shape, dtype=there.dtype, pin_memory=True) for there in tensors]
            for here, there in zip(pinned, tensors, strict=True):
                here.copy_(there, non_blocking=True)
                there.record_stream(aside)
            arrived = aside.record_event()

        def wait() -> tuple[np.ndarray, ...]:
            arrived.synchronize()
            return tuple(here.numpy() for here in pinned)

        return wait


class TorchPredictor(BlockPredictor):
    """Run a copy of the network with PyTorch on CPU, CUDA (from a recording) or MPS.

    `precision`, a name of `PRECISIONS`, is that of the weights; probabilities are float32 (float64 for fp64).
    """

    def __init__(self, model: Model, device: torch.device, precision: str = "fp32", **options: Unpack[Options]) -> None:
        exact = torch.float64 if precision == "fp64" else torch.float32
        super().__init__(model, device, exact, options)
        self._dtype = PRECISIONS[precision]
        network = copy.deepcopy(model.network)
        # double precision serves to prove equality: the plain layout sums in an order that depends less on the shape
        self._layout = torch.contiguous_format if precision == "fp64" else torch.channels_last
        self._network = network.to(device, self._dtype).to(memory_format=self._layout).eval()  # type: ignore[call-overload]
        self._records = device.type == "cuda"
        self._recording: tuple[torch.Size, Callable[[Tensor], Tensor]] | None = None

    def _logits(self, tiles: Tensor) -> Tensor:
        with _whole_float32():
            return self._network(tiles.to(self._dtype).contiguous(memory_format=self._layout))

    def _probabilities(self, inputs: Tensor) -> Tensor:
        if self._records and (self._recording is None or self._recording[0] != inputs.shape):
            self._recording = None  # frees its memory first
            self._recording = self._record(inputs)
        return super()._probabilities(inputs) if self._recording is None else self._recording[1](inputs)

    def _record(self, inputs: Tensor) -> tuple[torch.Size, Callable[[Tensor], Tensor]] | None:
        """Record a CUDA graph for inputs of this shape; None if the network cannot be recorded.

        A graph starts all kernels together; started one by one from Python they would keep a fast GPU waiting.
        It reads and writes its own tensors: outputs must be used before the next call.
        """
        compute = super()._probabilities
        compute(inputs)  # raises errors that recording does not cause; libraries choose their kernels now
        held, graph = inputs.clone(), torch.cuda.CUDAGraph()
        # PyTorch's default stream for this belongs to the first GPU that was recorded on
        stream = torch.cuda.Stream(inputs.device)
        try:
            # thread_local: other threads may use the device meanwhile
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                outputs = compute(held)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            self._records = False
            return None

        def replay(inputs: Tensor) -> Tensor:
            held.copy_(inputs)
            graph.replay()
            return outputs

        return inputs.shape, replay


def make_predictor(
    model: Model,
    device: torch.device,
    plan: Plan,
    samples: Callable[[], list[tuple[np.ndarray, Block]]],
    folder: Path,
    **options: Unpack[Options],
) -> BlockPredictor:
    """Make the predictor that `plan` asks for.

    Args:
        model, device: the network with its header, and where it runs.
        plan: says the runtime, the precision and the side of the tiles.
        samples: int8: returns pixels (C, H, W) of single tiles with their blocks, see `int8.sample_blocks`.
        folder: int8: the cache of quantised networks, see `int8.folder_for`.
        options: see `Options`.

    Raises:
        DeviceError, ModelError: the runtime or int8 is unavailable here, or does not support this model.
    """
    if plan.precision != "int8" and plan.runtime != "openvino":
        return TorchPredictor(model, device, plan.precision, **options)
    if not has_openvino(device, plan.precision):
        raise DeviceError(
            f"the plan needs OpenVINO in {plan.precision}, which is not available on this machine; "
            "pip install 'tilesegment[cpu]'"
        )
    # imported only if needed
    from tilesegment.prediction.int8 import int8_predictor
    from tilesegment.prediction.openvino import OpenVinoPredictor

    if plan.precision == "int8":
        return int8_predictor(model, plan.tile, samples(), folder, **options)
    return OpenVinoPredictor(model, plan.tile, plan.precision, **options)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device ran out of memory; CPU and MPS raise a plain RuntimeError."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Let cuDNN convolve in float32; PyTorch's default is TF32, which has the mantissa of float16."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before
