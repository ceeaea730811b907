"""Every choice that is made before a pixel moves."""

import pickle
from dataclasses import replace
from math import ceil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from unreal_plans import PAPER, image_of, network_of, plan_of

from tilesegment.errors import PlanError
from tilesegment.geometry import FieldOfView, Region
from tilesegment.images.source import Level
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.tiling import Machine, Sides, choose_runtime, default_batch, default_tile

CPU, GPU = Machine("cpu", "fp32"), Machine("cuda", "fp32")


def test_the_tile_of_the_paper_has_an_exact_step() -> None:
    plan = plan_of(tile=572)
    assert (plan.tile, plan.step, plan.chunk, plan.block, plan.batch) == (572, 384, 384, 1920, 1)
    assert (plan.region, plan.planes, plan.channels) == (Region(0, 0, 10_000, 8_000), range(1), (0,))
    assert (plan.blocks, plan.tiles, plan.pixels) == (6 * 5, 27 * 21, 80_000_000)


@pytest.mark.parametrize("size", [1, 400, 1000, 10_000_000])
@pytest.mark.parametrize("divisor", [1, 2, 3, 16, 32])
def test_every_step_gives_blocks_of_whole_tiles_and_whole_chunks(divisor: int, size: int) -> None:
    """A stored object has one writer and holds whole chunks, a block is a square of whole tiles: for every step."""
    for step in (divisor * n for n in [*range(1, 260), 512, 1024, 1025]):
        sides = Sides.of(step, (size, size))
        assert sides.block % step == sides.block % sides.chunk == 0
        assert sides.block <= max(3072, step), "blocks are of a size that fits anywhere"
        assert sides.block < size + max(step, sides.chunk), "a small image is not given a large block"


@pytest.mark.parametrize(
    ("wanted", "block", "chunk"), [(96, 96, 48), (2048, 1920, 384), (1, 48, 48), (10**5, 99840, 384)]
)
def test_the_side_of_a_block_may_be_chosen(wanted: int, block: int, chunk: int) -> None:
    assert Sides.of(48, (10**6, 10**6), wanted) == Sides(48, block, chunk)


@given(st.integers(1, 100), st.integers(1, 3000), st.integers(20, 36), st.integers(1, 200))
def test_a_batch_divides_the_tiles_of_a_block_and_fits_the_memory(
    side: int, pixel_bytes: int, free: int, tiles: int
) -> None:
    batch = default_batch(tiles, 16 * side, pixel_bytes, 2**free)
    assert tiles % batch == 0
    assert batch <= 64
    assert batch == 1 or batch * (16 * side) ** 2 * pixel_bytes <= 2**free


def test_the_batch_may_be_chosen() -> None:
    assert plan_of(batch=7).batch == 7
    assert plan_of(tile=220).batch == 6, "small tiles come in batches of about the pixels of the paper's"
    assert plan_of(machine=replace(CPU, free_bytes=2**40), tile=572).batch == 25


@given(st.integers(1, 10_000_000), st.integers(1, 10_000_000), st.integers(1, 10_000))
def test_memory_does_not_depend_on_the_size_of_the_image(height: int, width: int, depth: int) -> None:
    """But for small images, which have small blocks, and smaller tiles where these waste less."""
    image = image_of((height, width), depth=depth)
    assert plan_of(image).memory_bytes <= plan_of().memory_bytes
    if max(height, width) > 4_000:
        assert plan_of(image, tile=572).memory_bytes == plan_of(tile=572).memory_bytes


def test_memory_grows_with_what_is_held() -> None:
    least = plan_of().memory_bytes
    assert plan_of(batch=4).memory_bytes > least
    assert plan_of(tile=1100).memory_bytes > least
    assert plan_of(image_of(dtype="uint16"), network_of(dtype="uint16")).memory_bytes > least
    assert plan_of(model=network_of(weights=62_000_000)).memory_bytes > least
    assert plan_of(machine=GPU).memory_bytes < least, "activations are the device's own"
    assert plan_of(machine=GPU, batch=4).memory_bytes == plan_of(machine=GPU).memory_bytes


