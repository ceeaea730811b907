"""Options that several commands share."""

import click

from tilesegment_cli.types import PruneType, SelectType

model = click.option(
    "--model", "-m", metavar="FILE|NAME", help="Model file or bundled model.  [default: em-membrane, one channel]"
)
tile = click.option("--tile", type=int, metavar="PX", help="Side of the network's input.  [default: 572]")
halo = click.option("--halo", type=int, metavar="PX", help="Context of a tile, where exact is not to be had.")
prune = click.option("--prune", type=PruneType(), help="Of a U-Net++, use the head of this level: L1 to L4.")
device = click.option("--device", default="auto", metavar="auto|cpu|cuda|cuda:N|mps", show_default=True)
level = click.option("--level", type=int, default=0, show_default=True, help="Level of the image's pyramid.")
axes = click.option(
    "--axes", metavar="zyx", help="What the image's dimensions are, if it does not say: letters t z c y x."
)
select = click.option("--select", type=SelectType(), help="Index of a further axis, such as t=3.")
as_json = click.option("--json", "as_json", is_flag=True, help="Print a last line of JSON on stdout.")
overwrite = click.option("--overwrite", is_flag=True, help="Replace what exists, once the new is complete.")
quiet = click.option("-q", "--quiet", is_flag=True, help="Print errors only.")
