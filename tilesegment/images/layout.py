"""Choice of an image in a file, and of the dimensions of an array that make its planes (C, H, W)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region

MAX_SIDE = 10_000_000  # sides beyond this are taken for a damaged or hostile header
MAX_CHANNELS = 64
_KINDS = {"t": "time points", "c": "channels", "z": "planes"}
_LISTED = 4  # other images that a note names
# other images in slide files, as tifffile names them: never meant to be segmented
ASSOCIATED = ("thumbnail", "label", "macro", "overview", "map")


@dataclass(frozen=True)
class Choices:
    """The user's choices for a file: the arguments of `open_image`."""

    axes: str | None
    select: Mapping[str, int]
    series: int | None
    invert: bool


@dataclass(frozen=True)
class Layout:
    """Meaning of each dimension of an array.

    Attributes:
        axes: name of each dimension: y, x, maybe z, c or s (samples of a pixel), others.
        shape: length of each dimension.
        fixed: index in each dimension of which one position is used; the others are y, x, z and `channel`.
        channel: the dimension that holds the channels, None if there is one channel.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    fixed: Mapping[str, int]
    channel: str | None

    @property
    def plane(self) -> tuple[int, int]:
        """(height, width)."""
        return self.shape[self.axes.index("y")], self.shape[self.axes.index("x")]

    @property
    def depth(self) -> int | None:
        """Number of z planes, None if there is one."""
        return self.shape[self.axes.index("z")] if "z" in self.axes and "z" not in self.fixed else None

    @property
    def channels(self) -> int:
        return 1 if self.channel is None else self.shape[self.axes.index(self.channel)]

    def index(self, region: Region, z: int) -> tuple[int | slice, ...]:
        """Return the index of `region` of plane `z` in the array: an integer or a slice for each dimension."""
        rows, columns = region.slices
        positions: dict[str, int | slice] = {"y": rows, "x": columns, "z": z, **self.fixed}
        return tuple(positions.get(axis, slice(0, size)) for axis, size in zip(self.axes, self.shape, strict=True))

    def to_planes(self, pixels: np.ndarray) -> np.ndarray:
        """Return what the array holds at `index` as a view (C, h, w)."""
        left = [axis for axis in self.axes if axis not in self.fixed and axis != "z"]
        if self.channel is None:
            return pixels.transpose(left.index("y"), left.index("x"))[None]
        return pixels.transpose(left.index(self.channel), left.index("y"), left.index("x"))


def arrange(path: str, axes: Sequence[str], shape: tuple[int, ...], select: Mapping[str, int]) -> Layout:
    """Lay out an array of `shape` whose dimensions are `axes`, using the positions in `select`.

    Dimensions of length 1 are dropped, z too. Where pixels have samples (s) and channels (c), the samples are the
    channels, and one c has to be selected.
    """
    _check_axes(path, axes, shape)
    lengths = dict(zip(axes, shape, strict=True))
    for axis, position in select.items():
        if axis not in lengths or axis in "yx":
            allowed = ", ".join(a for a in axes if a not in "yx") or "none"
            raise ImageError(f"{path} has no axis {axis} to select from: its axes besides y and x are {allowed}")
        if not 0 <= position < lengths[axis]:
            raise ImageError(f"{path} has no {axis}={position}: choose one from 0 to {lengths[axis] - 1}")
    fixed = dict(select) | {a: 0 for a in axes if a not in select and a not in "yx" and lengths[a] == 1}
    channel = next((a for a in ("s", "c") if a in lengths and a not in fixed), None)
    for axis in lengths.keys() - {"y", "x", "z", channel} - fixed.keys():
        raise ImageError(
            f"{path} has {lengths[axis]} {_KINDS.get(axis, 'positions')} (axis {axis}): "
            f"choose one with --select {axis}=0..{lengths[axis] - 1}"
        )
    layout = Layout(tuple(axes), shape, fixed, channel)
    if layout.channels > MAX_CHANNELS:
        raise ImageError(
            f"{path} has {layout.channels} channels; at most {MAX_CHANNELS} are supported: name them with --axes"
        )
    return layout


def _check_axes(path: str, axes: Sequence[str], shape: tuple[int, ...]) -> None:
    sizes = " x ".join(map(str, shape))
    if len(axes) != len(shape) or len(set(axes)) != len(axes) or not {"y", "x"} <= set(axes):
        raise ImageError(
            f"{path}: axes {','.join(axes)} do not fit an array of {sizes}: "
            f"give one letter of t, z, c, y, x for each of its {len(shape)} dimensions, y and x among them"
        )
    if 0 in shape:
        raise ImageError(f"{path} is an empty image of {sizes}: there is nothing to read")
    if max(shape) > MAX_SIDE:
        raise ImageError(f"{path} claims to be {sizes}; at most {MAX_SIDE} a side are supported: its header is damaged")


def chosen_series(path: str, series: int | None, contents: Sequence[str], default: int = 0) -> tuple[int, list[str]]:
    """Return the number of the image to open, and a note on the others if the user chose none.

    Args:
        path: of the file.
        series: the user's choice.
        contents: the images of the file in words; empty if there is one.
        default: which one is taken without a choice.
    """
    images = list(enumerate(contents or ("",)))
    if series is not None:
        if not 0 <= series < len(images):
            some = "".join(f"; {number}: {words}" for number, words in images[:_LISTED] if words)
            raise ImageError(
                f"{path} has no series {series}: choose one from 0 to {len(images) - 1}"
                + (f" ({some})" if some else "")
            )
        return series, []
    others = [f"{n}: {words}" for n, words in images if n != default and not words.lower().startswith(ASSOCIATED)]
    if not others:
        return default, []
    more = f"; and {len(others) - _LISTED} more" if len(others) > _LISTED else ""
    count = "1 other image" if len(others) == 1 else f"{len(others)} other images"
    return default, [
        f"{path} holds {count} besides number {default} ({contents[default]}), which is read: "
        f"{'; '.join(others[:_LISTED])}{more}; --series N chooses one"
    ]


def note_on_inversion(path: str, invert: bool) -> list[str]:
    """Return a note if --invert is given for a file in which 0 is black."""
    return [f"{path} does not say that 0 is white: --invert changes nothing"] if invert else []
