"""What a training begins with: a network by name, perhaps with the weights of a model, or a module of the caller's."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from tilesegment.errors import PlanError, option
from tilesegment.geometry import FieldOfView
from tilesegment.models.any_module import model_of
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import build_network, with_padding
from tilesegment.networks.any_network import MODULE
from tilesegment.networks.field_of_view import chosen, derive
from tilesegment.networks.network import Network
from tilesegment.networks.rescaled import unscaled
from tilesegment.training.data import Dataset, Section, SparseDataset
from tilesegment.training.defaults import PERCENTILES
from tilesegment.training.network import begin_from, choose_network
from tilesegment.training.normalisation import choose_normalisation
from tilesegment.training.settings import TrainingSettings

_LARGEST_HALO = 1024


@dataclass(frozen=True, eq=False)
class Start:
    """The network to train, and what its model says of it.

    Attributes:
        name, arguments: of the model's network, as `build_network` takes them.
        network: what is trained, with the model's weights: it works on reduced images, and may pad where that crops.
        view: its field of view.
        padded: whether it pads in place of the model's.
        normalisation: of the grey values.
        halo: chosen context of a tile, kept in the model; None is the exact one.
        notes: what the user should know about what is taken over from `init`, one sentence each.
        init: the model that the weights are from.
        anew: layers that start at random all the same, at least for some classes.
        claimed: the field of view of a module of the caller's.
    """

    name: str
    arguments: dict[str, Any]
    network: Network
    view: FieldOfView
    padded: bool
    normalisation: Normalisation
    halo: int | None
    notes: tuple[str, ...] = ()
    init: Model | None = None
    anew: tuple[str, ...] = ()
    claimed: FieldOfView | None = None


def start_by_name(settings: TrainingSettings, data: Dataset, sections: Sequence[Section]) -> Start:
    """Build the network that the settings name, or that of `init` with its weights.

    Args:
        settings: how to train.
        data: what is trained on.
        sections: of it, reduced.

    Raises:
        PlanError, ModelError, DataError: network, options, model and data do not fit.
    """
    if settings.network == MODULE:
        raise PlanError("the run trains a module of the caller's: give it again, train(..., network=module)")
    init = None if settings.init is None else Model.load(settings.init)
    header = None if init is None else init.header
    name, arguments = choose_network(settings, len(sections[0].image), len(data.classes), init)
    normalisation, notes = choose_normalisation(settings.init, header, sections, _percentiles(settings))
    torch.manual_seed(settings.seed)
    # the trained network sees reduced images; the saved model reduces them itself
    trained, padded = _trained(name, {**arguments, "reduction": 1}, settings, data)
    network = build_network(*trained)
    anew: tuple[str, ...] = ()
    halo = settings.halo
    if init is not None:
        start = (str(settings.init), init.header, unscaled(init.network))
        anew, more = begin_from(*start, network, {**arguments, "reduction": 1}, data)
        notes += more
        halo = init.header.halo if halo is None else halo
    view = _view(name, network, halo, settings.reduction)
    return Start(name, arguments, network, view, padded, normalisation, halo, notes, init, anew)


def start_of_module(settings: TrainingSettings, data: Dataset, sections: Sequence[Section], module: nn.Module) -> Start:
    """Copy the caller's module, with its weights; arguments and errors as in `start_by_name`."""
    for key in ("init", "padded", "base", "depth", "dropout", "options"):
        if getattr(settings, key):
            raise PlanError(f"{option(key)} is for networks by name; leave it out, or build the module with it")
    if settings.reduction != 1:
        raise PlanError("--scale is for networks by name; let the module itself reduce the images")
    model = model_of(module, channels=len(sections[0].image), halo=settings.halo)
    if len(model.header.classes) != len(data.classes):
        raise PlanError(f"the network gives {len(model.header.classes)} classes, the labels hold {len(data.classes)}")
    network = copy.deepcopy(model.network).requires_grad_(True).train()
    for own, given in zip(network.parameters(), module.parameters(), strict=False):
        own.requires_grad_(given.requires_grad)  # what the caller has frozen stays so
    normalisation, notes = choose_normalisation(None, None, sections, _percentiles(settings))
    view, arguments = model.field_of_view, dict(model.header.arguments)
    return Start(MODULE, arguments, network, view, False, normalisation, settings.halo, notes, claimed=view)


def _percentiles(settings: TrainingSettings) -> tuple[float, float] | None:
    return PERCENTILES if settings.normalise == "percentiles" else None


def _trained(
    name: str, arguments: Mapping[str, Any], settings: TrainingSettings, data: Dataset
) -> tuple[tuple[str, Mapping[str, Any]], bool]:
    """Name and arguments of the network to train in place of the model's, and whether it pads."""
    padded = with_padding(name, arguments)
    if settings.padded and padded is None:
        raise PlanError(f"--padded is for networks that crop, such as unet, not for {name}; leave it out")
    if padded is None or not (
        data.instances or isinstance(data, SparseDataset) if settings.padded is None else settings.padded
    ):
        return (name, arguments), False
    return padded, True


def _view(name: str, network: Network, halo: int | None, reduction: int) -> FieldOfView:
    """The field of view of the trained network, checked now, before hours of training.

    Raises:
        PlanError: it is too large to be practical.
        ModelError: no halo is exact, and none was chosen.
    """
    if halo is not None:
        return chosen(network, -(-halo // reduction))
    view = derive(network)
    if view.before > _LARGEST_HALO:
        raise PlanError(
            f"tiles of {name} are exact with a halo of {view.before} px, which is hardly practical; "
            "choose one with --halo, such as 384, and check for seams"
        )
    return view
