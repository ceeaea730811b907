"""`tileseg preview`."""

import click


@click.command()
@click.argument("image")
@click.argument("mask")
@click.option("--out", "-o", required=True, metavar="PNG", help="The picture, .png or .jpg.")
def preview(image: str, mask: str, out: str) -> None:
    """Draw IMAGE beside IMAGE with MASK over it, on one screen."""
    from tilesegment.overview import draw_preview

    draw_preview(image, mask, out)
    click.echo(out)
