"""bioimage.io packages of others: what they say is used, checked, and refused where it is hostile or not done here."""

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise
from onnx_files import describe, onnxruntime, package, pooled, valid, yaml, zipped

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import PixelSize
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

CPU = torch.device("cpu")


def refused(path: Path) -> str:
    """The line with which a package is refused."""
    with pytest.raises(ModelError) as caught:
        Model.load(path).field_of_view  # noqa: B018 - raises
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert message.count(str(path)) == 1
    assert "\n" not in message
    assert len(message) < 600
    return message.removeprefix(f"{path}: ")


def test_what_a_package_says_is_used(tmp_path: Path) -> None:
    path = package(tmp_path / "m.zip", describe(), pooled().model())
    model = Model.load(path)
    header = model.header
    assert (header.name, header.licence, header.pixel_size) == ("of others", "MIT", PixelSize(0.004, 0.004))
    assert [one.name for one in header.classes] == ["kind 0", "kind 1", "kind 2"]
    assert model.claimed == model.field_of_view == FieldOfView(2, 4, 4, False)
    # value * 0.01 - 1
    np.testing.assert_allclose((header.normalisation.mean, header.normalisation.std), [[100], [100]], rtol=1e-12)
    assert header.normalisation.dtype == "uint8"
    image = noise((1, 32, 32))
    _, found = predict_array(TorchPredictor(model, CPU), image, 32)
    session = onnxruntime.InferenceSession(pooled().model().SerializeToString())
    (raw,) = session.run(None, {"image": (image[None] * 0.01 - 1).astype(np.float32)})
    expected = torch.from_numpy(raw[0]).softmax(0).numpy()
    np.testing.assert_allclose(found[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], rtol=0, atol=1e-5)


def test_a_halo_that_is_too_small_is_not_believed(tmp_path: Path) -> None:
    """Nor is one that is larger than needed taken away: it is what its makers used."""
    for halo, expected in ((0, 4), (2, 4), (4, 4), (7, 8)):
        path = package(tmp_path / f"{halo}.zip", describe(halo=halo), pooled().model())
        assert Model.load(path).field_of_view == FieldOfView(2, expected, expected, False)


def test_a_step_that_is_too_small_is_not_believed(tmp_path: Path) -> None:
    """Tiles of such sizes fail, which says no more than that."""
    path = package(tmp_path / "m.zip", describe(halo=5, step=1, least=17), pooled().model())
    assert Model.load(path).field_of_view == FieldOfView(2, 4, 4, False)


def test_a_network_that_crops_is_told_by_its_offset(tmp_path: Path) -> None:
    rdf = describe(2, halo=0, offset=-4, step=1, least=12)
    path = package(tmp_path / "m.zip", rdf, valid().model())
    assert Model.load(path).field_of_view == FieldOfView(1, 2, 2, True)
    rdf = describe(2, halo=0, offset=-8, step=1, least=12)
    path = package(tmp_path / "wrong.zip", rdf, valid().model())
    assert Model.load(path).field_of_view == FieldOfView(1, 2, 2, True), "found instead"


