"""Commands one after another, as a user gives them: each takes what the one before it has left."""

import csv
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
from image_files import ome_zarr
from mask_files import mask_of
from PIL import Image

from tilesegment.models.model import Model

TOY = "-m toy.safetensors --tile 88 --device cpu"


def save_zarr(name: str, pixels: np.ndarray, **options: object) -> Path:
    zarr.create_array(name, data=pixels, chunks=(64, 64), **options)
    return Path(name)


class TestPreviewAndInfo:
    @pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])
    def test_every_mask_that_holds_ids_is_drawn_alike(self, mask: str, folder: Path, run: Run) -> None:
        assert run(f"predict slide.tif {TOY} --out {mask} --preview during.png").code == 0
        found = run(f"preview slide.tif {mask} --out after.png")
        assert (found.code, found.out, found.err) == (0, "after.png\n", "")
        assert Path("during.png").read_bytes() == Path("after.png").read_bytes()
        facts = json.loads(run(f"info {mask} --json").out)
        assert (facts["kind"], facts["shape_yx"]) == ("mask", [130, 150])
        assert facts["classes"] == {"0": "class 0", "1": "class 1"}

    def test_planes_and_levels_of_a_tiff_mask(self, folder: Path, run: Run) -> None:
        tifffile.imwrite("deep.tif", noise((3, 700, 600)), photometric="minisblack")
        assert run(f"predict deep.tif {TOY} --z 1:3 --out m.tif").code == 0
        assert run(f"predict deep.tif {TOY} --z 1:3 --out m.zarr").code == 0
        for mask in ("m.tif", "m.zarr"):
            assert run(f"preview deep.tif {mask} --out {mask}.png").code == 0
        assert Path("m.tif.png").read_bytes() == Path("m.zarr.png").read_bytes()
        from tilesegment import Region, open_mask

        region = Region(500, 300, 700, 600)
        for z in (0, 1):
            found = [open_mask(mask).read(region, 0, z) for mask in ("m.tif", "m.zarr")]
            np.testing.assert_array_equal(*found)
        reduced = [open_mask(mask).read(Region(250, 150, 350, 300), 1, 1) for mask in ("m.tif", "m.zarr")]
        np.testing.assert_array_equal(*reduced)

    def test_no_mask_is_written_as_jpeg(self, folder: Path, run: Run) -> None:
        found = run(f"predict slide.tif {TOY} --out m.jpg")
        assert (found.code, found.err.count("\n")) == (1, 1)
        assert all(name in found.err for name in ("m.jpg", "NAME.zarr", "NAME.tif", "NAME.png"))

    def test_a_mask_that_was_saved_as_something_else_is_an_image(self, folder: Path, run: Run) -> None:
        run(f"predict slide.tif {TOY} --out m.png")
        from PIL.PngImagePlugin import PngInfo

        with Image.open("m.png") as picture:
            record = PngInfo()
            record.add_text("tilesegment", picture.text["tilesegment"])
            picture.convert("RGB").save("colours.png", pnginfo=record)
            picture.crop((0, 0, 50, 50)).save("crop.png", pnginfo=record)
        for name in ("colours.png", "crop.png"):
            assert json.loads(run(f"info {name} --json").out)["kind"] == "image"
            assert run(f"preview slide.tif {name} --out p.png").code == 1

    def test_a_mask_of_another_image(self, folder: Path, run: Run) -> None:
        tifffile.imwrite("larger.tif", noise((131, 150)))
        tifffile.imwrite("other.tif", noise((130, 150), seed=1))
        run(f"predict slide.tif {TOY} --out m.png")
        run(f"predict slide.tif {TOY} --roi 0:40,0:50 --out roi.png")
        for mask in ("m.png", "roi.png"):
            found = run(f"preview larger.tif {mask} --out p.png")
            assert (found.code, Path("p.png").exists()) == (1, False)
            assert "not a mask of larger.tif" in found.err
            assert "130 x 150" in found.err
        found = run("preview other.tif m.png --out p.png")
        assert found.code == 0
        assert "slide.tif" in found.err
        assert "other.tif" in found.err

    def test_a_part_of_it(self, folder: Path, run: Run) -> None:
        run(f"predict slide.tif {TOY} --roi 10:110,20:120 --out m.tif")
        assert run("preview slide.tif m.tif --roi 20:60,30:130 --out p.png").code == 0
        run(f"predict slide.tif {TOY} --roi 20:60,30:120 --out part.tif --preview part.png")
        with Image.open("p.png") as drawn, Image.open("part.png") as expected:
            assert drawn.size == expected.size
        pixels = tifffile.imread("slide.tif")
        assert pixels.shape == (130, 150)
        found = run("preview slide.tif m.tif --roi 0:5,0:5 --out q.png")
        assert found.code == 1
        assert "0:5,0:5" in found.err
        assert run("preview slide.tif m.tif --roi 0:5,0:500 --out q.png").code == 1

    def test_the_picture_overwrites_neither_image_nor_mask(self, folder: Path, run: Run) -> None:
        Image.fromarray(noise((40, 50))).save("i.png")
        run(f"predict i.png {TOY} --out m.png")
        before = contents(folder)
        for out in ("i.png", "m.png"):
            assert run(f"preview i.png m.png --out {out}").code == 1
        assert contents(folder) == before

    def test_an_overview_of_a_large_image_is_a_few_megabytes(self, folder: Path, run: Run) -> None:
        tifffile.imwrite("large.tif", noise((2100, 2100)), tile=(256, 256))
        run("predict large.tif -m toy.safetensors --tile 1064 --device cpu --out m.zarr --preview p.png")
        assert Path("p.png").stat().st_size < 5e6

    def test_an_axis_that_was_selected(self, folder: Path, run: Run) -> None:
        zarr.create_array("t.zarr", data=noise((3, 2, 40, 50)), chunks=(1, 1, 40, 50))
        line = f"predict t.zarr {TOY} --axes tcyx --select t=2 --channels 1 --out m.tif"
        assert run(line).code == 0
        assert run("preview t.zarr m.tif --out p.png").code == 0
        assert run(f"{line} --preview q.png").code == 0
        assert Path("p.png").read_bytes() == Path("q.png").read_bytes()


