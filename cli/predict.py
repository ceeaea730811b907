"""`tileseg predict`."""

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from tilesegment.signals import Stop, sigterm_stops
from tilesegment_cli import options
from tilesegment_cli.exit_codes import SOME_FAILED, STOPPED
from tilesegment_cli.types import PartType, RangeType, RegionType

if TYPE_CHECKING:
    from tilesegment.prediction.job import Job
    from tilesegment.prediction.result import Result
    from tilesegment.prediction.settings import Outputs, Settings


@click.command()
@click.argument("images", type=options.read_path, nargs=-1, metavar="IMAGE...")
@click.option(
    "--out",
    "-o",
    type=options.written_path,
    metavar="PATH",
    help="mask.zarr, image.zarr/labels/NAME, mask.tif or mask.png.",
)
@click.option(
    "--out-dir",
    type=options.written_path,
    metavar="FOLDER",
    help="Of many images: a folder for masks, logs and summary.csv.",
)
@click.option(
    "--list",
    "listed",
    type=options.read_path,
    metavar="FILE",
    help="Also the images of a text file, or a CSV: image, out.",
)
@click.option("--format", "file_format", type=click.Choice(["zarr", "tif", "png"]), help="Of masks in --out-dir.")
@options.model
@options.tile
@options.halo
@options.prune
@options.batch
@options.device
@options.precision
@options.runtime
@click.option("--roi", type=RegionType(), help="Only these pixels, of level 0.")
@options.level
@click.option("--z", type=RangeType(), help="Only these planes of a stack.")
@options.channels
@options.axes
@options.select
@options.series
@options.invert
@click.option("--threshold", type=float, help="Two classes: probability above which a pixel is class 1.")
@click.option("--tta", is_flag=True, help="Average over the 8 symmetries of the square: 8 times the work.")
@options.normalise
@click.option(
    "--skip-empty",
    type=options.read_path,
    metavar="constant|tissue|MASK",
    help="Do not predict blocks of one value, blocks without tissue, or those where an image MASK is zero.",
)
@click.option(
    "--ngff", type=click.Choice(["0.5", "0.4"]), default="0.5", help="OME-Zarr version; 0.4 for QuPath and Fiji."
)
@click.option("--probabilities", type=options.written_path, metavar="P.ZARR", help="Also write class probabilities.")
@click.option(
    "--probabilities-dtype", type=click.Choice(["float32", "uint8"]), help="As uint8, 0 to 255.  [default: float32]"
)
@click.option(
    "--heatmap",
    type=options.written_path,
    metavar="PNG",
    help="With --probabilities: also draw how probable a class is.",
)
@click.option("--heatmap-class", metavar="NAME|N", help="That class.  [default: foreground, all but class 0]")
@click.option("--preview", type=options.written_path, metavar="PNG", help="Also draw image and mask side by side.")
@click.option("--part", type=PartType(), help="Only the K-th of N parts, for a job array; the last one finishes.")
@options.cluster
@options.overwrite
@click.option("--dry-run", is_flag=True, help="Print the plan and the expected time, write nothing.")
@options.as_json
@options.quiet
@click.option("-v", "--verbose", is_flag=True, help="Print the plan before it is carried out.")
def predict(
    images: tuple[str, ...],
    out: str | None,
    out_dir: str | None,
    listed: str | None,
    file_format: str | None,
    ngff: str,
    probabilities: str | None,
    probabilities_dtype: str | None,
    heatmap: str | None,
    heatmap_class: str | None,
    preview: str | None,
    cluster: options.ClusterOptions,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **settings: Any,
) -> None:
    """Segment IMAGE (TIFF, OME-Zarr, Zarr, PNG, JPEG) of any size into a mask, without seams.

    A run that was stopped goes on when the same command is given again. Many images go to --out-dir.
    """
    if settings["part"] is not None and cluster.is_wanted:
        raise click.UsageError("--part is for processes without a cluster: leave --workers and --scheduler out")
    cluster.check()
    if probabilities is None and (probabilities_dtype or heatmap):
        option = "--heatmap" if heatmap else "--probabilities-dtype"
        raise click.UsageError(f"{option} needs the probabilities: give --probabilities P.ZARR, too")
    if heatmap is None and heatmap_class is not None:
        raise click.UsageError("--heatmap-class says what --heatmap shows: give --heatmap PNG, too")
    with sigterm_stops() as stop:  # from before the long imports on
        from tilesegment.prediction.settings import Settings

        shared = {"probabilities": probabilities, "preview": preview, "ngff": ngff, "overwrite": overwrite}
        shared |= {"probabilities_dtype": probabilities_dtype or "float32"}
        shared |= {"heatmap": heatmap, "heatmap_class": heatmap_class}
        given = _given(images, listed, quiet)
        placed = _placed(given, listed, out, out_dir, file_format, shared, needs_out=not dry_run)
        chosen = Settings.of(settings)
        if dry_run:
            _print_plans(placed, chosen, as_json)
            return
        many = out_dir is not None or len(placed) > 1
        results = _carry_out(placed, chosen, cluster, out_dir, quiet, verbose, stop, many=many)
        _conclude(results, out_dir, as_json, quiet, many=many)


