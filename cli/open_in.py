"""`tileseg open`."""

import shlex
import shutil
import subprocess
import sys
import webbrowser
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from tilesegment_cli import options

if TYPE_CHECKING:
    from tilesegment.stores import Options
    from tilesegment.viewer.elsewhere import Opened

_QUPATH = ("QuPath", "qupath")


@click.command("open")
@click.argument("mask", type=options.read_place)
@click.option(
    "--in",
    "program",
    type=click.Choice(["napari", "neuroglancer", "qupath"]),
    required=True,
    help="The program that shows it.",
)
@click.option("--image", type=options.read_place, metavar="IMAGE", help="Where its image is.  [default: as MASK says]")
@click.option("--start", is_flag=True, help="Start the program; for neuroglancer serve the files and open its page.")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Of that server.  [default: a free one]")
@options.store_options
def open_in(mask: str, program: str, image: str | None, start: bool, port: int, store_options: "Options") -> None:
    """Print what shows MASK over its image in another program, or start it.

    For napari this is a Python program, for neuroglancer an address, for QuPath what to do.
    """
    from tilesegment.stores import place_of
    from tilesegment.viewer.elsewhere import open_for

    opened = open_for(place_of(mask, store_options), None if image is None else place_of(image, store_options))
    if opened.image is None:
        click.echo("Note: the image is not where the mask says; name it with --image", err=True)
    {"napari": _napari, "neuroglancer": _neuroglancer, "qupath": _qupath}[program](opened, start, port)


def _napari(opened: "Opened", start: bool, port: int) -> None:
    from tilesegment.errors import ViewError
    from tilesegment.viewer.elsewhere import napari_script

    script = napari_script(opened)
    if not start:
        click.echo(script, nl=False)
        return
    if find_spec("napari") is None:
        raise ViewError("napari is not installed here: pip install 'napari[all]', or leave --start out for a program")
    subprocess.run([sys.executable, "-"], input=script, text=True, check=False)


def _neuroglancer(opened: "Opened", start: bool, port: int) -> None:
    from tilesegment.signals import sigterm_stops
    from tilesegment.viewer.elsewhere import NEUROGLANCER, files_of, neuroglancer_state, neuroglancer_url

    served = files_of(opened)
    if not served:
        url = neuroglancer_url(neuroglancer_state(opened))
        click.echo(url)
        if start:
            webbrowser.open(url)
        return
    neuroglancer_state(opened, "http://127.0.0.1/")  # says what it cannot show
    if not start:
        click.echo(
            "neuroglancer reads files of this machine from a server. This runs one and opens the page:", err=True
        )
        image = [] if opened.image is None else ["--image", str(opened.image)]
        command = ["tileseg", "open", str(opened.mask.path), "--in", "neuroglancer", *image, "--start"]
        click.echo(shlex.join(command))
        return
    from tilesegment.viewer.folders import FolderServer

    server = FolderServer(served, NEUROGLANCER, port)
    url = neuroglancer_url(neuroglancer_state(opened, server.base))
    click.echo(url)
    told = ", ".join(map(str, served.values()))
    click.echo(f"Serving {told} to {NEUROGLANCER} and to pages of this machine; Ctrl-C ends it.", err=True)
    webbrowser.open(url)
    with sigterm_stops():
        server.run()


def _qupath(opened: "Opened", start: bool, port: int) -> None:
    from tilesegment.errors import ViewError
    from tilesegment.viewer.elsewhere import qupath_steps

    click.echo(qupath_steps(opened), nl=False)
    if not start:
        return
    found = next((path for name in _QUPATH if (path := shutil.which(name)) is not None), None)
    if found is None:
        raise ViewError("there is no QuPath on the PATH of this machine: start it by hand, and follow these steps")
    image = [] if opened.image is None else ["--image", str(opened.image)]
    subprocess.Popen([found, *image])
