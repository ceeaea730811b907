"""`tileseg train`."""

import json
import shlex
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport
from tilesegment_cli.types import DurationType, ListType

if TYPE_CHECKING:
    from tilesegment.training.loop import Record, Trainer
    from tilesegment.training.validation import Scores


@click.command()
@click.argument("data")
@click.option("--out", "-o", metavar="RUN", help="Folder of the run.  [default: a new one, runs/NAME]")
@click.option("--classes", type=ListType(str), help="Names of the classes, in the order of the labels' values.")
@click.option("--budget", type=DurationType(), help="How long to train: 90s, 20m, 2h.  [default: 20m]")
@click.option("--steps", type=int, help="How many updates, instead of a budget; makes the run reproducible.")
@click.option("--init", metavar="FILE|NAME", help="Start from the weights of this model.")
@click.option("--base", type=int, help="Channels of the first stage; 64 in the paper.  [default: 32]")
@click.option("--depth", type=int, help="How often the network halves the image.  [default: 4]")
@options.tile
@click.option("--batch", type=int, default=1, show_default=True, help="Examples an update.")
@click.option("--rate", type=float, default=4e-4, show_default=True, help="Highest learning rate.")
@click.option("--class-weights", type=ListType(float), help="Of the classes in the cross-entropy, such as 5,1.")
@click.option("--validation", type=float, default=0.2, show_default=True, help="Share that is held out: the last ones.")
@click.option("--seed", type=int, default=0, show_default=True)
@options.device
@click.option("--precision", default="auto", metavar="auto|fp32|bf16|fp16", show_default=True)
@click.option("--name", default="", help="Name recorded in the model.  [default: that of the folder]")
@click.option("--licence", default="", help="Licence of the model, recorded in it.")
@options.overwrite
@options.as_json
@options.quiet
def train(
    data: str,
    out: str | None,
    classes: tuple[str, ...] | None,
    overwrite: bool,
    tile: int | None,
    as_json: bool,
    quiet: bool,
    **settings: Any,
) -> None:
    """Train a U-Net on DATA, a folder with images/ and labels/ of the same file names.

    The last images are held out, predicted whole and scored. The run's folder holds model.safetensors, metrics.jsonl
    and curves.png.
    """
    from tilesegment import training

    if tile is not None:
        settings["tile"] = tile

    begun: list[tuple[Trainer, Path]] = []

    def begin(trainer: "Trainer", folder: Path) -> None:
        begun.append((trainer, folder))
        for line in _summary(trainer):
            progress.line(line)
        progress.line(f"run folder: {folder}")

    try:
        with ProgressReport(quiet) as progress:
            run = training.train(
                data,
                out,
                classes=classes,
                overwrite=overwrite,
                begin=begin,
                report=lambda record: _show(progress, record),
                **settings,
            )
    except KeyboardInterrupt:
        for trainer, folder in begun:
            if trainer.record is not None:
                click.echo(f"The model after {trainer.record.step:,} steps is in {folder}.", err=True)
        raise
    if not quiet:
        if run.scores is not None:
            click.echo(f"Held out: {_words(run.scores)}", err=True)
        click.echo(f"{run.steps:,} steps in {run.seconds:,.0f} s. Use the model:", err=True)
        click.echo(f"  tileseg predict IMAGE --model {shlex.quote(run.model)} --out mask.zarr", err=True)
    if as_json:
        click.echo(json.dumps(asdict(run)))


def _summary(trainer: "Trainer") -> list[str]:
    """What the data are and what will be done with them."""
    sections, data = trainer.data.sections, trainer.data
    sizes = Counter(f"{s.image.shape[1]} x {s.image.shape[2]}" for s in sections)
    size = ", ".join(f"{n} of {shape}" for shape, n in sizes.most_common(3)) + (", ..." if len(sizes) > 3 else "")
    first = sections[0].image
    lines = [f"{len(sections)} labelled images: {size}; {len(first)} channel(s) of {first.dtype}"]
    for number, (one, share) in enumerate(zip(data.classes, data.shares(), strict=True)):
        lines.append(
            f"  class {number}: {one.name} (value {one.value} in the labels), {100 * share:.1f} % of the pixels"
        )
    held = [section.name for section in trainer.held_out]
    lines.append(f"held out: {', '.join(held)}" if held else "held out: nothing, so there will be no score")
    lines.append(f"training on {trainer.device}, {trainer.precision}")
    return lines


def _show(progress: ProgressReport, record: "Record") -> None:
    progress.show(record.progress, f"step {record.step:,}, loss {record.loss:.3f}", record.seconds)
    if record.scores is not None:
        progress.line(f"step {record.step:,}, loss {record.loss:.3f}, held out: {_words(record.scores)}")


def _words(scores: "Scores") -> str:
    means = [value for value in scores.iou if value is not None]
    text = f"accuracy {scores.accuracy:.3f} (always the same class: {scores.floor:.3f})"
    text += f", mIoU {sum(means) / len(means):.3f}"
    if scores.v_rand is not None:
        text += f", V_Rand {scores.v_rand:.4f}, V_Info {scores.v_info:.4f}"
    return text
