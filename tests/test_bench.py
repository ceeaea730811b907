"""`tileseg bench`: what it measures fits together, mistakes are one line, and nothing stays behind."""

import json
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from command_line import Run
from conftest import toy_model
from hypothesis import given
from hypothesis import strategies as st
from unreal_plans import image_of, network_of, plan_of

from tilesegment.geometry import Region
from tilesegment.models.header import Normalisation
from tilesegment.models.model import Model
from tilesegment.networks import build_network
from tilesegment.networks.counting import floating_point_operations
from tilesegment.prediction import benchmark
from tilesegment_cli.progress import ProgressReport

SMALL = "--model toy.safetensors --tile 72 --seconds 1 --precision fp32 --runtime pytorch"


@pytest.fixture
def scratch(folder: Path) -> "Iterator[Path]":
    """Where the bench writes; empty again after every test."""
    path = folder / "scratch"
    path.mkdir()
    yield path
    assert not list(path.iterdir())


def test_an_image_of_ones_own(run: Run, scratch: Path) -> None:
    before = sorted(scratch.parent.iterdir())
    done = run(f"bench slide.tif {SMALL} --json -q --dir scratch")
    assert (done.code, done.err) == (0, "")
    (line,) = done.out.splitlines()
    found = json.loads(line)
    names = ("predictor", "read", "write", "end_to_end")
    assert all(found[f"{name}_mpx_per_s"] > 0 for name in names)
    assert found["end_to_end_ratio"] == pytest.approx(found["end_to_end_mpx_per_s"] / found["predictor_mpx_per_s"])
    assert 0 < found["start_seconds"] < found["seconds"]
    assert found["predictor_tflops"] > 0 and found["matmul_tflops"] > 0
    assert (found["image"], found["region"], found["tile"], found["step"]) == ("slide.tif", [0, 0, 130, 150], 72, 32)
    assert sorted(scratch.parent.iterdir()) == before


def test_a_drawn_image_and_the_table(run: Run, scratch: Path) -> None:
    done = run(f"bench {SMALL} --size 128 --dir scratch")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "image     drawn, 1 channel(s) of uint8, 0:128,0:128"
    for name in ("predictor alone", "product of", "reading alone", "writing alone", "end to end"):
        assert sum(line.startswith(name) for line in lines) == 1, name


def test_of_a_model_that_scales_by_percentiles_an_image_is_drawn_too(run: Run, scratch: Path) -> None:
    toy = toy_model()
    scale = Normalisation((0.3,), (0.2,), "", (1.0, 99.8))
    Model(replace(toy.header, normalisation=scale), toy.network).save(scratch.parent / "toy.safetensors")
    done = run(f"bench {SMALL} --size 128 --dir scratch")
    assert done.code == 0 and done.out.startswith("image     drawn, 1 channel(s) of uint8")


def test_without_a_size_there_is_as_much_as_time_for(run: Run, scratch: Path) -> None:
    done = run(f"bench {SMALL} --json -q --dir scratch")
    y0, x0, y1, x1 = json.loads(done.out)["region"]
    assert y0 == x0 == 0 and y1 == x1 >= 64


def test_of_a_stack_the_middle_plane(run: Run, scratch: Path) -> None:
    found = json.loads(run(f"bench stack.tif {SMALL} --json -q --dir scratch").out)
    assert Region(*found["region"]).area == 40 * 50


def test_at_the_pixel_size_at_which_it_is_predicted(run: Run, scratch: Path) -> None:
    """Of 130 x 150 pixels of 0.2 um, as much as there is time for."""
    for size, whole in (("--mpp 0.4", Region(0, 0, 65, 75)), ("--mpp 0.08", Region(0, 0, 325, 375))):
        done = run(f"bench slide.tif {SMALL} --json -q --dir scratch --source-mpp 0.2 {size}")
        assert done.code == 0, done.err
        assert whole.contains(Region(*json.loads(done.out)["region"]))


