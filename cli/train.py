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
from tilesegment_cli.types import DurationType, HeldOutType, ListType, OptionType, WeightsType

if TYPE_CHECKING:
    from tilesegment.training import TrainingRun
    from tilesegment.training.loop import Record, Trainer
    from tilesegment.training.validation import Scores

# What the library has a default for is passed on only where it is given; a test compares the defaults that are named.
_OPTIONS = [
    click.option(
        "--out",
        "-o",
        type=options.written_path,
        metavar="RUN",
        help="Folder of the run.  [default: a new one, runs/NAME]",
    ),
    click.option("--classes", type=ListType(str), help="Names of the classes, in the order of the labels' values."),
    click.option("--ignore", type=int, metavar="VALUE", help="Value in the labels of pixels without a label."),
    options.instances,
    options.invert,
    click.option("--preset", metavar="paper", help="Start from the settings of the U-Net paper."),
    click.option("--config", type=options.read_path, metavar="FILE", help="Start from the config.json of another run."),
    click.option(
        "--resume", is_flag=True, help="Go on with the run in RUN, or the last one; begin it if there is none."
    ),
    options.overwrite,
    click.option("--budget", type=DurationType(), metavar="20m", help="How long: 90s, 20m, 2h.  [default: 20m]"),
    click.option("--steps", type=int, help="How many updates, instead of a budget; makes the run reproducible."),
    click.option("--epochs", type=int, help="How often as many examples as there are images, instead of a budget."),
    click.option(
        "--init",
        type=options.read_path,
        metavar="FILE|NAME",
        help="Start from the weights of this model, perhaps of other classes.",
    ),
    click.option("--network", metavar="NAME", help="Architecture: tileseg networks lists them.  [default: unet]"),
    click.option("--option", "options", type=OptionType(), multiple=True, help="Of the network, such as up=nearest."),
    click.option(
        "--base", type=int, help="Channels of the first stage; 64 in the paper.  [default: 32; on a CPU in fp32 16]"
    ),
    click.option("--depth", type=int, help="How often the network halves the image.  [default: 4]"),
    click.option("--dropout", type=float, help="At the end of the contracting path.  [default: 0.1]"),
    options.halo,
    click.option("--tile", type=int, metavar="PX", help="Side of its input.  [default: 572; on a CPU in fp32 444]"),
    click.option("--scale", type=float, help="Train and predict at 1/2, 1/3, ... of the resolution.  [default: 1.0]"),
    click.option("--batch", type=int, help="Examples an update.  [default: 1]"),
    click.option("--lr", "--rate", "rate", type=float, help="Highest learning rate.  [default: the optimiser's]"),
    click.option("--optimiser", "--optimizer", "optimiser", metavar="muon|adamw|sgd", help="[default: muon]"),
    click.option("--ema", type=float, help="Decay of the average of the weights; 0 is none.  [default: 0.998]"),
    click.option("--loss", metavar="A+B", help="Sum of ce, bce, focal, dice, iou.  [default: ce+dice]"),
    click.option("--class-weights", type=WeightsType(), metavar="auto|5,1", help="Of the classes in ce, bce, focal."),
    click.option("--border-weight", type=float, help="Weight between close cells; 10 in the paper.  [default: 0.0]"),
    click.option("--border-sigma", type=float, help="Its reach in pixels.  [default: 5.0]"),
    click.option("--elastic-sigma", type=float, help="Of elastic displacements, pixels; 0: none.  [default: 10.0]"),
    click.option("--elastic-grid", type=float, help="Pixels between their control points.  [default: half a tile]"),
    click.option("--shades", type=float, help="Std of the brightness of cells.  [default: for v_rand 0.7, else 0]"),
    click.option("--defects", type=float, help="Share of examples with an EM section defect.  [default: 0.0]"),
    click.option("--validation", type=HeldOutType(), metavar="SHARE|NAMES", help="What is held out.  [default: 0.2]"),
    click.option("--goal", metavar="v_rand|dice|miou", help="What the model is judged by.  [default: auto]"),
    click.option("--threshold", type=float, help="Between two classes.  [default: the best on what is held out]"),
    click.option("--seed", type=int, help="Of weights, examples and dropout.  [default: 0]"),
    options.device,
    click.option("--precision", metavar="auto|fp32|bf16|fp16", help="[default: auto]"),
    click.option("--workers", type=int, help="Processes that draw examples.  [default: 0 on a CPU, else up to 4]"),
    click.option(
        "--tensorboard", type=options.written_path, metavar="DIR", help="Write the curves for TensorBoard, too."
    ),
    click.option("--name", help="Name recorded in the model.  [default: that of the folder]"),
    click.option("--licence", help="Licence of the model, recorded in it."),
    options.as_json,
    options.quiet,
]


