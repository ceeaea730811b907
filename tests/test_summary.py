"""`tileseg summary`: areas, objects, densities and sizes of masks, against numbers counted by hand or by numpy."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from command_line import Run
from hypothesis import given
from hypothesis import strategies as st
from mask_files import spec_of
from scipy import ndimage
from skimage.measure import label

from tilesegment.errors import MaskError, PlanError
from tilesegment.masks import MaskSpec, create_mask
from tilesegment.metadata import PixelSize
from tilesegment.objects.summary import check_summary, rows, summarise, write_summary

SIZE = PixelSize(2.0, 0.5)  # a pixel is 1 um2


def write(path: Path, ids: np.ndarray, spec: MaskSpec) -> Path:
    """Write a mask of these class ids, (H, W) or (D, H, W)."""
    writer = create_mask(path, spec)
    for region, z in writer.base.blocks():
        writer.write(region, ids.reshape(-1, *spec.shape)[(z, *region.slices)].astype(np.uint8), z)
    writer.finish()
    return path


def by_hand() -> np.ndarray:
    """40 x 60 pixels of four classes: three objects of class 1, of 1, 4 and 300 pixels, one of class 2, none of 3."""
    ids = np.zeros((40, 60), np.uint8)
    ids[0, 0] = 1
    ids[5:7, 5:7] = 1
    ids[10:30, 20:35] = 1
    ids[20:30, 40:50] = 2
    return ids


@pytest.fixture
def mask(tmp_path: Path) -> Path:
    return write(tmp_path / "m.zarr", by_hand(), spec_of((40, 60), pixel_size=SIZE))


def test_by_hand(mask: Path) -> None:
    (found,) = summarise([mask])
    assert (found.mask, found.pixels) == (str(mask), 2400)
    assert (found.tissue.said, found.tissue.pixels, found.tissue.area_mm2) == ("whole mask", 2400, 2400e-6)
    background, one, two, three = found.classes
    assert [each.name for each in found.classes] == [f"class {n}" for n in range(4)]
    assert [each.pixels for each in found.classes] == [1995, 305, 100, 0]
    assert [each.objects for each in found.classes] == [None, 3, 1, 0]
    assert (background.per_mm2, background.sizes, three.per_mm2, three.sizes) == (None, (), 0, ())
    assert (one.area_mm2, one.share) == (305e-6, 305 / 2400)
    assert one.per_mm2 == pytest.approx(3 / 2400e-6) and two.per_mm2 == pytest.approx(1 / 2400e-6)
    for sizes, unit in zip(one.sizes, ("px", "um2"), strict=True):
        assert (sizes.unit, sizes.mean, sizes.quartiles) == (unit, pytest.approx(305 / 3), (2.5, 4, 152))
    assert two.sizes[0].quartiles == (100, 100, 100)


@given(
    ids=st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 4, (17, 23), np.uint8)),
    connectivity=st.sampled_from([4, 8]),
)
def test_as_numpy_counts(ids: np.ndarray, connectivity: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = write(tmp_path_factory.mktemp("m") / "m.zarr", ids, spec_of(ids.shape, 8, 8, pixel_size=SIZE))
    (found,) = summarise([path], connectivity=connectivity, block=8)
    assert sum(one.share for one in found.classes) == pytest.approx(1)
    for number, one in enumerate(found.classes[1:], 1):
        areas = np.bincount(label(ids == number, connectivity=connectivity // 4).ravel())[1:]
        assert (one.pixels, one.objects) == (areas.sum(), len(areas))
        if len(areas):
            expected = np.quantile(areas, (0.25, 0.5, 0.75))
            np.testing.assert_allclose(one.sizes[0].quartiles, expected)
            assert one.sizes[0].mean == pytest.approx(areas.mean())


def test_the_class_counts_are_those_before_objects_grow(mask: Path) -> None:
    (found,) = summarise([mask], classes=["class 1"], grow=1, min_area=5)
    assert [one.pixels for one in found.classes] == [1995, 305, 100, 0]
    assert [one.objects for one in found.classes] == [None, 2, None, None]
    # 4 pixels and their 8 neighbours at the sides; the single one has 2 and is left out
    assert found.classes[1].sizes[0].quartiles[0] == pytest.approx(12 + (370 - 12) / 4)


class TestTissue:
    def skipped(self, path: Path, **skipped: Any) -> Path:
        spec = spec_of((40, 60), pixel_size=SIZE, provenance={"skipped": skipped})
        return write(path, by_hand(), spec)

    def test_classes(self, mask: Path) -> None:
        (found,) = summarise([mask], tissue=["class 1", "2"])
        assert (found.tissue.said, found.tissue.pixels) == ("class 1, class 2", 405)
        assert found.classes[1].per_mm2 == pytest.approx(3 / 405e-6)

    def test_without_what_was_skipped(self, tmp_path: Path) -> None:
        (found,) = summarise([self.skipped(tmp_path / "m.zarr", mode="tissue", blocks=3, share=0.25)])
        assert (found.tissue.said, found.tissue.pixels) == ("without skipped blocks", 1800)
        assert found.classes[1].per_mm2 == pytest.approx(3 / 1800e-6)
        assert found.classes[1].share == 305 / 2400

    def test_blocks_of_one_value_where_all_were_counted(self, tmp_path: Path) -> None:
        known = {"mode": "constant", "blocks": 1, "share": 0.5}
        (found,) = summarise([self.skipped(tmp_path / "m.zarr", **known, of_blocks=4)])
        assert found.tissue.pixels == 1200
        (found,) = summarise([self.skipped(tmp_path / "resumed.zarr", **known, of_blocks=3)])
        assert found.tissue.pixels == 2400 and "not recorded" in found.tissue.said

    def test_nothing_is_tissue(self, mask: Path) -> None:
        (found,) = summarise([mask], tissue=["class 3"])
        assert found.tissue.pixels == 0
        assert {one.per_mm2 for one in found.classes} == {None}

    def test_no_such_class(self, mask: Path, tmp_path: Path) -> None:
        with pytest.raises(PlanError, match="0 class 0, 1 class 1, 2 class 2, 3 class 3"):
            summarise([mask], tissue=["tumour"])
        tifffile.imwrite(tmp_path / "ids.tif", np.eye(9, dtype=np.uint16))
        with pytest.raises(PlanError, match="--tissue"):
            summarise([tmp_path / "ids.tif"], tissue=["1"])


def test_without_a_pixel_size_all_is_in_pixels(tmp_path: Path) -> None:
    (found,) = summarise([write(tmp_path / "m.tif", by_hand(), spec_of((40, 60)))])
    one = found.classes[1]
    assert (found.tissue.area_mm2, one.area_mm2, one.per_mm2) == (None, None, None)
    assert (one.pixels, one.objects, [sizes.unit for sizes in one.sizes]) == (305, 3, ["px"])


def test_a_label_image_of_another_program(tmp_path: Path) -> None:
    ids, count = ndimage.label(by_hand() == 1)
    tifffile.imwrite(tmp_path / "ids.tif", ids.astype(np.uint16))
    (found,) = summarise([tmp_path / "ids.tif"])
    (one,) = found.classes
    assert (one.name, one.objects, one.pixels, one.share) == ("object", count, 305, 305 / 2400)
    assert one.sizes[0].quartiles == (2.5, 4, 152)


def test_a_stack_by_plane_and_by_volume(tmp_path: Path) -> None:
    ids = np.stack([by_hand(), by_hand()])
    path = write(tmp_path / "m.zarr", ids, replace(spec_of((40, 60), pixel_size=SIZE), depth=2))
    (by_plane,), (whole,) = summarise([path]), summarise([path], volume=True)
    assert (by_plane.classes[1].objects, by_plane.classes[1].pixels) == (6, 610)
    assert by_plane.classes[1].per_mm2 == pytest.approx(6 / 4800e-6)
    assert (whole.classes[1].objects, whole.classes[1].per_mm2) == (3, None)
    assert [(sizes.unit, sizes.quartiles[1]) for sizes in whole.classes[1].sizes] == [("vx", 8)]


def test_a_mask_without_objects(tmp_path: Path) -> None:
    path = write(tmp_path / "m.zarr", np.zeros((40, 60)), spec_of((40, 60)))
    (found,) = summarise([path])
    assert [one.objects for one in found.classes] == [None, 0, 0, 0]
    write_summary(tmp_path / "s.csv", [found])
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 5


def test_a_folder_of_masks(mask: Path, tmp_path: Path) -> None:
    """Ids of objects, tables and folders beside the masks do not count."""
    from tilesegment.objects.find import find_objects

    write(tmp_path / "a.png", by_hand(), spec_of((40, 60)))
    find_objects(mask, tmp_path / "m-objects.zarr", tmp_path / "m.csv")
    (tmp_path / "logs").mkdir()
    found = summarise([tmp_path])
    assert [one.mask for one in found] == [str(tmp_path / "a.png"), str(mask)]
    for name in ("a.png", "m.csv"):
        (tmp_path / name).unlink()
    with pytest.raises(MaskError, match="no mask"):
        summarise([tmp_path / "logs"])


def test_files_hold_what_was_found(mask: Path, tmp_path: Path) -> None:
    found = summarise([mask, write(tmp_path / "b.zarr", by_hand(), spec_of((40, 60)))])
    write_summary(tmp_path / "s.csv", found)
    table = list(csv.DictReader((tmp_path / "s.csv").read_text().splitlines()))
    assert [(row["mask"], row["class"]) for row in table[:2]] == [(str(mask), "class 0"), (str(mask), "class 1")]
    assert len(table) == 8
    one, other = table[1], table[5]
    assert (one["area_px"], one["objects"], float(one["area_mm2"])) == ("305", "3", 305e-6)
    assert [float(one[f"object_area_{name}_um2"]) for name in ("q1", "median", "q3")] == [2.5, 4, 152]
    assert (other["object_area_median_px"], other["object_area_median_um2"], other["per_mm2"]) == ("4.0", "", "")
    assert (one["tissue"], one["tissue_px"]) == ("whole mask", "2400")
    assert {tuple(row) for row in rows(found)} == {tuple(table[0])}
    write_summary(tmp_path / "s.json", found)
    known = json.loads((tmp_path / "s.json").read_text())
    assert known[0]["classes"][1]["objects"] == 3
    with pytest.raises(MaskError, match="--overwrite"):
        check_summary(tmp_path / "s.csv")
    with pytest.raises(MaskError, match=r"NAME\.csv and NAME\.json"):
        check_summary(tmp_path / "s.txt")
    write_summary(tmp_path / "s.csv", found[:1], overwrite=True)
    assert len((tmp_path / "s.csv").read_text().splitlines()) == 5


def test_the_command(mask: Path, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for line in ("summary m.zarr", "summary m.zarr --out -"):
        found = run(line)
        assert (found.code, found.err) == (0, "")
        (line,) = [line for line in found.out.splitlines() if "class 1" in line]
        assert [part for part in line.split() if part] == (
            ["m.zarr", "class", "1", "0.000305", "mm2", "12.7", "%", "3", "1,250", "101.7", "um2", "2.5,", "4,", "152"]
        )
        assert "tissue of m.zarr: whole mask, 0.0024 mm2" in found.out
    found = run("summary m.zarr --out s.csv --json --min-area 2 -q")
    assert (found.code, found.err) == (0, "")
    assert json.loads(found.out)[0]["classes"][1]["objects"] == 2
    before = (tmp_path / "s.csv").read_bytes()
    found = run("summary m.zarr --out s.csv")
    assert (found.code, "--overwrite" in found.err) == (1, True)
    assert (tmp_path / "s.csv").read_bytes() == before
    assert run("summary m.zarr --out s.csv --overwrite").code == 0
    assert (tmp_path / "s.csv").read_bytes() != before
    found = run("summary m.zarr --classes nucleus")
    assert (found.code, "3 class 3" in found.err, found.out) == (1, True, "")
