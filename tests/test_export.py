"""Export: other programs compute what PyTorch computes here, and what is read back needs nothing more."""

import io
import json
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from command_line import Run
from conftest import noise, toy_model, toy_network
from onnx_files import onnxruntime, yaml
from PIL import Image

import tilesegment
from tilesegment import Region
from tilesegment.errors import ModelError
from tilesegment.geometry import FieldOfView
from tilesegment.metadata import PixelSize
from tilesegment.models.export import export
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.predictor import TorchPredictor

pytest.importorskip("onnxscript", reason="needs the packages of pip install 'tilesegment[onnx]'")
CPU = torch.device("cpu")
MODELS = {
    "unet": lambda: toy_model(),
    "unet-same": lambda: toy_network("unet-same", depth=2, base=3),
    "unetpp": lambda: toy_network("unetpp", level=2, base=3, channels=2, classes=3, dtype="uint16"),
    "reduced": lambda: toy_network("unet", depth=1, base=3, dropout=0.0, reduction=2),
}
Pair = tuple[Model, Path]


def slow(name: str) -> Any:
    """A parameter of slow tests only: exporting takes seconds."""
    return pytest.param(name, marks=pytest.mark.slow)


def exported(name: str, folder: Path, to: str) -> Pair:
    """A model, and the file that it was exported to."""
    model = MODELS[name]()
    header = replace(model.header, pixel_size=PixelSize(0.5, 0.25), threshold=0.4, licence="CC-BY-4.0")
    if header.normalisation.dtype == "uint16":
        header = replace(header, normalisation=Normalisation((40_000.0, 30_000.0), (19_000.0, 20_000.0), "uint16"))
    saved = Model(replace(header, training={"scores": {"dice": 0.9}}), model.network).save(folder / "m.safetensors")
    return saved, export(folder / "m.safetensors", folder / f"m.{'onnx' if to == 'onnx' else 'zip'}", to)


@pytest.fixture(scope="module", params=["unet", *(slow(name) for name in MODELS if name != "unet")])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return exported(request.param, tmp_path_factory.mktemp("export"), "onnx")


@pytest.fixture(scope="module", params=[slow("unet"), slow("unet-same")])
def packed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return exported(request.param, tmp_path_factory.mktemp("package"), "bioimageio")


def test_any_batch_and_size_of_grey_values_gives_the_probabilities(pair: Pair) -> None:
    model, path = pair
    session = onnxruntime.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"])
    (given,), (result,) = session.get_inputs(), session.get_outputs()
    assert (given.name, given.shape) == ("image", ["batch", model.header.channels, "height", "width"])
    assert (result.name, result.shape[:2]) == ("probabilities", ["batch", len(model.header.classes)])
    view, scale = model.field_of_view, model.header.normalisation
    mean, std = (torch.tensor(values)[:, None, None] for values in (scale.mean, scale.std))
    for batch, high, wide in ((1, 1, 1), (2, 4, 2), (3, 2, 5)):
        sides = view.tile_of(high * view.divisor), view.tile_of(wide * view.divisor)
        image = noise((batch, model.header.channels, *sides), dtype=scale.dtype).astype(np.float32)
        with torch.inference_mode():
            expected = model.network((torch.from_numpy(image) - mean) / std).softmax(1).numpy()
        (found,) = session.run(None, {"image": image})
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
        assert np.ptp(expected) > 0.1


def test_what_is_read_back_is_the_model(pair: Pair) -> None:
    model, path = pair
    loaded = Model.load(path)
    assert loaded.header == replace(model.header, weights_sha256=loaded.header.weights_sha256)
    assert loaded.header.weights_sha256 not in ("", model.header.weights_sha256)
    assert loaded.field_of_view == model.field_of_view
    assert replace(loaded, claimed=None).field_of_view == model.field_of_view, "found by running it"


@pytest.mark.parametrize("tta", [False, True])
@pytest.mark.parametrize("own", [False, True], ids=["", "normalised by the image"])
def test_it_predicts_as_pytorch_does(pair: Pair, tta: bool, own: bool) -> None:
    model, path = pair
    channels, dtype = model.header.channels, model.header.normalisation.dtype
    factor, scale = 1 if dtype == "uint8" else 256, None
    if own:
        mean, std = (90.0 * factor, 110.0 * factor), (40.0 * factor, 90.0 * factor)
        scale = Normalisation(mean[:channels], std[:channels], dtype)
    image, step = noise((channels, 60, 50), dtype=dtype), 4 * model.field_of_view.divisor
    (ids, expected), (found_ids, found) = (
        predict_array(TorchPredictor(one, CPU, batch=3, tta=tta, normalisation=scale), image, step)
        for one in (model, Model.load(path))
    )
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.mean(found_ids != ids) < 1e-3
    assert np.ptp(expected) > 0.05


