"""Predict masks of images: the library's main functions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Unpack, overload

import numpy as np

from tilesegment.errors import PlanError, StoppedError, option
from tilesegment.geometry import Region
from tilesegment.images.arrays import ArrayLike, ImageArray
from tilesegment.masks import open_mask
from tilesegment.prediction.keywords import PredictKeywords, PredictObjectsKeywords
from tilesegment.prediction.progress import ProgressLine
from tilesegment.prediction.queue import Queue, ThisProcess, Workers
from tilesegment.prediction.result import Listener, Result
from tilesegment.prediction.settings import Outputs, Settings
from tilesegment.stores import Place

if TYPE_CHECKING:
    from torch import nn

    from tilesegment.models.model import Model

MOST_RETURNED = 1 << 31
"""Pixels of the largest mask that is returned as an array."""


@overload
def predict(
    image: str | Path | ArrayLike,
    out: str | Place,
    model: "str | Path | Model | nn.Module | None" = None,
    *,
    workers: Workers | None = None,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = ...,
    progress: bool = False,
    **options: Unpack[PredictObjectsKeywords],
) -> Result: ...
@overload
def predict(
    image: str | Path | ArrayLike,
    out: None = None,
    model: "str | Path | Model | nn.Module | None" = None,
    *,
    objects: str | Path | Sequence[str | Path],
    workers: Workers | None = None,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = ...,
    progress: bool = False,
    **options: Unpack[PredictKeywords],
) -> Result: ...
@overload
def predict(
    image: str | Path | ArrayLike,
    out: None = None,
    model: "str | Path | Model | nn.Module | None" = None,
    *,
    workers: Workers | None = None,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = ...,
    progress: bool = False,
    **options: Unpack[PredictKeywords],
) -> np.ndarray: ...
def predict(
    image: str | Path | ArrayLike,
    out: str | Place | None = None,
    model: "str | Path | Model | nn.Module | None" = None,
    *,
    workers: Workers | None = None,
    listeners: Sequence[Listener] = (),
    stop: Callable[[], bool] = lambda: False,
    progress: bool = False,
    **options: Any,
) -> Result | np.ndarray:
    """Segment an image of any size into a mask, seamlessly: equal to one pass over the whole mirror-padded image.

    Args:
        image: TIFF, OME-TIFF, Zarr, OME-Zarr, PNG or JPEG; or an array of numpy, dask, zarr or h5py, whose dimensions
            `axes` names, say "cyx", "yxc" or "zyx", unless there are two. uint8, uint16 or float32, other integers and
            floats with normalise="image" or a model that scales by percentiles of the image. It is read by region.
        out: `mask.zarr`, `image.zarr/labels/NAME`, `mask.tif` or `mask.png`, or `s3://BUCKET/mask.zarr`. An
            unfinished run with the same settings is continued; a finished one is left as it is. None returns the mask
            as an array; with `objects` it keeps only these.
        model: file, name of a bundled model, a `Model`, or any torch.nn.Module that gives one output pixel for each
            input pixel (see `model_of`); None takes the bundled one for such images.
        workers: a `Cluster`; None predicts in this process. Arrays are predicted in this process.
        listeners: receive the events of the run.
        stop: asked between blocks; if true, the run ends there.
        progress: show how far the run is, in a line on stderr that changes, as in a notebook.
        options: the other fields of `Settings` (tile, halo, prune, batch, block, device, precision, runtime, roi,
            level, diameter, mpp, source_mpp, z, channels, threshold, tta, normalise, skip_empty, axes, select, series,
            invert, part) and of `Outputs` (probabilities, probabilities_dtype, preview, heatmap, heatmap_class, ngff,
            overwrite; objects, the files for these; object_settings, as a mapping, see `ObjectSettings`;
            measure_image).

    Returns:
        With `out` or `objects` the `Result`. Else the class ids, (h, w) uint8, or (z, h, w) of an image with a z axis;
        at most `MOST_RETURNED` pixels.

    Raises:
        TilesegmentError: the image, the model, the settings or the output cannot be used; existing files are kept.
            `StoppedError`: `stop` was true; the same call goes on from there.
    """
    given = image if isinstance(image, str | Path) else _array(image, workers, options)
    settings = Settings.of({"model": model, **_without_outputs(options)})
    heard = (*listeners, ProgressLine()) if progress else tuple(listeners)
    if out is not None or options.get("objects"):
        return _predicted(given, _outputs(out, options), settings, workers, heard, stop)
    if settings.part is not None:
        raise PlanError("part writes one part of a mask, and the other parts the others: name the mask with --out")
    with TemporaryDirectory(prefix="predict-") as folder:
        path = Path(folder) / "mask.zarr"
        _predicted(given, _outputs(path, options), settings, workers, (_Bound(), *heard), stop)
        return _ids(path)


def predict_many(
    images: Iterable[tuple[str | Path | ImageArray, Outputs]],
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


class _Bound(Listener):
    """Refuses a mask that is too large to be returned, before any of it is predicted."""

    def begun(self, result: Result) -> None:
        pixels = result.decided.pixels
        if pixels > MOST_RETURNED:
            raise PlanError(
                f"the mask has {pixels:,} pixels; at most {MOST_RETURNED:,} are returned as an array: "
                'name a file with --out, such as out="mask.zarr"'
            )


def _array(image: ArrayLike, workers: Workers | None, options: Mapping[str, Any]) -> ImageArray:
    """Take an array as the image; PlanError for what needs an image that can be opened again."""
    given = ImageArray.of(image)
    reasons = {"workers": workers, "preview": options.get("preview"), "measure_image": options.get("measure_image")}
    for name, wanted in reasons.items():
        if wanted:
            raise PlanError(
                f"{option(name)} needs an image that can be opened again, and this is an {given}: "
                f"save it, for instance as Zarr, and give its path, or leave {option(name)} out"
            )
    return given


_OUTPUTS = {one.name for one in fields(Outputs)}


def _without_outputs(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in _OUTPUTS}


def _outputs(out: str | Place | None, options: Mapping[str, Any]) -> Outputs:
    return Outputs.of(out, {name: value for name, value in options.items() if name in _OUTPUTS})


def _predicted(
    image: str | Path | ImageArray,
    outputs: Outputs,
    settings: Settings,
    workers: Workers | None,
    listeners: Sequence[Listener],
    stop: Callable[[], bool],
) -> Result:
    """Predict one image, and raise what went wrong."""
    (result,) = predict_many([(image, outputs)], settings, workers, listeners=listeners, stop=stop)
    if result.errors:
        raise result.errors[0]
    if result.stopped:
        raise StoppedError(f"{result.out} is not complete; the same command goes on from there")
    return result


def _ids(path: Path) -> np.ndarray:
    """Return the class ids of a mask."""
    mask = open_mask(path)
    ids = np.empty((mask.spec.depth or 1, *mask.spec.shape), np.uint8)
    for z, plane in enumerate(ids):
        for region in Region.of_shape(mask.spec.shape).squares(8192):
            plane[region.slices] = mask.read(region, 0, z)
    return ids[0] if mask.spec.depth is None else ids
