"""Heat maps and probabilities of other types: `predict --probabilities-dtype`, `--heatmap`, `--heatmap-class`."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run
from conftest import noise, toy_model
from PIL import Image

import tilesegment
from tilesegment.heatmap import Heatmap, palette

LINE = "predict slide.tif --model toy.safetensors --tile 88 --out m.zarr --probabilities p.zarr -q "


def shown(path: str | Path, shape: tuple[int, int]) -> np.ndarray:
    """The map in a picture, as probabilities: each colour of the palette is one of 256."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture)
    top = 12 + 2 * int(np.clip(shape[1] / 40, 13, 28))
    panel = pixels[top : top + shape[0], 12 : 12 + shape[1]].astype(int)
    distance = np.abs(panel[:, :, None] - palette().astype(int)).sum(-1)
    assert distance.min(-1).max() == 0, "colours of the palette only"
    return distance.argmin(-1) / 255


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_heat_map_shows_the_probabilities(dtype: str, folder: Path, run: Run) -> None:
    assert run(LINE + f"--probabilities-dtype {dtype} --heatmap h.png").code == 0
    likely = np.asarray(zarr.open_group("p.zarr", mode="r")["0"])
    assert likely.dtype == dtype
    likely = likely / (255 if dtype == "uint8" else 1)
    assert np.abs(shown("h.png", (130, 150)) - likely[1]).max() < 0.005
    # the same command again changes nothing, and is not refused
    before = Path("h.png").read_bytes()
    assert run(LINE + f"--probabilities-dtype {dtype} --heatmap h.png").code == 0
    assert Path("h.png").read_bytes() == before
    # another class, of probabilities that are complete
    assert run(LINE + f"--probabilities-dtype {dtype} --heatmap h0.png --heatmap-class 0").code == 0
    assert np.abs(shown("h0.png", (130, 150)) - likely[0]).max() < 0.005


def test_the_foreground_is_every_class_but_0(folder: Path) -> None:
    toy_model(classes=4).save("four.safetensors")
    for name, wanted in (("f.png", None), ("two.png", "class 2")):
        given = {"probabilities": "p.zarr", "heatmap": name, "heatmap_class": wanted}
        tilesegment.predict("slide.tif", "m.zarr", "four.safetensors", **given)
    likely = np.asarray(zarr.open_group("p.zarr", mode="r")["0"])
    assert np.abs(shown("f.png", (130, 150)) - (1 - likely[0])).max() < 0.005
    assert np.abs(shown("two.png", (130, 150)) - likely[2]).max() < 0.005


def test_a_large_image_is_shown_at_a_reduced_level(folder: Path, run: Run) -> None:
    tifffile.imwrite("slide.tif", noise((40, 1100)), tile=(64, 64))
    assert run(LINE).code == 0
    group = zarr.open_group("p.zarr", mode="r")
    assert sorted(group.array_keys()) == ["0", "1", "2"]
    Heatmap(folder / "h.png", folder / "p.zarr").draw(max_side=300)
    assert np.abs(shown("h.png", (10, 275)) - np.asarray(group["2"])[1]).max() < 0.005
    # less than the smallest level: every third pixel
    Heatmap(folder / "i.png", folder / "p.zarr", 0).draw(max_side=100)
    assert np.abs(shown("i.png", (4, 92)) - np.asarray(group["2"])[0, ::3, ::3]).max() < 0.005


def test_uint8_is_scored_as_float32_is(folder: Path, run: Run) -> None:
    assert run(LINE).code == 0
    assert run(LINE.replace("m.zarr", "n.zarr").replace("p.zarr", "q.zarr") + "--probabilities-dtype uint8").code == 0
    truth = (np.indices((130, 150)).sum(0) // 20 % 2).astype(np.uint8)
    Image.fromarray(truth).save("t.png")
    found = [json.loads(run(f"evaluate {name} t.png --json -q").out) for name in ("p.zarr", "q.zarr")]
    assert found[0]["accuracy"] == pytest.approx(found[1]["accuracy"], abs=0.01)
    assert [one["name"] for one in found[1]["classes"]] == ["class 0", "class 1"]


@pytest.mark.parametrize(
    ("options", "code", "named"),
    [
        ("--heatmap h.png", 2, "--probabilities"),
        ("--probabilities-dtype uint8", 2, "--probabilities"),
        ("--probabilities p.zarr --heatmap-class 1", 2, "--heatmap"),
        ("--probabilities p.zarr --heatmap h.jpg", 1, ".png"),
        ("--probabilities p.zarr --heatmap no/h.png", 1, "no folder"),
        ("--probabilities p.zarr --heatmap rgb.png", 1, "rgb.png exists"),
        ("--probabilities p.zarr --heatmap h.png --heatmap-class nuclei", 1, "foreground, class 0, class 1"),
    ],
)
def test_what_cannot_be_drawn_is_said_before_the_run(
    options: str, code: int, named: str, folder: Path, run: Run
) -> None:
    done = run("predict slide.tif --model toy.safetensors --out m.zarr " + options)
    assert done.code == code and named in done.err
    assert not list(folder.glob("*.zarr*"))
