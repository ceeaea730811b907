"""`tileseg bench`."""

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tilesegment.signals import sigterm_stops
from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport

if TYPE_CHECKING:
    from tilesegment.prediction.benchmark import Bench


@click.command()
@click.argument("image", type=options.read_place, required=False)
@options.model
@click.option("--size", type=int, metavar="PX", help="Side of the drawn image.  [default: what there is time for]")
@click.option("--seconds", type=float, default=60.0, show_default=True, help="About how long it may take.")
@click.option("--dir", "folder", type=options.written_path, metavar="FOLDER", help="Where to write; the disk counts.")
@options.tile
@options.halo
@options.prune
@options.batch
@options.device
@options.precision
@options.runtime
@options.scale
@options.channels
@options.axes
@options.select
@options.series
@options.invert
@options.normalise
@options.store_options
@options.as_json
@options.quiet
def bench(image: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Measure how fast this machine segments: the network alone, reading, writing, and all of it together.

    Without IMAGE one is drawn; of an IMAGE the middle is used, as much as there is time for. What is written is removed
    again. Mpx/s are millions of pixels of the mask per second.
    """
    from tilesegment.prediction.benchmark import bench as measure

    start = time.monotonic()
    with sigterm_stops(), ProgressReport(quiet) as progress:
        found = measure(image, report=lambda done, w: progress.show(done, w, time.monotonic() - start), **given)
    if not quiet:
        # on stdout as the result, or beside JSON on stderr
        click.echo("\n".join(_lines(found)), err=as_json)
    if as_json:
        click.echo(json.dumps(asdict(found)))


def _lines(found: "Bench") -> list[str]:
    """Describe what was measured, and the speeds."""
    y0, x0, y1, x1 = found.region
    product = f"product of {found.matmul_side}^2 matrices"
    ratio = f"   {100 * found.end_to_end_ratio:.1f} % of the predictor, {found.start_seconds:.2f} s to start"
    return [
        f"image     {found.image or 'drawn'}, {found.channels} channel(s) of {found.dtype}, {y0}:{y1},{x0}:{x1}",
        f"model     {found.model}; tile {found.tile} px, of which {found.step} are kept, {found.batch} at a time",
        f"device    {found.device}, {found.precision}, by {found.runtime}, {found.threads} thread(s)",
        "",
        f"{'':<32}{'Mpx/s':>10}{'TFLOP/s':>10}",
        _line("predictor alone", found.predictor_mpx_per_s, found.predictor_tflops),
        _line(product, None, found.matmul_tflops),
        _line("reading alone", found.read_mpx_per_s),
        _line("writing alone, pyramid included", found.write_mpx_per_s),
        _line("end to end", found.end_to_end_mpx_per_s) + ratio,
    ]


def _line(name: str, rate: float | None, tflops: float | None = None) -> str:
    speed = f"{rate:,.3g}" if rate is not None and rate < 100 else "" if rate is None else f"{rate:,.0f}"
    return f"{name:<32}{speed:>10}{'' if tflops is None else f'{tflops:,.3g}':>10}".rstrip()