def test_one_channel_with_a_sigmoid_after_it_is_class_1(tmp_path: Path) -> None:
    rdf = describe(1)
    rdf["outputs"][0]["postprocessing"] = [{"id": "sigmoid"}, {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    model = Model.load(package(tmp_path / "m.zip", rdf, pooled(1).model()))
    assert [one.name for one in model.header.classes] == ["background", "kind 0"]
    assert model.network.activation == "logits"


def test_normalisation_a_channel_at_a_time(tmp_path: Path) -> None:
    rdf = describe()
    kwargs = {"axis": "channel", "mean": [30.0], "std": [5.0]}
    rdf["inputs"][0]["preprocessing"] = [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        {"id": "fixed_zero_mean_unit_variance", "kwargs": kwargs},
        {"id": "scale_linear", "kwargs": {"gain": 2.0, "offset": 3.0}},
    ]
    scale = Model.load(package(tmp_path / "m.zip", rdf, pooled().model())).header.normalisation
    # 2 (v - 30) / 5 + 3 = (v - 22.5) / 2.5
    np.testing.assert_allclose((scale.mean, scale.std), [[22.5], [2.5]], rtol=1e-12)


def edited(*keys: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    """Puts a value into an rdf.yaml."""

    def edit(rdf: Any) -> None:
        for key in keys[:-1]:
            rdf = rdf[key]
        rdf[keys[-1]] = value

    return edit


BATCH = {"type": "batch"}
IN, OUT = ("inputs", 0), ("outputs", 0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (edited("format_version", value="0.4.10"), "bioimage.io format '0.4.10'; allowed: 0.5"),
        (edited("type", value="dataset"), "its rdf.yaml describes no model"),
        (edited("weights", value={}), "its rdf.yaml names no weights"),
        (
            edited("weights", value={"pytorch_state_dict": {}, "torchscript": {}}),
            "has weights as 'pytorch_state_dict', 'torchscript' only",
        ),
        (edited("weights", "onnx", "source", value="../weights.onnx"), "names a file outside the package"),
        (edited("weights", "onnx", "source", value="/etc/hostname"), "names a file outside the package"),
        (
            edited("weights", "onnx", "source", value="w.onnx"),
            "its rdf.yaml names 'w.onnx', which the package does not",
        ),
        (edited("weights", "onnx", "sha256", value="0" * 64), "'weights.onnx' is not what rdf.yaml describes"),
        (edited("inputs", value=[]), "has 0 inputs; it must have one"),
        (edited(*OUT, "axes", value=[BATCH]), "its output has the axes 'batch'; they must be batch, channel, y, x"),
        (edited(*IN, "axes", 2, "size", value=256), "takes images of 256 px along y only"),
        (edited(*OUT, "axes", 3, "scale", value=2), "gives another number of pixels along x than it takes"),
        (edited(*OUT, "axes", 3, "halo", value=8), "treats y (18, 2, 0, 4) and x (18, 2, 0, 8) differently"),
        (edited(*IN, "axes", 2, "size", "step", value=0), "treats y"),
        (edited(*IN, "preprocessing", 0, "id", value="scale_range"), "needs the preprocessing 'scale_range'"),
        (edited(*IN, "preprocessing", 0, "kwargs", "gain", value=-1), "its preprocessing inverts grey values"),
        (
            edited(*IN, "preprocessing", 0, "kwargs", "gain", value=[1, 2]),
            "its preprocessing has 2 values for 1 channels",
        ),
        (
            edited(*IN, "preprocessing", 0, "kwargs", "axis", value="y"),
            "its preprocessing 'scale_linear' works along 'y'",
        ),
        (edited(*IN, "preprocessing", value=[{}]), "its rdf.yaml does not follow version 0.5 (KeyError('id'))"),
        (
            edited(*OUT, "postprocessing", value=[{"id": "binarize"}]),
            "needs the postprocessing 'binarize'; allowed: none",
        ),
        (edited(*OUT, "axes", 1, value={"type": "channel"}), "its rdf.yaml does not follow version 0.5"),
        (edited("inputs", value="raw"), "has 3 inputs; it must have one"),
        (edited(*IN, "data", value=7), "its rdf.yaml does not follow version 0.5"),
    ],
)
def test_what_is_not_done_here_is_refused(tmp_path: Path, edit: Callable[[Any], None], message: str) -> None:
    rdf = describe()
    edit(rdf)
    path = package(tmp_path / "m.zip", rdf, pooled().model())
    assert refused(path).startswith(message)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    in_folder = refused(tmp_path / "folder")
    assert in_folder.startswith(message)


def test_a_halo_beside_an_offset_is_refused(tmp_path: Path) -> None:
    path = package(tmp_path / "m.zip", describe(2, halo=4, offset=-4), valid().model())
    assert refused(path).startswith("both crops 4 px itself and has a halo of 4 px")


def test_hostile_zips_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path, model = inside / "m.zip", pooled().model()
    for name in ("../evil", "/tmp/evil", "a/../../evil", "..\\evil"):
        package(path, describe(), model, **{name: b"evil"})
        assert refused(path).startswith("names a file outside the package")
    assert [entry.name for entry in tmp_path.rglob("*")] == ["inside", "m.zip"]

    package(path, b"a: " + b" " * (2**20 + 1), model)
    assert refused(path).startswith("rdf.yaml claims 1,048,580 bytes in ")
    package(path, b"[" * 100_000, model)
    assert refused(path).startswith("its rdf.yaml is not YAML")
    package(path, b"\xff\xfe\x00", model)
    assert refused(path).startswith("its rdf.yaml ")
    package(path, b"!!python/object/apply:os.system ['touch evil']", model)
    assert refused(path).startswith("its rdf.yaml is not YAML")
    aliases = b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
        b"%c: &%c [%s]\n" % (105 + n, 105 + n, b",".join([b"*%c" % (104 + n if n else 97)] * 9)) for n in range(12)
    )
    package(path, aliases, model)
    assert refused(path).startswith("its rdf.yaml describes no model")


def test_sizes_that_a_zip_claims_are_not_believed(tmp_path: Path) -> None:
    path = package(tmp_path / "m.zip", describe(), pooled().model())
    content = bytearray(path.read_bytes())
    # of the weights, in the central directory: 24 bytes after its signature lies the size
    entry = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)
    for size in (2**31 + 5, 3_000_000, 10):
        struct.pack_into("<I", content, entry + 24, size)
        path.write_bytes(content)
        message = refused(path)
        assert any(text in message for text in ("that is not opened", "damaged", "SHA-256", "truncated"))


def test_a_zip_that_is_none_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    assert refused(path).startswith("cannot be read (No such file or directory)")
    for content in (b"", b"PK\3\4", noise((3000,)).tobytes()):
        path.write_bytes(content)
        assert refused(path).startswith("no zip, or a damaged one")
    path.write_bytes(zipped({"model/data.pkl": b"cbuiltins\nexit\n(tR.", "model/version": b"3"}))
    assert refused(path).startswith(
        "no model package: it holds no rdf.yaml; pickled or zipped checkpoints could run code"
    )
    whole = package(path, describe(), pooled().model()).read_bytes()
    for length in range(1, len(whole), 211):
        path.write_bytes(whole[:length])
        assert refused(path).startswith("no zip, or a damaged one")
    found: list[str] = []
    for place in range(60, len(whole), 173):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        # a flipped bit is found by the checks of the zip, or lies where nothing is read
        try:
            assert Model.load(path).field_of_view == FieldOfView(2, 4, 4, False)
        except ModelError as error:
            found.append(str(error))
    assert len(found) > 10
    assert not [message for message in found if "\n" in message]


def test_weights_in_a_folder_may_not_lie_outside_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "rdf.yaml").write_text(yaml.safe_dump(describe()))
    pooled().model(tmp_path / "weights.onnx")
    (folder / "weights.onnx").symlink_to(tmp_path / "weights.onnx")
    assert refused(folder).startswith("its rdf.yaml names a file outside the package ('weights.onnx')")
    (folder / "weights.onnx").unlink()
    assert refused(folder).startswith("its rdf.yaml names 'weights.onnx', which the package does not hold")
    pooled().model(folder / "weights.onnx")
    assert Model.load(folder).field_of_view == FieldOfView(2, 4, 4, False)
