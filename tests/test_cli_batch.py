"""`tileseg predict` for many images, in parts and on workers, and stopped; `tileseg status` and `tileseg finish`."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Outcome, Run
from conftest import noise
from mask_files import mask_of

PROGRAM = "from tilesegment_cli.main import main; main()"
TOY = "-m toy.safetensors --tile 88"
ARRAY = Path(__file__).parents[1] / "examples" / "job_array.sh"


def test_each_image_has_its_mask_its_log_and_a_line_in_the_summary(folder: Path, run: Run) -> None:
    names = ["slide", "s 0", "s 1"]
    for name, side in zip(names[1:], (70, 90), strict=True):
        tifffile.imwrite(folder / f"{name}.tif", noise((side, side)))
    found = run(f"predict slide.tif {TOY} --out-dir masks --format tif", "s 0.tif", "s 1.tif")
    assert (found.code, found.out) == (0, "")
    assert found.err.rstrip().endswith("3 of 3 images done, 0 failed: see masks/summary.csv")
    for name in names:
        assert tifffile.imread(f"masks/{name}.tif").shape == tifffile.imread(f"{name}.tif").shape
        assert Path(f"masks/logs/{name}.tif.log").exists()
    rows = list(csv.DictReader(Path("masks/summary.csv").read_text().splitlines()))
    assert [row["state"] for row in rows] == ["complete"] * 3
    assert [row["model"] for row in rows] == ["toy-2"] * 3  # they may differ where none is named
    run(f"predict slide.tif {TOY} --out alone.tif")
    np.testing.assert_array_equal(tifffile.imread("alone.tif"), tifffile.imread("masks/slide.tif"))


def test_one_that_fails_costs_only_itself_and_the_exit_code_says_so(folder: Path, run: Run) -> None:
    Path("empty.tif").touch()
    listed = ["slide.tif,first.zarr", "missing.tif,", "rgb.png,", "empty.tif,", f"stack.tif,{'n' * 252}.zarr"]
    Path("list.csv").write_text("\n".join(["image,out", *listed, "stack.tif,"]))
    found = run(f"predict --list list.csv {TOY} --out-dir masks --json -q")
    assert found.code == 3
    facts = json.loads(found.out)
    assert [one["image"] for one in facts["images"]] == ["slide.tif", "stack.tif"]
    why = {one["image"]: one["error"] for one in facts["failures"]}
    assert set(why) == {"missing.tif", "rgb.png", "empty.tif", "stack.tif"} and facts["failed"] == 4
    assert "3 channels" in why["rgb.png"]
    assert {line.split(": ")[1] for line in found.err.splitlines()} == set(why)
    assert Path("masks/first.zarr").is_dir() and Path("masks/stack.zarr").is_dir()


@pytest.mark.slow
def test_a_job_array_makes_the_mask(folder: Path, run: Run) -> None:
    """The example for SLURM as it is, three jobs at once, with the variables that SLURM sets."""
    (folder / "bin").mkdir()
    tileseg = folder / "bin" / "tileseg"
    tileseg.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM}" "$@"\n')
    tileseg.chmod(0o755)
    jobs = []
    for number in (1, 2, 3):
        variables = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "3"}
        environment = os.environ | variables | {"PATH": f"{folder}/bin:{os.environ['PATH']}"}
        array = ["bash", str(ARRAY), "stack.tif", "array.zarr", *TOY.split()]
        jobs.append(subprocess.Popen(array, env=environment, stderr=subprocess.PIPE, text=True))
    for job in jobs:
        _, said = job.communicate(timeout=280)
        assert (job.returncode, said) == (0, "")
    assert run(f"predict stack.tif {TOY} --out whole.zarr").code == 0
    np.testing.assert_array_equal(mask_of("array.zarr"), mask_of("whole.zarr"))


def test_status_and_finish(folder: Path, run: Run) -> None:
    line = f"predict stack.tif {TOY} --out m.zarr"
    assert "other parts" in run(f"{line} --part 1/2").err
    assert run("status m.zarr").out == f"{folder}/m.zarr: 40 %, 2 of 5 blocks\n"
    found = run("finish m.zarr")
    assert (found.code, found.err.count("\n")) == (1, 1)
    assert "3 blocks" in found.err
    assert run(f"{line} --part 2/2").code == 0
    assert run("status m.zarr").out == f"{folder}/m.zarr: complete, 5 blocks\n"
    (facts,) = json.loads(run("status m.zarr --json").out)
    assert (facts["state"], facts["done"], facts["fingerprint"]["tile"]) == ("complete", 5, 88)
    # as it is before the last step: all blocks, no pyramid, no name
    run(line.replace("m.zarr", "n.zarr --part 1/2"))
    shutil.copytree("m.zarr/0", "n.zarr.partial/0", dirs_exist_ok=True)
    assert run("finish n.zarr") == Outcome(0, "", "n.zarr: finished\n")
    np.testing.assert_array_equal(mask_of("n.zarr"), mask_of("m.zarr"))
    assert run("finish n.zarr").err.startswith("Note: ")


@pytest.mark.slow
def test_two_workers_make_the_mask_of_one_process(folder: Path, run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *f"predict stack.tif {TOY} --out many.zarr --workers 2 --json".split()],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks"] == 5
    assert done.stderr.startswith("2 workers of tcp://127.0.0.1:") and "Traceback" not in done.stderr
    run(f"predict stack.tif {TOY} --out one.zarr")
    np.testing.assert_array_equal(mask_of("many.zarr"), mask_of("one.zarr"))


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow), (signal.SIGTERM, 75)]
)
def test_a_signal_stops_and_the_same_command_goes_on(number: int, code: int, folder: Path, run: Run) -> None:
    """In a process of its own; batch systems send SIGTERM before they kill, which lets the block under way end."""
    tifffile.imwrite("long.tif", noise((120, 90, 90)), photometric="minisblack")
    line = f"predict long.tif {TOY} --batch 1 --out m.zarr"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *line.split()], stderr=subprocess.PIPE, text=True) as process:
        until(lambda: any(Path("m.zarr.partial").rglob("c/2/0/0")))
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == code
    assert said.splitlines()[-1].startswith("Stopped") and "same command" in said and "Traceback" not in said
    assert not Path("m.zarr").exists()
    stored = [path for path in Path("m.zarr.partial/0").rglob("c/*/0/0") if path.is_file()]
    again = run(f"{line} --json")
    assert again.code == 0
    assert json.loads(again.out)["blocks_resumed"] == len(stored)


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
