"""Plans alone: of training, and of many images at once."""

import json
from pathlib import Path

import pytest
from command_line import Run, contents
from data_sets import write_pairs


def test_training_is_planned_and_nothing_is_written(folder: Path, run: Run) -> None:
    write_pairs(folder / "data", 5, side=64)
    before = contents(folder)
    line = "train data --base 2 --depth 1 --tile 40 --precision fp32 "
    found = run(line + "--steps 3 --dry-run")
    assert found.code == 0, found.err
    for words in ("5 labelled images", "tile          40 px", "length        3 updates", "run folder    runs/data"):
        assert words in found.out, found.out
    planned = json.loads(run(line + "--budget 2m --dry-run --json").out)
    assert (planned["images"], planned["held_out"], planned["budget_seconds"]) == (5, 1, 120)
    assert contents(folder) == before and not Path("runs").exists()
    # what it says is what is done
    done = json.loads(run(line + "--steps 3 --json -q").out)
    assert done["folder"] == "runs/data"
    configured = json.loads(Path("runs/data/config.json").read_text())["settings"]
    assert (configured["tile"], configured["batch"]) == (planned["tile"], planned["batch"])
    assert run(line + "--tile 41 --dry-run --steps 3").code == 1, "what training refuses is refused"


def test_the_images_of_a_list_are_added_up(folder: Path, run: Run) -> None:
    Path("l.csv").write_text("image\nslide.tif\nstack.tif\nmissing.tif\n")
    before = contents(folder)
    line = "predict -m toy.safetensors --tile 88 --dry-run "
    found = run(line + "--list l.csv --json")
    assert found.code == 3
    assert found.err.count("\n") == 1 and found.err.startswith("Error: missing.tif")
    told = json.loads(found.out)
    single = [json.loads(run(line + f"{name}.tif --json").out) for name in ("slide", "stack")]
    for name in ("pixels", "blocks", "tiles", "disk_bytes"):
        assert told["totals"][name] == sum(one[name] for one in single), name
        assert [one[name] for one in told["images"]] == [one[name] for one in single]
    assert told["totals"]["memory_bytes"] == max(one["memory_bytes"] for one in single)
    assert (told["totals"]["images"], told["failed"]) == (2, 1)
    assert told["totals"]["seconds"] == pytest.approx(sum(one["seconds"] for one in told["images"]))
    shown = run(line + "slide.tif stack.tif").out
    assert "2 images" in shown and "slide.tif" in shown
    assert contents(folder) == before
