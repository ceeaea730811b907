"""The program that kills runs, at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "examples" / "kill_runs.py"


def run(*options: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, PROGRAM, *options],
        check=False,
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == code, done
    return done


@pytest.mark.slow
def test_killed_runs_end_in_the_mask_of_an_undisturbed_one() -> None:
    done = run("--kills", "2", "--size", "400", "--parts", "2", "--json")
    found = json.loads(done.stdout)
    assert found["kills"] == 2
    assert found["identical"] == found["masks"] >= 1
    assert found["blocks"] == found["masks"] * 25
    assert 0 <= found["recomputed"] <= found["allowed"] == 6
    assert found["left_over"] == 0
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["kill 1", "kill 2"]


def test_who_kills_the_only_worker_is_told() -> None:
    assert "--kill-workers needs --workers 2 or more" in run("--kill-workers", code=2).stderr
