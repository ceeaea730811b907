"""Pair prediction and truth by name, and open them as labels, or as probabilities, that are read by region."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.labels.files import core_of, is_folder_of_files, labels_among, list_images, match_stems, stem_of
from tilesegment.labels.geojson import is_geojson
from tilesegment.labels.label import Label, LabelOptions, check_same_size
from tilesegment.labels.resampled import AnyLabel, at_centres
from tilesegment.masks import read_record
from tilesegment.masks.reader import recorded_classes
from tilesegment.masks.spec import spec_from_record
from tilesegment.models import WEIGHTS, bundled_models
from tilesegment.objects.plan import first_pixel
from tilesegment.scoring.membranes import THRESHOLDS
from tilesegment.stores import Location, Place, resolved

_SUM_TOLERANCE = 0.05  # of class probabilities that were rounded to 8 bits or half precision


@dataclass(frozen=True)
class Pair:
    """One image's prediction and truth, each a file or a Zarr, and the image itself if it is given."""

    name: str  # stem of the truth's file, without the marks of a label
    prediction: Place
    truth: Place
    image: Place | None = None


@dataclass(frozen=True)
class Prediction(Label):
    """A label, or probabilities that are read as codes: see `_code`."""

    channels: int = 0  # of probabilities, 0 for a label


@contextmanager
def open_pair(pair: Pair, options: LabelOptions) -> Iterator[tuple[Prediction, Label]]:
    """Open prediction and truth without reading pixels yet, except of labels with a palette.

    Raises:
        ImageError, MaskError: one of them, or the image, cannot be read, or is not finished.
        DataError: they differ in size, or have several channels instead of one.
    """
    with (
        _open_prediction(pair.prediction, options) as prediction,
        options.open(pair.truth, f"truth {pair.truth}") as truth,
    ):
        name = f"truth {pair.truth}"
        scale = scale_over(pair.prediction, prediction, truth)
        if scale is not None:
            prediction = over(prediction, truth, scale)
        check_same_size(f"prediction {pair.prediction}", prediction.shape, prediction.planes, name, truth)
        if pair.image is not None:
            with open_image(pair.image, invert=options.invert) as image:
                check_same_size(f"image {image.path}", image.shape, image.depth or 1, name, truth)
        yield prediction, truth


def scale_over(path: Place, prediction: Label, truth: Label) -> tuple[float, float] | None:
    """Return how many (y, x) pixels of a mask, which we predicted of a whole image at another size, one of it spans.

    None if the mask in `path` is no such one, or the truth is not of the size of the image.
    """
    if prediction.shape == truth.shape or prediction.planes != truth.planes:
        return None
    record = read_record(path)
    if record is None or "layout" not in record:
        return None
    spec = spec_from_record(record)
    sides = zip(truth.shape, spec.shape, spec.scale, first_pixel(spec), strict=True)
    # sides of levels are rounded down, those of resampled images up
    fits = all(abs(whole - side * step) < step and abs(first) < step / 2 for whole, side, step, first in sides)
    return (1 / spec.scale[0], 1 / spec.scale[1]) if fits and spec.shape == prediction.shape else None


def over(prediction: AnyLabel, truth: Label, scale: tuple[float, float]) -> AnyLabel:
    """Return a prediction in the pixels of the truth, each of which spans `scale` (y, x) of its own."""
    note = (
        f"the prediction has pixels {1 / scale[0]:.4g} x {1 / scale[1]:.4g} times as large (y, x) as the truth: each "
        "pixel of the truth is compared with the one that its centre lies in"
    )
    label = at_centres(prediction, truth.shape, scale)
    return replace(label, notes=(*label.notes, note))


@contextmanager
def _open_prediction(path: Place, options: LabelOptions) -> Iterator[Prediction]:
    """Open probabilities, ours or floats, as codes; anything else as a label."""
    if recorded_classes(path, probabilities=False) is None:
        classes = recorded_classes(path, probabilities=True)
        with open_image(path, invert=options.invert) as source:
            if classes is not None or source.stored_dtype.kind == "f":
                rounded = classes is not None and source.dtype == np.uint8

                def read(region: Region, z: int) -> np.ndarray:
                    pixels = source.read(region, 0, z)
                    return _code(pixels / np.float32(255) if rounded else pixels, path)

                shape, planes = source.shape, source.depth or 1
                yield Prediction(
                    shape, planes, "grey", read, classes=classes, notes=source.notes, channels=source.channels
                )
                return
    with replace(options, ignore=None).open(path, f"prediction {path}") as label:
        yield Prediction(**vars(label))


