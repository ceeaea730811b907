"""`tileseg info`, `tileseg models` and `tileseg networks`."""

import json
from typing import Any

import click

from tilesegment.errors import one_line
from tilesegment_cli import options
from tilesegment_cli.table import aligned

_LONG = ("fingerprint", "provenance", "training")
_COUNTS = ("classes", "counted_at_level", "shares", "areas_um2")
# where there is no value, it is not known; of others there is none
_UNKNOWN = ("pixel_size_um", "diameter_px", "ground", "plane_spacing_um", "licence", "share", "glass", "pen", "blurred")
_MOST_CLASSES, _LONGEST_NAME = 20, 40


@click.command()
@click.argument("path", type=options.read_place)
@options.axes
@options.select
@options.series
@options.store_options
@click.option("--tissue", is_flag=True, help="Also measure how much of an image is tissue, glass, pen marks, blurred.")
@click.option("-v", "--verbose", is_flag=True, help="Also print the settings of a mask, and how a model was trained.")
@options.as_json
def info(path: str, verbose: bool, as_json: bool, **reading: Any) -> None:
    """Say what PATH is: an image, a mask or a model (a file or a bundled name)."""
    from tilesegment.prediction.info import describe

    facts = describe(path, **reading)
    if as_json:
        click.echo(json.dumps(facts))
        return
    shown = facts if verbose else _brief(facts)
    table = _class_table(facts, None if verbose else _MOST_CLASSES) if "shares" in facts else []
    lines = _lines({key: value for key, value in shown.items() if not (table and key in _COUNTS)})
    click.echo("\n".join(lines + table))
    if shown != facts:
        click.echo("More: tileseg info -v", err=True)


@click.command()
@options.as_json
def models(as_json: bool) -> None:
    """List the models that come with tilesegment."""
    from tilesegment.models import bundled_models
    from tilesegment.prediction.info import describe

    known = [describe(name) for name in bundled_models()]
    if as_json:
        click.echo(json.dumps(known))
        return
    rows = [
        (
            one["path"],
            f"{one['channels']} channel(s) of {one['dtype']}{_expected(one)}",
            ", ".join(one["classes"].values()),
            one["licence"],
        )
        for one in known
    ]
    click.echo("\n".join(aligned(rows, left=range(4))))


@click.command()
@options.as_json
def networks(as_json: bool) -> None:
    """List the networks that can be trained, and their options."""
    from tilesegment.networks import NETWORKS, describe_network
    from tilesegment.training.settings import DEFAULT_OPTIONS, SLOW_BASE

    known = [describe_network(name) for name in NETWORKS]
    if as_json:
        click.echo(json.dumps(known))
        return
    rows = []
    for one in known:
        size = f"{one['parameters'] / 1e6:.1f} M parameters, halo {one['halo']} px, divisor {one['divisor']}"
        rows += [(one["name"], one["words"]), ("", size)]
        rows += [("", f"--option {option}=  {words}") for option, words in one["options"].items()]
        if one["name"] in DEFAULT_OPTIONS:
            begins = ", ".join(f"{option}={value}" for option, value in DEFAULT_OPTIONS[one["name"]].items())
            rows.append(("", f"tileseg train begins with {begins}; on a CPU in fp32 with base={SLOW_BASE}"))
    click.echo("\n".join(aligned(rows, left=(0, 1))))


def _expected(model: dict[str, Any]) -> str:
    """Return ground and size of objects of the images that a model was trained on, in words, as far as it knows."""
    ground = f" on {model['ground']} ground" if model["ground"] else ""
    return ground + ("" if model["diameter_px"] is None else f", objects of {model['diameter_px']:.3g} px")


def _brief(facts: dict[str, Any]) -> dict[str, Any]:
    """Keep what fits on a screen: no settings; for a mask its image, model and time."""
    brief = {key: value for key, value in facts.items() if key not in _LONG}
    provenance = facts.get("provenance") or {}
    model = provenance.get("model")
    known = {"image": provenance.get("image"), "model": model.get("name") if isinstance(model, dict) else None}
    known["started"] = provenance.get("started")
    return brief | {key: value for key, value in known.items() if isinstance(value, str)}


def _class_table(facts: dict[str, Any], most: int | None) -> list[str]:
    """Return name, share and area of each class; of many, of the `most` frequent ones."""
    names, shares, areas = facts["classes"], facts["shares"], facts["areas_um2"]
    order = list(shares)
    if most is not None and len(order) > most:
        order = sorted(sorted(order, key=lambda n: -shares[n])[:most], key=int)
    where = f"at level {facts['counted_at_level']}" + (", of all planes" if (facts["planes"] or 1) > 1 else "")
    rows = [("  class", "share", "" if areas is None else "area")]
    for n in order:
        name = f"  {n} {one_line(names[n], _LONGEST_NAME)}"
        rows.append((name, _percent(shares[n]), "" if areas is None else _area(areas[n])))
    rarer = len(shares) - len(order)
    return [f"classes, counted {where}:", *aligned(rows), *[f"  and {rarer} rarer classes"] * bool(rarer)]


def _percent(share: float) -> str:
    """Format a share; a small one is not 0.00 %."""
    return "< 0.01 %" if 0 < share < 5e-5 else f"{100 * share:.2f} %"


def _area(square_micrometres: float) -> str:
    if square_micrometres >= 1e4:
        return f"{square_micrometres / 1e6:.4g} mm2"
    return f"{square_micrometres:.4g} um2"


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """One line per fact, nested ones indented."""
    lines = []
    for name, value in facts.items():
        if name == "notes":
            lines += [f"{indent}note: {one_line(note)}" for note in value]
        elif name == "series":
            lines += [f"{indent}{f'series {number}:':<16} {one_line(words)}" for number, words in enumerate(value)]
        elif name == "levels" and isinstance(value, list):
            lines += [f"{indent}{f'level {number}:':<16} {_level(level)}" for number, level in enumerate(value)]
        elif name == "associated":
            lines += [
                f"{indent}{f'{one_line(picture)}:':<16} {h} x {w} px, never predicted"
                for picture, (h, w) in value.items()
            ]
        elif isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name + ':':<16} {_text(name, value)}")
    return lines


def _level(level: dict[str, Any]) -> str:
    """Return the size of a level, and that of its pixels, both in y and x."""
    (height, width), size = level["shape_yx"], level["pixel_size_um"]
    sides = [] if size is None else [f"{side:.4g}" for side in size]
    return f"{height} x {width} px" + (f", {' x '.join(dict.fromkeys(sides))} um/px" if sides else "")


def _text(name: str, value: Any) -> str:
    if value in (None, ""):
        return "unknown" if name in _UNKNOWN else "none"
    return json.dumps(value) if isinstance(value, list | bool) else one_line(value)