def _with_options(function: Any) -> Any:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@click.argument("data", type=options.read_path)
@_with_options
@click.pass_context
def train(context: click.Context, data: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Train a network on DATA, labelled images.

    DATA holds images/ and labels/ (or imgs/ and masks/, JPEGImages/ and SegmentationClass/, NAME and NAME_masks in one
    folder, an OME-Zarr image with labels, ...). The last images, or those in val/, are held out, predicted whole and
    scored.
    The run's folder holds model.safetensors and report.html.
    """
    start = time.monotonic()
    if context.get_parameter_source("device") == click.core.ParameterSource.DEFAULT:
        del given["device"]
    given["instances"], given["invert"] = given["instances"] or None, given["invert"] or None
    given["options"] = dict(given["options"]) or None
    begun: list[tuple[Trainer, Path]] = []

    def begin(trainer: "Trainer", folder: Path) -> None:
        begun.append((trainer, folder))
        _introduce(progress, trainer, folder)

    def report(record: "Record") -> None:
        _show(progress, record)
        if stop():
            raise KeyboardInterrupt

    with sigterm_stops() as stop:
        try:
            from tilesegment import training

            with ProgressReport(quiet) as progress:
                run = training.train(
                    data,
                    since=start,
                    begin=begin,
                    report=report,
                    **{key: value for key, value in given.items() if value is not None},
                )
        except FinishedError as error:  # as where a batch system starts a job again that was done
            if not quiet:
                click.echo(f"Note: {error}", err=True)
            if as_json:
                click.echo(json.dumps({"finished": True, "message": str(error)}))
            return
        except KeyboardInterrupt:
            _say_what_is_kept(data, begun)
            raise
    if not quiet:
        _conclude(run)
    if as_json:
        click.echo(json.dumps(asdict(run)))


def _say_what_is_kept(data: str, begun: "list[tuple[Trainer, Path]]") -> None:
    """How far a stopped run came, and how it goes on."""
    if not begun:
        click.echo("Stopped before the first update: nothing is kept; begin again.", err=True)
    for trainer, folder in begun:
        if trainer.can_be_kept:
            click.echo(f"The model after {trainer.kept_step:,} steps is in {folder}.", err=True)
        again = f"tileseg train {shlex.quote(data)} --out {shlex.quote(str(folder))} --resume"
        click.echo(f"Go on with: {again}", err=True)


def _introduce(progress: ProgressReport, trainer: "Trainer", folder: Path) -> None:
    """What the data are and what will be done with them."""
    from tilesegment.training.data import summary
    from tilesegment.training.settings import GOAL_NAMES

    for line in summary(trainer.data, trainer.held_out).splitlines():
        progress.line(line)
    goal = GOAL_NAMES[trainer.goal]
    progress.line(f"training on {trainer.device}, {trainer.precision}; judged by {goal}; run folder: {folder}")
    for note in trainer.notes:
        progress.line(f"Note: {note}")
    if trainer.step:
        progress.line(f"going on after step {trainer.step:,}")


def _show(progress: ProgressReport, record: "Record") -> None:
    progress.show(record.progress, f"step {record.step:,}, loss {record.loss:.3f}", record.seconds)
    if record.scores is not None:
        progress.line(f"step {record.step:,}, loss {record.loss:.3f}, held out: {_words(record.scores)}")


def _conclude(run: "TrainingRun") -> None:
    """What came out, and how to use it."""
    if run.scores is not None:
        click.echo(f"Held out: {_words(run.scores)}", err=True)
    if run.tta is not None:
        click.echo(f"with the 8 views of --tta: {_words(run.tta)}", err=True)
    if run.line is not None:
        from tilesegment.training.report import line_words

        click.echo(line_words(run.line), err=True)
    best = "" if run.kept_step == run.steps else f", of which the model after {run.kept_step:,} was the best"
    for line in run.left_out:
        click.echo(f"Note: the budget left no time for {line}", err=True)
    took = f"{run.seconds:,.0f} s of {run.wall_seconds:,.0f} s in all"
    words = f"{run.steps:,} steps in {took}{best}. See {run.folder}/report.html, use the model:"
    click.echo(words, err=True)
    click.echo(f"  tileseg predict IMAGE --model {shlex.quote(run.model)} --out mask.zarr", err=True)


def _words(scores: "Scores") -> str:
    from tilesegment.training.settings import GOAL_NAMES

    best = "at its best threshold; " if scores.goal == "v_rand" else ""
    text = f"{GOAL_NAMES[scores.goal]} {scores.value:.4f} ({best}always the same class: {scores.floor_value:.3f})"
    if scores.v_info is not None:
        text += f", V_Info {scores.v_info:.4f}"
    each = " ".join("-" if value is None else f"{value:.3f}" for value in scores.iou)
    mean = "" if scores.goal == "miou" else f"mIoU {scores.miou:.3f}, "
    return text + f", {mean}IoU of each class {each}, accuracy {scores.accuracy:.3f} ({scores.floor:.3f})"
