"""What each operation of PyTorch does to the pixel axes of a tensor.

A rule takes a `Call` and returns the axes of what was computed, or None where they are lost. It reports what can never
be exact through `Call.refuse`, and what it does not know through `Call.give_up`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any

from torch import Tensor

from tilesegment.networks.pixel_axis import PixelAxis

Axes = tuple[PixelAxis, PixelAxis]
"""y and x."""


@dataclass(frozen=True)
class Call:
    """One operation, done.

    Attributes:
        name: as in `torch.ops.aten`, without overload.
        arguments: by name, defaults included.
        axes: of the first argument that has any.
        others: axes of the other arguments that have any.
        constants: tensors that do not come from the image and do not hold one value only.
        output: the tensor computed, or the first of them.
        refuse: takes words for why this is never exact; returns None, as lost axes.
        give_up: takes nothing, the operation is not understood; returns None, as lost axes.
        resizes: takes the ratio of a resize.
    """

    name: str
    arguments: dict[str, Any]
    axes: Axes
    others: Sequence[Axes]
    constants: Sequence[Tensor]
    output: Tensor
    refuse: Callable[[str], Axes | None]
    give_up: Callable[[], Axes | None]
    resizes: Callable[[Fraction], None]

    @property
    def source(self) -> Tensor:
        """The first argument."""
        first = next(iter(self.arguments.values()))
        return first if isinstance(first, Tensor) else first[0]

    @property
    def rank(self) -> int:
        return self.source.dim()

    def pair(self, name: str, default: int = 0) -> tuple[int, int]:
        """An argument of one value or two (y, x)."""
        value = self.arguments.get(name)
        if value is None or value == []:
            return default, default
        values = [value] if isinstance(value, int) else list(value)
        return values[0], values[-1]

    def dims(self) -> set[int]:
        """The argument `dim`, one or several, counted from the end; none given is all."""
        dim = self.arguments.get("dim")
        chosen = list(range(self.rank)) if dim is None or dim == [] else [dim] if isinstance(dim, int) else dim
        return {d if d < 0 else d - self.rank for d in chosen}

    def along_pixels(self) -> bool:
        """Whether the argument `dim` names an axis of the image."""
        return any(axis.dim in self.dims() for axis in self.axes)

    def each(self, change: Callable[[PixelAxis, int], PixelAxis]) -> Axes:
        """Both axes changed by a function of the axis and the output's size along it.

        An axis's `dim`, -2 or -1, is also its index in pairs (y, x): strides, kernels, factors.
        """
        y, x = (change(axis, self.output.shape[axis.dim]) for axis in self.axes)
        return y, x


Rule = Callable[[Call], Axes | None]


def pointwise(call: Call) -> Axes | None:
    """Each value from values at the same index."""
    if any(tensor.dim() >= -a.dim and tensor.shape[a.dim] > 1 for tensor in call.constants for a in call.axes):
        call.refuse("adds what depends on the place in the tile")
    y, x = call.axes
    for other_y, other_x in call.others:
        if (y.dim, x.dim) != (other_y.dim, other_x.dim) or len(y.exact) != len(other_y.exact):
            return call.give_up()
        if (y.scale, x.scale) != (other_y.scale, other_x.scale):
            call.refuse("joins tensors of different resolution")
        y, x = y.joined(other_y), x.joined(other_x)
    return y, x


def _convolution(call: Call) -> Axes:
    kernel = call.arguments["weight"].shape[-2:]
    stride, dilation = call.pair("stride", 1), call.pair("dilation", 1)
    padding = call.arguments["padding"]
    if padding == "same":
        # of an odd total, the larger half goes to the end
        pad = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    else:
        pad = (0, 0) if padding == "valid" else call.pair("padding")
    return call.each(lambda a, size: a.window(size, kernel[a.dim], stride[a.dim], dilation[a.dim], pad[a.dim]))


def _transposed(call: Call) -> Axes:
    kernel = call.arguments["weight"].shape[-2:]
    stride, dilation, pad = call.pair("stride", 1), call.pair("dilation", 1), call.pair("padding")
    return call.each(lambda a, size: a.transposed(size, kernel[a.dim], stride[a.dim], dilation[a.dim], pad[a.dim]))


def _pool(call: Call) -> Axes:
    kernel = call.pair("kernel_size")
    strides = [stride or size for stride, size in zip(call.pair("stride"), kernel, strict=True)]
    dilation, pad = call.pair("dilation", 1), call.pair("padding")
    return call.each(lambda a, size: a.window(size, kernel[a.dim], strides[a.dim], dilation[a.dim], pad[a.dim]))


def _pool_with_indices(call: Call) -> Axes | None:
    # an index names a pixel of its own window only where windows do not overlap; then unpooling is as nearest
    plain = call.pair("stride") in ((0, 0), call.pair("kernel_size")) and call.pair("padding") == (0, 0)
    return _pool(call) if plain else call.give_up()


def _unpool(call: Call) -> Axes:
    return call.each(lambda axis, size: axis.resized(size, Fraction(size, len(axis.exact))))


def _resize(call: Call) -> Axes:
    factors, sizes = call.arguments.get("scale_factors"), call.source.shape[-2:]
    if call.arguments.get("align_corners") and sizes != call.output.shape[-2:]:
        call.refuse("lays its corners on the tile's (align_corners=True)")

    def change(axis: PixelAxis, size: int) -> PixelAxis:
        ratio = Fraction(factors[axis.dim]).limit_denominator(999) if factors else Fraction(size, sizes[axis.dim])
        call.resizes(ratio)
        return axis.resized(size, ratio, RESIZES[call.name])

    return call.each(change)


RESIZES = {
    "upsample_nearest2d": "nearest",
    "_upsample_nearest_exact2d": "nearest-exact",
    "upsample_bilinear2d": "bilinear",
    "upsample_bicubic2d": "bicubic",
}


def _pad(call: Call) -> Axes | None:
    # x first, as (before, after); how the border is filled does not matter: inexact it is
    pad = dict(zip((-1, -2, -3, -4), call.arguments["pad"][::2], strict=False))
    return call.each(lambda axis, size: axis.window(size, pad=pad.get(axis.dim, 0)))


def _shuffle(call: Call) -> Axes:
    factor = Fraction(call.arguments["upscale_factor"])
    return call.each(lambda axis, size: axis.resized(size, factor))


def _unshuffle(call: Call) -> Axes:
    factor = call.arguments["downscale_factor"]
    return call.each(lambda axis, size: axis.window(size, factor, factor))


def _slice(call: Call) -> Axes:
    (dim,), step = call.dims(), call.arguments["step"]
    length = call.source.shape[dim]
    first = slice(call.arguments["start"], call.arguments["end"]).indices(length)[0]
    return call.each(lambda a, size: a.window(size, stride=step, pad=-first) if a.dim == dim else a)


def _cat(call: Call) -> Axes | None:
    return call.give_up() if call.along_pixels() else pointwise(call)


def _stack(call: Call) -> Axes | None:
    axes, place = pointwise(call), call.arguments["dim"]
    place = place if place >= 0 else place + call.rank + 1
    return axes and _moved(axes, {axis.dim: axis.dim - (place > call.rank + axis.dim) for axis in axes})


def _without(call: Call) -> Axes | None:
    """One dimension less (select, unbind)."""
    if call.along_pixels():
        return call.give_up()
    (dim,) = call.dims()
    return _moved(call.axes, {axis.dim: axis.dim + (dim > axis.dim) for axis in call.axes})


def _parts(call: Call) -> Axes | None:
    return call.give_up() if call.along_pixels() else call.axes


def _permute(call: Call) -> Axes:
    order = [d % call.rank for d in call.arguments["dims"]]
    return _moved(call.axes, {a.dim: order.index(a.dim % call.rank) - call.rank for a in call.axes})


def _transpose(call: Call) -> Axes:
    one, two = (call.arguments[name] % call.rank - call.rank for name in ("dim0", "dim1"))
    swap = {one: two, two: one}
    return _moved(call.axes, {axis.dim: swap.get(axis.dim, axis.dim) for axis in call.axes})


def _view(call: Call) -> Axes | None:
    """Kept where as many values follow an axis as before: then its index is the same, whatever else is folded."""
    old, new, moves = call.source.shape, call.output.shape, {}
    for axis in call.axes:
        behind = prod(old[len(old) + axis.dim + 1 :])
        for place, size in enumerate(new):
            if size == old[axis.dim] and prod(new[place + 1 :]) == behind:
                moves[axis.dim] = place - len(new)
    return _moved(call.axes, moves) if len(moves) == 2 else call.give_up()


def _moved(axes: Axes, moves: dict[int, int]) -> Axes:
    y, x = (replace(axis, dim=moves[axis.dim]) for axis in axes)
    return y, x


def _repeat(call: Call) -> Axes | None:
    return call.axes if all(call.arguments["repeats"][axis.dim] == 1 for axis in call.axes) else call.give_up()


def _norm(call: Call) -> Axes:
    """BatchNorm, and InstanceNorm where it keeps running statistics."""
    if call.arguments.get("training") or call.arguments.get("use_input_stats"):
        call.refuse("normalises by the statistics of the tile")
    return call.axes


def _group_norm(call: Call) -> Axes:
    call.refuse("normalises by the statistics of the tile")
    return call.axes


def _layer_norm(call: Call) -> Axes:
    if any(-axis.dim <= len(call.arguments["normalized_shape"]) for axis in call.axes):
        call.refuse("normalises by the statistics of the tile")
    return call.axes


def _dropout(call: Call) -> Axes:
    if call.arguments["train"] and call.arguments["p"]:
        call.refuse("drops at random while predicting")
    return call.axes


def _reduction(call: Call) -> Axes | None:
    if "other" in call.arguments:  # torch.max(a, b)
        return pointwise(call)
    if call.along_pixels():
        call.refuse(f"takes the {call.name.split('_')[0]} over the whole tile")
        return call.axes if call.output.shape == call.source.shape else None
    if call.output.dim() == call.rank:
        return call.axes
    return _moved(call.axes, {axis.dim: axis.dim + sum(dim > axis.dim for dim in call.dims()) for axis in call.axes})


def _adaptive(call: Call) -> Axes | None:
    return call.refuse("pools the whole tile to a size of its own")


def _linear(call: Call) -> Axes | None:
    if any(axis.dim == -1 for axis in call.axes):
        return call.refuse("weighs all positions of the tile")
    return call.axes


def _product(call: Call) -> Axes | None:
    if call.others:
        return _attention(call)
    return call.give_up() if any(axis.dim == -1 for axis in call.axes) else call.axes


def _attention(call: Call) -> Axes | None:
    return call.refuse("compares all positions of the tile (attention)")


_POINTWISE = "contiguous to type_as detach alias copy_ expand expand_as broadcast_to masked_fill where channel_shuffle"
_POINTWISE += " hardswish hardswish_ hardsigmoid hardsigmoid_ float double half clone lift_fresh native_channel_shuffle"
_REDUCTIONS = "mean sum amax amin max min std var softmax log_softmax logsumexp cumsum linalg_vector_norm argmax prod"
_VIEWS = "view reshape flatten unflatten squeeze unsqueeze _unsafe_view view_as reshape_as"
PLANAR: dict[str, Rule] = {
    "conv2d": _convolution,
    "conv_transpose2d": _transposed,
    "max_pool2d": _pool,
    "avg_pool2d": _pool,
    "max_pool2d_with_indices": _pool_with_indices,
    "max_unpool2d": _unpool,
    **dict.fromkeys(RESIZES, _resize),
    "pixel_shuffle": _shuffle,
    "pixel_unshuffle": _unshuffle,
}
"""Rules of operations whose pixel axes are the last two."""

JOINS: dict[str, Rule] = {"cat": _cat, "stack": _stack, **dict.fromkeys(_POINTWISE.split(), pointwise)}
"""Rules that take tensors of the image among constants, in any order; all others follow their first argument."""

RULES: dict[str, Rule] = {
    **JOINS,
    **PLANAR,
    "pad": _pad,
    "slice": _slice,
    "select": _without,
    "unbind": _without,
    "permute": _permute,
    "transpose": _transpose,
    "repeat": _repeat,
    "batch_norm": _norm,
    "instance_norm": _norm,
    "group_norm": _group_norm,
    "layer_norm": _layer_norm,
    "rms_norm": _layer_norm,
    "linear": _linear,
    "matmul": _product,
    "bmm": _product,
    "scaled_dot_product_attention": _attention,
    "_native_multi_head_attention": _attention,
    **dict.fromkeys(("split", "chunk", "split_with_sizes", "tensor_split"), _parts),
    **dict.fromkeys(_VIEWS.split(), _view),
    **dict.fromkeys(("dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"), _dropout),
    **dict.fromkeys(("dropout_", "feature_dropout_", "alpha_dropout_", "feature_alpha_dropout_"), _dropout),
    **dict.fromkeys(_REDUCTIONS.split(), _reduction),
    **dict.fromkeys(("adaptive_avg_pool2d", "adaptive_max_pool2d"), _adaptive),
}
