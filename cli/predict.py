"""`tileseg predict`."""

import json
import sys
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from tilesegment.signals import Stop, sigterm_stops
from tilesegment_cli import options
from tilesegment_cli.exit_codes import SOME_FAILED, STOPPED
from tilesegment_cli.types import PART, RANGE, ROI

if TYPE_CHECKING:
    from tilesegment.prediction.inputs import Listed
    from tilesegment.prediction.result import Result
    from tilesegment.prediction.settings import Outputs, Settings

    Placed = list[tuple[str, Outputs]]
    Own = Mapping[str, Mapping[str, Any]]

option, written = click.option, options.written_path


@click.command()
@click.argument("images", type=options.read_place, nargs=-1, metavar="IMAGE...")
@option(
    "--out",
    "-o",
    type=options.written_place,
    metavar="PATH",
    help="mask.zarr, also s3://BUCKET/mask.zarr; image.zarr/labels/NAME, mask.tif, mask.png.",
)
@option("--out-dir", type=written, metavar="FOLDER", help="Of many images: a folder for masks, logs and summary.csv.")
@option(
    "--list",
    "listed",
    type=options.read_path,
    metavar="FILE",
    help="Also the images named in a text file, or in a CSV with columns image and, perhaps, out, mpp (of its pixels), "
    "diameter, roi, skip_empty.",
)
@option("--format", "file_format", type=click.Choice(["zarr", "tif", "png"]), help="Of masks in --out-dir.")
@options.model
@options.tile
@options.halo
@options.prune
@options.batch
@options.device
@options.precision
@options.runtime
@option("--roi", type=ROI, help="Only these pixels, of level 0, or what lies in the areas of a GeoJSON file.")
@options.scale
@option("--z", type=RANGE, help="Only these planes of a stack.")
@options.channels
@options.axes
@options.select
@options.series
@options.invert
@option("--threshold", type=float, help="Two classes: probability above which a pixel is class 1.")
@option("--tta", is_flag=True, help="Average over the 8 symmetries of the square: 8 times the work.")
@options.normalise
@option(
    "--skip-empty",
    type=options.read_path,
    metavar="constant|tissue|FILE",
    help="Do not predict blocks of one value, blocks without tissue, those where an image is zero, or those that no "
    "area of a GeoJSON file touches.",
)
@option("--ngff", type=click.Choice(["0.5", "0.4"]), default="0.5", help="OME-Zarr version; 0.4 for QuPath and Fiji.")
@option("--probabilities", type=options.written_place, metavar="P.ZARR", help="Also write class probabilities.")
@option("--probabilities-dtype", type=click.Choice(["float32", "uint8"]), help="[default: float32; uint8: 0 to 255]")
@option("--heatmap", type=written, metavar="PNG", help="With --probabilities: also draw how probable a class is.")
@option("--heatmap-class", metavar="NAME|N", help="That class.  [default: foreground, all but class 0]")
@option("--preview", type=written, metavar="PNG", help="Also draw image and mask side by side.")
@option(
    "--objects",
    "objects_",
    type=written,
    multiple=True,
    metavar="PATH",
    help="Objects of the mask: cells.geojson[.gz], .csv, .parquet, labels.zarr or image.zarr/labels/NAME; several "
    "times for several; of many images the suffix alone. Without --out the mask is not kept.",
)
@option("--measure-image", is_flag=True, help="Measure the grey values of the objects in IMAGE, too.")
@options.objects
@option("--part", type=PART, help="Only the K-th of N parts, for a job array; the last one finishes.")
@options.cluster
@options.store_options
@options.overwrite
@option("--dry-run", is_flag=True, help="Print the plan and the expected time, write nothing.")
@options.as_json
@options.quiet
@option("-v", "--verbose", is_flag=True, help="Print the plan before it is carried out.")
def predict(
    images: tuple[str, ...],
    out: str | None,
    out_dir: str | None,
    listed: str | None,
    file_format: str | None,
    cluster: options.ClusterOptions,
    dry_run: bool,
    as_json: bool,
    quiet: bool,
    verbose: bool,
    **given: Any,
) -> None:
    """Segment IMAGE (TIFF, OME-Zarr, Zarr, PNG, JPEG) of any size into a mask, without seams.

    A run that was stopped goes on when the same command is given again. Many images go to --out-dir.
    """
    cluster.check()
    _check(given, cluster)
    with sigterm_stops() as stop:  # from before the long imports on
        from tilesegment.prediction.inputs import own_settings
        from tilesegment.prediction.settings import Outputs, Settings

        store_options = given["store_options"]
        names = ("probabilities", "preview", "ngff", "overwrite", "heatmap", "heatmap_class")
        dtype = given.pop("probabilities_dtype") or "float32"
        more = _objects(given) | {name: given.pop(name) for name in names}
        shared = Outputs("", probabilities_dtype=dtype, **more)
        settings = Settings.of(given)
        named = _named(images, listed, quiet)
        own = own_settings(named, settings)
        to_place = [(one.image, one.out) for one in named]
        placed = _placed(to_place, listed, out, out_dir, file_format, shared, dry_run)
        placed = [(image, outputs.reached_by(store_options)) for image, outputs in placed]
        files = [one for image, _ in placed if isinstance(one := own.get(image, {}).get("roi", settings.roi), str)]
        if twice := [one for one in files if files.count(one) > 1]:
            raise click.UsageError(f"--roi {twice[0]} holds areas of one image, but {len(twice)} images have it")
        if dry_run:
            chosen = [(image, replace(settings, **own.get(image, {}))) for image, _ in placed]
            if len(chosen) > 1:
                from tilesegment_cli.plans import print_totals

                print_totals(chosen, as_json, verbose)
            else:
                _print_plan(*chosen[0], as_json)
            return
        many = out_dir is not None or len(placed) > 1
        results = _carry_out(placed, settings, own, cluster, out_dir, quiet, verbose, stop, many=many)
        _conclude(results, out_dir, as_json, quiet, many=many)


