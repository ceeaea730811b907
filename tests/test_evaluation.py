"""`evaluate`: files of every kind have the scores of their pixels, read block by block or whole."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from compared_files import BOTH, CLASSES, GUESS, INSIDE, LIKELY, array, noisy, save, store
from data_sets import cells, write_files
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import ome_zarr, tiff

from tilesegment import evaluate
from tilesegment.errors import TilesegmentError
from tilesegment.geometry import Region
from tilesegment.images.source import ImageSource
from tilesegment.metadata import LabelClass
from tilesegment.scoring import THRESHOLDS, confusion, dice, iou, membrane_scores, pixel_accuracy
from tilesegment.scoring.evaluation import windows_of
from tilesegment.scoring.matching import count_pairs


def in_host(folder: Path, ids: np.ndarray) -> Path:
    """A mask among the labels of an OME-Zarr image."""
    return store(ome_zarr("0.5", "cyx", 1.0)(folder, np.zeros((1, *ids.shape), np.uint8)) / "labels" / "cells", ids)


MASKS: dict[str, Callable[[Path], Path]] = {
    "PNG 0 1": lambda folder: save(folder / "p.png", GUESS),
    "PNG 0 255": lambda folder: save(folder / "p.png", GUESS * 255),
    "TIFF 3 7": lambda folder: save(folder / "p.tif", GUESS * 4 + 3),
    "tiled uint16 TIFF": lambda folder: tiff("yx", tile=(16, 16))(folder, GUESS[None].astype(np.uint16)),
    "Zarr array": lambda folder: array(folder, GUESS * 255),
    "our store": lambda folder: store(folder / "p.zarr", GUESS),
    "our TIFF": lambda folder: store(folder / "p.tif", GUESS),
    "our palette PNG": lambda folder: store(folder / "p.png", GUESS),
    "labels in an image": lambda folder: in_host(folder, GUESS),
}
PROBABILITIES: dict[str, Callable[[Path], Path]] = {
    "one channel": lambda folder: save(folder / "p.tif", LIKELY),
    "a Zarr array": lambda folder: array(folder, LIKELY),
    "our store": lambda folder: store(folder / "p.zarr", BOTH),
}


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return save(tmp_path / "truth.png", INSIDE.astype(np.uint8) * 255)


@pytest.mark.parametrize("kind", MASKS)
def test_a_mask_of_any_format_has_the_scores_of_its_pixels(kind: str, tmp_path: Path, truth: Path) -> None:
    prediction = MASKS[kind](tmp_path)
    found = evaluate(prediction, truth)
    counts = confusion(INSIDE, GUESS, 2)
    assert found.kind == "classes"
    assert np.array_equal(found.confusion, counts)
    assert np.array_equal(evaluate(truth, prediction).confusion, counts.T)
    assert [c.dice for c in found.classes] == pytest.approx(dice(counts))
    assert [c.iou for c in found.classes] == pytest.approx(iou(counts))
    assert (found.miou, found.mean_dice) == pytest.approx((iou(counts).mean(), dice(counts).mean()))
    assert found.pixel_error == pytest.approx(1 - found.accuracy) == pytest.approx(1 - pixel_accuracy(counts))
    assert found.threshold_pixel is None
    cell = membrane_scores([INSIDE], [GUESS], (0.5,))
    assert found.cells is not None and found.cells.threshold_rand is None
    wanted = (cell.v_rand, cell.v_info, cell.rand_error)
    assert (found.cells.v_rand, found.cells.v_info, found.cells.rand_error) == pytest.approx(wanted)
    (row,) = found.images
    assert (row.name, row.shape, row.v_rand) == ("truth", INSIDE.shape, pytest.approx(cell.v_rand))
    assert json.loads(json.dumps(asdict(found)))["cells"]["sections"] == 1


@pytest.mark.parametrize("kind", PROBABILITIES)
def test_probabilities_are_scored_at_the_best_threshold(kind: str, tmp_path: Path, truth: Path) -> None:
    found = evaluate(PROBABILITIES[kind](tmp_path), truth)
    assert (found.kind, found.confusion) == ("probabilities", tuple(map(tuple, confusion(INSIDE, GUESS, 2).tolist())))
    errors = [float(np.mean((t < LIKELY) != INSIDE)) for t in THRESHOLDS]
    assert found.pixel_error == pytest.approx(min(errors))
    assert found.threshold_pixel == THRESHOLDS[int(np.argmin(errors))]
    cell = membrane_scores([INSIDE], [LIKELY])
    assert found.cells is not None
    assert (found.cells.v_rand, found.cells.rand_error) == pytest.approx((cell.v_rand, cell.rand_error))
    assert (found.cells.threshold_rand, found.cells.threshold_error) == (cell.threshold_rand, cell.threshold_error)


def test_channels_of_three_classes_are_decided_by_the_largest(tmp_path: Path) -> None:
    likely = np.random.default_rng(0).dirichlet((1, 1, 1), (20, 30)).transpose(2, 0, 1).astype(np.float32)
    labels = np.random.default_rng(1).integers(0, 3, (20, 30), np.uint8)
    three = (*CLASSES, LabelClass("vesicle", "#56b4e9", 7))
    truth = save(tmp_path / "t.png", np.array([0, 255, 7], np.uint8)[labels])
    found = evaluate(store(tmp_path / "p.zarr", likely, three), truth)
    # by the classes' own values, which are not in ascending order
    assert [(c.name, c.truth_value) for c in found.classes] == [("membrane", 0), ("inside", 255), ("vesicle", 7)]
    assert np.array_equal(found.confusion, confusion(labels, likely.argmax(0), 3))
    assert found.cells is None and found.threshold_pixel is None


def test_folders_are_paired_by_stems_and_stacks_by_planes(tmp_path: Path) -> None:
    truths = np.stack([cells(40, 50, n)[1] for n in range(3)])
    guesses = np.stack([noisy(truth, n) > 0.5 for n, truth in enumerate(truths)]).astype(np.uint8)
    for n, (guess, truth) in enumerate(zip(guesses, truths, strict=True)):
        write_files(tmp_path, {f"p/{n:02}_mask.png": guess, f"t/{n:02}.png": truth.astype(np.uint8) * 255})
    by_file = evaluate(tmp_path / "p", tmp_path / "t")
    by_plane = evaluate(save(tmp_path / "p.tif", guesses), save(tmp_path / "v_label.tif", truths.astype(np.uint8)))
    assert [one.name for one in by_file.images] == ["00", "01", "02"]
    assert [one.name for one in by_plane.images] == ["v[0]", "v[1]", "v[2]"]
    assert by_file.confusion == by_plane.confusion
    assert by_file.cells == by_plane.cells
    assert by_file.cells is not None
    assert by_file.cells.v_rand == pytest.approx(np.mean([one.v_rand for one in by_file.images if one.v_rand]))
    assert [one.pixels for one in by_file.images] == [2000] * 3
    for one, truth, guess in zip(by_file.images, truths, guesses, strict=True):
        assert one.accuracy == pytest.approx(np.mean(truth == guess))


def test_the_floor_is_that_of_a_constant_predictor(tmp_path: Path) -> None:
    labels = np.repeat(np.array([0, 1, 2], np.uint8), (20, 50, 30)).reshape(10, 10)
    truth = save(tmp_path / "t.png", labels)
    found = evaluate(save(tmp_path / "p.png", np.where(labels == 2, 1, labels)), truth)
    assert (found.floor_accuracy, found.floor_miou) == pytest.approx((0.5, 0.5 / 3))
    assert (found.accuracy, found.miou) == pytest.approx((0.7, (1 + 50 / 80 + 0) / 3))
    assert evaluate(save(tmp_path / "c.png", np.full_like(labels, 1)), truth).miou == pytest.approx(found.floor_miou)


def test_ignored_pixels_count_nowhere(tmp_path: Path) -> None:
    labels = INSIDE.astype(np.uint8) * 255
    labels[:20] = 9
    guess = GUESS * 255
    guess[:20, :7] = 77  # what a prediction holds there does not matter, not even a value of its own
    found = evaluate(save(tmp_path / "p.png", guess), save(tmp_path / "t.png", labels), ignore=9)
    counts = confusion(INSIDE[20:], GUESS[20:], 2)
    assert np.array_equal(found.confusion, counts)
    assert (found.pixels, found.ignored) == (counts.sum(), 20 * 90)
    assert found.cells is not None
    cell = membrane_scores([labels == 255], [np.where(labels == 9, guess == 255, GUESS)], (0.5,))
    assert found.cells.v_rand == pytest.approx(cell.v_rand)


def test_cells_are_scored_when_asked_and_when_there_are_any(tmp_path: Path, truth: Path) -> None:
    prediction, names = save(tmp_path / "p.png", GUESS), ("membrane", "inside")
    for cells_too in (None, False):
        seen: list[float] = []
        evaluate(prediction, truth, cells=cells_too, report=lambda done, name, to=seen: to.append(done))
        assert seen == sorted(seen) and seen[-1] == pytest.approx(1) and seen[0] > 0
    assert evaluate(prediction, truth, cells=False).cells is None
    empty = save(tmp_path / "none.png", np.zeros_like(GUESS))
    assert evaluate(prediction, empty, classes=names).cells is None
    with pytest.raises(TilesegmentError, match="--no-cells"):
        evaluate(prediction, empty, classes=names, cells=True)
    stack = np.stack([np.zeros_like(GUESS), INSIDE.astype(np.uint8)])
    found = evaluate(save(tmp_path / "p.tif", np.stack([GUESS, GUESS])), save(tmp_path / "t.tif", stack))
    assert found.cells is not None
    assert (found.cells.sections, found.cells.without_cells) == (1, 1)
    assert [one.v_rand for one in found.images] == [None, pytest.approx(found.cells.v_rand)]


# --- block by block


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 99))
def test_blocks_add_up_to_the_whole(height: int, width: int, side: int, seed: int) -> None:
    truth, guess = np.random.default_rng(seed).integers(0, 3, (2, height, width), np.uint8)
    whole = count_pairs(truth, guess, 2)
    parts = [count_pairs(truth[r.slices], guess[r.slices], 2) for r in Region.of_shape((height, width)).squares(side)]
    assert sum(parts[1:], parts[0]) == whole
    assert sum(whole.values()) == np.count_nonzero(truth != 2)


@given(st.integers(4097, 20000), st.integers(4097, 20000))
def test_windows_cover_a_large_plane_once(height: int, width: int) -> None:
    windows = windows_of((height, width))
    assert sum(window.area for window in windows) == height * width
    assert all(1024 < side <= 2048 for window in windows for side in window.shape)
    assert {(window.y0, window.x0) for window in windows} >= {(0, 0)}
    assert (max(w.y1 for w in windows), max(w.x1 for w in windows)) == (height, width)
    assert windows_of((4096, 4096)) == [Region(0, 0, 4096, 4096)]


@pytest.mark.slow
def test_large_planes_are_read_in_parts_and_scored_in_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside = np.tile(cells(500, 600, 5)[1], (9, 7))[:4100, :4099]
    guess = inside ^ (noisy(inside) > 0.9)
    truth = tiff("yx", tile=(256, 256), compression="zlib")(tmp_path, inside[None].astype(np.uint8))
    prediction = array(tmp_path, guess.astype(np.uint8), 256)
    reads: list[int] = []
    read = ImageSource.read_stored

    def counted(self: ImageSource, region: Region, level: int = 0, z: int = 0) -> np.ndarray:
        reads.append(region.area)
        return read(self, region, level, z)

    monkeypatch.setattr(ImageSource, "read_stored", counted)
    found = evaluate(prediction, truth, figure=tmp_path / "f.png", image=truth)
    assert max(reads) <= 2048 * 2048 and len(reads) >= 7 * 9
    assert np.array_equal(found.confusion, confusion(inside, guess, 2))
    assert found.cells is not None
    assert (found.cells.window, found.cells.sections) == (2048, 9)
    first = windows_of(inside.shape)[0]
    assert first == Region(0, 0, 1366, 1366)
    parts = (pixels[first.slices].astype(np.uint8) for pixels in (guess, inside))
    alone = evaluate(*(save(tmp_path / f"{n}.tif", part) for n, part in enumerate(parts)))
    assert alone.cells is not None and alone.cells.window is None
    assert found.cells.v_rand == found.images[0].v_rand == pytest.approx(alone.cells.v_rand, abs=0.05)


# --- which value stands for which class


@pytest.mark.parametrize(
    ("truths", "found", "names", "wanted"),
    [
        ({0, 255}, {0, 1}, None, ((0, 255), (0, 1))),  # in order
        ({0, 255}, {1}, None, ((0, 255), (0, 1))),  # an id
        ({0, 255}, {255}, None, ((0, 255), (0, 255))),  # a value of the truth
        ({1, 2}, {0, 5}, None, ((1, 2), (0, 5))),
        ({0, 3, 9}, {0, 9}, None, ((0, 3, 9), (0, 3, 9))),
        ({0, 3, 9}, {1, 2}, None, ((0, 3, 9), (0, 1, 2))),
        ({255}, {0, 255}, ("a", "b"), ((0, 255), (0, 255))),
        ({0, 2}, {0, 1, 2}, ("a", "b", "c"), ((0, 1, 2), (0, 1, 2))),
        ({0, 100}, {0, 100, 200}, ("a", "b", "c"), ((0, 100, 200), (0, 100, 200))),
    ],
)
def test_values_are_matched(
    truths: set[int], found: set[int], names: tuple[str, ...] | None, wanted: object, tmp_path: Path
) -> None:
    true, guess = (pixels.astype(np.uint8) for pixels in np.meshgrid(sorted(truths), sorted(found)))
    classes = evaluate(save(tmp_path / "p.png", guess), save(tmp_path / "t.png", true), classes=names).classes
    assert tuple(zip(*((one.truth_value, one.prediction_value) for one in classes), strict=True)) == wanted


def test_ids_of_our_own_masks_are_ids_whatever_occurs(tmp_path: Path) -> None:
    truth = save(tmp_path / "t.png", np.full((1, 2), 255, np.uint8))
    found = evaluate(store(tmp_path / "p.zarr", np.array([[1, 0]], np.uint8)), truth)
    told = [(one.name, one.truth_value, one.prediction_value) for one in found.classes]
    assert told == [("membrane", 0, 0), ("inside", 255, 1)]
    assert found.confusion == ((0, 0), (1, 1))


SHADES = np.arange(6750).reshape(75, 90)
REFUSED: dict[str, tuple[np.ndarray, np.ndarray, dict[str, object], str]] = {
    "sizes": (GUESS[:-1], INSIDE, {}, "1 x 74 x 90 .*1 x 75 x 90"),
    "planes": (np.stack([GUESS, GUESS]), INSIDE, {}, "2 x 75 x 90"),
    "an image as prediction": (SHADES % 200, INSIDE, {}, "prediction .* 200 values, .* 199"),
    "an image as truth": (GUESS, SHADES % 200, {}, "truth .* 200 values, .* 199"),
    "more values": (SHADES % 3 * 9, INSIDE, {}, "0, 9, 18, the truth 0, 1.*--classes"),
    "one value": (GUESS, np.ones_like(GUESS), {}, "truth holds 1; .*--classes"),
    "too few names": (GUESS, INSIDE, {"classes": ("a",)}, "0, 1; at least two classes"),
    "names twice": (GUESS, INSIDE, {"classes": ("a", "a")}, "a, a"),
    "too many names": (LIKELY, INSIDE, {"classes": ("a", "b", "c")}, "3 named, 2 in the prediction"),
    "three values for one probability": (LIKELY, INSIDE + GUESS, {}, "0, 1, 2, .* 2 classes.*--ignore"),
    "NaN": (np.where(INSIDE, LIKELY, np.float32(np.nan)), INSIDE, {}, "NaN"),
    "logits": (LIKELY * 9 - 4, INSIDE, {}, "from -4 to 5"),
    "broken labels": (GUESS, LIKELY, {}, "truth .*whole"),
    "all ignored": (GUESS, np.ones_like(GUESS), {"ignore": 1}, "ignored value 1"),
    "cells of three": (INSIDE + GUESS, INSIDE + GUESS, {"cells": True}, "3: leave out --cells"),
    "an image without a figure": (GUESS, INSIDE, {"image": "p.tif"}, "--figure"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    prediction, truth, options, message = REFUSED[case]
    small = (one.astype(np.float32 if one.dtype.kind == "f" else np.uint8) for one in (prediction, truth))
    with pytest.raises(TilesegmentError, match=message) as caught:
        evaluate(*(save(tmp_path / name, one) for name, one in zip(("p.tif", "t.tif"), small, strict=True)), **options)
    assert "\n" not in str(caught.value)


def test_channels_and_classes_must_agree(tmp_path: Path, truth: Path) -> None:
    with pytest.raises(TilesegmentError, match="sum to 1"):
        evaluate(store(tmp_path / "p.zarr", np.stack([LIKELY, LIKELY])), truth)
    rgb = write_files(tmp_path, {"rgb.tif": np.stack([GUESS.astype(np.uint16)] * 3, axis=-1)}) / "rgb.tif"
    for pair in ((rgb, truth), (truth, rgb)):
        with pytest.raises(TilesegmentError, match=r"rgb.tif has 3 channels of uint16"):
            evaluate(*pair)
    other = store(tmp_path / "t.zarr", GUESS, (*CLASSES, LabelClass("more", "#ffffff")))
    with pytest.raises(TilesegmentError, match="2 in the prediction, 3 in the truth"):
        evaluate(store(tmp_path / "m.zarr", GUESS), other)


def test_files_without_counterpart_are_named(tmp_path: Path, truth: Path) -> None:
    (tmp_path / "none").mkdir()
    p, t = write_files(tmp_path, {"p/1_mask.png": GUESS, "t/1.png": GUESS}) / "p", tmp_path / "t"

    def refused(message: str, *paths: Path, **options: Path) -> None:
        with pytest.raises(TilesegmentError, match=message):
            evaluate(*paths, **options)

    refused("as prediction and as truth", truth, truth)
    refused("is one image, .* a folder", truth, t)
    refused("none holds no", tmp_path / "none", t)
    refused("does not exist", tmp_path / "nothing.png", truth)
    refused("is a model", Path("em-membrane"), truth)
    refused("is one image", p, t, image=t / "1.png", figure=tmp_path / "f.png")
    extra = save(t / "2.png", GUESS)
    refused(r"2.png has no counterpart in .*expected .*/2\.\*", p, t)
    extra.rename(p / "2.png")
    refused("2.png has no counterpart", p, t)
    (p / "2.png").rename(p / "1.png")
    refused(r"1\.png and .*1_mask\.png", p, t)
    assert not (tmp_path / "f.png").exists()


def test_an_unfinished_or_damaged_mask_is_not_scored(tmp_path: Path, truth: Path) -> None:
    path = store(tmp_path / "p.zarr", GUESS)
    next(p for p in sorted((path / "0" / "c").rglob("*")) if p.is_file()).unlink()
    # read as an image, what is missing would be class 0
    with pytest.raises(TilesegmentError, match="missing"):
        evaluate(path, truth)
