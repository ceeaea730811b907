"""Evaluate masks: read prediction and truth once to count pixels, once more to score cells, and draw a figure."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.images.arrays import ArrayLike, ImageArray, named, naming, write_array
from tilesegment.labels.files import first_notes
from tilesegment.labels.geojson import is_geojson
from tilesegment.labels.label import BLOCK, OBJECTS_NOTE, LabelOptions
from tilesegment.labels.scanning import Scan
from tilesegment.metadata import LabelClass
from tilesegment.scoring.figure import check_figure, draw_figure
from tilesegment.scoring.inputs import Pair, find_pairs, open_pair
from tilesegment.scoring.instances import Readings
from tilesegment.scoring.matching import Counted, Counts, Matching, Plane, count_pairs, match
from tilesegment.scoring.membranes import THRESHOLDS, section_scores, summarise
from tilesegment.scoring.object_evaluation import evaluate_objects, readings_of
from tilesegment.scoring.object_figure import draw_objects
from tilesegment.scoring.pixels import constant_predictor, pixel_accuracy
from tilesegment.scoring.results import CellScore, ClassScore, Evaluation, ImageScore, pixel_scores
from tilesegment.stores import Location, Place, place_of

Report = Callable[[float, str], None]

_LARGEST = 4096 * 4096  # pixels of the largest plane whose cells are scored at once


def evaluate(
    prediction: str | Place | ArrayLike,
    truth: str | Place | ArrayLike,
    *,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    instances: bool = False,
    invert: bool = False,
    cells: bool | None = None,
    objects: bool | None = None,
    image: str | Place | None = None,
    figure: str | Path | None = None,
    axes: str | None = None,
    report: Report = lambda done, name: None,
) -> Evaluation:
    """Score masks: by pixels, and for two classes by how well cells are separated; or score objects.

    Memory does not grow with the images: they are read in blocks of 2048 x 2048 pixels. Cells are scored plane by
    plane, which takes up to 1.5 GB; planes of more than 4096 x 4096 pixels in windows of at most 2048 x 2048, each
    scored as a section. Objects are counted exactly in planes of any size, with memory that grows with their number.

    Args:
        prediction: class ids or grey values that stand for classes; or probabilities, float32 from 0 to 1: one channel
            is the probability of class 1, more are one per class. A file, a stack, a Zarr, or a folder of these; on
            a server a Zarr. Or an array.
        truth: class ids or grey values, in the same form; folders are paired by the files' stems, without the marks of
            images and labels, such as `_mask`. Files that are no images are left out.
        classes: names, in the order of the values. Required if the values alone do not show how many there are.
        ignore: pixels of this value in the truth are not counted.
        instances: labels are object ids: compare background and object, see `labels.label.part_objects`.
        invert: invert files that declare 0 as white (MINISWHITE), so that 0 is black.
        cells: score cells, with class 1 inside them and class 0 the membrane; None: if there are two classes.
        objects: score objects, see `scoring.objects.object_scores`: ids of objects in label images, or outlines in
            GeoJSON; of classes, the 4-connected regions. None: if prediction and truth both hold ids or outlines.
        image: the image of both, only for the figure.
        figure: a PNG or JPEG of the worst images and the best.
        axes: of arrays of three dimensions, "zyx", or "cyx" for probabilities by class; those of two are yx.
        report: called after every block with the share of the work done, 0 to 1, and the image's name.

    Raises:
        TilesegmentError: a file cannot be read, has no counterpart, is of another size, or its values cannot be
            matched; all pixels are ignored; `cells` is True and there are none; `objects` contradicts the rest.
    """
    if not (isinstance(prediction, str | Path | Location) and isinstance(truth, str | Path | Location)):
        given = {name: value for name, value in locals().items() if name not in ("prediction", "truth", "axes")}
        return _evaluate_arrays(prediction, truth, axes, given)
    _check_figure(figure, prediction, truth, image)
    pairs, notes = find_pairs(place_of(prediction), place_of(truth), None if image is None else place_of(image))
    options = LabelOptions(ignore, instances, invert, strict=True)
    names = str(prediction), str(truth)
    with TemporaryDirectory(prefix="evaluate-") as folder:
        readings = _read_as_objects(pairs, options, objects, classes, cells, Path(folder))
        if readings is not None:
            found, drawn = evaluate_objects(names, pairs, readings, options, report)
            if figure is not None:
                draw_objects(Path(figure), drawn, found, readings, options)
        else:
            found, matching, planes = _evaluate_classes(names, pairs, options, classes, cells, report)
            if figure is not None:
                draw_figure(Path(figure), planes, found, matching, options)
    return replace(found, notes=(*notes, *found.notes), figure=None if figure is None else str(figure))


def _evaluate_arrays(
    prediction: str | Place | ArrayLike, truth: str | Place | ArrayLike, axes: str | None, given: Mapping[str, Any]
) -> Evaluation:
    """Score arrays as files with the same values."""
    with TemporaryDirectory(prefix="evaluate-") as folder:

        def stored(one: str | Place | ArrayLike, name: str) -> tuple[str | Place, str]:
            if isinstance(one, str | Path | Location):
                return one, str(one)
            own = axes if len(one.shape) > 2 else None
            return write_array(Path(folder) / f"{name}.zarr", one, own), str(ImageArray.of(one))

        (first, first_name), (second, second_name) = stored(prediction, "prediction"), stored(truth, "truth")
        names = {str(first): first_name, str(second): second_name}
        with naming(names):
            found = evaluate(first, second, **given)
        notes = tuple(named(note, names) for note in found.notes)
        return replace(found, prediction=first_name, truth=second_name, notes=notes)


def _check_figure(
    figure: str | Path | None, prediction: str | Place, truth: str | Place, image: str | Place | None
) -> None:
    if figure is not None:
        check_figure(Path(figure), [place_of(path) for path in (prediction, truth, image) if path is not None])
    elif image is not None:
        raise DataError("--image is only drawn in a figure; give --figure too, or leave it out")


def _read_as_objects(
    pairs: Sequence[Pair],
    options: LabelOptions,
    objects: bool | None,
    classes: Sequence[str] | None,
    cells: bool | None,
    folder: Path,
) -> Readings | None:
    """How files are read as objects; None if objects are not scored."""
    others = {"--classes": classes is not None, "--instances": options.instances, "--cells": bool(cells)}
    other = next((name for name, given in others.items() if given), None)
    if other and objects:
        raise DataError(f"{other} scores classes, --objects objects: leave out one of the two")
    if other and not any(is_geojson(path) for path in (pairs[0].prediction, pairs[0].truth)):
        return None
    if other:
        raise DataError(f"{other} scores classes, and GeoJSON holds objects: leave out {other}, or give label images")
    return readings_of(pairs, options, objects, folder)


def _evaluate_classes(
    names: tuple[str, str],
    pairs: Sequence[Pair],
    options: LabelOptions,
    classes: Sequence[str] | None,
    cells: bool | None,
    report: Report,
) -> tuple[Evaluation, Matching, list[Plane]]:
    """Score classes, and cells if there are any; return what a figure needs, too."""
    # where cells may be scored, they are half of the work
    share = 1.0 if cells is False else 0.5
    counted = _count(pairs, options, lambda done, name: report(share * done, name))
    matching = match(counted, classes, options)
    if cells and len(matching.classes) != 2:
        raise DataError(f"cells are scored for two classes, there are {len(matching.classes)}: leave out --cells")
    scored = None
    if len(matching.classes) == 2 and cells is not False:
        scored = _score_cells(counted.planes, matching, options, lambda done, name: report(0.5 + done / 2, name))
    if cells and scored is None:
        raise DataError("the truth has no pixel inside a cell (class 1): use --no-cells")
    notes = (*counted.notes, *matching.notes, *(OBJECTS_NOTE,) * options.instances)
    return _evaluation(*names, counted.planes, matching, scored, notes), matching, counted.planes


def _count(pairs: Sequence[Pair], options: LabelOptions, report: Report) -> Counted:
    """Count the pixels of every plane by stored values."""
    planes: list[Plane] = []
    truths: list[Scan] = []
    predictions: list[Scan] = []
    kinds: list[tuple[int, tuple[LabelClass, ...] | None]] = []
    notes: list[str] = []
    for n, pair in enumerate(pairs):
        with open_pair(pair, options) as (prediction, truth):
            kinds.append((prediction.channels, prediction.classes if prediction.channels else None))
            if kinds[n] != kinds[0]:
                raise DataError(
                    f"{pair.prediction} and {pairs[0].prediction} are of different kinds or classes; compare those of "
                    "one kind at a time"
                )
            score_them = "; or score the objects themselves with --objects"
            true = Scan.of(f"truth {pair.truth}", pair.name, truth, options.void, score_them)
            guess = Scan.of(f"prediction {pair.prediction}", pair.name, prediction, otherwise=score_them)
            counts: list[Counts] = [Counter() for _ in range(truth.planes)]
            read, area = 0, truth.planes * truth.shape[0] * truth.shape[1]
            for z, region in truth.blocks():
                values, codes = truth.read(region, z), prediction.read(region, z)
                true.add(values)
                if not prediction.channels:
                    guess.add(codes)
                counts[z].update(count_pairs(values, codes, options.void))
                read += region.area
                report((n + read / area) / len(pairs), pair.name)
            true.check()
            guess.check()
            names = [pair.name if truth.planes == 1 else f"{pair.name}[{z}]" for z in range(truth.planes)]
            planes += [Plane(name, pair, z, truth.shape, counts[z]) for z, name in enumerate(names)]
            truths.append(true)
            predictions += [] if prediction.channels else [guess]
            notes += (*truth.notes, *prediction.notes)
    return Counted(planes, truths, predictions, *kinds[0], first_notes(notes))


def windows_of(shape: tuple[int, int]) -> list[Region]:
    """Cut a plane of `shape` (H, W) into sections: itself, or about equal windows of at most 2048 pixels a side."""
    if shape[0] * shape[1] <= _LARGEST:
        return [Region.of_shape(shape)]
    (rows, columns) = (-(-side // BLOCK) for side in shape)
    return [
        Region(shape[0] * r // rows, shape[1] * c // columns, shape[0] * (r + 1) // rows, shape[1] * (c + 1) // columns)
        for r in range(rows)
        for c in range(columns)
    ]


CellRow = tuple[float, float, float] | tuple[None, None, None]  # V_Rand, V_Info, Rand error


def _score_cells(
    planes: Sequence[Plane], matching: Matching, options: LabelOptions, report: Report
) -> tuple[CellScore, list[CellRow]] | None:
    """The score of all planes, and of each at the thresholds that are best over all; None if there are no cells.

    Only pixels of class 1 in the truth are scored. Planes without cells are left out.
    """
    parts: list[list[np.ndarray]] = []
    done, total, count = 0, sum(plane.shape[0] * plane.shape[1] for plane in planes), 0
    for plane in planes:
        parts.append([])
        with open_pair(plane.pair, options) as (prediction, truth):
            for window in windows_of(plane.shape):
                count += 1
                inside = matching.truth.ids(truth.read(window, plane.z), plane.pair.name) == 1
                if inside.any():
                    codes = prediction.read(window, plane.z)
                    if matching.by_threshold:  # a code is the number of thresholds that a probability exceeds
                        parts[-1].append(section_scores(inside, codes, range(len(THRESHOLDS))))
                    else:
                        guess = matching.predicted_ids(codes, plane.pair.name) == 1
                        parts[-1].append(section_scores(inside, guess, (0.5,)))
                done += window.area
                report(done / total, plane.name)
    sections = [scores for part in parts for scores in part]
    if not sections:
        return None
    best = summarise(sections, THRESHOLDS if matching.by_threshold else (0.5,))
    thresholds = (best.threshold_rand, best.threshold_info, best.threshold_error)
    told = thresholds if matching.by_threshold else (None, None, None)
    score = CellScore(
        v_rand=best.v_rand,
        v_info=best.v_info,
        rand_error=best.rand_error,
        threshold_rand=told[0],
        threshold_info=told[1],
        threshold_error=told[2],
        sections=len(sections),
        without_cells=count - len(sections),
        window=BLOCK if count > len(planes) else None,
    )
    at = [best.thresholds.index(threshold) for threshold in thresholds]
    rows: list[CellRow] = []
    for part in parts:
        v_rand, v_info, error = np.stack(part, axis=-1).mean(-1)[range(3), at].tolist() if part else (None, None, None)
        rows.append((v_rand, v_info, error))
    return score, rows


def _evaluation(
    prediction: str,
    truth: str,
    planes: Sequence[Plane],
    matching: Matching,
    cells: tuple[CellScore, list[CellRow]] | None,
    notes: tuple[str, ...],
) -> Evaluation:
    """All scores, of the planes together and of each."""
    each = [matching.confusion(plane) for plane in planes]
    confusion = np.sum(each, axis=0)
    scores, floor = pixel_scores(confusion), pixel_scores(constant_predictor(confusion))
    error, threshold = 1 - pixel_accuracy(confusion), None
    if matching.by_threshold:
        counts = [sum(matching.confusion(plane, t) for plane in planes) for t in range(len(THRESHOLDS))]
        errors = [1 - pixel_accuracy(np.asarray(one)) for one in counts]
        error, threshold = min(errors), THRESHOLDS[int(np.argmin(errors))]
    shares = confusion.sum(1) / confusion.sum()
    columns = zip(matching.classes, matching.truth.values, shares, scores["dice"], scores["iou"], strict=True)
    classes = tuple(
        ClassScore(one.name, value, matching.predicted_value(n), float(share), *both)
        for n, (one, value, share, *both) in enumerate(columns)
    )
    rows = cells[1] if cells else [(None, None, None)] * len(planes)
    return Evaluation(
        prediction=prediction,
        truth=truth,
        kind="probabilities" if matching.channels else "classes",
        pixels=scores["pixels"],
        ignored=sum(plane.shape[0] * plane.shape[1] for plane in planes) - scores["pixels"],
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        classes=classes,
        accuracy=scores["accuracy"],
        pixel_error=error,
        threshold_pixel=threshold,
        miou=scores["miou"] or 0.0,
        mean_dice=scores["mean_dice"] or 0.0,
        floor_accuracy=floor["accuracy"],
        floor_miou=floor["miou"] or 0.0,
        cells=cells[0] if cells else None,
        images=tuple(
            ImageScore(plane.name, plane.shape, **pixel_scores(one), v_rand=v_rand, v_info=v_info, rand_error=error)
            for plane, one, (v_rand, v_info, error) in zip(planes, each, rows, strict=True)
        ),
        notes=notes,
    )
