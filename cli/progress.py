"""A bar on a terminal, plain lines in a log; on stderr, so that stdout stays for results."""

import sys
import time
from typing import Any, Self

import click

from tilesegment_cli.log import current_log, stamp, terminal

_EVERY = 10.0  # seconds between two lines in a log


class ProgressReport:
    """Show how far a run is; nothing if `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._said = time.monotonic()
        self._bar: Any = None
        self._log = current_log()

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), TextColumn("{task.percentage:3.0f} %  {task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(file=terminal(sys.stderr)), transient=True)
            self._bar.start()
            if self._log is not None:
                self._log.listen()
            self._task = self._bar.add_task("starting", total=1.0)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float, text: str, seconds: float) -> None:
        """Show the share `done` of the run, 0 to 1, after `seconds`, with `text`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        if self.quiet or time.monotonic() - self._said < _EVERY:
            return
        self._said = time.monotonic()
        left = seconds * (1 - done) / done if done else 0
        line = f"{100 * done:3.0f} %  {text}, {left:,.0f} s left"
        if self._bar is None:
            self.line(line)
        elif self._log is not None:
            self._log.line(line)

    def line(self, text: str) -> None:
        """Print a line that stays, with the time where nobody watches; a log has its own."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
            if self._log is not None:
                self._log.line(text)
        else:
            is_watched = sys.stderr.isatty() or self._log is not None
            click.echo(text if is_watched else f"{stamp()} {text}", err=True)
