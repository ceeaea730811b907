"""`tileseg predict`."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.types import BatchType, ListType, RangeType, RegionType

if TYPE_CHECKING:
    from tilesegment import Job, Prediction
    from tilesegment.engine import Progress


@click.command()
@click.argument("image")
@click.option("--out", "-o", metavar="PATH", help="mask.zarr, image.zarr/labels/NAME, mask.tif, mask.png or mask.jpg.")
@options.model
@options.tile
@options.halo
@options.prune
@click.option("--batch", type=BatchType(), default="auto", show_default=True, help="Tiles at a time.")
@options.device
@click.option("--precision", default="auto", metavar="auto|fp32|bf16|fp16", show_default=True)
@click.option("--roi", type=RegionType(), help="Only these pixels, of level 0.")
@options.level
@click.option("--z", type=RangeType(), help="Only these planes of a stack.")
@click.option("--channels", type=ListType(int), help="Channels of the image that the model sees, such as 0 or 2,1,0.")
@options.axes
@options.select
@click.option("--threshold", type=float, help="Two classes: probability above which a pixel is class 1.")
@click.option("--tta", is_flag=True, help="Average over the 8 symmetries of the square: 8 times the work.")
@click.option(
    "--normalise", type=click.Choice(["model", "image"]), default="model", show_default=True, help="Whose grey values."
)
@click.option(
    "--ngff", type=click.Choice(["0.5", "0.4"]), default="0.5", help="OME-Zarr version; 0.4 for QuPath and Fiji."
)
@click.option("--probabilities", metavar="P.ZARR", help="Also write the class probabilities, float32.")
@click.option("--preview", metavar="PNG", help="Also draw image and mask side by side.")
@options.overwrite
@click.option("--dry-run", is_flag=True, help="Print the plan and the expected time, write nothing.")
@options.as_json
@options.quiet
@click.option("-v", "--verbose", is_flag=True, help="Print the plan before it is carried out.")
def predict(
    image: str,
    out: str | None,
    model: str | None,
    ngff: str,
    probabilities: str | None,
    preview: str | None,
    overwrite: bool,
    axes: str | None,
    select: dict[str, int] | None,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Segment IMAGE (TIFF, OME-Zarr, Zarr, PNG, JPEG) of any size into a mask, without seams.

    A run that was stopped goes on when the same command is given again.
    """
    if out is None and not dry_run:
        raise click.UsageError("Missing option '--out': where the mask goes, such as --out mask.zarr")
    from tilesegment.prediction import Job, make_settings, run_job

    with Job(image, model, make_settings(settings), axes=axes, select=select) as job:
        if model is None and not quiet:
            click.echo(f"No --model given: using the bundled {job.model.header.name}.", err=True)
        if dry_run:
            _print_plan(job, as_json)
            return
        if verbose:
            for name, value in job.plan.lines():
                click.echo(f"{name:<10}{value}", err=True)
        assert out is not None
        try:
            with ProgressReport(quiet) as progress:
                done = run_job(
                    job,
                    out,
                    overwrite=overwrite,
                    ngff=ngff,
                    probabilities=probabilities,
                    preview=preview,
                    report=lambda now, total: _show(progress, now, total),
                )
        except KeyboardInterrupt:
            click.echo("Blocks that are done are kept: the same command goes on from there.", err=True)
            raise
    if not quiet:
        _conclude(done)
    if as_json:
        click.echo(json.dumps(asdict(done)))


def _conclude(done: "Prediction") -> None:
    megapixels, peak = done.pixels / 1e6, done.peak_rss_bytes / 1e9
    resumed = f", {done.blocks_resumed} blocks were done before" if done.blocks_resumed else ""
    click.echo(
        f"{done.out}: {megapixels:,.1f} Mpx in {done.seconds:,.1f} s ({done.mpx_per_s:.2f} Mpx/s), "
        f"peak memory {peak:.2f} GB{resumed}",
        err=True,
    )
    if done.mismatch is not None:
        click.echo(
            f"halo of {done.halo} px, chosen: with a larger one {100 * done.mismatch:.3f} % of the pixels near "
            "tile lines and borders are of another class",
            err=True,
        )


def _show(progress: ProgressReport, now: "Progress", total: int) -> None:
    speed = now.pixels / 1e6 / max(now.seconds, 1e-9)
    progress.show(now.pixels / total, f"{now.pixels / 1e6:,.1f} Mpx, {speed:.2f} Mpx/s", now.seconds)


def _print_plan(job: "Job", as_json: bool) -> None:
    """The plan with its expected time, measured on one tile."""
    seconds = job.seconds_per_tile() * job.plan.tiles
    if as_json:
        plan = job.plan
        known = {name: getattr(plan, name) for name in ("pixels", "blocks", "tiles", "tile", "step", "block", "batch")}
        known |= {"device": plan.device, "precision": plan.precision, "seconds": seconds}
        click.echo(json.dumps(known | {"memory_bytes": plan.memory_bytes, "disk_bytes": plan.disk_bytes}))
        return
    for name, value in [*job.plan.lines(), ("time", f"about {seconds:,.0f} s, from one tile measured here")]:
        click.echo(f"{name:<10}{value}")
