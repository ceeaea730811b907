"""The pictures of a run: curves, held-out samples, training examples."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from tilesegment.draw import Sample, compare
from tilesegment.metadata import LabelClass, default_colours
from tilesegment.models.header import Normalisation
from tilesegment.training.data import IGNORE
from tilesegment.training.loop import Record
from tilesegment.training.pictures import draw_curves, draw_examples
from tilesegment.training.validation import Scores

MISSED, FALSE, CONFUSED, DARK = (213, 94, 0), (86, 180, 233), (240, 228, 66), (8, 81, 156)
GLASS, STROMA = (243, 241, 242), (225, 161, 196)
NAMES = ["_back_", "$a$b", "细胞", "x" * 300, "\udcff\n\t", "", "plain"]


def classes(count: int) -> tuple[LabelClass, ...]:
    names = [NAMES[n % len(NAMES)] + "*" * (n // len(NAMES)) for n in range(count)]
    return tuple(LabelClass(name, colour) for name, colour in zip(names, default_colours(count), strict=True))


def scores(count: int, value: float, goal: str) -> Scores:
    cells, each = value if goal == "v_rand" else None, (None, *[value / (n + 1) for n in range(count - 1)])
    return Scores(goal, value, 0.2, 0.9, 0.7, each, each, value, cells, cells, (("a", value),))


def records(number: int, every: int, count: int = 2, goal: str = "v_rand") -> list[Record]:
    return [
        Record(n, n / number, n / 7, 1 / n, 1e-3 / n, scores(count, n / number, goal) if n % every == 0 else None)
        for n in range(1, number + 1)
    ]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB"))


def share(picture: np.ndarray, colour: tuple[int, int, int], tolerance: int = 30) -> float:
    """Part of the pixels that are about of a colour."""
    return float((np.abs(picture.astype(int) - colour).max(-1) <= tolerance).mean())


@pytest.mark.parametrize(
    ("count", "goal", "number"), [(2, "v_rand", 60), (2, "dice", 1), (7, "miou", 60), (32, "miou", 1)]
)
def test_curves_of_any_run(tmp_path: Path, count: int, goal: str, number: int) -> None:
    draw_curves(records(number, max(number // 4, 1), count, goal), tmp_path / "c.png", "ce+$x$", classes(count))
    drawn = pixels(tmp_path / "c.png")
    assert 900 < drawn.shape[1] < 2000 and 400 < drawn.shape[0] < 1000
    assert share(drawn, DARK) > 1e-4, "the main score's curve, or point, is there"


def test_curves_without_scores_are_narrower_and_those_of_no_records_empty(tmp_path: Path) -> None:
    draw_curves(records(50, 100), tmp_path / "one.png", "ce", classes(2))
    draw_curves([], tmp_path / "none.png", "ce", classes(2))
    one, none = pixels(tmp_path / "one.png"), pixels(tmp_path / "none.png")
    assert one.shape == none.shape and one.shape[1] < 1000
    assert share(one, DARK) > 5e-4 > share(none, DARK) == 0


def test_a_constant_predictor_far_below_does_not_flatten_the_scores(tmp_path: Path) -> None:
    seen = [
        Record(n, n / 6, n, 0.5, 1e-3, replace(scores(2, 0.95 + n / 150, "v_rand"), floor_value=0.09, accuracy=0.96))
        for n in range(1, 7)
    ]
    draw_curves(seen, tmp_path / "c.png", "ce", classes(2))
    right = pixels(tmp_path / "c.png")[:-160, 800:]  # without the loss, and without the legend
    rows = np.flatnonzero((np.abs(right.astype(int) - DARK).max(-1) <= 30).any(1))
    assert np.ptp(rows) > len(right) / 2


def blobs(side: int, ids: int, seed: int) -> np.ndarray:
    """Class ids (side, side) uint8 in soft-edged regions."""
    rng = np.random.default_rng(seed)
    return np.argmax([ndimage.gaussian_filter(rng.standard_normal((side, side)), 6) for _ in range(ids)], 0).astype(
        "u1"
    )


def row(truth: np.ndarray, prediction: np.ndarray, channels: int = 1, dtype: str = "uint8", name: str = "s") -> Sample:
    image = np.random.default_rng(3).random((channels, *truth.shape)) * 200
    return Sample(name, image.astype(dtype), truth, prediction)


def drawn_rows(samples: list[Sample], count: int) -> np.ndarray:
    return np.asarray(compare(samples, classes(count), "Held out"))


@pytest.mark.parametrize(("channels", "dtype"), [(1, "uint8"), (2, "uint16"), (3, "uint8"), (64, "float32")])
@pytest.mark.parametrize("count", [2, 32])
def test_samples_of_any_images_and_names(channels: int, dtype: str, count: int) -> None:
    rows = [row(blobs(64, min(count, 6), n), blobs(64, min(count, 6), 9), channels, dtype, NAMES[n]) for n in range(4)]
    drawn = drawn_rows(rows, count)
    # 64 pixels are enlarged five times
    assert drawn.shape[1] == 4 * 320 + 5 * 12
    assert 4 * 320 < drawn.shape[0] < 4 * 320 + 800
    errors = drawn[:, 12 + 3 * 332 : -12]
    assert share(errors, MISSED) > 0.02 and share(errors, FALSE) > 0.02
    assert (share(errors, CONFUSED) > 0.02) == (count > 2)


def test_errors_are_where_they_are_and_ignored_pixels_are_none() -> None:
    truth, prediction = np.ones((400, 400), np.uint8), np.ones((400, 400), np.uint8)
    prediction[:100] = 0
    truth[100:200] = 0
    truth[200:300], prediction[200:300] = IGNORE, 0
    errors = drawn_rows([row(truth, prediction)], 2)[:, 12 + 3 * 412 : -12]
    top = int(np.argmax((errors < 250).any(-1).mean(1) > 0.95))  # below the text
    parts = [errors[top + n : top + n + 98] for n in (1, 101, 201, 301)]
    assert [share(part, MISSED) > 0.99 for part in parts] == [True, False, False, False]
    assert [share(part, FALSE) > 0.99 for part in parts] == [False, True, False, False]
    for part in parts[2:]:
        assert np.ptp(part.astype(int), axis=-1).max() <= 1, "neither ignored nor right pixels are coloured"
    assert parts[2].mean() > parts[3].mean(), "what is not labelled is veiled in grey"


def test_regions_of_one_class_have_colours_of_their_own() -> None:
    """Two cells that the prediction merges have two colours in the labels and one in the prediction."""
    truth = np.ones((400, 400), np.uint8)
    truth[:, 195:205] = 0
    image = Sample("s", np.full((1, 400, 400), 128, np.uint8), truth, np.ones_like(truth))

    def hues(count: int) -> list[set[tuple[int, int, int]]]:
        """The colours inside the left and the right half of the labels and of the prediction."""
        sheet = np.asarray(compare([image], classes(count), ""))
        row = sheet[-200]
        return [{tuple(map(int, row[12 + 412 * panel + x])) for x in (100, 300)} for panel in (1, 2)]

    labels, prediction = hues(2)
    assert (len(labels), len(prediction)) == (2, 1)
    labels, prediction = hues(3)
    assert (len(labels), len(prediction)) == (1, 1)


@pytest.mark.parametrize(("shape", "panel"), [((1500, 900), (500, 300)), ((3, 2100), (1, 700)), ((1, 1), (320, 320))])
def test_large_samples_are_reduced_and_small_ones_enlarged(shape: tuple[int, int], panel: tuple[int, int]) -> None:
    ids = np.ones(shape, np.uint8)
    drawn = drawn_rows([row(ids, ids)], 2)
    assert drawn.shape[1] == max(4 * panel[1] + 5 * 12, 640)
    assert panel[0] < drawn.shape[0] < panel[0] + 300


def test_samples_of_several_sizes_lie_in_columns() -> None:
    drawn = drawn_rows([row(np.ones(shape, "u1"), np.zeros(shape, "u1")) for shape in ((400, 500), (600, 350))], 2)
    assert drawn.shape[1] == 4 * 500 + 5 * 12 and drawn.shape[0] > 1000
    errors = (np.abs(drawn[:, 12 + 3 * 512 :].astype(int) - MISSED).max(-1) < 30).sum(1)
    assert (errors[errors > 300] >= 350).all() and set(errors[errors > 300]) >= {350, 500}


def test_samples_have_the_colours_of_the_images() -> None:
    image = np.empty((3, 400, 400), np.uint8)
    image[:, :, :200], image[:, :, 200:] = (np.array(rgb, np.uint8)[:, None, None] for rgb in (GLASS, STROMA))
    empty = np.zeros((400, 400), np.uint8)
    drawn = drawn_rows([Sample("he", image, empty, empty)], 2)[200]
    for left in (12, 424, 836):
        assert {tuple(colour) for colour in drawn[left : left + 400].tolist()} == {GLASS, STROMA}


def examples(number: int, side: int, output: int, channels: int = 1) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(0)
    images = rng.normal(0, 1, (number, channels, side, side)).astype(np.float32)
    return [(image, blobs(output, 3, n).astype(np.int64)) for n, image in enumerate(images)]


def plain(channels: int = 1) -> Normalisation:
    return Normalisation((0.0,) * channels, (1.0,) * channels, "float32")


@settings(max_examples=20)
@given(number=st.integers(1, 13), side=st.integers(1, 900), crop=st.integers(0, 450), channels=st.integers(1, 4))
def test_examples_of_any_number_and_size(tmp_path_factory, number: int, side: int, crop: int, channels: int) -> None:
    path = tmp_path_factory.getbasetemp() / "e.png"
    number = min(number, 3) if side > 300 else number
    draw_examples(
        examples(number, side, max(side - 2 * crop, 2 - side % 2), channels), plain(channels), classes(3), path
    )
    panel = -(-side // -(-side // 400))
    panel *= max(240 // panel, 1)
    across, down = min(number, 4), -(-number // 4)
    height, width, _ = pixels(path).shape
    assert width == max(across * panel + (across + 1) * 12, 640)
    assert down * panel < height < down * (panel + 12) + 250


def test_the_frame_and_the_labels_lie_where_the_output_is(tmp_path: Path) -> None:
    image, label = np.zeros((1, 300, 300), np.float32), np.zeros((200, 200), np.int64)
    image[0, 0, 0], label[50:150, 50:150], label[:, 190:] = 1, 1, IGNORE
    draw_examples([(image, label)], plain(), classes(2), tmp_path / "e.png")
    drawn = pixels(tmp_path / "e.png").astype(int)
    # black but for frame, outline and veil
    top = int(np.argmax((drawn[:, 12:312].max(-1) < 60).mean(1) > 0.9))
    panel = drawn[top : top + 300, 12:312]
    white = np.argwhere(panel.min(-1) > 200)
    assert (white.min(0).tolist(), white.max(0).tolist()) in (([49, 49], [250, 250]), ([0, 0], [250, 250]))
    assert (panel[49, 49:251] == 255).all() and (panel[49:251, 250] == 255).all()
    outline = np.argwhere(np.ptp(panel, axis=-1) > 100)
    assert (outline.min(0).tolist(), outline.max(0).tolist()) == ([100, 100], [199, 199])
    assert len(outline) == 4 * 99
    assert 60 < panel[150, 245, 0] < 90 and panel[150, 150].max() == 0


def test_examples_share_one_contrast(tmp_path: Path) -> None:
    """So that a user sees that brightness is varied."""
    dark, bright = (np.random.default_rng(n).normal(2 * n, 0.3, (1, 240, 240)).astype(np.float32) for n in (0, 1))
    label = np.zeros((240, 240), np.int64)
    draw_examples([(dark, label), (bright, label)], plain(), classes(2), tmp_path / "e.png")
    drawn = pixels(tmp_path / "e.png")[100:200]
    assert drawn[:, 20:240].mean() + 80 < drawn[:, 280:490].mean()


def test_examples_have_the_colours_of_the_images(tmp_path: Path) -> None:
    """Inputs are normalised channel by channel: drawn as they are, pink tissue on white glass would be any colour."""
    image = np.empty((3, 240, 240), np.float32)
    image[:, :, :120], image[:, :, 120:] = (np.array(rgb)[:, None, None] for rgb in (GLASS, STROMA))
    scale = Normalisation((230.0, 200.0, 215.0), (9.0, 40.0, 22.0), "uint8")
    mean, std = (np.array(values)[:, None, None] for values in (scale.mean, scale.std))
    inputs = ((image - mean) / std).astype(np.float32)
    draw_examples([(inputs, np.zeros((240, 240), np.int64))], scale, classes(2), tmp_path / "e.png")
    drawn = {tuple(colour) for colour in pixels(tmp_path / "e.png")[150, 12:252].tolist()}
    assert drawn == {GLASS, STROMA}
