"""Read an ONNX file, and check its input, its output and the files it refers to before anything runs it."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tilesegment.errors import ModelError
from tilesegment.models.header import KEY

if TYPE_CHECKING:
    from onnx import ModelProto, ValueInfoProto

# protobuf's limit; larger models keep their weights in separate files
LARGEST = 2**31 - 1
# metadata key of the field of view
VIEW_KEY = f"{KEY}.field_of_view"
# dtypes of the graph's input, by their names in onnx
_DTYPES = {"FLOAT": "float32", "DOUBLE": "float64", "FLOAT16": "float16", "UINT8": "uint8", "UINT16": "uint16"}
_OUTPUT = "it must give probabilities or logits (batch, classes, height, width)"


@dataclass(frozen=True)
class OnnxFile:
    """A checked file: an image in, a map of classes out, at any height and width.

    Attributes:
        path: for messages.
        source: for the runtime: the content, or the path if weights lie in separate files.
        name, dtype, channels: of the graph's input.
        one_by_one: whether it takes only one image at a time.
        metadata: the strings in `metadata_props`.
        sha256, size: of the file and its separate files together.
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


def check_installed(*packages: str) -> None:
    """Raise ModelError unless these packages of the extra `onnx` are installed."""
    if missing := [package for package in packages if find_spec(package) is None]:
        raise ModelError(f"ONNX models need {', '.join(missing)}: pip install 'tilesegment[onnx]'")


def read_onnx(path: Path) -> OnnxFile:
    """Read and check the file `path`.

    Raises:
        ModelError: it cannot be read, see `parse_onnx`.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise ModelError(f"{path}: larger than 2 GB, which no ONNX file can be; keep its weights in a file beside")
        content = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror}); name a model file") from error
    return parse_onnx(content, str(path), path.parent)


def parse_onnx(content: bytes, path: str, folder: Path | None = None) -> OnnxFile:
    """Check an ONNX file's content.

    Args:
        content: of the file.
        path: for messages.
        folder: may hold the weights in separate files; None allows none.

    Raises:
        ModelError: no ONNX file, or truncated; several inputs, a fixed size, or anything but images (B, C, H, W);
            weights in files outside `folder`.
    """
    try:
        proto = _parse(content)
        beside = _files_beside(proto, folder)
        value = _graph_input(proto)
        dtype, channels, one_by_one = _check_input(value)
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
    return OnnxFile(path, source, value.name, dtype, channels, one_by_one, metadata, digest.hexdigest(), size, proto)


def values_per_pixel(file: OnnxFile, side: int) -> int:
    """Estimate, from the shapes at `side` x `side`, the most values that a run holds at once per input pixel.

    A tensor lives from the node that makes it to the last that reads it. One of unknown shape counts as the largest
    known.
    """
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(file.proto)
    lengths = (1, file.channels, side, side)
    for place, length in zip(_graph_input(model).type.tensor_type.shape.dim, lengths, strict=True):
        place.dim_value = length
    with suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError):  # an estimate must not fail
        model = onnx.shape_inference.infer_shapes(model, data_prop=True)
    sizes = {
        value.name: int(np.prod([dim.dim_value for dim in value.type.tensor_type.shape.dim], dtype=np.int64))
        for value in (*model.graph.value_info, *model.graph.output)
    }
    unknown = max(sizes.values(), default=0) or 64 * side**2
    last = {name: index for index, node in enumerate(model.graph.node) for name in node.input}
    live, most = {_graph_input(model).name: file.channels * side**2}, 0
    for index, node in enumerate(model.graph.node):
        live |= {name: sizes.get(name) or unknown for name in node.output if node.op_type != "Constant"}
        most = max(most, sum(live.values()))
        live = {name: size for name, size in live.items() if last.get(name, -1) > index}
    return -(-most // side**2)


def _parse(content: bytes) -> "ModelProto":
    import onnx
    from google.protobuf.message import DecodeError

    if content[:4] == b"PK\x03\x04" or content[:1] == b"\x80":
        raise ModelError("a pickled or zipped checkpoint, which could run code and is not opened; export it to ONNX")
    try:
        proto = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise ModelError("not an ONNX file, or truncated; copy or export it again") from error
    # nearly any few bytes parse as some message
    if not proto.graph.node or not proto.opset_import or not proto.ir_version:
        raise ModelError("not an ONNX file, or truncated: it holds no graph; copy or export it again")
    return proto


def _graph_input(proto: "ModelProto") -> "ValueInfoProto":
    """The one input; old files list weights as inputs, too."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    if len(inputs) != 1:
        names = ", ".join(value.name for value in inputs) or "none"
        raise ModelError(f"has {len(inputs)} inputs ({names}); it must take one image (batch, channels, height, width)")
    return inputs[0]


