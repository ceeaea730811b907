"""bioimage.io packages from elsewhere: what they say is used, checked, and refused where hostile or not supported."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from conftest import noise
from onnx_files import describe, onnxruntime, package, pooled, valid, yaml, zipped

import tilesegment
from tilesegment import Region
from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import PixelSize
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

VIEW = FieldOfView(2, 4, 4, False)


def refused(path: Path) -> str:
    """The line with which a package is refused, without the file's name, which begins it."""
    with pytest.raises(ModelError) as caught:
        Model.load(path).field_of_view  # noqa: B018 - raises
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.count(str(path)) == 1
    assert "\n" not in message and len(message) < 600
    return message.removeprefix(f"{path}: ")


def test_what_a_package_says_is_used(tmp_path: Path) -> None:
    model = Model.load(package(tmp_path / "m.zip", describe(), pooled().model()))
    header = model.header
    assert (header.name, header.licence, header.pixel_size) == ("of others", "MIT", PixelSize(0.004, 0.004))
    assert [one.name for one in header.classes] == ["kind 0", "kind 1", "kind 2"]
    assert model.field_of_view == VIEW and model.assumed == ""
    # value * 0.01 - 1
    np.testing.assert_allclose((header.normalisation.mean, header.normalisation.std), [[100], [100]], rtol=1e-12)
    assert header.normalisation.dtype == "uint8"
    image = noise((1, 32, 32))
    _, found = predict_array(TorchPredictor(model, torch.device("cpu")), image, 32)
    session = onnxruntime.InferenceSession(pooled().model().SerializeToString())
    (raw,) = session.run(None, {"image": (image[None] * 0.01 - 1).astype(np.float32)})
    expected = torch.from_numpy(raw[0]).softmax(0).numpy()
    np.testing.assert_allclose(found[:, 4:-4, 4:-4], expected[:, 4:-4, 4:-4], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("sizes", "halo"),
    [({"halo": 0}, 4), ({"halo": 2}, 4), ({"halo": 7}, 8), ({"halo": 5, "step": 1, "least": 17}, 4)],
    ids=str,
)
def test_sizes_are_believed_if_they_suffice(sizes: dict[str, int], halo: int, tmp_path: Path) -> None:
    """A larger halo than needed is what its makers used, and stays."""
    path = package(tmp_path / "m.zip", describe(**sizes), pooled().model())
    assert Model.load(path).field_of_view == FieldOfView(2, halo, halo, False)


@pytest.mark.parametrize("offset", [-4, -8])
def test_a_network_that_crops_is_told_by_its_offset(offset: int, tmp_path: Path) -> None:
    """A wrong one is replaced by what is found."""
    rdf = describe(2, halo=0, offset=offset, step=1, least=12)
    assert Model.load(package(tmp_path / "m.zip", rdf, valid().model())).field_of_view == FieldOfView(1, 2, 2, True)


def test_one_channel_with_a_sigmoid_after_it_is_class_1(tmp_path: Path) -> None:
    rdf = describe(1)
    rdf["outputs"][0]["postprocessing"] = [{"id": "sigmoid"}, {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}}]
    model, image = Model.load(package(tmp_path / "m.zip", rdf, pooled(1).model())), noise((1, 1, 32, 32)) / 99
    assert [one.name for one in model.header.classes] == ["background", "kind 0"]
    session = onnxruntime.InferenceSession(pooled(1).model().SerializeToString())
    (raw,) = session.run(None, {"image": image.astype(np.float32)})
    found = model.network(torch.from_numpy(image.astype(np.float32))).softmax(1)[:, 1:]
    np.testing.assert_allclose(found.numpy(), 1 / (1 + np.exp(-raw)), rtol=0, atol=1e-6)


def test_all_preprocessing_is_one_normalisation(tmp_path: Path) -> None:
    rdf = describe()
    rdf["inputs"][0]["preprocessing"] = [
        {"id": "ensure_dtype", "kwargs": {"dtype": "float32"}},
        {"id": "fixed_zero_mean_unit_variance", "kwargs": {"axis": "channel", "mean": [30.0], "std": [5.0]}},
        {"id": "scale_linear", "kwargs": {"gain": 2.0, "offset": 3.0}},
    ]
    scale = Model.load(package(tmp_path / "m.zip", rdf, pooled().model())).header.normalisation
    # 2 (v - 30) / 5 + 3 = (v - 22.5) / 2.5
    np.testing.assert_allclose((scale.mean, scale.std), [[22.5], [2.5]], rtol=1e-12)


