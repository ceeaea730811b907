"""The program that measures reading, at toy size."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parents[1] / "examples" / "measure_reading.py"


@pytest.mark.slow
def test_every_image_is_read_and_copied_with_each_pipeline_and_decoded_once(tmp_path: Path) -> None:
    toy = ["--size", "1024", "--block", "256", "--margin", "20", "--repeats", "1", "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, PROGRAM, *toy], check=True, stdout=subprocess.PIPE, text=True)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    pipelines = ["zarr", "zarrs"] if find_spec("zarrs") is not None else ["zarr"]
    assert [(line["image"], line["pipeline"], line["work"]) for line in lines] == [
        (image, pipeline, work)
        for image in ("chunks.zarr", "shards.zarr", "tiles-32.tif", "tiles-64.tif")
        for pipeline in (pipelines if image.endswith("zarr") else [None])
        for work in ("read", "copy")
    ]
    assert all(line["mpx_per_s"] > 0 for line in lines)
    assert all(line["decoded"] == 1 for line in lines)
    assert not list(tmp_path.iterdir())
