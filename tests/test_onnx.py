"""ONNX files from elsewhere: what they need is read, or found by running them; what cannot be used is named."""

import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise, toy_network
from onnx_files import FREE, Graph, TensorProto, helper, onnx, onnxruntime, pooled, valid, zipped

from tilesegment.errors import DeviceError, ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.models.header import KEY, Normalisation
from tilesegment.models.model import Model
from tilesegment.models.onnx_file import check_installed
from tilesegment.prediction.devices import why_onnx_on_cpu
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

CPU = torch.device("cpu")
GREY = {"mean": "120", "std": "60", "dtype": "uint8"}


def refused(path: Path) -> str:
    """The line with which a model is refused, without the file's name, which begins it."""
    with pytest.raises(ModelError) as caught:
        Model.load(path).field_of_view  # noqa: B018 - raises
    message = str(caught.value)
    assert message.startswith(str(path)) and message.count(str(path)) == 1
    assert "\n" not in message and len(message) < 600
    return message.removeprefix(f"{path}: ")


def written(path: Path, outputs: int = 3, **told: str) -> Path:
    """A model that says something of itself in its metadata."""
    pooled(outputs).model(path, **{f"tilesegment.{key}": value for key, value in told.items()})
    return path


def run_whole(source: Path | bytes, image: np.ndarray) -> np.ndarray:
    """The first output of a graph for (C, H, W)."""
    return onnxruntime.InferenceSession(source).run(None, {"image": image[None]})[0][0]


@pytest.mark.parametrize(
    ("graph", "view", "wider"),
    [(pooled, FieldOfView(2, 4, 4, False), FieldOfView(2, 8, 8, False)), (valid, FieldOfView(1, 2, 2, True), None)],
)
def test_the_field_of_view_is_found_or_chosen_in_whole_divisors(
    graph: Callable[[], Graph], view: FieldOfView, wider: FieldOfView | None, tmp_path: Path
) -> None:
    graph().model(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    assert model.field_of_view == view == model.with_halo(view.before).field_of_view
    if wider is not None:
        assert model.with_halo(7).field_of_view == wider
    else:
        with pytest.raises(ModelError, match="crops 2 px"):
            model.with_halo(9)


def test_tiled_is_untiled(tmp_path: Path) -> None:
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
    classes: int, end: str | None, activation: str, tmp_path: Path
) -> None:
    pooled(classes, end).model(tmp_path / "m.onnx")
    model, image = Model.load(tmp_path / "m.onnx"), noise((1, 32, 32), dtype="float32")
    assert len(model.header.classes) == max(classes, 2)
    raw = run_whole(tmp_path / "m.onnx", image)
    if classes == 1:
        p = raw if end else 1 / (1 + np.exp(-raw))
        expected = np.concatenate([1 - p, p])
    else:
        expected = raw if activation == "probabilities" else torch.from_numpy(raw).softmax(0).numpy()
    found = model.network(torch.from_numpy(image[None])).softmax(1).numpy()[0]
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
    _, found = predict_array(TorchPredictor(model, CPU), image, 30)
    expected = torch.from_numpy(run_whole(tmp_path / "m.onnx", image)).softmax(0).numpy()
    # the rim of the image is mirrored by us, and zero in one pass
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=0, atol=1e-5)


def test_what_sees_the_whole_tile_needs_a_chosen_halo(tmp_path: Path) -> None:
    graph = Graph()
    graph.conv(3, pad=1)
    graph.add("InstanceNormalization", graph.weight((3,)), graph.weight((3,)))
    graph.conv(2, pad=1)
    graph.model(tmp_path / "m.onnx")
    message = refused(tmp_path / "m.onnx")
    assert "whole tile" in message and "--halo" in message
    assert Model.load(tmp_path / "m.onnx").with_halo(40).field_of_view == FieldOfView(32, 64, 64, False)


def test_what_an_onnx_model_cannot_do_is_refused(tmp_path: Path) -> None:
    pooled().model(tmp_path / "m.onnx")
    model = Model.load(tmp_path / "m.onnx")
    with pytest.raises(ModelError, match="pruned"):
        model.pruned(1)
    with pytest.raises(ModelError, match="copy the file"):
        model.save(tmp_path / "m.safetensors")
    for precision in ("fp64", "bf16"):
        with pytest.raises(DeviceError, match="--precision fp32"):
            TorchPredictor(model, CPU, precision)
    with pytest.raises(DeviceError, match=r"meta.*--device cpu"):
        TorchPredictor(model, torch.device("meta"))
    with pytest.raises(ModelError, match=r"no_such: pip install 'tilesegment\[onnx\]'$"):
        check_installed("no_such", "json")
    for kind in ("cuda", "mps", "cpu"):
        runs = kind == "cpu" or (kind == "cuda" and "CUDAExecutionProvider" in onnxruntime.get_available_providers())
        assert bool(why_onnx_on_cpu(torch.device(kind))) != runs


