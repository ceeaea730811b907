"""`tileseg evaluate`."""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.types import ListType

if TYPE_CHECKING:
    from tilesegment import Evaluation

_MOST_ROWS = 30  # images that are listed one by one


@click.command()
@click.argument("prediction", type=options.read_path)
@click.argument("truth", type=options.read_path)
@click.option("--classes", type=ListType(str), help="Names of the classes, in the order of their values.")
@click.option("--ignore", type=int, metavar="VALUE", help="Pixels of this value in the truth are not counted.")
@options.instances
@options.invert
@click.option("--cells/--no-cells", default=None, help="Score cells (class 1).  [default: if there are two classes]")
@click.option(
    "--figure", type=options.written_path, metavar="PNG", help="Draw the worst images and the best, .png or .jpg."
)
@click.option(
    "--image", type=options.read_path, metavar="IMAGE", help="What was predicted, a file or a folder, for the figure."
)
@options.as_json
@options.quiet
def evaluate(
    prediction: str,
    truth: str,
    classes: tuple[str, ...] | None,
    ignore: int | None,
    instances: bool,
    invert: bool,
    cells: bool | None,
    figure: str | None,
    image: str | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say how good PREDICTION is, measured by TRUTH.

    Both are files, stacks, Zarr stores, or folders of files of the same names; other files than images are left out.
    PREDICTION holds class ids, grey values or colours that stand for classes, ids of objects, or probabilities.
    """
    from tilesegment.scoring import evaluate as compare

    start = time.monotonic()
    with ProgressReport(quiet) as progress:
        found = compare(
            prediction,
            truth,
            classes=classes,
            ignore=ignore,
            instances=instances,
            invert=invert,
            cells=cells,
            image=image,
            figure=figure,
            report=lambda done, name: progress.show(done, name, time.monotonic() - start),
        )
        for note in found.notes:
            progress.line(f"Note: {note}")
    if not quiet:
        # the result itself, unless JSON is: then it is for people only
        click.echo("\n".join(_lines(found)), err=as_json)
    if as_json:
        click.echo(json.dumps(asdict(found)))


def _lines(found: "Evaluation") -> list[str]:
    """The tables: classes, scores, images."""
    ignored = f", {found.ignored:,} ignored" if found.ignored else ""
    lines = [f"{len(found.images)} image(s), {found.pixels:,} pixels{ignored}; the prediction holds {found.kind}", ""]
    lines += [*_class_table(found), "", *_scores(found)]
    if len(found.images) > 1:
        lines += ["", *_image_table(found)]
    return lines if found.figure is None else [*lines, "", f"figure: {found.figure}"]


def _class_table(found: "Evaluation") -> list[str]:
    """A class a row: what stands for it, its scores, and what its pixels were taken for."""
    rows = [["class", "in truth", "in prediction", "share", "Dice", "IoU", *(f"as {c.name}" for c in found.classes)]]
    coloured = found.coloured
    for number, (one, counts) in enumerate(zip(found.classes, found.confusion, strict=True)):
        of = sum(counts)
        taken = [f"{100 * count / of:.1f} %" if of else "-" for count in counts]
        given = one.prediction_value
        by_threshold = found.threshold_pixel is not None
        value = ("<= 0.5", "> 0.5")[number] if by_threshold else "-" if given is None else _value(given, coloured)
        rows.append(
            [
                f"{number} {one.name}",
                _value(one.truth_value, coloured),
                value,
                f"{100 * one.share:.1f} %",
                _number(one.dice),
                _number(one.iou),
                *taken,
            ]
        )
    return _aligned(rows)


def _scores(found: "Evaluation") -> list[str]:
    """The scores of all images together, beside what a mask without any knowledge would get."""
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
    return _aligned(rows, left=(0, 2))


def _image_table(found: "Evaluation") -> list[str]:
    """An image a row; of many, the worst."""
    images = sorted(found.images, key=lambda one: one.miou if one.miou is not None else 2.0)
    listed = images[:_MOST_ROWS] if len(images) > _MOST_ROWS else list(found.images)
    cells = ["V_Rand", "V_Info", "Rand error"] if found.cells is not None else []
    rows = [["image", "accuracy", "mIoU", "mean Dice", *cells]]
    for one in listed:
        scores = [one.accuracy, one.miou, one.mean_dice, one.v_rand, one.v_info, one.rand_error]
        rows.append([one.name, *map(_number, scores[: 3 + len(cells)])])
    lines = _aligned(rows)
    if len(images) > len(listed):
        lines.append(f"the {len(listed)} of lowest mIoU of {len(images)}; --json lists all")
    return lines


def _aligned(rows: Sequence[Sequence[str]], left: tuple[int, ...] = (0,)) -> list[str]:
    """Columns two spaces apart, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if n in left else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _value(value: int, coloured: bool) -> str:
    return f"#{value:06x}" if coloured else str(value)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _at(threshold: float | None) -> str:
    return "" if threshold is None else f"threshold {threshold:g}"
