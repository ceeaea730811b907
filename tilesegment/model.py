"""A model: a network and all it takes to use it, saved in one safetensors file. Never a pickle."""

import hashlib
import os
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.header import KEY, ModelHeader, read_header
from tilesegment.models import find_model
from tilesegment.networks import build_network


@dataclass(frozen=True)
class Model:
    """A network with its header.

    Attributes:
        header: classes, normalisation, threshold, training record.
        network: (B, C, H, W) float, normalised -> logits (B, K, h, w); in evaluation mode.
    """

    header: ModelHeader
    network: nn.Module

    @property
    def field_of_view(self) -> FieldOfView:
        """What the network needs to see around what it decides."""
        view = self.network.field_of_view
        assert isinstance(view, FieldOfView)
        return view

    @classmethod
    def load(cls, model: str | Path) -> "Model":
        """The model in the file `model`, or the bundled one of that name.

        Raises:
            ModelError: no such model, not one of ours, truncated, altered, a pickle, or weights that do not fit.
        """
        path = find_model(model)
        header = read_header(path)
        try:
            weights = safetensors.torch.load_file(path)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise ModelError(f"{path}: its weights cannot be read ({error})") from error
        if weights_hash(weights) != header.weights_sha256:
            raise ModelError(f"{path}: its weights are not those it was saved with (SHA-256 differs); copy it again")
        # on the meta device a header that lies about its sizes costs nothing
        try:
            with torch.device("meta"):
                network = build_network(header.network, header.arguments)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        _check_fit(path, network, weights)
        network.load_state_dict({name: value.float() for name, value in weights.items()}, assign=True)
        return cls(header, network.requires_grad_(False).eval())

    def save(self, path: str | Path, *, half: bool = False) -> "Model":
        """Writes the model to `path`, atomically, and returns it as it will be loaded.

        Args:
            path: of the new file; an existing one is replaced.
            half: round the weights to float16, which halves the file.

        Raises:
            ModelError: the file cannot be written, or could not be loaded; an existing one is left as it is.
        """
        path = Path(path)
        dtype = torch.float16 if half else torch.float32
        weights = {
            name: value.detach().cpu().to(dtype).contiguous() for name, value in self.network.state_dict().items()
        }
        header = replace(self.header, weights_sha256=weights_hash(weights))
        header.check()
        _check_fit(path, self.network, weights)
        try:
            write_atomically(path, safetensors.torch.save(weights, metadata={KEY: header.to_json()}))
        except OSError as error:
            raise ModelError(
                f"{path} cannot be written ({error.strerror}); choose another place for the model"
            ) from error
        return Model.load(path)


def write_atomically(path: Path, content: bytes) -> None:
    """Writes the file whole or not at all: an existing one is replaced only by a complete one, synced to the disk.

    Raises:
        OSError: it cannot be written; an existing one is left as it is.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        if os.path.exists(temporary):  # unlike Path.exists, False for a name that cannot be
            temporary.unlink()
        raise


def weights_hash(weights: dict[str, Tensor]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of `weights`, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _check_fit(path: Path, network: nn.Module, weights: dict[str, Tensor]) -> None:
    expected = network.state_dict()
    missing, extra = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or extra:
        raise ModelError(f"{path}: weights missing: {sorted(missing)[:3]}, left over: {sorted(extra)[:3]}")
    for name, value in weights.items():
        if value.shape != expected[name].shape or not value.is_floating_point():
            raise ModelError(f"{path}: {name} is {tuple(value.shape)}, the network wants {tuple(expected[name].shape)}")
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: {name} holds NaN or infinity; the training had failed")
