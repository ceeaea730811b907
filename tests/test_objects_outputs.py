"""Outputs of objects: what exists, what may not be written, labels in images; and bad input, each told in one line."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rights
import tifffile
import zarr
from command_line import Run
from conftest import noise
from fault_runs import is_one_line
from masks_of_objects import read_labels, write_mask
from object_runs import NAMES, contents, find_in
from ome_zarr_files import axes_of, consolidate, consolidated, means, transformations, write_image
from PIL import Image
from pyarrow import parquet

from tilesegment.errors import MaskError, PlanError
from tilesegment.masks import create_mask
from tilesegment.objects.find import find_objects

SHAPE = (40, 50)
PLAIN = transformations([1, 1])


def pixels(shape: tuple[int, int] = SHAPE) -> np.ndarray:
    """Three regions of class 1 and one of class 2."""
    found = np.zeros(shape, np.uint8)
    found[3:9, 4:20] = found[20:30, 5:9] = found[12:14, 30:40] = 1
    found[20:30, 30:40] = 2
    return found


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with masks and what is none."""
    monkeypatch.chdir(tmp_path)
    write_mask(tmp_path / "cells.zarr", pixels())  # classes glass, cell, rim
    tifffile.imwrite("mask.tif", pixels())
    tifffile.imwrite("empty.tif", np.zeros(SHAPE, np.uint8))
    tifffile.imwrite("float.tif", noise(SHAPE, dtype="float32"))
    tifffile.imwrite("negative.tif", np.full(SHAPE, -2, np.int32))
    tifffile.imwrite("large.tif", np.full(SHAPE, 1 << 33, np.uint64))
    tifffile.imwrite("other.tif", noise((41, 50)))
    Image.fromarray(noise((*SHAPE, 3))).save("rgb.png")
    Path("text.tif").write_text("no image")
    Path("folder").mkdir()
    return tmp_path


BAD = {
    "text.tif -o a.csv": ["text.tif", "not an image", "supported are"],
    "folder -o a.csv": ["folder", "without a Zarr"],
    "missing.tif -o a.csv": ["no mask", "missing.tif"],
    "rgb.png -o a.csv": ["rgb.png", "in colours"],
    "float.tif -o a.csv": ["float.tif", "float32", "whole numbers"],
    "negative.tif -o a.csv": ["negative.tif", "-2", "from 0 to 4294967295"],
    "negative.tif -o a.zarr --classes 1": ["negative.tif", "-2", "from 0 to 4294967295"],
    "large.tif -o a.csv -o a.zarr": ["large.tif", "8589934592", "from 0 to 4294967295"],
    "cells.zarr -o a.csv --classes nucleus": ["'nucleus'", "0 glass, 1 cell, 2 rim"],
    "cells.zarr -o a.csv --classes cell,9": ["'9'", "0 glass, 1 cell, 2 rim"],
    "cells.zarr -o a.csv --border nucleus": ["'nucleus'", "0 glass, 1 cell, 2 rim"],
    "cells.zarr -o a.csv --classes cell --border cell": ["both"],
    "mask.tif -o a.csv --classes cell": ["mask.tif", "'cell'", "value"],
    "mask.tif -o a.csv --border 2": ["ids", "--classes"],
    "mask.tif -o a.csv --3d": ["one plane", "--3d"],
    "mask.tif -o a.csv --grow -1": ["--grow", "0 to 256"],
    "mask.tif -o a.csv --grow nan": ["--grow", "0 to 256"],
    "mask.tif -o a.csv --simplify inf": ["--simplify", "0 or more"],
    "mask.tif -o a.csv --min-area -1": ["--min-area", "0 or more"],
    "mask.tif -o no/a.geojson": ["no/a.geojson", "no folder", "create it"],
    "mask.tif -o no/a.zarr": ["no/a.zarr", "no folder", "create it"],
    "mask.tif -o a.json": ["a.json", "allowed are", ".geojson.gz"],
    "mask.tif -o a.tif": ["a.tif", "allowed are"],
    "mask.tif -o a.csv -o ./a.csv": ["named twice"],
    "mask.tif -o a.csv --image other.tif": ["40 x 50", "41 x 50"],
    "mask.tif -o a.csv --image text.tif": ["text.tif", "not an image"],
    "mask.tif -o a.csv --image missing.tif": ["missing.tif", "not exist"],
    "cells.zarr -o cells.zarr --overwrite": ["cells.zarr", "is what is read"],
    "cells.zarr/0 -o cells.zarr --overwrite": ["cells.zarr", "is what is read, or holds it"],
    "cells.zarr -o cells.zarr/a.csv": ["a.csv", "lies in", "cells.zarr"],
    "cells.zarr -o link.zarr/a.csv": ["a.csv", "lies in", "cells.zarr"],
    "cells.zarr -o cells.zarr/labels/a": ["labels/a", "lies in", "cells.zarr"],
    "mask.tif -o link.csv --overwrite": ["link.csv", "symbolic link"],
    "mask.tif -o link.zarr --overwrite": ["link.zarr", "symbolic link"],
    "mask.tif -o folder/labels.zarr/x -o a.csv": ["labels.zarr/x", "allowed are"],
}


