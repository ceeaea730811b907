"""`tileseg preview`."""

import click

from tilesegment import Region
from tilesegment_cli import options
from tilesegment_cli.types import REGION


@click.command()
@click.argument("image", type=options.read_path)
@click.argument("mask", type=options.read_path)
@click.option("--out", "-o", type=options.written_path, required=True, metavar="PNG", help="The picture, .png or .jpg.")
@click.option("--roi", type=REGION, help="Only these pixels of the image, of level 0.")
def preview(image: str, mask: str, out: str, roi: Region | None) -> None:
    """Draw IMAGE beside IMAGE with MASK over it, on one screen. MASK is a .zarr, .tif or .png that predict wrote."""
    from tilesegment.preview import draw_preview

    for note in draw_preview(image, mask, out, roi=roi):
        click.echo(f"Note: {note}", err=True)
    click.echo(out)
