"""`tileseg status` and `tileseg finish`: of masks in progress."""

import json
from typing import TYPE_CHECKING

import click

from tilesegment.errors import FinishedError
from tilesegment_cli import options

if TYPE_CHECKING:
    from tilesegment.stores import Options


@click.command()
@click.argument("masks", type=options.read_place, nargs=-1, required=True, metavar="MASK...")
@options.store_options
@options.as_json
def status(masks: tuple[str, ...], store_options: "Options", as_json: bool) -> None:
    """Say how far each MASK is, and whether its blocks are undamaged.

    A MASK is named as it was with --out, whether it is finished or not.
    """
    from tilesegment.masks import status as look
    from tilesegment.stores import place_of

    documents = []
    for one in (look(place_of(mask, store_options)) for mask in masks):
        damaged = f", {one.damaged} damaged: the same command computes them again" if one.damaged else ""
        share = f"{100 * one.done // one.blocks} %, {one.done} of {one.blocks} blocks"
        progress = f"complete, {one.blocks} blocks" if one.state == "complete" else share
        click.echo(f"{one.path}: {progress}{damaged}", err=as_json)
        known = {name: getattr(one, name) for name in ("state", "blocks", "done", "damaged")}
        known |= {name: dict(getattr(one.spec, name)) for name in ("fingerprint", "provenance")}
        documents.append({"path": str(one.path), **known})
    if as_json:
        click.echo(json.dumps(documents))


@click.command()
@click.argument("mask", type=options.written_place)
@options.store_options
@options.quiet
def finish(mask: str, store_options: "Options", quiet: bool) -> None:
    """Finish MASK, all of whose blocks are stored: add its pyramid and give it its name.

    The last part of a job does this itself; it is needed only where that part was stopped.
    """
    from tilesegment.masks import open_partial
    from tilesegment.stores import place_of

    try:
        writer = open_partial(place_of(mask, store_options))
    except FinishedError as error:  # as in a final job that always runs this
        if not quiet:
            click.echo(f"Note: {error}", err=True)
        return
    with writer.claimed():
        writer.finish()
    if not quiet:
        click.echo(f"{mask}: finished", err=True)
