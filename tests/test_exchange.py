"""Export: what other programs compute is what PyTorch computes here, and what is read back needs nothing more."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from conftest import noise, toy_model, toy_network
from onnx_files import onnxruntime, yaml
from PIL import Image

from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView, Region, TileGrid
from tilesegment.metadata import PixelSize
from tilesegment.models.export import export
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor
from tilesegment_cli.main import tileseg

pytest.importorskip("onnxscript", reason="needs the packages of pip install 'tilesegment[onnx]'")
CPU = torch.device("cpu")
MODELS = {
    "unet": lambda: toy_model(),
    "unet-same": lambda: toy_network("unet-same", depth=2, base=3),
    "unetpp": lambda: toy_network("unetpp", level=2, base=3, channels=2, classes=3, dtype="uint16"),
    "reduced": lambda: toy_network("unet", depth=1, base=3, dropout=0.0, reduction=2),
}


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A model, and the ONNX file that it was exported to."""
    folder, model = tmp_path_factory.mktemp("export"), MODELS[request.param]()
    header = replace(model.header, pixel_size=PixelSize(0.5, 0.25), threshold=0.4, training={"scores": {"dice": 0.9}})
    if header.normalisation.dtype == "uint16":
        header = replace(header, normalisation=Normalisation((40_000.0, 30_000.0), (19_000.0, 20_000.0), "uint16"))
    model = Model(header, model.network).save(folder / "m.safetensors")
    return model, export(folder / "m.safetensors", folder / "m.onnx", "onnx")


@pytest.fixture(scope="module", params=["unet", "unet-same"])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """A model, and the package that it was exported to."""
    folder, model = tmp_path_factory.mktemp("package"), MODELS[request.param]()
    header = replace(model.header, pixel_size=PixelSize(0.5, 0.25), licence="CC-BY-4.0")
    model = Model(header, model.network).save(folder / "m.safetensors")
    return model, export(folder / "m.safetensors", folder / "m.zip", "bioimageio")


def test_any_batch_and_size_of_grey_values_gives_the_probabilities(pair: tuple[Model, Path]) -> None:
    model, path = pair
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("image", ["batch", model.header.channels, "height", "width"])
    assert (result.name, result.shape[:2]) == ("probabilities", ["batch", len(model.header.classes)])
    view, scale = model.field_of_view, model.header.normalisation
    for batch, high, wide in ((1, 1, 1), (2, 4, 2), (3, 2, 5)):
        sides = view.tile_of(high * view.divisor), view.tile_of(wide * view.divisor)
        image = noise((batch, model.header.channels, *sides), dtype=scale.dtype).astype(np.float32)
        mean, std = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.std))
        with torch.inference_mode():
            expected = model.network((torch.from_numpy(image) - mean) / std).softmax(1).numpy()
        (found,) = session.run(None, {"image": image})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert np.ptp(expected) > 0.1


def test_what_is_read_back_is_the_model(pair: tuple[Model, Path]) -> None:
    model, path = pair
    loaded = Model.load(path)
    assert loaded.header == replace(model.header, weights_sha256=loaded.header.weights_sha256)
    assert loaded.header.weights_sha256 not in ("", model.header.weights_sha256)
    assert loaded.field_of_view == model.field_of_view
    bare = replace(loaded, claimed=None)
    assert bare.field_of_view == model.field_of_view, "found by running it"


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("batch", [1, 3])
def test_it_predicts_blocks_as_pytorch_does(pair: tuple[Model, Path], tta: bool, batch: int) -> None:
    model, path = pair
    view, dtype = model.field_of_view, model.header.normalisation.dtype
    block = TileGrid(Region(0, 0, 100, 90), 4 * view.divisor, 8 * view.divisor, view).at(1, 1)
    pixels = noise((model.header.channels, *block.read.shape), dtype=dtype)
    ids, expected = TorchPredictor(model, CPU, batch=batch, tta=tta).predict_probabilities(pixels, block)
    found_ids, found = TorchPredictor(Model.load(path), CPU, batch=batch, tta=tta).predict_probabilities(pixels, block)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.mean(found_ids != ids) < 1e-3
    assert np.ptp(expected) > 0.05


