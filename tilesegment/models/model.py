"""A model: a network and all that using it requires, in one safetensors file, never a pickle."""

import copy
import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.files import write_atomically
from tilesegment.geometry import FieldOfView
from tilesegment.images.arrays import ArrayLike
from tilesegment.models import find_model
from tilesegment.models.header import KEY, ModelHeader, read_header
from tilesegment.models.onnx import load_onnx, onnx_view
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.models.package import is_package
from tilesegment.networks import build_network
from tilesegment.networks.any_network import MODULE, VIEW, AnyNetwork, adapt
from tilesegment.networks.field_of_view import ADVICE, chosen, derive, side_of
from tilesegment.networks.network import Network
from tilesegment.networks.rescaled import Rescaled, unscaled
from tilesegment.networks.unetpp import UNetPlusPlus


@dataclass(frozen=True)
class Model:
    """A network with its header.

    Attributes:
        header: classes, normalisation, threshold, training record.
        network: (B, C, H, W) float, normalised -> logits (B, K, h, w); in evaluation mode.
        claimed: the field of view in an ONNX file, verified before use.
        assumed: one line for people on what an ONNX file does not say and was assumed; empty if nothing was.
    """

    header: ModelHeader
    network: Network
    claimed: FieldOfView | None = None
    assumed: str = ""

    @cached_property
    def field_of_view(self) -> FieldOfView:
        """The context that the network needs, found from the network itself, or the chosen halo.

        Raises:
            ModelError: no halo makes its tiles exact, and none was chosen.
        """
        halo, channels, claimed = self.header.halo, self.header.channels, self.claimed
        if isinstance(self.network, OnnxNetwork):
            return onnx_view(self.network, self.claimed, halo)
        if isinstance(self.network, AnyNetwork):
            claimed = _module_view(self.header)
        if halo is None:
            return derive(self.network, channels, claimed)
        return chosen(self.network, halo, channels, claimed)

    def why_inexact(self) -> str | None:
        """Say why no halo makes the network's tiles exact, whether or not one was chosen; None if one does."""
        try:
            replace(self, header=replace(self.header, halo=None)).field_of_view  # noqa: B018 - raises
        except ModelError as error:
            return str(error).removesuffix(ADVICE)
        return None

    def with_halo(self, halo: int) -> "Model":
        """Return the model with a chosen halo in pixels, rounded up to the network's divisor; tiles may be inexact.

        Raises:
            ModelError: the network crops, so that its halo is fixed.
        """
        model = replace(self, header=replace(self.header, halo=halo))
        model.field_of_view  # noqa: B018 - raises
        return model

    def pruned(self, level: int) -> "Model":
        """Return the part of a U-Net++ that its head `level` needs: smaller and faster, with a smaller halo.

        Raises:
            ModelError: it is another network, or has no such head.
        """
        network = unscaled(self.network)
        if not isinstance(network, UNetPlusPlus):
            raise ModelError(f"only a unetpp can be pruned, and only before it is exported; this is {self._words}")
        part: Network = network.pruned(level)
        if isinstance(self.network, Rescaled):
            part = Rescaled(part, self.network.factor).train(part.training)
        arguments = {**self.header.arguments, "level": level, "supervision": "last"}
        header = replace(self.header, arguments=arguments, weights_sha256=weights_hash(part.state_dict()))
        return Model(header, part)

    def predict(self, image: str | Path | ArrayLike, **options: Any) -> np.ndarray:
        """Segment an image or an array, as `tilesegment.predict` without `out` and with these `options` does.

        Returns class ids, (h, w) uint8, or (z, h, w) of an image with a z axis.

        Raises:
            TilesegmentError: as there.
        """
        import tilesegment  # whose front door leads up to the prediction

        return tilesegment.predict(image, None, self, **options)

    @property
    def _words(self) -> str:
        kind = "an ONNX file" if isinstance(self.network, OnnxNetwork) else self.header.network
        return f"{self.header.name or 'a model'} ({kind})"

    @classmethod
    def load(cls, model: str | Path, network: nn.Module | None = None) -> "Model":
        """Load a model file, bundled model, training run's folder, ONNX file or bioimage.io package.

        Args:
            model: path or name.
            network: a module of the class whose weights the file holds, as `model_of` takes it; a copy of it gets the
                weights. Only for files whose network is not one of `NETWORKS`.

        Raises:
            ModelError: no such model, not a model, truncated, altered, a pickle, or weights that do not fit.
        """
        if Path(model).suffix.lower() == ".onnx" or is_package(Path(model)):
            return cls(*load_onnx(Path(model)))
        path = find_model(model)
        header = read_header(path)
        try:
            weights = safetensors.torch.load_file(path)
        except (OSError, ValueError, safetensors.SafetensorError) as error:
            raise ModelError(f"{path}: its weights cannot be read ({error})") from error
        if weights_hash(weights) != header.weights_sha256:
            raise ModelError(f"{path}: its weights were altered since it was saved (SHA-256 differs); copy it again")
        try:
            built = _empty(header, network)
            _check_fit(built, weights)
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        plain = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
        built.load_state_dict(plain, assign=True)
        return cls(header, built.requires_grad_(False).eval())

    def save(self, path: str | Path, *, half: bool = False) -> "Model":
        """Write the model to `path`, atomically, and return it as it will be loaded.

        Args:
            path: the new file; an existing one is replaced.
            half: round the weights to float16, which halves the file; running means and variances stay unrounded.

        Raises:
            ModelError: the file cannot be written, or could not be loaded; an existing one stays.
        """
        path = Path(path)
        if isinstance(self.network, OnnxNetwork):
            raise ModelError(f"{path}: {self._words} is not saved as one of ours; copy the file instead")
        weights = {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}
        if half:
            weights |= {name: weights[name].half() for name, _ in self.network.named_parameters()}
        header = replace(self.header, weights_sha256=weights_hash(weights))
        try:
            header.check()
            _check_fit(self.network, weights)
            write_atomically(path, safetensors.torch.save(weights, metadata={KEY: header.to_json()}))
        except ModelError as error:
            raise ModelError(f"{path}: {error}") from error
        except OSError as error:
            raise ModelError(
                f"{path} cannot be written ({error.strerror}); choose another place for the model"
            ) from error
        return Model.load(path, self.network.module if isinstance(self.network, AnyNetwork) else None)


