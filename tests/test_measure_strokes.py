"""The example that measures what a few strokes bring, at toy size."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from skimage.draw import line

import tilesegment

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture(autouse=True)
def examples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the example is imported from."""
    monkeypatch.syspath_prepend(str(EXAMPLES))


def test_strokes_lie_within_their_tissue() -> None:
    from measure_strokes import Tissues, strokes

    tissues = Tissues(1024)
    truth = tissues.truth(0, 0, 1024, 1024)
    assert 0.3 < truth.mean() < 0.7
    np.testing.assert_array_equal(tissues.truth(100, 300, 50, 70), truth[100:150, 300:370])
    drawn = strokes(tissues, 12)["features"]
    for one in drawn:
        points = np.rint(one["geometry"]["coordinates"]).astype(int)
        is_tumour = one["properties"]["classification"]["name"] == "tumour"
        for (x0, y0), (x1, y1) in pairwise(points):
            assert (truth[line(y0, x0, y1, x1)] == is_tumour).all()
    assert sum(one["properties"]["classification"]["name"] == "tumour" for one in drawn) == 6


@pytest.mark.usefixtures("without_curves")
def test_the_whole_slide_is_compared(tmp_path: Path) -> None:
    from measure_strokes import Tissues, measure

    found = measure(tmp_path, 512, 8, 0, {"steps": 1, "base": 2, "depth": 1, "tile": 60, "precision": "fp32"})
    tissues = Tissues(512)
    truth = tissues.truth(0, 0, 512, 512)
    assert found["floor"] == max(truth.mean(), 1 - truth.mean())
    with tilesegment.open_image(tmp_path / "mask.zarr") as mask:
        predicted = mask.read(tilesegment.Region(0, 0, 512, 512))[0] == 1
    assert found["accuracy"] == np.mean(predicted == truth)
    assert found["iou_tumour"] == (predicted & truth).sum() / (predicted | truth).sum()
    with tilesegment.open_image(tmp_path / "slide.tif") as slide:
        assert (slide.shape, slide.channels) == ((512, 512), 3)
        drawn = slide.read(tilesegment.Region(0, 0, 256, 256)).astype(int).transpose(1, 2, 0)
    assert np.abs(drawn - tissues.pixels(0, 0, 256)).mean() < 8  # JPEG
