"""A model: a network and all it takes to use it, saved in one safetensors file. Never a pickle."""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.files import write_atomically
from tilesegment.geometry import FieldOfView
from tilesegment.models import find_model
from tilesegment.models.header import KEY, ModelHeader, read_header
from tilesegment.networks import build_network
from tilesegment.networks.field_of_view import ADVICE, chosen, derive
from tilesegment.networks.network import Network
from tilesegment.networks.rescaled import Rescaled
from tilesegment.networks.unetpp import UNetPlusPlus


@dataclass(frozen=True)
class Model:
    """A network with its header.

    Attributes:
        header: classes, normalisation, threshold, training record.
        network: (B, C, H, W) float, normalised -> logits (B, K, h, w); in evaluation mode.
    """

    header: ModelHeader
    network: Network

    @cached_property
    def field_of_view(self) -> FieldOfView:
        """What the network needs to see around what it decides, found from the network itself, or the halo chosen.

        Raises:
            ModelError: no halo makes its tiles exact, and none was chosen.
        """
        if self.header.halo is not None:
            return chosen(self.network, self.header.halo, self.header.channels)
        return derive(self.network, self.header.channels)

    def why_inexact(self) -> str | None:
        """Say why no halo makes the network's tiles exact, whether or not one was chosen; None if one does."""
        try:
            derive(self.network, self.header.channels)
        except ModelError as error:
            return str(error).removesuffix(ADVICE)
        return None

    def with_halo(self, halo: int) -> "Model":
        """The same with a chosen halo, pixels, rounded up to the network's divisor; its tiles need not be exact.

        Raises:
            ModelError: the network crops its own output, so that its halo is given.
        """
        model = Model(replace(self.header, halo=halo), self.network)
        model.field_of_view  # noqa: B018 - raises
        return model

    def pruned(self, level: int) -> "Model":
        """The part of a U-Net++ that its head `level` needs: smaller and faster, with a smaller halo.

        Raises:
            ModelError: another network, or it has no such head.
        """
        network = _pruned(self.network, level)
        if network is None:
            raise ModelError(f"a {self.header.network} cannot be pruned; only unetpp can")
        arguments = {**self.header.arguments, "level": level, "supervision": "last"}
        header = replace(self.header, arguments=arguments, weights_sha256=weights_hash(network.state_dict()))
        return Model(header, network)

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
        plain = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        network.load_state_dict(plain, assign=True)
        return cls(header, network.requires_grad_(False).eval())

    def save(self, path: str | Path, *, half: bool = False) -> "Model":
        """Writes the model to `path`, atomically, and returns it as it will be loaded.

        Args:
            path: of the new file; an existing one is replaced.
            half: round the weights to float16, which halves the file; running means and variances are kept as they are.

        Raises:
            ModelError: the file cannot be written, or could not be loaded; an existing one is left as it is.
        """
        path = Path(path)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        if half:
            weights |= {name: weights[name].half() for name, _ in self.network.named_parameters()}
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


def _pruned(network: Network, level: int) -> Network | None:
    """The part that head `level` needs, of a network on reduced images too; None if it cannot be pruned."""
    if isinstance(network, Rescaled):
        inner = _pruned(network.network, level)
        return None if inner is None else Rescaled(inner, network.factor).train(network.training)
    return network.pruned(level) if isinstance(network, UNetPlusPlus) else None


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
        if value.shape != expected[name].shape or value.is_floating_point() != expected[name].is_floating_point():
            raise ModelError(f"{path}: {name} is {tuple(value.shape)}, the network wants {tuple(expected[name].shape)}")
        if not torch.isfinite(value).all():
            raise ModelError(f"{path}: {name} holds NaN or infinity; the training had failed")
