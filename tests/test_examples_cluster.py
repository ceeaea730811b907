"""The example programs about clusters, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tifffile
from conftest import noise, toy_model
from mask_files import mask_of

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(folder: Path, name: str, *arguments: str) -> str:
    """What the example prints."""
    command = [sys.executable, EXAMPLES / name, *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_batch_system_starts_the_workers(tmp_path: Path) -> None:
    """This machine in its place: the same job script, run by a shell."""
    toy_model().save(tmp_path / "toy.safetensors")
    for name, side in (("a", 150), ("b", 90)):
        tifffile.imwrite(tmp_path / f"{name}.tif", noise((side, side)))
    line = "a.tif b.tif --out-dir masks --model toy.safetensors --tile 88 --system local --jobs 2 --memory 1GB"
    lines = run(tmp_path, "batch_queue.py", *line.split()).splitlines()
    assert sorted(line.split(",")[0] for line in lines[1:]) == ["a.tif: complete", "b.tif: complete"]
    assert mask_of(tmp_path / "masks" / "a.zarr").shape == (150, 150)


def test_tasks_that_do_nothing_are_measured(tmp_path: Path) -> None:
    size, *rows = map(json.loads, run(tmp_path, "measure_cluster.py", "tasks", "--blocks", "50,400").splitlines())
    assert 500 < size["bytes_a_task"] < 20_000
    assert [(row["most_in_a_task"], row["blocks"]) for row in rows] == [(1, 50), (256, 50), (256, 400)]
    assert all(row["blocks_per_s"] > 0 for row in rows)


def test_an_image_is_measured_by_one_process_and_by_a_cluster(tmp_path: Path) -> None:
    toy_model().save(tmp_path / "toy.safetensors")
    tifffile.imwrite(tmp_path / "slide.tif", noise((300, 300)))
    line = "image slide.tif --model toy.safetensors --repeats 1"
    facts = json.loads(run(tmp_path, "measure_cluster.py", *line.split()))
    assert facts["ratio"] == facts["process_s"] / facts["cluster_s"]
