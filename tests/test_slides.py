"""Slides of scanners: what they are, what they say of themselves, and what is said of those that cannot be read."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import openslide
import pytest
from command_line import Run
from dicom_files import dicom
from hamamatsu_files import ndpi, vms
from image_files import Write, fails, make_pixels, png
from mirax_files import mrxs
from reader_cases import SMOOTH, WSI
from reader_contract import keep_the_contract
from slide_files import bif

import tilesegment
from tilesegment.errors import ImageError
from tilesegment.geometry import Region
from tilesegment.images import ImageSource, is_image_folder, open_image
from tilesegment.images.identity import identity
from tilesegment.metadata import PixelSize
from tilesegment.prediction.inputs import images_in

SLIDE = np.tile(SMOOTH, (1, 3, 3))[:, :320, :480]


def whole(source: ImageSource, level: int = 0) -> np.ndarray:
    return source.read(Region.of_shape(source.levels[level].shape), level)


@pytest.mark.parametrize("mcu", [True, False])
@pytest.mark.parametrize("is_64_bit", [True, False])
def test_both_layouts_of_ndpi(is_64_bit: bool, mcu: bool, tmp_path: Path) -> None:
    path = ndpi(is_64_bit=is_64_bit, mcu=mcu)(tmp_path, SLIDE)
    with open_image(path) as source:
        assert (source.format, source.shape, source.pixel_size) == ("NDPI", (320, 480), PixelSize(0.5, 0.25))
        assert (source.about.vendor, source.about.objective) == ("Hamamatsu", 20)
        assert dict(source.about.associated) == {"macro": (40, 90)}
        assert not source.notes and not source.contents
        assert np.abs(whole(source) - SLIDE.astype(float)).mean() < 2
        level = next(n for n, one in enumerate(source.levels) if one.scale == (2, 2))
        assert np.abs(whole(source, level) - SLIDE[:, ::2, ::2].astype(float)).mean() < 4


def test_vms(tmp_path: Path) -> None:
    path = vms(tmp_path, SLIDE)
    with open_image(path) as source:
        assert (source.format, source.shape, source.pixel_size) == ("VMS", (320, 480), PixelSize(0.5, 0.25))
        assert dict(source.about.associated) == {"macro": (40, 90)}
        for n, factor in enumerate((1, 2, 4)):
            assert source.levels[n].scale == (factor, factor)
            assert np.abs(whole(source, n) - SLIDE[:, ::factor, ::factor].astype(float)).mean() < 4
    keep_the_contract(lambda: open_image(path))


OVERLAPPING = {
    "mrxs, between pixels": mrxs(levels=1, overlap=4.5),
    "mrxs, whole pixels": mrxs(levels=1, overlap=5.0),
    "bif, between pixels": bif(overlaps=(4, 5)),
    "bif, whole pixels": bif(overlaps=(6,), levels=3),
}


@pytest.mark.parametrize("write", OVERLAPPING.values(), ids=OVERLAPPING)
def test_slides_of_tiles_that_overlap_are_read_the_same_in_any_region(write: Write, tmp_path: Path) -> None:
    """Where tiles lie between pixels, OpenSlide interpolates, even on level 0."""
    path = write(tmp_path, SLIDE)
    with open_image(path) as source:
        assert np.abs(whole(source) - SLIDE[:, : source.shape[0], : source.shape[1]].astype(float)).mean() < 4
    keep_the_contract(lambda: open_image(path))


def test_a_mrxs_is_its_scanned_part_on_white(tmp_path: Path) -> None:
    path = mrxs(levels=3, at=(4, 8), tile=32)(tmp_path, SLIDE)
    with open_image(path) as source:
        assert source.shape == (320, 480)
        assert [one.scale for one in source.levels] == [(1, 1), (2, 2), (4, 4)]
        assert np.abs(whole(source) - SLIDE.astype(float)).mean() < 2
        assert "first pixel is y 128, x 256 of OpenSlide" in source.notes[0]
        assert (source.frame.y.origin, source.frame.x.origin) == (128 * 0.25, 256 * 0.25)
    with openslide.OpenSlide(path) as slide:  # the same place in the frame of others
        pixels = np.asarray(slide.read_region((256 + 50, 128 + 20), 0, (70, 60)).convert("RGB"))
    with open_image(path) as source:
        np.testing.assert_array_equal(source.read(Region(20, 50, 80, 120)), pixels.transpose(2, 0, 1))
    path = mrxs(levels=1, at=(0, 0), tile=32, holes=((1, 2), (3, 3)))(tmp_path / "other", SLIDE)
    with open_image(path) as source:
        for row, column in ((1, 2), (3, 3)):
            assert (source.read(Region(0, 0, 32, 32).shift(row * 32, column * 32)) == 255).all()


@pytest.mark.parametrize("name", ["Data0000.dat", "Index.dat", "Slidedat.ini"])
@pytest.mark.parametrize("kept", [0, 0.3, 0.9])
def test_a_mrxs_with_a_damaged_file_is_one_line(name: str, kept: float, tmp_path: Path) -> None:
    path = mrxs()(tmp_path, SLIDE)
    file = tmp_path / "slide" / name
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * kept)])
    fails(path)
    file.unlink()
    fails(path)


def test_what_is_not_damaged_is_read_after_an_error(tmp_path: Path) -> None:
    path, data = mrxs(levels=2)(tmp_path, SLIDE), tmp_path / "slide" / "Data0000.dat"
    with open_image(path) as source:
        expected = source.read(Region(0, 0, 160, 224), level=1)
    content = data.read_bytes()  # level 0 comes first
    data.write_bytes(bytes(len(content) // 2) + content[len(content) // 2 :])
    with open_image(path) as source:
        for _ in range(2):
            with pytest.raises(ImageError, match="is damaged: pixels 0:90,0:70"):
                source.read(Region(0, 0, 90, 70))
            np.testing.assert_array_equal(source.read(Region(0, 0, 160, 224), level=1), expected)


def test_slides_without_their_files(tmp_path: Path) -> None:
    path = mrxs()(tmp_path, SLIDE)
    fails(tmp_path / "slide", r"give the slide, .*slide\.mrxs")
    shutil.rmtree(tmp_path / "slide")
    fails(path, "lacks slide beside it")
    path = vms(tmp_path, SLIDE)
    (tmp_path / "slide-image.jpg").unlink()
    fails(path, "lacks slide-image.jpg beside it")


# -- DICOM -------------------------------------------------------------------------------------------------------------


def test_a_dicom_slide_by_its_folder_and_by_any_of_its_files(tmp_path: Path) -> None:
    folder = dicom(levels=3)(tmp_path, SLIDE)
    assert is_image_folder(folder)
    for path in (folder, *sorted(folder.iterdir())):
        with open_image(path) as source:
            assert source.path == str(path)
            assert (len(source.levels), source.about.objective, source.about.vendor) == (3, 40, "Drawn")
            np.testing.assert_array_equal(whole(source), SLIDE)


def test_folders_of_several_slides_are_no_image(tmp_path: Path) -> None:
    folder = dicom(levels=2)(tmp_path, SLIDE)
    (tmp_path / "other").mkdir()
    for file in dicom()(tmp_path / "other", SLIDE).iterdir():
        file.rename(folder / f"a-{file.name}")
    png(folder, make_pixels(3, 30, 40)).rename(folder / "b.png")
    (folder / "notes.txt").write_text("")
    fails(folder, "holds 2 slides .* a-level0_0.dcm, level0_0.dcm")
    assert not is_image_folder(folder)
    found = images_in(str(folder))
    assert [Path(one).name for one in found.images] == ["a-level0_0.dcm", "b.png", "level0_0.dcm"]
    assert found.left_out == ("notes.txt",)


def test_dicom_that_is_no_slide_or_not_whole(tmp_path: Path) -> None:
    folder = dicom(SOPClassUID="1.2.840.10008.5.1.4.1.1.2", Modality="CT")(tmp_path, SLIDE)
    for path in (folder, next(folder.iterdir())):
        assert "to TIFF" in fails(path, "DICOM of modality CT, not a slide")
    shutil.rmtree(folder)
    folder = dicom(files_each=3)(tmp_path, SLIDE)
    (folder / "level0_1.dcm").unlink()
    fails(folder, "lacks 1 of the 3 files of a level of 320 x 480")
    shutil.rmtree(folder)
    folder = dicom(ImageType=["ORIGINAL", "PRIMARY", "LABEL", "NONE"])(tmp_path, SLIDE)
    fails(folder, "only its label")
    shutil.rmtree(folder)
    folder = dicom(levels=2)(tmp_path, SLIDE)
    (folder / "level0_0.dcm").unlink()
    with open_image(folder) as source:
        assert "finer level" in source.notes[0]


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_truncated_dicom_file_is_one_line(kept: float, tmp_path: Path) -> None:
    (path,) = dicom()(tmp_path, SLIDE).iterdir()
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    fails(path)


def test_files_of_another_kind_by_the_name_of_a_slide(tmp_path: Path) -> None:
    for suffix in (".mrxs", ".vms", ".vmu", ".bif", ".svslide", ".ndpi", ".dcm"):
        path = tmp_path / f"a{suffix}"
        path.write_bytes(b"text of another kind")
        fails(path)
        path.write_bytes(b"")
        fails(path, "empty file")


@pytest.mark.parametrize("name", ["a.mrxs", "a.vms", "a.ndpi", "a.dcm"])
def test_without_the_extra_its_line_is_said(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("openslide", "wsidicom", "pydicom"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("openslide", "dicom"):
        monkeypatch.delitem(sys.modules, f"tilesegment.images.{module}", raising=False)
    path = tmp_path / name
    if name == "a.ndpi":
        ndpi(is_64_bit=False)(tmp_path, SLIDE).rename(path)
    else:
        path.write_bytes(bytes(128) + b"DICM" + bytes(99))
    fails(path, r'pip install "tilesegment\[wsi\]"')


def test_the_identity_of_a_slide_covers_its_files(tmp_path: Path) -> None:
    folder = dicom(levels=2)(tmp_path, SLIDE)
    of_folder, of_file = identity(folder), identity(folder / "level0_0.dcm")
    (folder / "notes.txt").write_text("beside it")
    assert (identity(folder).digest, identity(folder / "level0_0.dcm").digest) == (of_folder.digest, of_file.digest)
    content = bytearray((folder / "level1_0.dcm").read_bytes())
    content[-9] ^= 1
    (folder / "level1_0.dcm").write_bytes(content)
    assert identity(folder).digest != of_folder.digest
    assert identity(folder / "level0_0.dcm").digest != of_file.digest
    vms, data = tmp_path / "a.mrxs", tmp_path / "a"
    vms.write_text("")
    data.mkdir()
    (data / "Data0000.dat").write_bytes(b"1")
    before = identity(vms).digest
    (data / "Data0000.dat").write_bytes(b"2")
    assert identity(vms).digest != before


def test_folders_count_a_slide_once(tmp_path: Path) -> None:
    (tmp_path / "a.mrxs").write_text("")
    (tmp_path / "a").mkdir()
    (tmp_path / "b.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=b.jpg\nMapFile=c.jpg\nMacroImage=../d.jpg\n"
    )
    for name in ("b.jpg", "c.jpg", "e.jpg"):
        (tmp_path / name).write_bytes(b"\xff\xd8\xff")
    found = images_in(str(tmp_path))
    assert [Path(one).name for one in found.images] == ["a.mrxs", "b.vms", "e.jpg"]
    assert not found.left_out


# -- info --------------------------------------------------------------------------------------------------------------


def test_info_of_a_slide(tmp_path: Path, run: Run) -> None:
    path = ndpi(is_64_bit=False)(tmp_path, SLIDE)
    facts = json.loads(run(f"info {path} --json").out)
    assert (facts["format"], facts["vendor"], facts["objective"]) == ("NDPI", "Hamamatsu", 20)
    assert facts["associated"] == {"macro": [40, 90]}
    assert facts["levels"][1] == {"shape_yx": [160, 240], "pixel_size_um": [1.0, 0.5]}
    said = run(f"info {path}").out
    for line in (
        "vendor:",
        "objective:",
        "level 1:         160 x 240 px, 1 x 0.5 um/px",
        "macro:           40 x 90 px",
    ):
        assert line in said


@pytest.mark.skipif(not WSI.is_dir(), reason=f"no slides in {WSI}")
def test_info_of_real_slides() -> None:
    facts = tilesegment.describe(WSI / "cmu_small_region.svs")
    assert (facts["format"], facts["vendor"], facts["objective"]) == ("SVS", "Aperio", 20)
    assert facts["associated"] == {"thumbnail": [768, 574], "label": [463, 387], "macro": [431, 1280]}
    assert facts["pixel_size_um"] == [0.499, 0.499] and "series" not in facts
    facts = tilesegment.describe(WSI / "boxes_0.dcm")
    assert (facts["vendor"], facts["associated"]) == ("Leica Biosystems", {"thumbnail": [16, 16]})
