"""`tileseg summary`."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tilesegment.signals import sigterm_stops
from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.table import aligned
from tilesegment_cli.types import NAMES

if TYPE_CHECKING:
    from tilesegment.objects.summary import MaskSummary
    from tilesegment.stores import Options


@click.command()
@click.argument("masks", type=options.read_place, nargs=-1, required=True, metavar="MASK...")
@click.option("--out", "-o", type=options.written_path, metavar="FILE", help="summary.csv or .json.  [default: print]")
@click.option(
    "--tissue", type=NAMES, metavar="CLASSES", help="Classes that are tissue.  [default: all that was not skipped]"
)
@options.objects
@options.store_options
@options.overwrite
@options.as_json
@options.quiet
def summary(
    masks: tuple[str, ...],
    out: str | None,
    tissue: tuple[str, ...] | None,
    store_options: "Options",
    overwrite: bool,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Sum up each MASK: per class the area, its share, the objects, their density in the tissue and their sizes.

    MASK is what predict wrote, a label image of any program, or a folder of these.
    """
    with sigterm_stops() as stop:
        from tilesegment.objects.summary import check_summary, summarise, write_summary
        from tilesegment.stores import place_of

        start, file = time.monotonic(), None if out == "-" else out
        if file is not None:
            check_summary(file, overwrite=overwrite)
        with ProgressReport(quiet) as progress:
            stop.begin()
            found = summarise(
                [place_of(mask, store_options) for mask in masks],
                tissue=tissue,
                report=lambda done, what: progress.show(done, what, time.monotonic() - start),
                stop=stop,
                **given,
            )
    if file is not None:
        write_summary(file, found, overwrite=overwrite)
    elif not quiet:
        click.echo("\n".join(_lines(found)), err=as_json)
    if as_json:
        click.echo(json.dumps([asdict(one) for one in found]))


def _lines(found: "tuple[MaskSummary, ...]") -> list[str]:
    """Return the table, and what its densities refer to."""
    table = [["mask", "class", "area", "share", "objects", "per mm2", "mean area", "quartiles"]]
    for one in found:
        for of_class in one.classes:
            area = _number(of_class.pixels, "px") if of_class.area_mm2 is None else _number(of_class.area_mm2, "mm2")
            row = [one.mask, of_class.name, area, f"{100 * of_class.share:.1f} %"]
            row += ["-" if of_class.objects is None else f"{of_class.objects:,}", _number(of_class.per_mm2)]
            if of_class.sizes:
                sizes = of_class.sizes[-1]  # in micrometres where they are known
                row += [_number(sizes.mean, sizes.unit), ", ".join(map(_number, sizes.quartiles))]
            else:
                row += ["-", "-"]
            table.append(row)
    said = [
        f"tissue of {one.mask}: {one.tissue.said}, "
        + (_number(one.tissue.pixels, "px") if one.tissue.area_mm2 is None else _number(one.tissue.area_mm2, "mm2"))
        for one in found
    ]
    return [*aligned(table, left=(0, 1)), "", *said]


def _number(value: float | None, unit: str = "") -> str:
    """Write a number with four digits, or all of a large one."""
    if value is None:
        return "-"
    said = f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return f"{said} {unit}".rstrip()