class TestTheSamePreviewAgain:
    @pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])
    @pytest.mark.parametrize("preview", ["p.png", "p.jpg"])
    def test_after_it_was_finished(self, mask: str, preview: str, folder: Path, run: Run) -> None:
        line = f"predict slide.tif {TOY} --out {mask} --preview {preview} --json"
        assert run(line).code == 0
        before = contents(folder)
        found = run(line)
        assert (found.code, json.loads(found.out)["blocks"]) == (0, 0)
        assert contents(folder) == before

    def test_after_a_crash_between_preview_and_finish(
        self, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = f"predict slide.tif {TOY} --out m.tif --preview p.png"
        with monkeypatch.context() as patched:
            patched.setattr("tilesegment.masks.writer.build_levels", stop)
            assert run(line).code == 130
        assert (Path("p.png").exists(), Path("m.tif").exists()) == (True, False)
        assert run(line).code == 0
        assert Path("m.tif").exists()

    @pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])
    def test_a_preview_that_is_asked_for_later(self, mask: str, folder: Path, run: Run) -> None:
        line = f"predict slide.tif {TOY} --out {mask}"
        run(line)
        found = run(f"{line} --preview p.png --json")
        assert (found.code, json.loads(found.out)["blocks"]) == (0, 0)
        assert Path("p.png").exists()
        found = run(f"{line} --preview q.png --probabilities p.zarr")
        assert (found.code, Path("q.png").read_bytes()) == (0, Path("p.png").read_bytes())

    def test_a_picture_that_is_none_of_this_mask_is_left_alone(self, folder: Path, run: Run) -> None:
        Image.fromarray(noise((9, 9))).save("foreign.png")
        run(f"predict slide.tif {TOY} --out other.tif --preview other.png --threshold 0.3")
        before = contents(folder)
        for picture in ("foreign.png", "other.png"):
            found = run(f"predict slide.tif {TOY} --out m.tif --preview {picture}")
            assert found.code == 1
            assert picture in found.err
        assert contents(folder) == before
        assert run(f"predict slide.tif {TOY} --out m.tif --preview other.png --overwrite").code == 0


def stop(*arguments: object) -> None:
    raise KeyboardInterrupt


