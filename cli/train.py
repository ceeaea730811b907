"""`tileseg train`."""

import json
import shlex
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilesegment.errors import FinishedError
from tilesegment.signals import sigterm_stops
from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.types import DURATION, HELD_OUT, NAMES, OPTION, WEIGHTS

if TYPE_CHECKING:
    from tilesegment.training import TrainingRun
    from tilesegment.training.loop import Record, Trainer
    from tilesegment.training.validation import Scores

option, written = click.option, options.written_path

# The library has the defaults; those named here are compared with them by a test.
_OPTIONS = options.together(
    option("--out", "-o", type=written, metavar="RUN", help="Folder of the run.  [default: a new one, runs/NAME]"),
    option(
        "--labels",
        type=options.read_path,
        metavar="FILE|FOLDER",
        help="What was drawn on DATA, an image or a folder of images: only that counts.",
    ),
    option("--sparse", is_flag=True, help="Of DATA that holds images and labels, too, only what was drawn counts."),
    option("--brush", type=float, metavar="PX", help="Width that drawn lines and points count as.  [default: 8]"),
    option("--classes", type=NAMES, help="Names of the classes, in the order of the labels' values."),
    option("--ignore", type=int, metavar="VALUE", help="Value in the labels of pixels without a label."),
    option(
        "--instances/--no-instances",
        default=None,
        help="Labels are ids of single objects, or classes.  [default: what they look like]",
    ),
    options.invert,
    option("--preset", metavar="paper", help="Start from the settings of the U-Net paper."),
    option("--config", type=options.read_path, metavar="FILE", help="Start from the config.json of another run."),
    option("--resume", is_flag=True, help="Go on with the run in RUN, or the last one; begin it if there is none."),
    options.overwrite,
    option("--budget", type=DURATION, metavar="20m", help="How long: 90s, 20m, 2h.  [default: 20m]"),
    option("--steps", type=int, help="Number of updates, instead of a budget; makes the run reproducible."),
    option("--epochs", type=int, help="How often to draw as many examples as there are images, instead of a budget."),
    option(
        "--init",
        type=options.read_path,
        metavar="FILE|NAME",
        help="Start from the weights of this model, perhaps of other classes.",
    ),
    option(
        "--network",
        metavar="NAME",
        help="Architecture: tileseg networks lists them.  [default: unet]",
    ),
    option(
        "--padded/--no-padded",
        default=None,
        help="Train a network that crops with padding: all pixels of a tile count.  [default: for objects, strokes]",
    ),
    option("--option", "options", type=OPTION, multiple=True, help="Of the network, such as up=nearest."),
    option(
        "--base", type=int, help="Channels of the first stage; 64 in the paper.  [default: 32; on a CPU in fp32 16]"
    ),
    option("--depth", type=int, help="How often the network halves the image.  [default: 4]"),
    option("--dropout", type=float, help="At the end of the contracting path.  [default: 0.1]"),
    options.halo,
    option("--tile", type=int, metavar="PX", help="Side of its input.  [default: 572; on a CPU in fp32 444]"),
    option("--scale", type=float, help="Train and predict at 1/2, 1/3, ... of the resolution.  [default: 1.0]"),
    option("--batch", type=int, help="Examples per update.  [default: 1, more of small tiles]"),
    option(
        "--normalise", metavar="auto|fixed|percentiles", help="Of grey values: of all images, or each.  [default: auto]"
    ),
    option("--lr", "--rate", "rate", type=float, help="Highest learning rate.  [default: the optimiser's]"),
    option("--optimiser", "--optimizer", "optimiser", metavar="muon|adamw|sgd", help="[default: muon]"),
    option("--ema", type=float, help="Decay of the average of the weights; 0: no average.  [default: 0.998]"),
    option("--loss", metavar="A+B", help="Sum of ce, bce, focal, dice, iou.  [default: ce+dice]"),
    option("--class-weights", type=WEIGHTS, metavar="auto|5,1", help="Of the classes in ce, bce, focal."),
    option(
        "--border-weight",
        type=float,
        help="Weight between close cells; 10 in the paper.  [default: of objects 5, else 0]",
    ),
    option("--border-sigma", type=float, help="Its reach in pixels.  [default: of objects 3, else 5]"),
    option("--mpp", type=float, metavar="MICRONS", help="Resample all images to pixels of so many micrometres."),
    option(
        "--source-mpp", type=float, metavar="MICRONS", help="Pixel size of the images, instead of what the files say."
    ),
    option("--elastic-sigma", type=float, help="Of elastic displacements, in pixels; 0: none.  [default: 10.0]"),
    option("--elastic-grid", type=float, help="Pixels between their control points.  [default: half a tile]"),
    option("--shades", type=float, help="Std of the brightness of cells.  [default: for v_rand 0.7, else 0]"),
    option("--defects", type=float, help="Share of examples with an EM section defect.  [default: 0.0]"),
    option("--zoom", type=float, help="Enlarge and shrink by up to this.  [default: 1.25; of single objects 1.5]"),
    option("--exposure", type=float, help="Brighten and darken by up to this.  [default: 2 with percentiles, else 1]"),
    option("--stains", type=float, help="How much stains vary.  [default: of single objects in sections 1, else 0]"),
    option("--jpeg", type=float, help="Share of examples with JPEG artefacts.  [default: of single objects 0.2]"),
    option("--validation", type=HELD_OUT, metavar="SHARE|NAMES", help="Images to hold out.  [default: 0.2]"),
    option("--goal", metavar="v_rand|dice|miou|pq", help="Score that selects the model.  [default: auto]"),
    option("--threshold", type=float, help="Between two classes.  [default: the best on the held-out images]"),
    option("--seed", type=int, help="Of weights, examples and dropout.  [default: 0]"),
    option("--device", metavar="auto|cpu|cuda|cuda:N|mps", help="[default: auto]"),
    option("--precision", metavar="auto|fp32|bf16|fp16", help="[default: auto]"),
    option("--workers", type=int, help="Processes that draw examples.  [default: 0 on a CPU, else up to 4]"),
    option("--tensorboard", type=written, metavar="DIR", help="Also write the curves for TensorBoard."),
    option("--name", help="Name recorded in the model.  [default: that of the folder]"),
    option("--licence", help="Licence of the model, recorded in it."),
    option("--dry-run", is_flag=True, help="Print the table of the data and what would be done, write nothing."),
    options.as_json,
    options.quiet,
)


