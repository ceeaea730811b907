"""Which format a file is of; formats that are known and not read are named, never skipped without a word."""

from pathlib import Path

import pytest
from command_line import Run
from image_files import GREY, fails, png, tiff

from tilesegment.images import open_image
from tilesegment.images.formats import FORMATS
from tilesegment.images.unread import UNREAD

SUFFIXES = [(suffix, one.name) for one in UNREAD for suffix in one.suffixes]


@pytest.mark.parametrize(("suffix", "name"), SUFFIXES, ids=[suffix for suffix, _ in SUFFIXES])
def test_a_known_format_that_is_not_read_is_refused_by_name(suffix: str, name: str, tmp_path: Path) -> None:
    path = tmp_path / f"image{suffix.upper()}"
    path.write_bytes(b"\x01\x02\x03\x04" * 100)
    assert f"not read, {name}: " in fails(path)


def test_no_suffix_is_both_read_and_refused() -> None:
    read = [suffix for one in FORMATS for suffix in one.suffixes]
    assert len({*read} | {suffix for suffix, _ in SUFFIXES}) == len(read) + len(SUFFIXES)


def test_what_looks_like_another_format_is_not_taken_for_it(tmp_path: Path) -> None:
    """An EER is a BigTIFF of detector events; a picture under the suffix of another format is a picture."""
    fails(tiff("yx", bigtiff=True)(tmp_path, GREY).rename(tmp_path / "a.eer"), "not read, EER")
    with open_image(png(tmp_path, GREY).rename(tmp_path / "a.gif")) as source:
        assert source.format == "PNG"


def test_folders_and_globs_name_what_is_not_read(folder: Path, run: Run) -> None:
    images = folder / "images"
    images.mkdir()
    tiff("yx")(images, GREY[:, :90, :90])
    for name in ("a.nd2", "b.nd2", "c.nd2", "d.nd2", "e.lif", "notes.txt"):
        (images / name).write_bytes(b"something")
    line = "-m toy.safetensors --tile 88 --device cpu --out-dir masks"
    found = run(f"predict images {line}")
    assert found.code == 0
    assert "1 images; left out: notes.txt" in found.err
    assert "images: a.nd2, b.nd2, c.nd2 and 1 more: Nikon ND2 is not read: convert" in found.err
    assert "images: e.lif: Leica LIF is not read: convert" in found.err
    found = run(f"predict images/image.tif images/e.lif {line}")  # as a shell passes images/*
    assert found.code == 3 and "e.lif is of a format that is not read, Leica LIF: convert" in found.err
    (images / "image.tif").unlink()
    found = run(f"predict images {line}")
    assert found.code != 0 and "no image that can be read, but a.nd2, b.nd2, c.nd2 and 1 more: Nikon ND2" in found.err


def test_so_do_the_folders_of_train_and_evaluate(folder: Path, run: Run) -> None:
    for name in ("truth", "found"):
        (folder / name).mkdir()
        png(folder / name, GREY % 2)
    (folder / "truth" / "other.czi.dm4").write_bytes(b"something")
    found = run("evaluate truth found")
    assert found.code == 0
    assert "left out of truth: other.czi.dm4: Gatan DM3 or DM4 is not read: save" in found.err