def _check(given: dict[str, Any], cluster: options.ClusterOptions) -> None:
    """Refuse options that need others."""
    if given["part"] is not None and cluster.is_wanted:
        raise click.UsageError("--part is for processes without a cluster: leave --workers and --scheduler out")
    for name in ("heatmap", "probabilities_dtype"):
        if given[name] is not None and given["probabilities"] is None:
            raise click.UsageError(
                f"--{name.replace('_', '-')} needs the probabilities: give --probabilities P.ZARR, too"
            )
    if given["heatmap"] is None and given["heatmap_class"] is not None:
        raise click.UsageError("--heatmap-class says what --heatmap shows: give --heatmap PNG, too")


def _objects(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of objects out of `given`; return what `Outputs` has of them."""
    from tilesegment.objects.settings import ObjectSettings

    context = click.get_current_context()
    names = [one.name for one in fields(ObjectSettings) if one.name in given]
    chosen = {name: given.pop(name) for name in names}
    files, measured = given.pop("objects_"), given.pop("measure_image")
    for name in (*names, "measure_image") if not files else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            (spelt,) = (one.opts[0] for one in context.command.params if one.name == name)
            raise click.UsageError(f"{spelt} is about objects: give --objects PATH, too")
    return {"objects": files, "object_settings": ObjectSettings.of(chosen), "measure_image": measured}


def _named(images: tuple[str, ...], listed: str | None, quiet: bool) -> list["Listed"]:
    """Return the images and what a list says of them. A folder is replaced by the images in it."""
    from tilesegment.labels.files import is_folder_of_files
    from tilesegment.prediction.inputs import OWN, Listed, images_in, read_list, shortened

    named = [Listed(image) for image in images]
    if listed is not None:
        images_listed, unused = read_list(listed)
        named += images_listed
        if unused and not quiet:
            known = ", ".join(("image", "out", *OWN))
            click.echo(f"Note: {listed}: not used: {shortened(unused)}; columns that are: {known}", err=True)
    if not named:
        raise click.UsageError("Missing argument 'IMAGE...': name an image, or a --list of them")
    files = []
    for one in named:
        image = one.image
        if not is_folder_of_files(Path(image)):
            files.append(one)
            continue
        if one.out is not None:
            raise click.UsageError(f"the list {listed} names one mask for the folder {image}; list the images in it")
        found = images_in(image)
        files += [Listed(path, None, one.own) for path in found.images]
        if not quiet:
            left = f"; left out: {shortened(found.left_out)}" if found.left_out else ""
            click.echo(f"Note: {image} is a folder with {len(found.images)} images{left}", err=True)
            for sentence in found.unread:
                click.echo(f"Note: {image}: {sentence}", err=True)
    return files


def _placed(
    named: list[tuple[str, str | None]],
    listed: str | None,
    out: str | None,
    out_dir: str | None,
    file_format: str | None,
    shared: "Outputs",
    dry_run: bool,
) -> "Placed":
    """Decide where the mask of each image goes."""
    from tilesegment.prediction.inputs import OBJECT_ENDINGS, place_masks

    masks_are_listed = any(mask is not None for _, mask in named)
    if out_dir is not None and out is not None:
        raise click.UsageError("--out names one mask, --out-dir a folder for many: give one of the two")
    if out is not None and masks_are_listed:
        raise click.UsageError(f"the list {listed} names masks, and so does --out: leave one of the two out")
    many = out_dir is not None or len(named) > 1
    if many and (shared.probabilities is not None or shared.preview is not None):
        raise click.UsageError("--probabilities and --preview are for one image; for many leave them out")
    if out_dir is not None or masks_are_listed:
        return place_masks(out_dir, named, file_format or "zarr", shared)
    if file_format is not None:
        raise click.UsageError("--format is for --out-dir; with --out the name of the mask says it")
    if not dry_run and many:
        raise click.UsageError(f"{len(named)} images were given: name a folder for their masks with --out-dir")
    for path in shared.objects:
        if Path(path).name in OBJECT_ENDINGS:
            raise click.UsageError(f"--objects {path} is a suffix, for many images; name a file, such as cells{path}")
    if not many and out is None and shared.objects:
        from tilesegment.prediction.objects import hidden_mask

        return [(image, replace(shared, mask=hidden_mask(shared.objects), keep_mask=False)) for image, _ in named]
    if not dry_run and out is None:
        raise click.UsageError("Missing option '--out': where the mask goes, such as --out mask.zarr")
    return [(image, replace(shared, mask=out or "")) for image, _ in named]


def _carry_out(
    placed: "Placed",
    settings: "Settings",
    own: "Own",
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
        with cluster.workers(quiet) as workers, Screen(quiet, verbose, many) as screen:
            if workers is not None:
                workers.note = screen.note
            stop.begin()
            return list(predict_many(placed, settings, workers, own=own, listeners=[screen, *records], stop=stop))
    except KeyboardInterrupt:
        click.echo("Blocks that are done are kept: the same command goes on from there.", err=True)
        raise


def _conclude(results: list["Result"], out_dir: str | None, as_json: bool, quiet: bool, *, many: bool) -> None:
    """Print results on stdout and errors on stderr; exit with the matching code."""
    failed = [one for one in results if one.state == "failed"]
    if failed and not many:
        (one,) = failed
        stored = one.blocks + one.blocks_resumed
        if one.given_up or one.finished or not stored:
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
    """Return the result of one image, or of each of many, as JSON values."""
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


def _print_plan(image: str, settings: "Settings", as_json: bool) -> None:
    """Print the plan with its expected time, measured on one tile."""
    from tilesegment.prediction.job import Job

    with Job.prepare(image, settings) as job:
        plan = job.plan
        share = float(plan.areas[~plan.left_out].sum() / plan.pixels)
        seconds = job.seconds_per_tile() * plan.tiles * share
    if as_json:
        names = ("pixels", "blocks", "tiles", "tile", "step", "block", "batch", "device", "precision", "runtime")
        known = {name: getattr(plan, name) for name in (*names, "memory_bytes", "disk_bytes")}
        known |= {"blocks_skipped": plan.skipped.get("blocks"), "seconds": seconds, "notes": list(plan.notes)}
        click.echo(json.dumps(known))
        return
    for note in plan.notes:
        click.echo(f"Note: {note}", err=True)
    for name, value in [*plan.lines(), ("time", f"about {seconds:,.0f} s, from one tile measured here")]:
        click.echo(f"{name:<12}{value}")
