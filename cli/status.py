"""`tileseg status` and `tileseg finish`: of masks in progress."""

import json
import time
from typing import TYPE_CHECKING

import click

from tilesegment.errors import FinishedError, MaskError
from tilesegment_cli import options
from tilesegment_cli.progress import ProgressReport

if TYPE_CHECKING:
    from collections.abc import Callable

    from tilesegment.masks import MaskStatus
    from tilesegment.stores import Options

_PAUSE = 2.0  # seconds between two looks, or more where a look takes long
_MISSES = 3  # looks in a row that may find no mask


@click.command()
@click.argument("masks", type=options.read_place, nargs=-1, required=True, metavar="MASK...")
@click.option("--watch", is_flag=True, help="Look again and again until all are complete; Ctrl-C ends it.")
@options.store_options
@options.as_json
def status(masks: tuple[str, ...], watch: bool, store_options: "Options", as_json: bool) -> None:
    """Say how far each MASK is, and whether its blocks are undamaged.

    A MASK is named as it was with --out, whether it is finished or not.
    """
    from tilesegment.masks import status as look
    from tilesegment.stores import place_of

    def survey() -> "list[MaskStatus]":
        return [look(place_of(mask, store_options)) for mask in masks]

    try:
        found = _watched(survey) if watch else survey()
    except KeyboardInterrupt:
        click.echo("The watch has ended; what writes the masks goes on.", err=True)
        raise
    documents = []
    for one in found:
        if not watch:
            click.echo(_said(one), err=as_json)
        known = {name: getattr(one, name) for name in ("state", "blocks", "done", "damaged")}
        known |= {name: dict(getattr(one.spec, name)) for name in ("fingerprint", "provenance")}
        documents.append({"path": str(one.path), **known})
    if as_json:
        click.echo(json.dumps(documents))


def _said(one: "MaskStatus") -> str:
    damaged = f", {one.damaged} damaged: the same command computes them again" if one.damaged else ""
    share = f"{100 * one.done // one.blocks} %, {one.done} of {one.blocks} blocks"
    return f"{one.path}: {f'complete, {one.blocks} blocks' if one.state == 'complete' else share}{damaged}"


def _watched(survey: "Callable[[], list[MaskStatus]]") -> "list[MaskStatus]":
    """Print on stderr what has changed, until all masks are complete, and return the last look."""
    shown: dict[str, str] = {}
    first: dict[str, tuple[float, int]] = {}
    misses = 0
    while True:
        start = time.monotonic()
        try:
            found, misses = survey(), 0
        except MaskError:  # a mask that gets its name just now is for a moment at neither place
            if not shown or misses >= _MISSES:
                raise
            found, misses = [], misses + 1
        for one in found:
            path, text = str(one.path), _said(one)
            since, done = first.setdefault(path, (start, one.done))
            if shown.get(path) != text:
                shown[path] = text
                left = (one.blocks - one.done) * (start - since) / (one.done - done) if one.done > done else 0
                more = f", {left:,.0f} s left" if left and one.state != "complete" else ""
                ProgressReport(quiet=False).line(text + more)
        if found and all(one.state == "complete" for one in found):
            return found
        # a look at many blocks takes a while, and the run has to read and write, too
        time.sleep(max(_PAUSE, 4 * (time.monotonic() - start)))


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
