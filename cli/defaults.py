"""Defaults of options from `tilesegment.toml`, the file of `--config`, and the variables `TILESEG_...`.

What is typed wins; then the variables, that of a single command first; then the file of `--config`; then
`tilesegment.toml` in the working folder; then what the library chooses.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from tilesegment.errors import one_line
from tilesegment_cli.group import did_you_mean

FILE, PREFIX = "tilesegment.toml", "TILESEG_"


@dataclass
class Defaults:
    """What the files say.

    Attributes:
        values: command -> parameter -> value, as click's `default_map`.
        origins: the file of each value, by command and parameter.
        files: that were read, the weaker first.
    """

    values: dict[str, dict[str, Any]] = field(default_factory=dict)
    origins: dict[tuple[str, str], str] = field(default_factory=dict)
    files: list[str] = field(default_factory=list)


def spelt(option: click.Parameter) -> str:
    """Return how an option is written, without its dashes."""
    return max(option.opts, key=len).lstrip("-")


def variables_of(command: click.Command, own: frozenset[str]) -> dict[str, list[str]]:
    """Return the variables of each option of a command, the stronger first: its own, and that of all commands.

    Args:
        command: a command of `tileseg`.
        own: options of `tileseg` itself, whose variables no command shares.
    """
    found = {}
    for option in _options(command):
        name = spelt(option).upper().replace("-", "_")
        shared = [] if spelt(option) in own else [PREFIX + name]
        found[str(option.name)] = [f"{PREFIX}{str(command.name).upper()}_{name}", *shared]
    return found


def name_variables(group: click.Group) -> None:
    """Give every option of every command its variables."""
    own = frozenset(spelt(option) for option in _options(group))
    for command in group.commands.values():
        names = variables_of(command, own)
        for option in _options(command):
            option.envvar = names[str(option.name)]


def unused_variables(group: click.Group) -> list[str]:
    """Return the variables `TILESEG_...` of the environment that no option has."""
    every = [one for command in (group, *group.commands.values()) for one in _options(command)]
    known = {name for one in every for name in ([one.envvar] if isinstance(one.envvar, str) else one.envvar or ())}
    return sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)


def read_defaults(named: str | None, commands: Mapping[str, click.Command]) -> Defaults:
    """Read `tilesegment.toml` of the working folder, if there is one, and then the file that is named.

    Raises:
        click.UsageError: a file that cannot be read, or a key that no command has.
    """
    found = Defaults()
    files = [FILE] if Path(FILE).is_file() else []
    for file in [*files, *([named] if named is not None else [])]:
        document = _parsed(file)
        tables = {key: value for key, value in document.items() if isinstance(value, dict)}
        everywhere = {key: value for key, value in document.items() if key not in tables}
        for key, value in everywhere.items():
            having = [name for name, command in commands.items() if _option_of(command, key) is not None]
            if not having:
                known = {spelt(one) for command in commands.values() for one in _options(command)}
                raise click.UsageError(f"{file}: no command has an option '{key}'{did_you_mean(key, known)}")
            for name in having:
                _put(found, file, commands[name], key, value)
        for name, table in tables.items():
            if name not in commands:
                raise click.UsageError(f"{file}: there is no command '{name}'{did_you_mean(name, commands)}")
            for key, value in table.items():
                if _option_of(commands[name], key) is None:
                    guessed = did_you_mean(key, map(spelt, _options(commands[name])))
                    raise click.UsageError(f"{file}: tileseg {name} has no option '{key}'{guessed}")
                _put(found, file, commands[name], key, value)
        found.files.append(file)
    return found


def origin_of(error: click.UsageError) -> str:
    """Say where a wrong value comes from, if it was not typed."""
    context, parameter = error.ctx, getattr(error, "param", None)
    if context is None or parameter is None or parameter.name is None:
        return ""
    source = context.get_parameter_source(parameter.name)
    if source is ParameterSource.ENVIRONMENT:
        name = next((one for one in parameter.envvar or () if os.environ.get(one)), "the environment")
        return f", in the variable {name}"
    if source is ParameterSource.DEFAULT_MAP:
        origins = context.meta.get(__name__, {})
        return f", in {origins.get((context.info_name, parameter.name), FILE)}"
    return ""


def remember(context: click.Context, found: Defaults) -> None:
    """Let the commands below this context begin with these defaults."""
    context.default_map = found.values
    context.meta[__name__] = found.origins


def _options(command: click.Command) -> list[click.Option]:
    return [one for one in command.params if isinstance(one, click.Option)]


def _option_of(command: click.Command, key: str) -> click.Option | None:
    """Return the option that a key names, written with dashes or underscores."""
    wanted = f"--{key.replace('_', '-')}"
    return next((one for one in _options(command) if wanted in one.opts), None)


def _parsed(file: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise click.UsageError(f"{file} cannot be read ({error.strerror}); name a file of defaults") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{file} is no TOML: {one_line(error)}") from error


def _put(found: Defaults, file: str, command: click.Command, key: str, value: Any) -> None:
    """Store the value of a key as the text that would be typed, or as a flag that is on or off."""
    option, name = _option_of(command, key), str(command.name)
    assert option is not None
    if option.is_flag != isinstance(value, bool):
        allowed = "true or false" if option.is_flag else "a text, a number or a list of these"
        raise click.UsageError(f"{file}: {key} is {value!r}; allowed: {allowed}")
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | int | float) for item in items):
        raise click.UsageError(f"{file}: {key} is {value!r}; allowed: a text, a number or a list of these")
    typed: Any = value
    if not option.is_flag:
        texts = tuple(map(str, items))
        typed = texts if option.multiple else ",".join(texts)
    found.values.setdefault(name, {})[str(option.name)] = typed
    found.origins[name, str(option.name)] = file
