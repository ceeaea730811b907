"""An ONNX file, looked at before anything runs it: what it takes, what it gives, and which files it refers to."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tilesegment.errors import ModelError

if TYPE_CHECKING:
    from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto, ValueInfoProto

# protobuf's own limit; larger models keep their weights in files beside
LARGEST = 2**31 - 1
# of the graph's input: what is fed, by the name that onnx has for it
_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "UINT8": "uint8", "UINT16": "uint16"}


@dataclass(frozen=True)
class OnnxFile:
    """A checked file: one image in, one map of classes out, at any height and width.

    Attributes:
        path: for messages.
        source: what the runtime opens: the content, or the path where weights lie in files beside it.
        name: of the graph's input.
        dtype: of the input, as numpy calls it.
        channels: of the input.
        one_by_one: whether it takes one image at a time only.
        metadata: strings that its maker put in.
        sha256: over the file and the files beside it.
        size: in bytes, of all of them.
        proto: the graph.
    """

    path: str
    source: bytes | str
    name: str
    dtype: str
    channels: int
    one_by_one: bool
    metadata: Mapping[str, str]
    sha256: str
    size: int
    proto: "ModelProto"


def read_onnx(path: Path) -> OnnxFile:
    """The file `path`, checked.

    Raises:
        ModelError: it cannot be read, see `parse_onnx`.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(
                f"{path}: larger than 2 GB, which no ONNX file can be; keep its weights in a file beside it"
            )
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); name a model file") from error
    return parse_onnx(content, str(path), path.parent)


def parse_onnx(content: bytes, path: str, folder: Path | None = None) -> OnnxFile:
    """An ONNX file's content, checked.

    Args:
        content: of the file.
        path: for messages.
        folder: that its weights may lie in, in files of their own; None allows none.

    Raises:
        ModelError: no ONNX file, or truncated; several inputs, a fixed size, or anything but images (B, C, H, W);
            weights in files elsewhere.
    """
    try:
        proto = _parse(content)
        beside = _files_beside(proto, folder)
        name, dtype, shape = _input(proto)
        channels, one_by_one = _check_shape(shape)
        _check_output(proto)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error
    digest, size = hashlib.sha256(content), len(content)
    for file in beside:
        with file.open("rb") as stream:
            size += file.stat().st_size
            while part := stream.read(2**24):
                digest.update(part)
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    source = path if beside else content
    return OnnxFile(path, source, name, dtype, channels, one_by_one, metadata, digest.hexdigest(), size, proto)


