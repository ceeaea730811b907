"""`tileseg objects`."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tilesegment.signals import sigterm_stops
from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.types import PART

if TYPE_CHECKING:
    from tilesegment.objects.find import Objects
    from tilesegment.stores import Options

option = click.option


@click.command()
@click.argument("mask", type=options.read_place)
@option(
    "--out",
    "-o",
    type=options.written_path,
    multiple=True,
    required=True,
    metavar="PATH",
    help="cells.geojson[.gz], .csv, .parquet, labels.zarr or image.zarr/labels/NAME; several times for several.",
)
@option("--image", type=options.read_place, metavar="IMAGE", help="Also measure the grey values of this image.")
@options.objects
@option("--ngff", type=click.Choice(["0.5", "0.4"]), default="0.5", help="OME-Zarr version of labels.zarr.")
@option("--part", type=PART, help="Only the K-th of N parts, for a job array; the last one finishes.")
@options.cluster
@options.store_options
@options.overwrite
@options.as_json
@options.quiet
def objects(
    mask: str,
    out: tuple[str, ...],
    image: str | None,
    cluster: options.ClusterOptions,
    store_options: "Options",
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Number, measure and outline the objects of MASK, of any size, exactly as if it were labelled at once.

    MASK is what predict wrote, or a label image of any program (TIFF, PNG, Zarr: Cellpose, StarDist), whose ids stay.
    A run that was stopped goes on when the same command is given again.
    """
    cluster.check()
    if given["part"] is not None and cluster.is_wanted:
        raise click.UsageError("--part is for processes without a cluster: leave --workers and --scheduler out")
    with sigterm_stops() as stop:
        from tilesegment.errors import StoppedError
        from tilesegment.objects.find import find_objects
        from tilesegment.stores import place_of

        start = time.monotonic()
        with cluster.workers(quiet) as workers, ProgressReport(quiet) as progress:
            stop.begin()
            try:
                found = find_objects(
                    place_of(mask, store_options),
                    *out,
                    image=None if image is None else place_of(image, store_options),
                    workers=workers,
                    report=lambda done, what: progress.show(done, what, time.monotonic() - start),
                    stop=stop,
                    **given,
                )
            except (KeyboardInterrupt, StoppedError):
                click.echo("Blocks that are done are kept: the same command goes on from there.", err=True)
                raise
            for note in found.notes:
                progress.line(f"Note: {note}")
    if not quiet:
        click.echo(_said(found), err=True)
    if as_json:
        known = asdict(found)
        del known["table"]
        click.echo(json.dumps(known))


def _said(found: "Objects") -> str:
    if not found.finished:
        return "This part is done; the last one to end writes the objects."
    count = "1 object" if found.count == 1 else f"{found.count:,} objects"
    speed = found.pixels / 1e6 / max(found.seconds, 1e-9)
    return f"{count} in {found.seconds:.1f} s ({speed:,.0f} Mpx/s): {', '.join(found.outputs)}"