class TestAChosenHaloOfARegion:
    @pytest.fixture
    def same(self, folder: Path) -> Path:
        toy_network("unet-same", depth=2, base=3).save(folder / "same.safetensors")
        return folder

    def test_what_lies_outside_does_not_matter(self, same: Path, run: Run) -> None:
        """Neither its values nor its NaN are predicted."""
        toy_network("unet-same", dtype="float32", depth=2, base=3).save(same / "float.safetensors")
        pixels = noise((400, 400), dtype="float32")
        pixels[:60], pixels[:, 300:] = np.nan, np.nan
        tifffile.imwrite("nan.tif", pixels)
        line = "predict nan.tif -m float.safetensors --device cpu --precision fp32 --halo 8 --roi 120:200,60:140 --json"
        found = run(f"{line} --out m.zarr")
        assert found.code == 0, found.err
        assert json.loads(found.out)["mismatch"] is None
        assert "cannot be measured" in found.err

    def test_it_is_measured_inside(self, same: Path, run: Run) -> None:
        """The rest of the image is constant: no halo changes anything there, and it would thin out what is found."""
        pixels = np.full((900, 900), 128, np.uint8)
        pixels[400:560, 400:560] = noise((160, 160))
        tifffile.imwrite("part.tif", pixels)
        line = "-m same.safetensors --device cpu --precision fp32 --halo 4 --tile 56 --json -q"
        part = json.loads(run(f"predict part.tif {line} --roi 416:544,416:544 --out part.zarr").out)
        tifffile.imwrite("alone.tif", pixels[400:560, 400:560])
        alone = json.loads(run(f"predict alone.tif {line} --out alone.zarr").out)
        assert alone["mismatch"] > 0
        assert part["mismatch"] > 0


def test_a_unetpp_on_reduced_images_is_pruned(folder: Path, run: Run) -> None:
    model = toy_network("unetpp", level=2, base=2, reduction=2)
    model.save(folder / "pp.safetensors")
    assert run("predict slide.tif -m pp.safetensors --prune L1 --device cpu --out m.zarr").code == 0
    assert run("verify slide.tif -m pp.safetensors --prune L1 --precision fp32").code == 0
    model.pruned(1).save(folder / "l1.safetensors")
    assert run("predict slide.tif -m l1.safetensors --device cpu --out l1.zarr").code == 0
    np.testing.assert_array_equal(mask_of("m.zarr"), mask_of("l1.zarr"))
    found = run("predict slide.tif -m toy.safetensors --prune L1 --device cpu --out n.zarr")
    assert "only unetpp" in found.err


class TestAMaskThatSaysWhatIsEmpty:
    @pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])
    def test_our_own_by_its_classes_and_not_by_their_colours(
        self, mask: str, folder: Path, run: Run, small_blocks: None
    ) -> None:
        model = toy_model()
        classes = tuple(replace(one, colour="#ffffff") for one in model.header.classes)
        Model(replace(model.header, classes=classes), model.network).save(folder / "white.safetensors")
        pixels = noise((300, 300))
        tifffile.imwrite("i.tif", pixels)
        # nothing is above this threshold, so all is class 0
        line = "predict i.tif -m white.safetensors --tile 88 --device cpu"
        assert run(f"{line} --threshold 0.999999 --out {mask}").code == 0
        found = json.loads(run(f"{line} --skip-empty {mask} --out n.zarr --json").out)
        assert found["blocks"] == found["blocks_skipped"] > 1

    def test_one_of_a_part_is_refused(self, folder: Path, run: Run) -> None:
        """It has the aspect of the image, and would be taken for one of a smaller level."""
        run(f"predict slide.tif {TOY} --roi 0:65,0:75 --out part.tif")
        found = run(f"predict slide.tif {TOY} --skip-empty part.tif --out m.zarr")
        assert (found.code, found.err.count("\n")) == (1, 1)
        assert "0:65,0:75" in found.err


