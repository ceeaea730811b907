"""Every way of writing a class into a pixel, and the ways of which no class can be read."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from data_sets import write_files, write_palette
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tilesegment import DataError
from tilesegment.labels import Scan, classes_of, decide
from tilesegment.training.data import IGNORE, open_dataset

SHAPE = (24, 32)
# three classes in patches, each in a good part of the pixels
TRUTH = np.add.outer(np.arange(24) // 8, np.arange(32) // 8).astype(np.uint8) % 3
COLOURS = np.array([(200, 0, 0), (0, 0, 255), (0, 255, 0)], np.uint8)
ORDER = np.array([2, 0, 1])  # of the colours above, red first: their ids


def write(folder: Path, *labels: np.ndarray, suffix: str = "png") -> Path:
    """Images of noise with `labels`."""
    rng = np.random.default_rng(0)
    images = {f"images/{n}.png": rng.integers(0, 256, SHAPE, np.uint8) for n in range(len(labels))}
    return write_files(folder, {**images, **{f"labels/{n}.{suffix}": label for n, label in enumerate(labels)}})


def alpha(colours: np.ndarray, opacity: int = 255) -> np.ndarray:
    """(H, W, 3) to (H, W, 4)."""
    return np.dstack([colours, np.full(SHAPE, opacity, np.uint8)])


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_each_colour_is_a_class(suffix: str, tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, COLOURS[TRUTH], COLOURS[TRUTH.clip(0, 1)], suffix=suffix))
    assert [c.colour for c in data.classes] == ["#0000ff", "#00ff00", "#c80000"]
    assert [c.name for c in data.classes] == ["#0000ff", "#00ff00", "#c80000"]
    assert [c.value for c in data.classes] == [0x0000FF, 0x00FF00, 0xC80000]
    np.testing.assert_array_equal(data.sections[0].label, ORDER[TRUTH])
    np.testing.assert_array_equal(data.sections[1].label, ORDER[TRUTH.clip(0, 1)])
    named = open_dataset(tmp_path, ["blue", "green", "red"])
    assert [(c.name, c.colour) for c in named.classes][2] == ("red", "#c80000")


def test_opacity_does_not_matter(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, alpha(COLOURS[TRUTH]), COLOURS[TRUTH]))
    np.testing.assert_array_equal(data.sections[0].label, ORDER[TRUTH])
    np.testing.assert_array_equal(data.sections[1].label, ORDER[TRUTH])


def test_a_colour_may_mean_not_labelled(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, COLOURS[TRUTH]), ignore=0x00FF00)
    assert [c.colour for c in data.classes] == ["#0000ff", "#c80000"]
    np.testing.assert_array_equal(data.sections[0].label, np.array([1, 0, IGNORE])[TRUTH])


def test_grey_stored_as_rgb_is_grey(tmp_path: Path) -> None:
    grey = TRUTH * 100
    data = open_dataset(write(tmp_path, np.dstack([grey] * 3), grey, alpha(np.dstack([grey] * 3))))
    assert [c.value for c in data.classes] == [0, 100, 200]
    for section in data.sections:
        np.testing.assert_array_equal(section.label, TRUTH)


@pytest.mark.parametrize("ignore", [200, None])
def test_not_labelled_in_grey_stored_as_rgb(ignore: int | None, tmp_path: Path) -> None:
    grey = np.array([0, 1, 2, 255], np.uint8)[np.arange(768).reshape(SHAPE) % 4] if ignore is None else TRUTH * 100
    data = open_dataset(write(tmp_path, np.dstack([grey] * 3)), ignore=ignore)
    assert data.ignore == (ignore or 255)
    np.testing.assert_array_equal(data.sections[0].label == IGNORE, grey == data.ignore)
    assert len(data.classes) == (3 if ignore is None else 2)


@pytest.mark.parametrize("suffix", ["png", "gif", "tif"])
def test_indices_of_a_palette_are_classes(suffix: str, tmp_path: Path) -> None:
    write(tmp_path, TRUTH, suffix="png")
    (tmp_path / "labels" / "0.png").unlink()
    write_palette(tmp_path / "labels" / f"0.{suffix}", TRUTH, [(200, 0, 0), (0, 0, 255), (0, 255, 0)])
    data = open_dataset(tmp_path)
    np.testing.assert_array_equal(data.sections[0].label, TRUTH)
    assert [(c.name, c.value) for c in data.classes] == [("value 0", 0), ("value 1", 1), ("value 2", 2)]
    assert [c.colour for c in data.classes] == ["#c80000", "#0000ff", "#00ff00"]


def test_a_stack_with_a_palette(tmp_path: Path) -> None:
    planes = [Image.fromarray(plane) for plane in (TRUTH, 2 - TRUTH)]
    for plane in planes:
        plane.putpalette([9, 0, 0, 0, 9, 0, 0, 0, 9])
    write_files(tmp_path, {"images/0.tif": np.random.default_rng(0).integers(0, 256, (2, *SHAPE), np.uint8)})
    (tmp_path / "labels").mkdir()
    planes[0].save(tmp_path / "labels" / "0.tif", save_all=True, append_images=planes[1:])
    data = open_dataset(tmp_path)
    np.testing.assert_array_equal(data.sections[1].label, 2 - TRUTH)


@pytest.mark.parametrize("suffix", ["png", "gif", "tif"])
def test_a_palette_of_greys_is_grey(suffix: str, tmp_path: Path) -> None:
    """Programs that save small files make palettes of few greys, each file its own."""
    write(tmp_path, TRUTH * 100, TRUTH * 100)
    (tmp_path / "labels" / "1.png").unlink()
    write_palette(tmp_path / "labels" / f"1.{suffix}", 2 - TRUTH, [(200,) * 3, (100,) * 3, (0,) * 3])
    data = open_dataset(tmp_path)
    assert [c.value for c in data.classes] == [0, 100, 200]
    np.testing.assert_array_equal(data.sections[1].label, TRUTH)


@pytest.mark.parametrize(
    ("values", "given_ignore", "ignore", "classes"),
    [
        ((0, 255), None, None, [0, 255]),
        ((0, 1, 2, 255), None, 255, [0, 1, 2]),
        ((0, 64, 255), None, None, [0, 64, 255]),
        ((0, 1, 2, 255), -1, -1, [0, 1, 2, 255]),
        ((0, 1, 255), 255, 255, [0, 1]),
        ((1, 2, 3, 255), 255, 255, [1, 2, 3]),
        ((0, 1, 2), 0, 0, [1, 2]),
        ((0, 128, 255), 128, 128, [0, 255]),
    ],
)
def test_what_means_not_labelled(
    values: tuple[int, ...], given_ignore: int | None, ignore: int | None, classes: list[int], tmp_path: Path
) -> None:
    stored = np.array(values, np.uint8)[np.arange(768).reshape(SHAPE) % len(values)]
    data = open_dataset(write(tmp_path, stored), ignore=given_ignore)
    assert (data.ignore, [c.value for c in data.classes]) == (ignore, classes)
    expected = np.array([IGNORE if v == ignore else classes.index(v) for v in range(256) if v in values], np.uint8)
    np.testing.assert_array_equal(data.sections[0].label, expected[np.searchsorted(values, stored)])
    assert any("no pixel has the value -1" in warning for warning in data.warnings) == (given_ignore == -1)


def test_minus_one_may_mean_not_labelled(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, TRUTH.astype(np.float32) - 1, suffix="tif"), ignore=-1)
    np.testing.assert_array_equal(data.sections[0].label, np.array([IGNORE, 0, 1])[TRUTH])


@given(
    st.lists(st.integers(0, 65_535), min_size=2, max_size=32, unique=True),
    st.sampled_from(["grey", "palette"]),
    st.integers(0, 2**32 - 1),
)
def test_values_and_ids_are_one_to_one(values: list[int], kind: str, seed: int) -> None:
    """For any values: the pixels of two labels of which each holds a part can be had back from their ids."""
    pixels = np.random.default_rng(seed).choice(np.array(values, np.int64), (2, 8, 8))
    pixels[0, 0, :2] = values[:2]
    scans = [Scan(str(n), kind, {*one.ravel().tolist()}) for n, one in enumerate(pixels)]  # type: ignore[arg-type]
    coding = decide(scans, [str(value) for value in np.unique(pixels)])  # as many names settle what would be asked
    classes = classes_of(coding, scans, None)
    back = np.array([one.value for one in classes] + [-1] * (256 - len(classes)))
    back[IGNORE] = -1 if coding.ignore is None else coding.ignore
    for n, one in enumerate(pixels):
        ids = coding.ids(one, str(n))
        assert ids.dtype == np.uint8
        np.testing.assert_array_equal(back[ids], one)
    assert len({one.name for one in classes}) == len(classes) == len({one.value for one in classes})


@given(st.lists(st.integers(0, 0xFFFFFF), min_size=2, max_size=32, unique=True), st.data())
def test_colours_and_ids_are_one_to_one(colours: list[int], data: st.DataObject) -> None:
    ignore = data.draw(st.sampled_from([None, *colours[2:]]))
    stored = np.array(colours, np.int64)
    coding = decide([Scan("a", "colour", {*colours})], [str(c) for c in colours], ignore)
    ids = coding.ids(stored, "a")
    assert sorted(ids[ids != IGNORE]) == list(range(len(coding.values)))
    factor = 1 if coding.coloured else 0x010101
    for colour, number in zip(colours, ids, strict=True):
        assert (coding.ignore if number == IGNORE else coding.values[number]) * factor == colour


def blurred(folder: Path) -> None:
    smooth = np.array([0, 1, 254, 255], np.uint8)[np.arange(768).reshape(SHAPE) % 4]
    write(folder, smooth)


def jpeg(folder: Path) -> None:
    write(folder, np.where(np.roll(TRUTH, 3) == 1, 255, 0).astype(np.uint8), suffix="jpg")


def colour_jpeg(folder: Path) -> None:
    write(folder, COLOURS[TRUTH], suffix="jpg")


def photograph(folder: Path) -> None:
    write(folder, np.random.default_rng(0).integers(0, 256, (*SHAPE, 3), np.uint8))


def many_in_all(folder: Path) -> None:
    twenty = (np.arange(768) % 20).reshape(SHAPE).astype(np.uint8)
    write(folder, twenty, twenty + 20, twenty + 40)


def colours_and_greys(folder: Path) -> None:
    write(folder, COLOURS[TRUTH], TRUTH)


def palette_beyond_greys(folder: Path) -> None:
    write(folder, TRUTH.clip(0, 1) * 100, TRUTH)
    write_palette(folder / "labels" / "1.png", TRUTH, [(200, 0, 0), (0, 0, 255), (0, 255, 0)])


def two_palettes(folder: Path) -> None:
    write(folder, TRUTH, TRUTH)
    write_palette(folder / "labels" / "0.png", TRUTH, [(200, 0, 0), (0, 0, 255), (0, 255, 0)])
    write_palette(folder / "labels" / "1.png", TRUTH, [(200, 0, 0), (0, 255, 0), (0, 0, 255)])


def all_ignored(folder: Path) -> None:
    write(folder, TRUTH.clip(0, 1) + 7)


def deep_colours(folder: Path) -> None:
    write(folder, TRUTH)
    (folder / "labels" / "0.png").unlink()
    tifffile.imwrite(folder / "labels" / "0.tif", np.zeros((*SHAPE, 3), np.uint16), photometric="rgb")


BAD = {
    "smoothed": (blurred, "label 0 holds 4 values, 0, 1, 254, 255, ..., smeared as by JPEG .*export it again as PNG"),
    "a JPEG": (jpeg, r"label 0 holds \d+ values, 0, .* smeared as by JPEG"),
    "a JPEG in colours": (colour_jpeg, r"label 0 holds \d+ values, #.* smeared as by JPEG"),
    "a photograph": (photograph, "label 0 holds more than 32 colours; expected one per class"),
    "too many in all": (many_in_all, "the labels hold more than 32 values; allowed: 32 classes"),
    "colours and greys": (colours_and_greys, r"of several kinds: 0 \(colour\), 1 \(grey\); save all as grey values"),
    "a palette beyond greys": (palette_beyond_greys, r"of several kinds: 0 \(grey\), 1 \(palette\)"),
    "two palettes": (two_palettes, "label value 1 has the colour #0000ff in 0 and #00ff00 in 1; give all"),
    "one class besides ignore": (all_ignored, "hold one value only, 8 besides 7, which means not labelled"),
    "16-bit colours": (deep_colours, "0.tif has 3 channels of uint16; expected one channel .* or 8-bit RGB"),
}


@pytest.mark.parametrize(("spoil", "match"), BAD.values(), ids=BAD.keys())
def test_what_holds_no_classes(spoil: Callable[[Path], None], match: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(DataError, match=match) as caught:
        open_dataset(tmp_path, ignore=7 if spoil is all_ignored else None)
    assert "\n" not in str(caught.value)


def test_the_number_of_names_says_what_is_ignored(tmp_path: Path) -> None:
    stored = np.array([0, 1, 2, 255], np.uint8)[np.arange(768).reshape(SHAPE) % 4]
    folder = write(tmp_path, stored)
    with pytest.raises(DataError, match=r"expected 3 different names, .* 0, 1, 2 \(255 means not labelled\)"):
        open_dataset(folder, ["a", "b", "c", "d"])
