"""The commands of `tileseg` in groups, with examples, and what was meant by a mistyped one."""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import click

_NOTES = f"{__name__}.notes"
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


def note(context: click.Context, text: str) -> None:
    """Print a note before the command works, unless it is quiet."""
    context.meta.setdefault(_NOTES, []).append(text)


def _after_notes(command: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(command)
    def noted(**given: Any) -> Any:
        for text in click.get_current_context().meta.pop(_NOTES, ()):
            if not given.get("quiet"):
                click.echo(f"Note: {text}", err=True)
        return command(**given)

    return noted


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
            assert command.callback is not None
            command.callback = _after_notes(command.callback)
            command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in examples[command.name])
            self.add_command(command)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the options of the group, which may also stand after the command, if that has none of the name."""
        return super().parse_args(ctx, self._in_front(args))

    def _in_front(self, args: list[str]) -> list[str]:
        """Return the arguments with the group's options that take a value before the command."""
        own = {name for one in self.params if isinstance(one, click.Option) and not one.is_flag for name in one.opts}
        at = 0
        while at < len(args) and args[at] not in self.commands:
            at += 2 if args[at] in own else 1
        if at >= len(args):
            return args
        own -= _options_of(self.commands[args[at]])
        end = args.index("--") if "--" in args else len(args)
        front: list[str] = []
        rest: list[str] = []
        items = iter(args[at + 1 : end])
        for item in items:
            if item in own:
                front += [item, *([value] if (value := next(items, None)) is not None else [])]
            else:
                (front if item.partition("=")[0] in own and "=" in item else rest).append(item)
        return [*args[:at], *front, args[at], *rest, *args[end:]]

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
