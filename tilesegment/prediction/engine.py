"""Streaming: read ahead | predict | write behind. Independent of torch and dask."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from tilesegment.geometry import Region, TileGrid, mirror_indices

if TYPE_CHECKING:
    from tilesegment.prediction.predictor import BlockPredictor

# blocks read before they are needed, and blocks predicted that wait to be written
AHEAD = 2
BEHIND = 2

Item = TypeVar("Item")
Pixels = TypeVar("Pixels")
Found = TypeVar("Found")
Stored = TypeVar("Stored")


def stream(
    work: Iterable[Item],
    read: Callable[[Item], Pixels],
    predict: Callable[[Item, Pixels], Found],
    write: Callable[[Item, Found], Stored],
    stop: Callable[[], bool] = lambda: False,
) -> Generator[tuple[Item, Stored | Exception], None, None]:
    """Pass every item of `work` through `read`, `predict` and `write`, which run concurrently.

    `read` and `write` each run in their own thread, in the order of `work`; `predict` runs in the caller's. At
    most two items wait on either side, so memory does not depend on how many there are.

    Args:
        work: blocks to predict, of one image or of many.
        read: an item's pixels.
        predict: from these to whatever `write` stores.
        write: stores it; returns once it is safe.
        stop: asked before an item is predicted; if true, the items before are written and the rest is left.

    Yields:
        Each item, in order, with what `write` returned or with its error; the others go on. To end early, close the
        generator.
    """
    waiting = iter(work)
    ahead: deque[tuple[Item, Future[Pixels]]] = deque()
    behind: deque[tuple[Item, Future[Stored]]] = deque()

    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        try:
            while True:
                ahead.extend((item, reader.submit(read, item)) for item in islice(waiting, AHEAD + 1 - len(ahead)))
                if not ahead or stop():
                    break
                item, pending = ahead.popleft()
                try:
                    stored = writer.submit(write, item, predict(item, pending.result()))
                except Exception as error:
                    stored = Future()
                    stored.set_exception(error)
                while len(behind) >= BEHIND:
                    done, written = behind.popleft()
                    yield done, _settled(written)
                behind.append((item, stored))
            for done, written in behind:
                yield done, _settled(written)
        finally:
            # after an error or Ctrl-C: begin nothing new, end the write in progress
            reader.shutdown(cancel_futures=True)
            writer.shutdown(cancel_futures=True)


def _settled(stored: Future[Any]) -> Any:
    """Wait for the result, or return the error; raise Ctrl-C and the like."""
    error = stored.exception()
    return error if isinstance(error, Exception) else stored.result()


def predict_array(predictor: "BlockPredictor", image: np.ndarray, step: int) -> tuple[np.ndarray, np.ndarray]:
    """Return class ids (H, W) uint8 and probabilities (K, H, W) of an image (C, H, W) in memory, tile by tile.

    With `step` at least the image's sides (rounded up to the divisor) this is the single pass over the whole
    mirror-padded image, the reference that every tiling must equal.
    """
    height, width = image.shape[1:]
    block = -(-max(height, width) // step) * step
    whole = TileGrid(Region(0, 0, height, width), step, block, predictor.view).at(0, 0)
    rows = mirror_indices(whole.read.y0, whole.read.y1, height)
    columns = mirror_indices(whole.read.x0, whole.read.x1, width)
    return predictor.predict_probabilities(image[:, rows[:, None], columns], whole)
