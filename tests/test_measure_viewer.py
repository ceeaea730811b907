"""The programs that measure the viewer and take pictures of its page, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from page_browser import needs_browser
from PIL import Image

EXAMPLES = Path(__file__).parents[1] / "examples"


@needs_browser
@pytest.mark.slow
def test_slides_are_viewed_and_a_prediction_is_watched(tmp_path: Path) -> None:
    toy = ["--size", "1024", "--tiles", "12", "--predicted", "512", "--rounds", "1", "--folder", tmp_path]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "measure_viewer.py", *toy], check=True, stdout=subprocess.PIPE, text=True
    )
    zarr, svs, watching = (json.loads(line) for line in done.stdout.splitlines())
    assert (zarr["kind"], svs["kind"], watching["kind"]) == (".zarr", ".svs", "watching")
    for line in (zarr, svs):
        assert 0 < line["median_ms"] <= line["p95_ms"] and line["file_median_ms"] > 0
        assert line["first_picture_s"] > 0 and line["peak_mb"] >= line["start_mb"] > 0
    assert watching["watched_s"] > 0 and watching["cost"] < 1
    assert not list(tmp_path.iterdir())


@needs_browser
@pytest.mark.slow
def test_the_pictures_are_taken(tmp_path: Path) -> None:
    command = [sys.executable, EXAMPLES / "draw_page.py", tmp_path]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    for name in ("view-classes", "view-annotate", "view-places"):
        with Image.open(tmp_path / f"{name}.webp") as picture:
            assert picture.size == (1366, 768)
            assert len(picture.convert("RGB").resize((64, 36)).getcolors(1 << 12) or ()) > 100  # not blank
