"""`tileseg suggest`."""

import json
import time
from typing import TYPE_CHECKING, Any

import click

from tilesegment.signals import sigterm_stops
from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.table import aligned
from tilesegment_cli.types import ROI

if TYPE_CHECKING:
    from tilesegment.prediction.suggesting import Suggestion
    from tilesegment.stores import Options

option = click.option


@click.command()
@click.argument("mask", type=options.read_place)
@option(
    "--out",
    "-o",
    type=options.written_path,
    multiple=True,
    metavar="FILE",
    help="places.geojson for QuPath and tileseg view, or places.csv; several times for several.  [default: print]",
)
@option(
    "--probabilities",
    type=options.read_place,
    metavar="P.ZARR",
    help="What predict --probabilities kept.  [default: predict a sample of places again]",
)
@option("--image", type=options.read_place, metavar="IMAGE", help="For the sample.  [default: the one MASK names]")
@option(
    "--model",
    "-m",
    type=options.read_path,
    metavar="FILE|NAME",
    help="For the sample.  [default: the bundled model that made MASK]",
)
@option("--count", "-n", type=int, default=20, show_default=True, help="How many places.")
@option("--size", type=int, default=256, show_default=True, metavar="PX", help="Side of a place, pixels of level 0.")
@option(
    "--measure",
    type=click.Choice(["entropy", "margin"]),
    default="entropy",
    show_default=True,
    help="Uncertainty of a pixel: entropy of its probabilities, or 1 less the margin of the two largest.",
)
@option(
    "--distance",
    type=float,
    metavar="PX",
    help="Between the centres of two places.  [default: 3/4 of what spreads them evenly, less where few are found]",
)
@option("--roi", type=ROI, help="Only these pixels, of level 0, or what lies in the areas of a GeoJSON file.")
@option(
    "--labels", type=options.read_path, metavar="FILE", help="Leave out places that annotations with a class touch."
)
@option("--sample", type=int, metavar="N", help="How many places to predict again.  [default: 10 times --count]")
@option("--seed", type=int, default=0, show_default=True, help="Of the sample.")
@options.device
@options.precision
@options.store_options
@options.overwrite
@options.as_json
@options.quiet
def suggest(
    mask: str,
    out: tuple[str, ...],
    probabilities: str | None,
    image: str | None,
    store_options: "Options",
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Find the places of MASK in which the model is least sure, spread over the image: where to look and correct.

    MASK is what predict wrote, or the probabilities that it kept. Without these a sample is predicted again.
    """
    with sigterm_stops() as stop:
        from tilesegment.prediction.suggesting import suggest as find
        from tilesegment.stores import place_of

        start = time.monotonic()
        with ProgressReport(quiet) as progress:
            stop.begin()
            found = find(
                place_of(mask, store_options),
                *out,
                probabilities=None if probabilities is None else place_of(probabilities, store_options),
                image=None if image is None else place_of(image, store_options),
                report=lambda done, what: progress.show(done, what, time.monotonic() - start),
                stop=stop,
                **given,
            )
    if not quiet:
        for note in found.notes:
            click.echo(f"Note: {note}", err=True)
        click.echo("\n".join(_lines(found, out)), err=as_json or bool(out))
    if as_json:
        places = [one.as_json() for one in found.places]
        known = {name: getattr(found, name) for name in ("mask", "measure", "pixels", "seconds", "sampled", "notes")}
        click.echo(json.dumps(known | {"places": places, "outputs": list(out)}))


def _lines(found: "Suggestion", out: tuple[str, ...]) -> list[str]:
    """Return the table of places, or where they were written."""
    if out:
        return [f"{len(found.places)} places in {found.seconds:.1f} s: {', '.join(out)}"]
    has_planes = any(one.plane is not None for one in found.places)
    table = [["", "score", "y", "x", *(["plane"] if has_planes else []), "classes"]]
    for one in found.places:
        row = [f"{one.rank}", f"{one.score:.3f}", f"{one.region.y0:,}", f"{one.region.x0:,}"]
        table.append([*row, *([f"{one.plane}"] if has_planes else []), " / ".join(one.classes)])
    return aligned(table, left=(len(table[0]) - 1,))
