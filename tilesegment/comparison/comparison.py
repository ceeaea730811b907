"""`evaluate`: reads prediction and truth once to count, once more for the cells, and draws the worst and the best."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from tilesegment.comparison.cells import CellPart, cell_score, score_cells
from tilesegment.comparison.figure import check_figure, draw_figure
from tilesegment.comparison.inputs import BLOCK, Pair, Plane, find_pairs, open_pair
from tilesegment.comparison.matching import Counts, Kind, Matching, check_values, count_pairs, match
from tilesegment.comparison.results import Evaluation, class_scores, floor_scores, image_score, mean, pixel_error
from tilesegment.errors import DataError
from tilesegment.evaluation import pixel_accuracy
from tilesegment.geometry import Region

Report = Callable[[float, str], None]


def evaluate(
    prediction: str | Path,
    truth: str | Path,
    *,
    classes: Sequence[str] | None = None,
    ignore: int | None = None,
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
        truth: class ids or grey values, in the same form; folders are paired by the files' stems, `_mask` and `_label`
            at their ends left out.
        classes: names, in the order of the values. Needed where the values alone do not tell how many there are.
        ignore: pixels of this value in the truth are not counted.
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
    pairs = find_pairs(prediction, truth, image)
    if figure is not None:
        check_figure(Path(figure), [path for path in (prediction, truth, image) if path is not None])
    # where cells are not known to be left out, they are half of the work
    share = 1.0 if cells is False else 0.5
    planes, kind, truth_kind = _count(pairs, ignore, lambda done, name: report(share * done, name))
    counts = _sum(planes)
    if not counts:
        raise DataError(f"all pixels of {truth} have the ignored value {ignore}; leave out --ignore, or name another")
    matching = match(counts, kind, truth_kind, classes)
    if cells and len(matching.classes) != 2:
        raise DataError(f"cells are scored for two classes, there are {len(matching.classes)}: leave out --cells")
    parts = None
    if len(matching.classes) == 2 and cells is not False:
        parts = _score_cells(planes, matching, lambda done, name: report(share + (1 - share) * done, name))
        if cells is None and not any(part.scores for part in parts):
            parts = None
    found = _summary(str(prediction), str(truth), planes, kind, matching, parts)
    if figure is None:
        return found
    draw_figure(Path(figure), planes, found, matching, ignore)
    return replace(found, figure=str(figure))


def _count(pairs: Sequence[Pair], ignore: int | None, report: Report) -> tuple[list[Plane], Kind, Kind]:
    """Counts the pixels of every plane by stored values; what kind of prediction and truth they are."""
    planes: list[Plane] = []
    kinds: list[tuple[Kind, Kind]] = []
    for n, pair in enumerate(pairs):
        with open_pair(pair) as (prediction, truth):
            kinds.append((prediction.kind, Kind(0, truth.kind.classes, truth.kind.ids)))
            if kinds[-1] != kinds[0]:
                raise DataError(
                    f"{pair.prediction} and {pairs[0].prediction}, or their truths, are of different kinds or classes; "
                    "compare those of one kind at a time"
                )
            names, read = (truth.path, prediction.path), 0
            for z in range(truth.depth):
                counts: Counts = Counter()
                for region in Region.of_shape(truth.shape).squares(BLOCK):
                    codes = prediction.kind.codes(prediction.read(region, z), prediction.path)
                    counts.update(count_pairs(truth.read(region, z)[0], codes, ignore, names))
                    check_values({value for value, _ in counts}, f"truth {truth.path}")
                    check_values({code for _, code in counts}, f"prediction {prediction.path}")
                    read += region.area
                    report((n + read / (truth.depth * truth.shape[0] * truth.shape[1])) / len(pairs), pair.name)
                name = pair.name if truth.depth == 1 else f"{pair.name}[{z}]"
                planes.append(Plane(name, pair, z, truth.shape, counts))
    return planes, *kinds[0]


def _score_cells(planes: Sequence[Plane], matching: Matching, report: Report) -> list[CellPart]:
    """Scores the cells of every plane."""
    parts, done, total = [], 0, sum(plane.shape[0] * plane.shape[1] for plane in planes)
    for plane in planes:

        def advance(pixels: int, name: str = plane.name) -> None:
            nonlocal done
            done += pixels
            report(done / total, name)

        with open_pair(plane.pair) as (prediction, truth):
            parts.append(score_cells(prediction, truth, plane.z, matching, advance))
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
