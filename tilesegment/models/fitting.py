"""Which network has these weights, and which weight is which.

What of a network can be seen in its weights is not asked for: channels, classes, depth, width, and those options that
change a name or a shape. Of the others, `activation` and `dropout`, the network's defaults hold.
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
from tilesegment.networks.rescaled import Rescaled

Weights = Mapping[str, Tensor]

# what one layer's shape tells, and what no weight tells
_NOT_TRIED = ("base", "hidden", "activation", "dropout")
# channels of an image that no later layer has
_MARK = 61
_SHOWN = 5


@dataclass(frozen=True)
class Fit:
    """A network with the weights that were compared with its own.

    Attributes:
        name, arguments: as `build_network` takes them.
        weights: by our names, of the network itself where it is `Rescaled`; without BatchNorm's counts of batches.
        layout: how they were recognised, for people.
        misfit: what does not fit, by what is wrong with it; empty if all does.
    """

    name: str
    arguments: dict[str, Any]
    weights: Weights
    layout: str
    misfit: Mapping[str, list[str]]

    def network(self) -> Network:
        """The network with these weights, in evaluation mode."""
        with torch.device("meta"):
            network = build_network(self.name, self.arguments)
        bare = _bare(network)
        counts = {name: torch.tensor(0) for name in bare.state_dict() if name.endswith("num_batches_tracked")}
        bare.load_state_dict({**self.weights, **counts}, assign=True)
        return network.requires_grad_(False).eval()


def fit_network(given: StateDict, name: str, asked: Mapping[str, Any], by_order: bool) -> Fit:
    """The network `name`, with what was `asked` for, whose weights these are: by our names, or the public U-Net's.

    A network of one output, whose sigmoid is the probability of class 1, becomes the same with two classes.

    Args:
        given: the weights.
        name, asked: of the network, as `build_network` takes them; options that are not named are found out.
        by_order: if the names are others, go by the order: where number, shapes and kinds of the tensors are the
            network's, in the order in which it is built or in that in which it computes.

    Raises:
        ModelError: they are not; says what is missing, left over, or of another shape.
    """
    options_of(name)  # raises
    tensors, layout = given.tensors, "names of tilesegment"
    if "inc.double_conv.0.weight" in tensors:
        tensors, layout = _public(tensors, name), "names of the public U-Net"
    fits = [_sized(name, one, tensors, layout) for one in _structures(name, asked, tensors.keys())]
    if by_order and not any(not fit.misfit for fit in fits):
        if not given.ordered:
            raise ModelError("a safetensors file sorts its tensors: by order, only what torch.save wrote can be taken")
        every = _structures(name, asked)
        fits += [
            _sized(name, one, weights, "order of the tensors")
            for one in every
            for weights in _in_order(one[1], tensors)
        ]
    exact = [fit for fit in fits if not fit.misfit]
    if not exact:
        _check_options(name, asked, tensors, layout)
        closest = min(fits, key=lambda fit: sum(map(len, fit.misfit.values())))
        strange = len(closest.misfit.get("left over", ())) == len(tensors)
        hint = (
            "; nor do they fit by their order"
            if by_order
            else "; if only the names differ, take them by order: --by-order"
        )
        raise ModelError(f"not the weights of {name}: {_listed(closest.misfit)}{hint if by_order or strange else ''}")
    _check_unambiguous(name, exact)
    return exact[0]


def _check_options(name: str, asked: Mapping[str, Any], tensors: Weights, layout: str) -> None:
    """Whether the weights would fit with other options than those that were asked for.

    Raises:
        ModelError: they would; says with which.
    """
    fits = (_sized(name, one, tensors, layout) for one in _structures(name, {}, tensors.keys())) if asked else ()
    fit = next((fit for fit in fits if not fit.misfit), None)
    if fit is not None:
        found = ", ".join(f"{key}={fit.arguments[key]}" for key in asked if fit.arguments[key] != asked[key])
        given = ", ".join(f"{key}={value}" for key, value in asked.items())
        raise ModelError(f"not the weights of {name} with {given}; they fit with --option {found}")


def _structures(
    name: str, asked: Mapping[str, Any], names: Set[str] | None = None
) -> list[tuple[dict[str, Any], Network]]:
    """The network, one channel wide, with every choice of the options that were not asked for; the defaults first.

    With `names` of weights, one option after the other, only the choices that leave the fewest names over and, among
    them, lack the fewest: what one option adds does not hide what another does.
    """
    kind, _ = NETWORKS[name]
    narrow = {"in_channels": _MARK, "classes": 2} | ({"base": 1} if "base" in kind.options else {})

    def built(options: dict[str, Any]) -> Network:
        with torch.device("meta"):
            return build_network(name, {**options, **narrow})

    found = [dict(asked)]
    for option, choice in kind.options.items():
        if option in asked or option in _NOT_TRIED:
            continue
        values = choice.names if isinstance(choice, Choice) else range(choice.low, int(choice.high) + 1)
        default = _defaults(name)[option]
        ordered: list[Any] = [default, *(value for value in values if value != default)]
        found = [{**options, option: value} for options in found for value in ordered]
        if names is not None:
            own = [_shapes(built(options)).keys() for options in found]
            lacks = [(len(names - keys), len(keys - names)) for keys in own]
            found = [options for options, lack in zip(found, lacks, strict=True) if lack == min(lacks)]
    return [(options, built(options)) for options in found]


def _sized(name: str, structure: tuple[dict[str, Any], Network], weights: Weights, layout: str) -> Fit:
    """The network of this structure with the sizes that its first and its last layer tell, compared with `weights`."""
    chosen, network = structure
    names = {module: key for key, module in _bare(network).named_modules()}
    entry = next(module for module in names if isinstance(module, nn.Conv2d) and module.in_channels == _MARK)
    arguments = {"in_channels": 1, "classes": 2}
    first, last = (weights.get(f"{names[layer]}.weight") for layer in (entry, network.heads[-1]))
    if first is not None and first.ndim == 4:
        arguments["in_channels"] = first.shape[1]
        if "base" in NETWORKS[name][0].options:
            arguments["base"] = first.shape[0]
    if last is not None and last.ndim == 4:
        arguments["classes"] = max(2, last.shape[0])
        if last.shape[0] == 1:
            # the sigmoid of z is the soft-max of (0, z)
            ends = [f"{names[head]}.{kind}" for head in network.heads for kind in ("weight", "bias")]
            single = {end: weights[end] for end in ends if end in weights}
            weights = {**weights, **{end: torch.cat([torch.zeros_like(z), z]) for end, z in single.items()}}
    arguments |= chosen
    with torch.device("meta"):
        expected = _shapes(build_network(name, arguments))
    return Fit(name, arguments, weights, layout, _misfit(expected, weights))


def _misfit(expected: Mapping[str, tuple[int, ...]], weights: Weights) -> dict[str, list[str]]:
    found = {
        "missing": [name for name in expected if name not in weights],
        "left over": [name for name in weights if name not in expected],
        "of another shape": [
            f"{name} {tuple(weights[name].shape)} instead of {shape}"
            for name, shape in expected.items()
            if name in weights and weights[name].shape != shape
        ],
    }
    return {what: names for what, names in found.items() if names}


def _listed(misfit: Mapping[str, list[str]]) -> str:
    """The first names of each kind, in one line."""
    return "; ".join(
        f"{len(names)} {what} ({', '.join(map(printable, names[:_SHOWN]))}{', ...' if len(names) > _SHOWN else ''})"
        for what, names in misfit.items()
    )


def _check_unambiguous(name: str, exact: list[Fit]) -> None:
    """Whether what the weights leave open is what the network has by default: `nearest` and `bilinear` weigh alike."""
    defaults = _defaults(name)
    for option in exact[0].arguments:
        found = {fit.arguments[option] for fit in exact}
        if len(found) > 1 and defaults[option] not in found:
            raise ModelError(
                f"its {option} cannot be told by the weights: give the option {option}={'|'.join(sorted(found))}"
            )


def _public(tensors: Weights, name: str) -> Weights:
    """Weights of the public U-Net (github.com/milesial/Pytorch-UNet) by the names of `unet-same`.

    Its layers are the same, so is the order in which skip and upsampled are joined. Earlier releases had a bias before
    each BatchNorm: BN(y + b) with running mean m is BN(y) with m - b.

    Raises:
        ModelError: another network is wanted.
    """
    if name != "unet-same":
        raise ModelError(f"weights of the public U-Net, not of {name}; import them as network unet-same")
    ours = {_public_name(name): value for name, value in tensors.items()}
    for key, bias in list(ours.items()):
        conv = re.fullmatch(r"((?:down|merge)\.\d+\.)([03])\.bias", key)
        mean = f"{conv[1]}{int(conv[2]) + 1}.running_mean" if conv is not None else ""
        if mean in ours and ours[mean].shape == bias.shape:
            ours[mean] = (ours[mean].double() - ours.pop(key).double()).float()
    return ours


def _public_name(name: str) -> str:
    """Ours for the public U-Net's; what is none of them stays."""
    name = re.sub(r"^inc\.double_conv\.", "down.0.", name)
    name = re.sub(r"^down([1-9])\.maxpool_conv\.1\.double_conv\.", r"down.\1.", name)
    name = re.sub(r"^up([1-9])\.up\.", lambda found: f"up.{int(found[1]) - 1}.", name)
    name = re.sub(r"^up([1-9])\.conv\.double_conv\.", lambda found: f"merge.{int(found[1]) - 1}.", name)
    return re.sub(r"^outc\.conv\.", "head.", name)


