"""The same network, run by OpenVINO: equal classes, no seams, int8 with its price."""

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
import zarr
from conftest import noise, toy_model, toy_network
from image_files import png
from mask_files import mask_of
from PIL import Image

import tilesegment
from tilesegment.engine import predict_array
from tilesegment.errors import DeviceError, ModelError
from tilesegment.facts import ImageFacts, Machine, NetworkFacts
from tilesegment.geometry import Block, Region, TileGrid
from tilesegment.model import Model
from tilesegment.networks.network import Network
from tilesegment.plan import Plan, make_plan
from tilesegment.predictors.choice import make_predictor
from tilesegment.predictors.devices import choose_precision
from tilesegment.predictors.openvino import OpenVinoPredictor, convert, core
from tilesegment.predictors.quantisation import crop_by_strides, folder_for, quantised, sample_blocks
from tilesegment.predictors.torch import TorchPredictor
from tilesegment.settings import Settings

for package in ("openvino", "nncf"):
    if find_spec(package) is None:
        pytest.skip("needs OpenVINO and NNCF: pip install 'tilesegment[int8]'", allow_module_level=True)


CPU = torch.device("cpu")
EXACTLY = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's own default is bf16 wherever the CPU has it


def both(model: Model, step: int = 32) -> tuple[OpenVinoPredictor, TorchPredictor]:
    """The network by OpenVINO and, in fp32, by PyTorch."""
    return OpenVinoPredictor(model, model.field_of_view.tile_of(step)), TorchPredictor(model, CPU)


def plan_of(model: Model, shape: tuple[int, int], depth: int | None = None) -> Plan:
    """For an image of `shape` (H, W), in tiles of which 16 pixels are kept."""
    header, view = model.header, model.field_of_view
    image = ImageFacts("image", "TIFF", shape, depth, header.channels, 1)
    network = NetworkFacts(view, header.channels, len(header.classes), 1000, 100)
    return make_plan(image, network, Settings(tile=view.tile_of(16)), Machine("cpu", "int8"))


def samples_of(model: Model, seed: int = 0) -> list[tuple[np.ndarray, Block]]:
    """Random pixels for the sample blocks of an image of 90 x 70."""
    blocks = sample_blocks(plan_of(model, (90, 70)))
    return [(noise((1, *block.read.shape), seed + n), block) for n, (_, block) in enumerate(blocks)]


@pytest.mark.parametrize(
    "model",
    [
        toy_model(depth=2, base=8),
        toy_model(channels=3, classes=4),
        toy_network("unet-same", depth=2, base=4),
        toy_network("unet-same", depth=2, base=4, up="bilinear"),
        toy_network("unet-same", depth=2, base=4, up="pixel-shuffle", down="stride-2", activation="leaky-relu"),
        toy_network("unet", depth=1, base=4, reduction=2),
        toy_network("unet-strided", base=2),
        toy_network("unetpp", base=2),
        toy_network("fcn8", base=2, hidden=4),
        toy_network("u2net-small").with_halo(64),
    ],
    ids=["unet", "channels", "same", "bilinear", "shuffle", "reduced", "strided", "unetpp", "fcn8", "u2net"],
)
def test_in_fp32_it_gives_what_pytorch_gives(model: Model) -> None:
    view, image = model.field_of_view, noise((model.header.channels, 70, 90))
    step = 4 * view.divisor
    (ids, found), (expected_ids, expected) = (predict_array(each, image, step) for each in both(model, step))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    # rounding may move a pixel only across a tie
    ordered = np.sort(expected, 0)
    assert not np.any((ids != expected_ids) & (ordered[-1] - ordered[-2] > 1e-5))


def test_bf16_rounds_as_pytorch_does() -> None:
    """It is about as far from fp32 as PyTorch is in bf16: neither equal nor worse."""
    model, image = toy_model(depth=2, base=16), noise((1, 90, 70))
    tile = model.field_of_view.tile_of(32)
    half = OpenVinoPredictor(model, tile, "bf16")
    if half._for_shape((1, 1, tile, tile)).get_property("INFERENCE_PRECISION_HINT").to_string() != "bf16":
        pytest.skip("this CPU has no bf16, and OpenVINO does not emulate it here")
    exact = TorchPredictor(model, CPU)
    known, ours, theirs = (
        predict_array(each, image, 32)[1] for each in (exact, half, TorchPredictor(model, CPU, "bf16"))
    )
    error, expected = (float(np.sqrt(np.mean((found - known) ** 2))) for found in (ours, theirs))
    assert 0.3 * expected < error < 3 * expected
    assert expected > 1e-5


@pytest.mark.parametrize("batch", [1, 3])
def test_equal_tile_shapes_give_equal_pixels(batch: int) -> None:
    """Bit for bit, whatever the blocks and the batch."""
    model, image = toy_model(depth=3, base=8), noise((1, 200, 170))
    view = model.field_of_view
    predictor = OpenVinoPredictor(model, view.tile_of(48), batch=batch)
    _, expected = predict_array(predictor, image, 48)
    padded = np.pad(image, ((0, 0), (view.before, 400), (view.before, 400)), mode="reflect")
    for block in TileGrid(Region(0, 0, 200, 170), 48, 96, view):
        read = block.read.shift(view.before, view.before)
        _, found = predictor.predict_probabilities(padded[:, *read.slices], block)
        np.testing.assert_array_equal(found, expected[:, *block.write.slices])