@pytest.mark.parametrize("line", BAD)
def test_bad_input_is_told_in_one_line(here: Path, run: Run, line: str) -> None:
    """And leaves nothing behind."""
    Path("link.zarr").symlink_to("cells.zarr")
    Path("link.csv").symlink_to("other.csv")
    before = contents(here), sorted(here.iterdir())
    found = run(f"objects {line}")
    assert is_one_line(found, *BAD[line]), found
    assert (contents(here), sorted(here.iterdir())) == before


def test_a_part_is_no_cluster_and_outputs_are_needed(here: Path, run: Run) -> None:
    for line in ("mask.tif -o a.csv --part 1/2 --workers 2", "mask.tif -o a.csv --part 3/2", "mask.tif"):
        found = run(f"objects {line}")
        assert found.code == 2 and found.err.count("\n") == 1, found


@pytest.mark.parametrize("line", ["empty.tif", "empty.tif --classes 1", "cells.zarr --min-area 999 --grow 2"])
def test_no_objects_are_valid_files(here: Path, run: Run, line: str) -> None:
    names = [f"none{suffix}" for suffix in (".csv", ".geojson", ".geojson.gz", ".parquet", ".zarr")]
    done = run(f"objects {line} --fill-holes --json {' '.join(f'-o {name}' for name in names)}")
    assert done.code == 0, done
    assert json.loads(done.out)["count"] == 0
    with Path("none.csv").open() as file:
        assert list(csv.DictReader(file)) == []
    plain = Path("none.geojson").read_bytes()
    assert json.loads(plain) == {"type": "FeatureCollection", "features": []}
    assert gzip.decompress(Path("none.geojson.gz").read_bytes()) == plain
    table = parquet.read_table("none.parquet")
    assert len(table) == 0 and {"label", "area_px", "geometry"} <= set(table.column_names)
    labels = read_labels(here / "none.zarr")
    assert labels.shape == SHAPE and labels.dtype == np.uint32 and not labels.any()


class TestWhatExists:
    def test_is_kept(self, here: Path) -> None:
        """Where one of several exists, none is written."""
        for name in NAMES:
            out = here / f"beside {name}"
            out.mkdir()
            find_objects("mask.tif", out / name, min_area=30)
            before = contents(here)
            with pytest.raises(MaskError, match=rf"{name} exists.*--overwrite"):
                find_in(out, here / "mask.tif")
            assert contents(here) == before

    def test_is_replaced_if_asked(self, here: Path) -> None:
        find_in(here / "one", here / "mask.tif", min_area=30)
        find_in(here / "one", here / "mask.tif", overwrite=True)
        find_in(here / "two", here / "mask.tif")
        assert contents(here / "one") == contents(here / "two")

    def test_the_same_again_finds_nothing_to_do_or_is_refused(self, here: Path) -> None:
        """A label image knows what it was made of; of a table nobody knows."""
        first = find_objects("cells.zarr", "labels.zarr")
        before = contents(here)
        again = find_objects("cells.zarr", "labels.zarr")
        assert (again.count, again.by_class) == (first.count, first.by_class)
        assert any("nothing was left to do" in note for note in again.notes)
        with pytest.raises(MaskError, match=r"labels.zarr exists and was made with other settings"):
            find_objects("cells.zarr", "labels.zarr", min_area=5)
        assert contents(here) == before

    def test_what_others_made_is_not_replaced(self, here: Path) -> None:
        zarr.create_array(here / "theirs.zarr", data=pixels(), chunks=(20, 20))
        before = contents(here)
        with pytest.raises(MaskError, match=r"theirs.zarr was not made by tilesegment"):
            find_objects("mask.tif", "theirs.zarr", overwrite=True)
        assert contents(here) == before

    def test_a_prediction_in_progress_is_not_discarded(self, here: Path) -> None:
        spec = find_spec(here / "cells.zarr")
        create_mask(here / "labels.zarr", spec)
        before = contents(here)
        with pytest.raises(MaskError, match=r"labels.zarr.partial is a mask in progress"):
            find_objects("mask.tif", "labels.zarr")
        assert contents(here) == before

    def test_a_folder_that_cannot_be_written_to(self, here: Path) -> None:
        (here / "folder").chmod(0o500)
        try:
            with rights.refused():
                for name in ("a.csv", "a.zarr"):
                    with pytest.raises(MaskError, match=rf"{name}.*(ermission denied|cannot be written)"):
                        find_objects("mask.tif", here / "folder" / name)
        finally:
            (here / "folder").chmod(0o700)
        assert not list((here / "folder").iterdir())


