"""Compares the networks: each is trained for the same time on the same sections, scored on others, and timed.

    python examples/compare_networks.py isbi2012 runs/networks --budget 5m --json networks.json
    python examples/compare_networks.py isbi2012 runs/networks --only unet,unetpp --held 19,20,21,22,23

OUT gets a folder a network. One that is complete there is not trained again, so that a comparison that was stopped goes
on with the same command. The budget is spent on updates alone: a large network would need all of it to look at the
held-out sections. All networks are timed at the end, in turns, without reading and writing. The table is Markdown.
"""

import copy
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np
import tifffile
import torch
from torch.utils.flop_counter import FlopCounterMode

import tilesegment
from tilesegment import DataError, Model, PlanError, Region, TilesegmentError
from tilesegment.files import write_atomically
from tilesegment.geometry import TileGrid
from tilesegment.prediction.devices import choose_device, choose_precision
from tilesegment.prediction.predictor import TorchPredictor
from tilesegment.training.data import Dataset, Section, open_dataset
from tilesegment.training.loop import Trainer
from tilesegment.training.settings import TrainingSettings
from tilesegment.training.validation import validate
from tilesegment_cli.types import DURATION, HELD_OUT, NAMES

# side of the tiles that are timed, about: large enough that little is computed twice
TILE = 1084
# how often each is timed; the first does not count: it allocates
ROUNDS = 6
MODEL, DONE = "model.safetensors", "comparison.json"


@dataclass(frozen=True)
class Recipe:
    """How a network is trained here."""

    network: str  # a name in `networks.NETWORKS`
    options: dict[str, Any]
    tile: int  # side of its input in training, pixels
    levels: tuple[int, ...] = ()  # of a U-Net++, the heads that are compared
    halos: tuple[int, ...] = ()  # contexts of a tile that are compared, pixels, where the exact one is not practical

    def variants(self, model: Model) -> list[tuple[str, Model]]:
        """Return names and models of the rows that the trained `model` gives."""
        if self.levels:
            return [(f"{self.network} L{level}", model.pruned(level)) for level in self.levels]
        return [(self.network, model.with_halo(halo)) for halo in self.halos] or [(self.network, model)]


# so narrow, and of such tiles, that two cores make some hundred updates in five minutes
RECIPES = (
    Recipe("unet", {"base": 16}, 444),
    Recipe("unet-same", {"base": 16}, 256),
    Recipe("unet-strided", {"base": 16}, 256),
    Recipe("unetpp", {"base": 16}, 256, levels=(1, 2, 3, 4)),
    Recipe("u2net", {}, 160, halos=(384,)),
    Recipe("u2net-small", {}, 192, halos=(128, 384)),
    Recipe("fcn32", {"base": 16, "hidden": 256}, 512),
    Recipe("fcn16", {"base": 16, "hidden": 256}, 512),
    Recipe("fcn8", {"base": 16, "hidden": 256}, 512),
)


@dataclass(frozen=True)
class Row:
    """What is known of a network."""

    name: str  # of the network, and the head of a U-Net++
    options: dict[str, Any]  # of the network and its training
    updates: int  # that the budget allowed
    parameters: int
    halo: int  # context of a tile, pixels
    tile: int  # side of the tile that is timed, pixels
    kflop: float  # thousands of floating-point operations of the convolutions per pixel that is kept of that tile
    v_rand: float  # on the held-out sections
    v_info: float
    constant: float  # V_Rand of saying `inside` everywhere
    mismatch: float | None  # share of pixels near tile lines that a larger halo would change; None: tiles are exact
    mpx_per_s: float = 0.0  # millions of pixels per second; 0 before it is timed