def _check_input(value: "ValueInfoProto") -> tuple[str, int, bool]:
    """Dtype and channels of the input, and whether it takes only one image at a time."""
    kind, dims = _kind(value), value.type.tensor_type.shape.dim
    if kind not in _DTYPES:
        raise ModelError(f"takes {kind.lower()}; it must take one of {', '.join(_DTYPES.values())}")
    shape: list[Any] = [dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims]
    words = " x ".join(map(str, shape)) or "a number"
    if len(shape) != 4:
        raise ModelError(f"takes {words}; it must take images (batch, channels, height, width)")
    batch, channels, height, width = shape
    if isinstance(width, int) and width <= 64 and not isinstance(channels, int):
        raise ModelError(f"takes {words}, channels last; it must take (batch, channels, height, width)")
    if isinstance(height, int) or isinstance(width, int):
        raise ModelError(f"takes images of {height} x {width} px only; export it with dynamic height and width")
    if not isinstance(channels, int) or not 1 <= channels <= 64:
        raise ModelError(f"takes {channels} channels; allowed: a fixed number, 1 to 64")
    if isinstance(batch, int) and batch != 1:
        raise ModelError(f"takes exactly {batch} images at a time; export it with a dynamic batch, or 1")
    return _DTYPES[kind], channels, batch == 1


def _check_output(proto: "ModelProto") -> None:
    """Check the first output; networks with several give the best first."""
    if not proto.graph.output:
        raise ModelError(f"gives nothing; {_OUTPUT}")
    kind = _kind(proto.graph.output[0])
    if kind not in ("FLOAT", "DOUBLE", "FLOAT16"):
        raise ModelError(f"gives {kind.lower()}; {_OUTPUT}")


def _kind(value: "ValueInfoProto") -> str:
    import onnx

    return onnx.TensorProto.DataType.Name(value.type.tensor_type.elem_type)


def _files_beside(proto: "ModelProto", folder: Path | None) -> list[Path]:
    """Separate files that hold weights; each must lie within `folder`."""
    import onnx

    external = [one for one in _messages(proto) if getattr(one, "data_location", None) == onnx.TensorProto.EXTERNAL]
    names = {next((entry.value for entry in one.external_data if entry.key == "location"), "") for one in external}
    files = []
    for name in sorted(names):
        if folder is None:
            raise ModelError(f"its weights lie in another file ({name}); unpack the package, and name its rdf.yaml")
        file = (folder / name).resolve()
        if os.path.isabs(name) or "\\" in name or not file.is_relative_to(folder.resolve()):
            raise ModelError(f"its weights lie outside its folder ({name}), which is not opened; put them beside it")
        if not file.is_file():
            raise ModelError(f"its weights lie in {name}, which does not exist; copy it, too")
        files.append(file)
    return files


def _messages(message: Any) -> Iterator[Any]:
    """Yield a protobuf message and all messages in it: tensors lie in graphs, attributes and functions."""
    yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for child in (value,) if hasattr(value, "ListFields") else value:
                yield from _messages(child)
