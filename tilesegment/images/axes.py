"""What the dimensions of an array are, by what the user or its metadata says, else by its shape."""

from collections.abc import Sequence

from tilesegment.errors import ImageError
from tilesegment.images.layout import MAX_CHANNELS

MAX_COLOURS = 4  # the most channels that the shape of an array alone suggests


def axes_of(
    path: str, shape: tuple[int, ...], names: tuple[str, ...] | None, axes: str | None, notes: list[str]
) -> Sequence[str]:
    """Return the axes of an array: as chosen, as its metadata says, or as its shape suggests."""
    if axes is not None:
        return axes
    if names is not None and {"y", "x"} <= set(names):
        return names
    sizes, guess = " x ".join(map(str, shape)), _guess(shape)
    if guess is None:
        raise ImageError(
            f"{path} is an array of {sizes} that does not say what its dimensions are: "
            "give its --axes, one letter of t, z, c, y, x each"
        )
    if guess not in ("yx", "yxc"):
        taken = f"they are taken for {', '.join(guess)}; --axes tells otherwise"
        notes.append(f"{path} does not say what its {sizes} are: {taken}")
    return guess


def _guess(shape: tuple[int, ...]) -> str | None:
    """Return the likely axes of an array of `shape`; None if none are likely, or several."""
    match len(shape):
        case 2:
            return "yx"
        case 3 if shape[-1] <= MAX_COLOURS:
            return "yxc" if shape[0] > MAX_COLOURS else None
        case 3 if shape[0] <= MAX_COLOURS:
            return "cyx"
        case 3:  # planes as narrow as this may be rows of pixels with many channels
            thin = [n for n, other in (shape[1:], shape[:0:-1]) if 2 * n <= min(shape[0], other) and n <= MAX_CHANNELS]
            return None if thin else "zyx"
        case 4 if shape[1] <= MAX_COLOURS < shape[-1]:
            return "zcyx"
        case 4 if shape[-1] <= MAX_COLOURS < shape[1]:
            return "zyxc"
        case 5 if shape[-1] > MAX_COLOURS:
            return "tczyx"
    return None
