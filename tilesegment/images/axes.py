"""How the dimensions of a stored array become planes (C, H, W)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images.source import MAX_CHANNELS, MAX_SIDE

_KINDS = {"t": "time points", "c": "channels", "z": "planes"}


@dataclass(frozen=True)
class Layout:
    """What each dimension of an array stands for.

    Attributes:
        axes: name of each dimension: y, x, maybe z, c or s (samples of a pixel), others.
        shape: length of each dimension.
        fixed: index of each dimension of which one position is used; the others are y, x, z and `channel`.
        channel: the dimension that holds the channels, None if there is one channel.
    """

    axes: tuple[str, ...]
    shape: tuple[int, ...]
    fixed: Mapping[str, int]
    channel: str | None

    def length(self, axis: str | None) -> int | None:
        """Positions along `axis` that are used; None if it is fixed or there is no such axis."""
        return None if axis is None or axis in self.fixed else dict(zip(self.axes, self.shape, strict=True)).get(axis)

    @property
    def plane(self) -> tuple[int, int]:
        """(height, width)."""
        return self.shape[self.axes.index("y")], self.shape[self.axes.index("x")]

    @property
    def depth(self) -> int | None:
        """Number of z planes, None if there is one."""
        return self.length("z")

    @property
    def channels(self) -> int:
        return self.length(self.channel) or 1

    def index(self, region: Region, z: int) -> tuple[int | slice, ...]:
        """The index of plane `z` of `region` in the array: an integer or a slice for each dimension."""
        rows, columns = region.slices
        positions: dict[str, int | slice] = {"y": rows, "x": columns, "z": z, **self.fixed}
        return tuple(positions.get(axis, slice(0, size)) for axis, size in zip(self.axes, self.shape, strict=True))

    def to_planes(self, pixels: np.ndarray) -> np.ndarray:
        """What the array holds at `index`, brought into the order (C, h, w); a view."""
        left = [axis for axis in self.axes if axis not in self.fixed and axis != "z"]
        if self.channel is None:
            return pixels.transpose(left.index("y"), left.index("x"))[None]
        return pixels.transpose(left.index(self.channel), left.index("y"), left.index("x"))


def arrange(path: str, axes: tuple[str, ...], shape: tuple[int, ...], select: Mapping[str, int]) -> Layout:
    """The layout of an array of `shape` whose dimensions are `axes`, one position chosen of those in `select`.

    Dimensions of length 1 are dropped, z too. Where pixels have samples (s) and channels (c), the samples are the
    channels, and of c one has to be selected.

    Raises:
        ImageError: `axes` or `select` do not fit the array, or an axis that is neither y, x, z nor the channels is
            longer than 1 and not selected.
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
    for axis in axes:
        if axis not in ("y", "x", "z", channel) and axis not in fixed:
            raise ImageError(
                f"{path} has {lengths[axis]} {_KINDS.get(axis, 'positions')} (axis {axis}): "
                f"choose one with --select {axis}=0..{lengths[axis] - 1}"
            )
    layout = Layout(axes, shape, fixed, channel)
    if layout.channels > MAX_CHANNELS:
        raise ImageError(
            f"{path} has {layout.channels} channels; at most {MAX_CHANNELS} are supported: name them with --axes"
        )
    return layout


def _check_axes(path: str, axes: tuple[str, ...], shape: tuple[int, ...]) -> None:
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


def is_thin(shape: tuple[int, ...]) -> bool:
    """Whether planes of a stack of `shape` (z, y, x) are so narrow that their width, or height, may count channels."""
    return any(2 * side <= min(shape[0], other) and side <= MAX_CHANNELS for side, other in (shape[1:], shape[:0:-1]))
