"""Commands one after another, as a user gives them: each takes what the one before it has left."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
import zarr
from command_line import Run, contents
from conftest import noise, toy_model, toy_network
from mask_files import mask_of
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tilesegment import Region, open_mask
from tilesegment.models.model import Model

TOY = "-m toy.safetensors --tile 88 --device cpu"
MASKS = pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])


def facts(run: Run, line: str, code: int = 0) -> dict:
    """What a command prints as JSON."""
    found = run(f"{line} --json")
    assert found.code == code, found.err
    return json.loads(found.out)


def refused(run: Run, line: str, *named: str) -> None:
    """A command fails in one line that names something."""
    found = run(line)
    assert (found.code, found.err.count("\n")) == (1, 1), found.err
    assert all(name in found.err for name in named)


class TestPreviewAndInfo:
    @MASKS
    def test_every_mask_is_drawn_alike_during_the_run_and_after(self, mask: str, folder: Path, run: Run) -> None:
        line = f"predict slide.tif {TOY} --out {mask}"
        assert run(f"{line} --preview during.png").code == 0
        found = run(f"preview slide.tif {mask} --out after.png")
        assert (found.code, found.out, found.err) == (0, "after.png\n", "")
        assert Path("during.png").read_bytes() == Path("after.png").read_bytes()
        described = facts(run, f"info {mask}")
        assert (described["kind"], described["shape_yx"]) == ("mask", [130, 150])
        assert described["classes"] == {"0": "class 0", "1": "class 1"}
        # asked for later, of a mask that is finished
        assert facts(run, f"{line} --preview later.jpg")["blocks"] == 0
        assert run(f"{line} --preview again.png --probabilities p.zarr").code == 0
        assert Path("again.png").read_bytes() == Path("during.png").read_bytes()
        before = contents(folder)
        for picture in ("during.png", "later.jpg"):
            assert facts(run, f"{line} --preview {picture}")["blocks"] == 0
        assert contents(folder) == before

    def test_planes_and_levels_of_a_tiff_mask(self, folder: Path, run: Run) -> None:
        tifffile.imwrite("deep.tif", noise((3, 700, 600)), photometric="minisblack")
        for mask in ("m.tif", "m.zarr"):
            assert run(f"predict deep.tif {TOY} --z 1:3 --out {mask}").code == 0
            assert run(f"preview deep.tif {mask} --out {mask}.png").code == 0
        assert Path("m.tif.png").read_bytes() == Path("m.zarr.png").read_bytes()
        for place in ((Region(500, 300, 700, 600), 0, 0), (Region(500, 300, 700, 600), 0, 1)):
            np.testing.assert_array_equal(*(open_mask(mask).read(*place) for mask in ("m.tif", "m.zarr")))
        reduced = (open_mask(mask).read(Region(250, 150, 350, 300), 1, 1) for mask in ("m.tif", "m.zarr"))
        np.testing.assert_array_equal(*reduced)

    def test_a_mask_that_was_saved_as_something_else_is_an_image(self, folder: Path, run: Run) -> None:
        run(f"predict slide.tif {TOY} --out m.png")
        with Image.open("m.png") as picture:
            record = PngInfo()
            record.add_text("tilesegment", picture.text["tilesegment"])
            picture.convert("RGB").save("colours.png", pnginfo=record)
            picture.crop((0, 0, 50, 50)).save("crop.png", pnginfo=record)
        for name in ("colours.png", "crop.png"):
            assert facts(run, f"info {name}")["kind"] == "image"
            assert run(f"preview slide.tif {name} --out p.png").code == 1

    def test_a_mask_of_another_image(self, folder: Path, run: Run) -> None:
        tifffile.imwrite("larger.tif", noise((131, 150)))
        tifffile.imwrite("other.tif", noise((130, 150), seed=1))
        run(f"predict slide.tif {TOY} --out m.png")
        run(f"predict slide.tif {TOY} --roi 0:40,0:50 --out roi.png")
        for mask in ("m.png", "roi.png"):
            refused(run, f"preview larger.tif {mask} --out p.png", mask, "larger.tif", "130 x 150")
            assert not Path("p.png").exists()
        found = run("preview other.tif m.png --out p.png")
        assert found.code == 0
        assert "slide.tif" in found.err and "other.tif" in found.err

    def test_a_part_of_it(self, folder: Path, run: Run) -> None:
        run(f"predict slide.tif {TOY} --roi 10:110,20:120 --out m.tif")
        assert run("preview slide.tif m.tif --roi 20:60,30:130 --out p.png").code == 0
        run(f"predict slide.tif {TOY} --roi 20:60,30:120 --out part.tif --preview part.png")
        with Image.open("p.png") as drawn, Image.open("part.png") as expected:
            assert drawn.size == expected.size
        refused(run, "preview slide.tif m.tif --roi 0:5,0:5 --out q.png", "0:5,0:5")

    def test_a_picture_overwrites_neither_image_nor_mask_nor_another_picture(self, folder: Path, run: Run) -> None:
        Image.fromarray(noise((40, 50))).save("i.png")
        run(f"predict i.png {TOY} --out m.png")
        run(f"predict i.png {TOY} --out other.tif --preview other.png --threshold 0.3")
        before = contents(folder)
        for out in ("i.png", "m.png"):
            refused(run, f"preview i.png m.png --out {out}", out)
        for picture in ("rgb.png", "other.png"):
            refused(run, f"predict i.png {TOY} --out m.tif --preview {picture}", picture)
        assert contents(folder) == before
        assert run(f"predict i.png {TOY} --out m.tif --preview other.png --overwrite").code == 0
        # as after a crash between the picture and the mask
        Path("m.tif").unlink()
        assert run(f"predict i.png {TOY} --out m.tif --preview other.png").code == 0
        assert Path("m.tif").exists()

    def test_an_axis_that_was_selected(self, folder: Path, run: Run) -> None:
        zarr.create_array("t.zarr", data=noise((3, 2, 40, 50)), chunks=(1, 1, 40, 50))
        line = f"predict t.zarr {TOY} --axes tcyx --select t=2 --channels 1 --out m.tif"
        assert run(line).code == 0
        assert run("preview t.zarr m.tif --out p.png").code == 0
        assert run(f"{line} --preview q.png").code == 0
        assert Path("p.png").read_bytes() == Path("q.png").read_bytes()


def test_a_chosen_halo_is_judged_inside_the_region(folder: Path, run: Run) -> None:
    """Elsewhere no halo changes anything, and it would thin out what is found; NaN there is not predicted."""
    toy_network("unet-same", depth=2, base=3).save(folder / "same.safetensors")
    toy_network("unet-same", dtype="float32", depth=2, base=3).save(folder / "float.safetensors")
    pixels = np.full((900, 900), 128, np.uint8)
    pixels[400:560, 400:560] = noise((160, 160))
    tifffile.imwrite("part.tif", pixels)
    line = "--device cpu --precision fp32 --out m.zarr"
    roi = "--roi 416:544,416:544"
    assert facts(run, f"predict part.tif -m same.safetensors --halo 4 --tile 56 {roi} {line}")["mismatch"] > 0
    pixels = noise((400, 400), dtype="float32")
    pixels[:60], pixels[:, 300:] = np.nan, np.nan
    tifffile.imwrite("nan.tif", pixels)
    roi = "--roi 120:200,60:140 --overwrite"
    assert facts(run, f"predict nan.tif -m float.safetensors --halo 8 {roi} {line}")["mismatch"] is None


def test_a_unetpp_on_reduced_images_is_pruned(folder: Path, run: Run) -> None:
    model = toy_network("unetpp", level=2, base=2, reduction=2)
    model.save(folder / "pp.safetensors")
    assert run("predict slide.tif -m pp.safetensors --prune L1 --device cpu --out m.zarr").code == 0
    assert run("verify slide.tif -m pp.safetensors --prune L1 --precision fp32").code == 0
    model.pruned(1).save(folder / "l1.safetensors")
    assert run("predict slide.tif -m l1.safetensors --device cpu --out l1.zarr").code == 0
    np.testing.assert_array_equal(mask_of("m.zarr"), mask_of("l1.zarr"))
    refused(run, "predict slide.tif -m toy.safetensors --prune L1 --device cpu --out n.zarr", "unetpp")


@MASKS
def test_a_mask_says_what_is_empty_by_its_classes(mask: str, folder: Path, run: Run, small_blocks: None) -> None:
    """Not by their colours; and not if it is the mask of a part, which has the shape of a smaller level."""
    model = toy_model()
    white = tuple(replace(one, colour="#ffffff") for one in model.header.classes)
    Model(replace(model.header, classes=white), model.network).save(folder / "white.safetensors")
    tifffile.imwrite("i.tif", noise((300, 300)))
    # nothing is above this threshold, so all is class 0
    line = "predict i.tif -m white.safetensors --tile 88 --device cpu"
    assert run(f"{line} --threshold 0.999999 --out {mask}").code == 0
    found = facts(run, f"{line} --skip-empty {mask} --out n.zarr")
    assert found["blocks"] == found["blocks_skipped"] > 1
    run(f"{line} --roi 0:150,0:150 --out part.tif")
    refused(run, f"{line} --skip-empty part.tif --out o.zarr", "0:150,0:150")


class TestLists:
    def test_masks_that_a_list_names(self, folder: Path, run: Run) -> None:
        Path("l.csv").write_text("image,out\nslide.tif,a.zarr\nstack.tif,b.tif\n")
        assert {one["out"] for one in facts(run, f"predict --list l.csv {TOY}")["images"]} == {"a.zarr", "b.tif"}
        assert Path("a.zarr").is_dir() and Path("b.tif").is_file()
        Path("l.csv").write_text("image,out\nslide.tif,c.zarr\nstack.tif,\n")
        refused(run, f"predict --list l.csv {TOY}", "stack.tif")
        assert not Path("c.zarr").exists()
        Path("one.csv").write_text("image,out\nslide.tif,a.zarr\n")
        assert run(f"predict --list one.csv {TOY} --out b.zarr").code == 2
        assert run(f"predict --list one.csv {TOY}").code == 0

    @pytest.mark.parametrize("inside", [lambda name: f"o/{name}", lambda name: os.path.abspath(f"o/{name}")])
    def test_masks_named_with_the_folder(self, inside: Callable[[str], str], folder: Path, run: Run) -> None:
        Path("l.csv").write_text(f"image,out\nslide.tif,{inside('b1.zarr')}\nstack.tif,b2.zarr\n")
        assert run(f"predict --list l.csv {TOY} --out-dir o").code == 0
        assert {path.name for path in Path("o").iterdir()} == {"b1.zarr", "b2.zarr", "logs", "summary.csv"}

    def test_equal_names_have_logs_of_their_own_and_one_name_is_refused(self, folder: Path, run: Run) -> None:
        Path("l.csv").write_text("image,out\nslide.tif,x/m.zarr\nstack.tif,y/m.zarr\nslide.tif,../m.zarr\n")
        (folder / "work").mkdir()
        assert run(f"predict --list l.csv {TOY} --out-dir work/o").code == 0
        logs = [path for path in Path("work/o/logs").rglob("*") if path.is_file()]
        assert [log.read_text().count("begun with") for log in logs] == [1, 1, 1]
        Path("l.csv").write_text("image,out\nslide.tif,m.zarr\nstack.tif,./m.zarr\n")
        refused(run, f"predict --list l.csv {TOY} --out-dir o", "slide.tif", "stack.tif", "m.zarr")

    def test_json_of_a_single_image_names_what_failed(self, folder: Path, run: Run, small_blocks: None) -> None:
        zarr.create_array("i.zarr", data=noise((400, 400)), chunks=(64, 64))
        chunk = Path("i.zarr/c/6/6")
        chunk.write_bytes(chunk.read_bytes()[:-9])
        (failure,) = facts(run, f"predict i.zarr {TOY} --out m.zarr", 3)["failures"]
        assert min(failure["blocks_failed"], failure["blocks_stored"]) > 0
        assert "i.zarr" in failure["error"]


class TestFolders:
    def test_the_images_in_it(self, folder: Path, run: Run) -> None:
        (folder / "in" / "sub").mkdir(parents=True)
        for name in ("b.tif", "a.tif", "no suffix"):
            shutil.copy("slide.tif", f"in/{name}")
        zarr.create_array("in/c.zarr", data=noise((40, 50)), chunks=(64, 64))
        for name in ("Thumbs.db", "Icon\r", "readme.txt", ".DS_Store", "._a.tif"):
            Path("in", name).write_bytes(b"\0\5\x16\7")
        line = f"predict in {TOY} --out-dir masks"
        found = run(line)
        assert found.code == 0, found.err
        names = {path.name for path in Path("masks").iterdir()} - {"logs", "summary.csv"}
        assert names == {"a.zarr", "b.zarr", "c.zarr", "no suffix.zarr"}
        assert all(name in found.err for name in ("4 images", "Thumbs.db", "readme.txt", "sub", "Icon"))
        assert run("predict in --out m.zarr").code == 2
        assert run(f"{line} -q").err == ""
        # a folder in a list, and one without any image
        Path("l.txt").write_text("in\nstack.tif\n")
        assert len(facts(run, f"predict --list l.txt {TOY} --out-dir o")["images"]) == 5
        refused(run, f"predict in/sub {TOY} --out-dir o", "in/sub")

    def test_masks_and_previews_beside_their_images_are_no_images(self, folder: Path, run: Run) -> None:
        for form in ("zarr", "tif", "png"):
            (folder / form).mkdir()
            Image.fromarray(noise((40, 50))).save(f"{form}/a b.bmp.{'png' if form == 'tif' else 'tif'}")
            for _ in range(2):
                assert len(facts(run, f"predict {form} {TOY} --out-dir {form} --format {form}")["images"]) == 1
        run(f"predict slide.tif {TOY} --out m.tif --preview png/p.png")
        assert len(facts(run, f"predict png {TOY} --out-dir o")["images"]) == 1


def test_the_folder_of_a_run_stands_for_its_model(folder: Path, run: Run) -> None:
    (folder / "runs" / "em").mkdir(parents=True)
    line = "predict slide.tif -m runs/em --tile 88 --device cpu --out"
    shutil.copy("toy.safetensors", "runs/em/checkpoint.safetensors")
    refused(run, f"{line} none.zarr", "runs/em")
    shutil.copy("toy.safetensors", "runs/em/model.safetensors")
    assert run(f"{line} m.zarr").code == 0
    run(f"predict slide.tif {TOY} --out toy.zarr")
    np.testing.assert_array_equal(mask_of("m.zarr"), mask_of("toy.zarr"))
    assert facts(run, "info runs/em")["kind"] == "model"
    assert run("verify slide.tif -m runs/em/ --tile 88 --precision fp32").code == 0


@pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt"])
def test_weights_of_others_are_refused_with_the_command_that_takes_them(suffix: str, folder: Path, run: Run) -> None:
    torch.save({"weights": torch.zeros(2)}, f"w.{suffix}")
    for line in (f"predict slide.tif -m w.{suffix} --out m.zarr", f"info w.{suffix}"):
        refused(run, line, "tileseg import")
