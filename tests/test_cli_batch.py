"""`tileseg predict` for many images, in parts and on workers; `tileseg status` and `tileseg finish`."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
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


def until(condition: object) -> None:
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:  # type: ignore[operator]
        time.sleep(0.02)


class TestManyImages:
    @pytest.fixture
    def images(self, folder: Path) -> Path:
        for number, side in enumerate((70, 90, 60)):
            tifffile.imwrite(folder / f"s {number}.tif", noise((side, side)))
        return folder

    def test_each_has_its_mask_its_log_and_a_line_in_the_summary(self, images: Path, run: Run) -> None:
        found = run(f"predict slide.tif {TOY} --out-dir masks --format tif", "s 0.tif", "s 1.tif", "s 2.tif")
        assert (found.code, found.out) == (0, "")
        assert found.err.rstrip().endswith("4 of 4 images done, 0 failed: see masks/summary.csv")
        for name in ("slide", "s 0", "s 1", "s 2"):
            assert tifffile.imread(f"masks/{name}.tif").shape == tifffile.imread(f"{name}.tif").shape
            assert (images / "masks" / "logs" / f"{name}.tif.log").exists()
        rows = list(csv.DictReader(Path("masks/summary.csv").read_text().splitlines()))
        assert {row["state"] for row in rows} == {"complete"}
        run(f"predict slide.tif {TOY} --out alone.tif")
        np.testing.assert_array_equal(tifffile.imread("alone.tif"), tifffile.imread("masks/slide.tif"))

    def test_one_that_fails_costs_only_itself_and_the_exit_code_says_so(self, images: Path, run: Run) -> None:
        Path("list.csv").write_text("image,out\nslide.tif,first.zarr\nmissing.tif,\nrgb.png,\ns 1.tif,\n")
        found = run(f"predict --list list.csv {TOY} --out-dir masks --json -q")
        assert found.code == 3
        lines = found.err.splitlines()
        assert len(lines) == 2
        assert lines[0].startswith("Error: missing.tif: missing.tif does not exist")
        assert lines[1].startswith("Error: rgb.png: ")
        facts = json.loads(found.out)
        assert (len(facts["images"]), facts["failed"]) == (2, 2)
        assert Path("masks/first.zarr").is_dir()
        assert Path("masks/s 1.zarr").is_dir()

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("predict slide.tif stack.tif --out m.zarr", "2 images were given: name a folder for their masks"),
            ("predict slide.tif --out m.zarr --out-dir masks", "--out names one mask, --out-dir a folder"),
            ("predict slide.tif --out-dir masks --preview p.png", "are for one image"),
            ("predict slide.tif --out m.zarr --format tif", "--format is for --out-dir"),
            ("predict slide.tif --out m.zarr --part 3/2", "'3/2' is not a part; write K/N"),
            ("predict slide.tif --out m.zarr --workers 2 --scheduler tcp://1", "give one of the two"),
            ("predict slide.tif --out m.zarr --tls-ca ca.pem", "are for a --scheduler"),
            ("predict slide.tif --out m.zarr --dashboard", "--dashboard is for --workers"),
            ("predict slide.tif --out m.zarr --part 1/2 --workers 2", "--part is for processes without a cluster"),
        ],
    )
    def test_options_that_contradict_each_other(self, line: str, said: str, folder: Path, run: Run) -> None:
        found = run(line)
        assert (found.code, found.out) == (2, "")
        assert said in found.err
        assert found.err.count("\n") == 1
        assert not Path("masks").exists()

    def test_lists_and_schedulers_that_are_not_there(self, folder: Path, run: Run) -> None:
        assert run("predict --list none.txt --out-dir masks").err.startswith("Error: the list none.txt cannot be read")
        found = run(f"predict slide.tif {TOY} --out m.zarr --scheduler none.json")
        assert (found.code, found.err.count("\n")) == (1, 1)
        assert "no scheduler none.json: neither an address" in found.err


class TestParts:
    def test_a_job_array_makes_the_mask(self, folder: Path, run: Run) -> None:
        """The example for SLURM as it is, three jobs at once, with the variables that SLURM sets."""
        command = "predict stack.tif -m toy.safetensors --tile 88"
        bin_folder = folder / "bin"
        bin_folder.mkdir()
        tileseg = bin_folder / "tileseg"
        tileseg.write_text(f'#!/bin/sh\nexec "{sys.executable}" -c "{PROGRAM}" "$@"\n')
        tileseg.chmod(0o755)
        jobs = []
        for number in (1, 2, 3):
            variables = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "3"}
            environment = os.environ | variables | {"PATH": f"{bin_folder}:{os.environ['PATH']}"}
            array = ["bash", str(ARRAY), "stack.tif", "array.zarr", *TOY.split()]
            jobs.append(subprocess.Popen(array, env=environment, stderr=subprocess.PIPE, text=True))
        for job in jobs:
            _, said = job.communicate(timeout=100)
            assert (job.returncode, said) == (0, "")
        assert run(f"{command} --out whole.zarr").code == 0
        np.testing.assert_array_equal(mask_of("array.zarr"), mask_of("whole.zarr"))

    def test_status_and_finish(self, folder: Path, run: Run) -> None:
        line = f"predict stack.tif {TOY} --out m.zarr"
        assert run(f"{line} --part 1/2").err.rstrip().endswith("; other parts are still to be done")
        assert run("status m.zarr").out == f"{folder}/m.zarr: 40 %, 2 of 5 blocks\n"
        found = run("finish m.zarr")
        assert (found.code, found.err.count("\n")) == (1, 1)
        assert "m.zarr lacks 3 blocks" in found.err
        assert run(f"{line} --part 2/2").code == 0
        assert run("status m.zarr").out == f"{folder}/m.zarr: complete, 5 blocks\n"
        (facts,) = json.loads(run("status m.zarr --json").out)
        assert (facts["state"], facts["done"], facts["fingerprint"]["tile"]) == ("complete", 5, 88)

    def test_a_mask_whose_last_part_was_stopped_is_finished_by_hand(self, folder: Path, run: Run) -> None:
        run(f"predict stack.tif {TOY} --out whole.zarr")
        # as it was before the last step: all blocks, no pyramid, no name
        run(f"predict stack.tif {TOY} --out m.zarr --part 1/2")
        shutil.copytree("whole.zarr/0", "m.zarr.partial/0", dirs_exist_ok=True)
        assert run("finish m.zarr") == Outcome(0, "", "m.zarr: finished\n")
        np.testing.assert_array_equal(mask_of("m.zarr"), mask_of("whole.zarr"))
        assert "finished; nothing is left to do" in run("finish m.zarr").err

    def test_status_of_what_is_none(self, folder: Path, run: Run) -> None:
        for name in ("slide.tif", "missing.zarr", "."):
            found = run(f"status {name}")
            assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)


def test_two_workers_make_the_mask_of_one_process(folder: Path, run: Run) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *f"predict stack.tif {TOY} --out many.zarr --workers 2 --json".split()],
        capture_output=True,
        text=True,
        timeout=280,  # took 128 s beside thirty other processes
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["blocks"] == 5
    assert done.stderr.splitlines()[0].startswith("2 workers of tcp://127.0.0.1:")
    assert "Traceback" not in done.stderr
    run(f"predict stack.tif {TOY} --out one.zarr")
    np.testing.assert_array_equal(mask_of("many.zarr"), mask_of("one.zarr"))


def test_sigterm_stores_the_block_under_way_and_the_same_command_goes_on(folder: Path, run: Run) -> None:
    """As a batch system sends it before it kills."""
    tifffile.imwrite("long.tif", noise((120, 90, 90)), photometric="minisblack")
    line = f"predict long.tif {TOY} --batch 1 --out m.zarr"
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *line.split()], stderr=subprocess.PIPE, text=True) as process:
        until(lambda: list(Path("m.zarr.partial").rglob("c/2/0/0")))
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 75
    assert said.splitlines()[-1] == "Stopped: the same command goes on from here."
    assert "Traceback" not in said
    stored = [path for path in Path("m.zarr.partial/0").rglob("c/*/0/0") if path.is_file()]
    again = run(f"{line} --json")
    assert again.code == 0
    assert json.loads(again.out)["blocks_resumed"] == len(stored)


def test_a_mask_whose_name_is_too_long_fails_alone(run: Run, folder: Path) -> None:
    (folder / "l.csv").write_text(f"image,out\nslide.tif,{'n' * 252}.zarr\nslide.tif,b.zarr\n")
    done = run("predict --list l.csv --out-dir masks --model toy.safetensors --json -q")
    assert done.code == 3
    assert json.loads(done.out)["failed"] == 1
    assert (folder / "masks" / "b.zarr").is_dir()