def test_the_file_is_portable(pair: Pair) -> None:
    """Onnxruntime 1.16 reads it, IR 9 and opset 19; nothing in it names this machine, as PyTorch would have it."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(pair[1])
    onnx.checker.check_model(proto, full_check=True)
    assert proto.ir_version <= 9
    assert [(entry.domain, entry.version <= 19) for entry in proto.opset_import] == [("", True)]
    content = pair[1].read_bytes()
    for secret in (str(Path(__file__).parents[1]), "site-packages", ".py", str(pair[1].parent)):
        assert secret.encode() not in content


def test_a_package_holds_what_the_specification_asks_for(packed: Pair) -> None:
    model, path = packed
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    assert set(files) == {"rdf.yaml", "weights.onnx", "input.npy", "output.npy", "README.md"}
    rdf = yaml.safe_load(files["rdf.yaml"])
    assert rdf["license"] == "CC-BY-4.0"
    assert b"\n## Validation\n" in files["README.md"]
    given, result = (np.load(io.BytesIO(files[name]), allow_pickle=False) for name in ("input.npy", "output.npy"))
    assert (given.dtype, result.dtype) == (np.uint8, np.float32)
    session = onnxruntime.InferenceSession(files["weights.onnx"], providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"image": given.astype(np.float32)})
    np.testing.assert_allclose(found, result, rtol=0, atol=1e-4)
    (image,), (probabilities,) = rdf["inputs"], rdf["outputs"]
    view = model.field_of_view
    for axis, scale in ((2, 0.5), (3, 0.25)):
        size, out = image["axes"][axis], probabilities["axes"][axis]
        assert (size["scale"], size["unit"], size["size"]["step"]) == (scale, "micrometer", view.divisor)
        # programs that run packages block by block go by the halo, and ignore offsets
        assert result.shape[2:] == given.shape[2:] and out["size"]["offset"] == 0
        assert out["halo"] % view.divisor == 0 and 0 <= out["halo"] - view.before < view.divisor
        assert size["size"]["min"] > 2 * out["halo"]


def test_a_package_read_back_is_the_model(packed: Pair, tmp_path: Path) -> None:
    model, path = packed
    with zipfile.ZipFile(path) as archive:
        archive.extractall(tmp_path / "folder")
    view, image = model.field_of_view, noise((1, 93, 118))
    if view.crops:
        halo = -(-max(view.before, view.after) // view.divisor) * view.divisor
        view = FieldOfView(view.divisor, halo, halo, crops=False)
    expected = predict_array(TorchPredictor(model, CPU), image, 16)[1]
    for place in (path, tmp_path / "folder", tmp_path / "folder" / "rdf.yaml"):
        loaded = Model.load(place)
        assert loaded.header == replace(model.header, weights_sha256=loaded.header.weights_sha256)
        assert loaded.field_of_view == view
        found = predict_array(TorchPredictor(loaded, CPU), image, 16)[1]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_package_run_block_by_block_by_others_is_the_whole(packed: Pair) -> None:
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


def test_a_file_exported_before_the_rebuild_is_the_same_model() -> None:
    """By what a mask in progress is recognised by, and what decides its tiles; made at commit b848b54."""
    model = Model.load(Path(__file__).with_name("made_before.onnx"))
    assert model.header.weights_sha256 == "4da48dda7ae449da11a4a8f12542a2847ffc62085088eec73573f0f37130c19a"
    assert (model.field_of_view, model.network.values_per_pixel) == (FieldOfView(4, 20, 20, True), 11)
    assert replace(model.header, weights_sha256="") == toy_model().header


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["uint16", ""])
def test_percentiles_go_along(dtype: str, tmp_path: Path) -> None:
    """Both files read back are the model; a package tells others what is to be done first, and its tensors show it."""
    toy = toy_model(channels=2)
    header = replace(toy.header, normalisation=Normalisation((0.4, 0.5), (0.3, 0.25), dtype, (1.0, 99.8)))
    Model(header, toy.network).save(tmp_path / "m.safetensors")
    image = noise((2, 70, 81), dtype="uint16") // 5 + 300
    tifffile.imwrite(tmp_path / "image.tif", image, photometric="minisblack", metadata={"axes": "CYX"})
    found = []
    for to, name in (("", "m.safetensors"), ("onnx", "m.onnx"), ("bioimageio", "m.zip")):
        path = export(tmp_path / "m.safetensors", tmp_path / name, to) if to else tmp_path / name
        loaded = Model.load(path)
        assert loaded.header.normalisation == header.normalisation
        tilesegment.predict(
            tmp_path / "image.tif",
            tmp_path / f"{name}.zarr",
            path,
            probabilities=tmp_path / f"{name}.p.zarr",
            tile=88,
            precision="fp32",
        )
        found.append(tilesegment.open_image(tmp_path / f"{name}.p.zarr").read(Region(0, 0, 70, 81)))
    for other in found[1:]:
        np.testing.assert_allclose(other, found[0], rtol=0, atol=1e-4)
    with zipfile.ZipFile(tmp_path / "m.zip") as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    (given,) = yaml.safe_load(files["rdf.yaml"])["inputs"]
    _, (step, options) = (one.values() for one in given["preprocessing"])
    assert (step, given["data"]["type"], options["axes"]) == ("scale_range", dtype or "float32", ["y", "x"])
    grey, expected = (np.load(io.BytesIO(files[name])) for name in ("input.npy", "output.npy"))
    ends = (options["min_percentile"], options["max_percentile"])
    low, high = np.percentile(grey.astype(np.float64), ends, axis=(2, 3), keepdims=True)
    session = onnxruntime.InferenceSession(files["weights.onnx"], providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {"image": ((grey - low) / (high - low + options["eps"])).astype(np.float32)})
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-4)
    assert np.ptp(expected) > 0.1 and b"percentiles 1 and 99.8" in files["README.md"]


@pytest.mark.slow
def test_a_chosen_halo_goes_along(tmp_path: Path) -> None:
    model = toy_network("unet-same", depth=1, base=3).with_halo(3).save(tmp_path / "m.safetensors")
    loaded = Model.load(export(tmp_path / "m.safetensors", tmp_path / "m.onnx", "onnx"))
    assert loaded.field_of_view == model.field_of_view
    assert loaded.field_of_view.before == 4
    assert loaded.with_halo(9).field_of_view.before == 10


@pytest.mark.parametrize(
    ("model", "out", "to", "named"),
    [
        ("toy.safetensors", "m.onnx", "tflite", "'tflite'; allowed: onnx, bioimageio"),
        ("toy.safetensors", "m.zip", "onnx", ".onnx"),
        ("toy.safetensors", "there.onnx", "onnx", "--overwrite"),
        ("toy.safetensors", "no/m.onnx", "onnx", "no is not a folder"),
        ("none", "m.onnx", "onnx", "none"),
    ],
)
def test_what_cannot_be_exported_is_named(model: str, out: str, to: str, named: str, toy: Path) -> None:
    (toy.parent / "there.onnx").write_bytes(b"mine")
    with pytest.raises(ModelError) as caught:
        export(toy.parent / model, toy.parent / out, to)
    assert named in str(caught.value) and "\n" not in str(caught.value)
    assert (toy.parent / "there.onnx").read_bytes() == b"mine"


@pytest.mark.slow
@pytest.mark.parametrize("to", ["onnx", "bioimageio"])
@pytest.mark.parametrize("name", ["unet", "unet-same"])
def test_out_and_back_on_the_command_line(to: str, name: str, tmp_path: Path, run: Run) -> None:
    """With every byte of the mask: no probability of noise lies within rounding of 1/2."""
    toy_network(name, base=3, depth=2, seed=4).save(tmp_path / "toy.safetensors")
    Image.fromarray(noise((90, 70), 5)).save(tmp_path / "image.png")
    out = tmp_path / ("toy.onnx" if to == "onnx" else "toy.zip")
    done = run(f"export {tmp_path}/toy.safetensors --to {to} --out {out} --json")
    assert done.code == 0 and f"--model {out}" in done.err
    assert json.loads(done.out) == {"path": str(out), "format": to, "bytes": out.stat().st_size}
    masks = []
    for model in (tmp_path / "toy.safetensors", out):
        mask = tmp_path / f"{model.suffix}.png"
        tilesegment.predict(tmp_path / "image.png", mask, model, tile=64, precision="fp32", batch=1)
        masks.append(np.asarray(Image.open(mask)))
    np.testing.assert_array_equal(*masks)
    assert tilesegment.describe(out)["classes"] == {"0": "class 0", "1": "class 1"}
    assert tilesegment.verify(tmp_path / "image.png", out, tile=64, precision="fp32").seamless
    assert "--precision fp32" in run(f"verify {tmp_path}/image.png --model {out}").err
    again = run(f"export {out} --to bioimageio --out {tmp_path}/again.zip")
    assert again.code == 1 and str(out) in again.err