def train(recipe: Recipe, data: Dataset, budget: float, path: Path) -> None:
    """Train on all sections of `data` for `budget` seconds and save the model in `path`."""
    settings = TrainingSettings(
        budget=budget,
        network=recipe.network,
        options=recipe.options,
        tile=recipe.tile,
        halo=max(recipe.halos, default=None),
        validation=0.0,
        name=recipe.network,
    )
    trainer = Trainer(data, settings)
    click.echo(f"{recipe.network}: training for {budget:g} s", err=True)
    try:
        for _ in trainer.run():
            pass
    except DataError as error:  # it learns nothing: what it is by then is scored as the others are
        click.echo(f"{recipe.network}: {error}", err=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    trainer.model().save(path, half=True)


def describe(recipe: Recipe, path: Path, held_out: Sequence[Section]) -> list[Row]:
    """Return a row for each variant of the model in `path`, not timed yet."""
    device = choose_device()
    rows = []
    for name, model in recipe.variants(Model.load(path)):
        click.echo(f"{name}: scoring with a halo of {model.field_of_view.before} px", err=True)
        scores = validate(model, held_out, device, choose_precision(device), "v_rand").scores
        assert scores.v_rand is not None and scores.v_info is not None
        chosen, tile = model.header.halo, model.field_of_view.nearest_tile(TILE)
        row = Row(
            name=name,
            options={**recipe.options, "tile": recipe.tile},
            updates=model.header.training["steps"],
            parameters=sum(value.numel() for value in model.network.parameters()),
            halo=model.field_of_view.before,
            tile=tile,
            kflop=count_operations(model, tile) / 1e3,
            v_rand=scores.v_rand,
            v_info=scores.v_info,
            constant=scores.floor_value,
            mismatch=None if chosen is None else mismatch(path, chosen, held_out[0]),
        )
        rows.append(row)
    return rows


def count_operations(model: Model, tile: int) -> float:
    """Count floating-point operations of the convolutions for a tile, divided by the pixels that are kept of it."""
    network = copy.deepcopy(model.network).to("meta")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, model.header.channels, tile, tile, device="meta"))
    return counter.get_total_flops() / model.field_of_view.step_of(tile) ** 2


def mismatch(path: Path, halo: int, section: Section) -> float | None:
    """Return the share of pixels near tile lines and borders of `section` whose class a larger halo would change."""
    with tempfile.TemporaryDirectory() as folder:
        image = Path(folder) / "section.ome.tif"
        tifffile.imwrite(image, section.image, metadata={"axes": "CYX"}, photometric="minisblack")
        return tilesegment.predict(image, Path(folder) / "mask.png", path, halo=halo).mismatch


