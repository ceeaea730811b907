"""Every choice that is made before a pixel moves."""

import pickle
from dataclasses import replace
from math import ceil
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from tilesegment.errors import PlanError
from tilesegment.geometry import FieldOfView, Region
from tilesegment.prediction.facts import ImageFacts, Machine, NetworkFacts
from tilesegment.prediction.plan import Plan, fingerprint, make_plan
from tilesegment.prediction.settings import Settings

PAPER = FieldOfView(divisor=16, before=92, after=96, crops=True)
NETWORK = NetworkFacts(PAPER, channels=1, classes=2, weights_bytes=124 * 10**6, pixel_bytes=1536)
IMAGE = ImageFacts("/data/slide.tif", "TIFF", (10_000, 8_000), None, 1, 1)


def plan_of(
    image: ImageFacts = IMAGE,
    network: NetworkFacts = NETWORK,
    *,
    device: str = "cpu",
    precision: str = "fp32",
    free: int | None = None,
    openvino: bool = False,
    **chosen: Any,
) -> Plan:
    """The plan for an image with these settings."""
    return make_plan(image, network, Settings(**chosen), Machine(device, precision, free, openvino))


def test_the_tile_of_the_paper_has_an_exact_step() -> None:
    plan = plan_of(tile=572)
    assert (plan.tile, plan.step, plan.chunk, plan.block, plan.batch) == (572, 384, 384, 1920, 1)
    assert (plan.region, plan.planes, plan.channels) == (Region(0, 0, 10_000, 8_000), range(1), (0,))
    assert (plan.blocks, plan.tiles, plan.pixels) == (6 * 5, 27 * 21, 80_000_000)


