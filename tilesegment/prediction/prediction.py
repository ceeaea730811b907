"""From image files to mask files: opens what is named, plans, streams, records. The top of the library."""

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tilesegment.errors import PlanError, StoppedError
from tilesegment.prediction.batch import Batch, Choices, Workers
from tilesegment.prediction.local import ThisProcess
from tilesegment.prediction.outcome import Errand, Listener, Outcome
from tilesegment.prediction.run import Outputs
from tilesegment.prediction.settings import Settings, check_names


@dataclass(frozen=True)
class Prediction:
    """What a run did.

    Attributes:
        out: the mask.
        complete: whether it has its final name; not, where other parts are still to be done.
        pixels, blocks: decided in this run; `blocks_resumed` were there already, `blocks_repaired` of the others had
            been, but damaged. `blocks_skipped` of them were empty; `pixels` are those that were predicted.
        seconds: from the image's opening to the finished mask.
        mpx_per_s: millions of pixels a second, this run.
        tile, step, device, precision: as planned.
        batch: tiles at a time; fewer than planned where the device's memory did not allow it.
        halo: context of a tile, pixels.
        mismatch: of a halo that was chosen: share of the pixels near tile lines and image borders whose class a larger
            one changes; None where tiles are exact.
        disagreement: of int8: share of the pixels of some tiles that are of another class in fp32.
        read_amplification: bytes of the image that were decoded, for each byte of the blocks that were read, margins
            left out; on a cluster, of the worker that finished the mask. None if nothing was read.
        peak_rss_bytes: largest resident memory of the process.
        model: its name.
    """

    out: str
    complete: bool
    pixels: int
    blocks: int
    blocks_resumed: int
    blocks_repaired: int
    blocks_skipped: int
    seconds: float
    mpx_per_s: float
    tile: int
    step: int
    batch: int
    device: str
    precision: str
    halo: int
    mismatch: float | None
    disagreement: float | None
    read_amplification: float | None
    peak_rss_bytes: int
    model: str


def predict(
    image: str | Path,
    out: str | Path,
    model: str | Path | None = None,
    *,
    overwrite: bool = False,
    ngff: str = "0.5",
    probabilities: str | Path | None = None,
    preview: str | Path | None = None,
    probabilities_dtype: str = "float32",
    heatmap: str | Path | None = None,
    heatmap_class: str | None = None,
    axes: str | None = None,
    select: Mapping[str, int] | None = None,
    part: tuple[int, int] | None = None,
    workers: Workers | None = None,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
    **settings: Any,
) -> Prediction:
    """Segments an image of any size into a mask, seamlessly: equal to one pass over the whole mirror-padded image.

    Args:
        image: TIFF, OME-TIFF, Zarr, OME-Zarr, PNG or JPEG; uint8, uint16 or float32, other integers and floats with
            normalise="image".
        out: `mask.zarr`, `image.zarr/labels/NAME`, `mask.tif`, `mask.png` or `mask.jpg`. An unfinished run with the
            same settings is continued; a finished one is left as it is.
        model: file, or name of a bundled model; None takes `em-membrane` for one-channel images.
        overwrite: replace an existing mask, once the new one is complete.
        ngff: OME-Zarr version of a mask on its own: 0.5, or 0.4 for QuPath and Fiji.
        probabilities: `p.zarr`, also writes the class probabilities (K, H, W) there, with a pyramid.
        preview: a PNG or JPEG, image and overlay side by side.
        probabilities_dtype: `float32`, or `uint8` for 0 to 255.
        heatmap: a PNG, at most 2048 pixels a side, of how probable a class is; drawn from the probabilities.
        heatmap_class: name or number of that class; None is every class but 0.
        axes, select: how the image's dimensions are to be read, see `open_image`.
        part: (k, n), only the k-th of n equal parts of the blocks, counted from 1. Any number of processes do parts at
            a time; whichever is the last one finishes the mask.
        workers: who predicts, a `Cluster`; None is this process.
        listeners: hear how it goes.
        stop: asked between blocks; if it says so, the run ends there.
        settings: the fields of `Settings`: tile, halo, prune, batch, device, precision, roi, level, z, channels,
            runtime, threshold, tta, normalise, skip_empty, series, invert.

    Raises:
        TilesegmentError: the image, the model, the settings or the output is not to be had; nothing that existed is
            lost. `StoppedError`, as asked: the same call goes on from there.
    """
    choices = Choices(model, make_settings(settings), axes, select, part)
    likely = (probabilities_dtype, heatmap, heatmap_class)
    errand = Errand(image, Outputs(out, probabilities, preview, ngff, overwrite, *likely))
    (outcome,) = predict_many([errand], choices, workers, listeners=listeners, stop=stop)
    if outcome.errors:
        raise outcome.errors[0]
    if outcome.stopped:
        raise StoppedError(f"{out} is not complete; the same command goes on from there")
    return prediction_of(outcome)


def predict_many(
    errands: Iterable[Errand],
    choices: Choices,
    workers: Workers | None = None,
    *,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Outcome]:
    """Segments many images, one queue over all their blocks; what becomes of each, as they end.

    An image that fails does not stop the others: its errors are in its outcome. Arguments as in `Batch`.

    Raises:
        PlanError: the settings cannot be, for any image.
    """
    if choices.part is not None:
        check_part(choices.part)
    with nullcontext(workers) if workers is not None else ThisProcess() as who:
        yield from Batch(errands, choices, who, listeners, stop).outcomes()


def prediction_of(outcome: Outcome) -> Prediction:
    """What a run did that came to its end."""
    ending = outcome.ending
    assert outcome.order is not None and ending is not None
    plan = outcome.order.plan
    return Prediction(
        out=str(outcome.errand.outputs.mask),
        complete=ending.complete,
        pixels=outcome.pixels,
        blocks=outcome.blocks,
        blocks_resumed=outcome.resumed,
        blocks_repaired=outcome.repaired,
        blocks_skipped=outcome.skipped,
        seconds=outcome.seconds,
        mpx_per_s=outcome.pixels / 1e6 / max(outcome.seconds, 1e-9),
        tile=plan.tile,
        step=plan.step,
        batch=ending.batch,
        device=plan.device,
        precision=plan.precision,
        halo=plan.network.view.before,
        mismatch=ending.mismatch,
        disagreement=ending.disagreement,
        read_amplification=ending.read_amplification,
        peak_rss_bytes=peak_memory(),
        model=outcome.model,
    )


def check_part(part: tuple[int, int]) -> None:
    """Whether there is such a part.

    Raises:
        PlanError: there is none.
    """
    k, n = part
    if not 1 <= k <= n:
        raise PlanError(f"part {k}/{n}: parts are counted from 1 to their number, such as 1/{max(n, 1)}")


def make_settings(given: Mapping[str, Any]) -> Settings:
    """Settings from keyword arguments.

    Raises:
        PlanError: there is no such setting, or its value cannot be.
    """
    check_names(given, Settings.__dataclass_fields__)
    settings = Settings(**given)
    settings.check()
    return settings


def peak_memory() -> int:
    """Largest resident memory of this process so far, in bytes; 0 on Windows, which does not say."""
    if sys.platform == "win32":
        return 0
    status = Path("/proc/self/status")
    # Linux: getrusage's figure begins with that of the process that started this one
    found = re.search(r"VmHWM:\s*(\d+) kB", status.read_text()) if status.exists() else None
    if found is not None:
        return int(found[1]) * 1024
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
