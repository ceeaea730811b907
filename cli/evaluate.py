"""`tileseg evaluate`."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.table import aligned
from tilesegment_cli.types import NAMES

if TYPE_CHECKING:
    from tilesegment import Evaluation
    from tilesegment.scoring import ObjectScore
    from tilesegment.stores import Options

_LARGEST_GREY = 65_535  # a larger value of a class is a colour
_MOST_ROWS = 30  # images that are listed one by one


@click.command()
@click.argument("prediction", type=options.read_place)
@click.argument("truth", type=options.read_place)
@click.option("--classes", type=NAMES, help="Names of the classes, in the order of their values.")
@click.option("--ignore", type=int, metavar="VALUE", help="Pixels of this value in the truth are not counted.")
@options.instances
@options.invert
@click.option("--cells/--no-cells", default=None, help="Score cells (class 1).  [default: if there are two classes]")
@click.option(
    "--objects/--no-objects",
    default=None,
    help="Score objects: ids, outlines in GeoJSON, or connected regions of classes.  [default: if both hold ids]",
)
@click.option(
    "--figure", type=options.written_path, metavar="PNG", help="Draw the worst images and the best, .png or .jpg."
)
@click.option(
    "--image",
    type=options.read_place,
    metavar="IMAGE",
    help="The predicted image, or a folder of them, for the figure.",
)
@options.store_options
@options.as_json
@options.quiet
def evaluate(
    prediction: str,
    truth: str,
    image: str | None,
    store_options: "Options",
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Score PREDICTION against TRUTH.

    Both are files, stacks, Zarr stores, or folders of files of the same names; other files than images are ignored.
    PREDICTION holds class ids, grey values or colours that stand for classes, ids of objects, or probabilities. For
    objects both may be GeoJSON, too.
    """
    from tilesegment.scoring import evaluate as compare
    from tilesegment.stores import place_of

    start = time.monotonic()
    with ProgressReport(quiet) as progress:
        found = compare(
            place_of(prediction, store_options),
            place_of(truth, store_options),
            image=None if image is None else place_of(image, store_options),
            report=lambda done, name: progress.show(done, name, time.monotonic() - start),
            **given,
        )
        for note in found.notes:
            progress.line(f"Note: {note}")
    if not quiet:
        # on stdout as the result, or beside JSON on stderr
        click.echo("\n".join(_lines(found)), err=as_json)
    if as_json:
        click.echo(json.dumps(asdict(found)))


def _lines(found: "Evaluation") -> list[str]:
    ignored = f", {found.ignored:,} ignored" if found.ignored else ""
    lines = [f"{len(found.images)} image(s), {found.pixels:,} pixels{ignored}; the prediction holds {found.kind}", ""]
    if found.objects is not None:
        lines += [*_match_table(found.objects), "", *_object_scores(found.objects)]
    else:
        lines += [*_class_table(found), "", *_scores(found)]
    if len(found.images) > 1:
        lines += ["", *(_image_table(found) if found.objects is None else _object_image_table(found))]
    return lines if found.figure is None else [*lines, "", f"figure: {found.figure}"]


def _class_table(found: "Evaluation") -> list[str]:
    """Return a row per class: its values, its scores, and what its pixels were taken for."""
    rows = [["class", "in truth", "in prediction", "share", "Dice", "IoU", *(f"as {c.name}" for c in found.classes)]]
    coloured = max(one.truth_value for one in found.classes) > _LARGEST_GREY

    def value(given: int | None, number: int) -> str:
        if given is None:
            return ("<= 0.5", "> 0.5")[number]
        return f"#{given:06x}" if coloured else str(given)

    for number, (one, counts) in enumerate(zip(found.classes, found.confusion, strict=True)):
        taken = [f"{100 * count / sum(counts):.1f} %" if sum(counts) else "-" for count in counts]
        values = [value(one.truth_value, number), value(one.prediction_value, number)]
        scores = [f"{100 * one.share:.1f} %", _number(one.dice), _number(one.iou)]
        rows.append([f"{number} {one.name}", *values, *scores, *taken])
    return aligned(rows)


