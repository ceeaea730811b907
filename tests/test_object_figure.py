"""Objects that are evaluated: the figure, and the tables of the command line."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from command_line import Run
from compared_files import save
from compared_objects import GUESS, TRUTH, as_geojson, nuclei
from data_sets import write_files
from PIL import Image

from tilesegment import evaluate
from tilesegment.scoring import object_scores
from tilesegment.scoring.object_figure import FOUND, MADE_UP, MERGED, MISSED, SPLIT, fates
from tilesegment.scoring.overlaps import overlaps


def test_fates_of_objects() -> None:
    truth, guess = np.zeros((2, 40, 40), int)
    truth[0:8, 0:8], guess[0:8, 1:8] = 1, 10
    truth[10:18, 0:8] = 2
    guess[20:28, 0:8] = 11
    truth[0:8, 10:37] = 3
    guess[0:8, 10:19], guess[0:8, 19:28], guess[0:8, 28:37] = 12, 13, 14
    truth[10:18, 10:18], truth[10:18, 18:26], guess[10:18, 10:25] = 4, 5, 15
    true, predicted = fates(overlaps(truth, guess))
    # the merging one has half of the union in common with the first of the two
    assert true.tolist() == [FOUND, MISSED, SPLIT, FOUND, MERGED]
    assert predicted.tolist() == [FOUND, MADE_UP, SPLIT, SPLIT, SPLIT, MERGED]


def colour_counts(path: Path) -> dict[str, int]:
    """How many pixels of a picture are about of each colour of the legend."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    colours = {"found": (0, 158, 115), "missed": (213, 94, 0), "made up": (86, 180, 233), "merged": (204, 121, 167)}
    return {name: int((np.abs(pixels - rgb) < 25).all(-1).sum()) for name, rgb in colours.items()}


def test_the_figure_shows_what_became_of_objects(tmp_path: Path) -> None:
    ids = np.zeros((60, 80), np.uint8)
    for n in range(6):
        ids[10 * n : 10 * n + 8, 5:40] = n + 1
    same, none = save(tmp_path / "same.png", ids), save(tmp_path / "none.png", 0 * ids)
    truth, image = save(tmp_path / "t.png", ids), save(tmp_path / "i.png", np.full((60, 80), 90, np.uint8))
    merged = save(tmp_path / "m.png", np.where(ids > 0, (ids + 2) // 3 + 10, 0).astype(np.uint8))
    for path, name in ((same, "found"), (none, "missed"), (merged, "merged")):
        counts = colour_counts_of(tmp_path, path, truth, image)
        legend = min(counts.values())
        assert counts.pop(name) > 5 * legend
        assert max(counts.values()) < 2 * legend
    counts = colour_counts_of(tmp_path, same, save(tmp_path / "n.png", 0 * ids), None)
    assert counts["made up"] > 5 * counts["found"]
    # of empty files there is a picture, too
    assert evaluate(none, tmp_path / "n.png", objects=True, figure=tmp_path / "f.png").figure is not None


def colour_counts_of(folder: Path, prediction: Path, truth: Path, image: Path | None) -> dict[str, int]:
    evaluate(prediction, truth, objects=True, image=image, figure=folder / "f.png")
    return colour_counts(folder / "f.png")


def test_of_a_large_plane_the_worst_part_is_drawn(tmp_path: Path) -> None:
    ids = np.zeros((1500, 1600), np.uint16)
    for n in range(150):
        ids[10 * n : 10 * n + 8, 5:40] = n + 1
    ids[1420:1440:2, 1500:1540] = np.arange(200, 210)[:, None]
    guess = np.where(ids >= 200, 0, ids)
    evaluate(save(tmp_path / "p.tif", guess), save(tmp_path / "t.tif", ids), figure=tmp_path / "f.png")
    counts = colour_counts(tmp_path / "f.png")
    assert counts["missed"] > 10 * 40 and counts["found"] < 1000
    with Image.open(tmp_path / "f.png") as picture:
        assert picture.width < 2 * 700 + 100


def test_the_command_line(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(Path("p.png"), GUESS)
    save(Path("i.png"), (TRUTH > 0).astype(np.uint8) * 200)
    as_geojson(Path("t.geojson"), TRUTH)
    wanted = object_scores(TRUTH, GUESS)
    done = run("evaluate p.png t.geojson --figure f.png --image i.png")
    assert done.code == 0, done.err
    lines = {line.split("  ")[0]: line.split("  ")[1:] for line in done.out.splitlines()}
    assert f"{wanted.truth} true, {wanted.prediction} predicted" in lines
    row = next(line for line in done.out.splitlines() if line.startswith("AP"))
    assert row.split()[1:] == [f"{one.ap:.4f}" for one in wanted.at]
    assert f"PQ       {wanted.pq:.4f}" in done.out and done.out.endswith("figure: f.png\n")
    found = json.loads(run("evaluate p.png t.geojson --objects --json -q").out)
    assert found["objects"] == json.loads(json.dumps(asdict(wanted)))
    refused = run("evaluate p.png t.geojson --no-objects")
    assert (refused.code, refused.out, refused.err.count("\n")) == (1, "", 1)


def test_many_images_are_listed_by_the_worst(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for n in range(32):
        ids = nuclei(40, 40, n, 8)
        write_files(tmp_path, {f"t/{n:02}.png": ids, f"p/{n:02}.png": np.where(ids == 1, 0, ids) if n < 30 else ids})
    out = run("evaluate p t").out
    assert "the 30 of lowest PQ of 32; --json lists all" in out
    assert "31" not in [line.split()[0] for line in out.splitlines() if line]
