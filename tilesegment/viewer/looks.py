"""How a tile is to be drawn: the parameters of its address, checked."""

from collections.abc import Sequence

from tilesegment.errors import ViewError
from tilesegment.viewer.layer import Look

_MOST = 2000  # letters of a parameter


def check_names(look: Look, allowed: Sequence[str]) -> None:
    """Check that a look has no other parameters than `allowed`.

    Raises:
        ViewError: it has.
    """
    unknown = sorted(set(look) - set(allowed))
    if unknown:
        raise ViewError(f"a tile has no parameter {unknown[0]:.40}; allowed: {', '.join(allowed)}")
    for name, value in look.items():
        if len(value) > _MOST:
            raise ViewError(f"{name} has more than {_MOST} letters")


def numbers(look: Look, name: str, below: int, default: frozenset[int]) -> frozenset[int]:
    """Return the whole numbers of a list such as `1,3`; `default` if it is not given.

    Raises:
        ViewError: it is no such list, or holds others than 0 to `below` - 1.
    """
    if name not in look:
        return default
    parts = look[name].split(",") if look[name] else []
    if any(not (one.isdecimal() and one.isascii()) or int(one) >= below for one in parts):
        raise ViewError(f"{name}={look[name]:.40}: expected numbers from 0 to {below - 1} with commas in between")
    return frozenset(map(int, parts))


def choice(look: Look, name: str, allowed: Sequence[str]) -> str:
    """Return one of `allowed`; the first if it is not given.

    Raises:
        ViewError: it is none of them.
    """
    given = look.get(name, allowed[0])
    if given not in allowed:
        raise ViewError(f"{name}={given:.40}: allowed are {', '.join(allowed)}")
    return given


def share(look: Look, name: str, default: float) -> float:
    """Return a number from 0 to 1.

    Raises:
        ViewError: it is none.
    """
    try:
        given = float(look.get(name, default))
    except ValueError:
        given = -1.0
    if not 0 <= given <= 1:  # nor NaN
        raise ViewError(f"{name}={look[name]:.40}: expected a number from 0 to 1")
    return given
