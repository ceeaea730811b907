"""Many images into one folder: lists, names, and that one bad image among many costs only itself."""

import csv
from pathlib import Path

import pytest
from conftest import toy_model
from image_files import make_pixels, png
from mask_files import mask_of

from tilesegment.errors import PlanError, TilesegmentError
from tilesegment.prediction.inputs import Listed, place_masks, read_list
from tilesegment.prediction.predict import predict_many
from tilesegment.prediction.records import Records
from tilesegment.prediction.result import Result
from tilesegment.prediction.settings import Outputs, Settings

NO = Outputs("")
Images = list[tuple[str, Outputs]]


@pytest.mark.parametrize(
    ("image", "file_format", "mask"),
    [
        ("a.tif", "zarr", "a.zarr"),
        ("x/b.ome.tif", "zarr", "b.zarr"),
        ("c.ome.zarr/", "zarr", "c.zarr"),
        ("d e.svs", "zarr", "d e.zarr"),
        ("f.v2.png", "zarr", "f.v2.zarr"),
        ("a.tif", "tif", "a.tif"),
        ("A.zarr/0", "zarr", "A_0.zarr"),
        ("x/B.ome.zarr/0/", "zarr", "B_0.zarr"),
    ],
)
def test_masks_are_called_as_their_images(image: str, file_format: str, mask: str) -> None:
    ((_, outputs),) = place_masks("masks", [(image, None)], file_format, NO)
    assert str(outputs.mask) == f"masks/{mask}"


def test_two_images_of_one_name_are_refused_but_for_names_of_their_own() -> None:
    with pytest.raises(PlanError, match=r"x/a\.tif and y/a\.png .* masks/a\.zarr"):
        place_masks("masks", [("x/a.tif", None), ("y/a.png", None)], "zarr", NO)
    placed = place_masks("masks", [("x/a.tif", None), ("y/a.tif", "other.tif")], "zarr", NO)
    assert [str(outputs.mask) for _, outputs in placed] == ["masks/a.zarr", "masks/other.tif"]


@pytest.mark.parametrize(
    ("name", "content", "found", "unused"),
    [
        ("l.txt", "# slides of May\na b.tif\n\n c.zarr \n", [Listed("a b.tif"), Listed("c.zarr")], ()),
        (
            "l.csv",
            '\ufeffid,image,out, Mp\n1,"a, b.tif",one.tif,2\n2,c.zarr,\n',
            [Listed("a, b.tif", "one.tif"), Listed("c.zarr")],
            ("id", "Mp"),
        ),
        (
            "l.csv",
            "MPP,image, diameter\n0.25,a.tif,\n,b.tif,3e1\n,c.tif\n",
            [Listed("a.tif", None, {"source_mpp": 0.25}), Listed("b.tif", None, {"diameter": 30}), Listed("c.tif")],
            (),
        ),
    ],
)
def test_lists_are_text_or_csv(
    tmp_path: Path, name: str, content: str, found: list[Listed], unused: tuple[str, ...]
) -> None:
    (tmp_path / name).write_text(content)
    assert read_list(tmp_path / name) == (found, unused)


@pytest.mark.parametrize(
    ("name", "content", "named"),
    [
        ("l.csv", b"file\na.tif\n", "columns file"),
        ("l.csv", b"image;out\na.tif;b.tif\n", "columns image;out"),
        ("l.csv", b"image,out,out\na.tif,b.tif,c.tif\n", "at most one out"),
        ("l.csv", b"image,out\na.tif,b.tif\nc.tif,d,e.tif\n", "line 3 .* 3 fields for 2 columns"),
        ("l.csv", b"image,mpp,mpp\na.tif,1,1\n", "at most one out, one mpp, one diameter"),
        ("l.csv", b"image,mpp\na.tif,0.5\nb.tif,0\n", "line 3 .*: mpp is 0; write a positive number of micrometres"),
        ("l.csv", b"image,mpp\na.tif,-0.5\n", "mpp is -0.5; write"),
        ("l.csv", b"image,mpp\na.tif,nan\n", "mpp is nan; write"),
        ("l.csv", b"image,mpp\na.tif,inf\n", "mpp is inf; write"),
        ("l.csv", b"image,mpp\na.tif,40x\n", "mpp is 40x; write"),
        ("l.csv", b'image,mpp\na.tif,"0,25"\n', "mpp is 0,25; write"),
        ("l.csv", b"image,diameter\na.tif,0\n", "diameter is 0; write a positive number of pixels"),
        ("l.csv", b"image\n", "names no image"),
        ("l.txt", b"# nothing\n", "names no image"),
        ("l.txt", b"\xff\xfe\x00", "cannot be read"),
        ("l.txt", b"a.tif\0", "NUL"),
        ("l.txt", None, "cannot be read"),
    ],
)
def test_lists_that_are_none(tmp_path: Path, name: str, content: bytes | None, named: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(PlanError, match=named):
        read_list(tmp_path / name)


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

    def run(self, images: Images, folder: Path) -> dict[str, Result]:
        settings = Settings(folder / "toy.safetensors", tile=88, precision="fp64")
        results = predict_many(images, settings, listeners=[Records(folder / "masks")])
        return {Path(one.image).name: one for one in results}

    def test_bad_images_do_not_stop_the_rest_and_all_are_recorded(self, images: Images, tmp_path: Path) -> None:
        results, good = self.run(images, tmp_path), {"one.png", "two.png", "three.png"}
        assert {name for name, one in results.items() if one.state == "complete"} == good
        bad = {name: one.errors for name, one in results.items() if one.state == "failed"}
        assert bad.keys() == {"empty.tif", "gone.tif", "cut.png"}
        assert all(isinstance(errors[0], TilesegmentError) for errors in bad.values())
        assert all(mask_of(tmp_path / "masks" / f"{Path(name).stem}.zarr").any() for name in good)
        rows = csv.DictReader((tmp_path / "masks" / "summary.csv").read_text().splitlines())
        by_name = {Path(row["image"]).name: row for row in rows}
        assert "gone.tif" in by_name["gone.tif"]["error"]
        assert (by_name["one.png"]["blocks"], by_name["one.png"]["error"]) == ("1", "")
        log = (tmp_path / "masks" / "logs" / "one.zarr.log").read_text()
        assert "begun with toy-2; image: " in log
        assert "complete after " in log.splitlines()[-1]
        assert "failed after" in (tmp_path / "masks" / "logs" / "empty.zarr.log").read_text()

    def test_run_again_it_computes_nothing_that_is_there(self, images: Images, tmp_path: Path) -> None:
        self.run(images, tmp_path)
        before = {path: path.stat().st_mtime_ns for path in (tmp_path / "masks").rglob("0/c/*") if path.is_file()}
        again = self.run(images, tmp_path)["one.png"]
        assert (again.state, again.blocks) == ("complete", 0)
        assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="file/masks"):
        Records(tmp_path / "file" / "masks")
