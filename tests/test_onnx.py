"""ONNX files of others: what they need is found by running them, and what cannot be used is refused in one line."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise
from onnx_files import FREE, Graph, TensorProto, helper, onnx, onnxruntime, pooled, valid, zipped

from tilesegment.errors import DeviceError, ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.models.header import KEY
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import check_installed
from tilesegment.models.onnx_network import OnnxNetwork
from tilesegment.networks.field_of_view import TOLERANCE, Prober
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

CPU = torch.device("cpu")


def prober(model: Model) -> Prober:
    """Runs the model on random images."""
    assert isinstance(model.network, OnnxNetwork)
    return Prober(model.network.run, model.header.channels)


def refused(path: Path) -> str:
    """The line with which a model is refused."""
    with pytest.raises(ModelError) as caught:
        Model.load(path).field_of_view  # noqa: B018 - raises
    message = str(caught.value)
    assert message.startswith(str(path))
    assert message.count(str(path)) == 1
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("graph", "view"),
    [(pooled, FieldOfView(2, 4, 4, False)), (valid, FieldOfView(1, 2, 2, True))],
)
def test_the_field_of_view_is_found(tmp_path: Path, graph: Callable[[], Graph], view: FieldOfView) -> None:
    graph().model(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    assert model.field_of_view == view
    assert prober(model).check(view) <= TOLERANCE


def test_less_than_the_field_of_view_is_not_enough(tmp_path: Path) -> None:
    pooled().model(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    assert prober(model).check(FieldOfView(2, 2, 2, False)) > 100 * TOLERANCE
    with pytest.raises(ModelError, match=r"^fails on 11 x 11 px: "):
        prober(model).check(FieldOfView(1, 4, 4, False))


def test_tiled_is_untiled(tmp_path: Path) -> None:
    """Exactly, where tile shapes are equal, and to rounding in one pass."""
    pooled().model(tmp_path / "m.onnx")
    predictor = TorchPredictor(Model.load(tmp_path / "m.onnx"), CPU, batch=3)
    image = noise((1, 50, 70), dtype="float32")
    ids, found = predict_array(predictor, image, 16)
    once_ids, once = predict_array(predictor, image, 72)
    np.testing.assert_allclose(found, once, rtol=0, atol=1e-6)
    assert np.mean(ids != once_ids) < 1e-5
    assert len(np.unique(ids)) == 3


@pytest.mark.parametrize(
    ("classes", "end", "activation"),
    [
        (1, None, "logits"),
        (1, "Sigmoid", "probabilities"),
        (3, None, "logits"),
        (3, "Softmax", "probabilities"),
        (3, "Sigmoid", "logits"),
    ],
)
def test_what_the_output_means_is_seen_by_its_values(
    tmp_path: Path, classes: int, end: str | None, activation: str
) -> None:
    pooled(classes, end).model(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    assert model.network.activation == activation
    assert len(model.header.classes) == max(classes, 2)
    image = noise((1, 1, 32, 32), dtype="float32")
    (raw,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"image": image})
    if classes == 1:
        p = raw if end else 1 / (1 + np.exp(-raw))
        expected = np.concatenate([1 - p, p], 1)
    else:
        expected = raw if end == "Softmax" else torch.from_numpy(raw).softmax(1).numpy()
    found = model.network(torch.from_numpy(image)).softmax(1).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_a_model_that_takes_one_image_at_a_time_is_given_one(tmp_path: Path) -> None:
    pooled().model(tmp_path / "any.onnx")
    pooled(shape=(1, 1, "h", "w")).model(tmp_path / "one.onnx")
    image = noise((1, 40, 40), dtype="float32")
    found, expected = (
        predict_array(TorchPredictor(Model.load(tmp_path / f"{name}.onnx"), CPU, batch=4), image, 8)[1]
        for name in ("one", "any")
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_whole_numbers_are_fed_as_whole_numbers(tmp_path: Path) -> None:
    graph = Graph(dtype=TensorProto.UINT8)
    graph.add("Cast", to=TensorProto.FLOAT)
    graph.conv(2, pad=1)
    graph.model(tmp_path / "m.onnx")
    model, image = Model.load(tmp_path / "m.onnx"), noise((1, 30, 30))
    assert model.header.normalisation.dtype == "uint8"
    assert model.field_of_view == FieldOfView(1, 1, 1, False)
    (raw,) = onnxruntime.InferenceSession(tmp_path / "m.onnx").run(None, {"image": image[None]})
    _, found = predict_array(TorchPredictor(model, CPU), image, 30)
    expected = torch.from_numpy(raw[0]).softmax(0).numpy()
    # the rim of the image is mirrored by us, and zero in one pass
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_what_sees_the_whole_tile_needs_a_chosen_halo(tmp_path: Path) -> None:
    graph = Graph()
    graph.conv(3, pad=1)
    graph.add("InstanceNormalization", graph.weight((3,)), graph.weight((3,)))
    graph.conv(2, pad=1)
    graph.model(tmp_path / "m.onnx")
    message = refused(tmp_path / "m.onnx")
    assert "depends on the whole tile" in message
    assert message.endswith("choose a --halo to accept seams")
    assert Model.load(tmp_path / "m.onnx").with_halo(40).field_of_view == FieldOfView(32, 64, 64, False)


def test_a_halo_is_chosen_in_whole_divisors(tmp_path: Path) -> None:
    pooled().model(tmp_path / "m.onnx")
    assert Model.load(tmp_path / "m.onnx").with_halo(7).field_of_view == FieldOfView(2, 8, 8, False)
    valid().model(tmp_path / "v.onnx")
    assert Model.load(tmp_path / "v.onnx").with_halo(2).field_of_view == FieldOfView(1, 2, 2, True)
    with pytest.raises(ModelError, match="a halo of 9 px; this network crops 2 px a side itself, no other is possible"):
        Model.load(tmp_path / "v.onnx").with_halo(9)


def test_what_an_onnx_model_cannot_do_is_said(tmp_path: Path) -> None:
    pooled().model(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="pruned"):
        model.pruned(1)
    with pytest.raises(ModelError, match="copy the file instead"):
        model.save(tmp_path / "m.safetensors")
    for precision in ("fp64", "bf16"):
        with pytest.raises(DeviceError, match=r"computes in its own precision, not in .*; give --precision fp32"):
            TorchPredictor(model, CPU, precision)
    with pytest.raises(DeviceError, match="onnxruntime here does not run ONNX models on meta; give --device cpu"):
        TorchPredictor(model, torch.device("meta"))
    with pytest.raises(ModelError, match=r"^ONNX models need no_such: pip install 'tilesegment\[onnx\]'$"):
        check_installed("no_such", "json")


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (("b", 1, 256, 256), "takes images of 256 x 256 px only; export it with dynamic height and width"),
        (("b", 1, "h", 256), "takes images of h x 256 px only"),
        ((1, 1, 32, 48), "takes images of 32 x 48 px only"),
        ((4, 1, "h", "w"), "takes exactly 4 images"),
        (("b", "c", "h", "w"), "takes c channels; allowed: a fixed number, 1 to 64"),
        (("b", "h", "w", 3), "takes b x h x w x 3, channels last; it must take (batch, channels, height, width)"),
        (("b", 1, "d", "h", "w"), "takes b x 1 x d x h x w; it must take images (batch, channels, height, width)"),
    ],
)
def test_images_of_another_kind_are_refused(tmp_path: Path, shape: tuple[int | str, ...], message: str) -> None:
    graph = Graph(shape)
    graph.add("Relu")
    graph.model(tmp_path / "m.onnx")
    assert refused(tmp_path / "m.onnx").startswith(message)


def test_graphs_of_another_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    graph = pooled()
    graph.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, list(FREE)))
    graph.model(path)
    assert refused(path).startswith("has 2 inputs (image, mask)")

    graph = pooled()
    graph.add("Frobnicate", domain="of.others")
    graph.model(path)
    assert refused(path).startswith("onnxruntime cannot run it: ")

    graph = Graph(dtype=TensorProto.INT64)
    graph.add("Identity")
    graph.model(path)
    assert refused(path).startswith("takes int64; it must take one of float32, float64, float16, uint8, uint16")

    graph = pooled()
    graph.add("GlobalAveragePool")
    graph.model(path)
    assert "it must give one for each pixel" in refused(path)

    graph = pooled()
    graph.add("ArgMax", axis=1)
    graph.gives = TensorProto.INT64
    graph.model(path)
    assert refused(path).startswith("gives int64; it must give probabilities or logits")

    graph = pooled()
    graph.add("ReduceMax", keepdims=0)
    graph.model(path)
    assert "it must give probabilities or logits (batch, 1 to 256 classes, height, width)" in refused(path)

    graph = Graph()
    graph.add("Tile", "repeats")
    graph.weights.append(onnx.numpy_helper.from_array(np.array([1, 1, 2, 2]), "repeats"))
    graph.model(path)
    assert "it must give one for each pixel" in refused(path)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    pooled().model(tmp_path / "whole.onnx")
    content = (tmp_path / "whole.onnx").read_bytes()
    path = tmp_path / "m.onnx"
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        assert "truncated" in refused(path) or "cannot run" in refused(path)


def test_what_is_no_onnx_file_is_refused_and_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for content in (pickle.dumps({"weights": 1}), zipped({"model/data.pkl": b"cbuiltins\nexit\n(tR."})):
        path.write_bytes(content)
        assert refused(path).startswith("a pickled or zipped checkpoint, which could run code and is not opened")
    for content in (b"", b"abc", noise((5000,)).tobytes(), json.dumps({"ir_version": 10}).encode()):
        path.write_bytes(content)
        assert refused(path).startswith("not an ONNX file, or truncated")
    path.unlink()
    assert refused(path).startswith("cannot be read (No such file or directory)")


def with_weights_in(path: Path, location: str) -> Any:
    """Writes a model whose first weights lie in the file `location`, and returns their bytes."""
    model = pooled().model()
    tensor = model.graph.initializer[0]
    content = tensor.raw_data
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    return content


def test_weights_beside_the_file_are_used(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    (tmp_path / "w.bin").write_bytes(with_weights_in(path, "w.bin"))
    pooled().model(tmp_path / "whole.onnx")
    image = noise((1, 24, 24), dtype="float32")
    found, expected = (
        predict_array(TorchPredictor(Model.load(tmp_path / name), CPU), image, 24)[1]
        for name in ("m.onnx", "whole.onnx")
    )
    np.testing.assert_array_equal(found, expected)
    before = Model.load(path).header.weights_sha256
    content = (tmp_path / "w.bin").read_bytes()
    (tmp_path / "w.bin").write_bytes(content[::-1])
    assert Model.load(path).header.weights_sha256 != before


def test_weights_elsewhere_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    content = with_weights_in(folder / "m.onnx", "../w.bin")
    (tmp_path / "w.bin").write_bytes(content)
    assert refused(folder / "m.onnx").startswith("its weights lie outside its folder (../w.bin), which is not opened")
    with_weights_in(folder / "m.onnx", str(tmp_path / "w.bin"))
    assert "outside its folder" in refused(folder / "m.onnx")
    with_weights_in(folder / "m.onnx", "link.bin")
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    assert "outside its folder" in refused(folder / "m.onnx")
    with_weights_in(folder / "m.onnx", "none.bin")
    assert refused(folder / "m.onnx") == "its weights lie in none.bin, which does not exist; copy it, too"


def test_what_a_file_says_of_itself_is_not_believed(tmp_path: Path) -> None:
    """A header of ours with what does not fit the graph, and a field of view that is wrong."""
    from conftest import toy_network

    header = toy_network("unet-same", depth=1, base=3, classes=3).header
    scale = replace(header.normalisation, mean=(0.0,), std=(1.0,))
    header = replace(header, normalisation=scale)
    view = {"divisor": 2, "before": 4, "after": 4, "crops": False}
    path = tmp_path / "m.onnx"

    def write(header_text: str, view_text: str) -> None:
        pooled(3, "Softmax").model(path, **{KEY: header_text, f"{KEY}.field_of_view": view_text})

    write(header.to_json(), json.dumps(view))
    assert Model.load(path).field_of_view == FieldOfView(2, 4, 4, False)
    write(header.to_json(), json.dumps(view | {"before": 2, "after": 2}))
    assert Model.load(path).field_of_view == FieldOfView(2, 4, 4, False), "found instead"
    write(header.to_json(), json.dumps(view | {"before": 60_000, "after": 60_000}))
    assert refused(path).startswith("it sees more than 1024 px, too far to verify; choose a --halo to accept seams")
    write(header.to_json(), json.dumps(view | {"before": 60_000, "after": 60_000, "crops": True}))
    assert refused(path).startswith("its own description is damaged")
    for wrong in ('{"divisor": 0}', json.dumps(view | {"divisor": 0}), json.dumps(view | {"before": 1e99}), "[", "{}"):
        write(header.to_json(), wrong)
        assert refused(path).startswith("its own description is damaged")
    for text in ("{}", "[" * 100_000, toy_network("unet-same", channels=2, depth=1, base=3).header.to_json()):
        write(text, json.dumps(view))
        assert refused(path).startswith("its own description is damaged")
    write(toy_network("unet-same", classes=2, depth=1, base=3).header.to_json(), json.dumps(view))
    assert refused(path) == "gives 3 classes, but names 2; export it again"
