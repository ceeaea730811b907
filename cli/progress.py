"""A bar on a terminal, plain lines in a log; on stderr, so that stdout stays for results."""

import sys
import time
from typing import Any, Self

import click

_EVERY = 10.0  # seconds between two lines in a log


class ProgressReport:
    """Show how far a run is; nothing if `quiet`."""

    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self._said = time.monotonic()
        self._bar: Any = None

    def __enter__(self) -> Self:
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (BarColumn(), TextColumn("{task.percentage:3.0f} %  {task.description}"), TimeRemainingColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("starting", total=1.0)
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: float, text: str, seconds: float) -> None:
        """Show the share `done` of the run, 0 to 1, after `seconds`, with `text`."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, description=text)
        elif not self.quiet and time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            left = seconds * (1 - done) / done if done else 0
            click.echo(f"{100 * done:3.0f} %  {text}, {left:,.0f} s left", err=True)

    def line(self, text: str) -> None:
        """Print a line that stays."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            click.echo(text, err=True)
