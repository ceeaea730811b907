"""The command line as its users meet it: what is printed where, and the exit codes."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import Outcome, Run, contents
from conftest import toy_network
from data_sets import write_pairs
from image_files import make_pixels, zarr_array
from labelled_objects import write_nuclei

import tilesegment
from tilesegment.geometry import Region
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import LabelClass
from tilesegment.models import bundled_models
from tilesegment.training.loop import Trainer
from tilesegment_cli.main import tileseg


@pytest.mark.parametrize("name", ["", *tileseg.commands])
def test_help_is_there_for_every_command(name: str, run: Run) -> None:
    for flag in ("--help", "-h"):
        found = run(f"{name} {flag}")
        assert (found.code, found.err) == (0, "")
        assert found.out.startswith(f"Usage: tileseg {name}".rstrip())
    if not name:
        assert "\n  tileseg predict slide.tif --tile 572 --out mask.zarr\n  tileseg train em_data/\n" in found.out


def test_every_option_says_what_it_does() -> None:
    for command in tileseg.commands.values():
        assert command.help
        told_by_their_names = {"image", "mask", "path", "data", "prediction", "truth", "model", "weights"}
        told_by_their_names |= {"images", "masks", "shell", "device", "precision", "seed", "help"}
        for parameter in command.params:
            assert parameter.name in told_by_their_names or getattr(parameter, "help", None), parameter.name


def test_version_and_nothing_at_all(run: Run) -> None:
    assert run("--version").out.startswith("tileseg, version ")
    found = run("")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("Usage: tileseg")


def test_help_shows_a_syntax_as_it_has_to_be_written(run: Run) -> None:
    shown = run("predict --help").out
    for syntax in ("MICRONS|model", "t=N", "auto|N"):
        assert syntax in shown and syntax.upper() not in shown


def test_help_and_info_need_no_torch(folder: Path) -> None:
    """They start at once."""
    create_mask("m.zarr", MaskSpec((40, 40), None, 64, 64, (LabelClass("a", "#000000"),), None))
    program = "import sys; from tilesegment_cli.main import main; sys.argv = ['tileseg', *{}]\ntry: main()\n"
    program += "finally: assert 'torch' not in sys.modules"
    lines = ("--help", "info toy.safetensors", "info slide.tif", "status m.zarr", "tissue slide.tif -o t.png")
    for line in lines:
        command = [sys.executable, "-c", program.format(line.split())]
        assert subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode == 0, line


def test_the_command_of_the_readme(folder: Path, run: Run) -> None:
    found = run("predict slide.tif --tile 572 --out mask.zarr")
    assert found.code == 0
    assert "em-membrane" in found.err
    assert tilesegment.open_mask("mask.zarr").spec.shape == (130, 150)


def test_the_other_command_of_the_readme(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """All defaults but the twenty minutes; the command that it ends with works."""
    monkeypatch.setattr("tilesegment.training.loop.DEFAULT_BUDGET", 1.0)
    write_pairs(folder / "em_data", 2, side=64)
    found = run("train em_data/")
    assert (found.code, found.out) == (0, "")
    assert "data          2 labelled images" in found.err
    assert "IoU of each class 0." in found.err
    assert "held out      1: 01" in found.err
    assert (folder / "runs" / "em_data" / "report.html").exists()
    command = found.err.strip().splitlines()[-1].strip()
    assert command == "tileseg predict IMAGE --model runs/em_data/model.safetensors --out mask.zarr"
    assert run(command.removeprefix("tileseg ").replace("IMAGE", "slide.tif") + " --roi 0:9,0:9 --tile 204").code == 0
    assert tilesegment.open_mask("mask.zarr").spec.shape == (9, 9)


class TestPredict:
    """`tileseg predict`."""

    LINE = "predict slide.tif -m toy.safetensors --tile 88 "

    def test_json_and_quiet(self, folder: Path, run: Run) -> None:
        found = run(self.LINE + "--out mask.zarr --json")
        assert found.code == 0
        facts = json.loads(found.out)
        known = {"pixels", "seconds", "mpx_per_s", "blocks", "tile", "step", "batch", "device", "precision"}
        assert known | {"peak_rss_bytes", "out"} <= facts.keys()
        assert (facts["pixels"], facts["tile"], facts["step"], facts["out"]) == (130 * 150, 88, 48, "mask.zarr")
        assert facts["peak_rss_bytes"] > 1e8
        assert "mask.zarr: 0.0 Mpx in " in found.err
        assert run(self.LINE + "--out mask.tif -q --preview look.png") == Outcome(0, "", "")
        assert (folder / "mask.tif").exists() and (folder / "look.png").exists()

    def test_a_dry_run_prints_the_plan_and_writes_nothing(self, folder: Path, run: Run) -> None:
        before = contents(folder)
        found = run(self.LINE + "--dry-run")
        assert (found.code, found.err) == (0, "")
        for word in ("tile", "block", "memory", "disk", "time", "88 px, of which 48 are kept"):
            assert word in found.out
        plan = json.loads(run(self.LINE + "--dry-run --json -o m.zarr").out)
        assert {"tiles", "blocks", "memory_bytes", "disk_bytes", "seconds"} <= plan.keys()
        assert (plan["tiles"], plan["pixels"]) == (12, 130 * 150)
        assert contents(folder) == before
        verbose = run(self.LINE + "--out mask.zarr -v")
        assert verbose.err.index("12 tiles") < verbose.err.index("Mpx/s")

    def test_every_option_reaches_the_library(self, folder: Path, run: Run) -> None:
        line = "predict stack.tif -m toy.safetensors --tile 88 --out m.zarr --batch 2 --device cpu --precision fp32 "
        line += "--roi 3:30,5:45 --level 0 --z 1:3 --channels 0 --axes zyx --threshold 0.4 --tta --normalise image "
        assert run(line + "--ngff 0.4 --probabilities p.zarr --overwrite").code == 0
        spec = tilesegment.open_mask("m.zarr").spec
        assert (spec.shape, spec.depth) == ((27, 40), 2)
        decided = spec.fingerprint
        assert (decided["tta"], decided["threshold"], decided["planes"]) == (True, 0.4, [1, 3])
        assert (decided["precision"], decided["tile"], decided["channels"]) == ("fp32", 88, [0])
        assert decided["normalisation"]["mean"] != [128.0]
        assert spec.provenance["batch"] == 2
        assert (folder / "m.zarr" / ".zattrs").exists()
        with tilesegment.open_image("p.zarr") as likely:
            assert (likely.channels, likely.depth) == (2, 2)

    def test_another_axis_is_selected(self, folder: Path, run: Run) -> None:
        zarr_array("zyx", (1, 64, 64))(folder, make_pixels(3, 1, 40, 50))
        line = "predict image.zarr --axes tyx -m toy.safetensors --tile 88 --out m.png"
        found = run(line)
        assert found.code == 1
        assert "t=" in found.err
        assert run(line + " --select t=2").code == 0

    def test_a_taken_name_and_overwrite(self, folder: Path, run: Run) -> None:
        line = self.LINE + "--out mask.png"
        assert run(line).code == 0
        first = (folder / "mask.png").read_bytes()
        assert run(line + " --threshold 0.7").code == 1
        assert (folder / "mask.png").read_bytes() == first
        assert run(line + " --threshold 0.7 --overwrite").code == 0
        assert (folder / "mask.png").read_bytes() != first


class TestTrain:
    """`tileseg train`."""

    LINE = "train data --base 2 --depth 1 --tile 40 --steps 3 --precision fp32 "

    def test_what_it_prints_and_leaves(self, folder: Path, run: Run) -> None:
        write_pairs(folder / "data", 3, side=64)
        found = run(self.LINE + "--out my_run --json --classes outside,inside --name blobs --licence MIT --rate 1e-3")
        assert found.code == 0
        facts = json.loads(found.out.splitlines()[-1])
        assert (facts["folder"], facts["steps"], facts["model"]) == ("my_run", 3, "my_run/model.safetensors")
        assert 0 < facts["scores"]["accuracy"] < 1
        assert re.search(r"1  inside +255  \d\d\.\d\d %", found.err)
        assert "Held out: Dice 0." in found.err
        assert "with the 8 views of --tta: Dice 0." in found.err
        assert "my_run/report.html" in found.err
        told = run("info my_run/model.safetensors").out
        assert "blobs" in told
        assert "MIT" in told
        assert run(self.LINE + "--out my_run").code == 1
        assert run(self.LINE + "--out my_run --overwrite -q") == Outcome(0, "", "")

    def test_of_objects_it_names_the_command_that_finds_them(self, folder: Path, run: Run) -> None:
        write_nuclei(folder / "data", 3)
        found = run(self.LINE + "--out my_run --validation 0")
        assert found.code == 0
        command = found.err.splitlines()[-1].strip()
        assert command == "tileseg predict IMAGE --model my_run/model.safetensors --objects objects.geojson"

    def test_ctrl_c_says_where_the_model_is_and_the_run_goes_on(
        self, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_pairs(folder / "data", 3, side=64)
        update, calls = Trainer.update, []

        def third(*args: object) -> float:
            calls.append(1)
            if len(calls) == 3:
                raise KeyboardInterrupt
            return update(*args)

        with monkeypatch.context() as stopped:
            stopped.setattr(Trainer, "update", third)
            found = run(self.LINE)
        assert (found.code, found.out) == (130, "")
        assert "The model after 2 steps is in runs/data." in found.err
        assert found.err.rstrip().endswith("Stopped.")
        assert run("info runs/data/model.safetensors").code == 0
        again = re.search(r"Go on with: tileseg (train data --out runs/data --resume)\n", found.err)
        assert again is not None
        found = run(again[1])
        assert (found.code, "going on after step 2" in found.err) == (0, True)
        found = run(again[1])
        assert (found.code, "is finished" in found.err) == (0, True)

    def test_every_option_reaches_the_run(self, folder: Path, run: Run) -> None:
        """What is parsed is not ignored: all of it stands in config.json."""
        write_pairs(folder / "data", 3, side=64)
        line = (
            "train data --out my_run -q --steps 2 --network unet-same --option up=nearest --option depth=2 --base 2 "
            "--dropout 0.2 --tile 64 --scale 0.5 --batch 2 --lr 0.01 --optimiser sgd --ema 0.9 --loss bce+iou "
            "--class-weights auto --border-weight 3 --border-sigma 2 --elastic-sigma 4 --elastic-grid 20 --defects 0.5 "
            "--shades 0.3 --zoom 1.1 --exposure 3 --stains 0 --jpeg 0.1 --normalise percentiles --no-padded "
            "--mpp 0.6 --source-mpp 0.5 --validation 01 --goal miou --threshold 0.4 --seed 7 --precision fp32 "
            "--workers 0 --halo 16 --name n --licence MIT --device cpu"
        )
        assert run(line) == Outcome(0, "", "")
        settings = json.loads((folder / "my_run" / "config.json").read_text())["settings"]
        augmentation = settings.pop("augmentation")
        expected = {
            "steps": 2, "network": "unet-same", "options": {"up": "nearest", "depth": 2}, "base": 2, "dropout": 0.2,
            "tile": 64, "scale": 0.5, "batch": 2, "rate": 0.01, "optimiser": "sgd", "ema": 0.9, "loss": "bce+iou",
            "class_weights": "auto", "border_weight": 3, "border_sigma": 2, "validation": ["01"], "goal": "miou",
            "threshold": 0.4, "seed": 7, "precision": "fp32", "workers": 0, "halo": 16, "name": "n", "licence": "MIT",
            "normalise": "percentiles", "padded": False, "mpp": 0.6, "source_mpp": 0.5,
            "device": "cpu", "budget": None, "epochs": None, "depth": None, "init": None,
        }  # fmt: skip
        assert settings == expected
        strengths = ("elastic_sigma", "elastic_grid", "defects", "shades", "zoom", "exposure", "stains", "jpeg")
        assert [augmentation[key] for key in strengths] == [4, 20, 0.5, 0.3, 1.1, 3, 0, 0.1]
        # the same again from the file, one thing changed
        assert run("train data --out again -q --config my_run/config.json --seed 8") == Outcome(0, "", "")
        again = json.loads((folder / "again" / "config.json").read_text())["settings"]
        assert {**again, "seed": 7, "name": "n"} == {**settings, "augmentation": augmentation}


def test_networks_are_listed_with_their_options(run: Run) -> None:
    found = run("networks")
    assert found.code == 0
    for words in ("unetpp", "--option up=", "halo 3296 px", "tileseg train begins with base=32, dropout=0.1"):
        assert words in found.out
    assert {one["name"] for one in json.loads(run("networks --json").out)} >= {"unet", "unet-same", "fcn8"}


def test_verify(folder: Path, run: Run) -> None:
    line = "verify slide.tif -m toy.safetensors --tile 88 --precision fp32"
    found = run(line + " --json")
    assert found.code == 0
    assert found.err.splitlines()[-1].startswith("seamless: tile 88, step 48, fp32: largest difference")
    facts = json.loads(found.out)
    assert (facts["seamless"], facts["pixels"]) == (True, 0)
    assert run(line + " -q") == Outcome(0, "", "")
    toy_network("unet-same", depth=2, base=3).save(folder / "same.safetensors")
    found = run("verify slide.tif -m same.safetensors --halo 4 --tile 56 --precision fp32 --json")
    assert (found.code, json.loads(found.out)["seamless"]) == (1, False)
    assert found.err.splitlines()[-1].startswith("NOT seamless")


def test_info(folder: Path, run: Run) -> None:
    assert run("predict stack.tif -m toy.safetensors --tile 88 --out mask.zarr -q").code == 0
    image = run("info slide.tif").out
    assert "kind:            image\n" in image
    assert "planes:          none\n" in image
    assert "pixel_size_um:   unknown\n" in image
    model = run("info toy.safetensors").out
    assert "kind:            model\n" in model
    assert "  1:               class 1\n" in model
    mask = run("info mask.zarr").out
    assert "kind:            mask\n" in mask
    assert "planes:          5\n" in mask
    assert json.loads(run("info mask.zarr --json").out)["provenance"]["image"] == str(folder / "stack.tif")


def test_info_of_a_mask_fits_on_a_screen_and_tells_its_shares(folder: Path, run: Run) -> None:
    assert run("predict slide.tif -m toy.safetensors --tile 88 --out mask.zarr -q").code == 0
    facts = json.loads(run("info mask.zarr --json").out)
    brief, whole = run("info mask.zarr"), run("info mask.zarr -v")
    assert len(brief.out.splitlines()) <= 24 < len(whole.out.splitlines())
    assert "-v" in brief.err and whole.err == ""
    assert "image:           " + str(folder / "slide.tif") in brief.out
    assert "fingerprint" not in brief.out and "fingerprint:\n" in whole.out
    for found in (brief.out, whole.out):
        assert "classes, counted at level 0:" in found
        for n in "01":
            assert re.search(rf"  {n} class {n} +{100 * facts['shares'][n]:.2f} %", found)


def test_info_of_a_mask_of_many_classes_lists_the_frequent_ones(folder: Path, run: Run) -> None:
    classes = tuple(LabelClass(f"class {n}", "#123456") for n in range(30))
    writer = create_mask("mask.zarr", MaskSpec((40, 40), None, 64, 64, classes, None))
    ids = np.minimum(np.arange(1600) // 50, 29).reshape(40, 40).astype(np.uint8)
    writer.write(Region(0, 0, 40, 40), ids)
    writer.finish()
    brief = run("info mask.zarr").out.splitlines()
    assert brief[-1] == "  and 10 rarer classes" and len(brief) <= 40
    shares = json.loads(run("info mask.zarr --json").out)["shares"]
    most = max(shares, key=lambda n: shares[n])
    assert any(line.startswith(f"  {most} class {most} ") for line in brief)
    assert len([line for line in run("info mask.zarr -v").out.splitlines() if re.match(r"  \d+ class", line)]) == 30


def test_models(run: Run) -> None:
    found = run("models --json")
    assert found.code == 0
    assert [one["path"] for one in json.loads(found.out)] == list(bundled_models())
    assert len(run("models").out.splitlines()) == len(bundled_models())


def test_debug_shows_where_it_happened(run: Run) -> None:
    found = run("info nowhere.tif")
    assert (found.code, found.out, found.err.count("\n")) == (1, "", 1)
    assert found.err.startswith("Error: nowhere.tif")
    with pytest.raises(tilesegment.ImageError, match=r"nowhere\.tif"):
        run("info nowhere.tif --debug")
