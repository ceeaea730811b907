"""The example programs, at toy size."""

import importlib.util
import json
import runpy
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import tifffile
from conftest import toy_model
from data_sets import write_files, write_pairs
from labelled_objects import nuclei, write_nuclei
from PIL import Image
from scipy import ndimage

import tilesegment
from tilesegment.geometry import Region
from tilesegment.masks import open_mask
from tilesegment.metadata import PixelSize
from tilesegment.prediction.job import Job
from tilesegment.prediction.settings import Settings

EXAMPLES = Path(__file__).parents[1] / "examples"


def load(name: str) -> ModuleType:
    """An example as a module."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def slides() -> ModuleType:
    return load("make_slide")


@pytest.fixture(scope="module")
def cells() -> ModuleType:
    return load("make_cells")


@pytest.fixture(scope="module")
def unit(slides) -> tuple[np.ndarray, np.ndarray]:
    """Image and truth of one unit."""
    return slides.draw_image(3, (0, 512)), slides.draw_truth(3, (0, 512))


def test_the_program_writes_image_and_truth(tmp_path):
    image, truth = tmp_path / "slide.tif", tmp_path / "truth.tif"
    command = [sys.executable, EXAMPLES / "make_slide.py", image, "--size", "300", "--seed", "4", "--truth", truth]
    subprocess.run(command, check=True)
    with tifffile.TiffFile(image) as file:
        page = file.pages.first
        assert (page.shape, page.dtype, page.is_tiled, page.compression.name) == (
            (300, 300),
            np.uint8,
            True,
            "ADOBE_DEFLATE",
        )
        assert page.get_resolution(unit="MICROMETER") == pytest.approx((250, 250))  # 4 nm a pixel
    mask = tifffile.imread(truth)
    assert mask.shape == (300, 300)
    assert np.unique(mask).tolist() == [0, 1]


def test_a_slide_is_the_corner_of_a_larger_one_and_of_its_seed(slides, tmp_path):
    pictures = {}
    for name, size, seed in (("small", 300, 1), ("again", 300, 1), ("large", 600, 1), ("other", 300, 2)):
        slides.make_slide(tmp_path / name, size, seed)
        pictures[name] = tifffile.imread(tmp_path / name)
    np.testing.assert_array_equal(pictures["small"], pictures["again"])
    np.testing.assert_array_equal(pictures["small"], pictures["large"][:300, :300])
    assert np.mean(pictures["small"] != pictures["other"]) > 0.9


def test_units_join_without_a_seam(slides, monkeypatch):
    # the same place drawn as part of other units: only the noise differs, which is drawn unit by unit
    whole = slides.draw_truth(5, (512, 512))
    monkeypatch.setattr(slides, "UNIT", 128)
    parts = np.block([[slides.draw_truth(5, (y, x)) for x in range(512, 1024, 128)] for y in range(512, 1024, 128)])
    assert np.mean(whole != parts) < 1e-3


def test_grey_values_are_those_of_real_sections(unit):
    image, _ = unit
    assert image.mean() == pytest.approx(126, abs=12)
    assert image.std() == pytest.approx(43, abs=6)


def test_membranes_are_dark_closed_and_of_a_real_share(unit):
    image, truth = unit
    cells, count = ndimage.label(truth)
    assert 0.15 < np.mean(truth == 0) < 0.32  # real sections: 0.22
    assert image[truth == 0].mean() + 50 < image[truth == 1].mean()
    assert count > 40
    assert np.bincount(cells[cells > 0]).max() < 0.4 * truth.size


def test_a_model_is_scored_on_its_held_out_sections(tmp_path):
    data = write_pairs(tmp_path / "data", count=5)
    run = tilesegment.train(data, tmp_path / "run", steps=3, base=2, depth=2, tile=60)
    command = [sys.executable, EXAMPLES / "score_model.py", run.model, data]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["sections"] == ["04"]
    assert found["one_pass"] == json.loads(json.dumps(asdict(run.scores)))
    assert found["eight_views"] == json.loads(json.dumps(asdict(run.tta)))
    done = subprocess.run([*command, "--all"], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout)["sections"] == ["00", "01", "02", "03", "04"]


def test_a_model_of_objects_is_scored_on_ids_and_its_worst_images_are_drawn(tmp_path):
    data = write_nuclei(tmp_path / "data", 3)
    run = tilesegment.train(data, tmp_path / "run", steps=2, base=2, depth=2, tile=64, batch=1)
    command = [sys.executable, EXAMPLES / "score_model.py", run.model, data, "--all", "--picture", tmp_path / "w.png"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)["one_pass"]
    assert found["goal"] == "pq" and [name for name, _ in found["sections"]] == ["00", "01", "02"]
    with Image.open(tmp_path / "w.png") as picture:
        assert picture.width > 900


def test_a_model_is_not_scored_on_what_it_was_trained_on(tmp_path):
    run = tilesegment.train(write_pairs(tmp_path / "data"), tmp_path / "run", steps=1, base=2, depth=2, tile=60)
    (tmp_path / "data" / "images" / "03.png").unlink()
    (tmp_path / "data" / "labels" / "03.png").unlink()
    command = [sys.executable, EXAMPLES / "score_model.py", run.model, tmp_path / "data"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: ")
    assert "was not trained on" in done.stderr


def test_recipes_are_compared_over_contiguous_splits(tmp_path):
    data = write_pairs(tmp_path / "data", count=5)
    toy = "base=2,depth=2,tile=60"
    command = [sys.executable, EXAMPLES / "cross_validate.py", data, tmp_path / "out", f"plain:{toy}"]
    command += [f"heavy:{toy},class_weights=5/1,loss=ce", "--steps", "2", "--held", "2", "--splits", "2", "--keep"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in (tmp_path / "out" / "scores.jsonl").read_text().splitlines()]
    assert [(line["recipe"], line["held_out"]) for line in lines] == [
        (name, held) for held in (["00", "01"], ["03", "04"]) for name in ("plain", "heavy")
    ]
    mean = np.mean([line["scores"]["v_rand"] for line in lines if line["recipe"] == "heavy"])
    row = next(row for row in done.stdout.splitlines() if row.startswith("| heavy | 2 |"))
    assert row.startswith(f"| heavy | 2 | {mean:.4f} ± ")
    records = (tmp_path / "out" / "heavy-1" / "metrics.jsonl").read_text().splitlines()
    assert lines[-1]["last"] == json.loads(records[-1])["scores"]
    last = np.mean([line["last"]["v_info"] for line in lines if line["recipe"] == "heavy"])
    assert f"| {last:.4f} ± " in row
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert again.stdout == done.stdout
    assert len((tmp_path / "out" / "scores.jsonl").read_text().splitlines()) == 4, "nothing is trained twice"


def test_a_step_is_measured(tmp_path):
    data = write_pairs(tmp_path / "data", count=2)
    command = [sys.executable, EXAMPLES / "measure_step.py", data, "--base", "2", "--depth", "2", "--tile", "60"]
    done = subprocess.run([*command, "--steps", "4"], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["ratio"] == pytest.approx(found["end_to_end"] / found["bare"])
    assert min(found.values()) > 0


def test_settings_are_tried_and_the_fastest_is_named(folder):
    command = [sys.executable, EXAMPLES / "find_settings.py", "slide.tif", "--model", "toy.safetensors"]
    command += ["--tiles", "72", "104", "--batches", "1", "2", "--runtime", "pytorch"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=folder)
    head, *rows, last = done.stdout.splitlines()
    assert head.split()[:4] == ["tile", "batch", "precision", "runtime"]
    assert rows[0].split()[2] == "fp32" and rows[0].endswith(" 0.000 %")
    assert {"72", "104"} <= {row.split()[0] for row in rows}
    assert last.startswith("fastest in fp32: --tile ")
    assert "int8" in done.stderr, "what cannot be had is said"


def test_blocks_are_timed_without_a_network(folder):
    command = [sys.executable, EXAMPLES / "measure_pipeline.py", "slide.tif", "--model", "toy.safetensors"]
    done = subprocess.run([*command, "--tile", "72", "--rounds", "1"], check=True, capture_output=True, cwd=folder)
    found = json.loads(done.stdout)
    program = runpy.run_path(str(EXAMPLES / "measure_pipeline.py"))
    settings = Settings(model="toy.safetensors", tile=72, precision="fp32", runtime="pytorch")
    assert program["idle"]("slide.tif", folder / "idle.zarr", settings) == 130 * 150
    ids = tilesegment.open_mask(folder / "idle.zarr").read(tilesegment.Region(0, 0, 130, 150))
    with Job.prepare("slide.tif", settings) as job:
        np.testing.assert_array_equal(ids, program["random_ids"](job.plan.block)[:130, :150], "nothing is predicted")
    assert found["ratio"] == found["idle_mpx_per_s"] / found["copy_mpx_per_s"] > 0


def test_the_share_of_the_network_is_measured_from_a_slide_to_its_objects(tmp_path):
    write_files(tmp_path, {"slide.tif": nuclei(150, 1)[0]})
    model = toy_model(classes=3)
    model.save(tmp_path / "toy.safetensors")
    command = [sys.executable, EXAMPLES / "measure_objects_of_slide.py", "slide.tif", "--model", "toy.safetensors"]
    done = subprocess.run([*command, "--tile", "88"], check=True, capture_output=True, cwd=tmp_path)
    found = json.loads(done.stdout)
    assert found["pixels"] == 150 * 150 and found["objects"] > 0
    assert 0 < found["network_seconds"] < found["seconds"]
    assert found["network_share"] == found["network_seconds"] / found["seconds"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["slide.tif", "toy.safetensors"]


def test_cells_are_written_and_counted(cells, tmp_path):
    command = [sys.executable, EXAMPLES / "make_cells.py", tmp_path / "m.zarr", "--size", "2100", "--seed", "3"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    mask = open_mask(tmp_path / "m.zarr")
    assert (mask.spec.shape, mask.spec.block, mask.spec.chunk) == ((2100, 2100), 2048, 512)
    assert mask.spec.pixel_size == PixelSize(0.5, 0.5)
    assert [one.name for one in mask.spec.classes] == ["background", "cell"]
    whole = Region.of_shape((2100, 2100))
    ids = mask.read(whole)
    np.testing.assert_array_equal(ids, cells.draw(3, whole))
    assert np.mean(ids != cells.draw(4, whole)) > 0.2
    # about a million in 32768 x 32768
    assert 0.9e6 < int(done.stdout) * (32768 / 2100) ** 2 < 1.3e6


@pytest.mark.parametrize("side", [100, 333])
def test_any_part_of_the_cells_is_drawn_on_its_own(cells, side):
    whole = cells.draw(0, Region(0, 0, 700, 900))
    for part in Region(0, 0, 700, 900).squares(side):
        np.testing.assert_array_equal(cells.draw(0, part), whole[part.slices])
    counts = [cells.centres_within(0, part) for part in Region(0, 0, 700, 900).squares(side)]
    assert sum(counts) == cells.centres_within(0, Region(0, 0, 700, 900))


def test_cells_touch_and_have_holes_and_the_size_of_nuclei(cells):
    ids = cells.draw(1, Region(0, 0, 2000, 2000))
    labels, objects = ndimage.label(ids)
    ellipses = cells.centres_within(1, Region(0, 0, 2000, 2000))
    assert 0.7 * ellipses < objects < 0.9 * ellipses, "some touch"
    areas = np.bincount(labels.ravel())[1:]
    assert np.pi * 6**2 * 0.9 < np.median(areas) < np.pi * 18**2
    assert np.count_nonzero(areas > 2 * np.pi * 18**2) > 5, "clusters"
    _, holes = ndimage.label(ndimage.binary_fill_holes(ids) & (ids == 0))
    assert holes > 20


@pytest.mark.slow
def test_making_objects_is_measured_beside_what_users_do_today(tmp_path):
    command = [sys.executable, EXAMPLES / "measure_objects.py", "--size", "600", "--small", "300", "--folder", tmp_path]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    ours, today = "tileseg objects", "scikit-image"
    assert [(line["run"], line["size"]) for line in lines] == [
        (f"{tool}: {what}", size)
        for tool, size in ((ours, 600), (ours, 300), (today, 300))
        for what in ("labels and table", "outlines")
    ]
    large, small = {line["objects"] for line in lines[:2]}, {line["objects"] for line in lines[2:]}
    assert len(large) == len(small) == 1 and min(large) > 2 * min(small) > 0, "all find the same number"
    for line in lines:
        assert line["mpx_per_s"] == pytest.approx(line["size"] ** 2 / 1e6 / line["seconds"], rel=0.1, abs=0.01)
        assert line["peak_mb"] > 50
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_objects_are_measured_in_the_viewer(tmp_path):
    command = [sys.executable, EXAMPLES / "measure_viewer_objects.py", "--size", "1024", "--count", "8"]
    done = subprocess.run([*command, "--folder", tmp_path], check=True, capture_output=True, text=True)
    line = json.loads(done.stdout)
    assert line["objects"] == sum(b'"Feature"' in one for one in (tmp_path / "cells.geojson").read_bytes().splitlines())
    assert line["outlines"]["tiles"] == 8 and line["hover"]["median_ms"] > 0
    assert 50 < line["server_mb"] <= line["with_index_mb"]