@click.command()
@click.argument("data", type=options.read_path)
@_OPTIONS
def train(data: str, dry_run: bool, as_json: bool, quiet: bool, **given: Any) -> None:
    """Train a network on DATA, labelled images.

    DATA holds images/ and labels/ (or imgs/ and masks/, JPEGImages/ and SegmentationClass/, NAME and NAME_masks in one
    folder, an OME-Zarr image with labels, ...). The last images, or those in val/, are held out, predicted whole and
    scored.
    Where only a little is drawn, name the image: tileseg train slide.svs --labels drawn.geojson. Labels are outlines,
    lines and points with classes (GeoJSON as of QuPath, labelme), or label images with 0 where nothing is drawn; what
    is not drawn is not background. DATA may be a CSV with the columns image and labels. Whole annotations are held
    out.
    The run's folder holds model.safetensors and report.html.
    """
    start = time.monotonic()
    given["options"] = dict(given["options"]) or None
    # what was not given is left to the library, a preset or a config
    kept = {"instances": given.pop("instances")}
    chosen = {key: value for key, value in given.items() if value is not None and value is not False} | kept
    if dry_run:
        _print_plan(data, as_json, chosen)
        return
    begun: list[tuple[Trainer, Path]] = []

    def begin(trainer: "Trainer", folder: Path) -> None:
        begun.append((trainer, folder))
        _introduce(progress, trainer, folder)

    def report(record: "Record") -> None:
        text = f"step {record.step:,}, loss {record.loss:.3f}"
        progress.show(record.progress, text, record.seconds)
        if record.scores is not None:
            progress.line(f"{text}, held out: {_words(record.scores)}")
        if stop():
            raise KeyboardInterrupt

    with sigterm_stops() as stop:
        try:
            from tilesegment import training

            with ProgressReport(quiet) as progress:
                run = training.train(data, since=start, begin=begin, report=report, **chosen)
        except FinishedError as error:  # as where a batch system starts a finished job again
            if not quiet:
                click.echo(f"Note: {error}", err=True)
            if as_json:
                click.echo(json.dumps({"finished": True, "message": str(error)}))
            return
        except KeyboardInterrupt:
            _say_what_is_kept(data, begun)
            raise
    if not quiet:
        _conclude(run, begun[0][0].data.instances)
    if as_json:
        click.echo(json.dumps(asdict(run)))


