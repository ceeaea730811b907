"""`evaluate`: reads prediction and truth once to count, once more for the cells, and draws the worst and the best."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path

import numpy as np

from tilesegment.errors import DataError
from tilesegment.geometry import Region
from tilesegment.labels import BLOCK, OBJECT_NAMES, Coding, Label, Scan, Scanner, by_colours, decide
from tilesegment.labels.instances import OBJECTS_NOTE
from tilesegment.labels.label import first_notes
from tilesegment.scoring.binary import pixel_accuracy
from tilesegment.scoring.cells import CellPart, cell_score, score_cells
from tilesegment.scoring.figure import check_figure, draw_figure
from tilesegment.scoring.inputs import Layer, Opening, Pair, Plane, find_pairs
from tilesegment.scoring.matching import Counts, Kind, Matching, Meanings, count_pairs, match
from tilesegment.scoring.results import Evaluation, class_scores, floor_scores, image_score, mean, pixel_error

Report = Callable[[float, str], None]


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
    instances: bool = False,
    invert: bool = False,
    cells: bool | None = None,
    image: str | Path | None = None,
    figure: str | Path | None = None,
    report: Report = lambda done, name: None,
) -> Evaluation:
    """Says how good masks are: pixel scores, and for two classes how well cells are told apart.

    Memory does not grow with the images: they are read in blocks of 2048 x 2048 pixels. Cells are scored plane by
    plane, which takes up to 1.5 GB; planes of more than 4096 x 4096 pixels in windows of at most 2048 x 2048, as
    sections of their own.

    Args:
        prediction: class ids or grey values that stand for classes; or probabilities, float32 from 0 to 1: one channel
            is the probability of class 1, more are one a class. A file, a stack, a Zarr folder, or a folder of these.
        truth: class ids or grey values, in the same form; folders are paired by the files' stems, without what tells
            images and labels apart, such as `_mask`. Other files than images are left out.
        classes: names, in the order of the values. Needed where the values alone do not tell how many there are.
        ignore: pixels of this value in the truth are not counted.
        instances: labels are ids of single objects: compare background and object, see `labels.parted`.
        invert: files that say that 0 is white (MINISWHITE) are turned so that 0 is black.
        cells: score cells, class 1 being their inside and class 0 the membrane; None: if there are two classes.
        image: what both are of, for the figure alone.
        figure: a PNG or JPEG that shows the worst images and the best.
        report: called after every block with the part of the work that is done, 0 to 1, and the image's name.

    Raises:
        TilesegmentError: a file cannot be read, has no counterpart, is of another size, or its values cannot be
            matched; all pixels are ignored; there are no cells where `cells` is True.
    """
    if image is not None and figure is None:
        raise DataError("--image is only drawn in a figure; give --figure too, or leave it out")
    found_pairs, opening = find_pairs(prediction, truth, image), Opening(ignore, instances, invert)
    if figure is not None:
        check_figure(Path(figure), [path for path in (prediction, truth, image) if path is not None])
    # where cells are not known to be left out, they are half of the work
    share = 1.0 if cells is False else 0.5
    counted = _count(found_pairs.pairs, opening, lambda done, name: report(share * done, name))
    meanings, planes = _decide(counted, classes, opening)
    matching = meanings.matching
    if cells and len(matching.classes) != 2:
        raise DataError(f"cells are scored for two classes, there are {len(matching.classes)}: leave out --cells")
    parts = None
    if len(matching.classes) == 2 and cells is not False:
        parts = _score_cells(planes, meanings, opening, lambda done, name: report(share + (1 - share) * done, name))
        if cells is None and not any(part.scores for part in parts):
            parts = None
    notes = (*found_pairs.notes, *counted.notes, *meanings.notes, *(OBJECTS_NOTE,) * instances)
    found = replace(_summary(str(prediction), str(truth), planes, counted.kind, matching, parts), notes=notes)
    if figure is None:
        return found
    draw_figure(Path(figure), planes, found, meanings, opening)
    return replace(found, figure=str(figure))


@dataclass(frozen=True)
class _Counted:
    """The pixels of all planes, by what is stored.

    Attributes:
        planes: with what the files store as values.
        kind, truth_kind: of prediction and truth.
        truths, predictions: what the files hold, by the pairs' names; no predictions for probabilities.
        notes: what the user should know of how files are read.
    """

    planes: list[Plane]
    kind: Kind
    truth_kind: Kind
    truths: list[Scan]
    predictions: list[Scan]
    notes: tuple[str, ...]


def _count(pairs: Sequence[Pair], opening: Opening, report: Report) -> _Counted:
    """Count the pixels of every plane by stored values."""
    planes: list[Plane] = []
    kinds: list[tuple[Kind, Kind]] = []
    truths: list[Scan] = []
    predictions: list[Scan] = []
    notes: list[str] = []
    for n, pair in enumerate(pairs):
        with opening.open(pair) as (prediction, truth):
            kinds.append((prediction.kind, Kind(0, truth.classes, truth.classes is not None)))
            together = [_together(kinds[0][n], kinds[-1][n]) for n in (0, 1)]
            if None in together:
                raise DataError(
                    f"{pair.prediction} and {pairs[0].prediction}, or their truths, are of different kinds or classes; "
                    "compare those of one kind at a time"
                )
            scanner = Scanner(f"truth {pair.truth}", truth, opening.read_ignore)
            label = prediction.label
            other = None if label is None else Scanner(f"prediction {pair.prediction}", label, None)
            area = truth.planes * truth.shape[0] * truth.shape[1]
            for z in range(truth.planes):
                counts: Counts = Counter()
                for region in Region.of_shape(truth.shape).squares(BLOCK):
                    counts.update(_count_block(prediction, truth, region, z, (scanner, other), opening.read_ignore))
                    read = z * truth.shape[0] * truth.shape[1] + region.y0 * truth.shape[1]
                    read += region.height * region.x1
                    report((n + read / area) / len(pairs), pair.name)
                name = pair.name if truth.planes == 1 else f"{pair.name}[{z}]"
                planes.append(Plane(name, pair, z, truth.shape, counts))
            truths.append(replace(scanner.scan(), name=pair.name))
            notes += (*truth.notes, *prediction.notes)
            if other is not None:
                predictions.append(replace(other.scan(), name=pair.name))
    kind, truth_kind = (reduce(lambda a, b: _together(a, b) or a, column) for column in zip(*kinds, strict=True))
    return _Counted(planes, kind, truth_kind, truths, predictions, first_notes(notes))


def _together(one: Kind, other: Kind) -> Kind | None:
    """The kind of two files; predicted masks may lie among other labels. None if they cannot be scored together."""
    if one == other:
        return one
    same = one.channels == other.channels == 0 and (one.classes is None or other.classes is None)
    return Kind(0, None, ids=False) if same else None


def _count_block(
    prediction: Layer,
    truth: Label,
    region: Region,
    z: int,
    scanners: tuple[Scanner, Scanner | None],
    ignore: int | None,
) -> Counts:
    """Count the pixels of a region of plane z; `scanners` note what is in truth and prediction."""
    true, codes = truth.read(region, z), prediction.codes(region, z)
    for scanner, pixels in zip(scanners, (true, codes), strict=True):
        if scanner is not None:
            scanner.add(pixels)
    return count_pairs(true, codes, ignore)


def _decide(counted: _Counted, classes: Sequence[str] | None, opening: Opening) -> tuple[Meanings, list[Plane]]:
    """What is stored in all files, and the planes counted by values that all files share.

    Args:
        counted: what the files hold.
        classes: names, as the user gives them.
        opening: how the files were opened.

    Raises:
        DataError: all pixels are ignored, or it cannot be told what values mean.
    """
    told = counted.kind.classes
    if opening.instances and classes is None and told is None:
        classes = OBJECT_NAMES
    # the classes of the prediction say what else would be asked
    names = classes or (None if told is None else [one.name for one in told])
    truth = decide(counted.truths, names, opening.read_ignore)
    if told is not None and not truth.coloured:
        truth = by_colours(truth, counted.truths, told)
    planes = [replace(one, counts=_by_value(one, truth, None)) for one in counted.planes]
    if not any(plane.counts for plane in planes):
        raise DataError(
            f"all pixels of the truth have the ignored value {opening.ignore}; leave out --ignore, or name another"
        )
    if not counted.predictions:
        matching = match(_sum(planes), counted.kind, counted.truth_kind, classes)
        _check_colours(truth, counted.kind, matching, classes)
        return Meanings(matching, truth, None), planes
    # where pixels are ignored it does not matter what is predicted
    scored: dict[str, set[int]] = {}
    for one in planes:
        scored.setdefault(one.pair.name, set()).update(code for _, code in one.counts)
    scans = [replace(s, values=np.array(sorted(scored[s.name]), np.int64)) for s in counted.predictions]
    # as many classes as the truth has, where nothing else is said
    prediction = decide(scans, classes or [str(value) for value in truth.values], ask=False)
    kinds = counted.kind, counted.truth_kind
    if truth.coloured != prediction.coloured and classes is None and not counted.kind.ids:
        truth, prediction = _decide_together(counted.truths, scans, truth.ignore)
        kinds = Kind(0, None, ids=False), Kind(0, None, ids=False)
    planes = [replace(one, counts=_by_value(one, truth, prediction)) for one in counted.planes]
    matching = match(_sum(planes), *kinds, classes)
    _check_colours(truth, kinds[0], matching, classes, prediction)
    return Meanings(matching, truth, prediction), planes


def _decide_together(truths: Sequence[Scan], predictions: Sequence[Scan], ignore: int | None) -> tuple[Coding, Coding]:
    """What is stored where either truth or prediction is in colours: their order says nothing about classes."""
    renamed = [replace(one, name=f"prediction {one.name}") for one in predictions]
    both = decide([*truths, *renamed], None, ignore, ask=False)
    found = {one.name: both.tables[new.name] for one, new in zip(predictions, renamed, strict=True)}
    return both, replace(both, tables=found, notes=())


def _check_colours(
    truth: Coding, kind: Kind, matching: Matching, classes: Sequence[str] | None, prediction: Coding | None = None
) -> None:
    """Whether it is known which colour of the truth is which class.

    Raises:
        DataError: only their order could tell.
    """
    own = {one.value for one in kind.classes or ()}
    black_and_another = len(matching.truth) == 2 and 0 in matching.truth
    if not truth.coloured or (prediction is not None and prediction.coloured) or classes is not None:
        return
    if not set(matching.truth) <= own and not black_and_another:
        colours = ", ".join(f"#{value:06x}" for value in matching.truth)
        raise DataError(
            f"the truth holds the colours {colours}, the prediction none: which class is which colour cannot be told; "
            "save the truth as class ids, or name the classes with --classes in the order of these colours"
        )


def _by_value(plane: Plane, truth: Coding, prediction: Coding | None) -> Counts:
    """The counts of a plane by values instead of by what is stored, without what is not labelled in the truth."""
    counts: Counts = Counter()
    for (stored, code), pixels in plane.counts.items():
        value = truth.tables[plane.pair.name].value(stored)
        if value is not None:
            found = code if prediction is None else prediction.tables[plane.pair.name].value(code)
            if found is None:
                raise DataError(
                    f"{plane.pair.prediction} holds {code}, which means not labelled; give it another value"
                )
            counts[value, found] += pixels
    return counts


def _score_cells(planes: Sequence[Plane], meanings: Meanings, opening: Opening, report: Report) -> list[CellPart]:
    """Score the cells of every plane."""
    parts, done, total = [], 0, sum(plane.shape[0] * plane.shape[1] for plane in planes)
    for plane in planes:

        def advance(pixels: int, name: str = plane.name) -> None:
            nonlocal done
            done += pixels
            report(done / total, name)

        with opening.open(plane.pair) as files:
            parts.append(score_cells(files, plane, meanings, advance))
    return parts


def _summary(
    prediction: str,
    truth: str,
    planes: Sequence[Plane],
    kind: Kind,
    matching: Matching,
    parts: Sequence[CellPart] | None,
) -> Evaluation:
    counts = _sum(planes)
    confusion = matching.confusion(counts)
    cells, per_plane = (None, [None] * len(planes)) if parts is None else cell_score(parts)
    rows = class_scores(confusion, matching)
    error, threshold = pixel_error(counts, matching)
    floor_accuracy, floor_miou = floor_scores(confusion)
    pixels = int(confusion.sum())
    return Evaluation(
        prediction=prediction,
        truth=truth,
        kind="probabilities" if kind.channels else "classes",
        pixels=pixels,
        ignored=sum(plane.shape[0] * plane.shape[1] for plane in planes) - pixels,
        confusion=tuple(tuple(map(int, row)) for row in confusion),
        classes=rows,
        accuracy=pixel_accuracy(confusion),
        pixel_error=error,
        threshold_pixel=threshold,
        miou=mean([row.iou for row in rows]) or 0.0,
        mean_dice=mean([row.dice for row in rows]) or 0.0,
        floor_accuracy=floor_accuracy,
        floor_miou=floor_miou,
        cells=cells,
        images=tuple(
            image_score(plane.name, plane.shape, matching.confusion(plane.counts), scores)
            for plane, scores in zip(planes, per_plane, strict=True)
        ),
    )


def _sum(planes: Iterable[Plane]) -> Counts:
    total: Counts = Counter()
    for plane in planes:
        total.update(plane.counts)
    return total
