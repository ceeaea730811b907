"""`tileseg completion`: words completed by the shell."""

import os
from pathlib import Path

import click

from tilesegment.errors import TilesegmentError

_LINES = {
    "bash": 'eval "$(_TILESEG_COMPLETE=bash_source tileseg)"',
    "zsh": 'eval "$(_TILESEG_COMPLETE=zsh_source tileseg)"',
    "fish": "_TILESEG_COMPLETE=fish_source tileseg | source",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_LINES)))
@click.option("--install", is_flag=True, help="Append the line to the file that the shell reads at its start, once.")
def completion(shell: str, install: bool) -> None:
    """Print the line that makes SHELL complete commands, options and files of tileseg, or install it."""
    line = _LINES[shell]
    if not install:
        click.echo(line)
        click.echo(f"This line goes into {start_file(shell)}; --install puts it there.", err=True)
        return
    file = start_file(shell)
    if append_once(file, line):
        click.echo(f"{file}: added {line}", err=True)
        click.echo("It works in every shell that is started from now on.", err=True)
    else:
        click.echo(f"{file} has the line already; nothing was changed", err=True)


def start_file(shell: str) -> Path:
    """Return the file that a shell reads when it starts."""
    home, environment = Path.home(), os.environ
    if shell == "fish":
        return Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "fish" / "config.fish"
    if shell == "zsh":
        return Path(environment.get("ZDOTDIR") or home) / ".zshrc"
    return home / ".bashrc"


def append_once(file: Path, line: str) -> bool:
    """Append a line to a file of the user, which may not exist yet; return whether it was missing.

    What the file holds is never rewritten.

    Raises:
        TilesegmentError: the file cannot be read or written.
    """
    try:
        text = file.read_bytes() if file.exists() else b""
        if line.encode() in (one.strip() for one in text.splitlines()):
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as opened:
            opened.write((b"" if not text or text.endswith(b"\n") else b"\n") + line.encode() + b"\n")
    except OSError as error:
        raise TilesegmentError(f"{file} cannot be changed ({error.strerror}); add this line to it: {line}") from error
    return True
