"""The file of `--log-file`: all that is printed, each line with the time. And time stamps where nobody watches."""

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

import click

from tilesegment.errors import one_line

_META = f"{__name__}.log"


def stamp() -> str:
    """Return the local time as it stands in front of a line: 2026-12-01 07:15:00."""
    return time.strftime("%Y-%m-%d %H:%M:%S")


def current_log() -> "Log | None":
    """Return the log of the command that runs, if there is one."""
    context = click.get_current_context(silent=True)
    return None if context is None else context.meta.get(_META)


class Log:
    """Append to a file what is printed while this is open.

    Args:
        path: the file; it is appended to.
        arguments: of the command, which the log begins with.

    Raises:
        click.UsageError: the file cannot be written.
    """

    def __init__(self, path: str, arguments: Sequence[str]) -> None:
        try:
            self._file = Path(path).open("a", encoding="utf-8", errors="backslashreplace", buffering=1)  # noqa: SIM115
        except OSError as error:
            why = f"{path!r} cannot be written ({error.strerror})"
            raise click.UsageError(f"Invalid value for '--log-file': {one_line(why)}") from error
        self._begun = ""  # a line without its end
        self.line(f"tileseg {shlex.join(arguments)}")

    def __enter__(self) -> Self:
        self._printed = sys.stdout, sys.stderr
        self.listen()
        context = click.get_current_context()
        context.meta[_META] = self
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        sys.stdout, sys.stderr = self._printed
        if error is not None and not isinstance(error, SystemExit):
            import traceback

            self.write("".join(traceback.format_exception(error)))
        if self._begun:
            self.write("\n")
        self._file.close()

    def listen(self) -> None:
        """Copy what is printed from now on, also through what has replaced the streams since, such as a bar's."""
        sys.stdout, sys.stderr = _Copied(sys.stdout, self), _Copied(sys.stderr, self)

    def write(self, text: str) -> None:
        """Take what was printed; a line is stored as soon as it ends."""
        *lines, self._begun = (self._begun + click.unstyle(text)).split("\n")
        for line in lines:
            self.line(line)

    def line(self, text: str) -> None:
        """Store one line, with the time."""
        self._file.write(f"{stamp()} {one_line(text) if text else ''}".rstrip() + "\n")


class _Copied:
    """A stream of text whose writes go to the log as well."""

    def __init__(self, below: TextIO, log: Log) -> None:
        self.below, self._log = below, log
        # a bar's stream has none, and click would write past it
        self.encoding, self.errors = terminal(below).encoding, terminal(below).errors

    def write(self, text: str) -> int:
        written = self.below.write(text)
        if isinstance(text, str):
            self._log.write(text)
        return written

    def __getattr__(self, name: str) -> Any:
        return getattr(self.below, name)


def terminal(stream: Any) -> Any:
    """Return the stream itself, below what copies it."""
    while isinstance(stream, _Copied):
        stream = stream.below
    return getattr(stream, "rich_proxied_file", stream)
