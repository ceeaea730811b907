"""What label values mean: every way of writing a class into a pixel, alone and mixed, in `train` as in `evaluate`."""

from pathlib import Path

import numpy as np
import pytest
from data_sets import write_files, write_palette
from hypothesis import given
from hypothesis import strategies as st
from label_files import COLOURS, IMAGES, INSIDE, SIDE, THREE, TWENTY, Write, check, palette, save, write
from PIL import Image

from tilesegment import DataError, evaluate
from tilesegment.labels.coding import IGNORE, classes_of, decide
from tilesegment.labels.scanning import Scan
from tilesegment.training.data import open_dataset


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_each_colour_is_a_class(suffix: str, tmp_path: Path) -> None:
    order = np.array([2, 0, 1])  # of the colours, red first: their ids
    opaque = np.dstack([COLOURS[THREE], np.full((SIDE, SIDE), 255, np.uint8)])
    labels = (COLOURS[THREE], COLOURS[THREE.clip(0, 1)], *[opaque] * (suffix == ".png"))
    write(tmp_path, *labels, suffixes=(suffix,))
    check(
        tmp_path,
        [0x0000FF, 0x00FF00, 0xC80000],
        *(order[one] for one in (THREE, THREE.clip(0, 1), THREE)[: len(labels)]),
    )
    assert [(c.name, c.colour) for c in open_dataset(tmp_path).classes][2] == ("#c80000", "#c80000")
    assert [(c.name, c.colour) for c in open_dataset(tmp_path, ["b", "g", "r"]).classes][2] == ("r", "#c80000")
    void = np.array([1, 0, IGNORE])
    check(
        tmp_path,
        [0x0000FF, 0xC80000],
        *(void[one] for one in (THREE, THREE.clip(0, 1), THREE)[: len(labels)]),
        ignore=0x00FF00,
    )


def test_grey_stored_as_rgb_is_grey(tmp_path: Path) -> None:
    grey = THREE * 100
    write(tmp_path, np.dstack([grey] * 3), grey, np.dstack([*[grey] * 3, grey * 0 + 255]))
    check(tmp_path, [0, 100, 200], *[THREE] * 3)
    check(tmp_path, [0, 100], *[np.array([0, 1, IGNORE])[THREE]] * 3, ignore=200)


@pytest.mark.parametrize("suffix", [".png", ".gif", ".tif"])
def test_palettes(suffix: str, tmp_path: Path) -> None:
    write(tmp_path / "a", lambda path, _: write_palette(path, THREE, COLOURS.tolist()), suffixes=(suffix,))
    check(tmp_path / "a", [0, 1, 2], THREE)
    assert [c.colour for c in open_dataset(tmp_path / "a").classes] == ["#c80000", "#0000ff", "#00ff00"]
    # programs that save small files make palettes of few greys, each file its own
    greys = [(200,) * 3, (100,) * 3, (0,) * 3]
    write(tmp_path / "b", THREE * 100, lambda path, _: write_palette(path, 2 - THREE, greys), suffixes=(".png", suffix))
    check(tmp_path / "b", [0, 100, 200], THREE, THREE)


def test_a_stack_with_a_palette(tmp_path: Path) -> None:
    planes = [Image.fromarray(plane) for plane in (THREE, 2 - THREE)]
    for plane in planes:
        plane.putpalette([9, 0, 0, 0, 9, 0, 0, 0, 9])
    write_files(tmp_path, {"images/0.tif": np.stack(IMAGES[:2])})
    (tmp_path / "labels").mkdir()
    planes[0].save(tmp_path / "labels" / "0.tif", save_all=True, append_images=planes[1:])
    check(tmp_path, [0, 1, 2], THREE, 2 - THREE)


