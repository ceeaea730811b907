"""The programs that draw slides and measure reading them, at toy size."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tilesegment.geometry import Region
from tilesegment.images import open_image

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.parametrize("suffix", [".svs", ".ndpi", ".zarr"])
def test_a_drawn_slide_repeats_its_square(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    from draw_slides import draw, draw_unit

    unit = draw_unit(512)
    draw(tmp_path / f"slide{suffix}", 1024, unit)
    with open_image(tmp_path / f"slide{suffix}") as source:
        assert (source.shape, source.channels, source.dtype) == ((1024, 1024), 3, np.uint8)
        assert source.pixel_size is not None and source.pixel_size.y == source.pixel_size.x == pytest.approx(0.25)
        pixels = source.read_stored(Region.of_shape(source.shape)).transpose(1, 2, 0)
    exact = np.tile(unit, (2, 2, 1)).astype(int)
    assert np.abs(pixels - exact).mean() < (0.1 if suffix == ".zarr" else 4)


@pytest.mark.slow
def test_every_slide_is_read_each_way(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="reading an NDPI as OpenSlide does needs the extra wsi")
    toy = ["--size", "1024", "--rounds", "1", "--folder", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, EXAMPLES / "measure_slides.py", *toy], check=True, stdout=subprocess.PIPE, text=True
    )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["kind"] for line in lines] == [".ndpi", ".svs", ".zarr"]
    assert all(line["read_ratio"] > 0 and line["idle_ratio"] > 0 and line["idle_peak_mb"] > 0 for line in lines)
    assert not list(tmp_path.iterdir())