def _given(images: tuple[str, ...], listed: str | None, quiet: bool) -> list[tuple[str, str | None]]:
    """Images and, where a list says so, their masks. Folders are replaced by the images in them."""
    from tilesegment.prediction.inputs import images_in, is_folder_of_images, read_list, shortened

    named: list[tuple[str, str | None]] = [(image, None) for image in images]
    named += [] if listed is None else read_list(listed)
    if not named:
        raise click.UsageError("Missing argument 'IMAGE...': name an image, or a --list of them")
    given = []
    for image, mask in named:
        if not is_folder_of_images(image):
            given.append((image, mask))
            continue
        if mask is not None:
            raise click.UsageError(f"the list {listed} names one mask for the folder {image}; list the images in it")
        found = images_in(image)
        given += [(one, None) for one in found.images]
        if not quiet:
            left = f"; left out: {shortened(found.left_out)}" if found.left_out else ""
            click.echo(f"Note: {image} is a folder with {len(found.images)} images{left}", err=True)
    return given


def _placed(
    given: list[tuple[str, str | None]],
    listed: str | None,
    out: str | None,
    out_dir: str | None,
    file_format: str | None,
    shared: dict[str, Any],
    *,
    needs_out: bool,
) -> list[tuple[str, "Outputs"]]:
    """The images and where each one goes."""
    from tilesegment.prediction.inputs import place_masks
    from tilesegment.prediction.settings import Outputs

    masks_are_listed = any(mask is not None for _, mask in given)
    if out_dir is not None and out is not None:
        raise click.UsageError("--out names one mask, --out-dir a folder for many: give one of the two")
    if out is not None and masks_are_listed:
        raise click.UsageError(f"the list {listed} names masks, and so does --out: leave one of the two out")
    if out_dir is not None or len(given) > 1:
        for option in ("probabilities", "preview"):
            if shared[option] is not None:
                raise click.UsageError("--probabilities and --preview are for one image; for many leave them out")
    if out_dir is not None or masks_are_listed:
        return place_masks(out_dir, given, file_format or "zarr", Outputs("", **shared))
    if file_format is not None:
        raise click.UsageError("--format is for --out-dir; with --out the name of the mask says it")
    if needs_out and len(given) > 1:
        raise click.UsageError(f"{len(given)} images were given: name a folder for their masks with --out-dir")
    if needs_out and out is None:
        raise click.UsageError("Missing option '--out': where the mask goes, such as --out mask.zarr")
    return [(image, Outputs(out or "", **shared)) for image, _ in given]


