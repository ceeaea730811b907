"""`tileseg preview`."""

import click

from tilesegment_cli import options


@click.command()
@click.argument("image", type=options.read_path)
@click.argument("mask", type=options.read_path)
@click.option("--out", "-o", type=options.written_path, required=True, metavar="PNG", help="The picture, .png or .jpg.")
def preview(image: str, mask: str, out: str) -> None:
    """Draw IMAGE beside IMAGE with MASK over it, on one screen."""
    from tilesegment.overview import draw_preview

    draw_preview(image, mask, out)
    click.echo(out)
