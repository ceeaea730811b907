"""Which value stands for which class, and what cannot be compared."""

from pathlib import Path

import numpy as np
import pytest
from compared_files import CLASSES, GUESS, INSIDE, LIKELY, save, store
from data_sets import write_files

from tilesegment import evaluate
from tilesegment.errors import TilesegmentError
from tilesegment.metadata import LabelClass


@pytest.fixture
def truth(tmp_path: Path) -> Path:
    return save(tmp_path / "truth.png", INSIDE.astype(np.uint8) * 255)


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
    truth, prediction = np.meshgrid(sorted(truths), sorted(found))
    paths = [save(tmp_path / name, _small(pixels)) for name, pixels in (("p.png", prediction), ("t.png", truth))]
    classes = evaluate(*paths, classes=names).classes
    assert tuple(zip(*((one.truth_value, one.prediction_value) for one in classes), strict=True)) == wanted


def test_ids_of_our_own_masks_are_ids_whatever_occurs(tmp_path: Path) -> None:
    truth = save(tmp_path / "t.png", np.full((1, 2), 255, np.uint8))
    found = evaluate(store(tmp_path / "p.zarr", np.array([[1, 0]], np.uint8)), truth)
    told = [(one.name, one.truth_value, one.prediction_value) for one in found.classes]
    assert told == [("membrane", 0, 0), ("inside", 255, 1)]
    assert found.confusion == ((0, 0), (1, 1))


REFUSED: dict[str, tuple[np.ndarray, np.ndarray, dict[str, object], str]] = {
    "sizes": (GUESS[:-1], INSIDE, {}, "1 x 74 x 90 .*1 x 75 x 90 .*one size"),
    "planes": (np.stack([GUESS, GUESS]), INSIDE, {}, "2 x 75 x 90"),
    "an image as prediction": (np.arange(6750).reshape(75, 90) % 200, INSIDE, {}, "200 values from 0 to 199"),
    "an image as truth": (GUESS, np.arange(6750).reshape(75, 90) % 200, {}, "truth .* 200 values from 0 to 199"),
    "more values": (np.arange(6750).reshape(75, 90) % 3 * 9, INSIDE, {}, "0, 9, 18, the truth 0, 1.*--classes"),
    "one value": (GUESS, np.ones_like(GUESS), {}, "truth holds 1; two classes are the least.*--classes"),
    "too few names": (GUESS, INSIDE, {"classes": ("a",)}, "0, 1; two classes are the least"),
    "names twice": (GUESS, INSIDE, {"classes": ("a", "a")}, "expected different names"),
    "too many names": (LIKELY, INSIDE, {"classes": ("a", "b", "c")}, "3 named, 2 in the prediction"),
    "three values for one probability": (LIKELY, INSIDE + GUESS, {}, "0, 1, 2, which are not 2 classes.*--ignore"),
    "NaN": (np.where(INSIDE, LIKELY, np.float32(np.nan)), INSIDE, {}, "holds NaN or infinity"),
    "logits": (LIKELY * 9 - 4, INSIDE, {}, "values from -4 to 5; expected probabilities"),
    "broken labels": (GUESS, LIKELY, {}, "truth .* expected at most 32 whole ones"),
    "all ignored": (GUESS, np.ones_like(GUESS), {"ignore": 1}, "all pixels .* ignored value 1"),
    "cells of three": (INSIDE + GUESS, INSIDE + GUESS, {"cells": True}, "there are 3: leave out --cells"),
    "an image without a figure": (GUESS, INSIDE, {"image": "p.tif"}, "give --figure too"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_compared_is_refused_in_one_line(case: str, tmp_path: Path) -> None:
    prediction, truth, options, message = REFUSED[case]
    paths = [save(tmp_path / name, _small(pixels)) for name, pixels in (("p.tif", prediction), ("t.tif", truth))]
    with pytest.raises(TilesegmentError, match=message) as caught:
        evaluate(*paths, **options)
    assert "\n" not in str(caught.value)


def _small(pixels: np.ndarray) -> np.ndarray:
    return pixels.astype(np.float32 if pixels.dtype.kind == "f" else np.uint8)


def test_channels_must_be_probabilities(tmp_path: Path, truth: Path) -> None:
    with pytest.raises(TilesegmentError, match="do not sum to 1"):
        evaluate(store(tmp_path / "p.zarr", np.stack([LIKELY, LIKELY])), truth)
    rgb = write_files(tmp_path, {"rgb.tif": np.stack([GUESS.astype(np.uint16)] * 3, axis=-1)}) / "rgb.tif"
    for pair in ((rgb, truth), (truth, rgb)):
        with pytest.raises(TilesegmentError, match=r"rgb.tif has 3 channels of uint16"):
            evaluate(*pair)
    other = store(tmp_path / "t.zarr", GUESS, (*CLASSES, LabelClass("more", "#ffffff")))
    with pytest.raises(TilesegmentError, match="2 in the prediction, 3 in the truth"):
        evaluate(store(tmp_path / "m.zarr", GUESS), other)


def test_files_without_counterpart_are_named(tmp_path: Path, truth: Path) -> None:
    for name in ("p", "t", "none"):
        (tmp_path / name).mkdir()
    save(tmp_path / "p" / "1_mask.png", GUESS)
    two = save(tmp_path / "t" / "1.png", GUESS)

    def refused(message: str, *paths: Path, **options: Path) -> None:
        with pytest.raises(TilesegmentError, match=message):
            evaluate(*paths, **options)

    refused("given as prediction and as truth", truth, truth)
    refused("is one image, .* a folder", truth, tmp_path / "t")
    refused("holds no files", tmp_path / "none", tmp_path / "t")
    refused("does not exist", tmp_path / "nothing.png", truth)
    figure = tmp_path / "f.png"
    refused("is one image", tmp_path / "p", tmp_path / "t", image=two, figure=figure)
    extra = save(tmp_path / "t" / "2.png", GUESS)
    refused(r"2.png has no counterpart in .*expected .*/2\.\*", tmp_path / "p", tmp_path / "t")
    extra.rename(tmp_path / "p" / "2.png")
    refused("2.png has no counterpart", tmp_path / "p", tmp_path / "t")
    (tmp_path / "p" / "2.png").rename(tmp_path / "p" / "1.png")
    refused(r"1\.png and .*1_mask\.png have one stem", tmp_path / "p", tmp_path / "t")
    assert not figure.exists()


def test_an_unfinished_or_damaged_mask_is_not_scored(tmp_path: Path, truth: Path) -> None:
    path = store(tmp_path / "p.zarr", GUESS)
    shard = next((path / "0" / "c").rglob("1"))
    (shard if shard.is_file() else next(p for p in shard.rglob("*") if p.is_file())).unlink()
    # read as an image, what is missing would be class 0
    with pytest.raises(TilesegmentError, match="missing or empty"):
        evaluate(path, truth)
    with pytest.raises(TilesegmentError, match="is a model"):
        evaluate("em-membrane", truth)