def _carry_out(
    placed: list[tuple[str, "Outputs"]],
    settings: "Settings",
    cluster: options.ClusterOptions,
    out_dir: str | None,
    quiet: bool,
    verbose: bool,
    stop: Stop,
    *,
    many: bool,
) -> list["Result"]:
    from tilesegment.prediction.predict import predict_many
    from tilesegment.prediction.records import Records
    from tilesegment_cli.screen import Screen

    records = [] if out_dir is None else [Records(out_dir, settings.part, placed)]
    try:
        with cluster.workers(quiet) as workers, Screen(quiet, verbose, many=many) as screen:
            if workers is not None:
                workers.note = screen.note
            stop.begin()
            return list(predict_many(placed, settings, workers, listeners=[screen, *records], stop=stop))
    except KeyboardInterrupt:
        click.echo("Blocks that are done are kept: the same command goes on from there.", err=True)
        raise


def _conclude(results: list["Result"], out_dir: str | None, as_json: bool, quiet: bool, *, many: bool) -> None:
    """Results on stdout, errors on stderr, and the exit code."""
    failed = [one for one in results if one.state == "failed"]
    if failed and not many:
        (one,) = failed
        stored = one.blocks + one.blocks_resumed
        if one.given_up or not stored:
            raise one.errors[0]
        failing = f"{len(one.errors)} blocks failed, the other {stored} are stored"
        click.echo(f"Error: {one.errors[0]} ({failing})", err=True)
    if as_json:
        click.echo(json.dumps(_facts(results, many)))
    if many and not quiet:
        where = "" if out_dir is None else f": see {out_dir}/summary.csv"
        done = sum(one.state in ("complete", "part") for one in results)
        click.echo(f"{done} of {len(results)} images done, {len(failed)} failed{where}", err=True)
    if any(one.state == "stopped" for one in results):
        click.echo("Stopped: the same command goes on from here.", err=True)
        sys.exit(STOPPED)
    if failed:
        sys.exit(SOME_FAILED)


def _facts(results: list["Result"], many: bool) -> dict[str, Any]:
    """What became of one image, or of each of many, as JSON values."""
    done = [one.as_json() for one in results if one.finished and not one.errors]
    if done and not many:
        return done[0]
    failures = [
        {
            "image": str(one.image),
            "out": one.out,
            "error": str(one.errors[0]),
            "blocks_failed": len(one.errors) if one.plan is not None else 0,
            "blocks_stored": one.blocks + one.blocks_resumed,
        }
        for one in results
        if one.errors
    ]
    stopped = [str(one.image) for one in results if one.state == "stopped"]
    failed = sum(one.state == "failed" for one in results)
    return {"images": done, "failed": failed, "failures": failures, "stopped": stopped}


def _print_plans(placed: list[tuple[str, "Outputs"]], settings: "Settings", as_json: bool) -> None:
    """The plan of each image with its expected time, measured on one tile."""
    from tilesegment.prediction.job import Job

    for image, _ in placed:
        with Job.prepare(image, settings) as job:
            _print_plan(job, as_json)


def _print_plan(job: "Job", as_json: bool) -> None:
    """The plan with its expected time, measured on one tile."""
    plan, skipping = job.plan, job.plan.skipping
    seconds = job.seconds_per_tile() * plan.tiles * (1 - skipping.share)
    if as_json:
        known = {name: getattr(plan, name) for name in ("pixels", "blocks", "tiles", "tile", "step", "block", "batch")}
        known |= {"blocks_skipped": skipping.blocks}
        known |= {"device": plan.device, "precision": plan.precision, "runtime": plan.runtime, "seconds": seconds}
        known |= {"memory_bytes": plan.memory_bytes, "disk_bytes": plan.disk_bytes, "notes": list(plan.notes)}
        click.echo(json.dumps(known))
        return
    for note in plan.notes:
        click.echo(f"Note: {note}", err=True)
    for name, value in [*plan.lines(), ("time", f"about {seconds:,.0f} s, from one tile measured here")]:
        click.echo(f"{name:<10}{value}")