class TestLists:
    def test_a_list_that_names_all_masks_needs_no_folder(self, folder: Path, run: Run) -> None:
        Path("l.csv").write_text("image,out\nslide.tif,a.zarr\nstack.tif,b.tif\n")
        found = run(f"predict --list l.csv {TOY} --json")
        assert found.code == 0, found.err
        assert {one["out"] for one in json.loads(found.out)["images"]} == {"a.zarr", "b.tif"}
        assert Path("a.zarr").is_dir()
        assert Path("b.tif").is_file()

    def test_a_list_that_lacks_some(self, folder: Path, run: Run) -> None:
        Path("l.csv").write_text("image,out\nslide.tif,a.zarr\nstack.tif,\n")
        found = run(f"predict --list l.csv {TOY}")
        assert found.code == 1
        assert "stack.tif" in found.err
        assert not Path("a.zarr").exists()
        Path("one.csv").write_text("image,out\nslide.tif,a.zarr\n")
        assert run(f"predict --list one.csv {TOY} --out b.zarr").code == 2
        assert run(f"predict --list one.csv {TOY}").code == 0

    @pytest.mark.parametrize("inside", [lambda name: f"o/{name}", lambda name: os.path.abspath(f"o/{name}")])
    def test_masks_named_with_the_folder(self, inside: Callable[[str], str], folder: Path, run: Run) -> None:
        Path("l.csv").write_text(f"image,out\nslide.tif,{inside('b1.zarr')}\nstack.tif,b2.zarr\n")
        assert run(f"predict --list l.csv {TOY} --out-dir o").code == 0
        assert {path.name for path in Path("o").iterdir()} == {"b1.zarr", "b2.zarr", "logs", "summary.csv"}

    def test_equal_names_in_different_folders(self, folder: Path, run: Run) -> None:
        """Each has a log, and the folders are made."""
        Path("l.csv").write_text("image,out\nslide.tif,x/m.zarr\nstack.tif,y/m.zarr\nslide.tif,../m.zarr\n")
        (folder / "work").mkdir()
        assert run(f"predict --list l.csv {TOY} --out-dir work/o").code == 0
        logs = [path for path in Path("work/o/logs").rglob("*") if path.is_file()]
        assert len(logs) == 3
        for log in logs:
            assert log.read_text().count("begun with") == 1

    def test_one_file_under_two_names(self, folder: Path, run: Run) -> None:
        Path("l.csv").write_text("image,out\nslide.tif,m.zarr\nstack.tif,./m.zarr\n")
        found = run(f"predict --list l.csv {TOY} --out-dir o")
        assert found.code == 1
        assert "both" in found.err

    def test_json_names_what_failed_and_why(self, folder: Path, run: Run) -> None:
        found = run(f"predict slide.tif missing.tif rgb.png {TOY} --out-dir o --json -q")
        assert found.code == 3
        facts = json.loads(found.out)
        assert [one["image"] for one in facts["images"]] == ["slide.tif"]
        assert {one["image"] for one in facts["failures"]} == {"missing.tif", "rgb.png"}
        why = {one["image"]: one["error"] for one in facts["failures"]}
        assert "does not exist" in why["missing.tif"]
        assert "3 channels" in why["rgb.png"]

    def test_json_of_a_single_image_names_what_failed(self, folder: Path, run: Run, small_blocks: None) -> None:
        store = save_zarr("i.zarr", noise((400, 400)))
        chunk = store / "c/6/6"
        chunk.write_bytes(chunk.read_bytes()[:-9])
        found = run(f"predict i.zarr {TOY} --out m.zarr --json")
        assert found.code == 3
        (failure,) = json.loads(found.out)["failures"]
        assert failure["blocks_failed"] > 0
        assert failure["blocks_stored"] > 0
        assert "i.zarr" in failure["error"]


