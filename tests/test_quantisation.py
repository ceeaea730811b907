"""`--precision int8`: calibrated on some tiles, its price measured, both kept."""

import os
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import noise, toy_model, toy_network
from PIL import Image
from toy_plans import of_every_network, plan_of, samples_of

import tilesegment
from tilesegment.errors import DeviceError, ModelError
from tilesegment.geometry import Region
from tilesegment.models.model import Model
from tilesegment.networks.network import Network
from tilesegment.prediction.devices import choose_precision
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.int8 import crop_by_strides, folder_for, quantised, sample_blocks
from tilesegment.prediction.openvino import OpenVinoPredictor, convert, core
from tilesegment.prediction.predictor import TorchPredictor, make_predictor

for package in ("openvino", "nncf"):
    if find_spec(package) is None:
        pytest.skip("needs OpenVINO and NNCF: pip install 'tilesegment[int8]'", allow_module_level=True)


CPU = torch.device("cpu")
EXACTLY = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's own default is bf16 wherever the CPU has it


def test_sample_blocks_are_spread_over_the_image() -> None:
    model = toy_model()
    plan = plan_of(model, (300, 400), depth=5)
    blocks = sample_blocks(plan)
    assert blocks == sample_blocks(plan)
    assert {z for z, _ in blocks} == {0, 1, 2, 3, 4}
    assert len(blocks) == 12
    for _, block in blocks:
        assert block.read.shape == (plan.tile, plan.tile)
        assert plan.region.contains(block.write)
    assert len(sample_blocks(plan_of(model, (40, 20)))) == 6
    assert len(sample_blocks(plan_of(model, (5, 5)))) == 1


def test_samples_of_large_tiles_are_smaller() -> None:
    """What int8 takes while it is calibrated does not grow with the tile."""
    model = toy_model()
    large = plan_of(model, (5000, 3000), step=1024)
    blocks = sample_blocks(large)
    assert {block.read.shape for _, block in blocks} == {(model.field_of_view.tile_of(512),) * 2}
    assert all(large.region.contains(block.write) for _, block in blocks)
    assert len(blocks) == 12


def test_it_is_close_and_says_how_close(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, folder = toy_model(base=8), tmp_path / "toy.int8"
    samples = samples_of(model)
    predictor = make_predictor(model, CPU, plan_of(model, (90, 70)), lambda: samples, folder)
    exact = TorchPredictor(model, CPU)
    both = [(predictor.predict(*each), exact.predict(*each)) for each in samples[1::3]]
    differing = sum(np.count_nonzero(a != b) for a, b in both) / sum(a.size for a, _ in both)
    assert predictor.disagreement == pytest.approx(differing)
    assert 0 < differing < 0.1
    assert capfd.readouterr().out == ""


def test_how_close_is_measured_once(tmp_path: Path) -> None:
    """For these tiles and this way to predict; what is damaged, or cannot be kept, is measured again."""
    model = toy_model(base=8)

    def measure(seed: int, **options: Any) -> tuple[float | None, list[Path]]:
        plan, samples = plan_of(model, (90, 70)), samples_of(model)
        # other pixels to measure on, the same to calibrate
        samples[1] = noise(samples[1][0].shape, seed), samples[1][1]
        predictor = make_predictor(model, CPU, plan, lambda: samples, tmp_path, **options)
        return predictor.disagreement, sorted(tmp_path.glob("*/disagreement-*"))

    first, (kept,) = measure(1)
    assert first is not None
    kept.write_text("0.25")
    assert measure(1) == (0.25, [kept])
    for damaged in ("", "{", "7", "NaN", "[0.5]", '"0.5"x'):
        kept.write_text(damaged)
        assert measure(1) == (first, [kept])
    kept.write_text("0.25")
    assert measure(2)[0] != 0.25
    assert measure(1, threshold=0.2)[0] != 0.25
    assert measure(1, tta=True)[0] != 0.25
    assert len(measure(1)[1]) == 4
    kept.unlink()
    kept.mkdir()
    assert measure(1)[0] == first


def test_it_is_quantised_once(tmp_path: Path) -> None:
    """For these weights and these tiles; other tiles give another."""
    model, folder = toy_model(depth=1), tmp_path / "toy.int8"
    inputs = [(noise((1, 64, 64), n) / 64 - 2).astype(np.float32) for n in range(3)]
    quantised(model, inputs, folder)
    (kept,) = folder.iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["network.bin", "network.xml"]
    state = (kept / "network.bin").stat().st_mtime_ns
    quantised(model, inputs, folder)
    assert [path.name for path in folder.iterdir()] == [kept.name]
    assert (kept / "network.bin").stat().st_mtime_ns == state
    quantised(model, inputs[:2], folder)
    quantised(toy_model(depth=1, seed=1), inputs, folder)
    assert len(list(folder.iterdir())) == 3


def test_crops_are_of_integers(tmp_path: Path) -> None:
    """And by the older operation nothing else is computed than by the one that PyTorch's program has."""
    model, tile = toy_model(), toy_model().field_of_view.tile_of(16)
    inputs = [(noise((1, tile, tile), n) / 64 - 2).astype(np.float32) for n in range(3)]
    network = convert(model.network, "toy", (1, 1, tile, tile))
    expected = core().compile_model(network, "CPU", EXACTLY)(inputs[0][None])[0]
    crop_by_strides(network)
    assert "Slice" not in [each.get_type_name() for each in network.get_ordered_ops()]
    found = core().compile_model(network, "CPU", EXACTLY)(inputs[0][None])[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)

    quantised_network, _ = quantised(model, inputs, tmp_path)
    crops = [each for each in quantised_network.get_ordered_ops() if each.get_type_name() == "StridedSlice"]
    sources = {each.input_value(0).get_node().get_type_name() for each in crops}
    assert len(crops) == 4 and sources == {"FakeQuantize", "StridedSlice"}, "height and width of two skips"


@of_every_network
def test_a_network_cropped_so_takes_tiles_of_any_shape(model: Model) -> None:
    """It is calibrated on small ones."""
    view, channels = model.field_of_view, model.header.channels
    small, large = view.tile_of(2 * view.divisor), view.tile_of(5 * view.divisor)
    network = convert(model.network, "toy", (1, channels, small, small))
    crop_by_strides(network)
    network.reshape((1, channels, large, small))
    pixels = (noise((1, channels, large, small)) / 64 - 2).astype(np.float32)
    found = core().compile_model(network, "CPU", EXACTLY)(pixels)[0]
    expected = model.network(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    "model",
    [
        toy_model(base=8),
        toy_network("unet-same", depth=1, base=4, up="bilinear").with_halo(16),
    ],
    ids=["unet", "chosen halo"],
)
def test_it_is_the_same_in_tiles_of_any_shape(tmp_path: Path, model: Model) -> None:
    image, view = noise((1, 90, 70)), model.field_of_view
    inputs = [(noise((1, view.tile_of(16), view.tile_of(16)), n) / 64 - 2).astype(np.float32) for n in range(3)]
    network, _ = quantised(model, inputs, tmp_path)
    predictor = OpenVinoPredictor(model, view.tile_of(16), quantised=network)
    small, large = (predict_array(predictor, image, step)[1] for step in (16, 96))
    # integers are summed exactly; what is left of fp32 rounds
    assert np.mean(np.abs(small - large) > 0.02) < 0.01


def test_a_damaged_one_is_named(tmp_path: Path) -> None:
    model = toy_model(depth=1)
    inputs = [np.zeros((1, 64, 64), np.float32)]
    quantised(model, inputs, tmp_path)
    (kept,) = tmp_path.iterdir()
    (kept / "network.xml").write_text("<nothing")
    with pytest.raises(ModelError, match=r"cannot be read; delete it, and it is made anew$"):
        quantised(model, inputs, tmp_path)


def test_it_is_kept_where_it_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "mine.safetensors").touch()
    assert folder_for(tmp_path / "mine.safetensors") == tmp_path / "mine.int8"
    assert folder_for("em-membrane") == tmp_path / "cache" / "tilesegment" / "int8"
    (tmp_path / "cache").touch()
    with pytest.raises(ModelError, match=r"cannot be written \(.+\); set XDG_CACHE_HOME"):
        quantised(toy_model(depth=1), [np.zeros((1, 64, 64), np.float32)], folder_for("em-membrane"))


