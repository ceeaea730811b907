"""What the figure of an evaluation shows, and where it may be written."""

from pathlib import Path

import numpy as np
import pytest
from compared_files import INSIDE, save
from data_sets import cells
from PIL import Image

from tilesegment import Evaluation, evaluate
from tilesegment.errors import TilesegmentError
from tilesegment.scoring.figure import worst_and_best


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return save(tmp_path / "truth.png", INSIDE.astype(np.uint8) * 255)


def drawn(folder: Path, count: int, truths: np.ndarray, guesses: np.ndarray, **options: object) -> np.ndarray:
    for part, planes in (("p", guesses), ("t", truths)):
        (folder / part).mkdir()
        for n in range(count):
            save(folder / part / f"{n}.png", planes[n])
    found: Evaluation = evaluate(folder / "p", folder / "t", figure=folder / "f.png", **options)
    assert found.figure == str(folder / "f.png")
    assert not list(folder.glob("*.partial"))
    with Image.open(folder / "f.png") as picture:
        return np.asarray(picture)


def has(picture: np.ndarray, *colour: int) -> int:
    """How many pixels are about of a colour."""
    return int(np.count_nonzero((np.abs(picture.astype(int) - colour) < 30).all(-1)))


def test_the_figure_shows_missed_false_and_ignored_pixels(tmp_path: Path) -> None:
    truth = np.zeros((280, 300), np.uint8)
    truth[40:240, 40:260] = 255
    guess = np.roll(truth, 10, axis=1)
    truth[:10] = 9
    picture = drawn(tmp_path, 1, truth[None], guess[None], ignore=9)
    # one row of truth, prediction and errors
    assert picture.shape[1] == 3 * 300 + 4 * 12 and 280 < picture.shape[0] < 460
    errors = picture[:, -312:-12]
    assert abs(has(errors, 213, 94, 0) - 200 * 10) < 10
    assert abs(has(errors, 86, 180, 233) - 200 * 10) < 10


def test_the_figure_shows_the_two_worst_and_the_best_of_many_large_images(tmp_path: Path) -> None:
    truths = np.stack([cells(600, 1200, 7)[1]] * 5).astype(np.uint8) * 2
    truths[:, :300] //= 2  # three classes
    guesses = np.stack([np.roll(truths[0], 5 * n, 1) for n in (1, 4, 0, 3, 2)])
    picture = drawn(tmp_path, 5, truths, guesses)
    # truth, prediction and errors, each reduced from 1200 to 400 pixels, in three rows
    assert picture.shape[1] == 3 * 400 + 4 * 12 and 3 * 200 < picture.shape[0] < 3 * 330
    found = evaluate(tmp_path / "p", tmp_path / "t", figure=tmp_path / "f.jpg", image=tmp_path / "t")
    assert worst_and_best(found.images) == [("worst, ", 1), ("second worst, ", 3), ("best, ", 2)]
    assert worst_and_best(found.images[:2]) == [("worst, ", 1), ("best, ", 0)]
    assert worst_and_best(found.images[:1]) == [("", 0)]
    with Image.open(tmp_path / "f.jpg") as image:
        assert (image.format, image.width) == ("JPEG", picture.shape[1] + 400 + 12)


@pytest.mark.parametrize("name", ["f.gif", "nowhere/f.png", "truth.png", "."])
def test_a_figure_that_cannot_be_written_is_refused_at_once(name: str, tmp_path: Path, truth: Path) -> None:
    before = truth.read_bytes()
    with pytest.raises(TilesegmentError, match=r"choose|create"):
        evaluate(tmp_path / "not read.png", truth, figure=tmp_path / name)
    assert truth.read_bytes() == before
