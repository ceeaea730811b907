"""`evaluate`: files of every kind have the scores of their pixels, read block by block or whole."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from compared_files import BOTH, CLASSES, GUESS, INSIDE, LIKELY, array, noisy, save, store
from data_sets import cells
from hypothesis import given, settings
from hypothesis import strategies as st
from image_files import ome_zarr, tiff
from PIL import Image
from scipy import ndimage

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
    found = evaluate(MASKS[kind](tmp_path), truth)
    counts = confusion(INSIDE, GUESS, 2)
    assert found.kind == "classes"
    assert np.array_equal(found.confusion, counts)
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


def test_the_truth_may_be_a_mask_of_ours_or_hold_floats(tmp_path: Path) -> None:
    prediction = save(tmp_path / "p.png", GUESS)
    ours = evaluate(prediction, store(tmp_path / "t.zarr", INSIDE.astype(np.uint8)))
    assert [c.name for c in ours.classes] == ["membrane", "inside"]
    floats = evaluate(prediction, save(tmp_path / "t.tif", INSIDE.astype(np.float32)))
    assert ours.confusion == floats.confusion
    assert evaluate(store(tmp_path / "p.zarr", GUESS), tmp_path / "t.zarr").confusion == ours.confusion


def test_folders_are_paired_by_stems_and_stacks_by_planes(tmp_path: Path) -> None:
    truths = np.stack([cells(40, 50, n)[1] for n in range(3)])
    guesses = np.stack([noisy(truth, n) > 0.5 for n, truth in enumerate(truths)]).astype(np.uint8)
    for part, planes, suffix in (("p", guesses, "_mask.png"), ("t", truths.astype(np.uint8) * 255, ".png")):
        (tmp_path / part).mkdir()
        for n, plane in enumerate(planes):
            save(tmp_path / part / f"{n:02}{suffix}", plane)
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
    assert found.cells.v_rand == pytest.approx(
        membrane_scores([labels == 255], [np.where(labels == 9, guess == 255, GUESS)], (0.5,)).v_rand
    )


def test_cells_are_scored_when_asked_and_when_there_are_any(tmp_path: Path, truth: Path) -> None:
    prediction = save(tmp_path / "p.png", GUESS)
    assert evaluate(prediction, truth, cells=False).cells is None
    empty = save(tmp_path / "none.png", np.zeros_like(GUESS))
    assert evaluate(prediction, empty, classes=("membrane", "inside")).cells is None
    with pytest.raises(TilesegmentError, match="use --no-cells"):
        evaluate(prediction, empty, classes=("membrane", "inside"), cells=True)
    stack = np.stack([np.zeros_like(GUESS), INSIDE.astype(np.uint8)])
    found = evaluate(save(tmp_path / "p.tif", np.stack([GUESS, GUESS])), save(tmp_path / "t.tif", stack))
    assert found.cells is not None
    assert (found.cells.sections, found.cells.without_cells) == (1, 1)
    assert [one.v_rand for one in found.images] == [None, pytest.approx(found.cells.v_rand)]


# --- block by block


@settings(max_examples=30)
@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 40), st.integers(0, 99))
def test_blocks_add_up_to_the_whole(height: int, width: int, side: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, guess = rng.integers(0, 3, (2, height, width), np.uint8)
    whole = count_pairs(truth, guess, 2)
    blocks = Region.of_shape((height, width)).squares(side)
    parts = [count_pairs(truth[r.slices], guess[r.slices], 2) for r in blocks]
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
    alone = evaluate(
        save(tmp_path / "p.tif", guess[first.slices].astype(np.uint8)),
        save(tmp_path / "t.tif", inside[first.slices].astype(np.uint8)),
    )
    assert alone.cells is not None and alone.cells.window is None
    assert found.cells.v_rand == found.images[0].v_rand == pytest.approx(alone.cells.v_rand, abs=0.05)


def test_the_report_runs_from_nothing_to_all(tmp_path: Path, truth: Path) -> None:
    for cells_too in (None, False):
        seen: list[float] = []
        evaluate(
            save(tmp_path / "p.png", GUESS), truth, cells=cells_too, report=lambda done, name, to=seen: to.append(done)
        )
        assert seen == sorted(seen) and seen[-1] == pytest.approx(1) and seen[0] > 0


# --- real sections


def test_real_sections_smoothed(isbi: Path, tmp_path: Path) -> None:
    (tmp_path / "p").mkdir()
    names = ["03", "09"]
    for name in names:
        image = np.asarray(Image.open(isbi / "images" / f"{name}.png")) / 255
        save(tmp_path / "p" / f"{name}.tif", ndimage.gaussian_filter(image, 2).astype(np.float32))
    with pytest.raises(TilesegmentError, match=r"has no counterpart .*22 such"):
        evaluate(tmp_path / "p", isbi / "labels")
    found = evaluate(
        tmp_path / "p" / "03.tif",
        isbi / "labels" / "03.png",
        image=isbi / "images" / "03.png",
        figure=tmp_path / "f.png",
    )
    assert found.cells is not None
    assert 0.6 < found.cells.v_rand < 0.95
    assert found.accuracy > found.floor_accuracy - 0.05
