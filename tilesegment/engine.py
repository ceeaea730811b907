"""Streaming: read ahead | predict | write behind. Knows neither torch nor dask; it is handed what does the work."""

import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

import numpy as np

from tilesegment.geometry import Block, FieldOfView, Region, TileGrid, mirror_indices

# blocks read before they are needed, and blocks predicted that wait to be written
_AHEAD = 2
_BEHIND = 2

Result = TypeVar("Result")


class Predictor(Protocol):
    """A model on a device in a precision."""

    view: FieldOfView

    def predict(self, pixels: np.ndarray, block: Block) -> np.ndarray:
        """Class ids (h, w) uint8 of `block.write` from the pixels (C, H, W) of `block.read`."""

    def predict_probabilities(self, pixels: np.ndarray, block: Block) -> tuple[np.ndarray, np.ndarray]:
        """As `predict`, and the class probabilities (K, h, w)."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        pixels, blocks: written so far in this run.
        seconds: since it began.
    """

    pixels: int
    blocks: int
    seconds: float


def stream(
    work: Iterable[tuple[int, Block]],
    read: Callable[[int, Block], np.ndarray],
    predict: Callable[[np.ndarray, Block], Result],
    write: Callable[[int, Block, Result], None],
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Takes every (plane, block) of `work` through `read`, `predict` and `write`, the three at the same time.

    `read` and `write` run in a thread of their own each, in the order of `work`; `predict` runs in the caller's. At
    most two blocks wait on either side, so memory does not depend on how many there are. The first error stops the run
    and is raised here; blocks that were written stay written.

    Args:
        work: plane and block.
        read: pixels (C, H, W) of `block.read` of a plane.
        predict: from these to whatever `write` stores.
        write: stores a block; returns once it is safe.
        report: called after every block that was written.
    """
    start, pixels, blocks = time.monotonic(), 0, 0
    waiting = iter(work)
    ahead: deque[tuple[int, Block, Future[np.ndarray]]] = deque()
    behind: deque[tuple[Block, Future[None]]] = deque()

    def settle(most: int) -> None:
        """Waits until at most `most` blocks are still to be written."""
        nonlocal pixels, blocks
        while len(behind) > most:
            block, written = behind.popleft()
            written.result()
            pixels, blocks = pixels + block.write.area, blocks + 1
            report(Progress(pixels, blocks, time.monotonic() - start))

    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        try:
            while True:
                for z, block in islice(waiting, _AHEAD + 1 - len(ahead)):
                    ahead.append((z, block, reader.submit(read, z, block)))
                if not ahead:
                    break
                z, block, pending = ahead.popleft()
                result = predict(pending.result(), block)
                settle(_BEHIND - 1)
                behind.append((block, writer.submit(write, z, block, result)))
            settle(0)
        finally:
            # after an error or Ctrl-C: nothing new is begun, what is being written is written to its end
            reader.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)
    return Progress(pixels, blocks, time.monotonic() - start)


def predict_array(predictor: Predictor, image: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Class ids (H, W) uint8 and probabilities (K, H, W) of an image (C, H, W) in memory, tile by tile.

    With `step` at least the image's sides (rounded up to the divisor) this is the single pass over the whole
    mirror-padded image, the reference that every tiling must equal.
    """
    height, width = image.shape[1:]
    block = -(-max(height, width) // step) * step
    whole = TileGrid(Region(0, 0, height, width), step, block, predictor.view).at(0, 0)
    rows = mirror_indices(whole.read.y0, whole.read.y1, height)
    columns = mirror_indices(whole.read.x0, whole.read.x1, width)
    return predictor.predict_probabilities(image[:, rows[:, None], columns], whole)
