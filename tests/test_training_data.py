"""Labelled data as people keep it: what is read, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from data_sets import cells, write_pairs, write_stack
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilesegment import DataError, ImageError
from tilesegment.metadata import LabelClass
from tilesegment.training.data import IGNORE, Dataset, Section, normalisation_of, open_dataset


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (3, 200)])
def test_values_become_ids_in_their_order(values: tuple[int, int], tmp_path: Path) -> None:
    data = open_dataset(write_pairs(tmp_path / "d", 3, values=values))
    assert [section.name for section in data.sections] == ["00", "01", "02"]
    assert [one.value for one in data.classes] == list(values)
    assert [one.name for one in data.classes] == [f"value {value}" for value in values]
    for n, section in enumerate(data.sections):
        image, inside = cells(80, 80, n)
        np.testing.assert_array_equal(section.image, image[None])
        np.testing.assert_array_equal(section.label, inside)
        assert section.label.dtype == np.uint8
    assert sum(data.shares()) == pytest.approx(1)
    assert data.shares()[1] == pytest.approx(np.mean([s.label for s in data.sections]))


def test_a_class_that_one_label_lacks_keeps_its_id(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2)
    label = np.asarray(Image.open(folder / "labels" / "01.png")).copy()
    label[:10], label[10:20], label[20:30] = 7, 9, 255
    Image.fromarray(label).save(folder / "labels" / "01.png")
    data = open_dataset(folder, ["a", "b", "c", "d"])
    assert [(one.name, one.value) for one in data.classes] == [("a", 0), ("b", 7), ("c", 9), ("d", 255)]
    assert set(np.unique(data.sections[0].label)) == {0, 3}
    assert len({one.colour for one in data.classes}) == 4


def test_labels_may_be_of_another_format_and_of_floats(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2)
    for path in list((folder / "labels").iterdir()):
        tifffile.imwrite(path.with_suffix(".tif"), (np.asarray(Image.open(path)) > 0).astype(np.float32))
        path.unlink()
    data = open_dataset(folder)
    assert [one.value for one in data.classes] == [0, 1]


def test_stacks_are_sections_plane_by_plane(tmp_path: Path) -> None:
    data = open_dataset(write_stack(tmp_path / "d", 4))
    assert [section.name for section in data.sections] == [f"volume[{z}]" for z in range(4)]
    for z, section in enumerate(data.sections):
        image, inside = cells(60, 60, z)
        np.testing.assert_array_equal(section.image[0], image)
        np.testing.assert_array_equal(section.label, inside)


def test_pixel_size_is_kept_where_all_agree(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2)
    for n in range(2):
        image = cells(80, 80, n)[0]
        (folder / "images" / f"{n:02}.png").unlink()
        tifffile.imwrite(
            folder / "images" / f"{n:02}.tif", image, resolution=(2.5e6, 2.5e6), resolutionunit="CENTIMETER"
        )
    size = open_dataset(folder).pixel_size
    assert size is not None
    assert (size.y, size.x) == pytest.approx((0.004, 0.004))


def test_hidden_files_do_not_matter(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2)
    (folder / "images" / ".DS_Store").write_bytes(b"x")
    assert len(open_dataset(folder).sections) == 2


@given(st.integers(1, 60), st.floats(0, 0.9))
def test_the_last_ones_are_held_out_and_some_are_left(count: int, share: float) -> None:
    sections = tuple(Section(str(n), np.zeros((1, 1, 1)), np.zeros((1, 1))) for n in range(count))
    train, held = Dataset(sections, (LabelClass("a", "#000000"),), None).split(share)
    assert train + held == sections
    assert train
    if count > 1:
        assert bool(held) == (share > 0)
        assert abs(len(held) - share * count) <= 1


def named(*names: str) -> Dataset:
    sections = tuple(Section(name, np.zeros((1, 1, 1)), np.zeros((1, 1), np.uint8)) for name in names)
    return Dataset(sections, (LabelClass("a", "#000000"),), None)


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        (["a"], ["a"]),
        ("a", ["a"]),
        (["b"], ["b[0]", "b[1]"]),
        (["c[0]@256,0", "b[1]"], ["b[1]", "c[0]@256,0"]),
        (["c"], ["c[0]@0,0", "c[0]@256,0"]),
        ([], []),
    ],
)
def test_sections_are_held_out_by_name(wanted: str | list[str], held: list[str]) -> None:
    data = named("a", "b[0]", "b[1]", "c[0]@0,0", "c[0]@256,0")
    train, held_out = data.split(wanted)
    assert [section.name for section in held_out] == held
    assert [section.name for section in train] == [s.name for s in data.sections if s.name not in held]


def test_names_that_cannot_be_held_out() -> None:
    data = named(*(f"{n:02}" for n in range(20)))
    with pytest.raises(DataError, match=r"no labelled image is called x; there are 00, 01, .*07 and 12 more: hold out"):
        data.split(["01", "x"])
    with pytest.raises(DataError, match="all 20 labelled images are held out"):
        data.split([section.name for section in data.sections])


def test_shares_are_those_of_the_labelled_pixels() -> None:
    label = np.array([[0, 0, 0, 1, IGNORE, IGNORE]], np.uint8)
    data = Dataset((Section("a", label[None], label),), (LabelClass("a", "#000000"), LabelClass("b", "#ffffff")), None)
    assert data.shares() == (0.75, 0.25)


def test_normalisation_is_that_of_all_pixels(tmp_path: Path) -> None:
    data = open_dataset(write_pairs(tmp_path / "d", 3))
    pixels = np.stack([section.image for section in data.sections]).astype(float)
    scale = normalisation_of(data.sections)
    assert (scale.mean, scale.std) == (pytest.approx((pixels.mean(),)), pytest.approx((pixels.std(),)))
    assert scale.dtype == "uint8"


def png(path: Path, pixels: np.ndarray) -> None:
    Image.fromarray(pixels).save(path)


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def label(pixels: np.ndarray) -> Callable[[Path], None]:
    return lambda folder: png(folder / "labels" / "01.png", pixels.astype(np.uint8))


def constant(folder: Path) -> None:
    for path in (folder / "labels").iterdir():
        png(path, np.full((80, 80), 5, np.uint8))


def float_label(value: float) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "labels" / "01.png").unlink()
        pixels = np.zeros((80, 80), np.float32)
        pixels[3, 4] = value
        tifffile.imwrite(folder / "labels" / "01.tif", pixels)

    return write


def nan_image(folder: Path) -> None:
    for path in list((folder / "images").iterdir()):
        pixels = np.asarray(Image.open(path)).astype(np.float32)
        pixels[1, 2] = np.nan
        tifffile.imwrite(path.with_suffix(".tif"), pixels)
        path.unlink()


def empty(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


BAD = {
    "an image without its label": (remove("labels/01.png"), DataError, r"images/01\.png has no label; expected .*01"),
    "a label without its image": (remove("images/01.png"), DataError, r"labels/01\.png has no image; expected .*01"),
    "no pairs at all": (empty, DataError, "is empty"),
    "another size": (
        label(np.zeros((80, 79))),
        DataError,
        r"image 01 is 1 x 80 x 80 \(z, y, x\), its label 1 x 80 x 79",
    ),
    "a grey image": (label(np.arange(6400).reshape(80, 80) % 251), DataError, "holds 251 values from 0 to 250"),
    "a constant": (constant, DataError, "hold one value only, 5"),
    "halves": (float_label(0.5), DataError, "whole ones"),
    "NaN in a label": (float_label(np.nan), DataError, "label 01 holds .* whole ones"),
    "infinity in a label": (float_label(np.inf), DataError, "label 01 holds .* whole ones"),
    "huge values": (float_label(1e20), DataError, "label 01 holds .* whole ones"),
    "negative values": (float_label(-1), DataError, "from -1"),
    "an image in colour among grey ones": (
        lambda folder: png(folder / "images" / "01.png", np.zeros((80, 80, 3), np.uint8)),
        DataError,
        "01 has 3 channels of uint8, 00 has 1 of uint8; all images must be of one kind",
    ),
    "two files of one stem": (
        lambda folder: png(folder / "images" / "01.jpg", np.zeros((80, 80), np.uint8)),
        DataError,
        "several files of one stem",
    ),
    "no image": (lambda folder: (folder / "images" / "01.png").write_text("no"), ImageError, "01.png is not an image"),
    "NaN in an image": (nan_image, ImageError, "image 00 holds NaN"),
}


@pytest.mark.parametrize(("spoil", "error", "match"), BAD.values(), ids=BAD.keys())
def test_what_cannot_be_trained_on(
    spoil: Callable[[Path], None], error: type[Exception], match: str, tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "d", 3)
    spoil(folder)
    with pytest.raises(error, match=match) as caught:
        open_dataset(folder)
    assert "\n" not in str(caught.value)


def test_a_stack_needs_a_label_of_as_many_planes(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "d", 4)
    tifffile.imwrite(folder / "labels" / "volume.tif", np.zeros((3, 60, 60), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match=r"image volume is 4 x 60 x 60 .*, its label 3 x 60 x 60"):
        open_dataset(folder)


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"], ["same", "same"]])
def test_as_many_different_names_as_values(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected 2 different names, for the label values 0, 255"):
        open_dataset(write_pairs(tmp_path / "d", 2), names)


def test_constant_images_teach_nothing(tmp_path: Path) -> None:
    sections = [Section("a", np.full((1, 9, 9), 3, np.uint8), np.zeros((9, 9), np.uint8))]
    with pytest.raises(DataError, match="constant or hold NaN"):
        normalisation_of(sections)


def test_real_sections(isbi: Path, vnc: Path) -> None:
    data = open_dataset(isbi, ["membrane", "inside"])
    assert len(data.sections) == 24
    assert data.shares()[0] == pytest.approx(0.22, abs=0.02)
    four = open_dataset(vnc)
    assert [one.value for one in four.classes] == [0, 1, 2, 3]
    assert four.sections[0].image.shape == (1, 1024, 1024)
