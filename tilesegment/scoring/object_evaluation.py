"""Evaluate objects of files: count the overlaps block by block, score each plane, and pool the planes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tilesegment.errors import DataError
from tilesegment.labels.files import first_notes
from tilesegment.labels.geojson import is_geojson
from tilesegment.labels.label import LabelOptions
from tilesegment.labels.outlines import OutlineLabel
from tilesegment.scoring.inputs import Pair
from tilesegment.scoring.instances import VOID, Reading, Readings, open_objects, read_as
from tilesegment.scoring.objects import pooled, tally
from tilesegment.scoring.overlaps import Overlaps, add_up, count_overlaps
from tilesegment.scoring.pixels import constant_predictor
from tilesegment.scoring.results import ClassScore, Evaluation, ImageScore, pixel_scores
from tilesegment.stores import Place

_NAMES = ("background", "object")


@dataclass(frozen=True)
class ObjectPlane:
    """One plane of one pair, counted."""

    name: str
    pair: Pair
    z: int
    shape: tuple[int, int]
    overlaps: Overlaps


def readings_of(pairs: Sequence[Pair], options: LabelOptions, objects: bool | None, folder: Path) -> Readings | None:
    """Decide how files are read as objects; None if they are not.

    Args:
        pairs: the files.
        options: how they are opened.
        objects: whether objects are scored; None: if both sides hold ids, or one is GeoJSON.
        folder: for files that are needed for a while.

    Raises:
        ImageError, MaskError: a file cannot be read.
        DataError: objects are wanted, but the values are none.
    """
    true, guess = [pair.truth for pair in pairs], [pair.prediction for pair in pairs]
    outlines = next((path for path in (true[0], guess[0]) if is_geojson(path)), None)
    if outlines is not None and objects is False:
        raise DataError(
            f"{outlines} holds outlines of objects, which only objects are scored of: leave out --no-objects"
        )
    if options.ignore is not None and is_geojson(true[0]):
        raise DataError(f"{true[0]} holds outlines, which have no value {options.ignore}: leave out --ignore")
    if objects is None and outlines is None:
        # a truth that certainly holds ids cannot be scored as classes
        truth = _if_ids("truth", true, options)
        prediction = _if_ids("prediction", guess, options) if truth is not None and truth.certain else None
        if truth is None or prediction is None:
            return None
        note = "both hold ids of objects, which are scored; if they are classes, name them with --classes"
        return Readings(prediction, truth, (note,), folder)
    if not objects and outlines is None:
        return None
    prediction, truth = read_as("prediction", guess, options), read_as("truth", true, options)
    told = [one.note for one in (prediction, truth) if one.note is not None]
    return Readings(prediction, truth, tuple(told), folder)


def _if_ids(what: str, paths: Sequence[Place], options: LabelOptions) -> Reading | None:
    """How files are read if they hold ids of objects, else None."""
    try:
        reading = read_as(what, paths, options, at_a_glance=True)
    except DataError:  # scoring them as classes or probabilities says what is wrong
        return None
    return reading if reading.kind == "ids" else None


def evaluate_objects(
    names: tuple[str, str],
    pairs: Sequence[Pair],
    readings: Readings,
    options: LabelOptions,
    report: Callable[[float, str], None],
) -> tuple[Evaluation, list[ObjectPlane]]:
    """Score objects; return the planes, too, for a figure.

    Args:
        names: prediction and truth, as given.
        pairs: their files.
        readings: what these hold.
        options: how they are opened.
        report: called after every block with the share of the work done, 0 to 1, and the image's name.

    Raises:
        ImageError, MaskError: a file cannot be read.
        DataError: files differ in size, or their values are no objects; all pixels are ignored.
    """
    planes, notes = _count(pairs, readings, options, report)
    tallies = [tally(plane.overlaps) for plane in planes]
    each = [_confusion(plane.overlaps) for plane in planes]
    confusion = np.sum(each, axis=0)
    if not confusion.any():
        raise DataError(
            f"all pixels of the truth have the ignored value {options.ignore}; leave out --ignore, or name another"
        )
    scores, floor = pixel_scores(confusion), pixel_scores(constant_predictor(confusion))
    shares = (confusion.sum(1) / confusion.sum()).tolist()
    columns = zip(_NAMES, shares, scores["dice"], scores["iou"], strict=True)
    found = Evaluation(
        prediction=names[0],
        truth=names[1],
        kind="objects",
        pixels=scores["pixels"],
        ignored=sum(plane.shape[0] * plane.shape[1] for plane in planes) - scores["pixels"],
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        classes=tuple(ClassScore(name, n, n, *rest) for n, (name, *rest) in enumerate(columns)),
        accuracy=scores["accuracy"],
        pixel_error=1 - scores["accuracy"],
        threshold_pixel=None,
        miou=scores["miou"] or 0.0,
        mean_dice=scores["mean_dice"] or 0.0,
        floor_accuracy=floor["accuracy"],
        floor_miou=floor["miou"] or 0.0,
        cells=None,
        images=tuple(
            ImageScore(plane.name, plane.shape, **pixel_scores(one), objects=pooled([counts]))
            for plane, one, counts in zip(planes, each, tallies, strict=True)
        ),
        objects=pooled(tallies),
        notes=(*readings.notes, *notes),
    )
    return found, planes


def _count(
    pairs: Sequence[Pair], readings: Readings, options: LabelOptions, report: Callable[[float, str], None]
) -> tuple[list[ObjectPlane], tuple[str, ...]]:
    """Count the overlaps in every plane."""
    planes: list[ObjectPlane] = []
    notes: list[str] = []
    ignore = None if options.ignore is None else VOID
    for n, pair in enumerate(pairs):
        with open_objects(pair, readings, options) as (prediction, truth):
            tables: list[list[np.ndarray]] = [[] for _ in range(truth.planes)]
            read, area = 0, truth.planes * truth.shape[0] * truth.shape[1]
            for z, region in truth.blocks():
                tables[z].append(count_overlaps(truth.read(region, z), prediction.read(region, z), ignore))
                read += region.area
                report((n + read / area) / len(pairs), pair.name)
            names = [pair.name if truth.planes == 1 else f"{pair.name}[{z}]" for z in range(truth.planes)]
            counted = [Overlaps.of(add_up(parts)) for parts in tables]
            planes += [ObjectPlane(name, pair, z, truth.shape, counted[z]) for z, name in enumerate(names)]
            left = sum(one.prediction.size for one in counted), sum(one.truth.size for one in counted)
            for label, path, there in zip((prediction, truth), (pair.prediction, pair.truth), left, strict=True):
                notes += label.notes
                notes += _outline_notes(label, str(path), there) if isinstance(label, OutlineLabel) else ()
    return planes, first_notes(notes)


def _outline_notes(label: OutlineLabel, path: str, there: int) -> list[str]:
    """What the user should know of outlines of which `there` have pixels."""
    notes, covered, lost = [], sum(label.covered.values()), label.count - there
    if covered:
        notes.append(f"{path}: outlines overlap; {covered:,} pixels are counted for the later one")
    if lost:
        notes.append(f"{path}: {lost:,} of {label.count:,} outlines hold no pixel of their own and are left out")
    return notes


def _confusion(table: Overlaps) -> np.ndarray:
    """The confusion matrix (2, 2) int64 of background and object, rows the truth."""
    both, true, guess = table.pixels.sum(), table.truth_area.sum(), table.prediction_area.sum()
    return np.array([[table.counted - true - guess + both, guess - both], [true - both, both]], np.int64)