def test_the_images_own_normalisation_reaches_the_graph(pair: tuple[Model, Path]) -> None:
    model, path = pair
    channels, dtype = model.header.channels, model.header.normalisation.dtype
    factor = 1 if dtype == "uint8" else 256
    scale = Normalisation((90.0 * factor, 110.0 * factor)[:channels], (40.0 * factor, 90.0 * factor)[:channels], dtype)
    image = noise((channels, 40, 50), dtype=dtype)
    step = 4 * model.field_of_view.divisor
    models = (model, Model.load(path), model)
    scales = (scale, scale, None)
    expected, found, other = (
        predict_array(TorchPredictor(one, CPU, normalisation=its), image, step)[1]
        for one, its in zip(models, scales, strict=True)
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.abs(other - expected).max() > 1e-2


def test_older_runtimes_can_read_the_file(pair: tuple[Model, Path]) -> None:
    """Those of onnxruntime 1.16 and 1.17: IR 9, opset 19."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(pair[1])
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 9
    assert [(entry.domain, entry.version <= 19) for entry in proto.opset_import] == [("", True)]


def test_nothing_of_this_machine_is_in_the_file(pair: tuple[Model, Path]) -> None:
    """PyTorch writes the stack of every layer into it."""
    content = pair[1].read_bytes()
    for secret in (str(Path(__file__).parents[1]), "site-packages", ".py", str(pair[1].parent)):
        assert secret.encode() not in content


def test_a_package_holds_what_the_specification_asks_for(packed: tuple[Model, Path]) -> None:
    model, path = packed
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {"rdf.yaml", "weights.onnx", "input.npy", "output.npy", "cover.png", "README.md"}
    rdf = yaml.safe_load(files["rdf.yaml"])
    assert rdf["license"] == "CC-BY-4.0"
    assert b"\n## Validation\n" in files["README.md"]
    given, result = (np.load(io.BytesIO(files[name]), allow_pickle=False) for name in ("input.npy", "output.npy"))
    assert (given.dtype, result.dtype) == (np.uint8, np.float32)
    session = onnxruntime.InferenceSession(files["weights.onnx"], providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": given.astype(np.float32)})
    np.testing.assert_allclose(found, result, rtol=0, atol=1e-4)
    height, width = np.asarray(Image.open(io.BytesIO(files["cover.png"]))).shape[:2]
    assert width == 2 * height
    (image,), (probabilities,) = rdf["inputs"], rdf["outputs"]
    view = model.field_of_view
    for axis, scale in ((2, 0.5), (3, 0.25)):
        size, out = image["axes"][axis], probabilities["axes"][axis]
        assert (size["scale"], size["unit"], size["size"]["step"]) == (scale, "micrometer", view.divisor)
        # cores run block by block by the halo, and ignore offsets
        assert result.shape[2:] == given.shape[2:]
        assert out["size"]["offset"] == 0
        assert out["halo"] % view.divisor == 0 and 0 <= out["halo"] - view.before < view.divisor
        assert size["size"]["min"] > 2 * out["halo"]


def test_a_package_read_back_is_the_model(packed: tuple[Model, Path], tmp_path: Path) -> None:
    model, path = packed
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    for place in (path, tmp_path / "folder", tmp_path / "folder" / "rdf.yaml"):
        loaded = Model.load(place)
        assert loaded.header == replace(model.header, weights_sha256=loaded.header.weights_sha256)
        view, packed_view = model.field_of_view, loaded.field_of_view
        if view.crops:
            halo = -(-max(view.before, view.after) // view.divisor) * view.divisor
            view = FieldOfView(view.divisor, halo, halo, crops=False)
        assert packed_view == view


@pytest.mark.parametrize("tta", [False, True])
def test_a_package_predicts_as_the_model_does(packed: tuple[Model, Path], tta: bool) -> None:
    model, path = packed
    image = noise((1, 93, 118))
    step = 4 * model.field_of_view.divisor
    expected, found = (
        predict_array(TorchPredictor(one, CPU, tta=tta), image, step)[1] for one in (model, Model.load(path))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.05


def test_a_package_run_block_by_block_by_others_is_the_whole(packed: tuple[Model, Path]) -> None:
    """As the core of bioimage.io does: blocks overlap by twice the halo, which is cut off from the output."""
    model, path = packed
    with zipfile.ZipFile(path) as archive:
        rdf, weights = yaml.safe_load(archive.read("rdf.yaml")), archive.read("weights.onnx")
    session = onnxruntime.InferenceSession(weights, providers=["CPUExecutionProvider"])
    size, halo = rdf["inputs"][0]["axes"][2]["size"], rdf["outputs"][0]["axes"][2]["halo"]
    side = size["min"] + 2 * size["step"]
    kept = side - 2 * halo
    image = noise((1, 1, 8 * kept, 8 * kept)).astype(np.float32)
    (whole,) = session.run(None, {"image": image})
    assert whole.shape[2:] == image.shape[2:]
    padded = np.pad(image, ((0, 0), (0, 0), (halo, halo), (halo, halo)), mode="reflect")
    joined = np.empty_like(whole)
    for y in range(0, image.shape[2], kept):
        for x in range(0, image.shape[3], kept):
            (block,) = session.run(None, {"image": padded[:, :, y : y + side, x : x + side]})
            joined[:, :, y : y + kept, x : x + kept] = block[:, :, halo : side - halo, halo : side - halo]
    # a network that pads with zeros decides otherwise at the border of the whole
    rim = 0 if model.field_of_view.crops else halo
    inner = (slice(rim, image.shape[2] - rim), slice(rim, image.shape[3] - rim))
    np.testing.assert_allclose(joined[:, :, *inner], whole[:, :, *inner], rtol=0, atol=1e-4)
    assert np.ptp(joined[:, :, *inner]) > 0.05


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # its own
def test_its_own_validator_accepts_a_package(packed: tuple[Model, Path]) -> None:
    spec = pytest.importorskip("bioimageio.spec", reason="needs bioimageio.spec, which is not a dependency")
    found = spec.load_description(packed[1], perform_io_checks=True)
    assert found.validation_summary.status in ("passed", "valid-format")
    assert type(found).__name__ == "ModelDescr"


def test_a_chosen_halo_goes_along(tmp_path: Path) -> None:
    model = toy_network("unet-same", depth=1, base=3).with_halo(3).save(tmp_path / "m.safetensors")
    loaded = Model.load(export(tmp_path / "m.safetensors", tmp_path / "m.onnx", "onnx"))
    assert loaded.field_of_view == model.field_of_view
    assert loaded.field_of_view.before == 4
    assert loaded.with_halo(9).field_of_view.before == 10


def test_what_cannot_be_exported_is_refused_in_a_line(toy: Path, tmp_path: Path) -> None:
    there = tmp_path / "there.onnx"
    there.write_bytes(b"mine")
    cases = [
        (toy, tmp_path / "m.onnx", "tflite", "'tflite'; allowed: onnx, bioimageio"),
        (toy, tmp_path / "m.zip", "onnx", "m.zip: for onnx the name must end in .onnx"),
        (toy, there, "onnx", "there.onnx exists; name another output, or use --overwrite to replace it"),
        (toy, tmp_path / "no" / "m.onnx", "onnx", "no is not a folder"),
        (tmp_path / "none", tmp_path / "m.onnx", "onnx", "neither a file nor a bundled model"),
    ]
    for model, out, to, message in cases:
        with pytest.raises(ModelError) as caught:
            export(model, out, to)
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)
    assert there.read_bytes() == b"mine"


def test_the_command_exports_and_says_where(toy: Path, tmp_path: Path) -> None:
    out = tmp_path / "m.onnx"
    done = CliRunner().invoke(tileseg, ["export", str(toy), "--to", "onnx", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {"path": str(out), "format": "onnx", "bytes": out.stat().st_size}
    assert f"--model {out}" in done.stderr
    again = CliRunner().invoke(tileseg, ["export", str(toy), "--to", "onnx", "--out", str(out)])
    assert isinstance(again.exception, ModelError)
    assert (
        CliRunner().invoke(tileseg, ["export", str(out), "--to", "bioimageio", "--out", "m.zip"]).exception is not None
    )
