"""`tileseg export`."""

import json
import shlex
from pathlib import Path

import click

from tilesegment_cli import options


@click.command()
@click.argument("model", type=options.read_path)
@click.option("--to", required=True, type=click.Choice(["onnx", "bioimageio"]), help="An ONNX file, or a package.")
@click.option(
    "--out", "-o", type=options.written_path, required=True, metavar="FILE", help="model.onnx; model.zip for a package."
)
@options.overwrite
@options.as_json
@options.quiet
def export(model: str, to: str, out: str, overwrite: bool, as_json: bool, quiet: bool) -> None:
    """Write MODEL (a file or a bundled name) for other programs.

    The ONNX graph takes grey values and gives class probabilities; a bioimage.io 0.5 package holds the same graph.
    """
    from tilesegment.models.export import export as write

    path = write(model, out, to, overwrite=overwrite)
    size = Path(path).stat().st_size
    if not quiet:
        click.echo(f"{path}: {size / 1e6:.1f} MB, computes what {model} does. Use it here:", err=True)
        click.echo(f"  tileseg predict IMAGE --model {shlex.quote(str(path))} --out mask.zarr", err=True)
    if as_json:
        click.echo(json.dumps({"path": str(path), "format": to, "bytes": size}))