def test_tiled_equals_one_pass_up_to_rounding() -> None:
    """Also through tiles of a shape that it was not made for."""
    model, image = toy_model(depth=3, base=8), noise((1, 120, 100))
    predictor, _ = both(model, 24)
    (ids, tiled), (once_ids, once) = (predict_array(predictor, image, step) for step in (24, 120))
    np.testing.assert_allclose(tiled, once, rtol=0, atol=1e-4)
    np.testing.assert_array_equal(ids, once_ids)


def test_the_result_does_not_depend_on_the_threads() -> None:
    model, image = toy_model(base=16), noise((1, 90, 90))
    try:
        found = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(predict_array(both(model, 96)[0], image, 96)[1])
    finally:
        torch.set_num_threads(1)
    np.testing.assert_array_equal(*found)


def test_views_and_thresholds_are_those_of_every_predictor() -> None:
    model, image = toy_model(depth=2), noise((1, 48, 64))
    tile, options = model.field_of_view.tile_of(24), {"tta": True, "threshold": 0.3}
    ids, found = predict_array(OpenVinoPredictor(model, tile, **options), image, 24)  # type: ignore[arg-type]
    _, expected = predict_array(TorchPredictor(model, CPU, **options), image, 24)  # type: ignore[arg-type]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ids, found[1] > 0.3)


def test_the_model_stays_as_it_is_and_the_predictor_too() -> None:
    model, untouched, image = toy_model(), toy_model().network.state_dict(), noise((1, 40, 40))
    model.network.train()
    predictor, _ = both(model)
    before = predict_array(predictor, image, 32)[1]
    assert model.network.training
    for name, value in model.network.state_dict().items():
        assert torch.equal(value, untouched[name]), name
    for parameter in model.network.parameters():
        parameter.fill_(0.5)
    np.testing.assert_array_equal(predict_array(predictor, image, 32)[1], before)


@pytest.mark.parametrize(("runtime", "kind"), [("pytorch", TorchPredictor), ("openvino", OpenVinoPredictor)])
def test_the_plan_says_who_predicts(runtime: str, kind: type, tmp_path: Path) -> None:
    model = toy_model()
    plan = replace(plan_of(model, (90, 70)), precision="fp32", runtime=runtime)
    assert isinstance(make_predictor(model, CPU, plan, lambda: samples_of(model), tmp_path), kind)
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_here_is_refused(tmp_path: Path) -> None:
    """A cluster's worker may lack what the plan was made for."""
    plan = replace(plan_of(toy_model(), (90, 70)), precision="fp16", runtime="openvino")
    with pytest.raises(DeviceError, match=r"the plan wants OpenVINO in fp16, .* pip install 'tilesegment\[cpu\]'$"):
        make_predictor(toy_model(), CPU, plan, list, tmp_path)


def test_a_network_is_converted_once_until_its_weights_change() -> None:
    model, image = toy_model(depth=1), noise((1, 32, 32))
    first, again = (both(model)[0] for _ in range(2))
    assert first._for_shape((1, 1, 48, 48)) is again._for_shape((1, 1, 48, 48))
    for parameter in model.network.parameters():
        parameter.mul_(0.5)
    changed, expected = (predict_array(each, image, 32)[1] for each in both(model))
    np.testing.assert_allclose(changed, expected, rtol=0, atol=1e-5)