def find_spec(path: Path) -> Any:
    """What a mask is."""
    from tilesegment.masks import open_mask

    return open_mask(path).spec


class TestLabelsOfAnImage:
    @pytest.mark.parametrize("version", ["0.4", "0.5"])
    @pytest.mark.parametrize("is_consolidated", [False, True])
    def test_they_are_listed_there(self, here: Path, version: str, is_consolidated: bool) -> None:
        described = [transformations([n, n]) for n in (1, 2)]
        image = write_image(here / "a.zarr", means(noise(SHAPE), 2), version, axes=axes_of("yx"), described=described)
        if is_consolidated:
            consolidate(image)
        for name in ("cells", "more"):
            find_objects("mask.tif", image / "labels" / name, here / f"{name}.csv", classes="1", image=image)
        assert sorted(path.name for path in (image / "labels").iterdir() if path.is_dir()) == ["cells", "more"]
        group = (consolidated if is_consolidated else zarr.open_group)(image)
        listed: dict[str, Any] = dict(group["labels"].attrs)
        assert listed.get("ome", listed)["labels"] == ["cells", "more"]
        assert group["labels/cells/0"][...].max() == 3
        with (here / "cells.csv").open() as file:
            (row, *more) = csv.DictReader(file)
        assert len(more) == 2
        measured = np.asarray(group["0"][...])[3:9, 4:20].mean()
        assert float(next(row[name] for name in row if "mean" in name)) == pytest.approx(measured)

    def test_an_interrupted_run_goes_on_though_the_image_has_labels_now(self, here: Path) -> None:
        image = write_image(
            here / "a.zarr", [noise(SHAPE)], "0.5", axes=axes_of("yx"), described=[transformations([1, 1])]
        )
        heard: list[str] = []
        how: dict[str, Any] = {"classes": "1", "image": image, "block": 16}
        with pytest.raises(Exception, match="stopped"):
            find_objects(
                "mask.tif",
                image / "labels" / "cells",
                report=lambda done, what: heard.append(what),
                stop=lambda: "paint" in heard,
                **how,
            )
        assert not find_objects("mask.tif", image / "labels" / "cells", **how).notes
        assert sorted(path.name for path in (image / "labels").iterdir()) == ["cells", "zarr.json"]

    def test_where_there_is_no_image(self, here: Path) -> None:
        (here / "labels").mkdir()
        with pytest.raises(MaskError, match="is no OME-Zarr image; name an image"):
            find_objects("mask.tif", here / "labels" / "cells")
        find_objects("mask.tif", here / "labels" / "cells.csv")
        assert [path.name for path in (here / "labels").iterdir()] == ["cells.csv"]

    def test_the_mask_may_be_another_label_of_the_image(self, here: Path) -> None:
        image = write_image(
            here / "a.zarr", [noise(SHAPE)], "0.5", axes=axes_of("yx"), described=[transformations([1, 1])]
        )
        find_objects("mask.tif", image / "labels" / "seg", classes="1")
        found = find_objects(image / "labels" / "seg", image / "labels" / "cells", min_area=30)
        assert found.count == 2
        with pytest.raises(PlanError, match="lies in"):
            find_objects("mask.tif", image / "cells.csv", image=image)
