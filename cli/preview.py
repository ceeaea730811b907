"""`tileseg preview`."""

from typing import TYPE_CHECKING

import click

from tilesegment import Region
from tilesegment_cli import options
from tilesegment_cli.types import REGION

if TYPE_CHECKING:
    from tilesegment.stores import Options


@click.command()
@click.argument("image", type=options.read_place)
@click.argument("mask", type=options.read_place)
@click.option("--out", "-o", type=options.written_path, required=True, metavar="PNG", help="The picture, .png or .jpg.")
@click.option("--roi", type=REGION, help="Only these pixels of the image, of level 0.")
@click.option("--objects", is_flag=True, help="Draw each connected region of MASK as an object, in its own colour.")
@options.store_options
def preview(image: str, mask: str, out: str, roi: Region | None, objects: bool, store_options: "Options") -> None:
    """Draw IMAGE beside IMAGE with MASK over it, on one screen.

    MASK is a .zarr, .tif or .png that predict wrote, or holds ids of objects: the labels that `tileseg objects`,
    Cellpose or StarDist wrote, as Zarr, TIFF or PNG. Each object gets its own colour.
    """
    from tilesegment.preview import draw_preview
    from tilesegment.stores import place_of

    shown, over = place_of(image, store_options), place_of(mask, store_options)
    for note in draw_preview(shown, over, out, roi=roi, objects=objects):
        click.echo(f"Note: {note}", err=True)
    click.echo(out)