def scale_range(**options: Any) -> dict[str, Any]:
    """Scaling by percentiles."""
    return {"id": "scale_range", "kwargs": {"axes": ["y", "x"], "min_percentile": 1, "max_percentile": 99.8} | options}


def linear(gain: float) -> dict[str, Any]:
    return {"id": "scale_linear", "kwargs": {"gain": gain, "offset": 3.0}}


@pytest.mark.parametrize("axes", [["y", "x"], ["channel", "y", "x"], None])
def test_percentiles_of_an_image_are_those_of_the_whole(axes: list[str] | None, tmp_path: Path) -> None:
    """As the preprocessing computes it of the whole image, whatever the tiles; what comes before changes nothing."""
    rdf = describe()
    rdf["inputs"][0]["preprocessing"] = [linear(0.5), scale_range(axes=axes), linear(2.0)]
    path = package(tmp_path / "m.zip", rdf, pooled().model())
    scale = Model.load(path).header.normalisation
    assert scale == Normalisation((-1.5,), (0.5,), "uint8", (1.0, 99.8))
    pixels = noise((1, 90, 110), dtype="uint16") // 3
    tifffile.imwrite(tmp_path / "image.tif", pixels[0])
    out = tmp_path / "p.zarr"
    tilesegment.predict(
        tmp_path / "image.tif", tmp_path / "m.zarr", path, probabilities=out, tile=32, precision="fp32", block=48
    )
    low, high = np.percentile(pixels * 0.5 + 3, (1, 99.8))
    given = 2 * (pixels * 0.5 + 3 - low) / (high - low + 1e-6) + 3
    padded = np.pad(given, ((0, 0), (16, 16), (16, 16)), mode="reflect")
    (raw,) = onnxruntime.InferenceSession(pooled().model().SerializeToString()).run(
        None, {"image": padded[None].astype(np.float32)}
    )
    expected = torch.from_numpy(raw[0]).softmax(0).numpy()[:, 16:-16, 16:-16]
    np.testing.assert_allclose(tilesegment.open_image(out).read(Region(0, 0, 90, 110)), expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.1


IN, OUT = ("inputs", 0), ("outputs", 0)


@pytest.mark.parametrize(
    ("keys", "value", "named"),
    [
        (["format_version"], "0.4.10", "'0.4.10'"),
        (["type"], "dataset", "no model"),
        (["weights"], {}, "no weights"),
        (["weights"], {"pytorch_state_dict": {}, "torchscript": {}}, "'torchscript'"),
        (["weights", "onnx", "source"], "../weights.onnx", "'../weights.onnx'"),
        (["weights", "onnx", "source"], "/etc/hostname", "'/etc/hostname'"),
        (["weights", "onnx", "source"], "w.onnx", "'w.onnx'"),
        (["weights", "onnx", "sha256"], "0" * 64, "SHA-256"),
        (["inputs"], [], "0 inputs"),
        (["inputs"], "raw", "3 inputs"),
        ([*OUT, "axes"], [{"type": "batch"}], "'batch'"),
        ([*OUT, "axes", 1], {"type": "channel"}, "channel_names"),
        ([*OUT, "axes", 3, "scale"], 2, "along x"),
        ([*OUT, "axes", 3, "halo"], 8, "(18, 2, 0, 8)"),
        ([*OUT, "postprocessing"], [{"id": "binarize"}], "'binarize'"),
        ([*IN, "axes", 2, "size"], 256, "256 px along y"),
        ([*IN, "axes", 2, "size", "step"], 0, "(18, 0, 0, 4)"),
        ([*IN, "preprocessing", 0, "id"], "zero_mean_unit_variance", "'zero_mean_unit_variance'"),
        ([*IN, "preprocessing", 0], scale_range(axes=["batch", "y", "x"]), "along ['batch', 'y', 'x']"),
        ([*IN, "preprocessing", 0], scale_range(min_percentile=99.8, max_percentile=1), "99.8 and 1"),
        ([*IN, "preprocessing", 0], scale_range(reference_tensor="other"), "'other'"),
        ([*IN, "preprocessing"], [linear(-1.0), scale_range()], "inverts"),
        ([*IN, "preprocessing", 0, "kwargs", "gain"], -1, "positive gain"),
        ([*IN, "preprocessing", 0, "kwargs", "gain"], [1, 2], "2 values for 1 channels"),
        ([*IN, "preprocessing", 0, "kwargs", "axis"], "y", "along 'y'"),
        ([*IN, "preprocessing"], [{}], "'id'"),
        ([*IN, "data"], 7, "0.5"),
    ],
)
def test_what_is_not_supported_is_named(keys: list[Any], value: Any, named: str, tmp_path: Path) -> None:
    rdf = part = describe()
    for key in keys[:-1]:
        part = part[key]
    part[keys[-1]] = value
    path = package(tmp_path / "m.zip", rdf, pooled().model())
    assert named in refused(path)
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    assert named in refused(tmp_path / "folder")


def test_a_halo_beside_an_offset_is_refused(tmp_path: Path) -> None:
    message = refused(package(tmp_path / "m.zip", describe(2, halo=4, offset=-4), valid().model()))
    assert "crops 4 px" in message and "halo of 4 px" in message


ALIASES = b"a: &a [1,1,1,1,1,1,1,1,1]\n" + b"".join(
    b"%c: &%c [%s]\n" % (105 + n, 105 + n, b",".join([b"*%c" % (104 + n if n else 97)] * 9)) for n in range(12)
)


@pytest.mark.parametrize(
    "rdf",
    [
        b"a: " + b" " * (2**20 + 1),
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"!!python/object/apply:os.system ['touch evil']",
        ALIASES,
    ],
    ids=["large", "deep", "no text", "python", "aliases"],
)
def test_hostile_descriptions_are_refused(rdf: bytes, tmp_path: Path) -> None:
    assert "rdf.yaml" in refused(package(tmp_path / "m.zip", rdf, pooled().model()))


def test_nothing_of_a_zip_is_written(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    path = tmp_path / "inside" / "m.zip"
    for name in ("../evil", "/tmp/evil", "a/../../evil", "..\\evil"):
        package(path, describe(), pooled().model(), **{name: b"evil"})
        assert repr(name) in refused(path)
    assert [entry.name for entry in tmp_path.rglob("*")] == ["inside", "m.zip"]


@pytest.mark.parametrize("size", [2**31 + 5, 3_000_000, 10])
def test_sizes_that_a_zip_claims_are_not_believed(size: int, tmp_path: Path) -> None:
    path = package(tmp_path / "m.zip", describe(), pooled().model())
    content = bytearray(path.read_bytes())
    # of the weights, in the central directory: 24 bytes after its signature lies the size
    struct.pack_into("<I", content, content.index(b"PK\1\2", content.index(b"PK\1\2") + 1) + 24, size)
    path.write_bytes(content)
    refused(path)


def test_a_zip_that_is_none_or_damaged_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.zip"
    assert "No such file or directory" in refused(path)
    for content in (b"", b"PK\3\4", noise((3000,)).tobytes()):
        path.write_bytes(content)
        refused(path)
    path.write_bytes(zipped({"model/data.pkl": b"cbuiltins\nexit\n(tR.", "model/version": b"3"}))
    assert "could run code" in refused(path)
    whole = package(path, describe(), pooled().model()).read_bytes()
    for length in range(1, len(whole), 411):
        path.write_bytes(whole[:length])
        refused(path)
    found: list[str] = []
    for place in range(60, len(whole), 373):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        # a flipped bit is found by the checks of the zip, or lies where nothing is read
        try:
            assert Model.load(path).field_of_view == VIEW
        except ModelError as error:
            found.append(str(error))
    assert len(found) > 3 and not [message for message in found if "\n" in message]


def test_weights_in_a_folder_may_not_lie_outside_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "rdf.yaml").write_text(yaml.safe_dump(describe()))
    pooled().model(tmp_path / "weights.onnx")
    (folder / "weights.onnx").symlink_to(tmp_path / "weights.onnx")
    assert "outside" in refused(folder)
    (folder / "weights.onnx").unlink()
    assert "'weights.onnx'" in refused(folder)
    pooled().model(folder / "weights.onnx")
    assert Model.load(folder).field_of_view == VIEW