def _code(pixels: np.ndarray, path: Place) -> np.ndarray:
    """Encode probabilities (C, h, w) as one number per pixel, (h, w) uint8.

    For one or two channels, how many of THRESHOLDS the probability of class 1 exceeds; for more, the most likely id.

    Raises:
        DataError: they are no probabilities.
    """
    low, high = pixels.min(), pixels.max()
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # NaN fails both
        found = "NaN or infinity" if not np.isfinite(low + high) else f"values from {low:.4g} to {high:.4g}"
        raise DataError(f"{path} holds {found}; expected probabilities from 0 to 1, or class ids as whole numbers")
    if len(pixels) > 1 and np.abs(pixels.sum(0) - 1).max() > _SUM_TOLERANCE:
        raise DataError(f"{path}: its {len(pixels)} channels do not sum to 1; expected class probabilities")
    if len(pixels) <= 2:
        return np.searchsorted(np.asarray(THRESHOLDS, pixels.dtype), pixels[-1]).astype(np.uint8)
    return pixels.argmax(0).astype(np.uint8)


def find_pairs(prediction: Place, truth: Place, image: Place | None) -> tuple[list[Pair], list[str]]:
    """Pair two or three files, or the files of folders by their stems; return the pairs and notes.

    Raises:
        DataError: prediction and truth are the same, or file and folder; one is a model, or outlines on a server; a
            folder is empty; a file has no counterpart.
    """
    for path in (prediction, truth):
        if path.suffix in (*WEIGHTS, ".onnx") or str(path) in bundled_models():
            raise DataError(f"{path} is a model; expected a mask, a label image or a probability map")
        if isinstance(path, Location) and is_geojson(path):
            raise DataError(f"{path} holds outlines, which are read from a disk: download it")
    if resolved(prediction) == resolved(truth):
        raise DataError(f"{prediction} is given as prediction and as truth; name the two to compare")
    paths = [path for path in (prediction, truth, image) if path is not None]
    folders = [path for path in paths if isinstance(path, Path) and is_folder_of_files(path)]
    if not folders:
        return [Pair(core_of(stem_of(truth)), prediction, truth, image)], []
    if len(folders) < len(paths):
        file = next(path for path in paths if path not in folders)
        raise DataError(f"{file} is one image, {folders[0]} a folder; give files or folders")
    listings = [list_images(path, outlines=path != image) for path in folders]
    for listing in listings:
        if not listing.images:
            inner = f" (but the folder {listing.folders[0].name}/)" if listing.folders else ""
            raise DataError(f"{listing.folder} holds no files that are images{inner}; expected masks, one per image")
    truths = labels_among(listings[1].images)
    predictions = _by_truth(listings[0].images, truths, folders[0], folders[1])
    images = {} if image is None else _by_truth(listings[2].images, truths, folders[2], None)
    names = {stem: core_of(stem) for stem in truths}
    if len({*names.values()}) < len(names):
        names = {stem: stem for stem in truths}
    pairs = [Pair(names[s], predictions[s], path, images.get(s)) for s, path in sorted(truths.items())]
    return pairs, [note for listing in listings for note in listing.notes([*truths, *predictions])]


def _by_truth(files: dict[str, Path], truths: dict[str, Path], folder: Path, all_in: Path | None) -> dict[str, Path]:
    """The files by the stems of their truths; every file must have one in the folder `all_in`, if given."""
    found: dict[str, Path] = {}
    lone = []
    for stem, other in match_stems(files, truths).items():
        if other is None:
            lone += [files[stem]] if all_in else []
        elif other in found:
            raise DataError(f"{found[other]} and {files[stem]} have one stem, {other!r}; keep one of each")
        else:
            found[other] = files[stem]
    for paths, where in ((lone, all_in), ([truths[stem] for stem in sorted(truths.keys() - found)], folder)):
        if paths:
            expected = f"{where}/{core_of(stem_of(paths[0]))}.*"
            raise DataError(
                f"{paths[0]} has no counterpart in {where}; expected {expected}, or remove it ({len(paths)} such)"
            )
    return found