def values_per_pixel(file: OnnxFile, side: int) -> int:
    """Values that a run holds at once for each input pixel, from the shapes at `side` x `side`: an upper estimate.

    A value lives from the node that makes it to the last that reads it. One whose shape cannot be inferred counts as
    the largest known.
    """
    import onnx

    graph = onnx.ModelProto()
    graph.CopyFrom(file.proto)
    for place, length in zip(
        _graph_input(graph).type.tensor_type.shape.dim, (1, file.channels, side, side), strict=True
    ):
        place.dim_value = length
    # an estimate is not worth a failure
    with suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        graph = onnx.shape_inference.infer_shapes(graph, data_prop=True)
    nodes, values = graph.graph.node, (*graph.graph.value_info, *graph.graph.output)
    sizes = {value.name: _size(value.type.tensor_type.shape.dim) for value in values}
    unknown = max(sizes.values(), default=0) or 64 * side**2
    last = {name: index for index, node in enumerate(nodes) for name in node.input}
    live, most = {_graph_input(graph).name: file.channels * side**2}, 0
    for index, node in enumerate(nodes):
        live |= {name: sizes.get(name) or unknown for name in node.output if node.op_type != "Constant"}
        most = max(most, sum(live.values()))
        live = {name: size for name, size in live.items() if last.get(name, -1) > index}
    return -(-most // side**2)


def _size(dims: Iterable["TensorShapeProto.Dimension"]) -> int:
    """Product of the sides; 0 where one is not known."""
    return int(np.prod([dim.dim_value for dim in dims], dtype=np.int64))


def _parse(content: bytes) -> "ModelProto":
    import onnx
    from google.protobuf.message import DecodeError

    if content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        raise ModelError("a pickled or zipped checkpoint, which could run code and is not opened; export it to ONNX")
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError("not an ONNX file, or truncated; copy or export it again") from error
    # nearly any few bytes are some message
    if not proto.graph.node or not proto.opset_import or not proto.ir_version:
        raise ModelError("not an ONNX file, or truncated: it holds no graph; copy or export it again")
    return proto


def _graph_input(proto: "ModelProto") -> "ValueInfoProto":
    """The one input; old files list the weights, too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(
            f"has {len(inputs)} inputs ({names}); it must take one, the image (batch, channels, height, width)"
        )
    return inputs[0]


def _input(proto: "ModelProto") -> tuple[str, str, list[int | str]]:
    """Name, dtype and shape of the one input; a side that is not fixed has a name."""
    import onnx

    value = _graph_input(proto)
    tensor = value.type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if kind not in _DTYPES:
        raise ModelError(f"takes {kind.lower()}; it must take one of {', '.join(_DTYPES.values())}")
    shape = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in tensor.shape.dim]
    return value.name, _DTYPES[kind], shape


def _check_shape(shape: list[int | str]) -> tuple[int, bool]:
    """Channels, and whether it takes one image at a time only."""
    words = " x ".join(map(str, shape)) or "a number"
    if len(shape) != 4:
        raise ModelError(f"takes {words}; it must take images (batch, channels, height, width)")
    batch, channels, height, width = shape
    if isinstance(width, int) and width <= 64 and not isinstance(channels, int):
        raise ModelError(f"takes {words}, channels last; it must take (batch, channels, height, width)")
    if isinstance(height, int) or isinstance(width, int):
        raise ModelError(f"takes images of {height} x {width} px only; export it with dynamic height and width")
    if not isinstance(channels, int) or not 1 <= channels <= 64:
        raise ModelError(f"takes {channels} channels; allowed: a fixed number, 1 to 64; export it with one")
    if isinstance(batch, int) and batch != 1:
        raise ModelError(f"takes {batch} images at a time, no more and no less; export it with a dynamic batch, or 1")
    return channels, batch == 1


def _check_output(proto: "ModelProto") -> None:
    """The first output is what counts; of several, networks give the best first."""
    import onnx

    if not proto.graph.output:
        raise ModelError("gives nothing; it must give probabilities or logits (batch, classes, height, width)")
    tensor = proto.graph.output[0].type.tensor_type
    kind = onnx.TensorProto.DataType.Name(tensor.elem_type)
    if kind not in ("FLOAT", "DOUBLE", "FLOAT16"):
        raise ModelError(f"gives {kind.lower()}; it must give probabilities or logits (batch, classes, height, width)")


def _files_beside(proto: "ModelProto", folder: Path | None) -> list[Path]:
    """Files that hold weights, each within `folder`."""
    files = []
    for name in sorted({location for tensor in _tensors(proto) if (location := _location(tensor)) is not None}):
        if folder is None:
            raise ModelError(f"its weights lie in another file ({name}); unpack the package, and name its rdf.yaml")
        home, file = folder.resolve(), (folder / name).resolve()
        if os.path.isabs(name) or "\\" in name or not file.is_relative_to(home):
            raise ModelError(f"its weights lie outside its folder ({name}), which is not opened; put them beside it")
        if not file.is_file():
            raise ModelError(f"its weights lie in {name}, which is not there; copy it, too")
        files.append(file)
    return files


def _location(tensor: "TensorProto") -> str | None:
    """The file that holds a tensor's values; None for the model's own."""
    import onnx

    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    return next((entry.value for entry in tensor.external_data if entry.key == "location"), "")


def _tensors(proto: "ModelProto") -> Iterator["TensorProto"]:
    """Every constant of the graph, of graphs within it, and of functions."""
    graphs: list[GraphProto] = [proto.graph]
    nodes: list[NodeProto] = [node for function in proto.functions for node in function.node]
    while graphs or nodes:
        if graphs:
            graph = graphs.pop()
            yield from graph.initializer
            yield from (part for sparse in graph.sparse_initializer for part in (sparse.values, sparse.indices))
            nodes += graph.node
            continue
        for attribute in nodes.pop().attribute:
            yield from (attribute.t, *attribute.tensors)
            sparse_tensors = (attribute.sparse_tensor, *attribute.sparse_tensors)
            yield from (part for sparse in sparse_tensors for part in (sparse.values, sparse.indices))
            graphs += [attribute.g, *attribute.graphs]