@given(st.tuples(*[st.integers(300, 9000)] * 2), st.floats(1 / 16, 16), st.integers(1, 10**6))
def test_the_middle_is_one_of_level_0(shape: tuple[int, int], step: float, pixels: int) -> None:
    """Where pixels are larger than those of level 0, whole tiles."""
    model = network_of()
    model.header = replace(model.header, diameter=16.0)  # type: ignore[misc]
    settings: dict[str, Any] = {"diameter": 16 * step, "tile": 284, "block": 600}
    plan = plan_of(image_of(shape), model, **settings)
    roi = benchmark._part(plan, pixels)
    found = plan_of(image_of(shape), model, **settings, roi=roi).region
    assert (roi is None) == (plan.region.area <= pixels)
    assert plan.region.contains(found)
    if roi is not None and plan.scale[0] >= 1:
        assert found.height % plan.step == 0 or found.height == plan.region.height
        assert (found.y0 % plan.step, found.x0 % plan.step) == (0, 0)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--mpp 0.5 --source-mpp 0.25", ["--mpp and --source-mpp", "name one"]),
        ("--level 1", ["--level", "name one"]),
        ("slide.tif --model toy.safetensors --mpp 0.5", ["slide.tif does not say how large", "--source-mpp"]),
        ("nothing.tif", ["nothing.tif"]),
        ("slide.tif --model nobody", ["nobody"]),
        ("rgb.png --channels 0,1", ["rgb.png", "2 channels"]),
        ("slide.tif --model toy.safetensors --tile 71", ["71"]),
        ("slide.tif --size 100", ["--size"]),
        ("--size 10", ["10", "64 to 65536"]),
        ("--seconds 0", ["0", "1 to 86,400"]),
        ("--dir nowhere", ["nowhere"]),
        ("--precision fp8", ["fp8"]),
        ("--device cuda:99", ["cuda:99"]),
    ],
)
def test_a_mistake_is_one_line(line: str, named: list[str], run: Run, scratch: Path) -> None:
    done = run(f"bench {line}" if "--dir" in line else f"bench {line} --dir scratch")
    assert (done.code, done.out, len(done.err.splitlines())) == (1, "", 1)
    assert done.err.startswith("Error: ") and all(word in done.err for word in named)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_a_signal_leaves_nothing_behind(
    number: signal.Signals, code: int, run: Run, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def show(self: ProgressReport, done: float, text: str, seconds: float) -> None:
        if text.startswith("predicting, round 2"):
            assert list(scratch.rglob("*"))
            signal.raise_signal(number)

    monkeypatch.setattr(ProgressReport, "show", show)
    done = run(f"bench {SMALL} --size 128 --dir scratch")
    assert (done.code, done.out) == (code, "")


def test_the_operations_of_the_unet_of_the_paper() -> None:
    """2,040 thousand for each of the 384 x 384 pixels that are kept of a tile of 572, by hand from its layers."""
    network = build_network("unet", {"in_channels": 1, "classes": 2, "depth": 4, "base": 64, "dropout": 0.0})
    side, channels, count = 572, 1, 0
    for width in (64, 128, 256, 512, 1024):
        for wide in (channels, width):
            side -= 2
            count += 2 * 9 * wide * width * side**2
        channels, side = width, side // 2
    side *= 2  # the last stage is not pooled
    for width in (512, 256, 128, 64):
        count += 2 * 4 * 2 * width * width * side**2  # 2 x 2 up-convolution
        side *= 2
        for wide in (2 * width, width):
            side -= 2
            count += 2 * 9 * wide * width * side**2
    count += 2 * 64 * 2 * side**2
    assert floating_point_operations(network, 1, 572) == count
    assert round(count / 384**2 / 1000) == 2040


def test_a_product_of_matrices_has_a_speed() -> None:
    assert all(benchmark.measure_product("cpu", name, 0.01)[1] > 0 for name in ("fp32", "int8"))
