"""Writing a model as ONNX: grey values in, class probabilities out, everything else in its metadata."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.models.header import KEY
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import parse_onnx
from tilesegment.models.onnx_model import VIEW_KEY, check_installed
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.models.quiet import quiet
from tilesegment.networks.field_of_view import side_of

if TYPE_CHECKING:
    from onnx import ModelProto

# of a probability: rounding in single precision, by other kernels
_TOLERANCE = 1e-4
# what onnxruntime 1.16 reads already: others run the file with the version that they have
_OPSET, _IR = 18, 9


class GreyValues(nn.Module):
    """(B, C, H, W) float32 grey values -> class probabilities (B, K, h, w), with the model's own normalisation."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network = model.network
        scale = model.header.normalisation
        self.register_buffer("mean", torch.tensor(scale.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(scale.std)[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (B, K, h, w) of grey values (B, C, H, W)."""
        return torch.softmax(self.network((x - self.mean) / self.std), 1)


class SameSize(nn.Module):
    """A network that crops its output, on its input with a mirrored rim: (B, C, H, W) -> (B, K, H, W).

    Of an image it gives what mirroring the image gives. Of a tile, the halo holds what comes from the rim.

    Args:
        network: that crops.
        view: where it looks; H and W are multiples of the divisor, and larger than the rim.
    """

    def __init__(self, network: nn.Module, view: FieldOfView) -> None:
        super().__init__()
        self.network = network
        self.rim = (view.before, view.after) * 2

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (B, K, H, W) of grey values (B, C, H, W)."""
        found = self.network(nn.functional.pad(x, self.rim, mode="reflect"))
        return found[..., : x.shape[-2], : x.shape[-1]]  # the sizes that it takes may leave some over


def exported_view(model: Model, same_size: bool) -> FieldOfView:
    """Where the exported graph looks: as the model does, or, where its output is padded, as one of same padding."""
    view = model.field_of_view
    if not same_size or not view.crops:
        return view
    halo = -(-max(view.before, view.after) // view.divisor) * view.divisor
    return FieldOfView(view.divisor, halo, halo, crops=False)


def exported_network(model: Model, same_size: bool) -> nn.Module:
    """Grey values in, class probabilities out, see `to_onnx`."""
    network = GreyValues(model)
    view = model.field_of_view
    return (SameSize(network, view) if same_size and view.crops else network).eval()


def to_onnx(model: Model, *, same_size: bool = False) -> bytes:
    """The model as an ONNX file: batch, height and width are free; the header lies in the metadata.

    Args:
        model: to export.
        same_size: whether the output of a network that crops is made as large as its input, by a mirrored rim.

    Returns:
        The file's content. Its input `image` is (batch, C, height, width) float32, its output `probabilities`
        (batch, K, h, w) float32.

    Raises:
        ModelError: a package is missing, PyTorch cannot export the network, or onnxruntime computes something else.
    """
    check_installed("onnx", "onnxruntime", "onnxscript")
    view, network = exported_view(model, same_size), exported_network(model, same_size)
    # more than the rim, which is mirrored
    least = 64 if view.crops or not model.field_of_view.crops else view.before + view.divisor
    # no two sides alike, and none of them 1: they would be taken for the same, or for fixed
    sides = side_of(view, least), side_of(view, least + view.divisor)
    example = torch.from_numpy(example_image(model, *sides)).float().repeat(2, 1, 1, 1)
    free = torch.export.Dim.DYNAMIC
    try:
        with quiet(), torch.inference_mode():
            program = torch.onnx.export(
                network,
                (example,),
                dynamo=True,
                dynamic_shapes=({0: free, 2: free, 3: free},),
                input_names=["image"],
                output_names=["probabilities"],
                opset_version=_OPSET,
                verbose=False,
            )
        assert program is not None
        proto = program.model_proto
    except Exception as error:  # the exporter's errors have no common root
        reason = " ".join(str(error).split())[:200]
        raise ModelError(f"{model.header.name}: PyTorch cannot export its network to ONNX: {reason}") from error
    _tidy(proto)
    metadata = {KEY: model.header.to_json(), VIEW_KEY: json.dumps(asdict(view))}
    for key, value in metadata.items():
        proto.metadata_props.add(key=key, value=value)
    content = proto.SerializeToString()
    _prove(content, network, example)
    return content


def example_image(model: Model, height: int, width: int) -> np.ndarray:
    """Random grey values (1, C, height, width), as float32 of the model's range, whole numbers for integer images."""
    scale = model.header.normalisation
    mean, std = (np.array(values)[:, None, None] for values in (scale.mean, scale.std))
    image = np.random.default_rng(0).normal(mean, std, (1, model.header.channels, height, width))
    if scale.dtype.startswith("uint"):
        image = np.clip(np.rint(image), 0, np.iinfo(scale.dtype).max)
    return image.astype(np.float32)


def _tidy(proto: "ModelProto") -> None:
    """Names the free sides, and leaves out where on this machine the network's source lies."""
    for value, sides in ((proto.graph.input[0], ("height", "width")), (proto.graph.output[0], ("h", "w"))):
        dims = value.type.tensor_type.shape.dim
        for place, name in ((0, "batch"), (2, sides[0]), (3, sides[1])):
            dims[place].dim_param = name
    del proto.graph.value_info[:]
    for node in [*proto.graph.node, *(node for function in proto.functions for node in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (*proto.graph.initializer, proto.graph.input[0], proto.graph.output[0], proto.graph):
        del part.metadata_props[:]
    del proto.metadata_props[:]
    proto.producer_name = "tilesegment"
    proto.ir_version = _IR


def _prove(content: bytes, network: nn.Module, example: Tensor) -> None:
    """Whether onnxruntime computes what PyTorch does.

    Raises:
        ModelError: it does not.
    """
    found = OnnxNetwork(parse_onnx(content, "the exported model")).run(example.numpy())
    with torch.inference_mode():
        expected = network(example).numpy()
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not difference <= _TOLERANCE:
        raise ModelError(f"the exported model's probabilities differ by {difference:.1e}; update torch and onnxruntime")
