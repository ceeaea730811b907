"""Parameter types that several commands share."""

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tilesegment import Region

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class Parsed(click.ParamType):
    """An option value with its own syntax.

    Args:
        name: the syntax, as --help shows it.
        parse: raises ValueError for another syntax.
        form: the syntax in words, with an example.
    """

    def __init__(self, name: str, parse: Callable[[str], Any], form: str) -> None:
        self.name, self.parse, self.form = name, parse, form

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """Return the syntax as it has to be written: click would put it into capitals."""
        return self.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a text; other values are defaults, and returned as they are."""
        if not isinstance(value, str):
            return value
        try:
            return self.parse(value)
        except ValueError:
            self.fail(f"{value!r} is not {self.form}", param, ctx)


def _groups(pattern: str, text: str) -> tuple[str, ...]:
    match = re.fullmatch(pattern, text)
    if match is None:
        raise ValueError
    return match.groups()


def _numbers(pattern: str, text: str) -> tuple[int, ...]:
    """Whole numbers, of at most nine digits, where `pattern` has an N."""
    return tuple(map(int, _groups(pattern.replace("N", r"(\d{1,9})"), text)))


def _region(text: str) -> Region:
    y0, y1, x0, x1 = _numbers("N:N,N:N", text)
    if y0 >= y1 or x0 >= x1:
        raise ValueError
    return Region(y0, x0, y1, x1)


def _part(text: str) -> tuple[int, ...]:
    k, n = _numbers("N/N", text)
    if not 1 <= k <= n:
        raise ValueError
    return k, n


def _batch(text: str) -> int | None:
    if text == "auto":
        return None
    (tiles,) = _numbers("N", text)
    if tiles < 1:
        raise ValueError
    return tiles


def _seconds(text: str) -> float:
    number, unit = _groups(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", text)
    return float(number) * {"s": 1, "m": 60, "h": 3600}[unit]


def _option(text: str) -> tuple[str, Any]:
    name, value = _groups(r"([^=]+)=(.+)", text)
    for kind in (int, float):
        try:
            return name, kind(value)
        except ValueError:
            continue
    return name, value


def _mpp(text: str) -> float | str:
    return text if text == "model" else float(text)


def _held_out(text: str) -> float | tuple[str, ...]:
    # a whole number, but for 0, is the name of an image
    return float(text) if re.fullmatch(r"0|-?\d*\.\d+", text) else _items(str)(text)


def _axis_indices(text: str) -> dict[str, int]:
    pairs = [_groups(r"([a-z]+)=(\d{1,9})", part.strip()) for part in text.split(",")]
    return {axis: int(index) for axis, index in pairs}


def _items(item: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    return lambda text: tuple(item(part.strip()) for part in text.split(","))


REGION = Parsed("y0:y1,x0:x1", _region, "a region that holds pixels; write y0:y1,x0:x1, such as 0:1024,512:2048")
RANGE = Parsed("a:b", lambda text: _numbers("N:N", text), "a range; write a:b, such as 0:30")
PART = Parsed("K/N", _part, "a part; write K/N with K from 1 to N, such as 3/16")
BATCH = Parsed("auto|N", _batch, "a batch; write auto, or a number of tiles from 1 on")
PRUNE = Parsed("L1..L4", lambda text: int(*_groups(r"[Ll]?(\d)", text)), "a level; write L1, L2, L3 or L4")
DURATION = Parsed("20m", _seconds, "a time; write 90s, 20m or 2h")
OPTION = Parsed("NAME=VALUE", _option, "an option; write NAME=VALUE, such as up=nearest")
MPP = Parsed("MICRONS|model", _mpp, "a pixel size; write micrometres, such as 0.5, or model")
HELD_OUT = Parsed("SHARE|NAME,...", _held_out, "a share such as 0.2, or names separated by commas")
SELECT = Parsed("t=N", _axis_indices, "an index of an axis; write AXIS=INDEX, such as t=3")
NAMES = Parsed("a,b,...", _items(str), "a list of names")
INTEGERS = Parsed("a,b,...", _items(int), "a list of whole numbers such as 0,2")
NUMBERS = Parsed("a,b,...", _items(float), "a list of numbers such as 5,1")
WEIGHTS = Parsed(
    "auto|a,b,...", lambda text: text if text == "auto" else _items(float)(text), "auto, or a list of numbers"
)


class PathType(click.ParamType):
    """The path of a file or folder; a name passes as it is.

    The library reports what is missing or of the wrong kind. Paths that cannot be reached or read are refused here.

    Args:
        read: it is read, not written.
        urls: a URL or another address passes as it is; else only that of a file of this machine, as its path.
    """

    name = "path"

    def __init__(self, *, read: bool, urls: bool = False) -> None:
        self.read, self.urls = read, urls

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the path."""
        path = str(value)
        if "://" in path and not self.urls:
            path = self._on_disk(path, param, ctx)
        problem = self._problem(path)
        if problem is not None:
            self.fail(f"{value!r} {problem}", param, ctx)
        return path

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem]":
        """Leave files and folders to the shell."""
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="file")]

    def _on_disk(self, path: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the path that a URL names on this machine; refuse one of a server."""
        from tilesegment.stores import place_of

        place = place_of(path)
        if not isinstance(place, Path):
            do = "read from a disk: download it" if self.read else "written to a disk: name a path"
            self.fail(f"{place} is a URL, and this is {do}", param, ctx)
        return str(place)

    def _problem(self, path: str) -> str | None:
        if not path.strip():
            return "names nothing"
        if "\0" in path:
            return "holds a NUL byte, which no name can"
        try:
            path.encode()
        except UnicodeEncodeError:
            return "is not UTF-8; rename it"
        if "://" in path:
            return None
        try:
            os.stat(path)
        except OSError as error:
            is_missing = error.errno in (errno.ENOENT, errno.ENOTDIR)
            return None if is_missing else f"cannot be reached ({error.strerror})"
        rights = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK
        if self.read and not os.access(path, rights, effective_ids=True):
            return "cannot be read (Permission denied)"
        return None


class RoiType(PathType):
    """A region `y0:y1,x0:x1`, or the path of a GeoJSON file of areas."""

    name = "y0:y1,x0:x1|FILE.geojson"

    def __init__(self) -> None:
        super().__init__(read=True)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Parse a region; anything else is a path, unless it looks like a region."""
        if isinstance(value, str) and re.fullmatch(r"[\d:,\s-]+", value):
            return REGION.convert(value, param, ctx)
        return super().convert(value, param, ctx)


ROI = RoiType()
