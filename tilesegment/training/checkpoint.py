"""The state of a training run in one safetensors file, to resume it as if it had never stopped."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from tilesegment.errors import DataError
from tilesegment.files import write_atomically

_KEY = "tilesegment.training"


def save_checkpoint(
    path: Path, networks: Mapping[str, nn.Module], optimiser: Optimizer, state: Mapping[str, Any]
) -> None:
    """Atomically write the weights of named networks, the optimiser's moments, and `state` as JSON.

    Raises:
        OSError: the file cannot be written; the previous checkpoint stays.
    """
    tensors = {f"{name}/{key}": value for name, one in networks.items() for key, value in one.state_dict().items()}
    for number, moments in optimiser.state_dict()["state"].items():
        tensors |= {f"optimiser/{number}/{key}": value for key, value in moments.items()}
    plain = {key: value.detach().cpu().contiguous() for key, value in tensors.items()}
    write_atomically(path, safetensors.torch.save(plain, metadata={_KEY: json.dumps(dict(state))}))


def load_checkpoint(path: Path, networks: Mapping[str, nn.Module], optimiser: Optimizer) -> dict[str, Any]:
    """Restore `networks` and `optimiser` as `save_checkpoint` wrote them, and return the state.

    Raises:
        DataError: no such file, or not a checkpoint of this run.
    """
    try:
        with safetensors.safe_open(path, "pt") as file:
            state: dict[str, Any] = json.loads((file.metadata() or {})[_KEY])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
        for name, network in networks.items():
            network.load_state_dict(_under(tensors, name))
        moments = _moments(_under(tensors, "optimiser"), optimiser)
        optimiser.load_state_dict({**optimiser.state_dict(), "state": moments})
    except FileNotFoundError:
        raise DataError(f"{path.parent} holds no {path.name}, so there is nothing to resume") from None
    except (OSError, ValueError, KeyError, RuntimeError, safetensors.SafetensorError) as error:
        words = " ".join(str(error).split())
        raise DataError(f"{path} is no checkpoint of this run ({words[:200]}); start anew with --overwrite") from error
    return state


def _under(tensors: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """The tensors under `name`/, by the rest of their names."""
    return {key.split("/", 1)[1]: value for key, value in tensors.items() if key.split("/", 1)[0] == name}


def _moments(flat: Mapping[str, Tensor], optimiser: Optimizer) -> dict[int, dict[str, Tensor]]:
    """The state of `optimiser` by parameter number."""
    parameters = dict(enumerate(parameter for group in optimiser.param_groups for parameter in group["params"]))
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in flat.items():
        number, name = key.split("/")
        parameter = parameters[int(number)]
        if value.shape == parameter.shape:
            # with the memory layout of the weights, so that sums are made in the same order
            value = torch.empty_like(parameter, device=value.device).copy_(value)
        state.setdefault(int(number), {})[name] = value
    return state
