"""`tileseg tissue`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tilesegment_cli import options

if TYPE_CHECKING:
    from tilesegment.stores import Options


@click.command()
@click.argument("image", type=options.read_place)
@click.option(
    "--out",
    "-o",
    type=options.written_place,
    required=True,
    metavar="PATH",
    help="tissue.geojson[.gz] for QuPath, or a mask: tissue.zarr, image.zarr/labels/NAME, tissue.tif or tissue.png.",
)
@options.channels
@options.axes
@options.select
@options.series
@options.invert
@click.option("--ngff", type=click.Choice(["0.5", "0.4"]), default="0.5", help="OME-Zarr version of tissue.zarr.")
@options.store_options
@options.overwrite
@options.as_json
@options.quiet
def tissue(image: str, out: str, store_options: "Options", as_json: bool, quiet: bool, **given: Any) -> None:
    """Write what `predict --skip-empty tissue` takes as the tissue of IMAGE, to look at and to correct.

    The corrected file goes to `predict --skip-empty PATH`.
    """
    from tilesegment.prediction.tissue_mask import write_tissue
    from tilesegment.stores import place_of

    found = write_tissue(place_of(image, store_options), place_of(out, store_options), **given)
    if not quiet:
        for note in found.notes:
            click.echo(f"Note: {note}", err=True)
        (height, width), (sy, sx) = found.shape, found.scale
        size = f"{height} x {width} pixels (y, x), each {sy:.4g} x {sx:.4g} of level 0"
        click.echo(f"{found.out}: {size}" + (f"; {found.shares.words}" if found.shares.words else ""), err=True)
    if as_json:
        click.echo(json.dumps(asdict(found)))
