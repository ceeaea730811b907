"""The program that measures reading from a server, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import is_installed

PROGRAM = Path(__file__).parents[1] / "examples" / "measure_remote.py"


@pytest.mark.slow
def test_every_image_is_read_and_copied_with_each_byte_about_once() -> None:
    if not is_installed():
        pytest.skip("needs moto[s3], flask, flask-cors and obstore for an S3 server")
    toy = ["--size", "1024", "--chunk", "128", "--block", "256", "--margin", "20", "--repeats", "1", "--delay", "0.001"]
    done = subprocess.run([sys.executable, PROGRAM, *toy], check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    images = ("chunks.zarr", "shards.zarr", "tiles.tif")
    read, stored = lines[:6], lines[6:]
    assert [(line["image"], line["work"]) for line in read] == [(i, w) for i in images for w in ("blocks", "copy")]
    assert all(line["mpx_per_s"] > 0 and line["requests"] > 0 for line in read)
    assert all(0.9 < line["times"] < 2 for line in read)  # small chunks in a gap come again
    assert [line["image"] for line in stored] == ["chunks.zarr", "shards.zarr"]
    assert all(line["predict"] > 0 and line["copy there"] > 0 and line["ratio"] > 0 for line in stored)
