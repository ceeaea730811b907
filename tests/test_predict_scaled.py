"""Predictions at a chosen pixel size: seamless, the right size chosen, and all that goes with it."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from command_line import Run
from conftest import noise, toy_model
from hypothesis import example, given, settings
from hypothesis import strategies as st
from image_files import png
from one_pass import plain_pass
from scaled_images import LINE, SCALED, SETTINGS, bright, crop, ids_of, make_slide, rectangle, with_sizes
from unreal_plans import image_of, network_of, plan_of

import tilesegment
from tilesegment import MaskError, PlanError, Region
from tilesegment.cluster import Cluster
from tilesegment.images import ResampledSource, open_image
from tilesegment.metadata import PixelSize
from tilesegment.prediction.job import Job
from tilesegment.prediction.settings import Settings
from tilesegment.preview import draw_preview


@pytest.fixture
def slide(folder: Path) -> Path:
    """Of 0.365 um per pixel, in the working folder of the command line, with a model that wants 0.5 um."""
    return make_slide(folder)


@settings(max_examples=8, deadline=None)
@given(st.integers(1, 150), st.integers(1, 150), st.floats(9, 60), st.integers(0, 99))
@example(130, 150, 27.4, 1)
@example(90, 70, 13.3, 2)
def test_the_mask_is_that_of_one_pass_over_the_resampled_image(
    tmp_path_factory: pytest.TempPathFactory, height: int, width: int, diameter: float, seed: int
) -> None:
    folder, model = tmp_path_factory.mktemp("seamless"), with_sizes(toy_model(seed=seed), diameter=20.0)
    image = folder / "image.tif"
    tifffile.imwrite(image, noise((height, width), seed), tile=(64, 64))
    done = tilesegment.predict(image, folder / "m.zarr", model, diameter=diameter, **SETTINGS | {"precision": "fp64"})
    assert done.plan is not None
    with open_image(image) as source:
        pixels = source.read(Region.of_shape(source.shape))
        if done.plan.resampled is not None:
            assert done.plan.resampled == (diameter / 20, diameter / 20)
            pixels = crop(ResampledSource(source, done.plan.resampled))
    np.testing.assert_array_equal(ids_of(folder / "m.zarr"), plain_pass(model, pixels)[1].numpy() > 0.5)


# what is chosen


@pytest.mark.parametrize(
    ("wanted", "level", "step"),
    [
        ({"mpp": 0.5}, 1, None),
        ({"mpp": "model"}, 1, None),
        ({"mpp": 0.254}, 0, None),
        ({"mpp": 0.26}, 3, 1.04),
        ({"mpp": 1.3}, 3, 5.2),
        ({"mpp": 0.1}, 3, 0.4),
        ({"diameter": 40}, 1, None),
        ({"diameter": 30}, 3, 1.5),
        ({"level": 2}, 2, None),
        ({}, 0, None),
    ],
)
def test_a_level_that_fits_is_read_and_others_are_resampled(
    wanted: dict[str, Any], level: int, step: float | None
) -> None:
    plan = plan_of(pyramid(), SIZED, **wanted)
    assert plan.level == level
    assert plan.resampled == (None if step is None else (pytest.approx(step), pytest.approx(step)))
    assert ("resampled" in plan.decides) == (step is not None)
    said = [note for note in plan.notes if "resampled from level" in note or "which is read as it is" in note]
    assert len(said) == len(wanted.keys() - {"level"})


def pyramid() -> Any:
    """Of 0.25 um, with levels of twice and four times that."""
    from tilesegment.images.source import Level

    source = image_of(levels=tuple(Level((4096 // n, 4096 // n), (float(n), float(n))) for n in (1, 2, 4)))
    source.assume_pixel_size(PixelSize(0.25, 0.25))
    return source


SIZED = network_of()
SIZED.header = replace(SIZED.header, pixel_size=PixelSize(0.5, 0.5), diameter=20.0)  # type: ignore[misc]


def test_each_axis_has_a_step_of_its_own() -> None:
    source = image_of()
    source.assume_pixel_size(PixelSize(0.5, 0.125))
    plan = plan_of(source, SIZED, mpp="model")
    assert (plan.resampled, plan.shape) == ((1.0, 4.0), (10_000, 2_000))
    assert plan_of(source, SIZED, diameter=30).resampled == (1.5, 1.5), "a diameter is in pixels"


def test_what_is_not_chosen_is_not_in_the_fingerprint(slide: Path, run: Run) -> None:
    """Old masks go on, and one size is one mask whatever it is called."""
    assert run(LINE.format("bare.tif") + "-o m.zarr").code == 0
    assert "resampled" not in tilesegment.describe("m.zarr")["fingerprint"]
    found = run(LINE.format("bare.tif") + "-o m.zarr --diameter 20.2")
    assert (found.code, "level 0 within 2 %" in found.err) == (0, True), found.err
    assert "done before" in found.err
    assert run(LINE.format(slide) + "-o n.zarr --mpp model").code == 0
    with Job.prepare(slide, Settings(model="scaled.safetensors", mpp=0.5, tile=88, precision="fp32")) as job:
        assert json.loads(json.dumps(dict(job.plan.decides))) == tilesegment.describe("n.zarr")["fingerprint"]
    found = run(LINE.format(slide) + "-o n.zarr --mpp 0.6")
    assert (found.code, "n.zarr exists" in found.err or "other settings" in found.err) == (1, True), found.err


def test_the_given_pixel_size_is_that_of_the_mask(slide: Path, run: Run) -> None:
    assert run(LINE.format("bare.tif") + "-o m.zarr --source-mpp 0.25").code == 0
    assert tilesegment.describe("m.zarr")["pixel_size_um"] == [0.25, 0.25]
    found = run(LINE.format(slide) + "-o n.zarr --source-mpp 0.25 --mpp model")
    assert "fine.tif says that its pixels are 0.365 um: 0.25 are taken" in found.err
    assert tilesegment.describe("n.zarr")["pixel_size_um"] == [0.5, 0.5]
    assert tilesegment.describe("n.zarr")["shape_yx"] == [150, 210]


# what goes with it


def test_parts_stops_and_clusters_make_the_mask_of_one_run(slide: Path, cluster: Cluster) -> None:
    folder, chosen = slide.parent, {"model": SCALED, "mpp": "model", **SETTINGS}
    tilesegment.predict(slide, folder / "once.zarr", **chosen)
    for part in (2, 1):
        tilesegment.predict(slide, folder / "parts.zarr", part=(part, 2), **chosen)
    asked = iter([False, False, True])
    with pytest.raises(tilesegment.StoppedError):
        tilesegment.predict(slide, folder / "stopped.zarr", stop=lambda: next(asked, True), **chosen)
    resumed = tilesegment.predict(slide, folder / "stopped.zarr", **chosen)
    assert resumed.blocks_resumed > 0
    SCALED.save(folder / "scaled.safetensors")
    chosen["model"] = folder / "scaled.safetensors"
    tilesegment.predict(slide, folder / "cluster.zarr", workers=cluster, **chosen)
    once = ids_of(folder / "once.zarr")
    assert once.shape == (219, 307)
    for name in ("parts", "stopped", "cluster"):
        np.testing.assert_array_equal(ids_of(folder / f"{name}.zarr"), once)


@pytest.mark.parametrize("diameter", [13, 20, 47])
def test_empty_blocks_are_found_at_any_size(diameter: float, tmp_path: Path) -> None:
    pixels = noise((1, 520, 521))
    pixels[:, :, :300] = 7
    image, model = png(tmp_path, pixels), with_sizes(toy_model(), diameter=20.0)
    outline = np.zeros((520, 521), np.uint8)
    outline[515:, 515:] = 1
    tifffile.imwrite(tmp_path / "outline.tif", outline)
    plain = tilesegment.predict(image, tmp_path / "all.zarr", model, diameter=diameter, **SETTINGS)
    for skip in ("constant", tmp_path / "outline.tif", "tissue"):
        name = tmp_path / f"{Path(skip).stem}.zarr"
        done = tilesegment.predict(image, name, model, diameter=diameter, skip_empty=str(skip), **SETTINGS)
        assert done.blocks == plain.blocks
        everything, kept = ids_of(tmp_path / "all.zarr"), ids_of(name)
        predicted = np.zeros_like(kept, bool)
        assert done.plan is not None
        for region in done.plan.region.squares(done.plan.block):
            same = np.array_equal(kept[region.slices], everything[region.slices])
            assert same or not kept[region.slices].any()
            predicted[region.slices] = same
        if skip != "tissue":
            assert done.blocks_skipped > 0
            assert predicted[-1, -1], "the last block is not empty"


def test_a_preview_shows_image_and_mask_in_register(tmp_path: Path) -> None:
    from PIL import Image

    image, model = png(tmp_path, rectangle()), bright(diameter=10.0)
    tilesegment.predict(image, tmp_path / "m.zarr", model, diameter=25, preview=tmp_path / "p.png", **SETTINGS)
    draw_preview(image, tmp_path / "m.zarr", tmp_path / "q.png")
    assert np.array_equal(np.asarray(Image.open(tmp_path / "p.png")), np.asarray(Image.open(tmp_path / "q.png")))
    picture = np.asarray(Image.open(tmp_path / "p.png").convert("RGB")).astype(int)
    dark = picture.max(2) < 40
    rows, columns = np.flatnonzero(dark.sum(1) > 100), np.flatnonzero(dark.sum(0) > 40)
    (split,) = np.flatnonzero(np.diff(columns) > 1) + 1
    assert (len(rows), split, len(columns)) == (80, 112, 224), "both panels are of the resampled image"
    for left, covered in ((columns[0], False), (columns[split], True)):
        panel = picture[rows[0] : rows[-1] + 1, left : left + 112]
        inside = np.zeros(panel.shape[:2], bool)
        inside[16:48, 32:80] = True
        np.testing.assert_array_equal(panel.max(2) > 100, inside)
        assert (np.ptp(panel[20:40, 40:70], axis=2) > 40).all() == covered
    with pytest.raises(MaskError, match="not a mask of"):
        draw_preview(png(tmp_path / "..", rectangle()[:, :150]), tmp_path / "m.zarr", tmp_path / "r.png")


def test_verify_proves_it(slide: Path, run: Run) -> None:
    found = run("verify fine.tif -m scaled.safetensors --tile 88 --mpp model --json")
    assert (found.code, json.loads(found.out)["seamless"]) == (0, True)


@pytest.mark.parametrize("name", ["m.zarr", "m.tif", "m.png", "p.zarr"])
def test_a_mask_is_scored_in_the_pixels_of_the_truth(name: str, tmp_path: Path, run: Run) -> None:
    """The edges of the rectangle are edges of pixels of the mask, too."""
    image, model = png(tmp_path, rectangle()), bright(diameter=10.0)
    more = {"probabilities": tmp_path / "p.zarr"} if name == "p.zarr" else {}
    mask = tmp_path / ("m.zarr" if more else name)
    tilesegment.predict(image, mask, model, diameter=25, objects=tmp_path / "o.zarr", **more, **SETTINGS)
    tifffile.imwrite(tmp_path / "truth.tif", (rectangle()[0] > 128).astype(np.uint8))
    found = run(f"evaluate {tmp_path}/{name} {tmp_path}/truth.tif --json")
    assert (found.code, json.loads(found.out)["accuracy"], json.loads(found.out)["pixels"]) == (0, 1.0, 200 * 280)
    assert "the prediction has pixels 2.5 x 2.5 times as large (y, x) as the truth" in found.err
    for ids in ({"m.zarr": ("m.zarr", "o.zarr")}).get(name, ()):
        found = run(f"evaluate {tmp_path}/{ids} {tmp_path}/truth.tif --objects --json")
        assert (found.code, json.loads(found.out)["objects"]["aji"]) == (0, 1.0), found.err


def test_scores_need_one_size_and_say_how_to_compare(tmp_path: Path, run: Run) -> None:
    """Of a mask that does not say where it lies, or that lies in a part of the image."""
    image, model = png(tmp_path, rectangle()), bright(diameter=10.0)
    tilesegment.predict(image, tmp_path / "m.zarr", model, diameter=25, objects=tmp_path / "o.geojson", **SETTINGS)
    tilesegment.predict(image, tmp_path / "part.zarr", model, diameter=25, roi=Region(0, 0, 200, 200), **SETTINGS)
    tifffile.imwrite(tmp_path / "truth.tif", (rectangle()[0] > 128).astype(np.uint8))
    tifffile.imwrite(tmp_path / "bare.tif", ids_of(tmp_path / "m.zarr"))
    for name, advice in (("bare.tif", "GeoJSON that predict --objects writes"), ("part.zarr", "must be of one size")):
        found = run(f"evaluate {tmp_path}/{name} {tmp_path}/truth.tif")
        assert (found.code, found.err.count("\n"), advice in found.err) == (1, 1, True)
    found = run(f"evaluate {tmp_path}/o.geojson {tmp_path}/truth.tif --objects --json")
    assert (found.code, json.loads(found.out)["objects"]["aji"]) == (0, 1.0), found.err


def test_images_of_different_sizes_in_one_run(slide: Path, run: Run) -> None:
    micrometres: dict[str, Any] = {"resolution": (1e4 / 0.25, 1e4 / 0.25), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite("finer.tif", noise((200, 240)), tile=(64, 64), **micrometres)
    found = run(LINE.format("fine.tif finer.tif bare.tif") + "--mpp model --out-dir masks")
    assert found.code == 3, "one does not say how large its pixels are"
    said = "bare.tif does not say how large its pixels are; give --source-mpp MICRONS, too, or --diameter PX instead"
    assert said in found.err
    shapes = {name: tilesegment.describe(f"masks/{name}.zarr")["shape_yx"] for name in ("fine", "finer")}
    assert shapes == {"fine": [219, 307], "finer": [100, 120]}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("--diameter 30 --mpp 0.5", "--diameter and --mpp each say"),
        ("--mpp 0.5 --level 1", "--level and --mpp each say"),
        ("--diameter 0", "--diameter is 0.0; allowed: positive"),
        ("--diameter inf", "--diameter is inf; allowed: positive"),
        ("--mpp -1", "--mpp is -1.0; allowed: model, or a positive"),
        ("--mpp nan", "--mpp is nan; allowed"),
        ("--mpp coarse", "'coarse' is not a pixel size"),
        ("--source-mpp 0", "--source-mpp is 0.0; allowed: positive"),
        ("--mpp 0.5", "bare.tif does not say how large its pixels are"),
        ("--mpp 0.5 --source-mpp 0.02", "a pixel would span 25 of those of level 0; allowed: 1/16 to 16"),
        ("--mpp 0.5 --source-mpp 0.0311", "a pixel would span 16.08 of those of level 0; allowed: 1/16 to 16"),
        ("--diameter 1", "a pixel would span 0.05 of those of level 0; allowed: 1/16 to 16"),
        ("-m toy.safetensors --diameter 9", "the model toy-2 does not say how large objects were"),
        ("-m toy.safetensors --mpp model --source-mpp 1", "the model toy-2 does not say how large pixels were"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(line: str, named: str, slide: Path, run: Run) -> None:
    found = run(f"predict bare.tif -m scaled.safetensors --tile 88 -o m.zarr {line}")
    assert (found.code in (1, 2), found.err.count("\n")) == (True, 1), found.err
    assert named in found.err
    assert not Path("m.zarr").exists()


def test_another_machine_reads_the_same_pixels(slide: Path) -> None:
    """A plan tells the worker all that it needs."""
    settings = Settings(model=str(slide.with_name("scaled.safetensors")), mpp="model", source_mpp=0.3, tile=88)
    with Job.prepare(slide, settings) as here, Job.open(here.plan) as there:
        (z, block), *_ = here.plan.work()
        np.testing.assert_array_equal(here.read(z, block), there.read(z, block))
        assert here.spec().pixel_size == there.spec().pixel_size == PixelSize(0.5, 0.5)
        with pytest.raises(PlanError):
            Job.prepare(slide, replace(settings, level=1))


def test_memory_does_not_depend_on_the_size_of_the_image() -> None:
    plans = [plan_of(image_of((side, side)), SIZED, diameter=200.0) for side in (20_000, 200_000)]
    assert len({plan.memory_bytes for plan in plans}) == 1
