"""Compare MONAI, torch-em, dask and ours, tiling the same network: time, memory, and pixels that differ.

    pip install --no-deps -r examples/compare_peers_requirements.txt
    python examples/compare_peers.py --size 1536 --base 64 --threads 2 --json peers.json
    python examples/compare_peers.py --only ours,monai,dask

All have the same weights, image, CPU threads and tile side (except the two that end in `-default`, which choose their
own), and compute one tile at a time (dask one per thread). Each contender runs twice in a fresh process: the second
call counts, the first is listed too. The peak is the resident memory of that process, libraries included (PyTorch and
Zarr are 230 MB). `--rounds` repeats everything in turns: seconds are medians, the peak is the largest.

The time includes opening the Zarr image (chunks of 512), reading, predicting, and storing the mask as Zarr. It
excludes starting Python, imports, loading the weights and converting them to the precision. Ours is called as a user
calls it, so its time also includes loading the weights, syncing to the disk, and the mask's pyramid. Compiling, int8
calibration and allocations happen in the first call only.

`differ` counts the pixels whose class is not that of one pass over the whole mirror-padded image in fp32, `untiled`.
A pixel in a million may differ even where tiles are exact: another shape is summed in another order. MONAI's defaults
need a network whose output is as large as its input. It gets the same weights in a U-Net of padded convolutions, in
windows of the tile's side rounded up to the network's divisor, and is compared with one pass of that,
`untiled-padded`. The others, where they need such an output, get the kept part of the network's own in a frame of
zeros. peers.py holds what each contender does.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
import zarr
from make_slide import UNIT, draw_image
from peers import CONTENDERS, IMAGE, MODEL, mirrored

from tilesegment import LabelClass, Model, ModelError, TilesegmentError
from tilesegment.models.header import ModelHeader, Normalisation
from tilesegment.networks import build_network
from tilesegment.prediction.devices import choose_precision
from tilesegment_cli.types import NAMES

BASELINE, FAILED = "ours", "failed"
PACKAGES = ("tilesegment", "torch", "zarr", "monai", "torch_em", "dask", "openvino", "nncf")


@dataclass(frozen=True)
class Setup:
    """The conditions that all share.

    Attributes:
        folder: holds the image and the model, and gets the masks.
        size: side of the image, pixels.
        tile: side of the tiles, pixels.
        threads: of the CPU.
    """

    folder: Path
    size: int
    tile: int
    threads: int


@dataclass(frozen=True)
class Row:
    """The figures of a contender.

    Attributes:
        name, precision: of the contender.
        problem: why there are no figures, or None.
        first, seconds: time of the first and of the second call.
        mpx_per_s: millions of pixels per second in the second call.
        times_ours: its seconds divided by those of `ours`.
        peak_bytes: largest resident memory of its process.
        differ: pixels of another class than in the untiled mask.
        share: of all pixels, that differ.
    """

    name: str
    precision: str
    problem: str | None = None
    first: float | None = None
    seconds: float | None = None
    mpx_per_s: float | None = None
    times_ours: float | None = None
    peak_bytes: int | None = None
    differ: int | None = None
    share: float | None = None


def draw(path: Path, size: int) -> np.ndarray:
    """Store the corner of the synthetic slide as Zarr; return it, (size, size) uint8."""
    starts = range(0, size, UNIT)
    image = np.block([[draw_image(0, (y, x)) for x in starts] for y in starts])[:size, :size]
    zarr.create_array(path, data=image, chunks=(UNIT, UNIT))
    return image


def random_model(base: int, image: np.ndarray) -> Model:
    """Build the U-Net of the paper with random weights, whose classes are equally frequent in `image`."""
    torch.manual_seed(0)
    arguments: dict[str, Any] = {"in_channels": 1, "classes": 2, "depth": 4, "base": base}
    network = build_network("unet", arguments).requires_grad_(False).eval()
    scale = Normalisation((float(image.mean()),), (float(image.std()),), "uint8")
    classes = (LabelClass("membrane", "#000000", 0), LabelClass("inside", "#e69f00", 1))
    model = Model(ModelHeader("unet", arguments, classes, scale, name=f"random, base {base}"), network)
    logits = network(mirrored(model, image[:256, :256], model.field_of_view.divisor))[0]
    # else one class is everywhere, and nothing could differ
    network.heads[0].bias[1] -= (logits[1] - logits[0]).median()
    return model


def choose_model(given: str | None, base: int | None, image: np.ndarray) -> Model:
    """Load or build the model to compare with.

    Raises:
        ModelError: it is unavailable, or not for grey images of 8 bits.
    """
    if base is not None:
        return random_model(base, image)
    model = Model.load(given or "em-membrane")
    scale = model.header.normalisation
    if model.header.channels != 1 or scale.dtype != "uint8" or scale.percentiles is not None:
        takes = f"{model.header.channels} channels of {scale.types}"
        raise ModelError(f"{given} takes {takes}, the others one of uint8 by constants; name another, or give --base")
    return model


def obstacle(name: str) -> str | None:
    """Return why a contender cannot run here, or None."""
    missing = [package for package in CONTENDERS[name].packages if find_spec(package) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    native = choose_precision(torch.device("cpu")) == "bf16"
    return "needs bf16" if CONTENDERS[name].precision == "bf16" and not native else None


def run(name: str, setup: Setup) -> dict[str, Any] | str:
    """Return the figures of a contender's process, or why there are none."""
    program = Path(__file__).with_name("peers.py")
    command: list[str | Path] = [sys.executable, program, name, setup.folder, str(setup.tile)]
    # what PyTorch, through it OpenVINO, and our decoding go by
    environment = {**os.environ, "OMP_NUM_THREADS": str(setup.threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    if done.returncode == 0:
        return json.loads((setup.folder / f"{name}.json").read_text())
    said = done.stderr.strip().splitlines() or [f"ended with {done.returncode} without a message"]
    return f"{FAILED}: {said[-1]:.200}"


def read_mask(setup: Setup, name: str) -> np.ndarray:
    """Read the class ids (H, W) that a contender stored."""
    mask = zarr.open(setup.folder / f"{name}.zarr", mode="r")
    return np.asarray(mask["0"] if isinstance(mask, zarr.Group) else mask)


def compete(names: Sequence[str], setup: Setup, rounds: int) -> list[Row]:
    """Run all of `names` in turns, `rounds` times; return one row for each."""
    problems = {name: obstacle(name) for name in names}
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for number in range(rounds):
        for name in (name for name in names if problems[name] is None):
            click.echo(f"{name}, {number + 1} of {rounds}", err=True)
            outcome = run(name, setup)
            if isinstance(outcome, str):
                problems[name] = outcome
            else:
                found[name].append(outcome)
    return [row_of(name, problems[name], found, setup) for name in names]


def row_of(name: str, problem: str | None, found: dict[str, list[dict[str, Any]]], setup: Setup) -> Row:
    """Sum up the rounds of a contender, beside `ours` and the truth, if these were run."""
    contender, rounds = CONTENDERS[name], found[name]
    if problem is not None:
        return Row(name, contender.precision, problem)
    first, seconds = (statistics.median(each[key] for each in rounds) for key in ("first", "seconds"))
    baseline = [each["seconds"] for each in found.get(BASELINE, [])]
    ratio = seconds / statistics.median(baseline) if baseline else None
    peak, pixels = max(each["peak_bytes"] for each in rounds), setup.size**2
    row = Row(name, contender.precision, None, first, seconds, pixels / 1e6 / seconds, ratio, peak)
    if not found[contender.truth]:
        return row
    differ = int(np.count_nonzero(read_mask(setup, name) != read_mask(setup, contender.truth)))
    return replace(row, differ=differ, share=differ / pixels)


def table(rows: Sequence[Row]) -> str:
    """Write the rows as Markdown."""
    heads = "contender | precision | seconds | first call | Mpx/s | times ours | peak memory | pixels that differ"
    lines = [f"| {heads} |", "|---" * len(heads.split("|")) + "|"]
    for row in rows:
        if row.problem is not None:
            lines.append(f"| {row.name} | {row.precision} | {row.problem} |" + " |" * 5)
            continue
        ratio = "" if row.times_ours is None else f"{row.times_ours:.2f}"
        differ = "no untiled mask" if row.differ is None else f"{row.differ:,} ({100 * row.share:.3g} %)"
        speed = f"{row.seconds:.2f} | {row.first:.2f} | {row.mpx_per_s:.3g} | {ratio}"
        lines.append(f"| {row.name} | {row.precision} | {speed} | {row.peak_bytes / 1e6:,.0f} MB | {differ} |")
    return "\n".join(lines)


def versions() -> dict[str, str]:
    """Return the versions of the installed packages."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


# \b: as it is written
@click.command(help=(__doc__ or "").replace("\n\n", "\n\n\b\n"))
@click.option("--size", type=click.IntRange(256, 32768), default=1536, show_default=True, help="Side of the image.")
@click.option("--tile", type=int, default=572, show_default=True, help="Side of the tiles.")
@click.option("--model", help="File, or name of a bundled model.  [default: em-membrane]")
@click.option("--base", type=click.IntRange(1, 256), help="Instead: a U-Net of so many channels and random weights.")
@click.option("--threads", type=click.IntRange(1), default=torch.get_num_threads(), help="[default: the cores]")
@click.option("--rounds", type=click.IntRange(1), default=1, show_default=True, help="How often to repeat everything.")
@click.option("--only", type=NAMES, metavar="NAME,...", help=f"Only these of {', '.join(CONTENDERS)}.")
@click.option("--json", "file", type=click.Path(path_type=Path), metavar="FILE", help="Also write the figures there.")
def main(
    size: int,
    tile: int,
    model: str | None,
    base: int | None,
    threads: int,
    rounds: int,
    only: tuple[str, ...] | None,
    file: Path | None,
) -> None:
    """Read the command line."""
    if unknown := sorted(set(only or ()) - CONTENDERS.keys()):
        raise click.BadParameter(f"{unknown[0]!r}; there are: {', '.join(CONTENDERS)}", param_hint="--only")
    if model is not None and base is not None:
        raise click.UsageError("--model and --base were both given; leave one out")
    wanted = set(only or CONTENDERS)
    wanted |= {CONTENDERS[name].truth for name in wanted if obstacle(name) is None}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            image = draw(folder / IMAGE, size)
            chosen = choose_model(model, base, image).save(folder / MODEL)
            step = chosen.field_of_view.step_of(tile)
        except TilesegmentError as error:
            raise click.ClickException(str(error)) from error
        setup = Setup(folder, size, tile, threads)
        rows = compete([name for name in CONTENDERS if name in wanted], setup, rounds)
    conditions = {"size": size, "tile": tile, "step": step, "model": chosen.header.name}
    conditions |= {"threads": threads, "rounds": rounds, "versions": versions()}
    if file is not None:
        file.write_text(json.dumps({"conditions": conditions, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    click.echo(f"{table(rows)}\n\n{json.dumps(conditions)}")
    if any((row.problem or "").startswith(FAILED) for row in rows):
        sys.exit(1)


if __name__ == "__main__":
    main()
