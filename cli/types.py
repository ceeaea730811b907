"""Parameter types that several commands share."""

import errno
import os
import re
from typing import Any

import click

from tilesegment import Region

_UNITS = {"s": 1, "m": 60, "h": 3600}


class PathType(click.ParamType):
    """The path of a file or folder; or a name or address that is none, which passes as it is.

    Whether it exists, and is what is wanted, the library says. Here is refused what no call of the system gets to: it
    would fail in another way in each place that asks for it.

    Args:
        read: it is read, and not written.
    """

    name = "path"

    def __init__(self, *, read: bool) -> None:
        self.read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The path."""
        problem = self._problem(value)
        if problem is not None:
            self.fail(f"{value!r} {problem}", param, ctx)
        return str(value)

    def _problem(self, path: str) -> str | None:
        """Why `path` is of no use, if it is not."""
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
            # where nothing is there yet, the library says so, or makes it
            return None if error.errno in (errno.ENOENT, errno.ENOTDIR) else _said(error)
        rights = os.R_OK | os.X_OK if os.path.isdir(path) else os.R_OK
        if self.read and not os.access(path, rights, effective_ids=os.access in os.supports_effective_ids):
            return "cannot be read (Permission denied)"
        return None


def _said(error: OSError) -> str:
    return f"cannot be reached ({error.strerror})"


class RegionType(click.ParamType):
    """`y0:y1,x0:x1`."""

    name = "y0:y1,x0:x1"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Region:
        """The region that `value` writes down."""
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9}),(\d{1,9}):(\d{1,9})", str(value))
        if match is None:
            self.fail(f"{value!r} is not a region; write y0:y1,x0:x1, such as 0:1024,512:2048")
        y0, y1, x0, x1 = map(int, match.groups())
        if y0 >= y1 or x0 >= x1:
            self.fail(f"{value!r} is empty; y0 < y1 and x0 < x1 are needed")
        return Region(y0, x0, y1, x1)


class RangeType(click.ParamType):
    """`a:b`."""

    name = "a:b"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """First and one past the last."""
        match = re.fullmatch(r"(\d{1,9}):(\d{1,9})", str(value))
        if match is None:
            self.fail(f"{value!r} is not a range; write a:b, such as 0:30")
        return int(match[1]), int(match[2])


class PartType(click.ParamType):
    """`3/16`."""

    name = "K/N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Which part, counted from 1, and of how many."""
        if isinstance(value, tuple):
            return value
        match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", str(value))
        if match is None or not 1 <= int(match[1]) <= int(match[2]):
            self.fail(f"{value!r} is not a part; write K/N with K from 1 to N, such as 3/16")
        return int(match[1]), int(match[2])


class BatchType(click.ParamType):
    """`auto` or a number."""

    name = "auto|N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int | None:
        """None for `auto`."""
        if value in ("auto", None):
            return None
        if re.fullmatch(r"\d{1,9}", str(value)) is None or int(value) < 1:
            self.fail(f"{value!r} is not a batch; write auto, or a number of tiles from 1 on")
        return int(value)


class PruneType(click.ParamType):
    """`L2`."""

    name = "L1..L4"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The level."""
        match = re.fullmatch(r"[Ll]?(\d)", str(value))
        if match is None:
            self.fail(f"{value!r} is not a level; write L1, L2, L3 or L4")
        return int(match[1])


class DurationType(click.ParamType):
    """`90s`, `20m`, `2h`."""

    name = "20m"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds."""
        if isinstance(value, float):
            return value
        match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)([smh])", str(value))
        if match is None:
            self.fail(f"{value!r} is not a time; write 90s, 20m or 2h")
        return float(match[1]) * _UNITS[match[2]]


class ListType(click.ParamType):
    """Values separated by commas.

    Args:
        item: what each is.
    """

    name = "a,b,..."

    def __init__(self, item: type[int] | type[float] | type[str]) -> None:
        self.item = item

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """The values."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.item(part.strip()) for part in str(value).split(","))
        except ValueError:
            what = "whole numbers such as 0,2" if self.item is int else "numbers such as 5,1"
            self.fail(f"{value!r} is not a list of {what}")


class WeightsType(ListType):
    """`auto`, or numbers separated by commas."""

    name = "auto|a,b,..."

    def __init__(self) -> None:
        super().__init__(float)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """`auto` as it is, or the numbers."""
        return value if value == "auto" else super().convert(value, param, ctx)


class OptionType(click.ParamType):
    """`up=nearest`."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, Any]:
        """Name and value, a number where it is one."""
        if isinstance(value, tuple):
            return value
        name, equals, text = str(value).partition("=")
        if not (name and equals and text):
            self.fail(f"{value!r} is not an option; write NAME=VALUE, such as up=nearest")
        for kind in (int, float):
            try:
                return name, kind(text)
            except ValueError:
                continue
        return name, text


class HeldOutType(click.ParamType):
    """A share such as `0.2`, or names separated by commas."""

    name = "SHARE|NAME,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """A float, or a tuple of names; a whole number is the name of an image, but for 0."""
        if not isinstance(value, str):
            return value
        if re.fullmatch(r"0|-?\d*\.\d+", value):
            return float(value)
        return tuple(part.strip() for part in value.split(","))


class SelectType(click.ParamType):
    """`t=3` or `t=3,c=0`."""

    name = "t=N"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> dict[str, int]:
        """Index by axis."""
        if isinstance(value, dict):
            return value
        pairs = [re.fullmatch(r"([a-z]+)=(\d{1,9})", part.strip()) for part in str(value).split(",")]
        if None in pairs:
            self.fail(f"{value!r} does not select; write AXIS=INDEX, such as t=3")
        return {pair[1]: int(pair[2]) for pair in pairs if pair is not None}
