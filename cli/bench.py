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
    from tilesegment.bench import Bench, Trial


@click.command()
@click.argument("image", type=options.read_path, required=False)
@options.model
@click.option("--size", type=int, metavar="PX", help="Side of the drawn image.  [default: what there is time for]")
@click.option(
    "--seconds", type=float, default=60.0, show_default=True, help="About how long it may take, but for --sweep."
)
@click.option("--sweep", is_flag=True, help="Also try other tiles, batches and precisions: takes about as long again.")
@click.option(
    "--dir",
    "folder",
    type=options.written_path,
    metavar="FOLDER",
    help="Write there; the disk counts.  [default: a temporary folder]",
)
@options.tile
@options.halo
@options.prune
@options.batch
@options.device
@options.precision
@options.runtime
@options.channels
@options.axes
@options.select
@options.series
@options.invert
@options.normalise
@options.as_json
@options.quiet
def bench(image: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Measure how fast this machine segments: the network alone, reading, writing, and all of it together.

    Without IMAGE one is drawn; of an IMAGE the middle is used, as much as there is time for. What is written is removed
    again, and nothing is kept. Mpx/s are millions of pixels of the mask a second.

    --sweep tries what could be faster and names the best. Where that would change pixels (bf16, int8) it is shown, but
    named only if you ask for that precision, or it is what `tileseg predict` takes here anyway.
    """
    from tilesegment.bench import bench as measure

    start = time.monotonic()
    with sigterm_stops(), ProgressReport(quiet) as progress:
        found = measure(image, report=lambda done, w: progress.show(done, w, time.monotonic() - start), **given)
    if not quiet:
        # the result itself, unless JSON is: then it is for people only
        click.echo("\n".join(_lines(found)), err=as_json)
    if as_json:
        click.echo(json.dumps(asdict(found)))


def _lines(found: "Bench") -> list[str]:
    """What was measured, the speeds, and what was tried."""
    kind = f"{found.channels} channel(s) of {found.dtype}"
    lines = [
        f"image     {'drawn' if found.image is None else found.image}, {kind}",
        f"part      {_sides(found.region)} predicted, {_sides(found.stored_region)} read and written",
        f"model     {found.model}; tile {found.tile} px, of which {found.step} are kept, {found.batch} at a time",
        f"device    {found.device}, {found.precision}, by {found.runtime}, {found.threads} thread(s)",
        "",
        f"{'':<42}{'Mpx/s':>10}{'TFLOP/s':>10}",
        _line("predictor alone", found.predictor_mpx_per_s, found.predictor_tflops),
        _line(f"product of {found.matmul_side}^2 matrices, {found.matmul_precision}", None, found.matmul_tflops),
        _line("reading alone", found.read_mpx_per_s),
        _line("writing alone", found.write_mpx_per_s),
        _line("pyramid and name at the end", found.finish_mpx_per_s),
        _line("end to end", found.end_to_end_mpx_per_s)
        + f"   {100 * found.end_to_end_ratio:.1f} % of the predictor, {found.start_seconds:.2f} s to start",
        _line("copy: read and write in turns", found.copy_mpx_per_s),
        _line("end to end, predictor idle", found.idle_end_to_end_mpx_per_s)
        + f"   {100 * found.idle_ratio:.1f} % of the copy, which makes no pyramid",
    ]
    return lines if found.best is None else [*lines, "", *_sweep_lines(found, found.best)]


def _sides(region: list[int]) -> str:
    y0, x0, y1, x1 = region
    return f"{y0}:{y1},{x0}:{x1}"


def _line(name: str, rate: float | None, tflops: float | None = None) -> str:
    speed = f"{rate:,.3g}" if rate is not None and rate < 100 else "" if rate is None else f"{rate:,.0f}"
    return f"{name:<42}{speed:>10}{'' if tflops is None else f'{tflops:,.3g}':>10}".rstrip()


def _sweep_lines(found: "Bench", best: "Trial") -> list[str]:
    """A setting a row, and the best in the last line."""
    heads = ("tile", "kept", "batch", "precision", "runtime", "Mpx/s", "x default", "memory", "other class")
    rows = [heads, *(_row(trial) for trial in found.sweep)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(heads))]
    lines = ["  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    for line, trial in zip(lines[1:], found.sweep, strict=True):
        if trial.why_not:
            lines[lines.index(line)] = f"{line}  {trial.why_not}"
    what = "pixels whose class is another than in fp32"
    whose = "; on a drawn image that says little: give one of yours" if found.image is None else ""
    times = f"{best.times_default:.2f} times the default"
    return [*lines, f"other class: {what}{whose}", "", f"best here: {best.options} ({times})"]


def _row(trial: "Trial") -> tuple[str, ...]:
    rate = "-" if trial.mpx_per_s is None else f"{trial.mpx_per_s:,.3g}"
    times = "-" if trial.times_default is None else f"{trial.times_default:.2f}"
    other = "" if trial.other_class is None else f"{100 * trial.other_class:.3f} %"
    sides = (str(trial.tile), str(trial.step), str(trial.batch), trial.precision, trial.runtime)
    return (*sides, rate, times, f"{trial.memory_bytes / 1e9:.1f} GB", other)
