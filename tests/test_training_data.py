"""Labelled data as people keep it: what is read, and what is refused."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from data_sets import cells, write_files, write_pairs, write_stack
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilesegment import DataError, ImageError
from tilesegment.metadata import LabelClass
from tilesegment.models.model import Model
from tilesegment.training.data import (
    IGNORE,
    Dataset,
    Section,
    normalisation_of,
    open_dataset,
)
from tilesegment.training.data.summary import split_warnings
from tilesegment.training.normalisation import choose_normalisation

ONE = (LabelClass("a", "#000000"),)


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (3, 200)])
def test_values_become_ids_in_their_order(values: tuple[int, int], tmp_path: Path) -> None:
    data = open_dataset(write_pairs(tmp_path / "d", 3, values=values))
    assert [section.name for section in data.sections] == ["00", "01", "02"]
    assert [(one.name, one.value) for one in data.classes] == [(f"value {value}", value) for value in values]
    for n, section in enumerate(data.sections):
        image, inside = cells(80, 80, n)
        np.testing.assert_array_equal(section.image, image[None])
        np.testing.assert_array_equal(section.label, inside)
        assert section.label.dtype == np.uint8
    assert sum(data.shares()) == pytest.approx(1)
    assert data.shares()[1] == pytest.approx(np.mean([s.label for s in data.sections]))
    pixels = np.stack([section.image for section in data.sections]).astype(float)
    scale = normalisation_of(data.sections)
    assert (scale.mean, scale.std) == (pytest.approx((pixels.mean(),)), pytest.approx((pixels.std(),)))
    assert scale.dtype == "uint8"


def test_a_class_that_one_label_lacks_keeps_its_id(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2)
    label = np.asarray(Image.open(folder / "labels" / "01.png")).copy()
    label[:10], label[10:20], label[20:30] = 7, 9, 255
    write_files(folder, {"labels/01.png": label})
    data = open_dataset(folder, ["a", "b", "c", "d"])
    assert [(one.name, one.value) for one in data.classes] == [("a", 0), ("b", 7), ("c", 9), ("d", 255)]
    assert set(np.unique(data.sections[0].label)) == {0, 3}
    assert len({one.colour for one in data.classes}) == 4


def test_stacks_are_sections_plane_by_plane(tmp_path: Path) -> None:
    folder = write_stack(tmp_path / "d", 4)
    data = open_dataset(folder)
    assert [section.name for section in data.sections] == [f"volume[{z}]" for z in range(4)]
    for z, section in enumerate(data.sections):
        image, inside = cells(60, 60, z)
        np.testing.assert_array_equal(section.image[0], image)
        np.testing.assert_array_equal(section.label, inside)
    tifffile.imwrite(folder / "labels" / "volume.tif", np.zeros((3, 60, 60), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match=r"volume is 4 x 60 x 60 .* 3 x 60 x 60"):
        open_dataset(folder)


def test_pixel_size_is_kept_where_all_agree(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path / "d", 2)
    for n in range(2):
        path = folder / "images" / f"{n:02}.png"
        scale = {"resolution": (2.5e6, 2.5e6), "resolutionunit": "CENTIMETER"}
        tifffile.imwrite(path.with_suffix(".tif"), np.asarray(Image.open(path)), **scale)
        path.unlink()
    size = open_dataset(folder).pixel_size
    assert size is not None
    assert (size.y, size.x) == pytest.approx((0.004, 0.004))


@given(st.integers(1, 60), st.floats(0, 0.9))
def test_the_last_ones_are_held_out_and_some_are_left(count: int, share: float) -> None:
    sections = tuple(Section(str(n), np.zeros((1, 1, 1)), np.zeros((1, 1))) for n in range(count))
    train, held = Dataset(sections, ONE, None).split(share)
    assert train + held == sections
    assert train
    if count > 1:
        assert bool(held) == (share > 0)
        assert abs(len(held) - share * count) <= 1


@pytest.mark.parametrize(
    ("wanted", "held"),
    [
        ("a", ["a"]),
        (["b"], ["b[0]", "b[1]"]),
        (["c[0]@256,0", "b[1]"], ["b[1]", "c[0]@256,0"]),
        (["c"], ["c[0]@0,0", "c[0]@256,0"]),
        ([], []),
    ],
)
def test_sections_are_held_out_by_name(wanted: str | list[str], held: list[str]) -> None:
    names = ("a", "b[0]", "b[1]", "c[0]@0,0", "c[0]@256,0")
    data = Dataset(tuple(Section(name, np.zeros((1, 1, 1)), np.zeros((1, 1))) for name in names), ONE, None)
    train, held_out = data.split(wanted)
    assert [section.name for section in held_out] == held
    assert [section.name for section in train] == [name for name in names if name not in held]
    with pytest.raises(DataError, match=r"called x; there are a, b\[0\]"):
        data.split(["a", "x"])
    with pytest.raises(DataError, match="all 5"):
        data.split(names)


def change(name: str, to: Callable[[np.ndarray], np.ndarray], suffix: str = ".png") -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        pixels = to(np.array(Image.open(folder / name)))
        (folder / name).unlink()
        write_files(folder, {str(Path(name).with_suffix(suffix)): pixels})

    return spoil


def one_pixel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def to(pixels: np.ndarray) -> np.ndarray:
        pixels = (pixels > 0).astype(np.float32)
        pixels[3, 4] = value
        return pixels

    return to


def constant(folder: Path) -> None:
    write_files(folder, {f"labels/{n:02}.png": np.full((80, 80), 5, np.uint8) for n in range(3)})


def float_images(folder: Path) -> None:
    for n in range(3):
        change(f"images/{n:02}.png", one_pixel(np.nan), ".tif")(folder)


def empty(folder: Path) -> None:
    for path in folder.rglob("*.png"):
        path.unlink()


SHADES = np.arange(6400, dtype=np.uint16).reshape(80, 80)
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "an image without its label": (lambda folder: (folder / "labels/01.png").unlink(), r"images/01\.png has no label"),
    "a label without its image": (lambda folder: (folder / "images/01.png").unlink(), r"labels/01\.png has no image"),
    "no pairs at all": (empty, "is empty"),
    "another size": (change("labels/01.png", lambda pixels: pixels[:, :-1]), "image 01 .* 80 x 80.* 80 x 79"),
    "a grey image": (change("labels/01.png", lambda _: (SHADES % 251).astype(np.uint8)), "251 values, .* 250"),
    "a constant": (constant, "one value only, 5"),
    "halves": (change("labels/01.png", one_pixel(0.5), ".tif"), "label 01 .*whole"),
    "NaN in a label": (change("labels/01.png", one_pixel(np.nan), ".tif"), "label 01 .*whole"),
    "infinity in a label": (change("labels/01.png", one_pixel(np.inf), ".tif"), "label 01 .*whole"),
    "huge values": (change("labels/01.png", one_pixel(1e20), ".tif"), "label 01 .*whole"),
    "negative values": (change("labels/01.png", one_pixel(-1), ".tif"), "-1"),
    "colour among greys": (
        change("images/01.png", lambda pixels: np.dstack([pixels] * 3)),
        "01 has 3 channels .* 00 has 1",
    ),
    "two files of one stem": (
        lambda folder: write_files(folder, {"images/01.jpg": np.zeros((80, 80), np.uint8)}),
        "01.jpg and 01.png",
    ),
    "no image": (lambda folder: (folder / "images" / "01.png").write_text("no"), "01.png is not an image"),
    "NaN in an image": (float_images, "image 00 holds NaN"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_trained_on(case: str, tmp_path: Path) -> None:
    spoil, match = BAD[case]
    spoil(write_pairs(tmp_path / "d", 3))
    with pytest.raises((DataError, ImageError), match=match) as caught:
        open_dataset(tmp_path / "d")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("names", [["one"], ["one", "two", "three"], ["same", "same"]])
def test_as_many_different_names_as_values(names: list[str], tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"2 different names, .* 0, 255"):
        open_dataset(write_pairs(tmp_path / "d", 2), names)


def test_constant_images_teach_nothing() -> None:
    with pytest.raises(DataError, match="one value everywhere"):
        normalisation_of([Section("a", np.full((1, 9, 9), 3, np.uint8), np.zeros((9, 9), np.uint8))])


def test_nan_is_named_with_its_channel() -> None:
    image = np.zeros((2, 9, 9), np.float32)
    image[0, 0, 0], image[1, 4, 4] = 1, np.nan
    with pytest.raises(DataError, match="NaN or infinity in channel 1"):
        normalisation_of([Section("a", image, np.zeros((9, 9), np.uint8))])


def _colours(folder: Path, channels: dict[int, int | None], of: int) -> Dataset:
    """Open images of `of` channels, which hold one value or, for None, something."""
    (folder / "images").mkdir(parents=True)
    (folder / "labels").mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        image = np.zeros((32, 32, of), np.uint8)
        for channel, value in channels.items():
            image[..., channel] = rng.integers(0, 200, (32, 32)) if value is None else value
        Image.fromarray(image).save(folder / "images" / f"{name}.png")
        Image.fromarray((rng.random((32, 32)) > 0.5).astype(np.uint8)).save(folder / "labels" / f"{name}.png")
    return open_dataset(folder)


@pytest.mark.parametrize("percentiles", [None, (1.0, 99.8)])
def test_a_stain_in_one_colour_alone_is_learnt_from(tmp_path: Path, percentiles: tuple[float, float] | None) -> None:
    """As of DAPI that is saved in blue."""
    data = _colours(tmp_path, {0: 0, 1: 7, 2: None}, 3)
    scale, notes = choose_normalisation(None, None, data.sections, percentiles)
    assert scale.std[0] == scale.std[1] == scale.std[2] > 0
    assert scale.mean[:2] == ((0, 7) if percentiles is None else (0, 0))
    assert notes == ("channels 0, 1 are one value everywhere in each image: nothing is learnt from there",)


def test_percentiles_are_taken_also_after_a_model_without(tmp_path: Path) -> None:
    """As for fluorescence of any exposure, begun from a model of electron microscopy."""
    data = open_dataset(write_pairs(tmp_path / "d", 2))
    header = Model.load("em-membrane").header
    scale, (note,) = choose_normalisation("em-membrane", header, data.sections, (1.0, 99.8))
    assert scale == choose_normalisation(None, None, data.sections, (1.0, 99.8))[0]
    assert "em-membrane takes grey values as they are" in note
    assert choose_normalisation("em-membrane", header, data.sections)[0].percentiles is None


def test_an_opaque_alpha_is_left_out_as_in_prediction(tmp_path: Path) -> None:
    data = _colours(tmp_path / "rgba", {0: None, 1: None, 2: None, 3: 255}, 4)
    assert [len(section.image) for section in data.sections] == [3, 3]
    assert any("alpha" in note for note in data.notes)
    kept = _colours(tmp_path / "four", {0: None, 1: None, 2: None, 3: None}, 4)
    assert [len(section.image) for section in kept.sections] == [4, 4]
    assert not any("alpha" in note for note in kept.notes)


def test_real_sections(isbi: Path, vnc: Path) -> None:
    data, four = open_dataset(isbi, ["membrane", "inside"]), open_dataset(vnc)
    assert len(data.sections) == 24
    assert data.shares()[0] == pytest.approx(0.22, abs=0.02)
    assert [one.value for one in four.classes] == [0, 1, 2, 3]
    assert four.sections[0].image.shape == (1, 1024, 1024)
    for sections in (data.sections, four.sections):  # neighbours in a stack are not the same image
        assert split_warnings(sections[::2], sections[1::2]) == ()


# --- of large images only the labelled parts are kept, with what surrounds them

LARGE = 4200
# labelled rectangles y0, x0, y1, x1: the first two touch squares that touch at a corner, the fourth lies near the third
PATCHES = ((300, 300, 500, 500), (600, 600, 700, 760), (2100, 100, 2130, 1500), (2700, 900, 2800, 1000))


def shade(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Every pixel of the image tells where it is."""
    return ((y * 7 + x * 13) % 251).astype(np.uint8)