@pytest.mark.parametrize(
    ("values", "given_ignore", "ignore", "classes"),
    [
        ((0, 255), None, None, [0, 255]),
        ((0, 1, 2, 255), None, 255, [0, 1, 2]),
        ((0, 64, 255), None, None, [0, 64, 255]),
        ((0, 1, 2, 255), -1, -1, [0, 1, 2, 255]),
        ((0, 1, 255), 255, 255, [0, 1]),
        ((0, 1, 2), 0, 0, [1, 2]),
        ((0, 128, 255), 128, 128, [0, 255]),
    ],
)
def test_what_means_not_labelled(
    values: tuple[int, ...], given_ignore: int | None, ignore: int | None, classes: list[int], tmp_path: Path
) -> None:
    stored = np.array(values, np.uint8)[np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % len(values)]
    expected = np.array([IGNORE if v == ignore else classes.index(v) for v in values], np.uint8)
    check(write(tmp_path, stored), classes, expected[np.searchsorted(values, stored)], ignore=given_ignore)
    data = open_dataset(tmp_path, ignore=given_ignore)
    assert data.ignore == ignore
    assert any("-1" in warning for warning in data.warnings) == (given_ignore == -1)


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint32", "uint64", "float64"])
def test_labels_of_any_number_type(dtype: str, tmp_path: Path) -> None:
    write(tmp_path, (INSIDE[0] * 100).astype(dtype), suffixes=(".tif",))
    check(tmp_path, [0, 100], INSIDE[0])
    if dtype != "float64":
        save(tmp_path / "other.png", INSIDE[0])
        assert evaluate(tmp_path / "labels" / "0.tif", tmp_path / "other.png").accuracy == 1
        assert evaluate(tmp_path / "other.png", tmp_path / "labels" / "0.tif").accuracy == 1


@pytest.mark.parametrize("value", [-1, 65_535, 2**31 - 1])
def test_any_integer_may_mean_not_labelled(value: int, tmp_path: Path) -> None:
    labels = INSIDE[0].astype(np.int32)
    labels[:7] = value
    write(tmp_path, labels, suffixes=(".tif",))
    np.testing.assert_array_equal(open_dataset(tmp_path, ignore=value).sections[0].label == IGNORE, labels == value)
    with pytest.raises(DataError, match=f"--ignore {value}"):
        open_dataset(tmp_path)


@given(
    st.lists(st.integers(0, 65_535), min_size=2, max_size=32, unique=True),
    st.sampled_from(["grey", "palette", "colour"]),
    st.integers(0, 2**32 - 1),
)
def test_values_and_ids_are_one_to_one(values: list[int], kind: str, seed: int) -> None:
    """For any values: the pixels of two labels, each of which holds some, follow from their ids."""
    pixels = np.random.default_rng(seed).choice(np.array(values, np.int64), (2, 8, 8)) * (
        251 if kind == "colour" else 1
    )
    pixels[0, 0, :2] = np.array(values[:2]) * (251 if kind == "colour" else 1)
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


NOISE = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
BAD: dict[str, tuple[tuple[np.ndarray | Write, ...], str, str]] = {
    "smoothed": (
        (np.array([0, 1, 254, 255], np.uint8)[TWENTY % 4],),
        ".png",
        "label 0 holds 4 values, such as 0, 1, 254, 255.*JPEG",
    ),
    "a JPEG": ((INSIDE[0] * np.uint8(255),), ".jpg", "label 0 .*JPEG"),
    "a JPEG in colours": ((COLOURS[THREE],), ".jpg", "label 0 .*#.*JPEG"),
    "a photograph": ((NOISE,), ".png", r"label 0 holds \d+ colours"),
    "too many in all": ((TWENTY, TWENTY + 20, TWENTY + 40), ".png", "32"),
    "colours and greys": ((COLOURS[THREE], THREE), ".png", r"0 \(colour\), 1 \(grey\)"),
    "a palette beyond greys": ((THREE.clip(0, 1) * 100, palette(COLOURS)), ".png", r"0 \(grey\), 1 \(palette\)"),
    "two palettes": ((palette(COLOURS), palette(COLOURS[[0, 2, 1]])), ".png", "1 .*#0000ff in 0 and #00ff00 in 1"),
    "one class besides void": ((np.array([8, 200], np.uint8)[INSIDE[0]],), ".png", "one value only, 8 besides 200"),
    "16-bit colours": ((COLOURS[THREE].astype(np.uint16),), ".tif", "0.tif has 3 channels of uint16"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_holds_no_classes(case: str, tmp_path: Path) -> None:
    labels, suffix, match = BAD[case]
    write(tmp_path, *labels, suffixes=(suffix,))
    with pytest.raises(DataError, match=match) as caught:
        open_dataset(tmp_path, ignore=200)
    assert "\n" not in str(caught.value)
