"""Many images into one folder: lists, names, and that one bad image among many costs only itself."""

import csv
from pathlib import Path

import pytest
from conftest import toy_model
from image_files import make_pixels, png
from mask_files import mask_of

from tilesegment.errors import PlanError, TilesegmentError
from tilesegment.prediction.inputs import place_masks, read_list
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.records import Records
from tilesegment.prediction.result import Result
from tilesegment.prediction.settings import Outputs, Settings

NO = Outputs("")
Images = list[tuple[str, Outputs]]


def outs(images: list[str], file_format: str = "zarr") -> list[str]:
    images = place_masks("masks", [(image, None) for image in images], file_format, NO)
    return [str(outputs.mask) for _, outputs in images]


def test_masks_are_called_as_their_images() -> None:
    assert outs(["a.tif", "x/b.ome.tif", "c.ome.zarr/", "d e.svs", "f.v2.png"]) == [
        "masks/a.zarr",
        "masks/b.zarr",
        "masks/c.zarr",
        "masks/d e.zarr",
        "masks/f.v2.zarr",
    ]
    assert outs(["a.tif"], "tif") == ["masks/a.tif"]


def test_two_images_of_one_name_are_refused_but_for_names_of_their_own() -> None:
    with pytest.raises(PlanError, match=r"x/a\.tif and y/a\.png would both be written to masks/a\.zarr"):
        outs(["x/a.tif", "y/a.png"])
    images = place_masks("masks", [("x/a.tif", None), ("y/a.tif", "other.tif")], "zarr", NO)
    assert [str(outputs.mask) for _, outputs in images] == ["masks/a.zarr", "masks/other.tif"]


def test_lists_are_text_or_csv(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("# slides of May\na b.tif\n\n c.zarr \n")
    assert read_list(tmp_path / "l.txt") == [("a b.tif", None), ("c.zarr", None)]
    (tmp_path / "l.csv").write_text('\ufeffid,image,out\n1,"a, b.tif",one.tif\n2,c.zarr,\n')
    assert read_list(tmp_path / "l.csv") == [("a, b.tif", "one.tif"), ("c.zarr", None)]


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("l.csv", b"file\na.tif\n", "columns file; expected one image"),
        ("l.csv", b"image;out\na.tif;b.tif\n", "columns image;out; expected one image"),
        ("l.csv", b"image,out,out\na.tif,b.tif,c.tif\n", "at most one out"),
        ("l.csv", b"image,out\na.tif,b.tif\nc.tif,d,e.tif\n", "line 3 .* 3 fields for 2 columns"),
        ("l.csv", b"image\n", "names no image"),
        ("l.txt", b"# nothing\n", "names no image"),
        ("l.txt", b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, content: bytes, match: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(PlanError, match=match):
        read_list(tmp_path / name)
    with pytest.raises(PlanError, match="cannot be read"):
        read_list(tmp_path / "missing.txt")


class TestMany:
    """Three good images and three bad ones."""

    @pytest.fixture
    def images(self, tmp_path: Path) -> Images:
        toy_model().save(tmp_path / "toy.safetensors")
        for name, side in (("one", 90), ("two", 60), ("three", 130)):
            (tmp_path / name).mkdir()
            png(tmp_path / name, make_pixels(1, side, side)).rename(tmp_path / f"{name}.png")
        (tmp_path / "empty.tif").touch()
        (tmp_path / "cut.png").write_bytes((tmp_path / "two.png").read_bytes()[:-900])
        names = ["one.png", "empty.tif", "two.png", "gone.tif", "cut.png", "three.png"]
        return place_masks(tmp_path / "masks", [(str(tmp_path / name), None) for name in names], "zarr", NO)

    def run(self, images: Images, folder: Path) -> list[Result]:
        settings = Settings(folder / "toy.safetensors", tile=88, precision="fp64")
        return list(predict_many(images, settings, listeners=[Records(folder / "masks")]))

    def test_one_bad_image_does_not_stop_the_rest(self, images: Images, tmp_path: Path) -> None:
        results = {Path(one.image).name: one for one in self.run(images, tmp_path)}
        states = {name: one.state for name, one in results.items()}
        good = {"one.png", "two.png", "three.png"}
        assert states == {name: "complete" if name in good else "failed" for name in states}
        assert len(states) == 6
        for name in good:
            mask = tmp_path / "masks" / f"{Path(name).stem}.zarr"
            assert mask_of(mask).any()
        assert all(isinstance(one.errors[0], TilesegmentError) for name, one in results.items() if name not in good)

    def test_the_summary_and_the_logs_say_what_happened(self, images: Images, tmp_path: Path) -> None:
        self.run(images, tmp_path)
        rows = list(csv.DictReader((tmp_path / "masks" / "summary.csv").read_text().splitlines()))
        assert sorted((Path(row["image"]).name, row["state"]) for row in rows)[0] == ("cut.png", "failed")
        by_name = {Path(row["image"]).name: row for row in rows}
        assert "does not exist" in by_name["gone.tif"]["error"]
        assert (by_name["one.png"]["blocks"], by_name["one.png"]["error"]) == ("1", "")
        log = (tmp_path / "masks" / "logs" / "one.zarr.log").read_text()
        assert "begun with toy-2; image: " in log
        assert log.splitlines()[-1].split(" ", 1)[1].startswith("complete after ")
        assert "failed after" in (tmp_path / "masks" / "logs" / "empty.zarr.log").read_text()

    def test_run_again_it_computes_nothing_that_is_there(self, images: Images, tmp_path: Path) -> None:
        self.run(images, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("0/c/*") if path.is_file()}
        again = {Path(one.image).name: one for one in self.run(images, tmp_path)}
        assert again["one.png"].state == "complete"
        assert again["one.png"].blocks == 0
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="cannot be made"):
        Records(tmp_path / "file" / "masks")