@pytest.mark.parametrize("size", [1, 400, 1000, 10_000_000])
@pytest.mark.parametrize("divisor", [1, 2, 3, 16, 32])
def test_every_step_gives_blocks_of_whole_tiles_and_whole_chunks(divisor: int, size: int) -> None:
    """A stored object has one writer and holds whole chunks, a block is a square of whole tiles: for every step."""
    view = FieldOfView(divisor, 6 * divisor, 6 * divisor, True)
    network, image = replace(NETWORK, view=view), replace(IMAGE, shape=(size, size))
    for steps in [*range(1, 260), 512, 1024, 1025]:
        plan = plan_of(image, network, tile=view.tile_of(steps * divisor))
        assert plan.step == steps * divisor
        assert plan.block % plan.step == plan.block % plan.chunk == 0
        assert plan.block <= max(3072, plan.step), "blocks are of a size that fits anywhere"
        assert (plan.block // plan.step) ** 2 % plan.batch == 0
        assert len(plan.grid) == plan.blocks > 0


@given(st.integers(1, 64), st.integers(1, 2000))
def test_a_small_image_is_not_given_a_large_block(steps: int, side: int) -> None:
    """One block, and no tile row more than the image needs, but for whole chunks."""
    plan = plan_of(replace(IMAGE, shape=(side, side)), tile=PAPER.tile_of(16 * steps))
    assert plan.block < side + max(plan.step, plan.chunk)


@given(st.integers(1, 40), st.integers(1, 3000), st.integers(20, 36))
def test_a_batch_divides_the_tiles_of_a_block_and_fits_the_memory(steps: int, pixel_bytes: int, free: int) -> None:
    network = replace(NETWORK, pixel_bytes=pixel_bytes)
    plan = plan_of(network=network, tile=PAPER.tile_of(16 * steps), free=2**free, device="cuda")
    tiles = (plan.block // plan.step) ** 2
    assert tiles % plan.batch == 0
    assert plan.batch <= 64
    assert plan.batch == 1 or plan.batch * plan.tile**2 * pixel_bytes <= 2**free


def test_the_batch_may_be_chosen() -> None:
    assert plan_of(batch=7).batch == 7
    assert plan_of(tile=220).batch == 6, "small tiles come in batches of about the pixels of the paper's"
    assert plan_of(free=2**40, tile=572).batch == 25


@given(st.integers(1, 10_000_000), st.integers(1, 10_000_000), st.integers(1, 10_000))
def test_memory_does_not_depend_on_the_size_of_the_image(height: int, width: int, depth: int) -> None:
    """But for small images, which have small blocks, and smaller tiles where these waste less."""
    image = replace(IMAGE, shape=(height, width), depth=depth)
    assert plan_of(image).memory_bytes <= plan_of().memory_bytes
    if max(height, width) > 4_000:
        assert plan_of(image, tile=572).memory_bytes == plan_of(tile=572).memory_bytes


def test_calibrating_takes_memory_too_but_not_more_for_larger_tiles() -> None:
    least = plan_of(tile=700).memory_bytes
    assert plan_of(tile=700, precision="int8", openvino=True).memory_bytes > least
    large = plan_of(tile=1212, precision="int8", openvino=True)
    assert large.sample_step == 512
    assert large.memory_bytes < plan_of(tile=1212).memory_bytes


def test_memory_grows_with_what_is_held() -> None:
    least = plan_of().memory_bytes
    assert plan_of(batch=4).memory_bytes > least
    assert plan_of(tile=1100).memory_bytes > least
    assert plan_of(replace(IMAGE, itemsize=4)).memory_bytes > least
    assert plan_of(replace(IMAGE, cache_bytes=1000)).memory_bytes == least + 1000
    assert plan_of(network=replace(NETWORK, weights_bytes=2 * NETWORK.weights_bytes)).memory_bytes > least
    assert plan_of(device="cuda").memory_bytes < least, "activations are the device's own"
    assert plan_of(batch=4, device="cuda").memory_bytes == plan_of(device="cuda").memory_bytes


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"batch": 0}, "--batch is 0; allowed: auto, 1 to 1024"),
        ({"batch": 1025}, "--batch is 1025; allowed: auto, 1 to 1024"),
        ({"threshold": 0.0}, "--threshold is 0.0; allowed: between 0 and 1"),
        ({"threshold": float("nan")}, "--threshold is nan; allowed: between 0 and 1"),
        ({"normalise": "tile"}, "--normalise is 'tile'; allowed: model, image"),
        ({"runtime": "tensorrt"}, "--runtime is 'tensorrt'; allowed: auto, pytorch, openvino"),
        ({"roi": (0, 0, 64, 64)}, "--roi is (0, 0, 64, 64); expected a tilesegment.Region(y0, x0, y1, x1)"),
        (
            {"runtime": "openvino"},
            "openvino is not to be had for cpu in fp32; it is for CPUs, in fp32, and in bf16 where they have that: "
            "pip install 'tilesegment[cpu]'",
        ),
        ({"tile": 570}, "tile 570 does not fit the network; the nearest that do are 556 and 572"),
        (
            {"roi": Region(0, 0, 10_001, 10)},
            "roi 0:10001,0:10 is empty or outside the image; allowed: y0:y1,x0:x1 within 0:10000,0:8000",
        ),
        ({"z": (0, 1)}, "z 0:1 was given, but /data/slide.tif has no z axis; leave out --z"),
        ({"channels": (1,)}, "channels 1: /data/slide.tif has channels 0 to 0"),
        ({"channels": (-1,)}, "channels -1: /data/slide.tif has channels 0 to 0"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_one_line(chosen: dict[str, Any], message: str) -> None:
    with pytest.raises(PlanError) as caught:
        plan_of(**chosen)
    assert str(caught.value) == message


def test_a_threshold_needs_two_classes() -> None:
    with pytest.raises(PlanError, match="threshold needs a model of two classes; this one has 3"):
        plan_of(network=replace(NETWORK, classes=3), threshold=0.4)
    assert plan_of(threshold=0.4).step == 512


@pytest.mark.parametrize(
    "roi",
    [
        Region(0, 0, 0, 5),
        Region(5, 5, 5, 9),
        Region(-1, 0, 5, 5),
        Region(0, 7999, 1, 8001),
        Region(10_000, 0, 10_001, 1),
    ],
)
def test_a_roi_is_inside_the_image_and_not_empty(roi: Region) -> None:
    with pytest.raises(PlanError, match=f"^roi {roi} is empty or outside the image"):
        plan_of(roi=roi)


def test_a_roi_is_taken_to_the_level() -> None:
    """A region of level 0 becomes all pixels of the level that it touches."""
    reduced = replace(IMAGE, shape=(2_500, 2_000), scale=(4.0, 4.0))
    assert plan_of(reduced, level=2, roi=Region(5, 8, 17, 16)).region == Region(1, 2, 5, 4)
    assert plan_of(reduced, level=2, roi=Region(5, 8, 6, 9)).region == Region(1, 2, 2, 3)
    with pytest.raises(PlanError, match="within 0:10000,0:8000"):
        plan_of(reduced, level=2, roi=Region(0, 0, 10_008, 8))
    with pytest.raises(PlanError, match="is empty"):
        plan_of(reduced, level=2, roi=Region(5, 5, 5, 9))
    with pytest.raises(PlanError, match="outside"):
        plan_of(reduced, level=2, roi=Region(-3, 0, 5, 5))


@examples(max_examples=300)
@given(st.integers(1, 20_000), st.integers(1, 6), st.sampled_from(["down", "up", "ratio"]))
def test_the_whole_of_level_0_is_the_whole_of_every_level(size: int, level: int, rounding: str) -> None:
    """Levels are rounded down or up, and their scales said to be powers of two or computed from the shapes."""
    scale = float(2**level)
    side = ceil(size / scale) if rounding == "up" else max(int(size / scale), 1)
    scale = size / side if rounding == "ratio" or size < scale else scale
    reduced = replace(IMAGE, shape=(side, side), scale=(scale, scale))
    plan = plan_of(reduced, level=level, roi=Region(0, 0, size, size))
    assert plan.region == Region(0, 0, side, side)


def test_planes_are_chosen_within_the_stack() -> None:
    stack = replace(IMAGE, depth=30)
    assert plan_of(stack).planes == range(30)
    assert plan_of(stack, z=(4, 6)).planes == range(4, 6)
    assert plan_of(stack, z=(4, 6)).tiles == 2 * plan_of().tiles
    for z in ((0, 31), (5, 5), (6, 5), (-1, 3), (30, 31)):
        with pytest.raises(
            PlanError, match=f"^z {z[0]}:{z[1]} is empty or outside the stack; allowed: a:b within 0:30$"
        ):
            plan_of(stack, z=z)


def test_work_is_every_block_of_every_plane_in_order() -> None:
    plan = plan_of(replace(IMAGE, shape=(700, 1400), depth=3), tile=220, z=(1, 3))
    work = list(plan.work())
    assert len(work) == plan.blocks
    assert work == sorted(work, key=lambda item: (item[0], item[1].row, item[1].column))
    assert {z for z, _ in work} == {1, 2}


def test_channels_are_those_of_the_model() -> None:
    rgb, colour = replace(NETWORK, channels=3), replace(IMAGE, channels=4)
    assert plan_of(colour, rgb).channels == (0, 1, 2), "alpha is left out"
    assert plan_of(replace(IMAGE, channels=3), rgb, channels=(2, 1, 0)).channels == (2, 1, 0)
    assert plan_of(colour, channels=(3,)).channels == (3,)
    with pytest.raises(PlanError, match="has 4 channels, the model takes 1: choose 1 of 0 to 3 with --channels"):
        plan_of(colour)
    with pytest.raises(PlanError, match="has 2 chosen channels, the model takes 3"):
        plan_of(colour, rgb, channels=(0, 1))
    with pytest.raises(PlanError, match=r"channels 0, 1, 4: .* has channels 0 to 3"):
        plan_of(colour, rgb, channels=(0, 1, 4))


def test_the_fingerprint_holds_what_decides_pixels_and_nothing_else() -> None:
    def of(image: ImageFacts = IMAGE, **given: Any) -> dict[str, Any]:
        chosen = {name: value for name, value in given.items() if name not in ("precision", "device", "openvino")}
        return fingerprint(plan_of(image, **given), Settings(**chosen), {"a": 1})

    same, stack = of(), replace(IMAGE, depth=5)
    assert of(batch=9) == of(device="cuda") == of(replace(IMAGE, path="/elsewhere/slide.tif")) == same
    assert same["a"] == 1
    assert of(replace(IMAGE, channels=2), channels=(1,)) != of(replace(IMAGE, channels=2), channels=(0,))
    assert of(stack, z=(0, 2)) != of(stack)
    for other in (
        of(tile=588),
        of(precision="bf16"),
        of(openvino=True),
        of(tta=True),
        of(level=1),
        of(roi=Region(0, 0, 100, 100)),
        of(replace(IMAGE, shape=(10_000, 8_001))),
        of(replace(IMAGE, path="/data/other.tif")),
    ):
        assert other != same


@pytest.mark.parametrize(
    ("side", "pixel_bytes", "precision", "tile"),
    [
        (10_000, 100, "fp32", 1212),
        (1024, 100, "fp32", 1212),
        (1536, 100, "fp32", 956),  # four of them
        (1100, 100, "fp32", 572),  # nine
        (512, 100, "fp32", 700),
        (513, 100, "fp32", 956),  # against four of 572
        (200, 100, "fp32", 444),
        (10_000, 1536, "fp32", 700),  # 2.3 GB for a tile of 1212
        (10_000, 1536, "bf16", 1212),  # half of it
        (10_000, 1536, "int8", 1212),
        (10_000, 10_000, "fp32", 444),  # nothing fits; the least
    ],
)
def test_where_no_tile_is_chosen_it_is_the_one_that_computes_least(
    side: int, pixel_bytes: int, precision: str, tile: int
) -> None:
    network, image = replace(NETWORK, pixel_bytes=pixel_bytes), replace(IMAGE, shape=(side, side))
    for free in (None, 2**40):
        assert plan_of(image, network, free=free, precision=precision, openvino=True).tile == tile


def test_logits_take_their_room_in_any_precision() -> None:
    many = replace(NETWORK, classes=200, pixel_bytes=4 * (64 + 2 * 200))
    assert plan_of(network=many, precision="int8", openvino=True).tile == plan_of(network=many).tile == 700


def test_a_wide_halo_asks_for_a_large_tile() -> None:
    u2net = replace(NETWORK, view=FieldOfView(32, 384, 384, False), pixel_bytes=100)
    assert plan_of(IMAGE, u2net).tile == 1024 + 2 * 384


def test_on_a_cpu_many_tiles_are_run_by_openvino_and_few_are_not_worth_its_conversion() -> None:
    # of 572 pixels each, which is 16 million with the 49th
    few, many = (replace(IMAGE, shape=(384, 384 * tiles)) for tiles in (48, 49))

    def of(image: ImageFacts, openvino: bool = True, **chosen: Any) -> str:
        return plan_of(image, openvino=openvino, tile=572, **chosen).runtime

    assert [of(few), of(many), of(replace(few, depth=2))] == ["pytorch", "openvino", "openvino"]
    assert of(many, openvino=False) == of(many, runtime="pytorch") == "pytorch"
    assert of(few, runtime="openvino") == of(few, precision="int8") == "openvino"
    with pytest.raises(PlanError, match="int8 is computed by openvino"):
        plan_of(few, openvino=True, precision="int8", runtime="pytorch")


def test_a_network_that_brings_its_runtime_keeps_it() -> None:
    onnx = replace(NETWORK, runtime="onnxruntime")
    assert plan_of(network=onnx, openvino=True).runtime == "onnxruntime"
    with pytest.raises(PlanError, match="runtime openvino was given, but the model runs by onnxruntime; leave it out"):
        plan_of(network=onnx, openvino=True, runtime="openvino")


def test_the_lines_say_what_and_how_much() -> None:
    lines = dict(plan_of(replace(IMAGE, depth=5), z=(1, 3), precision="bf16", tile=572).lines())
    assert lines["image"] == "/data/slide.tif (TIFF, 1 channels)"
    assert lines["predicted"] == "10000 x 8000 pixels (y, x) x 2 planes, 160.0 Mpx"
    assert lines["tile"] == "572 px, of which 384 are kept; 1,134 tiles, 1 at a time"
    assert lines["block"] == "1920 px; 60 blocks, chunks of 384"
    assert lines["device"] == "cpu, bf16, by pytorch"
    assert lines["memory"].endswith("GB, whatever the image's size")
    assert lines["disk"] == "at most 0.21 GB for the mask"
    assert "planes" not in dict(plan_of().lines())["predicted"]


def test_a_plan_is_plain_data() -> None:
    plan = plan_of(roi=Region(3, 4, 500, 600))
    assert pickle.loads(pickle.dumps(plan)) == plan