def time_in_turns(models: Sequence[tuple[Model, int]]) -> list[float]:
    """Measure millions of pixels per second that each model decides by tiles of the given side: medians."""
    runs = [one_tile(model, tile) for model, tile in models]
    seconds: list[list[float]] = [[] for _ in runs]
    for turn in range(ROUNDS):
        click.echo(f"timing, {turn + 1} of {ROUNDS}", err=True)
        for run, times in zip(runs, seconds, strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    kept = [model.field_of_view.step_of(tile) ** 2 for model, tile in models]
    return [pixels / 1e6 / statistics.median(times[1:]) for pixels, times in zip(kept, seconds, strict=True)]


def one_tile(model: Model, tile: int) -> Callable[[], np.ndarray]:
    """Return what predicts a tile, from its grey values to its classes, as `tileseg predict` does."""
    device = choose_device()
    view, predictor = model.field_of_view, TorchPredictor(model, device, choose_precision(device))
    step = view.step_of(tile)
    block = TileGrid(Region(0, 0, step, step), step, step, view).at(0, 0)
    pixels = np.zeros((model.header.channels, tile, tile), model.header.normalisation.dtype)
    return lambda: predictor.predict(pixels, block)


def compare(recipes: Sequence[Recipe], data: Dataset, held: Any, budget: float, out: Path) -> list[Row]:
    """Train and score what is missing in `out`, and time all.

    Raises:
        DataError: nothing is held out, or the labels are not of two classes.
        PlanError: what is in `out` was trained otherwise.
    """
    sections, held_out = data.split(held)
    if not held_out or len(data.classes) != 2:
        raise DataError(
            f"{len(held_out)} sections held out, {len(data.classes)} classes; V_Rand needs some, and two: membrane "
            "and inside"
        )
    rows, models = [], []
    for recipe in recipes:
        folder = out / recipe.network
        settings = {"recipe": asdict(recipe), "budget": budget, "held_out": [section.name for section in held_out]}
        if not (folder / DONE).exists():
            train(recipe, replace(data, sections=sections), budget, folder / MODEL)
            found = {**settings, "rows": [asdict(row) for row in describe(recipe, folder / MODEL, held_out)]}
            write_atomically(folder / DONE, json.dumps(found, indent=2).encode())
        done = json.loads((folder / DONE).read_text())
        rows += [Row(**row) for row in done.pop("rows")]
        if done != json.loads(json.dumps(settings)):
            raise PlanError(
                f"{folder} was trained with another recipe, budget or split; name another OUT, or delete it"
            )
        models += [model for _, model in recipe.variants(Model.load(folder / MODEL))]
    speeds = time_in_turns([(model, row.tile) for model, row in zip(models, rows, strict=True)])
    return [replace(row, mpx_per_s=speed) for row, speed in zip(rows, speeds, strict=True)]


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    heads = "network | options | updates | parameters | halo, px | kFLOP/px | Mpx/s | V_Rand | V_Info | wrong at seams"
    lines = [f"| {heads} |", "|---" * len(heads.split("|")) + "|"]
    for row in rows:
        options = ", ".join(f"{name} {value}" for name, value in row.options.items())
        seams = "exact" if row.mismatch is None else f"{100 * row.mismatch:.2f} %"
        sizes = f"{row.updates:,} | {row.parameters:,} | {row.halo} | {row.kflop:,.0f} | {row.mpx_per_s:.3g}"
        lines.append(f"| {row.name} | {options} | {sizes} | {row.v_rand:.3f} | {row.v_info:.3f} | {seams} |")
    return "\n".join(lines)


def caption(data: str, budget: float, rows: Sequence[Row], held_out: Sequence[Section]) -> str:
    """Say what the figures were found with."""
    device = choose_device()
    names = ", ".join(section.name for section in held_out)
    return (
        f"Each trained for {budget:g} s on {Path(data).name}, scored on {names} (saying `inside` everywhere: V_Rand "
        f"{rows[0].constant:.3f}). Mpx/s: {device} ({torch.get_num_threads()} threads), {choose_precision(device)}, "
        f"tiles of {min(row.tile for row in rows)} to {max(row.tile for row in rows)} px one at a time, median of "
        f"{ROUNDS - 1}. Tile: in training."
    )


# \b: as it is written
@click.command(help=(__doc__ or "").replace("\n\n", "\n\n\b\n"))
@click.argument("data")
@click.argument("out", type=click.Path(path_type=Path))
@click.option(
    "--budget", type=DURATION, default="5m", metavar="TIME", help="Training time of each network.  [default: 5m]"
)
@click.option("--only", type=NAMES, metavar="NAME,...", help="Only these networks.")
@click.option("--held", type=HELD_OUT, default=0.2, help="Sections to hold out.  [default: the last fifth]")
@click.option("--json", "file", type=click.Path(path_type=Path), metavar="FILE", help="Also write the figures there.")
def main(data: str, out: Path, budget: float, only: tuple[str, ...] | None, held: Any, file: Path | None) -> None:
    """Reads the command line."""
    known = {recipe.network: recipe for recipe in RECIPES}
    if unknown := sorted(set(only or ()) - known.keys()):
        raise click.BadParameter(f"{unknown[0]!r}; there are: {', '.join(known)}", param_hint="--only")
    try:
        dataset = open_dataset(data)
        rows = compare([known[name] for name in only or known], dataset, held, budget, out)
    except TilesegmentError as error:
        raise click.ClickException(str(error)) from error
    words = caption(data, budget, rows, dataset.split(held)[1])
    if file is not None:
        file.write_text(json.dumps({"conditions": words, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    click.echo(f"{table(rows)}\n\n{words}")


if __name__ == "__main__":
    main()
