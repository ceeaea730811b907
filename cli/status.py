"""`tileseg status` and `tileseg finish`: of masks that are in progress."""

import json
from typing import TYPE_CHECKING, Any

import click

from tilesegment.errors import FinishedError
from tilesegment_cli import options

if TYPE_CHECKING:
    from tilesegment.masks import MaskStatus


@click.command()
@click.argument("masks", type=options.read_path, nargs=-1, required=True, metavar="MASK...")
@options.as_json
def status(masks: tuple[str, ...], as_json: bool) -> None:
    """How far each MASK is, and whether what is stored of it is whole.

    A MASK is named as it was with --out, whether it is finished or not.
    """
    from tilesegment.masks import status as look

    found = [look(mask) for mask in masks]
    for one in found:
        click.echo(_line(one), err=as_json)
    if as_json:
        click.echo(json.dumps([_document(one) for one in found]))


@click.command()
@click.argument("mask", type=options.written_path)
@options.quiet
def finish(mask: str, quiet: bool) -> None:
    """Finish MASK, all of whose blocks are stored: add its pyramid and give it its name.

    The last one of the parts of a job does this itself; it is needed only where that one was stopped.
    """
    from tilesegment.masks import open_partial

    try:
        writer = open_partial(mask)
    except FinishedError as error:  # as where a last job does this whatever became of the others
        if not quiet:
            click.echo(f"Note: {error}", err=True)
        return
    with writer.claimed(shared=False):
        writer.finish()
    if not quiet:
        click.echo(f"{mask}: finished", err=True)


def _line(one: "MaskStatus") -> str:
    share = 100 * one.done // one.blocks
    damaged = f", {one.damaged} damaged: the same command computes them again" if one.damaged else ""
    if one.state == "complete":
        return f"{one.path}: complete, {one.blocks} blocks{damaged}"
    return f"{one.path}: {share} %, {one.done} of {one.blocks} blocks{damaged}"


def _document(one: "MaskStatus") -> dict[str, Any]:
    spec = one.spec
    known = {"path": str(one.path), "state": one.state, "blocks": one.blocks, "done": one.done, "damaged": one.damaged}
    return known | {"fingerprint": dict(spec.fingerprint), "provenance": dict(spec.provenance)}
