"""ONNX files and packages as others make them."""

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

_EXTRA = "needs the packages of pip install 'tilesegment[onnx]'"
onnx = pytest.importorskip("onnx", reason=_EXTRA)
onnxruntime = pytest.importorskip("onnxruntime", reason=_EXTRA)
yaml = pytest.importorskip("yaml", reason=_EXTRA)
helper, numpy_helper, TensorProto = onnx.helper, onnx.numpy_helper, onnx.TensorProto

Shape = Sequence[int | str]
FREE: Shape = ("batch", 1, "height", "width")


class Graph:
    """A graph that grows layer by layer, with random weights."""

    def __init__(self, shape: Shape = FREE, dtype: int = TensorProto.FLOAT) -> None:
        self.inputs = [helper.make_tensor_value_info("image", dtype, shape)]
        self.nodes: list[Any] = []
        self.weights: list[Any] = []
        self.last, self.channels, self.gives = "image", 1, TensorProto.FLOAT
        self._random = np.random.default_rng(0)

    def add(self, kind: str, *others: str, domain: str = "", **attributes: Any) -> str:
        """A layer after the last one; the name of its output."""
        name = f"{kind}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, [self.last, *others], [name], domain=domain, **attributes))
        self.last = name
        return name

    def weight(self, shape: Sequence[int], scale: float = 1.0) -> str:
        """The name of a constant."""
        name = f"weight{len(self.weights)}"
        values = scale * self._random.normal(0, 1, shape).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def conv(self, outputs: int, kernel: int = 3, pad: int = 0) -> str:
        """A convolution."""
        weight = self.weight((outputs, self.channels, kernel, kernel), (self.channels * kernel**2) ** -0.5)
        self.channels = outputs
        return self.add("Conv", weight, self.weight((outputs,), 0.1), pads=[pad] * 4)

    def model(self, path: Path | None = None, **metadata: str) -> Any:
        """The finished model, also written to `path`."""
        result = helper.make_tensor_value_info(self.last, self.gives, None)
        graph = helper.make_graph(self.nodes, "g", self.inputs, [result], self.weights)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        helper.set_model_props(model, metadata)
        if path is not None:
            onnx.save(model, path)
        return model


def pooled(classes: int = 3, end: str | None = None, shape: Shape = FREE) -> Graph:
    """Same padding, one pooling: divisor 2, and 4 px of context: 1 + 2 below, 1 before, in whole divisors."""
    graph = Graph(shape)
    graph.conv(4, pad=1)
    graph.add("Relu")
    skip = graph.last
    graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
    graph.conv(4, pad=1)
    graph.add("ConvTranspose", graph.weight((4, 4, 2, 2), 0.5), strides=[2, 2])
    graph.add("Concat", skip, axis=1)
    graph.channels = 8
    graph.conv(classes, 1)
    if end is not None:
        graph.add(end, **({"axis": 1} if end == "Softmax" else {}))
    return graph


def valid(classes: int = 2) -> Graph:
    """Two unpadded convolutions: 2 px of context, divisor 1."""
    graph = Graph()
    graph.conv(4)
    graph.add("Relu")
    graph.conv(classes)
    return graph


def describe(classes: int = 3, *, halo: int = 4, step: int = 2, least: int = 18, offset: int = 0) -> dict[str, Any]:
    """The rdf.yaml of a package of `pooled`."""
    first = [{"type": "batch"}, {"type": "channel", "channel_names": ["grey"]}]
    sides = [{"type": "space", "id": axis, "unit": "nanometer", "scale": 4} for axis in "yx"]
    given = [{**side, "size": {"min": least, "step": step}} for side in sides]
    channels = {"type": "channel", "channel_names": [f"kind {n}" for n in range(classes)]}
    sizes = [{"tensor_id": "raw", "axis_id": axis, "offset": offset} for axis in "yx"]
    extra = {"halo": halo} if halo else {}
    result = [{**side, "size": size, **extra} for side, size in zip(sides, sizes, strict=True)]
    step_of = {"id": "scale_linear", "kwargs": {"gain": 0.01, "offset": -1.0}}
    return {
        "type": "model",
        "format_version": "0.5.4",
        "name": "of others",
        "license": "MIT",
        "inputs": [{"id": "raw", "axes": first + given, "data": {"type": "uint8"}, "preprocessing": [step_of]}],
        "outputs": [{"id": "out", "axes": [{"type": "batch"}, channels, *result]}],
        "weights": {"onnx": {"source": "weights.onnx", "opset_version": 20}},
    }


def package(path: Path, rdf: Mapping[str, Any] | bytes, model: Any, **more: bytes) -> Path:
    """A zip of an rdf.yaml, a model and other files."""
    text = rdf if isinstance(rdf, bytes) else yaml.safe_dump(dict(rdf), sort_keys=False).encode()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("rdf.yaml", text)
        archive.writestr("weights.onnx", model.SerializeToString())
        for name, content in more.items():
            archive.writestr(name, content)
    return path


def zipped(files: Mapping[str, bytes]) -> bytes:
    """A zip of files."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()