class TestFolders:
    def test_the_images_in_it(self, folder: Path, run: Run) -> None:
        (folder / "in" / "sub").mkdir(parents=True)
        for name in ("b.tif", "a.tif"):
            shutil.copy("slide.tif", f"in/{name}")
        save_zarr("in/c.zarr", noise((40, 50)))
        Path("in/Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0")
        Path("in/Icon\r").touch()
        Path("in/readme.txt").write_text("slides of May")
        Path("in/.DS_Store").write_bytes(b"\0\0\0\1Bud1")
        Path("in/._a.tif").write_bytes(b"\0\5\x16\7")
        Path("in/no suffix").write_bytes(Path("slide.tif").read_bytes())
        line = f"predict in {TOY} --out-dir masks"
        found = run(line)
        assert found.code == 0, found.err
        names = {path.name for path in Path("masks").iterdir()} - {"logs", "summary.csv"}
        assert names == {"a.zarr", "b.zarr", "c.zarr", "no suffix.zarr"}
        for name in ("Thumbs.db", "readme.txt", "sub", "Icon"):
            assert name in found.err
        assert "4 images" in found.err
        assert run("predict in --out m.zarr").code == 2
        assert run(f"{line} -q").err == ""

    def test_masks_beside_their_images(self, folder: Path, run: Run) -> None:
        """The second time, masks and previews of the first are no images."""
        (folder / "in").mkdir()
        shutil.copy("slide.tif", "in/a.tif")
        for form in ("zarr", "tif", "png"):
            (folder / form).mkdir()
            shutil.copy("slide.tif", f"{form}/a b.tif")
            line = f"predict {form} {TOY} --out-dir {form} --format {form} --json"
            if form == "tif":
                Path("tif/a b.tif").rename("tif/a.png")
                Image.fromarray(noise((40, 50))).save("tif/a.png")
            for _ in range(2):
                found = run(line)
                assert found.code == 0, found.err
                assert len(json.loads(found.out)["images"]) == 1
        run(f"predict slide.tif {TOY} --out m.tif --preview in/p.png")
        assert len(json.loads(run(f"predict in {TOY} --out-dir o --json").out)["images"]) == 1

    def test_a_damaged_image_fails_by_itself(self, folder: Path, run: Run) -> None:
        (folder / "in").mkdir()
        shutil.copy("slide.tif", "in/a.tif")
        Path("in/empty.tif").touch()
        found = run(f"predict in {TOY} --out-dir o --json -q")
        assert found.code == 3
        assert [one["image"] for one in json.loads(found.out)["failures"]] == ["in/empty.tif"]

    def test_a_folder_without_images(self, folder: Path, run: Run) -> None:
        (folder / "in").mkdir()
        assert "nothing" in run(f"predict in {TOY} --out-dir o").err
        Path("in/notes.txt").touch()
        found = run(f"predict in {TOY} --out-dir o")
        assert (found.code, "notes.txt" in found.err) == (1, True)

    def test_a_folder_in_a_list(self, folder: Path, run: Run) -> None:
        (folder / "in").mkdir()
        shutil.copy("slide.tif", "in/a.tif")
        Path("l.txt").write_text("in\nstack.tif\n")
        assert run(f"predict --list l.txt {TOY} --out-dir o").code == 0
        assert Path("o/a.zarr").is_dir()
        assert Path("o/stack.zarr").is_dir()

    def test_parts_of_two_stores_do_not_collide(self, folder: Path, run: Run) -> None:
        for name in ("A.zarr", "B.ome.zarr", "plain"):
            ome_zarr("0.4", "cyx", 0.5)(folder, noise((1, 130, 150)))
            Path("image.zarr").rename(name)
        found = run(f"predict A.zarr/0 A.zarr/1 B.ome.zarr/0/ plain/0 A.zarr {TOY} --axes cyx --out-dir o")
        names = {path.stem for path in Path("o").glob("*.zarr")}
        assert (found.code, names) == (0, {"A_0", "A_1", "B_0", "plain_0", "A"})
        rows = list(csv.DictReader(Path("o/summary.csv").read_text().splitlines()))
        assert len(rows) == 5


class TestModels:
    def test_the_folder_of_a_run(self, folder: Path, run: Run) -> None:
        (folder / "runs" / "em").mkdir(parents=True)
        line = "predict slide.tif -m runs/em --tile 88 --device cpu --out"
        found = run(f"{line} none.zarr")
        assert (found.code, "model.safetensors" in found.err) == (1, True)
        shutil.copy("toy.safetensors", "runs/em/checkpoint.safetensors")
        assert run(f"{line} none.zarr").code == 1
        shutil.copy("toy.safetensors", "runs/em/model.safetensors")
        assert run(f"{line} m.zarr").code == 0
        run(f"predict slide.tif {TOY} --out toy.zarr")
        np.testing.assert_array_equal(mask_of("m.zarr"), mask_of("toy.zarr"))
        assert json.loads(run("info runs/em --json").out)["kind"] == "model"
        assert run("verify slide.tif -m runs/em/ --tile 88 --precision fp32").code == 0

    def test_a_folder_with_one_model_or_several(self, folder: Path, run: Run) -> None:
        (folder / "models").mkdir()
        shutil.copy("toy.safetensors", "models/a.safetensors")
        line = "predict slide.tif -m models --tile 88 --device cpu --out m.zarr"
        assert run(line).code == 0
        toy_model(seed=1).save(folder / "models" / "b.safetensors")
        found = run(line)
        assert found.code == 1
        assert "a.safetensors" in found.err
        assert "b.safetensors" in found.err

    @pytest.mark.parametrize("suffix", ["pth", "pt", "ckpt"])
    def test_weights_of_others_are_refused_with_the_command_that_takes_them(
        self, suffix: str, folder: Path, run: Run
    ) -> None:
        torch.save({"weights": torch.zeros(2)}, f"w.{suffix}")
        for line in (f"predict slide.tif -m w.{suffix} --out m.zarr", f"info w.{suffix}"):
            found = run(line)
            assert found.code == 1
            assert "tileseg import" in found.err
