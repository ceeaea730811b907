"""`tileseg info`, `tileseg models` and `tileseg networks`."""

import json
from typing import Any

import click

from tilesegment.errors import one_line
from tilesegment_cli import options


@click.command()
@click.argument("path", type=options.read_path)
@options.axes
@options.select
@options.series
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def info(path: str, axes: str | None, select: dict[str, int] | None, series: int | None, as_json: bool) -> None:
    """Say what PATH is: an image, a mask or a model (a file or a bundled name)."""
    from tilesegment.description import describe

    facts = describe(path, axes=axes, select=select, series=series)
    click.echo(json.dumps(facts) if as_json else "\n".join(_lines(facts)))


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def models(as_json: bool) -> None:
    """List the models that come with tilesegment."""
    from tilesegment.description import describe
    from tilesegment.models import bundled_models

    known = [describe(name) for name in bundled_models()]
    if as_json:
        click.echo(json.dumps(known))
        return
    for one in known:
        classes = ", ".join(one["classes"].values())
        click.echo(
            f"{one['path']:<16}{one['channels']} channel(s) of {one['dtype']}; classes: {classes}; {one['licence']}"
        )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
def networks(as_json: bool) -> None:
    """List the networks that can be trained, and their options."""
    from tilesegment.networks import NETWORKS
    from tilesegment.networks.summary import describe_network
    from tilesegment.training.settings import DEFAULT_OPTIONS, SLOW_BASE

    known = [describe_network(name) for name in NETWORKS]
    if as_json:
        click.echo(json.dumps(known))
        return
    for one in known:
        size = f"{one['parameters'] / 1e6:.1f} M parameters, halo {one['halo']} px, divisor {one['divisor']}"
        click.echo(f"{one['name']:<14}{one['words']}\n{'':<14}{size}")
        for option, words in one["options"].items():
            click.echo(f"{'':<14}--option {option}=  {words}")
        if one["name"] in DEFAULT_OPTIONS:
            begins = ", ".join(f"{option}={value}" for option, value in DEFAULT_OPTIONS[one["name"]].items())
            click.echo(f"{'':<14}tileseg train begins with {begins}; on a CPU in fp32 with base={SLOW_BASE}")


def _lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """A line a fact, nested ones indented."""
    lines = []
    for name, value in facts.items():
        if name == "notes":
            lines += [f"{indent}note: {one_line(note)}" for note in value]
        elif name == "series":
            lines += [f"{indent}{f'series {number}:':<16} {one_line(words)}" for number, words in enumerate(value)]
        elif isinstance(value, dict):
            lines += [f"{indent}{name}:", *_lines(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name + ':':<16} {_text(name, value)}")
    return lines


def _text(name: str, value: Any) -> str:
    if value in (None, ""):
        return "unknown" if name in ("pixel_size_um", "plane_spacing_um", "licence") else "none"
    return json.dumps(value) if isinstance(value, list | bool) else one_line(value)
