"""`tileseg import`."""

import json
import shlex
from pathlib import Path
from typing import Any

import click

from tilesegment_cli import options
from tilesegment_cli.types import NAMES, NUMBERS, OPTION


@click.command("import")
@click.argument("path", type=options.read_path, metavar="WEIGHTS")
@click.option("--network", required=True, metavar="NAME", help="The architecture, such as unet-same.")
@click.option("--option", "options", type=OPTION, multiple=True, help="Of the network, such as up=nearest.")
@click.option(
    "--out",
    "-o",
    type=options.written_path,
    metavar="FILE",
    help="The model.  [default: WEIGHTS with the suffix .safetensors]",
)
@click.option("--classes", type=NAMES, help="Names of the classes, in the order of the network's outputs.")
@click.option("--mean", type=NUMBERS, help="Grey value taken as 0; one, or one per channel.  [default: 0]")
@click.option("--std", type=NUMBERS, help="Grey values taken as 1.  [default: 255; uint16: 65535; float32: 1]")
@click.option("--dtype", metavar="uint8|uint16|float32", help="Of the training images.  [default: uint8]")
@click.option("--pixel-size", type=NUMBERS, metavar="UM", help="Of the training images: its side, or height,width.")
@click.option("--name", help="Name recorded in the model.  [default: that of the file]")
@click.option("--licence", help="Licence of the weights, recorded in the model.")
@options.halo
@click.option("--by-order", is_flag=True, help="If the names are unknown, go by the order of the weights.")
@options.overwrite
@options.as_json
@options.quiet
def import_weights(
    path: str, out: str | None, pixel_size: tuple[float, ...] | None, as_json: bool, quiet: bool, **given: Any
) -> None:
    """Make a model of WEIGHTS, a PyTorch state dict (.pth, .safetensors).

    Those of the public U-Net (github.com/milesial/Pytorch-UNet) are --network unet-same. Nothing in the file is run.
    """
    from tilesegment.metadata import PixelSize
    from tilesegment.models.importing import import_weights as make_model
    from tilesegment.prediction.info import describe

    if pixel_size is not None and len(pixel_size) > 2:
        raise click.UsageError(f"--pixel-size has {len(pixel_size)} numbers; give one, or height,width")
    given["options"] = dict(given["options"])
    target = str(Path(path).with_suffix(".safetensors")) if out is None else out
    size = None if pixel_size is None else PixelSize(pixel_size[0], pixel_size[-1])
    chosen = {key: value for key, value in given.items() if value is not None}
    model = make_model(path, target, pixel_size=size, **chosen)
    header, inexact = model.header, model.why_inexact()
    needs_halo = " --halo 128" if inexact is not None and header.halo is None else ""
    arguments = ", ".join(f"{key}={value}" for key, value in header.arguments.items())
    scale = header.normalisation
    lines = [f"{header.network} ({arguments}), recognised by the {header.training['recognised_by']}"]
    if given["by_order"]:
        lines.append("The order does not prove that it computes the same: look at a prediction.")
    lines.append(f"images: {scale.dtype}, mean {list(scale.mean)}, std {list(scale.std)}")
    if inexact is not None:
        lines.append(f"Not exact: {inexact}. Tiles may show seams, the fewer the larger the halo.")
    lines.append(f"classes: {', '.join(one.name for one in header.classes)}. Use the model:")
    lines.append(f"  tileseg predict IMAGE --model {shlex.quote(target)}{needs_halo} --out mask.zarr")
    if not quiet:
        click.echo("\n".join(lines), err=True)
    if as_json:
        click.echo(json.dumps(describe(target)))