def test_calibrating_takes_memory_too_but_not_more_for_larger_tiles() -> None:
    int8 = Machine("cpu", "int8", openvino=True)
    assert plan_of(machine=int8, tile=700).memory_bytes > plan_of(tile=700).memory_bytes
    large = plan_of(machine=int8, tile=1212)
    assert large.sample_step == 512
    assert large.memory_bytes < plan_of(tile=1212).memory_bytes


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("batch", 0, "1 to 1024"),
        ("batch", 1025, "1 to 1024"),
        ("threshold", 0.0, "between 0 and 1"),
        ("threshold", float("nan"), "between 0 and 1"),
        ("normalise", "tile", "model, image"),
        ("runtime", "tensorrt", "auto, pytorch, openvino"),
        ("roi", (0, 0, 64, 64), "tilesegment.Region"),
        ("part", (0, 3), "from 1 to n"),
        ("part", (4, 3), "from 1 to n"),
        ("halo", -1, "0 to 65536"),
        ("series", -1, "counted from 0"),
        ("block", 0, "1 to"),
    ],
)
def test_settings_that_cannot_be_are_refused_with_what_they_may_be(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(PlanError) as caught:
        Settings(**{name: value})
    assert f"--{name} is " in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"runtime": "openvino"}, ["openvino", "cpu", "fp32", "tilesegment[cpu]"]),
        ({"tile": 570}, ["570", "556", "572"]),
        ({"level": 1}, ["--level is 1", "0 to 0"]),
        ({"z": (0, 1)}, ["0:1", "no z axis", "--z"]),
        ({"channels": (1,)}, ["--channels is 1", "0 to 0"]),
        ({"channels": (-1,)}, ["--channels is -1", "0 to 0"]),
        ({"channels": (0, 0)}, ["2 chosen channels", "takes 1"]),
        ({"roi": Region(0, 0, 0, 5)}, ["0:0,0:5", "0:10000,0:8000"]),
        ({"roi": Region(-1, 0, 5, 5)}, ["-1:5,0:5"]),
        ({"roi": Region(0, 7999, 1, 8001)}, ["0:1,7999:8001"]),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_what_would(settings: dict[str, Any], named: list[str]) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(**settings)
    assert all(one in str(caught.value) for one in named)


def test_a_threshold_needs_two_classes() -> None:
    with pytest.raises(PlanError, match=r"--threshold needs .* two classes; this one has 3"):
        plan_of(model=network_of(classes=3), threshold=0.4)
    assert plan_of(threshold=0.4).step == 512


def test_a_roi_is_taken_to_the_level() -> None:
    """A region of level 0 becomes all pixels of the level that it touches."""
    image = image_of(levels=(Level((10_000, 8_000), (1.0, 1.0)), Level((2_500, 2_000), (4.0, 4.0))))
    assert plan_of(image, level=1, roi=Region(5, 8, 17, 16)).region == Region(1, 2, 5, 4)
    assert plan_of(image, level=1, roi=Region(5, 8, 6, 9)).region == Region(1, 2, 2, 3)
    for roi in (Region(0, 0, 10_008, 8), Region(5, 5, 5, 9), Region(-3, 0, 5, 5)):
        with pytest.raises(PlanError, match="within 0:10000,0:8000"):
            plan_of(image, level=1, roi=roi)


@examples(max_examples=150)
@given(st.integers(1, 20_000), st.integers(1, 6), st.sampled_from(["down", "up", "ratio"]))
def test_the_whole_of_level_0_is_the_whole_of_every_level(size: int, level: int, rounding: str) -> None:
    """Levels are rounded down or up, and their scales said to be powers of two or computed from the shapes."""
    scale = float(2**level)
    side = ceil(size / scale) if rounding == "up" else max(int(size / scale), 1)
    scale = size / side if rounding == "ratio" or size < scale else scale
    plan = plan_of(image_of(levels=(Level((side, side), (scale, scale)),)), roi=Region(0, 0, size, size))
    assert plan.region == Region(0, 0, side, side)


def test_planes_are_chosen_within_the_stack() -> None:
    stack = image_of(depth=30)
    assert plan_of(stack).planes == range(30)
    assert plan_of(stack, z=(4, 6)).planes == range(4, 6)
    assert plan_of(stack, z=(4, 6)).tiles == 2 * plan_of().tiles
    for z in ((0, 31), (5, 5), (6, 5), (-1, 3), (30, 31)):
        with pytest.raises(PlanError, match=f"--z {z[0]}:{z[1]} .* within 0:30$"):
            plan_of(stack, z=z)


def test_channels_are_those_of_the_model() -> None:
    rgb, colour = network_of(channels=3), image_of(channels=4)
    assert plan_of(colour, rgb).channels == (0, 1, 2), "alpha is left out"
    assert plan_of(image_of(channels=3), rgb, channels=(2, 1, 0)).channels == (2, 1, 0)
    assert plan_of(colour, channels=(3,)).channels == (3,)
    with pytest.raises(PlanError, match="has 4 channels, the model takes 1: choose 1 of 0 to 3 with --channels"):
        plan_of(colour)


def test_work_is_every_block_of_every_plane_in_order() -> None:
    plan = plan_of(image_of((700, 1400), depth=3), tile=220, z=(1, 3))
    work = list(plan.work())
    assert len(work) == plan.blocks
    assert work == sorted(work, key=lambda item: (item[0], item[1].row, item[1].column))
    assert {z for z, _ in work} == {1, 2}


