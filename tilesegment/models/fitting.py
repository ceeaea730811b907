"""Find the network that given weights belong to, and match the weights with ours.

What the weights show need not be given: channels, classes, depth, width, and options that change a name or a shape.
`activation` and `dropout`, which no weight shows, keep the network's defaults.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.models.state_dict import StateDict, printable
from tilesegment.networks import NETWORKS, build_network, options_of
from tilesegment.networks.network import Choice, Network
from tilesegment.networks.rescaled import unscaled

Weights = Mapping[str, Tensor]

# options shown by the shape of one layer, or by no weight
_NOT_TRIED = ("base", "hidden", "activation", "dropout")
_MARK = 61  # image channels, a number that no later layer has
_LISTED = 5


@dataclass(frozen=True)
class Fit:
    """A network, and given weights compared with it.

    Attributes:
        name, arguments: as `build_network` takes them.
        weights: by our names, for the inner network of a `Rescaled`; without BatchNorm's counts of batches.
        layout: how they were recognised, for people.
        misfit: names of weights that do not fit, by what is wrong with them; empty if all fit.
    """

    name: str
    arguments: dict[str, Any]
    weights: Weights
    layout: str
    misfit: Mapping[str, list[str]]

    def network(self) -> Network:
        """Build the network with these weights, in evaluation mode."""
        network = _built(self.name, self.arguments)
        bare = unscaled(network)
        counts = {name: torch.tensor(0) for name in bare.state_dict() if name.endswith("num_batches_tracked")}
        bare.load_state_dict({**self.weights, **counts}, assign=True)
        return network.requires_grad_(False).eval()


def fit_network(given: StateDict, name: str, asked: Mapping[str, Any], by_order: bool) -> Fit:
    """Find the network `name` with the options `asked` that has these weights, by our names or the public U-Net's.

    A network with one output, whose sigmoid is the probability of class 1, becomes the same with two classes.

    Args:
        given: the weights.
        name, asked: as `build_network` takes them; other options are found.
        by_order: if names are unknown, match tensors by order: number, shapes and kinds must be those of the network in
            the order in which it is built or computes.

    Raises:
        ModelError: there is none; the message says what is missing, left over, or of another shape.
    """
    options_of(name)  # raises
    tensors, layout = given.tensors, "names of tilesegment"
    if "inc.double_conv.0.weight" in tensors:
        tensors, layout = _public(tensors, name), "names of the public U-Net"
    fits = [_compared(name, one, tensors, layout) for one in _structures(name, asked, tensors.keys())]
    if by_order and all(fit.misfit for fit in fits):
        if not given.ordered:
            raise ModelError("a safetensors file sorts its tensors; --by-order needs a file that torch.save wrote")
        for structure in _structures(name, asked):
            ordered = _in_order(structure[1], tensors)
            fits += [_compared(name, structure, weights, "order of the tensors") for weights in ordered]
    exact = [fit for fit in fits if not fit.misfit]
    if not exact:
        _check_options(given, name, asked)
        closest = min(fits, key=lambda fit: sum(map(len, fit.misfit.values())))
        hint = ""
        if by_order:
            hint = "; nor do they fit by their order"
        elif len(closest.misfit.get("left over", ())) == len(tensors):
            hint = "; if only the names differ, take them by order: --by-order"
        raise ModelError(f"not the weights of {name}: {_listed(closest.misfit)}{hint}")
    # use defaults for what the weights leave open: `nearest` and `bilinear` have the same weights
    for option, default in _defaults(name).items():
        found = {fit.arguments[option] for fit in exact if option in fit.arguments}
        if len(found) > 1 and default not in found:
            raise ModelError(f"the weights do not show its {option}; give --option {option}={'|'.join(sorted(found))}")
    return exact[0]


def _check_options(given: StateDict, name: str, asked: Mapping[str, Any]) -> None:
    """Raise ModelError if the weights fit with other options than those `asked` for."""
    try:
        fit = fit_network(given, name, {}, by_order=False) if asked else None
    except ModelError:
        return
    if fit is not None:
        found = ", ".join(f"{key}={fit.arguments[key]}" for key in asked if fit.arguments[key] != asked[key])
        options = ", ".join(f"{key}={value}" for key, value in asked.items())
        raise ModelError(f"not the weights of {name} with {options}; they fit with --option {found}")


def _structures(
    name: str, asked: Mapping[str, Any], names: Set[str] | None = None
) -> list[tuple[dict[str, Any], Network]]:
    """The network, one channel wide, with every choice of the options that are not `asked` for; the defaults first.

    Given the `names` of weights, keep for each option in turn only the choices that leave the fewest names over, and of
    these the ones that lack the fewest.
    """
    kind, _ = NETWORKS[name]
    narrow = {"in_channels": _MARK, "classes": 2} | ({"base": 1} if "base" in kind.options else {})
    found = [dict(asked)]
    for option, choice in kind.options.items():
        if option in asked or option in _NOT_TRIED:
            continue
        default = _defaults(name)[option]
        values: list[Any] = list(
            choice.names if isinstance(choice, Choice) else range(choice.low, int(choice.high) + 1)
        )
        values.sort(key=lambda value: value != default)  # stable
        found = [{**options, option: value} for options in found for value in values]
        if names is not None:
            own = [_shapes(_built(name, {**options, **narrow})).keys() for options in found]
            lacks = [(len(names - keys), len(keys - names)) for keys in own]
            found = [options for options, lack in zip(found, lacks, strict=True) if lack == min(lacks)]
    return [(options, _built(name, {**options, **narrow})) for options in found]


def _compared(name: str, structure: tuple[dict[str, Any], Network], weights: Weights, layout: str) -> Fit:
    """Size the network of this structure by its first and last layer, and compare it with `weights`."""
    options, network = structure
    names = {module: key for key, module in unscaled(network).named_modules()}
    entry = next(module for module in names if isinstance(module, nn.Conv2d) and module.in_channels == _MARK)
    arguments: dict[str, Any] = {"in_channels": 1, "classes": 2}
    first, last = (weights.get(f"{names[layer]}.weight") for layer in (entry, network.heads[-1]))
    if first is not None and first.ndim == 4:
        arguments["in_channels"] = first.shape[1]
        if "base" in NETWORKS[name][0].options:
            arguments["base"] = first.shape[0]
    if last is not None and last.ndim == 4:
        arguments["classes"] = max(2, last.shape[0])
        if last.shape[0] == 1:
            # the sigmoid of z is the softmax of (0, z)
            ends = [f"{names[head]}.{kind}" for head in network.heads for kind in ("weight", "bias")]
            single = {end: weights[end] for end in ends if end in weights}
            weights = {**weights, **{end: torch.cat([torch.zeros_like(z), z]) for end, z in single.items()}}
    arguments |= options
    expected = _shapes(_built(name, arguments))
    misfit = {
        "missing": [name for name in expected if name not in weights],
        "left over": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in weights and weights[name].shape != shape
        ],
    }
    return Fit(name, arguments, weights, layout, {what: found for what, found in misfit.items() if found})


def _listed(misfit: Mapping[str, list[str]]) -> str:
    """The first names of each kind of misfit."""
    return "; ".join(
        f"{len(names)} {what} ({', '.join(map(printable, names[:_LISTED]))}{', ...' if len(names) > _LISTED else ''})"
        for what, names in misfit.items()
    )


def _public(tensors: Weights, name: str) -> Weights:
    """Rename weights of the public U-Net (github.com/milesial/Pytorch-UNet) to those of `unet-same`, its equal.

    Earlier releases had a bias before each BatchNorm: BN(y + b) with running mean m is BN(y) with m - b.

    Raises:
        ModelError: another network is wanted.
    """
    if name != "unet-same":
        raise ModelError(f"weights of the public U-Net, not of {name}; import them as network unet-same")
    ours = {_public_name(key): value for key, value in tensors.items()}
    for key, bias in list(ours.items()):
        conv = re.fullmatch(r"((?:down|merge)\.\d+\.)([03])\.bias", key)
        mean = f"{conv[1]}{int(conv[2]) + 1}.running_mean" if conv is not None else ""
        if mean in ours and ours[mean].shape == bias.shape:
            ours[mean] = (ours[mean].double() - ours.pop(key).double()).float()
    return ours


def _public_name(name: str) -> str:
    """Our name for a name of the public U-Net; other names stay."""
    name = re.sub(r"^inc\.double_conv\.", "down.0.", name)
    name = re.sub(r"^down([1-9])\.maxpool_conv\.1\.double_conv\.", r"down.\1.", name)
    name = re.sub(r"^up([1-9])\.up\.", lambda found: f"up.{int(found[1]) - 1}.", name)
    name = re.sub(r"^up([1-9])\.conv\.double_conv\.", lambda found: f"merge.{int(found[1]) - 1}.", name)
    return re.sub(r"^outc\.conv\.", "head.", name)


def _in_order(network: Network, tensors: Weights) -> Iterator[Weights]:
    """Yield the tensors by our names, in the order built and computed, if number and kinds agree."""
    shapes = _shapes(network)
    if len(shapes) != len(tensors):
        return
    for names in (list(shapes), _computed(network)):
        pairs = zip(names, tensors.items(), strict=True)
        if all(
            ours.split(".")[-1] == theirs.split(".")[-1] and len(shapes[ours]) == value.ndim
            for ours, (theirs, value) in pairs
        ):
            yield dict(zip(names, tensors.values(), strict=True))


def _computed(network: Network) -> list[str]:
    """Names of the weights in the order of use."""
    bare, shapes, order = unscaled(network), _shapes(network), list[str]()
    side = bare.field_of_view.tile_of(bare.divisor)
    for name, module in bare.named_modules():
        own = [f"{name}.{key}" for key in module.state_dict() if f"{name}.{key}" in shapes and "." not in key]
        module.register_forward_hook(lambda module, seen, result, own=own: order.extend(own))
    # in training mode all heads are used
    bare.train()(torch.empty(2, _MARK, side, side, device="meta"))
    return order


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shape of every weight by its name, in the order in which the network was built."""
    state = unscaled(network).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _built(name: str, arguments: Mapping[str, Any]) -> Network:
    with torch.device("meta"):
        return build_network(name, arguments)


def _defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(NETWORKS[name][0]).parameters
    return {option: parameter.default for option, parameter in parameters.items()}
