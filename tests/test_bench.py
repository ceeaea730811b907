"""The bench: what it measures is what it says, all of it fits together, and nothing stays behind."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from conftest import noise, toy_model
from hypothesis import given
from hypothesis import strategies as st
from image_files import make_pixels, tiff

import tilesegment
from tilesegment.bench import Bench, Trial, bench
from tilesegment.bench.rounds import Idle, IdleProcess, tiled
from tilesegment.bench.subject import (
    Subject,
    affordable,
    centred_part,
    drawn_subject,
    given_subject,
    own_copy,
    some_tiles,
    tiles_computed,
)
from tilesegment.bench.sweep import Sweep
from tilesegment.errors import DeviceError, ImageError, ModelError, PlanError, TilesegmentError
from tilesegment.geometry import Region
from tilesegment.images import open_image
from tilesegment.images.drawing import draw_zarr
from tilesegment.networks import build_network
from tilesegment.networks.counting import floating_point_operations
from tilesegment.prediction.job import Job
from tilesegment.prediction.settings import Settings
from tilesegment.prediction.speed import measure_product, precisions_on, time_predictor

RATES = ("predictor", "read", "write", "finish", "end_to_end", "copy", "idle_end_to_end")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """Where the bench writes."""
    path = tmp_path / "scratch"
    path.mkdir()
    return path


def check(found: Bench) -> None:
    """What is true of every bench."""
    kept = json.loads(json.dumps(asdict(found)))
    for name in RATES:
        assert kept[f"{name}_mpx_per_s"] > 0, name
    assert found.end_to_end_ratio == found.end_to_end_mpx_per_s / found.predictor_mpx_per_s
    assert found.idle_ratio == found.idle_end_to_end_mpx_per_s / found.copy_mpx_per_s
    assert min(found.matmul_tflops, found.start_seconds, found.threads) > 0
    assert found.start_seconds < found.seconds


@pytest.mark.parametrize(("size", "runtime"), [(None, "pytorch"), (300, "auto")])
def test_all_of_it_on_a_drawn_image(size: int | None, runtime: str, toy: Path, scratch: Path) -> None:
    seen: list[float] = []
    how = {"tile": 104, "precision": "fp32", "runtime": runtime, "report": lambda done, words: seen.append(done)}
    found = bench(None, toy, size=size, seconds=1, folder=scratch, **how)
    check(found)
    assert (found.image, found.model, found.tile, found.step, found.precision) == (None, "toy-2", 104, 64, "fp32")
    assert (found.dtype, found.channels, found.sweep, found.best) == ("uint8", 1, (), None)
    assert seen == sorted(seen) and seen[0] >= 0 and seen[-1] < 1
    y0, x0, y1, x1 = found.region
    if size is not None:
        assert Region.of_shape((300, 300)).contains(Region(y0, x0, y1, x1))
    assert not list(scratch.iterdir())
    # operations a second, and pixels a second, are one speed
    path = draw_zarr(scratch / "same.zarr", (y1 - y0, x1 - x0), [128], [40], "uint8")
    with Job.prepare(path, toy, Settings(tile=104, precision="fp32", runtime=found.runtime)) as job:
        assert (job.plan.batch, job.plan.block) == (found.batch, found.block)
        tiles = sum(tiles_computed(len(block.tiles), job.predictor.batch) for block in job.plan.grid)
    operations = floating_point_operations(toy_model().network, 1, 104)
    a_pixel = found.predictor_tflops / found.predictor_mpx_per_s * 1e6
    assert a_pixel == pytest.approx(operations * tiles / ((y1 - y0) * (x1 - x0)), rel=1e-6)


def test_of_a_stack_the_middle_plane_and_the_chosen_channel(tmp_path: Path, toy: Path, scratch: Path) -> None:
    image = tiff("zcyx")(tmp_path, make_pixels(5, 2, 120, 90))
    before = image.read_bytes()
    found = bench(image, toy, axes="zcyx", seconds=1, folder=scratch, channels=(1,), tile=72, runtime="pytorch")
    check(found)
    assert (found.image, found.region, found.stored_region) == (str(image), [0, 0, 120, 90], [0, 0, 120, 90])
    assert image.read_bytes() == before
    subject = given_subject(str(image), toy, Settings(channels=(1,), runtime="pytorch"), "zcyx", None, 1, scratch)
    assert subject.settings.z == subject.stored.z == (2, 3)


def test_nothing_stays_wherever_it_is_interrupted(toy: Path, scratch: Path) -> None:
    steps = 0

    def interrupt_at(number: int) -> Callable[[float, str], None]:
        def report(done: float, words: str) -> None:
            nonlocal steps
            steps += 1
            if steps == number:
                raise KeyboardInterrupt

        return report

    for number in (1, 2, 3, 5):
        steps = 0
        with pytest.raises(KeyboardInterrupt):
            bench(None, toy, size=128, seconds=1, folder=scratch, runtime="pytorch", report=interrupt_at(number))
        assert not list(scratch.iterdir()), number


def test_a_failure_leaves_nothing_either(toy: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ImageError("unreadable")

    monkeypatch.setattr(Job, "read", refuse)
    with pytest.raises(ImageError, match="unreadable"):
        bench(None, toy, size=128, seconds=1, folder=scratch)
    assert not list(scratch.iterdir())


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"size": 100, "image": "a.tif"}, PlanError, "--size is of a drawn image; leave it out, or the image"),
        ({"size": 63}, PlanError, "size is 63; allowed: 64 to 65536 pixels"),
        ({"seconds": 0}, PlanError, "seconds is 0; allowed: 1 to 86,400"),
        ({"seconds": float("nan")}, PlanError, "seconds is nan; allowed"),
        ({"roi": Region(0, 0, 9, 9)}, PlanError, "there is no setting 'roi'; there are: tile, halo"),
        ({"batch": 0}, PlanError, "batch is 0"),
        ({"tile": 571}, PlanError, "tile 571 does not fit the network; the nearest that do are 568 and 572"),
        ({"image": "a.tif"}, ImageError, "a.tif does not exist"),
        ({"model": "nobody"}, ModelError, "no model nobody"),
        ({"folder": "nowhere"}, PlanError, "nothing can be written to nowhere"),
        ({"device": "cuda:99"}, DeviceError, "device 'cuda:99' is not here"),
        ({"precision": "fp8"}, DeviceError, "precision 'fp8' is unknown"),
        ({"channels": (0, 1)}, PlanError, "2 chosen channels, the model takes 1"),
    ],
)
def test_mistakes_are_told_in_one_line(
    given: dict, error: type[TilesegmentError], message: str, toy: Path, scratch: Path
) -> None:
    with pytest.raises(error, match=message) as found:
        bench(**{"model": toy, "seconds": 1, "folder": scratch, **given})
    assert "\n" not in str(found.value)
    assert not list(scratch.iterdir())


def test_colours_and_no_model(tmp_path: Path, scratch: Path) -> None:
    image = tiff("yxc", photometric="rgb")(tmp_path, make_pixels(3, 40, 50))
    with pytest.raises(ModelError, match="3 channels and no model was named"):
        bench(image, seconds=1, folder=scratch)
    assert not list(scratch.iterdir())


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 6), st.integers(1, 4), st.integers(0, 4000 * 4000))
def test_a_part_is_whole_blocks_or_tiles_of_the_middle(
    height: int, width: int, steps: int, tiles: int, pixels: int
) -> None:
    plan = _Sides(block=16 * steps * tiles, step=16 * steps)
    region = Region.of_shape((height, width))
    part = centred_part(region, plan, pixels)  # type: ignore[arg-type]
    assert part.area > 0 and region.contains(part)
    if part == region:
        return
    unit = plan.block if plan.block**2 <= pixels else plan.step
    assert part.area <= max(pixels, plan.step**2)
    assert part.y0 % unit == part.x0 % unit == 0
    for size, whole in ((part.height, height), (part.width, width)):
        assert size % unit == 0 or size == whole < unit
    # about centred: by less than a unit
    assert abs(part.y0 - (height - part.y1)) <= 2 * unit
    assert abs(part.x0 - (width - part.x1)) <= 2 * unit


class _Sides:
    """As much of a plan as a part depends on."""

    def __init__(self, block: int, step: int) -> None:
        self.block, self.step = block, step


def test_without_time_it_is_a_single_tile_and_with_much_all_of_it(toy: Path, scratch: Path) -> None:
    image = draw_zarr(scratch / "image.zarr", (400, 500), [128], [40], "uint8")
    settings = Settings(tile=72, runtime="pytorch")  # of which 32 are kept
    with Job.prepare(image, toy, settings) as job:
        assert affordable(job, 0) == (0, 0)
        few, many = affordable(job, 1), affordable(job, 1000)
        assert all(0 < one < other for one, other in zip(few, many, strict=True))
        assert centred_part(job.plan.region, job.plan, 0) == Region(160, 224, 192, 256)
        for count in (1, 3, 7, 12, 1000):
            block = some_tiles(job.plan, count)
            assert 1 <= len(block.tiles) <= count
            assert job.plan.grid.at(0, 0).write.contains(block.write)
        assert some_tiles(job.plan, 10**6) == job.plan.grid.at(0, 0)
    subject = given_subject(image, toy, settings, None, None, 1e6, scratch)
    assert subject.settings.roi == subject.stored.roi == Region(0, 0, 400, 500)


def test_int8_is_kept_with_a_copy_of_the_model(toy: Path, scratch: Path) -> None:
    copied = own_copy(toy, scratch)
    assert Path(copied).parent == scratch and Path(copied).read_bytes() == toy.read_bytes()
    subject = drawn_subject(toy, Settings(runtime="pytorch"), 64, 1, scratch)
    assert Path(subject.model or "").parent == scratch
    onnx = scratch.parent / "model.onnx"
    onnx.write_bytes(b"anything")
    assert own_copy(onnx, scratch) == str(onnx)


@pytest.mark.parametrize(("dtype", "mean", "std"), [("uint8", 100, 30), ("uint16", 9000, 2000), ("float32", 0.5, 0.1)])
def test_drawn_pixels(dtype: str, mean: float, std: float, tmp_path: Path) -> None:
    paths = [draw_zarr(tmp_path / name, (700, 2100), [mean, 2 * mean], [std] * 2, dtype) for name in "ab"]
    with open_image(paths[0]) as source, open_image(paths[1]) as again:
        assert (source.shape, source.channels, str(source.dtype)) == ((700, 2100), 2, dtype)
        pixels = source.read(Region(0, 0, 700, 2100))
        np.testing.assert_array_equal(pixels, again.read(Region(0, 0, 700, 2100)))
    for channel, grey in zip(pixels, (mean, 2 * mean), strict=True):
        assert channel.mean() == pytest.approx(grey, rel=0.1)
        assert channel.std() == pytest.approx(std, rel=0.1)
    stored = sum(file.stat().st_size for file in Path(paths[0]).rglob("*") if file.is_file())
    assert stored > pixels.nbytes / 2


def test_the_operations_of_the_unet_of_the_paper() -> None:
    """2,040 thousand for each of the 384 x 384 pixels that are kept of a tile of 572, by hand from its layers."""
    network = build_network("unet", {"in_channels": 1, "classes": 2, "depth": 4, "base": 64, "dropout": 0.0})
    sides, count = 572, 0
    channels = 1
    for width in (64, 128, 256, 512, 1024):
        for wide in (channels, width):
            sides -= 2
            count += 2 * 9 * wide * width * sides**2
        channels, sides = width, sides // 2
    sides *= 2  # the last stage is not pooled
    for width in (512, 256, 128, 64):
        count += 2 * 4 * 2 * width * width * sides**2  # 2 x 2 up-convolution
        sides *= 2
        for wide in (2 * width, width):
            sides -= 2
            count += 2 * 9 * wide * width * sides**2
    count += 2 * 64 * 2 * sides**2
    assert floating_point_operations(network, 1, 572) == count
    assert round(count / 384**2 / 1000) == 2040
    assert next(network.parameters()).device.type == "cpu"


def test_the_operations_of_a_network_that_is_run_elsewhere_are_unknown() -> None:
    import torch

    assert floating_point_operations(torch.nn.ReLU(), 1, 32) is None


@pytest.mark.parametrize(("precision", "in_fact"), [("fp32", "fp32"), ("bf16", "bf16"), ("int8", "fp32")])
def test_products_of_matrices(precision: str, in_fact: str) -> None:
    found = measure_product("cpu", precision, 0.01)
    assert found.precision == in_fact
    assert found.side in (512, 1024, 2048, 4096, 8192)
    assert found.tflops > 0


def test_a_predictor_is_timed_once_at_least_and_once_only_if_it_is_slow(toy: Path, scratch: Path) -> None:
    image = draw_zarr(scratch / "image.zarr", (64, 64), [128], [40], "uint8")
    with Job.prepare(image, toy, Settings(tile=104)) as job:
        block = job.plan.grid.at(0, 0)
        pixels = job.read(0, block)
        assert len(time_predictor(job.predictor, pixels, block, seconds=0, patience=100)) == 1
        assert len(time_predictor(job.predictor, pixels, block, seconds=100, patience=0)) == 1
        several = time_predictor(job.predictor, pixels, block, seconds=0.1, patience=100)
        assert sum(several) >= 0.1 > sum(several[:-1])


def test_the_idle_predictor_predicts_nothing(tmp_path: Path, toy: Path) -> None:
    image, ids = tiff("yx")(tmp_path, noise((1, 200, 130))), noise((128, 160)) % 2
    tile = toy_model().field_of_view.tile_of(128)
    with Job.prepare(image, toy, Settings(tile=tile)) as job:
        plan = job.plan
    with IdleProcess(Idle(tiled(ids, plan.block), plan.view, 2)) as idle:
        done = tilesegment.predict(image, tmp_path / "mask.zarr", toy, workers=idle, tile=tile)
    assert done.complete
    mask = tilesegment.open_mask(tmp_path / "mask.zarr")
    for block in plan.grid:
        height, width = block.write.shape
        np.testing.assert_array_equal(mask.read(block.write), tiled(ids, plan.block)[:height, :width])
    np.testing.assert_array_equal(tiled(ids, 300)[128:256, 160:300], ids[:, :140])


def test_a_chosen_halo_is_measured_too(tmp_path: Path, scratch: Path) -> None:
    """Whose end of a run predicts some tiles once more, which an idle predictor is asked for as well."""
    from conftest import toy_network

    toy_network("unet-same", depth=1, base=2).save(tmp_path / "same.safetensors")
    found = bench(
        None, tmp_path / "same.safetensors", size=96, seconds=1, folder=scratch, halo=8, tile=64, runtime="pytorch"
    )
    check(found)
    assert (found.tile, found.step) == (64, 48)


@pytest.fixture
def subject(toy: Path, scratch: Path) -> Subject:
    return drawn_subject(toy, Settings(tile=104, precision="fp32"), 200, 1, scratch)


def trial(precision: str, rate: float | None) -> Trial:
    return Trial(572, 384, 1, False, precision, "pytorch", False, 10**9, rate, rate)


@pytest.mark.parametrize(
    ("given", "rates", "expected"),
    [
        ("fp32", {"bf16": 3.0, "int8": 4.0}, "fp32"),
        ("bf16", {"fp32": 0.5, "int8": 4.0}, "bf16"),
        ("bf16", {"fp32": 1.5, "fp16": None}, "fp32"),
        ("bf16", {"fp16": 1.5}, "fp16"),
        ("int8", {"fp32": 0.5, "bf16": 0.7}, "int8"),
        ("fp64", {"fp32": 2.0}, "fp64"),
    ],
)
def test_nothing_less_exact_is_advised_than_was_asked_for(
    given: str, rates: dict[str, float | None], expected: str, tmp_path: Path
) -> None:
    sweep = Sweep(Subject("a.tif", None, Settings(), Settings(), None, None, tmp_path, False, "auto"), 1)
    sweep.trials = [trial(given, 1.0), *(trial(name, rate) for name, rate in rates.items())]
    assert sweep.best.precision == expected


def test_a_sweep(subject: Subject, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.bench.sweep.STEPS", (30, 64, 120))
    monkeypatch.setattr("tilesegment.bench.sweep._ALONE", 0.01)
    seen: list[float] = []
    sweep = Sweep(subject, 1)
    best = sweep.run(lambda done, _: seen.append(done))
    first, *others = sweep.trials
    facts = (first.tile, first.step, first.precision, first.batch_given, first.runtime_given, first.times_default)
    assert facts == (104, 64, "fp32", False, False, 1.0)
    openvino = find_spec("openvino") is not None
    assert first.runtime == ("openvino" if openvino else "pytorch")
    # other precisions, the other runtime, other tiles (the first rounded up to the divisor, that of 64 is the given
    # one), other batches where they count
    wanted = [(104, name) for name in precisions_on("cpu") if name != "fp32"] + [(104, "fp32")] * openvino
    wanted += [(72, "fp32"), (160, "fp32")]
    assert [(one.tile, one.precision) for one in others if not one.batch_given] == wanted
    assert sum(one.runtime_given for one in others[: len(wanted) - 2]) == openvino
    fastest = max((one for one in sweep.trials if one.precision == "fp32"), key=lambda one: one.mpx_per_s)
    assert best == (fastest if fastest.mpx_per_s >= 1.05 * first.mpx_per_s else first)
    assert len({one.tile for one in others if one.batch_given}) <= 1
    assert first.other_class == 0
    for one in sweep.trials:
        assert not one.why_not and one.mpx_per_s > 0
        assert one.times_default == one.mpx_per_s / first.mpx_per_s
        assert one.other_class is None or 0 <= one.other_class < 0.2
    assert seen == sorted(seen) and seen[-1] < 1
    assert best.options.startswith(f"--tile {best.tile}") and "--precision fp32" in best.options
    # what int8 needs is kept in the bench's own folder
    assert not [path.name for path in toy.parent.iterdir() if "int8" in path.name]


def test_with_a_runtime_of_ones_own_no_other_is_tried(toy: Path, scratch: Path) -> None:
    own = drawn_subject(toy, Settings(tile=104, precision="fp32", runtime="pytorch"), 200, 1, scratch)
    assert (own.runtime, own.settings.runtime) == ("pytorch", "pytorch")
    with own.prepare() as job:
        others = list(Sweep(own, 1)._others(job.plan, own.settings))
    assert [one.precision for one in others] == ["bf16"]
    assert {one.runtime for one in others} == {"pytorch"}


def test_what_takes_more_memory_than_there_is_is_not_tried(subject: Subject, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tilesegment.bench.sweep._MOST_MEMORY", 1e-9)
    sweep = Sweep(subject, 1)
    with pytest.raises(DeviceError, match=r"takes about 0\.\d GB of memory, of \d"):
        sweep.run(lambda done, words: None)
    (only,) = sweep.trials
    assert only.why_not and only.mpx_per_s is None
    assert only == replace(only, times_default=None, other_class=None)
