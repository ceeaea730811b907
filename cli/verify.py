"""`tileseg verify`."""

import json
import sys
from typing import Any

import click

from tilesegment_cli import options


@click.command()
@click.argument("image", type=options.read_place)
@options.model
@options.tile
@options.halo
@options.prune
@click.option("--device", default="cpu", metavar="cpu|cuda|cuda:N|mps", show_default=True)
@click.option("--precision", type=click.Choice(["fp64", "fp32"]), default="fp64", show_default=True)
@options.runtime
@options.scale
@options.axes
@options.select
@options.series
@options.invert
@options.store_options
@options.as_json
@options.quiet
def verify(image: str, model: str | None, as_json: bool, quiet: bool, **settings: Any) -> None:
    """Prove on IMAGE that the tiled mask equals the untiled one.

    Crops at tile lines and image borders are predicted twice: by tiles, and in one pass. Exit code 1 if they differ.
    """
    from tilesegment.prediction.seams import Crop
    from tilesegment.prediction.seams import verify as compare

    def report(crop: Crop) -> None:
        if not quiet:
            text = f"largest difference {crop.difference:.3g}, {crop.pixels} of {crop.region.area:,} pixels differ"
            click.echo(f"{crop.region!s:<28}{text}", err=True)

    found = compare(image, model, report=report, **settings)
    verdict = "seamless" if found.seamless else "NOT seamless"
    if not quiet:
        click.echo(
            f"{verdict}: tile {found.tile}, step {found.step}, {found.precision}: largest difference of a probability "
            f"{found.difference:.3g}, {found.pixels} pixels differ",
            err=True,
        )
    if as_json:
        keys = ("tile", "step", "precision", "difference", "pixels", "seamless")
        click.echo(json.dumps({key: getattr(found, key) for key in keys}))
    sys.exit(0 if found.seamless else 1)
