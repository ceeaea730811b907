"""`tileseg evaluate`: the tables, JSON, the figure, one line for what cannot be compared."""

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from data_sets import cells
from PIL import Image


@pytest.fixture
def pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[np.ndarray, np.ndarray]:
    """p.png and t.png in the working folder: predicted and true inside of cells, (H, W) bool."""
    monkeypatch.chdir(tmp_path)
    truth = cells(60, 80, 1)[1]
    guess = np.roll(truth, 2, axis=1)
    Image.fromarray(guess.astype(np.uint8)).save("p.png")
    Image.fromarray(truth.astype(np.uint8) * 255).save("t.png")
    return guess, truth


def test_the_table(run: Run, pair: tuple[np.ndarray, np.ndarray]) -> None:
    guess, truth = pair
    done = run("evaluate p.png t.png --classes membrane,inside")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "1 image(s), 4,800 pixels; the prediction holds classes"
    assert " ".join(lines[2].split()) == "class in truth in prediction share Dice IoU as membrane as inside"
    inside = next(line for line in lines if line.startswith("1 inside")).split()
    assert inside[2:4] == ["255", "1"]
    assert float(inside[6]) == pytest.approx(2 * (guess & truth).sum() / (guess.sum() + truth.sum()), abs=1e-4)
    accuracy = next(line for line in lines if line.startswith("pixel accuracy"))
    floor = max(truth.mean(), 1 - truth.mean())
    assert accuracy.split() == [
        *("pixel", "accuracy", f"{np.mean(guess == truth):.4f}"),
        *("always", "the", "most", "frequent", "class:", f"{floor:.4f}"),
    ]
    for name in ("mIoU", "mean Dice", "pixel error", "V_Rand", "V_Info", "Rand error"):
        assert sum(line.startswith(name) for line in lines) == 1
    assert "cells are inside; 1 section(s)" in done.out
    assert "V_Rand" not in run("evaluate p.png t.png --no-cells").out


def test_json_is_all_there_is_on_stdout(run: Run, pair: tuple[np.ndarray, np.ndarray]) -> None:
    guess, truth = pair
    done = run("evaluate p.png t.png --json")
    found = json.loads(done.out)
    assert "pixel accuracy" in done.err
    assert found["accuracy"] == pytest.approx(np.mean(guess == truth))
    assert found["classes"][1]["name"] == "value 255"
    assert found["cells"]["sections"] == 1 and found["images"][0]["shape"] == [60, 80]
    quiet = run("evaluate p.png t.png --json -q")
    assert (json.loads(quiet.out), quiet.err) == (found, "")


def test_many_images_are_listed_by_the_worst(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for part in ("p", "t"):
        (tmp_path / part).mkdir()
    for n in range(33):
        truth = rng.integers(0, 3, (9, 9), np.uint8)
        wrong = np.arange(81).reshape(9, 9) < n
        Image.fromarray(truth).save(f"t/{n:02}.png")
        Image.fromarray(np.where(wrong, (truth + 1) % 3, truth)).save(f"p/{n:02}.png")
    out = run("evaluate p t --figure f.png").out
    assert "32" in [line.split()[0] for line in out.splitlines() if line]
    assert "00" not in [line.split()[0] for line in out.splitlines() if line]
    assert "the 30 of lowest mIoU of 33; --json lists all" in out
    assert out.endswith("figure: f.png\n")
    with Image.open("f.png") as picture:
        assert picture.width > 3 * 279
    assert len(json.loads(run("evaluate p t --json -q").out)["images"]) == 33


@pytest.mark.parametrize(
    ("line", "message"), [("p.png nothing.png", "nothing.png"), ("p.png t.png --figure t.png", "figure t.png")]
)
def test_what_cannot_be_compared_is_one_line(
    line: str, message: str, run: Run, pair: tuple[np.ndarray, np.ndarray]
) -> None:
    done = run(f"evaluate {line}")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)
    assert message in done.err


@pytest.mark.slow
def test_predicted_masks_are_evaluated(run: Run, folder: Path) -> None:
    for out in ("m.zarr --probabilities p.zarr", "m.png", "m.tif"):
        assert run(f"predict slide.tif --model toy.safetensors --tile 60 --out {out} -q").code == 0
    for pair in ("m.png m.zarr", "m.tif m.png"):  # a TIFF of ours knows its classes, although it has a palette
        found = json.loads(run(f"evaluate {pair} --json -q").out)
        assert (found["accuracy"], found["miou"], found["pixels"]) == (1, 1, 130 * 150)
        assert [one["name"] for one in found["classes"]] == ["class 0", "class 1"]
    likely = json.loads(run("evaluate p.zarr m.zarr --json -q").out)
    assert (likely["kind"], likely["accuracy"], likely["threshold_pixel"]) == ("probabilities", 1, 0.5)
