"""What the plans of many images add up to: `tileseg predict --dry-run` of a list or a folder."""

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from tilesegment.errors import TilesegmentError, one_line
from tilesegment_cli.exit_codes import SOME_FAILED
from tilesegment_cli.table import aligned

if TYPE_CHECKING:
    from tilesegment.prediction.plan import Plan
    from tilesegment.prediction.settings import Settings

_MOST_ROWS = 30  # images that are listed one by one, unless all are wanted
_SUMMED = ("pixels", "blocks", "blocks_skipped", "tiles", "disk_bytes", "seconds")


def print_totals(images: "Sequence[tuple[str, Settings]]", as_json: bool, verbose: bool) -> None:
    """Print pixels, blocks, bytes and expected time of each image and of all; exit with 3 if some cannot be read.

    The time of a tile is measured once for each kind of plan, not for each image.
    """
    measured: dict[tuple[Any, ...], float] = {}
    notes: dict[str, None] = {}
    known, failures = [], []
    for image, settings in images:
        try:
            facts, said = _facts(image, settings, measured)
        except (TilesegmentError, OSError) as error:
            failures.append({"image": image, "error": one_line(error)})
            click.echo(f"Error: {image}: {one_line(error)}", err=True)
            continue
        known.append(facts)
        notes |= dict.fromkeys(said)
    totals = {"images": len(known)} | {name: sum(one[name] for one in known) for name in _SUMMED}
    totals["memory_bytes"] = max((one["memory_bytes"] for one in known), default=0)
    if as_json:
        click.echo(json.dumps({"totals": totals, "images": known, "failed": len(failures), "failures": failures}))
    else:
        for note in notes:
            click.echo(f"Note: {note}", err=True)
        click.echo("\n".join(_lines(known, totals, len(known) if verbose else _MOST_ROWS)))
    if failures:
        sys.exit(SOME_FAILED)


def _facts(
    image: str, settings: "Settings", measured: dict[tuple[Any, ...], float]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the plan of an image says of it, and its notes."""
    from tilesegment.prediction.job import Job

    with Job.prepare(image, settings) as job:
        plan: Plan = job.plan
        # without a model that is named, images may differ in it
        kind = (job.model.header.name, plan.tile, plan.batch, plan.device, plan.precision, plan.runtime, settings.tta)
        if kind not in measured:
            measured[kind] = job.seconds_per_tile()
        share = float(plan.areas[~plan.left_out].sum() / plan.pixels)
        facts = {name: getattr(plan, name) for name in ("pixels", "blocks", "tiles", "disk_bytes", "memory_bytes")}
        facts |= {"blocks_skipped": plan.skipped.get("blocks") or 0, "seconds": measured[kind] * plan.tiles * share}
        return {"image": image, **facts}, tuple(plan.notes)


def _lines(known: list[dict[str, Any]], totals: dict[str, Any], most: int) -> list[str]:
    """Return the table of the images and their sum."""
    rows = [["image", "Mpx", "blocks", "tiles", "disk", "seconds"]]
    rows += [[str(one["image"]), *_cells(one)] for one in known[:most]]
    if len(known) > most:
        rows.append([f"and {len(known) - most} more (-v lists them)", "", "", "", "", ""])
    rows.append([f"{totals['images']} images", *_cells(totals)])
    memory = (
        f"up to {totals['memory_bytes'] / 1e9:.2f} GB of memory; the time is that of tiles measured here, one by one"
    )
    skipped = totals["blocks_skipped"]
    return [*aligned(rows), *([f"{skipped:,} blocks are empty and skipped"] if skipped else []), memory]


def _cells(one: dict[str, Any]) -> list[str]:
    return [
        f"{one['pixels'] / 1e6:,.1f}",
        f"{one['blocks']:,}",
        f"{one['tiles']:,}",
        _bytes(one["disk_bytes"]),
        f"{one['seconds']:,.0f}",
    ]


def _bytes(count: float) -> str:
    """Return a number of bytes in a unit in which it is short."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:,.0f} {unit}"
        count /= 1000
    return f"{count:,.1f} TB"
