"""Follows the pixel axes through a network: one pass without a single value computed.

The network runs on PyTorch's `meta` device, where tensors have shapes only, and every operation that it calls is seen
on its way. So it does not matter how the network is written, loops and branches on shapes included, and no more memory
or time is used for thousands of pixels than for a few.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import lcm
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tilesegment.networks.operations import JOINS, PLANAR, RESIZES, RULES, Axes, Call, Rule, pointwise
from tilesegment.networks.pixel_axis import PixelAxis

_UNIFORM = {"zeros", "ones", "full", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones", "new_full"}


@dataclass(frozen=True)
class Trace:
    """What one pass over a tile of `size` x `size` pixels showed.

    Attributes:
        size: of the tile.
        divisor: the shift of the image, in pixels, that shifts all that the network computes by whole indices: the
            least common multiple of the numerators of all scales.
        shape: of the output; None if the network failed.
        axes: of the output; None if they were lost, or the network failed.
        obstacles: why it can never be exact, in words.
        unknown: operations that were not understood.
        resizes: the ratios of all resizes, in order.
        failure: what the network raised.
    """

    size: int
    divisor: int
    shape: tuple[int, ...] | None
    axes: Axes | None
    obstacles: tuple[str, ...]
    unknown: tuple[str, ...]
    resizes: tuple[Fraction, ...]
    failure: Exception | None

    @property
    def keeps_size(self) -> bool:
        """Whether the output is as high and wide as the tile."""
        return self.shape is not None and self.shape[-2:] == (self.size, self.size)


class Skeleton:
    """A network without its values.

    Args:
        network: any module that takes (B, C, H, W); it is left as it is.
        in_channels: C.
    """

    def __init__(self, network: nn.Module, in_channels: int) -> None:
        # weights are replaced while copying, so that none is ever copied
        replaced = {id(tensor): _valueless(tensor) for tensor in _tensors(network)}
        self._network, self._channels = copy.deepcopy(network, replaced).eval(), in_channels
        self._inside: list[str] = []
        for name, module in self._network.named_modules():
            words = f"{name} ({type(module).__name__})" if name else f"the network ({type(module).__name__})"
            module.register_forward_pre_hook(lambda module, inputs, words=words: self._inside.append(words))
            module.register_forward_hook(lambda module, inputs, output: self._inside.pop() and None)
        floats = (p.dtype for p in network.parameters() if p.is_floating_point())
        self._dtype = next(floats, torch.float32)

    def trace(self, size: int) -> Trace:
        """One pass over a tile of `size` x `size` pixels."""
        self._inside.clear()
        tracer = _Tracer(self._inside)
        output, failure = None, None
        with torch.device("meta"), torch.inference_mode():
            image = torch.empty(1, self._channels, size, size, dtype=self._dtype)
            tracer.follow(image, (PixelAxis.of_input(-2, size), PixelAxis.of_input(-1, size)))
            try:
                with tracer:
                    output = self._network(image)
            except Exception as error:  # whatever a foreign network raises at a size that it does not take
                failure = error
        one = output if isinstance(output, Tensor) else None
        if failure is None and one is None:
            failure = TypeError(f"gives a {type(output).__name__}, not one tensor")
        axes = None if one is None else tracer.axes_of(one)
        shape = None if one is None else tuple(one.shape)
        found = tuple(tracer.obstacles), tuple(tracer.unknown), tuple(tracer.resizes)
        return Trace(size, tracer.divisor, shape, axes, *found, failure)


class _Tracer(TorchDispatchMode):
    """Sees every operation, and keeps the axes of every tensor computed from the image."""

    def __init__(self, inside: list[str]) -> None:
        super().__init__()
        self.divisor = 1
        # dictionaries as ordered sets
        self.obstacles: dict[str, None] = {}
        self.unknown: dict[str, None] = {}
        self.resizes: list[Fraction] = []
        self._inside = inside
        # by id; the tensors are kept, so that no id is used twice
        self._axes: dict[int, Axes | None] = {}
        self._kept: list[Tensor] = []
        self._parts: set[int] = set()
        self._uniform: set[int] = set()

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # or the compiler is imported, which takes seconds, to tell it to leave this alone
        return False

    def follow(self, tensor: Tensor, axes: Axes | None) -> None:
        """Takes note that `tensor` comes from the image; its axes may be lost (None)."""
        self._axes[id(tensor)] = axes
        self._kept.append(tensor)
        self.divisor = lcm(self.divisor, *(axis.scale.numerator for axis in axes or ()))

    def axes_of(self, tensor: Tensor) -> Axes | None:
        """None for a tensor that does not come from the image, or whose axes are lost."""
        return self._axes.get(id(tensor))

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        rule = pointwise if torch.Tag.pointwise in func.tags else RULES.get(name)
        if rule is None:
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        arguments = _arguments(func, args, kwargs)
        if name in RESIZES and "scale_factors" in arguments:
            # the shape is that of nearest, which without values costs a hundredth
            sizes = (arguments[key] for key in ("input", "output_size", "scale_factors"))
            result = torch.ops.aten.upsample_nearest2d.vec(*sizes)
        elif name == "cat":
            # without values torch would import its compiler for this
            tensors, dim = arguments["tensors"], arguments.get("dim", 0)
            shape = list(tensors[0].shape)
            shape[dim] = sum(tensor.shape[dim] for tensor in tensors)
            result = tensors[0].new_empty(shape)
        else:
            result = func(*args, **kwargs)
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        if torch.Tag.nondeterministic_seeded in func.tags and rule is None:
            self._refuse("is random")
        axes = None
        if any(id(tensor) in self._axes for tensor in inputs):
            axes = self._ruled(name, rule, arguments, inputs, outputs[0]) if outputs else None
            self._look_for_writes_to_parts(name, inputs[0], axes)
            for tensor in outputs:
                self.follow(tensor, axes)
        if name in _UNIFORM:
            self._kept += outputs
            self._uniform.update(map(id, outputs))
        if func.is_view:
            self._kept += (inputs[0], *outputs)
            self._parts.update(map(id, (inputs[0], *outputs)))
        return result

    def _look_for_writes_to_parts(self, name: str, target: Tensor, axes: Axes | None) -> None:
        """What is written to a part of a tensor changes the whole, which is not followed."""
        before = self._axes.get(id(target))
        same = before is not None and axes is not None and all(a is b for a, b in zip(before, axes, strict=True))
        if name.endswith("_") and id(target) in self._parts and not same:
            self._give_up(name)

    def _ruled(
        self, name: str, rule: Rule | None, arguments: dict[str, Any], inputs: list[Tensor], output: Tensor
    ) -> Axes | None:
        """The axes after an operation."""
        known = [axes for tensor in inputs if (axes := self.axes_of(tensor))]
        first = next((leaf for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)), None)
        if not known:
            if name in ("bmm", "matmul") and all(id(tensor) in self._axes for tensor in inputs):
                self._refuse("compares all positions of the tile (attention)")
            return None
        astray = rule is not pointwise and name not in JOINS and (first is None or self.axes_of(first) is None)
        if rule is None or astray or (name in PLANAR and {axis.dim for axis in known[0]} != {-1, -2}):
            return self._give_up(name)
        constants = [t for t in inputs if id(t) not in self._axes and id(t) not in self._uniform]
        report = self._refuse, lambda: self._give_up(name), self.resizes.append
        return rule(Call(name, arguments, known[0], known[1:], constants, output, *report))

    def _refuse(self, reason: str) -> Axes | None:
        self.obstacles[f"{self._inside[-1]} {reason}"] = None
        return None

    def _give_up(self, name: str) -> Axes | None:
        self.unknown[name] = None
        return None


def _arguments(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments by name, defaults included."""
    declared = func._schema.arguments
    given = dict(zip((argument.name for argument in declared), args, strict=False))
    return {argument.name: argument.default_value for argument in declared} | given | kwargs


def _tensors(network: nn.Module) -> Iterator[Tensor]:
    """Every tensor that hangs on a module, as parameter, buffer or plain attribute."""
    for module in network.modules():
        yield from module.parameters(recurse=False)
        yield from module.buffers(recurse=False)
        yield from (value for value in vars(module).values() if isinstance(value, Tensor))


def _valueless(tensor: Tensor) -> Tensor:
    empty = torch.empty_like(tensor, device="meta", requires_grad=False)
    return nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
