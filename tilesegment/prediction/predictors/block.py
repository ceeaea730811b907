"""What every predictor does: from the pixels of a block to its classes, whatever runs the network."""

from collections.abc import Callable
from typing import TypeAlias, TypedDict

import numpy as np
import torch
from torch import Tensor

from tilesegment.errors import DeviceError
from tilesegment.geometry import Block, Region, Tile
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.prediction.predictors.transfer import Transfer

# the symmetries of the square: 0 to 3 quarter turns, each without and with a flip before
_SYMMETRIES = [(turns, flip) for flip in (False, True) for turns in range(4)]


Pending: TypeAlias = Callable[[], tuple[np.ndarray, ...]]
"""Waits for a result that a device is computing: class ids (h, w), and the probabilities (K, h, w), if asked for."""


class Options(TypedDict, total=False):
    """How blocks are predicted, the same for every predictor.

    Attributes:
        batch: tiles at a time; 1 unless given.
        tta: average the probabilities over the 8 symmetries of the square.
        normalisation: of the grey values; None is the model's own.
        threshold: two classes: probability above which a pixel is class 1; None is the model's own.
    """

    batch: int
    tta: bool
    normalisation: Normalisation | None
    threshold: float | None


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether a device's memory did not suffice; that of a CPU and MPS have no class of their own for it."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in text or "can't allocate memory" in text


class BlockPredictor:
    """Predicts whole blocks: normalise, cut into tiles, run in batches, average, keep the centre, put together.

    The block goes to the device once, in the image's own dtype; what comes back is one byte a pixel (and the
    probabilities, where they are asked for). How the network is run is `_logits`.

    Args:
        model: the network and its header.
        device: where it runs.
        runtime: what runs it, with its version.
        exact: dtype of normalised values and probabilities.
        options: see `Options`.

    Attributes:
        view: the network's field of view.
        batch: tiles at a time, as given, or, where the device's memory did not allow that, half as many, and so on.
        lacked_memory: whether it did not.
        runtime: as given.
        disagreement: share of the pixels to which the same network in fp32 gives another class, where it was measured.
    """

    def __init__(self, model: Model, device: torch.device, runtime: str, exact: torch.dtype, options: Options) -> None:
        self.view, self.device, self.runtime = model.field_of_view, device, runtime
        self.batch = options.get("batch", 1)
        self.symmetries = _SYMMETRIES if options.get("tta") else _SYMMETRIES[:1]
        threshold = options.get("threshold")
        self.threshold = model.header.threshold if threshold is None else threshold
        self.classes = len(model.header.classes)
        self.disagreement: float | None = None
        self.lacked_memory = False
        self._exact, self._transfer = exact, Transfer(device)
        scale = options.get("normalisation") or model.header.normalisation
        self._mean, self._std = (
            torch.tensor(values, dtype=exact, device=device)[:, None, None] for values in (scale.mean, scale.std)
        )

    def predict(self, pixels: np.ndarray, block: Block) -> np.ndarray:
        """Class ids of a block, (h, w) uint8 as `block.write`, from its pixels (C, H, W), H x W as `block.read`."""
        return self.begin(pixels, block)()[0]

    def predict_probabilities(self, pixels: np.ndarray, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, and the class probabilities (K, h, w), float32 (float64 for fp64)."""
        ids, found = self.begin(pixels, block, probabilities=True)()
        return ids, found

    def begin(self, pixels: np.ndarray, block: Block, *, probabilities: bool = False) -> Pending:
        """Begins `predict`, or `predict_probabilities`; what is returned waits for the result and gives it.

        A GPU goes on by itself: the next block can be begun before the result of this one is there.
        """
        if not probabilities:
            ids = torch.empty(block.write.shape, dtype=torch.uint8, device=self.device)
            self._each_tile(pixels, block, lambda region, p: ids[region.slices].copy_(self._decide(p)))
            return self._transfer.down(ids)
        found = torch.empty((self.classes, *block.write.shape), dtype=self._exact, device=self.device)
        self._each_tile(pixels, block, lambda region, p: found[:, *region.slices].copy_(p))
        return self._transfer.down(self._decide(found), found)

    def normalised(self, pixels: np.ndarray) -> Tensor:
        """What the network sees of pixels (C, H, W): the same shape, on the device."""
        return (self._transfer.up(pixels).to(self._exact) - self._mean) / self._std

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
    def _each_tile(self, pixels: np.ndarray, block: Block, keep: Callable[[Region, Tensor], object]) -> None:
        """Calls `keep` with each tile's `write` region, counted from the block's, and its probabilities (K, h, w).

        Raises:
            DeviceError: the device has not the memory for a single tile.
        """
        image, start = self.normalised(pixels), 0
        while start < len(block.tiles):
            tiles = block.tiles[start : start + self.batch]
            found = self._if_memory_allows(image, [tile.read.within(block.read) for tile in tiles])
            if found is None:
                self._take_fewer(tiles[0])
                continue
            for tile, probabilities in zip(tiles, found, strict=False):
                keep(tile.write.within(block.write), probabilities[:, *self._kept(tile)])
            start += len(tiles)

    def _if_memory_allows(self, image: Tensor, regions: list[Region]) -> Tensor | None:
        """Class probabilities (B, K, h, w) of `regions`, one batch, of an image (C, H, W); None without memory."""
        # a batch is always full: another shape may be computed by another kernel, with other rounding
        regions = [*regions, *regions[-1:] * (self.batch - len(regions))]
        try:
            return self._probabilities(torch.stack([image[:, *region.slices] for region in regions]))
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _take_fewer(self, tile: Tile) -> None:
        """Half as many tiles at a time from now on."""
        if self.batch == 1:
            raise DeviceError(
                f"{self.device} lacks the memory for a tile of {tile.read.width} pixels; choose a smaller --tile"
            )
        self.batch, self.lacked_memory = self.batch // 2, True
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # what was kept for batches of the old size

    def _kept(self, tile: Tile) -> tuple[slice, slice]:
        """The tile's `write` region in the network's output."""
        before = self.view.before
        first = (tile.read.y0 + before, tile.read.x0 + before) if self.view.crops else (tile.read.y0, tile.read.x0)
        return tile.write.shift(-first[0], -first[1]).slices

    def _probabilities(self, inputs: Tensor) -> Tensor:
        """Class probabilities (B, K, h, w) of normalised tiles (B, C, H, W), averaged over the symmetries."""
        total: Tensor | None = None
        for turns, flip in self.symmetries:
            turned = inputs.flip(-1) if flip else inputs
            logits = self._logits(torch.rot90(turned, turns, (-2, -1)))
            # the output is turned back whole, before anything is cropped: its surplus lies on one side only
            back = torch.rot90(torch.softmax(logits.to(self._exact), 1), -turns, (-2, -1))
            back = back.flip(-1) if flip else back
            total = back if total is None else total + back
        assert total is not None
        return total / len(self.symmetries)