def weights_hash(weights: dict[str, Tensor]) -> str:
    """Return the SHA-256 over names, dtypes, shapes and bytes of `weights`, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name]
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _empty(header: ModelHeader, module: nn.Module | None) -> Network:
    """Our network on the meta device, where false sizes in a header cost nothing; or a copy of `module`."""
    if header.network != MODULE:
        if module is not None:
            raise ModelError(f"its network is {header.network}, which needs no module: load it without one")
        with torch.device("meta"):
            return build_network(header.network, header.arguments)
    kind = header.arguments.get("class")
    if module is None:
        raise ModelError(f"its network is the module {kind}, not one of ours: load it by Model.load(path, network=...)")
    try:
        return adapt(copy.deepcopy(module), header.channels, side_of(_module_view(header)))
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"the module given does not run on its images ({reason}); it was {kind}") from error


def _module_view(header: ModelHeader) -> FieldOfView:
    """The field of view of a module by its header."""
    try:
        divisor, before, after, crops = header.arguments[VIEW]
        if 0 < divisor <= 1024 and 0 <= before <= after <= 4096:
            return FieldOfView(divisor, before, after, bool(crops))
    except (KeyError, TypeError, ValueError):
        pass
    raise ModelError(f"its field of view is damaged ({header.arguments.get(VIEW)!r:.100}); save the model again")


def _check_fit(network: Network, weights: dict[str, Tensor]) -> None:
    """Check that `weights` are finite and have the names and shapes of `network`."""
    expected = network.state_dict()
    missing, extra = expected.keys() - weights.keys(), weights.keys() - expected.keys()
    if missing or extra:
        raise ModelError(f"weights missing: {sorted(missing)[:3]}, left over: {sorted(extra)[:3]}")
    for name, value in weights.items():
        if value.shape != expected[name].shape or value.is_floating_point() != expected[name].is_floating_point():
            raise ModelError(f"{name} is {tuple(value.shape)}, the network wants {tuple(expected[name].shape)}")
        if not torch.isfinite(value).all():
            raise ModelError(f"{name} holds NaN or infinity; the training had failed")