def _scores(found: "Evaluation") -> list[str]:
    """Return the scores of all images together, beside those of a constant predictor."""
    constant = "always the most frequent class"
    rows = [
        ["pixel accuracy", _number(found.accuracy), f"{constant}: {_number(found.floor_accuracy)}"],
        ["mIoU", _number(found.miou), f"{constant}: {_number(found.floor_miou)}"],
        ["mean Dice", _number(found.mean_dice), ""],
        ["pixel error", _number(found.pixel_error), _at(found.threshold_pixel)],
    ]
    cells = found.cells
    if cells is not None:
        sections = f"{cells.sections} section(s)"
        if cells.window is not None:
            sections += f", large images in windows of at most {cells.window} x {cells.window}"
        if cells.without_cells:
            sections += f", {cells.without_cells} without cells left out"
        rows += [
            ["V_Rand", _number(cells.v_rand), _at(cells.threshold_rand)],
            ["V_Info", _number(cells.v_info), _at(cells.threshold_info)],
            ["Rand error", _number(cells.rand_error), _at(cells.threshold_error)],
            ["", "", f"cells are {found.classes[1].name}; {sections}"],
        ]
    return aligned(rows, left=(0, 2))


def _match_table(objects: "ObjectScore") -> list[str]:
    """Return the matches at several thresholds, one column each."""
    counts = {"found": "found", "missed": "missed", "made up": "made_up"}
    scores = {"precision": "precision", "recall": "recall", "F1": "f1", "AP": "ap"}
    rows = [[f"{objects.truth:,} true, {objects.prediction:,} predicted", *(f"IoU {m.threshold}" for m in objects.at)]]
    rows += [[word, *(f"{getattr(one, name):,}" for one in objects.at)] for word, name in counts.items()]
    rows += [[word, *(_number(getattr(one, name)) for one in objects.at)] for word, name in scores.items()]
    return aligned(rows)


def _object_scores(objects: "ObjectScore") -> list[str]:
    """Return the scores of all objects together."""
    rows = [
        ["mean AP", _number(objects.mean_ap), "IoU 0.5, 0.55, ..., 0.95"],
        ["PQ", _number(objects.pq), f"SQ {_number(objects.sq)} x RQ {_number(objects.rq)}"],
        ["AJI", _number(objects.aji), "mean of the images"],
        ["Dice", _number(objects.dice), "of the pixels in objects, mean of the images"],
        ["split", f"{objects.split:,}", "true objects covered by several predicted ones"],
        ["merged", f"{objects.merged:,}", "predicted objects that cover several true ones"],
    ]
    return aligned(rows, left=(0, 2))


def _object_image_table(found: "Evaluation") -> list[str]:
    """Return a row per image with scores of its objects; of many, the worst."""
    scored = [(one.name, one.objects) for one in found.images if one.objects is not None]
    if len(scored) > _MOST_ROWS:
        scored = sorted(scored, key=lambda one: 2.0 if one[1].pq is None else one[1].pq)[:_MOST_ROWS]
    rows = [["image", "true", "predicted", "F1@0.5", "AP@0.5", "mean AP", "PQ", "AJI", "Dice", "split", "merged"]]
    for name, one in scored:
        half = one.at[0]
        scores = map(_number, (half.f1, half.ap, one.mean_ap, one.pq, one.aji, one.dice))
        rows.append([name, f"{one.truth:,}", f"{one.prediction:,}", *scores, f"{one.split:,}", f"{one.merged:,}"])
    return aligned(rows) + _left_out(found, len(scored), "PQ")


def _image_table(found: "Evaluation") -> list[str]:
    """Return a row per image; of many, the worst."""
    images = list(found.images)
    if len(images) > _MOST_ROWS:
        images = sorted(images, key=lambda one: 2.0 if one.miou is None else one.miou)[:_MOST_ROWS]
    cells = ["V_Rand", "V_Info", "Rand error"] if found.cells is not None else []
    rows = [["image", "accuracy", "mIoU", "mean Dice", *cells]]
    for one in images:
        scores = [one.accuracy, one.miou, one.mean_dice, one.v_rand, one.v_info, one.rand_error]
        rows.append([one.name, *map(_number, scores[: 3 + len(cells)])])
    return aligned(rows) + _left_out(found, len(images), "mIoU")


def _left_out(found: "Evaluation", listed: int, score: str) -> list[str]:
    """Say that only the worst images are listed, if that is so."""
    more = f"the {listed} of lowest {score} of {len(found.images)}; --json lists all"
    return [more] * (listed < len(found.images))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _at(threshold: float | None) -> str:
    return "" if threshold is None else f"threshold {threshold:g}"