@pytest.mark.parametrize(
    ("shape", "named"),
    [
        (("b", 1, 256, 256), "256 x 256"),
        (("b", 1, "h", 256), "h x 256"),
        ((4, 1, "h", "w"), "4 images"),
        (("b", "c", "h", "w"), "c channels"),
        (("b", "h", "w", 3), "channels last"),
        (("b", 1, "d", "h", "w"), "b x 1 x d x h x w"),
    ],
)
def test_images_of_another_kind_are_refused(shape: tuple[int | str, ...], named: str, tmp_path: Path) -> None:
    graph = Graph(shape)
    graph.add("Relu")
    graph.model(tmp_path / "m.onnx")
    assert named in refused(tmp_path / "m.onnx")


@pytest.mark.parametrize(
    ("kind", "gives", "attributes", "named"),
    [
        ("Frobnicate", TensorProto.FLOAT, {"domain": "of.others"}, "Frobnicate"),
        ("GlobalAveragePool", TensorProto.FLOAT, {}, "px a side"),
        ("DepthToSpace", TensorProto.FLOAT, {"blocksize": 2}, "px a side"),
        ("ArgMax", TensorProto.INT64, {"axis": 1}, "int64"),
        pytest.param(
            *("ReduceMax", TensorProto.FLOAT, {"keepdims": 0}, "batch, 1 to 256 classes, height, width"),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_gives_no_classes_of_pixels_is_refused(
    kind: str, gives: int, attributes: dict[str, Any], named: str, tmp_path: Path
) -> None:
    graph = pooled(4)
    graph.add(kind, **attributes)
    graph.gives = gives
    graph.model(tmp_path / "m.onnx")
    assert named in refused(tmp_path / "m.onnx")


def test_a_second_input_is_refused(tmp_path: Path) -> None:
    graph = pooled()
    graph.inputs.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, list(FREE)))
    graph.model(tmp_path / "m.onnx")
    assert "image, mask" in refused(tmp_path / "m.onnx")


def test_what_is_no_onnx_file_is_refused_and_not_opened(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    pooled().model(path)
    whole = path.read_bytes()
    for content in (pickle.dumps({"weights": 1}), zipped({"model/data.pkl": b"cbuiltins\nexit\n(tR."})):
        path.write_bytes(content)
        assert "could run code" in refused(path)
    for content in (b"", b"abc", noise((5000,)).tobytes(), json.dumps({"ir_version": 10}).encode()):
        path.write_bytes(content)
        assert "not an ONNX file" in refused(path)
    for length in range(0, len(whole), 311):
        path.write_bytes(whole[:length])
        refused(path)
    path.unlink()
    assert "No such file or directory" in refused(path)


def with_weights_in(path: Path, location: str) -> bytes:
    """Writes a model whose first weights lie in the file `location`, and returns their bytes."""
    model = pooled().model()
    tensor = model.graph.initializer[0]
    content: bytes = tensor.raw_data
    onnx.external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    path.write_bytes(model.SerializeToString())
    return content


def test_weights_beside_the_file_are_used(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    content = with_weights_in(path, "w.bin")
    (tmp_path / "w.bin").write_bytes(content)
    pooled().model(tmp_path / "whole.onnx")
    image = torch.from_numpy(noise((1, 1, 24, 24), dtype="float32"))
    model = Model.load(path)
    assert torch.equal(model.network(image), Model.load(tmp_path / "whole.onnx").network(image))
    (tmp_path / "w.bin").write_bytes(content[::-1])
    assert Model.load(path).header.weights_sha256 != model.header.weights_sha256


@pytest.mark.parametrize("where", ["../w.bin", "absolute", "link.bin", "none.bin"])
def test_weights_elsewhere_are_not_opened(where: str, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    location = str(tmp_path / "w.bin") if where == "absolute" else where
    (tmp_path / "w.bin").write_bytes(with_weights_in(folder / "m.onnx", location))
    (folder / "link.bin").symlink_to(tmp_path / "w.bin")
    message = refused(folder / "m.onnx")
    assert location in message
    assert ("outside" in message) == (where != "none.bin")


def test_classes_mean_and_std_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", classes="membrane, inside,other", **GREY)
    model, image = Model.load(path), noise((1, 32, 32))
    assert [one.name for one in model.header.classes] == ["membrane", "inside", "other"]
    assert model.header.normalisation == Normalisation((120.0,), (60.0,), "uint8")
    assert model.assumed == ""
    raw = run_whole(path, (np.float32(image) - 120) / 60)
    _, found = predict_array(TorchPredictor(model, CPU), image, 32)
    expected = torch.from_numpy(raw).softmax(0).numpy()
    np.testing.assert_allclose(found[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("classes", "expected"), [("cell", ["background", "cell"]), ("none,cell", ["none", "cell"])])
def test_of_one_channel_either_class_or_both_are_named(classes: str, expected: list[str], tmp_path: Path) -> None:
    model = Model.load(written(tmp_path / "one.onnx", 1, classes=classes, **GREY))
    assert [one.name for one in model.header.classes] == expected


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({}, ("class 0 to class 2", "grey values")),
        ({"classes": "a,b,c"}, ("grey values",)),
        (GREY, ("class 0 to class 2",)),
        ({"classes": "a,b", **GREY}, ("class 0 to class 2", "2 of 3")),
    ],
)
def test_what_is_not_said_is_assumed_and_told(told: dict[str, str], named: tuple[str, ...], tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", **told)
    line = Model.load(path).assumed
    assert all(words in line for words in (str(path), "tilesegment.classes", *named))
    assert ("grey values" in line) == ("grey values" in named)
    assert Model.load(path).with_halo(8).assumed == line


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ({"mean": "1", "std": "2"}, "tilesegment.dtype"),
        ({**GREY, "mean": "1,2"}, "2 tilesegment.mean"),
        ({**GREY, "mean": "grey"}, "grey"),
        ({**GREY, "mean": "nan"}, "finite mean"),
        ({**GREY, "std": "0"}, "positive std"),
        ({**GREY, "dtype": "int9"}, "'int9'"),
        ({"classes": "a,,b"}, "'a,,b'"),
        ({"classes": "a,b,a"}, "'a,b,a'"),
    ],
)
def test_metadata_that_contradicts_is_named(told: dict[str, str], named: str, tmp_path: Path) -> None:
    assert named in refused(written(tmp_path / "m.onnx", **told))


VIEW = {"divisor": 2, "before": 4, "after": 4, "crops": False}
OURS = toy_network("unet-same", depth=1, base=3, classes=3).header
OURS = replace(OURS, normalisation=replace(OURS.normalisation, mean=(0.0,), std=(1.0,)))


@pytest.mark.parametrize(
    ("header", "view", "named"),
    [
        (OURS.to_json(), json.dumps(VIEW), None),
        (OURS.to_json(), json.dumps(VIEW | {"before": 2, "after": 2}), None),
        (OURS.to_json(), json.dumps(VIEW | {"before": 60_000, "after": 60_000}), "--halo"),
        (OURS.to_json(), json.dumps(VIEW | {"before": 60_000, "after": 60_000, "crops": True}), "damaged"),
        (OURS.to_json(), json.dumps(VIEW | {"divisor": 0}), "damaged"),
        (OURS.to_json(), json.dumps(VIEW | {"before": 1e99}), "damaged"),
        (OURS.to_json(), "[", "damaged"),
        ("{}", json.dumps(VIEW), "damaged"),
        ("[" * 100_000, json.dumps(VIEW), "damaged"),
        (toy_network("unet-same", channels=2, depth=1, base=3).header.to_json(), json.dumps(VIEW), "damaged"),
        (toy_network("unet-same", classes=2, depth=1, base=3).header.to_json(), json.dumps(VIEW), "names 2"),
    ],
)
def test_what_a_file_says_of_itself_is_checked(header: str, view: str, named: str | None, tmp_path: Path) -> None:
    """A header of ours that does not fit the graph, and a field of view that is wrong."""
    pooled(3, "Softmax").model(tmp_path / "m.onnx", **{KEY: header, f"{KEY}.field_of_view": view})
    if named is None:
        assert Model.load(tmp_path / "m.onnx").field_of_view == FieldOfView(2, 4, 4, False)
    else:
        assert named in refused(tmp_path / "m.onnx")