@pytest.mark.slow
def test_only_the_labelled_parts_are_kept(tmp_path: Path) -> None:
    label = np.full((LARGE, LARGE), 9, np.uint8)
    image, void = shade(*np.ogrid[:LARGE, :LARGE]), label.copy()
    for number, (y0, x0, y1, x1) in enumerate(PATCHES):
        label[y0:y1, x0:x1] = number % 2
    for name, pixels in (("slide", label), ("empty", void)):
        for part, one in (("images", image), ("labels", pixels)):
            (tmp_path / part).mkdir(exist_ok=True)
            tifffile.imwrite(tmp_path / part / f"{name}.tif", one, tile=(256, 256), compression="zlib")
    data = open_dataset(tmp_path, ignore=9)
    # squares of 256 px that hold a label, and one more around them
    assert [(s.name, s.label.shape) for s in data.sections] == [
        ("slide@0,0", (1024, 1024)),
        ("slide@1792,0", (768, 1792)),
        ("slide@2304,512", (768, 768)),
    ]
    for patches, section in zip((PATCHES[:2], PATCHES[2:3], PATCHES[3:]), data.sections, strict=True):
        y, x = map(int, section.name.split("@")[1].split(","))
        rows, columns = np.ogrid[y : y + section.label.shape[0], x : x + section.label.shape[1]]
        np.testing.assert_array_equal(section.image[0], shade(rows, columns))
        expected = np.full(section.label.shape, IGNORE, np.uint8)
        for y0, x0, y1, x1 in patches:
            expected[y0 - y : y1 - y, x0 - x : x1 - x] = PATCHES.index((y0, x0, y1, x1)) % 2
        np.testing.assert_array_equal(section.label, expected)
    assert [section.stem for section in data.sections] == ["slide"] * 3
    assert any("empty" in warning for warning in data.warnings)
    # an image that is labelled everywhere is kept whole
    whole = open_dataset(tmp_path)
    assert [s.label.shape for s in whole.sections] == [(LARGE, LARGE)] * 2
    assert [c.value for c in whole.classes] == [0, 1, 9]
