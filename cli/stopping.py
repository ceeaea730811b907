"""SIGTERM, by which a batch system asks a command to end before it kills it."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from tilesegment_cli.exit_codes import STOPPED


@contextmanager
def sigterm_interrupts() -> Iterator[Callable[[], bool]]:
    """Let SIGTERM interrupt as Ctrl-C does, wherever the command is, and end it with exit code 75.

    Yields:
        Whether SIGTERM came: for loops, as an interrupt may get lost in code that is not allowed to raise.
    """
    asked = False

    def interrupt(number: int, frame: object) -> None:
        nonlocal asked
        asked = True
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield lambda: asked
    except KeyboardInterrupt:
        if not asked:
            raise
        click.echo("Stopped.", err=True)
        sys.exit(STOPPED)
    finally:
        signal.signal(signal.SIGTERM, before)
