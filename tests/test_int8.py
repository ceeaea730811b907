"""`--precision int8`: calibrated on some tiles, its price measured, both cached where the user may write."""

import os
import pwd
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Run
from conftest import noise, toy_model, toy_network
from data_sets import write_pairs
from PIL import Image
from rights import refused
from toy_plans import of_every_network, plan_of, samples_of

import tilesegment
from tilesegment.errors import DeviceError, ModelError
from tilesegment.geometry import Region
from tilesegment.models.model import Model
from tilesegment.networks.network import Network
from tilesegment.prediction.engine import predict_array
from tilesegment.prediction.int8 import crop_by_strides, folder_for, quantised, sample_blocks
from tilesegment.prediction.openvino import OpenVinoPredictor, convert, core
from tilesegment.prediction.predictor import TorchPredictor, make_predictor

for package in ("openvino", "nncf"):
    if find_spec(package) is None:
        pytest.skip("needs OpenVINO and NNCF: pip install 'tilesegment[int8]'", allow_module_level=True)


CPU = torch.device("cpu")
EXACTLY = {"INFERENCE_PRECISION_HINT": "f32"}  # OpenVINO's own default is bf16 wherever the CPU has it


def normalised(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (noise(shape, seed) / 64 - 2).astype(np.float32)


@pytest.mark.parametrize(
    ("shape", "depth", "count"), [((300, 400), 5, 12), ((40, 20), None, 6), ((5, 5), None, 1)], ids=str
)
def test_sample_blocks_are_spread_over_the_image(shape: tuple[int, int], depth: int | None, count: int) -> None:
    plan = plan_of(toy_model(), shape, depth=depth)
    blocks = sample_blocks(plan)
    assert blocks == sample_blocks(plan) and len(blocks) == count
    assert {z for z, _ in blocks} == set(range(depth or 1))
    for _, block in blocks:
        assert block.read.shape == (plan.tile, plan.tile) and plan.region.contains(block.write)


def test_it_is_close_and_says_how_close(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, samples = toy_model(base=8), samples_of(toy_model(base=8))
    predictor = make_predictor(model, CPU, plan_of(model, (90, 70)), lambda: samples, tmp_path / "toy.int8")
    exact = TorchPredictor(model, CPU)
    differing = [predictor.predict(*each) != exact.predict(*each) for each in samples[1::3]]
    assert predictor.disagreement == pytest.approx(np.mean(np.concatenate([each.ravel() for each in differing])))
    assert 0 < predictor.disagreement < 0.1
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_how_close_is_measured_once(tmp_path: Path) -> None:
    """For these tiles and this way to predict; what is damaged, or cannot be kept, is measured again."""
    model = toy_model(base=8)

    def measure(seed: int, **options: Any) -> tuple[float | None, list[Path]]:
        samples = samples_of(model)
        # other pixels to measure on, the same to calibrate
        samples[1] = noise(samples[1][0].shape, seed), samples[1][1]
        predictor = make_predictor(model, CPU, plan_of(model, (90, 70)), lambda: samples, tmp_path, **options)
        return predictor.disagreement, sorted(tmp_path.glob("*/disagreement-*"))

    first, (kept,) = measure(1)
    assert first is not None
    kept.write_text("0.25")
    assert measure(1) == (0.25, [kept])
    for damaged in ("{", "7", "NaN", "[0.5]"):
        kept.write_text(damaged)
        assert measure(1) == (first, [kept])
    kept.write_text("0.25")
    for seed, options in ((2, {}), (1, {"threshold": 0.2}), (1, {"tta": True})):
        assert measure(seed, **options)[0] != 0.25
    assert len(measure(1)[1]) == 4
    kept.unlink()
    kept.mkdir()
    assert measure(1)[0] == first


@pytest.mark.slow
def test_it_is_quantised_once(tmp_path: Path) -> None:
    """For these weights and these tiles; other ones give another; a damaged one is named."""
    model, folder = toy_model(depth=1), tmp_path / "toy.int8"
    inputs = [normalised((1, 64, 64), n) for n in range(3)]
    quantised(model, inputs, folder)
    (kept,) = folder.iterdir()
    assert sorted(path.name for path in kept.iterdir()) == ["network.bin", "network.xml"]
    state = (kept / "network.bin").stat().st_mtime_ns
    quantised(model, inputs, folder)
    assert list(folder.iterdir()) == [kept] and (kept / "network.bin").stat().st_mtime_ns == state
    quantised(model, inputs[:2], folder)
    quantised(toy_model(depth=1, seed=1), inputs, folder)
    assert len(list(folder.iterdir())) == 3
    (kept / "network.xml").write_text("<nothing")
    with pytest.raises(ModelError, match=f"{kept} cannot be read; delete it"):
        quantised(model, inputs, folder)


@of_every_network
def test_a_network_cropped_so_takes_tiles_of_any_shape(model: Model) -> None:
    """It is calibrated on small ones."""
    view, channels = model.field_of_view, model.header.channels
    small, large = view.tile_of(2 * view.divisor), view.tile_of(5 * view.divisor)
    network = convert(model.network, "toy", (1, channels, small, small))
    crop_by_strides(network)
    assert "Slice" not in [each.get_type_name() for each in network.get_ordered_ops()]
    network.reshape((1, channels, large, small))
    pixels = normalised((1, channels, large, small))
    found = core().compile_model(network, "CPU", EXACTLY)(pixels)[0]
    expected = model.network(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())


@pytest.mark.slow
@pytest.mark.parametrize(
    "model",
    [toy_model(base=8), toy_network("unet-same", depth=1, base=4, up="bilinear").with_halo(16)],
    ids=["unet", "chosen halo"],
)
def test_it_is_the_same_in_tiles_of_any_shape(model: Model, tmp_path: Path) -> None:
    image, tile = noise((1, 90, 70)), model.field_of_view.tile_of(16)
    network, _ = quantised(model, [normalised((1, tile, tile), n) for n in range(3)], tmp_path)
    predictor = OpenVinoPredictor(model, tile, quantised=network)
    small, large = (predict_array(predictor, image, step)[1] for step in (16, 96))
    # integers are summed exactly; what is left of fp32 rounds
    assert np.mean(np.abs(small - large) > 0.02) < 0.01


def test_a_network_without_weights_is_refused(tmp_path: Path) -> None:
    model = toy_model()
    bare = replace(model, network=type("Bare", (Network,), {"crops": True})())
    with pytest.raises(DeviceError, match=r"toy-2.*--precision fp32"):
        make_predictor(bare, CPU, plan_of(model, (90, 70)), list, tmp_path)


@pytest.mark.slow
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
    home = tmp_path / "home"
    home.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "CI"} | {"HOME": str(home)}
    command, here = [sys.executable, "-c", code, tmp_path / "kept"], Path(__file__).parents[1]
    done = subprocess.run(command, check=True, cwd=here, env=environment, stdout=subprocess.PIPE, text=True)
    assert done.stdout.endswith("arrived\n")
    assert not (home / "intel").exists()


@pytest.mark.slow
def test_a_whole_image_in_int8_with_its_disagreement(tmp_path: Path) -> None:
    toy_model(base=8).save(tmp_path / "toy.safetensors")
    Image.fromarray(noise((150, 170))).save(tmp_path / "image.png")
    exact, done = (
        tilesegment.predict(
            tmp_path / "image.png", tmp_path / f"{name}.zarr", tmp_path / "toy.safetensors", tile=88, precision=name
        )
        for name in ("fp32", "int8")
    )
    assert exact.disagreement is None and 0 < done.disagreement < 0.2
    masks = [tilesegment.open_mask(tmp_path / f"{name}.zarr") for name in ("fp32", "int8")]
    ids = [mask.read(Region(0, 0, 150, 170)) for mask in masks]
    assert 0 < np.mean(ids[0] != ids[1]) < 0.2
    assert masks[1].spec.provenance["disagreement"] == done.disagreement
    assert (tmp_path / "toy.int8").is_dir()


def unknown(uid: int) -> None:
    """No entry of /etc/passwd."""
    raise KeyError(uid)


@pytest.fixture
def homeless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files of a user to whom a batch system gives no home."""
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_is_kept_beside_the_model_or_in_the_users_cache(homeless: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (homeless / "mine.safetensors").touch()
    assert folder_for(homeless / "mine.safetensors") == homeless / "mine.int8"
    monkeypatch.setenv("HOME", str(homeless))
    assert folder_for("em-membrane") == homeless / ".cache" / "tilesegment" / "int8"
    monkeypatch.setenv("XDG_CACHE_HOME", str(homeless / "cache"))
    assert folder_for("em-membrane") == homeless / "cache" / "tilesegment" / "int8"
    (homeless / "cache").touch()
    with pytest.raises(ModelError, match="XDG_CACHE_HOME"):
        quantised(toy_model(depth=1), [np.zeros((1, 64, 64), np.float32)], folder_for("em-membrane"))


@pytest.mark.parametrize("taken", ["open to others", "a link"])
def test_a_folder_that_is_not_the_users_alone_is_not_taken(taken: str, homeless: Path) -> None:
    """Networks are run from it."""
    folder = homeless / f"tilesegment-{os.getuid()}"
    if taken == "a link":
        (homeless / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to("elsewhere")
    else:
        folder.mkdir()
        folder.chmod(0o777)
    assert folder not in folder_for("em-membrane").parents


@pytest.fixture(params=[None, "home"], ids=["no home", "another's"])
def stranger(
    request: pytest.FixtureRequest, folder: Path, homeless: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Works beside a model that lies where nothing can be written, and without a right to the home of another."""
    write_pairs(folder / "data", 2, side=64)
    (folder / "models").mkdir()
    (folder / "toy.safetensors").rename(folder / "models" / "toy.safetensors")
    (folder / "models").chmod(0o555)
    (folder / "home").mkdir(mode=0)
    if request.param is not None:
        monkeypatch.setenv("HOME", str(folder / request.param))
    with refused():
        yield folder
    for name in ("models", "home"):
        (folder / name).chmod(0o700)


@pytest.mark.slow
@pytest.mark.parametrize(
    "line",
    [
        "predict slide.tif --model models/toy.safetensors --tile 88 --out m.zarr --preview p.png",
        "train data --steps 1 --base 2 --depth 1 --tile 60 --validation 0 --out run",
    ],
    ids=["predict", "train"],
)
def test_a_home_is_not_needed(line: str, stranger: Path, run: Run) -> None:
    done = run(line)
    assert done.code == 0, done.err


def test_the_cache_is_not_in_the_home_of_another(stranger: Path) -> None:
    found = folder_for("em-membrane")
    assert found == folder_for("em-membrane"), "the same one, so that it is found again"
    assert (stranger / found.relative_to(stranger).parts[0]).stat().st_mode & 0o777 == 0o700
