"""`tileseg view`."""

import getpass
import os
import socket
import time
import webbrowser
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import click

from tilesegment.signals import sigterm_stops
from tilesegment_cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tilesegment.stores import Options, Place
    from tilesegment.viewer import Server

_LOOK = 1.0  # seconds between two looks for a mask that is waited for


@click.command()
@click.argument("image", type=options.read_place)
@click.argument("masks", type=options.read_place, nargs=-1, metavar="[MASK]...")
@click.option(
    "--truth",
    type=options.read_place,
    metavar="LABELS",
    help="Compare each MASK with these: what is missed, made up or of another class.",
)
@options.axes
@options.select
@options.series
@options.invert
@options.store_options
@click.option(
    "--annotate",
    type=options.written_path,
    metavar="FILE",
    help="Draw annotations and correct objects in this .geojson, stored after each stroke; it need not exist.",
)
@click.option(
    "--places", type=options.read_path, metavar="FILE", help="Step through these places: what tileseg suggest wrote."
)
@click.option("--wait", is_flag=True, help="Wait until a run has begun each MASK that is not there yet.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port of the page.  [default: a free one]")
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    metavar="ADDRESS",
    help="Listen here; any other than the default lets other machines in.",
)
@click.option("--no-browser", is_flag=True, help="Only print the address of the page.")
def view(
    image: str,
    masks: tuple[str, ...],
    truth: str | None,
    wait: bool,
    port: int,
    host: str,
    no_browser: bool,
    store_options: "Options",
    **given: Any,
) -> None:
    """Show IMAGE, and each MASK over it, in a page of the browser.

    A local server draws the tiles. It answers only who knows the random address that it prints, and serves only what is
    named here. Ctrl-C ends it.
    """
    from tilesegment.stores import place_of
    from tilesegment.viewer import Server, open_scene

    given["select"] = dict(given["select"] or {})
    shown = [place_of(one, store_options) for one in (image, *masks)]
    true = None if truth is None else place_of(truth, store_options)
    with sigterm_stops(), ExitStack() as opened:
        if wait:
            _wait_for(shown[1:])
        scene = opened.enter_context(open_scene(shown[0], shown[1:], truth=true, **given))
        drawn = scene.annotations.notes if scene.annotations else ()
        for note in (*scene.image.source.notes, *drawn):
            click.echo(f"Note: {note}", err=True)
        with Server(scene, host=host, port=port) as server:
            _announce(server, host)
            if not (no_browser or _is_remote()):
                webbrowser.open(server.url)
            server.wait()


def _wait_for(masks: "Sequence[Place]") -> None:
    """Return once each mask is there, or in progress."""
    from tilesegment.viewer.live import is_begun

    for mask in masks:
        if not is_begun(mask):
            click.echo(f"Waiting for a run that begins {mask}; Ctrl-C ends it.", err=True)
        while not is_begun(mask):
            time.sleep(_LOOK)


def _announce(server: "Server", host: str) -> None:
    """Print the address; on a remote machine how to reach it from here, and who else can."""
    from tilesegment.viewer.security import is_loopback
    from tilesegment.viewer.tile_requests import page_is_complete

    click.echo(server.url)
    if not page_is_complete():
        click.echo("Note: OpenSeadragon is missing, without which the page shows nothing: run `make page`", err=True)
    if not is_loopback(host):
        click.echo(
            f"Warning: on {host} every machine that reaches this one can ask for the page; whoever has its address "
            "sees the image and may change annotations, and nothing is encrypted. Without --host only this machine can",
            err=True,
        )
    elif _is_remote():
        line = f"ssh -N -L {server.port}:localhost:{server.port} {getpass.getuser()}@{socket.gethostname()}"
        click.echo(f"From your own machine: {line}", err=True)
        click.echo(f"then open http://localhost:{server.port}/{server.token}/", err=True)
    click.echo("Ctrl-C ends it.", err=True)


def _is_remote() -> bool:
    """Whether someone works on this machine through ssh."""
    return bool(os.environ.get("SSH_CONNECTION") or os.environ.get("SSH_CLIENT"))