def _in_order(network: Network, tensors: Weights) -> Iterator[Weights]:
    """The tensors by our names, one after the other, where as many are of the same kinds: built or computed so."""
    shapes = _shapes(network)
    if len(shapes) != len(tensors):
        return
    for names in (list(shapes), _computed(network)):
        alike = (
            ours.split(".")[-1] == theirs.split(".")[-1] and len(shapes[ours]) == value.ndim
            for ours, (theirs, value) in zip(names, tensors.items(), strict=True)
        )
        if all(alike):
            yield dict(zip(names, tensors.values(), strict=True))


def _computed(network: Network) -> list[str]:
    """The names of the weights in the order in which they are used."""
    bare, shapes, order = _bare(network), _shapes(network), list[str]()
    side = bare.field_of_view.tile_of(bare.divisor)
    for name, module in bare.named_modules():
        own = [f"{name}.{key}" for key in module.state_dict() if f"{name}.{key}" in shapes and "." not in key]
        module.register_forward_hook(lambda module, seen, result, own=own: order.extend(own))
    # in training mode all heads are used
    bare.train()(torch.empty(2, _MARK, side, side, device="meta"))
    return order


def _shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Of every weight by its name, in the order in which the network was built."""
    state = _bare(network).state_dict()
    return {name: tuple(value.shape) for name, value in state.items() if not name.endswith("num_batches_tracked")}


def _bare(network: Network) -> Network:
    """The network without what reduces its images."""
    return network.network if isinstance(network, Rescaled) else network


def _defaults(name: str) -> dict[str, Any]:
    parameters = inspect.signature(NETWORKS[name][0]).parameters
    return {option: parameter.default for option, parameter in parameters.items()}