def test_it_is_for_cpus_and_for_networks_with_weights(tmp_path: Path) -> None:
    assert choose_precision(CPU, "int8") == "int8"
    with pytest.raises(
        DeviceError, match=r"^precision int8 is not available on cuda; use --precision auto, or --device cpu$"
    ):
        choose_precision(torch.device("cuda"), "int8")
    model = toy_model()
    bare = replace(model, network=type("Bare", (Network,), {"crops": True})())
    with pytest.raises(DeviceError, match=r"int8 does not support toy-2, .*; give --precision fp32"):
        make_predictor(bare, CPU, plan_of(model, (90, 70)), list, tmp_path)


def test_nothing_is_reported_to_the_makers_and_signals_still_arrive(tmp_path: Path) -> None:
    """By default OpenVINO reports, from its import on, and first of all makes up an identity for the user; and where
    it is given back it leaves signal handlers without a stack: Ctrl-C would be a segmentation fault.
    """
    code = (
        "import gc, signal, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from conftest import toy_model\n"
        "from toy_plans import plan_of, samples_of\n"
        "from tilesegment.prediction.predictor import make_predictor\n"
        "del sys.modules['pytest']\n"
        "import torch\n"
        "model = toy_model(depth=1)\n"
        "options = (lambda: samples_of(model), Path(sys.argv[1]))\n"
        "make_predictor(model, torch.device('cpu'), plan_of(model, (90, 70)), *options)\n"
        "gc.collect()\n"
        "signal.signal(signal.SIGTERM, lambda number, _: print('arrived'))\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    home, kept = tmp_path / "home", tmp_path / "kept"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(home)}
    command = [sys.executable, "-c", code, kept]
    done = subprocess.run(
        command, check=True, cwd=Path(__file__).parents[1], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert done.stdout.endswith("arrived\n")
    assert not (home / "intel").exists()


def test_a_whole_image_in_int8_with_its_disagreement(tmp_path: Path) -> None:
    model, image = toy_model(base=8), tmp_path / "image.png"
    model.save(tmp_path / "toy.safetensors")
    Image.fromarray(noise((150, 170))).save(image)
    done = {
        precision: tilesegment.predict(
            image, tmp_path / f"{precision}.zarr", tmp_path / "toy.safetensors", tile=88, precision=precision
        )
        for precision in ("fp32", "int8")
    }
    assert done["fp32"].disagreement is None
    assert done["int8"].precision == "int8"
    assert 0 < done["int8"].disagreement < 0.2
    masks = {name: tilesegment.open_mask(tmp_path / f"{name}.zarr") for name in done}
    ids = [mask.read(Region(0, 0, 150, 170)) for mask in masks.values()]
    assert 0 < np.mean(ids[0] != ids[1]) < 0.2
    assert masks["int8"].spec.provenance["disagreement"] == done["int8"].disagreement
    assert (tmp_path / "toy.int8").is_dir()