def _print_plan(data: str, as_json: bool, chosen: dict[str, Any]) -> None:
    """Print the table of the data and what training would do."""
    from tilesegment.training import look_ahead
    from tilesegment.training.data import summary
    from tilesegment.training.settings import GOAL_NAMES

    chosen.pop("tensorboard", None)
    trainer, folder = look_ahead(data, **chosen)
    settings, total = trainer.settings, trainer.budget.total
    parameters = sum(one.numel() for one in trainer.network.parameters())
    length = f"{settings.steps:,} updates" if settings.steps is not None else f"{settings.epochs} epochs"
    known = {"folder": str(folder), "images": len(trainer.data.sections), "held_out": len(trainer.held_out)}
    known |= {"network": trainer.start.name, "parameters": parameters, "goal": trainer.goal}
    known |= {"tile": settings.tile, "batch": settings.batch, "budget_seconds": total, "steps": settings.steps}
    known |= {"epochs": settings.epochs, "device": str(trainer.device), "precision": trainer.precision}
    if as_json:
        click.echo(json.dumps(known))
        return
    click.echo(summary(trainer.data, trainer.held_out))
    rows = [
        ("network", f"{trainer.start.name}, {parameters / 1e6:.2f} M parameters"),
        ("tile", f"{settings.tile} px, {settings.batch} per update"),
        ("length", length if total is None else f"{total:,.0f} s in all"),
        ("goal", f"{GOAL_NAMES[trainer.goal]}, on {len(trainer.held_out)} held-out images"),
        ("device", f"{trainer.device}, {trainer.precision}"),
        ("run folder", str(folder)),
    ]
    for name, value in rows:
        click.echo(f"{name:<14}{value}")
    for note in trainer.start.notes:
        click.echo(f"Note: {note}", err=True)


def _say_what_is_kept(data: str, begun: "list[tuple[Trainer, Path]]") -> None:
    """Print how far a stopped run came, and how to go on."""
    if not begun:
        click.echo("Stopped before the first update: nothing is kept; begin again.", err=True)
    for trainer, folder in begun:
        if trainer.can_be_kept:
            click.echo(f"The model after {trainer.kept_step:,} steps is in {folder}.", err=True)
        again = f"tileseg train {shlex.quote(data)} --out {shlex.quote(str(folder))} --resume"
        click.echo(f"Go on with: {again}", err=True)


def _introduce(progress: ProgressReport, trainer: "Trainer", folder: Path) -> None:
    """Print a summary of the data and of what is done with them."""
    from tilesegment.training.data import summary
    from tilesegment.training.settings import GOAL_NAMES

    for line in summary(trainer.data, trainer.held_out).splitlines():
        progress.line(line)
    goal = GOAL_NAMES[trainer.goal]
    progress.line(f"training on {trainer.device}, {trainer.precision}; judged by {goal}; run folder: {folder}")
    for note in trainer.start.notes:
        progress.line(f"Note: {note}")
    if trainer.step:
        progress.line(f"going on after step {trainer.step:,}")


def _conclude(run: "TrainingRun", of_objects: bool) -> None:
    """Print the result, and how to use it."""
    lines = []
    if run.scores is not None:
        lines.append(f"Held out: {_words(run.scores)}")
    if run.tta is not None:
        lines.append(f"with the 8 views of --tta: {_words(run.tta)}")
    if run.line is not None:
        from tilesegment.training.report import line_words

        lines.append(line_words(run.line))
    if run.cores is not None:
        from tilesegment.training.report import cores_words

        lines.append(cores_words(run.cores))
    lines += [f"Note: the budget left no time for {what}" for what in run.left_out]
    best = "" if run.kept_step == run.steps else f", of which the model after {run.kept_step:,} was the best"
    took = f"{run.seconds:,.0f} s of {run.wall_seconds:,.0f} s in all"
    lines.append(f"{run.steps:,} steps in {took}{best}. See {run.folder}/report.html, use the model:")
    out = "--objects objects.geojson" if of_objects else "--out mask.zarr"
    lines.append(f"  tileseg predict IMAGE --model {shlex.quote(run.model)} {out}")
    click.echo("\n".join(lines), err=True)


def _words(scores: "Scores") -> str:
    from tilesegment.training.settings import GOAL_NAMES

    best = "at its best threshold; " if scores.goal == "v_rand" else ""
    text = f"{GOAL_NAMES[scores.goal]} {scores.value:.4f} ({best}always the same class: {scores.floor_value:.3f})"
    if scores.v_info is not None:
        text += f", V_Info {scores.v_info:.4f}"
    if scores.pq is not None:
        more = {"F1@0.5": scores.f1, "AP@0.5": scores.ap, "AJI": scores.aji}
        text += "".join(f", {name} {value or 0:.4f}" for name, value in more.items())
    each = " ".join("-" if value is None else f"{value:.3f}" for value in scores.iou)
    mean = "" if scores.goal == "miou" else f"mIoU {scores.miou:.3f}, "
    return text + f", {mean}IoU of each class {each}, accuracy {scores.accuracy:.3f} ({scores.floor:.3f})"
