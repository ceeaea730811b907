"""Export for other programs: an ONNX graph from grey values to class probabilities, alone or in a package."""

import json
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from tilesegment.errors import ModelError
from tilesegment.files import write_atomically
from tilesegment.geometry import FieldOfView
from tilesegment.models.header import KEY, Normalisation
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import VIEW_KEY, check_installed, parse_onnx
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.networks.field_of_view import side_of

if TYPE_CHECKING:
    from onnx import ModelProto

# difference of probabilities by rounding in single precision
_TOLERANCE = 1e-4
# versions that onnxruntime 1.16 can read, for users of older releases
_OPSET, _IR = 18, 9


def export(model: str | Path, out: str | Path, to: str, *, overwrite: bool = False) -> Path:
    """Write a model for other programs; the file is complete and can also be read back.

    Args:
        model: file or bundled name.
        out: the new file, `.onnx` or `.zip`.
        to: `onnx`, a graph from grey values to class probabilities; `bioimageio`, a package with the same graph. Of a
            model that scales by percentiles of the whole image, the graph takes what is scaled so; the package says it.
        overwrite: replace an existing `out`.

    Returns:
        `out`.

    Raises:
        ModelError: unknown format, `out` exists or cannot be written, the model cannot be loaded or exported.
    """
    from tilesegment.models.package_export import to_package

    formats: dict[str, tuple[str, Callable[[Model], bytes]]] = {
        "onnx": (".onnx", to_onnx),
        "bioimageio": (".zip", to_package),
    }
    if to not in formats:
        raise ModelError(f"unknown format {to!r}; allowed: {', '.join(formats)}")
    (suffix, convert), out = formats[to], Path(out)
    if out.suffix.lower() != suffix:
        raise ModelError(f"{out}: for {to} the name must end in {suffix}")
    if os.path.exists(out) and not overwrite:
        raise ModelError(f"{out} exists; name another output, or use --overwrite to replace it")
    if not out.parent.is_dir():  # before the conversion, which takes long
        raise ModelError(f"{out}: {out.parent} is not a folder; create it, or choose another place")
    loaded = Model.load(model)
    if isinstance(loaded.network, OnnxNetwork):
        raise ModelError(f"{model} is an ONNX model already; copy the file")
    content = convert(loaded)
    try:
        write_atomically(out, content)
    except OSError as error:
        raise ModelError(f"{out} cannot be written ({error.strerror}); choose another place") from error
    return out


class GreyValues(nn.Module):
    """Grey values (B, C, H, W) float32 -> class probabilities (B, K, h, w).

    A model that scales by percentiles of the whole image takes grey values that are scaled so already.

    Args:
        model: whose network and normalisation are used.
        same_size: mirror the rim of the input if the network crops, so that h, w are H, W (multiples of the divisor,
            larger than the rim). For a whole image this equals mirroring the image; for a tile, only the halo is
            affected by the mirrored rim.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, model: Model, *, same_size: bool = False) -> None:
        super().__init__()
        self.network, view = model.network, model.field_of_view
        self.rim = (view.before, view.after) * 2 if same_size and view.crops else None
        scale = model.header.normalisation
        self.register_buffer("mean", torch.tensor(scale.mean)[:, None, None])
        self.register_buffer("std", torch.tensor(scale.std)[:, None, None])
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Probabilities (B, K, h, w) of grey values (B, C, H, W)."""
        height, width = x.shape[-2:]
        if self.rim is not None:
            x = nn.functional.pad(x, self.rim, mode="reflect")
        found = torch.softmax(self.network((x - self.mean) / self.std), 1)
        # the padded size may yield surplus output
        return found if self.rim is None else found[..., :height, :width]


def exported_view(model: Model, *, same_size: bool) -> FieldOfView:
    """Return the field of view of the exported graph: the model's, or that of same padding if the rim is mirrored."""
    view = model.field_of_view
    if not same_size or not view.crops:
        return view
    halo = -(-max(view.before, view.after) // view.divisor) * view.divisor
    return FieldOfView(view.divisor, halo, halo, crops=False)


def to_onnx(model: Model, *, same_size: bool = False) -> bytes:
    """Convert a model to ONNX: batch, height and width are free; the header lies in the metadata.

    Args:
        model: to export.
        same_size: make the output of a network that crops as large as its input, see `GreyValues`.

    Returns:
        The file's content. Its input `image` is (batch, C, height, width) float32, its output `probabilities`
        (batch, K, h, w) float32.

    Raises:
        ModelError: a package is missing, PyTorch cannot export the network, or onnxruntime computes something else.
    """
    check_installed("onnx", "onnxruntime", "onnxscript")
    view, network = exported_view(model, same_size=same_size), GreyValues(model, same_size=same_size)
    # larger than the mirrored rim
    least = 64 if view.crops or not model.field_of_view.crops else view.before + view.divisor
    # sides that differ and are not 1, else the exporter takes them for equal or fixed
    sides = side_of(view, least), side_of(view, least + view.divisor)
    example = torch.from_numpy(example_image(model, *sides)).repeat(2, 1, 1, 1)
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
    for key, value in {KEY: model.header.to_json(), VIEW_KEY: json.dumps(asdict(view))}.items():
        proto.metadata_props.add(key=key, value=value)
    content = proto.SerializeToString()
    found = OnnxNetwork(parse_onnx(content, "the exported model")).run(example.numpy())
    with torch.inference_mode():
        expected = network(example).numpy()
    difference = float(np.abs(found - expected).max()) if found.shape == expected.shape else float("inf")
    if not difference <= _TOLERANCE:
        raise ModelError(f"the exported model's probabilities differ by {difference:.1e}; update torch and onnxruntime")
    return content


def example_image(model: Model, height: int, width: int) -> np.ndarray:
    """Draw random grey values (1, C, height, width), float32 in the model's range; whole numbers for integer images.

    Of a model that scales by percentiles, they are scaled so already.
    """
    return random_image(model.header.normalisation, height, width)


def random_image(scale: Normalisation, height: int, width: int) -> np.ndarray:
    """Draw grey values (1, C, height, width) float32 with the mean and std of `scale`, whole numbers for integers."""
    mean, std = (np.array(values)[:, None, None] for values in (scale.mean, scale.std))
    image = np.random.default_rng(0).normal(mean, std, (1, len(scale.mean), height, width))
    if scale.dtype.startswith("uint") and scale.percentiles is None:
        image = np.clip(np.rint(image), 0, np.iinfo(scale.dtype).max)
    return image.astype(np.float32)


def _tidy(proto: "ModelProto") -> None:
    """Name the free sides, and remove the source paths that the exporter records."""
    for value, sides in ((proto.graph.input[0], ("height", "width")), (proto.graph.output[0], ("h", "w"))):
        dims = value.type.tensor_type.shape.dim
        for place, name in ((0, "batch"), (2, sides[0]), (3, sides[1])):
            dims[place].dim_param = name
    del proto.graph.value_info[:]
    for node in [*proto.graph.node, *(node for function in proto.functions for node in function.node)]:
        del node.metadata_props[:]
        node.doc_string = ""
    for part in (*proto.graph.initializer, proto.graph.input[0], proto.graph.output[0], proto.graph, proto):
        del part.metadata_props[:]
    proto.producer_name = "tilesegment"
    proto.ir_version = _IR


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporters' deprecation warnings and hints at other packages."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
