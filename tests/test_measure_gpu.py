"""The program that measures a GPU, at toy size on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "examples" / "measure_gpu.py"


@pytest.mark.slow
def test_everything_is_measured_and_nothing_is_left_behind(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "memory").mkdir()
    toy = ["--toy", "--device", "cpu", "--folder", tmp_path / "disk", "--memory-folder", tmp_path / "memory"]
    subprocess.run([sys.executable, PROGRAM, *toy, "--json", tmp_path / "gpu.json"], check=True)
    found = json.loads((tmp_path / "gpu.json").read_text())
    assert set(found["products"]) == {"fp32", "bf16"} and min(found["products"].values()) > 0
    kinds = {(one["base"], one["precision"], one["tile"], one["batch"]) for one in found["bare"]}
    assert kinds == {(b, p, t, n) for b in (4, 8) for p in ("fp32", "bf16") for t in (204, 220) for n in (1, 2)}
    for one in found["bare"]:
        share = one["tflops"] / found["products"][one["precision"]]
        assert one["mpx_per_s"] > 0 and one["share_of_product"] == pytest.approx(share)
    assert [one["image"] for one in found["end_to_end"]] == ["disk", "memory"]
    for one in found["end_to_end"]:
        assert one["share_of_predictor"] == pytest.approx(one["mpx_per_s"] / one["predictor_mpx_per_s"])
        assert one["without_overlap_mpx_per_s"] > 0
    assert found["exact"]["fp32"]["largest_difference"] < 1e-4
    assert found["exact"]["seams_fp64"]["largest_difference"] < 1e-12 and found["exact"]["seams_fp64"]["pixels"] == 0
    assert all("not installed" in one for one in found["left_out"]), found["left_out"]
    assert not list((tmp_path / "disk").iterdir()) and not list((tmp_path / "memory").iterdir())


@pytest.mark.slow
def test_what_there_is_no_time_for_is_named(tmp_path: Path) -> None:
    command = [sys.executable, PROGRAM, "--toy", "--device", "cpu", "--seconds", "0", "--folder", tmp_path]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = json.loads(done.stdout)
    assert found["bare"] == [] and any(one.startswith("bare ") and one.endswith("no time") for one in found["left_out"])
