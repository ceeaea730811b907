"""Predict masks of image files: the library's main functions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tilesegment.errors import StoppedError
from tilesegment.prediction.queue import Queue, ThisProcess, Workers
from tilesegment.prediction.result import Listener, Result
from tilesegment.prediction.settings import Outputs, Settings
from tilesegment.stores import Place

if TYPE_CHECKING:
    from torch import nn

    from tilesegment.models.model import Model


def predict(
    image: str | Path,
    out: str | Place | None = None,
    model: "str | Path | Model | nn.Module | None" = None,
    *,
    workers: Workers | None = None,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
    **options: Any,
) -> Result:
    """Segment an image of any size into a mask, seamlessly: equal to one pass over the whole mirror-padded image.

    Args:
        image: TIFF, OME-TIFF, Zarr, OME-Zarr, PNG or JPEG; uint8, uint16 or float32, other integers and floats with
            normalise="image" or a model that scales by percentiles of the image.
        out: `mask.zarr`, `image.zarr/labels/NAME`, `mask.tif` or `mask.png`, or `s3://BUCKET/mask.zarr`. An
            unfinished run with the same settings is continued; a finished one is left as it is. None keeps no mask,
            only the `objects`.
        model: file, name of a bundled model, a `Model`, or any torch.nn.Module that gives one output pixel for each
            input pixel (see `model_of`); None takes the bundled one for such images.
        workers: a `Cluster`; None predicts in this process.
        listeners: receive the events of the run.
        stop: asked between blocks; if true, the run ends there.
        options: the other fields of `Settings` (tile, halo, prune, batch, block, device, precision, runtime, roi,
            level, diameter, mpp, source_mpp, z, channels, threshold, tta, normalise, skip_empty, axes, select, series,
            invert, part) and of `Outputs` (probabilities, probabilities_dtype, preview, heatmap, heatmap_class, ngff,
            overwrite; objects, the files for these; object_settings, as a mapping, see `ObjectSettings`;
            measure_image).

    Raises:
        TilesegmentError: the image, the model, the settings or the output cannot be used; existing files are kept.
            `StoppedError`: `stop` was true; the same call goes on from there.
    """
    names = {one.name for one in fields(Outputs)}
    outputs = Outputs.of(out, {name: options.pop(name) for name in names & options.keys()})
    settings = Settings.of({"model": model, **options})
    (result,) = predict_many([(image, outputs)], settings, workers, listeners=listeners, stop=stop)
    if result.errors:
        raise result.errors[0]
    if result.stopped:
        raise StoppedError(f"{result.out} is not complete; the same command goes on from there")
    return result


def predict_many(
    images: Iterable[tuple[str | Path, Outputs]],
    settings: Settings,
    workers: Workers | None = None,
    *,
    own: Mapping[str, Mapping[str, Any]] | None = None,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Result]:
    """Segment many images, in one queue over all their blocks; yield each result as the image ends.

    `own` holds, by their paths, what single images have instead of `settings`, such as {"a.tif": {"source_mpp": 0.5}}.
    An image that fails does not stop the others: its errors are in its result. Arguments as in `Queue`.
    """
    with nullcontext(workers) if workers is not None else ThisProcess() as who:
        yield from Queue(images, settings, who, listeners, stop, own or {}).results()
