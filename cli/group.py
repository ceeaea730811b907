"""The commands of `tileseg` in groups, with examples, and what was meant by a mistyped one."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click

_NEAR = 0.72  # of difflib's ratio, 1 for the same word
_MOST = 3  # words that are suggested

# what other programs call them
_ELSEWHERE = {
    "segment": "predict",
    "infer": "predict",
    "inference": "predict",
    "run": "predict",
    "fit": "train",
    "score": "evaluate",
    "show": "view",
    "measure": "objects",
    "convert": "export",
    "resume": "status",
    "list": "models",
    "--output": "--out",
    "--output-dir": "--out-dir",
    "--gpu": "--device",
    "--cuda": "--device",
    "--lr-rate": "--lr",
    "--learning-rate": "--lr",
    "--force": "--overwrite",
    "--tile-size": "--tile",
    "--patch-size": "--tile",
    "--batch-size": "--batch",
    "--weights": "--model",
    "--checkpoint": "--model",
    "--silent": "--quiet",
    "--jobs": "--workers",
    "--overlap": "--halo",
    "--pixel-size": "--source-mpp",
}


def meant(word: str, known: Iterable[str]) -> list[str]:
    """Return the few of the `known` words that `word` may have been meant as, the nearest first; often none."""
    from difflib import SequenceMatcher

    words = sorted(known)
    if _ELSEWHERE.get(word) in words:
        return [_ELSEWHERE[word]]
    shares = {one: SequenceMatcher(None, word, one).ratio() for one in words}
    best = max(shares.values(), default=0.0)
    near = [one for one, share in shares.items() if share >= max(_NEAR, best - 0.1)]
    begun = [one for one in words if len(word.strip("-")) >= 3 and one.startswith(word)]
    return sorted({*near, *begun}, key=lambda one: (-shares[one], one))[:_MOST]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the question after a mistyped word, or nothing."""
    found = meant(word, known)
    return f"; did you mean {' or '.join(found)}?" if found else ""


def unknown_option(error: click.NoSuchOption) -> str:
    """Say which option does not exist, and which was meant."""
    context, name = error.ctx, error.option_name
    if context is None:
        return f"No such option '{name}'"
    if context.parent is not None and name in _options_of(context.parent.command):
        root = context.parent.command_path
        return f"'{name}' stands before the command: {root} {name} ... {context.info_name}"
    guessed = did_you_mean(name, _options_of(context.command))
    return f"No such option '{name}'{guessed or _of_others(name, context.parent)}"


def _of_others(name: str, parent: click.Context | None) -> str:
    """Say which other commands have an option of this name."""
    commands = parent.command.commands if parent is not None and isinstance(parent.command, click.Group) else {}
    having = [f"tileseg {other}" for other, command in commands.items() if name in _options_of(command)]
    return f"; it is one of {', '.join(having)}" if having else ""


def _options_of(command: click.Command) -> set[str]:
    """Return the options of a command as they are written, long ones alone."""
    every = (name for one in command.params for name in (*one.opts, *one.secondary_opts))
    return {name for name in every if name.startswith("--")}


class Grouped(click.Group):
    """A group of commands whose help has a section for each kind of work."""

    def __init__(self, *args: Any, **given: Any) -> None:
        super().__init__(*args, **given)
        self.sections: dict[str, list[str]] = {}

    def add_section(self, title: str, commands: Sequence[click.Command], examples: Mapping[str, Sequence[str]]) -> None:
        """Add commands under a title; `examples` has the lines that end the help of each."""
        for command in commands:
            assert command.name is not None
            self.sections.setdefault(title, []).append(command.name)
            command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples[command.name])
            self.add_command(command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a section of each title, its commands in the order in which they were added."""
        width = max(map(len, self.commands))
        for title, names in self.sections.items():
            with formatter.section(title):
                formatter.write_dl([(f"{n:<{width}}", self.commands[n].get_short_help_str(200)) for n in names])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command of the arguments; refuse one that does not exist, and name the one that was meant."""
        name = args[0]
        if name not in self.commands and not ctx.resilient_parsing and not name.startswith("-"):
            raise click.UsageError(f"No such command '{name}'{did_you_mean(name, self.commands)}", ctx)
        return super().resolve_command(ctx, args)
