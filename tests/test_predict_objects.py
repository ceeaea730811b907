"""`predict --objects`: the objects of the finished mask, in one go, through whatever befalls the run."""

import csv
import json
import shutil
import signal
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run
from conftest import noise, toy_model
from fault_runs import Runs, killed, signalled
from image_files import make_pixels, ome_zarr, tiff
from mask_files import mask_of

import tilesegment
from tilesegment import MaskError, PlanError, StoppedError
from tilesegment.metadata import LabelClass
from tilesegment.objects.find import find_objects
from tilesegment.objects.summary import summarise
from tilesegment.prediction.result import Listener, Progress, Result
from tilesegment.prediction.settings import Outputs

SETTINGS: dict[str, Any] = {"tile": 88, "precision": "fp32", "block": 96}
TOY = "-m toy.safetensors --tile 88 --precision fp32"


class Heard(Listener):
    """Keeps what it hears of objects, and presses Ctrl-C after so many blocks, or at the first object."""

    def __init__(self, blocks: int | None = None, *, at_objects: bool = False) -> None:
        self.blocks, self.at_objects = blocks, at_objects
        self.found: list[tuple[float, str]] = []

    def progressed(self, result: Result, progress: Progress) -> None:
        if progress.blocks == self.blocks:
            raise KeyboardInterrupt

    def finding(self, result: Result, share: float, what: str) -> None:
        self.found.append((share, what))
        if self.at_objects:
            raise KeyboardInterrupt


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Of 12 blocks, with a model beside it."""
    toy_model(classes=3).save(tmp_path / "model.safetensors")
    return tiff("yx", tile=(64, 64), compression="zlib")(tmp_path, make_pixels(1, 200, 290))


def predict(image: Path, out: str | None, *objects: str, **more: Any) -> Result:
    """Predict beside the image; files are named by their names."""
    files = [image.parent / name for name in objects]
    mask = None if out is None else image.with_name(out)
    return tilesegment.predict(image, mask, image.with_name("model.safetensors"), objects=files, **SETTINGS | more)


def rows_of(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text().splitlines()))


def names(folder: Path) -> set[str]:
    """Everything there, hidden or not."""
    return {path.name for path in folder.iterdir()}


def listing(folder: Path) -> dict[Path, int]:
    return {path: path.lstat().st_mtime_ns for path in folder.rglob("*")}


def test_objects_are_those_of_the_mask(image: Path) -> None:
    heard = Heard()
    done = predict(image, "m.zarr", "c.csv", "c.geojson", "l.zarr", listeners=[heard])
    here = image.parent
    alone = find_objects(here / "m.zarr", here / "d.csv", here / "d.geojson", here / "k.zarr")
    assert alone.count > 100
    assert (here / "c.csv").read_bytes() == (here / "d.csv").read_bytes()
    assert (here / "c.geojson").read_bytes() == (here / "d.geojson").read_bytes()
    np.testing.assert_array_equal(mask_of(here / "l.zarr"), mask_of(here / "k.zarr"))
    assert done.objects is not None
    assert (done.objects.count, done.objects.by_class) == (alone.count, alone.by_class)
    assert set(alone.by_class) == {"class 1", "class 2"} and sum(alone.by_class.values()) == alone.count
    shares = [share for share, _ in heard.found]
    assert min(shares) > 0 and shares[-1] == max(shares) == 1


def test_without_a_mask_they_are_the_same_and_nothing_else_is_left(image: Path) -> None:
    before = names(image.parent)
    done = predict(image, None, "c.csv", "l.zarr", object_settings={"min_area": 3, "classes": ["class 2"]})
    assert names(image.parent) == before | {"c.csv", "l.zarr"}
    assert (done.complete, done.as_json()["out"]) == (True, None)
    assert done.as_json()["objects"]["count"] == len(rows_of(image.with_name("c.csv"))) > 0
    predict(image, "m.zarr")
    found = find_objects(image.with_name("m.zarr"), image.with_name("d.csv"), min_area=3, classes=["class 2"])
    assert image.with_name("c.csv").read_bytes() == image.with_name("d.csv").read_bytes()
    assert found.by_class == {"class 2": found.count}


def test_ids_among_the_labels_of_the_image(tmp_path: Path) -> None:
    image = ome_zarr("0.5", "cyx", 0.5)(tmp_path, make_pixels(1, 200, 150))
    toy_model().save(tmp_path / "model.safetensors")
    before = names(tmp_path)
    done = predict(image, None, "image.zarr/labels/cells")
    assert names(tmp_path) == before
    assert names(image / "labels") == {"zarr.json", "cells"}
    assert zarr.open_group(image / "labels", mode="r").attrs["ome"]["labels"] == ["cells"]
    assert done.objects is not None and mask_of(image / "labels/cells").max() == done.objects.count


@pytest.mark.parametrize("region", [None, tilesegment.Region(30, 40, 160, 200)])
def test_grey_values_are_those_of_the_predicted_image(image: Path, region: tilesegment.Region | None) -> None:
    predict(image, "m.zarr", "c.csv", "l.zarr", measure_image=True, roi=region)
    pixels, ids = tifffile.imread(image), mask_of(image.with_name("l.zarr"))
    pixels = pixels[region.slices] if region is not None else pixels
    rows = rows_of(image.with_name("c.csv"))
    assert len(rows) == ids.max() > 50
    sums = np.bincount(ids.ravel(), pixels.ravel())[1:] / np.bincount(ids.ravel())[1:]
    np.testing.assert_allclose([float(row["intensity_mean-0"]) for row in rows], sums, rtol=1e-12)


class TestRefused:
    """Before a block is predicted, and with nothing changed."""

    @pytest.mark.parametrize(
        ("objects", "more", "said"),
        [
            (["c.csv"], {"object_settings": {"classes": ["nucleus"]}}, "0 class 0, 1 class 1, 2 class 2"),
            (["c.csv"], {"object_settings": {"border": "9"}}, "no class '9'"),
            (["c.csv"], {"object_settings": {"volume": True}}, "has one plane"),
            (["c.csv"], {"object_settings": {"min_aera": 3}}, "min_aera"),
            (["c.csv"], {"measure_image": True, "invert": True}, "--measure-image"),
            (["c.txt"], {}, "cannot tell from the name"),
            (["nowhere/c.csv"], {}, "no folder"),
            (["mine.csv"], {}, "--overwrite"),
            (["mine.zarr"], {}, "--overwrite"),
            (["mine.zarr"], {"overwrite": True}, "not made by tilesegment"),
            (["c.csv", "c.csv"], {}, "twice"),
            (["m.zarr"], {}, "twice"),
            (["m.zarr/c.csv"], {}, "lies in the mask"),
            (["image.tif"], {"overwrite": True}, "is the image that is read"),
        ],
    )
    @pytest.mark.parametrize("out", ["m.zarr", None])
    def test_what_cannot_work(self, image: Path, out: str | None, objects: list[str], more: dict, said: str) -> None:
        if out is None and any("m.zarr" in name for name in objects):
            pytest.skip("there is no mask to be named")
        image.with_name("mine.csv").write_text("mine")
        image.with_name("mine.zarr").mkdir()
        before = listing(image.parent)
        with pytest.raises((PlanError, MaskError)) as error:
            predict(image, out, *objects, **more)
        assert said in str(error.value)
        assert listing(image.parent) == before

    def test_neither_mask_nor_objects(self) -> None:
        with pytest.raises(PlanError, match="--out"):
            Outputs.of(None, {})

    def test_objects_of_other_settings_of_a_mask_that_is_there(self, image: Path) -> None:
        predict(image, "m.zarr", "l.zarr")
        before = listing(image.parent)
        with pytest.raises(MaskError, match="other settings"):
            predict(image, "m.zarr", "l.zarr", object_settings={"min_area": 5})
        assert listing(image.parent) == before
        done = predict(image, "m.zarr", "l.zarr", object_settings={"min_area": 5}, overwrite=True)
        assert done.objects is not None
        assert mask_of(image.with_name("l.zarr")).max() == done.objects.count


class TestGoingOn:
    @pytest.mark.parametrize("out", ["m.zarr", None])
    def test_after_ctrl_c_among_the_blocks(self, image: Path, out: str | None) -> None:
        with pytest.raises(KeyboardInterrupt):
            predict(image, out, "c.csv", listeners=[Heard(3)])
        done = predict(image, out, "c.csv")
        assert 3 <= done.blocks_resumed < 12
        predict(image, "other.zarr", "other.csv")
        assert image.with_name("c.csv").read_bytes() == image.with_name("other.csv").read_bytes()

    @pytest.mark.parametrize("out", ["m.zarr", None])
    def test_after_ctrl_c_among_the_objects(self, image: Path, out: str | None) -> None:
        before = names(image.parent)
        with pytest.raises(KeyboardInterrupt):
            predict(image, out, "c.csv", listeners=[Heard(at_objects=True)])
        assert not image.with_name("c.csv").exists()
        done = predict(image, out, "c.csv")
        assert (done.blocks, done.blocks_resumed) == (0, 12)
        assert names(image.parent) - before == {"c.csv", *([] if out is None else [out])}

    def test_asked_to_stop_among_the_objects(self, image: Path) -> None:
        with pytest.raises(StoppedError, match=r"c\.csv"):
            predict(image, None, "c.csv", stop=lambda: image.with_name(".c.csv.objects").exists())
        assert not image.with_name("c.csv").exists()
        assert predict(image, None, "c.csv").blocks == 0

    def test_ids_that_are_there_are_done(self, image: Path) -> None:
        first = predict(image, "m.zarr", "l.zarr")
        before = listing(image.parent)
        again = predict(image, "m.zarr", "l.zarr")
        assert listing(image.parent) == before
        assert first.objects is not None and again.objects is not None
        assert again.blocks == 0 and "had already written" in again.objects.notes[0]
        assert (again.objects.count, again.objects.by_class) == (first.objects.count, first.objects.by_class)

    def test_objects_of_a_finished_mask_can_be_had_later(self, image: Path) -> None:
        predict(image, "m.zarr", "l.zarr")
        later = predict(image, "m.zarr", "l.zarr", "c.csv")
        assert later.blocks == 0 and later.objects is not None
        assert len(rows_of(image.with_name("c.csv"))) == later.objects.count

    def test_a_mask_that_is_only_worked_out_is_not_computed_again_to_replace_objects(self, image: Path) -> None:
        image.with_name("c.csv").write_text("mine")
        with pytest.raises(KeyboardInterrupt):
            predict(image, None, "c.csv", overwrite=True, listeners=[Heard(at_objects=True)])
        assert image.with_name("c.csv").read_text() == "mine"
        assert predict(image, None, "c.csv", overwrite=True).blocks == 0
        assert rows_of(image.with_name("c.csv"))


@pytest.mark.parametrize("out", ["m.zarr", None])
@pytest.mark.parametrize(("order", "parts"), [((1, 3, 2), 3), ((2, 1, *range(3, 15)), 14)])
def test_the_part_that_finishes_the_mask_finds_the_objects(
    image: Path, out: str | None, order: tuple[int, ...], parts: int
) -> None:
    """Of 14 parts some have no block."""
    done = [predict(image, out, "c.csv", "l.zarr", part=(k, parts)) for k in order]
    finders = [one for one in done if one.objects is not None and not one.objects.notes]
    assert len(finders) == 1
    assert {one.state for one in done} <= {"part", "complete"} and finders[0].complete
    predict(image, "other.zarr", "other.csv")
    assert image.with_name("c.csv").read_bytes() == image.with_name("other.csv").read_bytes()
    if out is not None:
        assert predict(image, out, "c.csv", "l.zarr", part=(1, parts)).complete
    assert {name for name in names(image.parent) if name.startswith(".")} == {".l.zarr.objects.done"}


class TestMany:
    @pytest.fixture
    def folder(self, folder: Path) -> Path:
        for name, side in (("a", 70), ("b", 90)):
            tifffile.imwrite(folder / f"{name}.tif", noise((side, side)), resolution=(20_000, 20_000), resolutionunit=3)
        return folder

    def test_they_lie_beside_the_masks_and_the_summary_counts_them(self, folder: Path, run: Run) -> None:
        line = f"predict a.tif b.tif {TOY} --out-dir o --objects .csv --objects .geojson.gz --objects .zarr"
        found = run(f"{line} --json")
        assert found.code == 0, found.err
        for name in "ab":
            assert {f"{name}.zarr", f"{name}.csv", f"{name}.geojson.gz", f"{name}-objects.zarr"} <= names(folder / "o")
        counts = {name: len(rows_of(folder / f"o/{name}.csv")) for name in "ab"}
        said = {one["image"]: one["objects"]["count"] for one in json.loads(found.out)["images"]}
        assert said == {"a.tif": counts["a"], "b.tif": counts["b"]}
        rows = rows_of(folder / "o/summary.csv")
        assert [int(row["objects"]) for row in rows] == list(counts.values())
        assert [int(row["objects class 1"]) for row in rows] == list(counts.values())
        # pixels of 0.5 um
        area = 70 * 70 * 0.25e-6
        assert float(rows[0]["per mm2 class 1"]) == pytest.approx(counts["a"] / area, rel=1e-6)
        columns = list(rows[0])
        as_without = (
            "image",
            "mask",
            "state",
            "blocks",
            "resumed",
            "skipped",
            "megapixels",
            "seconds",
            "mismatch",
            "error",
        )
        assert tuple(columns[:10]) == as_without

        before = listing(folder / "o")
        again = run(line)
        assert (again.code, "had already written" in again.err) == (0, True), again.err
        after = listing(folder / "o")
        changed = {path.name for path in after if after[path] != before.get(path) and path.is_file()}
        assert changed == {"summary.csv", "a.zarr.log", "b.zarr.log"}
        assert [int(row["objects"]) for row in rows_of(folder / "o/summary.csv")] == list(counts.values())

        other = run(f"{line} --min-area 4")
        assert (other.code, other.err.count("Error: ")) == (3, 2)
        assert run(f"{line} --min-area 4 --overwrite").code == 0
        assert all(int(row["area_px"]) >= 4 for row in rows_of(folder / "o/a.csv"))

    def test_one_whose_objects_fail_costs_only_itself(self, folder: Path, run: Run) -> None:
        (folder / "o" / "a.csv").mkdir(parents=True)
        found = run(f"predict a.tif b.tif {TOY} --out-dir o --objects .csv")
        assert found.code == 3
        assert "a.csv is a folder" in found.err and "Traceback" not in found.err
        rows = {row["image"]: row for row in rows_of(folder / "o/summary.csv")}
        assert (rows["a.tif"]["state"], rows["a.tif"]["objects"]) == ("failed", "")
        assert (rows["b.tif"]["state"], int(rows["b.tif"]["objects"])) == ("complete", len(rows_of(Path("o/b.csv"))))

    def test_one_whose_objects_fail_after_its_mask(self, folder: Path, run: Run) -> None:
        """More planes than one: volumes cannot be had of the flat one."""
        found = run(f"predict a.tif stack.tif {TOY} --out-dir o --objects .csv --3d")
        assert found.code == 3
        assert "a.tif has one plane" in found.err
        assert "area_vx" in rows_of(folder / "o/stack.csv")[0]

    @pytest.mark.parametrize(
        ("line", "said"),
        [
            ("a.tif b.tif --out-dir o --objects cells.csv", ".geojson, .geojson.gz, .csv, .parquet, .zarr"),
            ("a.tif b.tif --out-dir o --objects .tif", ".geojson, .geojson.gz, .csv, .parquet, .zarr"),
            ("a.tif b.tif --objects .csv", "--out-dir"),
            ("a.tif --objects .csv", "cells.csv"),
            ("a.tif --out m.zarr --objects .zarr", "cells.zarr"),
            ("summary.tif --out-dir o --objects .csv", "the summary"),
            ("a.tif --out m.zarr --min-area 4", "--min-area is about objects"),
            ("a.tif --out m.zarr --3d", "--3d is about objects"),
            ("a.tif --out m.zarr --measure-image", "--measure-image is about objects"),
        ],
    )
    def test_what_is_refused(self, folder: Path, run: Run, line: str, said: str) -> None:
        shutil.copy("a.tif", "summary.tif")
        before = listing(folder)
        found = run(f"predict {line} {TOY}")
        assert found.code in (1, 2) and found.err.count("\n") == 1
        assert found.err.startswith("Error: ") and said in found.err
        assert listing(folder) == before

    def test_a_list_that_names_masks_goes_on_too(self, folder: Path, run: Run) -> None:
        Path("list.csv").write_text("image,out\na.tif,first.tif\nb.tif,second.zarr\n")
        line = f"predict --list list.csv {TOY} --objects .csv"
        assert run(line).code == 0
        assert {"first.csv", "second.csv"} <= names(folder)
        assert run(line).code == 0
        Path("first.csv").write_text("mine")
        found = run(line)
        assert (found.code, "first.csv exists" in found.err) == (3, True)
        assert Path("first.csv").read_text() == "mine"


def test_densities_leave_out_the_blocks_that_were_skipped(image: Path) -> None:
    pixels = make_pixels(1, 288, 288)[0]
    pixels[:, :192] = 7  # with its margin, a column of blocks sees nothing else
    tifffile.imwrite(image, pixels, resolution=(20_000, 20_000), resolutionunit=3)  # 0.5 um
    done = predict(image, "m.zarr", "l.zarr", skip_empty="constant")
    assert done.blocks_skipped == 3 and done.objects is not None
    area = (288 - 96) * 288 * 0.25e-6
    expected = {name: count / area for name, count in done.objects.by_class.items()}
    assert done.objects.per_mm2 == pytest.approx(expected) and len(expected) == 2
    (found,) = summarise([image.with_name("m.zarr")])
    assert found.tissue.said == "without skipped blocks"
    assert {one.name: one.per_mm2 for one in found.classes if one.objects is not None} == pytest.approx(expected)


def test_what_the_screen_says(folder: Path, run: Run) -> None:
    found = run(f"predict slide.tif {TOY} --objects cells.csv")
    rows = rows_of(Path("cells.csv"))
    assert found.code == 0
    assert f"cells.csv: {len(rows)} objects in " in found.err
    assert run(f"predict slide.tif {TOY} --objects cells.csv").code == 1


def test_what_the_model_knows_of_its_classes_is_the_default(image: Path) -> None:
    """A class that separates cells is given back to them."""
    model = toy_model(classes=3)
    classes = [LabelClass("background", "#000000"), LabelClass("rim", "#111111", role="border")]
    classes.append(LabelClass("core", "#222222", role="object"))
    model = type(model)(type(model.header)(**vars(model.header) | {"classes": tuple(classes)}), model.network)
    model.save(image.with_name("model.safetensors"))
    done = predict(image, "m.zarr", "l.zarr")
    assert done.objects is not None and set(done.objects.by_class) == {"core"}
    ids, mask = mask_of(image.with_name("l.zarr")), mask_of(image.with_name("m.zarr"))
    assert (ids[mask == 2] > 0).all() and (ids[mask == 0] == 0).all()
    assert (ids[mask == 1] > 0).any()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    """Runs in processes of their own, in a folder with image and model."""
    for name in ("here", "said"):
        (tmp_path / name).mkdir()
    tifffile.imwrite(tmp_path / "here/image.tif", noise((400, 200)), tile=(64, 64), compression="zlib")
    toy_model().save(tmp_path / "here/model.safetensors")
    return Runs(tmp_path / "here", tmp_path / "said")


LINE = "predict image.tif -m model.safetensors --tile 88 --precision fp32"


@pytest.mark.slow
@pytest.mark.parametrize("out", ["", "--out mask.zarr"])
def test_killed_at_any_change_on_the_disk_the_same_command_goes_on(runs: Runs, out: str) -> None:
    line = f"{LINE} {out} --objects cells.csv --objects labels.zarr"
    here = runs.folder
    runs.finish(f"{LINE} --out other.zarr --objects other.csv")
    expected = (here / "other.csv").read_bytes()
    for name in ("other.zarr", "other.csv"):
        shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink()
    before, phases = names(here), set()
    for at in count(1, 9):
        found = runs(line, killed(at))
        if found.code == 0:
            break
        assert found.code == -signal.SIGKILL
        phases |= {".cells.csv" if name.startswith(".cells.csv") else name for name in names(here) - before}
        is_done = (here / "cells.csv").exists() and (here / "labels.zarr").exists()
        again = runs(line)
        # where only tidying up was left, what is there may be refused, and is whole
        assert again.code == 0 or (is_done and "cells.csv exists" in again.err), again
        assert (here / "cells.csv").read_bytes() == expected
        assert names(here) - before == {"cells.csv", "labels.zarr", *(["mask.zarr"] if out else [])}
        for name in names(here) - before:
            shutil.rmtree(here / name) if (here / name).is_dir() else (here / name).unlink()
    assert len(phases) > 2


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_asked_to_stop_at_any_moment(runs: Runs, number: int, code: int) -> None:
    line = f"{LINE} --out mask.zarr --objects cells.csv"
    codes = set()
    for at in count(5, 12):
        found = runs(line, signalled(at, number))
        assert found.code in (0, code), found
        codes.add(found.code)
        if found.code == 0:
            break
        assert "the same command goes on" in found.err
    assert codes == {0, code}
    assert (runs.folder / "cells.csv").exists()


@pytest.mark.slow
# sockets and processes that dask leaves to the garbage collector
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_through_a_cluster(image: Path, cluster: "tilesegment.Cluster", monkeypatch: pytest.MonkeyPatch) -> None:
    stages, each = [], cluster.each
    monkeypatch.setattr(cluster, "each", lambda *given: stages.append(given[1]) or each(*given))
    predict(image, "m.zarr", "c.csv")
    assert not stages
    done = predict(image, None, "d.csv", workers=cluster)
    assert done.objects is not None and set(stages) == {"label", "measure"}
    assert image.with_name("c.csv").read_bytes() == image.with_name("d.csv").read_bytes()
    assert not [name for name in names(image.parent) if name.startswith(".")]