@examples(max_examples=15)
@given(st.integers(1, 12), st.integers(1, 3), st.integers(1, 3))
def test_parts_are_disjoint_and_equal_but_for_one_and_make_the_whole(parts: int, rows: int, planes: int) -> None:
    plan = plan_of(image_of((400 * rows, 900), depth=planes), tile=444, block=256)
    cut = [replace(plan, settings=replace(plan.settings, part=(k, parts))) for k in range(1, parts + 1)]
    works = [list(one.work()) for one in cut]
    assert [item for work in works for item in work] == list(plan.work())
    assert max(map(len, works)) - min(map(len, works)) <= 1


def test_the_fingerprint_holds_what_decides_pixels_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    paths = [tmp_path / "slide.tif", tmp_path / "elsewhere" / "slide.tif", tmp_path / "other.tif", tmp_path / "new.tif"]
    for path in paths:
        path.write_text("pixels")

    def of(path: Path = paths[0], machine: Machine = CPU, shape: tuple[int, int] = (99, 98), **given: Any) -> Any:
        image = image_of(shape, depth=given.pop("depth", None), channels=given.pop("of", 1), path=str(path))
        return plan_of(image, None, machine, **given).decides

    same, stack = of(), {"depth": 5}
    assert of(batch=9) == of(machine=GPU) == of(paths[1]) == of(part=(1, 2)) == same
    assert of(of=2, channels=(1,)) != of(of=2, channels=(0,))
    assert of(z=(0, 2), **stack) != of(**stack)
    paths[0].write_text("others")
    for other in (
        of(),
        of(paths[1], tile=588),
        of(paths[1], block=96),
        of(paths[1], Machine("cpu", "bf16")),
        of(paths[1], replace(CPU, openvino=True), runtime="openvino"),
        of(paths[1], tta=True),
        of(paths[1], skip_empty="constant"),
        of(paths[1], roi=Region(0, 0, 10, 10)),
        of(paths[1], shape=(99, 97)),
        of(paths[2]),
    ):
        assert other != same


@pytest.mark.parametrize(
    ("side", "pixel_bytes", "tile"),
    [
        (10_000, 100, 1212),
        (1024, 100, 1212),
        (1536, 100, 956),  # four of them
        (1100, 100, 572),  # nine
        (512, 100, 700),
        (513, 100, 956),  # against four of 572
        (200, 100, 444),
        (10_000, 1536, 700),  # 2.3 GB for a tile of 1212
        (10_000, 768, 1212),  # half of it
        (10_000, 10_000, 444),  # nothing fits; the least
    ],
)
def test_where_no_tile_is_chosen_it_is_the_one_that_computes_least(side: int, pixel_bytes: int, tile: int) -> None:
    for free in (None, 2**40):
        assert default_tile(PAPER, (side, side), pixel_bytes, free) == tile


def test_precision_classes_and_halo_decide_the_tile_too() -> None:
    assert plan_of(machine=Machine("cpu", "bf16")).tile == 1212, "half the activations"
    many = network_of(classes=200, pixel_bytes=4 * (64 + 2 * 200))
    int8 = Machine("cpu", "int8", openvino=True)
    assert plan_of(model=many, machine=int8).tile == plan_of(model=many).tile == 700, "logits are always in fp32"
    wide = network_of(FieldOfView(32, 384, 384, False), pixel_bytes=100)
    assert plan_of(model=wide).tile == 1024 + 2 * 384


def test_on_a_cpu_many_tiles_are_run_by_openvino_and_few_are_not_worth_its_conversion() -> None:
    there, int8 = replace(CPU, openvino=True), Machine("cpu", "int8", openvino=True)
    few, many = 15_000_000, 17_000_000
    assert [choose_runtime("auto", there, pixels) for pixels in (few, many)] == ["pytorch", "openvino"]
    assert choose_runtime("auto", CPU, many) == choose_runtime("pytorch", there, many) == "pytorch"
    assert choose_runtime("openvino", there, few) == choose_runtime("auto", int8, few) == "openvino"
    with pytest.raises(PlanError, match="int8 is computed by openvino"):
        choose_runtime("pytorch", int8, few)


def test_the_lines_say_what_and_how_much() -> None:
    lines = dict(plan_of(image_of(depth=5), machine=Machine("cpu", "bf16"), z=(1, 3), tile=572).lines())
    assert lines["predicted"] == "10000 x 8000 pixels (y, x) x 2 planes, 160.0 Mpx"
    assert lines["tile"] == "572 px, of which 384 are kept; 1,134 tiles, 1 at a time"
    assert lines["block"] == "1920 px; 60 blocks, chunks of 384"
    assert lines["device"] == "cpu, bf16, by pytorch"
    assert lines["disk"] == "at most 0.21 GB for the mask"
    assert "planes" not in dict(plan_of().lines())["predicted"]


def test_a_plan_is_plain_data() -> None:
    plan = plan_of(roi=Region(3, 4, 500, 600))
    assert pickle.loads(pickle.dumps(plan)) == plan
