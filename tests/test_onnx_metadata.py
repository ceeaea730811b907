"""What an ONNX file of others says of itself is used; what it does not say is assumed, and told in a line."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import noise
from onnx_files import Graph, describe, onnxruntime, package, pooled

from tilesegment.errors import ModelError
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.prediction.devices import why_onnx_on_cpu
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

GREY = {"mean": "120", "std": "60", "dtype": "uint8"}


def written(path: Path, outputs: int = 3, **told: str) -> Path:
    """A model that tells of itself."""
    pooled(outputs).model(path, **{f"tilesegment.{key}": value for key, value in told.items()})
    return path


def loaded(path: Path) -> Model:
    return Model.load(path)


def names(model: Model) -> list[str]:
    return [one.name for one in model.header.classes]


def test_classes_mean_and_std_are_read(tmp_path: Path) -> None:
    path = written(tmp_path / "m.onnx", classes="membrane, inside,other", **GREY)
    model, image = loaded(path), noise((1, 32, 32))
    assert names(model) == ["membrane", "inside", "other"]
    assert model.header.normalisation == Normalisation((120.0,), (60.0,), "uint8")
    assert model.assumed == ""
    (raw,) = onnxruntime.InferenceSession(path).run(None, {"image": (np.float32(image[None]) - 120) / 60})
    _, found = predict_array(TorchPredictor(model, torch.device("cpu")), image, 32)
    expected = torch.from_numpy(raw[0]).softmax(0).numpy()
    np.testing.assert_allclose(found[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], rtol=0, atol=1e-5)


def test_of_one_channel_either_class_or_both_are_named(tmp_path: Path) -> None:
    assert names(loaded(written(tmp_path / "one.onnx", 1, classes="cell", **GREY))) == ["background", "cell"]
    assert names(loaded(written(tmp_path / "two.onnx", 1, classes="none,cell", **GREY))) == ["none", "cell"]


def test_channels_have_numbers_of_their_own(tmp_path: Path) -> None:
    graph = Graph(("b", 2, "h", "w"))
    graph.channels = 2
    graph.conv(2, pad=1)
    told = {"tilesegment.mean": "100, 2e3", "tilesegment.std": "1,2.5", "tilesegment.dtype": "uint16"}
    graph.model(tmp_path / "m.onnx", **told)
    expected = Normalisation((100.0, 2000.0), (1.0, 2.5), "uint16")
    assert loaded(tmp_path / "m.onnx").header.normalisation == expected


@pytest.mark.parametrize(
    ("told", "assumed"),
    [
        ({}, "classes called class 0 to class 2; grey values fed as they are, unless normalised by the image."),
        ({"classes": "a,b,c"}, "grey values fed as they are, unless normalised by the image."),
        (GREY, "classes called class 0 to class 2."),
        ({"classes": "a,b", **GREY}, "classes called class 0 to class 2 (it names 2 of 3)."),
    ],
)
def test_what_is_not_said_is_assumed_and_told(tmp_path: Path, told: dict[str, str], assumed: str) -> None:
    path = written(tmp_path / "m.onnx", **told)
    line = loaded(path).assumed
    assert line == (
        f"{path} does not say all that is needed; assumed: {assumed} Put tilesegment.classes, tilesegment.mean, "
        "tilesegment.std, tilesegment.dtype into its metadata_props, or make a bioimage.io package of it"
    )
    assert loaded(path).with_halo(8).assumed == line


def test_a_package_leaves_nothing_to_assume(tmp_path: Path) -> None:
    assert loaded(package(tmp_path / "m.zip", describe(), pooled().model())).assumed == ""


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"mean": "1", "std": "2"}, "gives tilesegment.mean and tilesegment.std; .* and tilesegment.dtype are needed"),
        ({**GREY, "mean": "1,2"}, "has 2 tilesegment.mean and 1 tilesegment.std; it takes 1 channels"),
        ({**GREY, "mean": "grey"}, "its tilesegment.mean and tilesegment.std are not numbers"),
        ({**GREY, "mean": "nan"}, "its normalisation needs a finite mean and a positive std for every channel"),
        ({**GREY, "std": "0"}, "its normalisation needs a finite mean and a positive std for every channel"),
        ({**GREY, "dtype": "int9"}, "its tilesegment.dtype is 'int9'; allowed: uint8, uint16, float32"),
        ({"classes": "a,,b"}, "its tilesegment.classes are 'a,,b'; they must be different names"),
        ({"classes": "a,b,a"}, "its tilesegment.classes are 'a,b,a'; they must be different names"),
    ],
)
def test_what_cannot_be_is_refused_in_a_line(tmp_path: Path, told: dict[str, str], message: str) -> None:
    path = written(tmp_path / "m.onnx", **told)
    with pytest.raises(ModelError, match=message) as caught:
        Model.load(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_the_cpu_is_taken_where_the_runtime_lacks_the_gpu_of_pytorch() -> None:
    there = onnxruntime.get_available_providers()
    for kind in ("cuda", "mps", "cpu"):
        line = why_onnx_on_cpu(torch.device(kind))
        assert bool(line) != (kind == "cpu" or (kind == "cuda" and "CUDAExecutionProvider" in there))
        assert "\n" not in line
