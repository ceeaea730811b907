"""The program that kills runs, at toy size."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import S3Server

from tilesegment.stores import Location

PROGRAM = Path(__file__).parents[1] / "examples" / "kill_runs.py"


@pytest.mark.slow
def test_killed_runs_end_in_the_mask_of_an_undisturbed_one() -> None:
    done = subprocess.run(
        [sys.executable, PROGRAM, "--kills", "2", "--size", "400", "--parts", "2", "--json"],
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    found = json.loads(done.stdout)
    assert found["kills"] == 2
    assert found["identical"] == found["masks"] >= 1
    assert found["blocks"] == found["masks"] * 25
    assert 0 <= found["recomputed"] <= found["allowed"] == 6
    assert found["left_over"] == 0
    assert [line.split(":")[0] for line in done.stderr.splitlines()] == ["kill 1", "kill 2"]


@pytest.mark.slow
def test_runs_that_write_to_a_store_may_be_killed_too(s3_server: S3Server, s3: Location) -> None:
    reached = {"AWS_ENDPOINT_URL": s3_server.address, "AWS_REGION": "us-east-1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, PROGRAM, "--kills", "2", "--size", "300", "--parts", "2", "--to", f"{s3}/kills", "--json"],
        check=True,
        capture_output=True,
        text=True,
        timeout=250,
        env=os.environ | reached,
    )
    found = json.loads(done.stdout)
    assert found["kills"] == 2
    assert found["identical"] == found["masks"] >= 1
    assert 0 <= found["recomputed"] <= found["allowed"] == 6
    assert found["left_over"] == 0