def test_of_many_tiles_it_is_the_default_and_the_mask_says_so(
    tmp_path: Path, small_blocks: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_model(classes=3).save(tmp_path / "toy.safetensors")
    image = png(tmp_path, noise((1, 200, 290)))
    for name, missing, more in (("openvino", 0, {}), ("pytorch", 1, {}), ("chosen", 0, {"runtime": "pytorch"})):
        monkeypatch.setattr("tilesegment.plan._WORTH_CONVERTING", 35 * 88**2 + missing)
        out, settings = tmp_path / f"{name}.zarr", {"tile": 88, "precision": "fp32", **more}
        done = tilesegment.predict(image, out, tmp_path / "toy.safetensors", **settings)
        record = zarr.open_group(out, mode="r").attrs["tilesegment"]
        assert record["fingerprint"]["runtime"] == name.replace("chosen", "pytorch")
        assert done.blocks == 12
    masks = [mask_of(tmp_path / f"{name}.zarr") for name in ("openvino", "pytorch", "chosen")]
    np.testing.assert_array_equal(masks[1], masks[2])
    assert np.mean(masks[0] != masks[1]) < 1e-4


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


class TestInt8:
    """`--precision int8`."""

    @pytest.fixture(autouse=True)
    def _needs_nncf(self) -> None:
        pytest.importorskip("nncf", reason="needs NNCF: pip install 'tilesegment[int8]'")

    def test_it_is_close_and_says_how_close(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
        model, folder = toy_model(base=8), tmp_path / "toy.int8"
        samples = samples_of(model)
        predictor = make_predictor(model, CPU, plan_of(model, (90, 70)), lambda: samples, folder)
        exact = TorchPredictor(model, CPU)
        both = [(predictor.predict(*each), exact.predict(*each)) for each in samples[1::3]]
        differing = sum(np.count_nonzero(a != b) for a, b in both) / sum(a.size for a, _ in both)
        assert predictor.disagreement == pytest.approx(differing)
        assert 0 < differing < 0.1
        assert capfd.readouterr().out == ""

    def test_how_close_is_measured_once(self, tmp_path: Path) -> None:
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

    def test_it_is_quantised_once(self, tmp_path: Path) -> None:
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

    def test_crops_are_of_integers(self, tmp_path: Path) -> None:
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

    def test_with_a_chosen_halo_tiles_of_any_shape_are_taken(self, tmp_path: Path) -> None:
        """As it is judged by larger ones."""
        model, image = toy_network("unet-same", depth=1, base=4, up="bilinear").with_halo(16), noise((1, 90, 70))
        view = model.field_of_view
        inputs = [(noise((1, view.tile_of(16), view.tile_of(16)), n) / 64 - 2).astype(np.float32) for n in range(3)]
        network, _ = quantised(model, inputs, tmp_path)
        predictor = OpenVinoPredictor(model, view.tile_of(16), quantised=network)
        small, large = (predict_array(predictor, image, step)[1] for step in (16, 96))
        # integers are summed exactly; what is left of fp32 rounds
        assert np.mean(np.abs(small - large) > 0.02) < 0.01

    def test_a_damaged_one_is_named(self, tmp_path: Path) -> None:
        model = toy_model(depth=1)
        inputs = [np.zeros((1, 64, 64), np.float32)]
        quantised(model, inputs, tmp_path)
        (kept,) = tmp_path.iterdir()
        (kept / "network.xml").write_text("<nothing")
        with pytest.raises(ModelError, match=r"cannot be read; delete it, and it is made anew$"):
            quantised(model, inputs, tmp_path)

    def test_it_is_kept_where_it_can_be_written(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        (tmp_path / "mine.safetensors").touch()
        assert folder_for(tmp_path / "mine.safetensors") == tmp_path / "mine.int8"
        assert folder_for("em-membrane") == tmp_path / "cache" / "tilesegment" / "int8"
        (tmp_path / "cache").touch()
        with pytest.raises(ModelError, match=r"cannot be written \(.+\); let XDG_CACHE_HOME name a folder where"):
            quantised(toy_model(depth=1), [np.zeros((1, 64, 64), np.float32)], folder_for("em-membrane"))

    def test_it_is_for_cpus_and_for_networks_with_weights(self, tmp_path: Path) -> None:
        assert choose_precision(CPU, "int8") == "int8"
        with pytest.raises(DeviceError, match=r"^precision int8 is not to be had on cuda; use auto, or device cpu$"):
            choose_precision(torch.device("cuda"), "int8")
        model = toy_model()
        bare = replace(model, network=type("Bare", (Network,), {"crops": True})())
        with pytest.raises(DeviceError, match="precision int8 is not to be had for toy-2: it runs as it is; give fp32"):
            make_predictor(bare, CPU, plan_of(model, (90, 70)), list, tmp_path)


def test_on_real_sections_fp32_by_either_runtime_is_the_same_mask(isbi: Path) -> None:
    model = Model.load("em-membrane")
    image = np.asarray(Image.open(sorted((isbi / "images").iterdir())[0]))[None, :200, :200]
    predictor, torchs = both(model, 208)
    (ids, found), (expected_ids, expected) = (predict_array(each, image, 208) for each in (predictor, torchs))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)
    assert np.count_nonzero(ids != expected_ids) <= 2


def test_nothing_is_reported_to_the_makers_and_signals_still_arrive(tmp_path: Path) -> None:
    """By default OpenVINO reports, from its import on, and first of all makes up an identity for the user; and where
    it is given back it leaves signal handlers without a stack: Ctrl-C would be a segmentation fault.
    """
    code = (
        "import gc, signal, sys; sys.path.insert(0, 'tests')\n"
        "from pathlib import Path\n"
        "from conftest import toy_model\n"
        "from test_predictors_openvino import plan_of, samples_of\n"
        "from tilesegment.predictors.choice import make_predictor\n"
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


def test_a_conversion_is_static_unless_it_is_to_be_free() -> None:
    model = toy_model(depth=1)
    assert convert(model.network, "toy", (1, 1, 64, 64)).inputs[0].partial_shape.is_static
    free = convert(model.network, "toy", (1, 1, 64, 64), free=True)
    assert not free.inputs[0].partial_shape.is_static
    free.reshape([1, 1, 80, 64])
    assert list(free.outputs[0].shape) == [1, 2, 64, 48]


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
