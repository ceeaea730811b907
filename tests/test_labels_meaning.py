"""What label values mean where files disagree: read right and said, or asked for, in `train` as in `evaluate`."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from command_line import Run
from compared_files import store
from data_sets import cells, write_files, write_palette
from PIL import Image

from tilesegment import DataError, evaluate
from tilesegment.labels import Scan, decide
from tilesegment.metadata import LabelClass
from tilesegment.training.data import IGNORE, open_dataset

SIDE = 48
PAIRS = [cells(SIDE, SIDE, n) for n in range(4)]
INSIDE = [inside.astype(np.uint8) for _, inside in PAIRS]
TRAIN = "train d --steps 1 --base 2 --depth 1 --tile 32 --validation 0 --device cpu --out r"
CLASSES = (LabelClass("outside", "#000000", 0), LabelClass("inside", "#e69f00", 255))

Write = Callable[[Path, np.ndarray], object]


def save(path: Path, pixels: np.ndarray) -> None:
    write_files(path.parent, {path.name: pixels})


def write(folder: Path, *labels: Write, suffixes: tuple[str, ...] = ()) -> Path:
    """Images with labels, each written by its own function of path and inside, (H, W) uint8 of 0 and 1."""
    for n, one in enumerate(labels):
        save(folder / "images" / f"{n}.png", PAIRS[n][0])
        path = folder / "labels" / f"{n}{suffixes[n] if suffixes else '.png'}"
        path.parent.mkdir(exist_ok=True)
        one(path, INSIDE[n])
    return folder


def grey(outside: int, inside: int) -> Write:
    return lambda path, ids: save(path, np.where(ids, inside, outside).astype(np.uint8))


def predicted(path: Path, ids: np.ndarray) -> None:
    """A mask as `predict` writes it."""
    store(path, ids, CLASSES)


def palette_alone(path: Path, ids: np.ndarray) -> None:
    """A predicted mask after a program that keeps its palette, but not what else is in it."""
    write_palette(path, ids, [one.rgb for one in CLASSES])


def in_colours(path: Path, ids: np.ndarray) -> None:
    """A predicted mask after a program that keeps its colours alone."""
    save(path, np.array([one.rgb for one in CLASSES], np.uint8)[ids])


def with_alpha(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(np.stack([ids * np.uint8(255), np.full_like(ids, 255)], axis=-1), "LA").save(path)


def as_rgb(path: Path, ids: np.ndarray) -> None:
    save(path, np.stack([ids * 255] * 3, axis=-1))


def other_palette(path: Path, ids: np.ndarray) -> None:
    """A predicted mask whose palette another program has put into another order."""
    predicted(path, ids)
    with Image.open(path) as picture:
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        for key, value in picture.text.items():  # type: ignore[attr-defined]
            text.add_text(key, value)
    turned = Image.fromarray(1 - ids)
    turned.putpalette([level for one in reversed(CLASSES) for level in one.rgb])
    turned.save(path, pnginfo=text)


MIXED: dict[str, tuple[Write, str]] = {
    "predicted PNG": (predicted, ".png"),
    "predicted TIFF": (predicted, ".tif"),
    "predicted Zarr": (predicted, ".zarr"),
    "palette alone": (palette_alone, ".png"),
    "colours alone": (in_colours, ".png"),
    "colours in a TIFF": (in_colours, ".tif"),
    "another palette": (other_palette, ".png"),
    "grey RGB": (as_rgb, ".png"),
    "grey with alpha": (with_alpha, ".png"),
}


@pytest.mark.parametrize("kind", MIXED)
def test_what_predict_writes_is_trained_on_among_the_original_labels(kind: str, tmp_path: Path) -> None:
    mask, suffix = MIXED[kind]
    data = open_dataset(write(tmp_path, grey(0, 255), mask, grey(0, 255), suffixes=(".png", suffix, ".png")))
    assert [one.value for one in data.classes] == [0, 255]
    for section, ids in zip(data.sections, INSIDE, strict=False):
        np.testing.assert_array_equal(section.label, ids)
    assert any("0 is 0, " in note and " is 255" in note for note in data.notes) == (
        kind not in ("grey RGB", "grey with alpha")
    )


@pytest.mark.parametrize("kind", MIXED)
def test_they_are_scored_among_the_original_labels(kind: str, tmp_path: Path) -> None:
    mask, suffix = MIXED[kind]
    write(tmp_path / "t", grey(0, 255), mask, suffixes=(".png", suffix))
    write(tmp_path / "p", grey(0, 1), grey(0, 1))
    found = evaluate(tmp_path / "p" / "labels", tmp_path / "t" / "labels")
    assert (found.accuracy, len(found.classes)) == (1, 2)


def test_a_palette_in_another_order_is_scored_by_its_colours(tmp_path: Path) -> None:
    """As programs write it that sort colours, or count them anew; what else is in the file is lost."""
    colours = [one.rgb for one in CLASSES]
    write(tmp_path / "t", lambda path, ids: write_palette(path, 1 - ids, colours[::-1]), palette_alone)
    write(tmp_path / "p", predicted, predicted)
    found = evaluate(tmp_path / "p" / "labels", tmp_path / "t" / "labels")
    assert (found.accuracy, len(found.classes)) == (1, 2)
    assert any("by the colours of the classes" in note for note in found.notes)


def test_predicted_masks_alone_keep_their_ids_and_names(tmp_path: Path) -> None:
    data = open_dataset(write(tmp_path, predicted, predicted, predicted, suffixes=(".png", ".tif", ".zarr")))
    assert [(one.name, one.value) for one in data.classes] == [("outside", 0), ("inside", 1)]
    for section, ids in zip(data.sections, INSIDE, strict=False):
        np.testing.assert_array_equal(section.label, ids)


def test_masks_beside_labels_in_colours(tmp_path: Path) -> None:
    """The model has learnt from colours: these are the values of its classes."""
    coloured = tuple(LabelClass(c, c, int(c[1:], 16)) for c in ("#0000ff", "#ff0000"))
    rgb = np.array([one.rgb for one in coloured], np.uint8)
    write(
        tmp_path,
        lambda path, ids: save(path, rgb[ids]),
        lambda path, ids: store(path, ids, coloured),
        lambda path, ids: write_palette(path, ids, [one.rgb for one in coloured]),
    )
    data = open_dataset(tmp_path)
    assert [one.colour for one in data.classes] == ["#0000ff", "#ff0000"]
    for section, ids in zip(data.sections, INSIDE, strict=False):
        np.testing.assert_array_equal(section.label, ids)


def test_a_pixel_corrected_to_not_labelled(tmp_path: Path) -> None:
    def spoilt(path: Path, ids: np.ndarray) -> None:
        predicted(path, ids)
        with Image.open(path) as picture:
            indices, palette = np.array(picture), picture.getpalette("RGB")
        indices[:5] = 200
        turned = Image.fromarray(indices)
        turned.putpalette(palette + [0] * (768 - len(palette)))
        turned.save(path)

    data = open_dataset(write(tmp_path, grey(0, 255), spoilt), ignore=200)
    np.testing.assert_array_equal(data.sections[1].label == IGNORE, np.arange(SIDE)[:, None] < np.full((1, SIDE), 5))
    np.testing.assert_array_equal(data.sections[1].label[5:], INSIDE[1][5:])


# --- what cannot be told is asked


def void(path: Path, ids: np.ndarray) -> None:
    ids = ids.copy()
    ids[:6] = 255
    save(path, ids)


DOUBT: dict[str, tuple[tuple[Write, ...], str]] = {
    "two scales": ((grey(0, 1), grey(0, 255), grey(0, 1)), "0, 1 in 0 but 0, 255 in 1"),
    "a void": ((void, grey(0, 1)), "0, 1, 255"),
    "a void in 16 bits": (
        (lambda path, ids: save(path, np.where(np.arange(SIDE) < 9, np.uint16(65_535), ids)), grey(0, 1)),
        "0, 1, 65535",
    ),
}


@pytest.mark.parametrize("kind", DOUBT)
def test_a_doubtful_reading_is_stopped_before_training(
    kind: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels, found = DOUBT[kind]
    write(tmp_path / "d", *labels, suffixes=tuple(".tif" if "16" in kind else ".png" for _ in labels))
    done = run(TRAIN)
    assert (done.code, done.err.count("\n")) == (1, 1)
    assert "--ignore" in done.err and "--classes" in done.err
    with pytest.raises(DataError, match=found):
        open_dataset(tmp_path / "d")
    # the scoring reads the truth in the same way
    write(tmp_path / "p", *[grey(0, 1)] * len(labels))
    with pytest.raises(DataError, match=found):
        evaluate(tmp_path / "p" / "labels", tmp_path / "d" / "labels")


def test_names_settle_two_scales(tmp_path: Path) -> None:
    write(tmp_path, grey(0, 1), grey(0, 255))
    data = open_dataset(tmp_path, ["outside", "inside"])
    assert [one.value for one in data.classes] == [0, 255]
    for section, ids in zip(data.sections, INSIDE, strict=False):
        np.testing.assert_array_equal(section.label, ids)
    assert "read as the same 2 classes" in data.notes[0]
    assert len(open_dataset(tmp_path, ["a", "b", "c"]).classes) == 3
    write(tmp_path / "p", grey(0, 1), grey(0, 1))
    found = evaluate(tmp_path / "p" / "labels", tmp_path / "labels", classes=["outside", "inside"])
    assert found.accuracy == 1 and found.notes == data.notes


def test_names_or_ignore_settle_a_void(tmp_path: Path) -> None:
    write(tmp_path, void, grey(0, 1))
    for options in ({"ignore": 255}, {"classes": ["outside", "inside"]}):
        data = open_dataset(tmp_path, **options)  # type: ignore[arg-type]
        assert (data.ignore, len(data.classes)) == (255, 2)
        assert (data.sections[0].label[:6] == IGNORE).all()
    assert len(open_dataset(tmp_path, ["a", "b", "c"]).classes) == 3


@pytest.mark.parametrize(
    ("files", "names", "values", "ignore"),
    [
        ([{0, 1, 2}, {0, 100, 200}], 3, [0, 100, 200], None),  # three classes in two ways of writing
        ([{0, 1, 2, 255}, {0, 1}], None, [0, 1, 2], 255),
        ([{0, 1, 2}, {255}], None, [0, 1, 2], 255),  # an image without any label
        ([{0, 1}, {0, 2}], None, [0, 1, 2], None),  # each image holds one class
        ([{0, 128}, {0, 255}], 2, [0, 255], None),
        ([{0, 2}, {0, 255}], 2, [0, 255], None),
        ([{0, 128, 255}, {0, 255}], None, [0, 128, 255], None),
        ([{0}, {0, 255}], None, [0, 255], None),
        ([{1}, {0, 255}], 2, [0, 255], None),
    ],
)
def test_what_files_share(files: list[set[int]], names: int | None, values: list[int], ignore: int | None) -> None:
    scans = [Scan(str(n), "grey", set(one)) for n, one in enumerate(files)]
    coding = decide(scans, None if names is None else [str(n) for n in range(names)])
    assert (list(coding.values), coding.ignore) == (values, ignore)
    if names is not None:
        with pytest.raises(DataError, match="--classes"):
            decide(scans)


# --- kinds of files


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint32", "uint64", "float64"])
def test_labels_of_any_integer_type(dtype: str, tmp_path: Path) -> None:
    write(tmp_path, lambda path, ids: tifffile.imwrite(path, (ids * 100).astype(dtype)), suffixes=(".tif",))
    data = open_dataset(tmp_path)
    assert [one.value for one in data.classes] == [0, 100]
    np.testing.assert_array_equal(data.sections[0].label, INSIDE[0])
    if dtype != "float64":
        label = tmp_path / "labels" / "0.tif"
        other = tmp_path / "other.png"
        save(other, INSIDE[0])
        assert evaluate(label, other).accuracy == evaluate(other, label).accuracy == 1


@pytest.mark.parametrize("value", [-1, 65_535, 2**31 - 1])
def test_any_integer_may_mean_not_labelled(value: int, tmp_path: Path) -> None:
    labels = INSIDE[0].astype(np.int32)
    labels[:7] = value
    write(tmp_path, lambda path, ids: tifffile.imwrite(path, labels), suffixes=(".tif",))
    data = open_dataset(tmp_path, ignore=value)
    np.testing.assert_array_equal(data.sections[0].label == IGNORE, labels == value)
    with pytest.raises(DataError):
        open_dataset(tmp_path)


def test_a_truth_saved_as_jpeg_is_refused_by_both(tmp_path: Path) -> None:
    write(tmp_path, grey(0, 255), suffixes=(".jpg",))
    save(tmp_path / "p.png", INSIDE[0])
    for refused in (
        lambda: open_dataset(tmp_path),
        lambda: evaluate(tmp_path / "p.png", tmp_path / "labels" / "0.jpg"),
    ):
        with pytest.raises(DataError, match="smeared as by JPEG"):
            refused()


def test_labels_in_grey_rgb_and_in_colours_are_scored(tmp_path: Path) -> None:
    as_rgb(tmp_path / "t.png", INSIDE[0])
    for name in ("p.png", "t.png"):
        as_rgb(tmp_path / name, INSIDE[0])
    assert evaluate(tmp_path / "p.png", tmp_path / "t.png").accuracy == 1
    in_colours(tmp_path / "t.png", INSIDE[0])
    palette_alone(tmp_path / "q.png", INSIDE[0])
    assert evaluate(tmp_path / "q.png", tmp_path / "t.png").accuracy == 1
    assert evaluate(tmp_path / "t.png", tmp_path / "p.png").accuracy == 1


def test_the_command_says_how_labels_are_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t", grey(0, 255), predicted)
    write(tmp_path / "p", grey(0, 1), grey(0, 1))
    done = run("evaluate p/labels t/labels --json")
    assert (done.code, json.loads(done.out)["accuracy"]) == (0, 1)
    assert "Note: 1 (mask) is read by the values of the other labels: 0 is 0, 1 is 255" in done.err


def test_predictions_on_two_scales_are_read_by_the_truth(tmp_path: Path) -> None:
    write(tmp_path / "t", grey(0, 255), grey(0, 255))
    write(tmp_path / "p", grey(0, 1), grey(0, 255))
    assert evaluate(tmp_path / "p" / "labels", tmp_path / "t" / "labels").accuracy == 1


def test_what_is_predicted_is_never_left_out(tmp_path: Path) -> None:
    """255 in a prediction is a wrong class, even where it would mean "not labelled" in a truth."""
    write(tmp_path / "t", grey(0, 1))
    write(tmp_path / "p", void)
    with pytest.raises(DataError, match="0, 1, 255"):
        evaluate(tmp_path / "p" / "labels", tmp_path / "t" / "labels")


def test_the_order_of_colours_says_nothing_about_classes(tmp_path: Path) -> None:
    three = (INSIDE[0] + (np.arange(SIDE) < 9)).astype(np.uint8)
    colours = ("#c80000", "#0000ff", "#00ff00")
    classes = tuple(LabelClass(c, c, int(c[1:], 16)) for c in colours)
    rgb = np.array([one.rgb for one in classes], np.uint8)
    write_files(tmp_path, {"truth.png": rgb[three], "ids.png": three, "same.png": rgb[three]})
    write_palette(tmp_path / "palette.png", three, [one.rgb for one in classes])
    store(tmp_path / "mask.png", three, classes)
    truth = tmp_path / "truth.png"
    for name in ("same.png", "palette.png", "mask.png"):
        assert evaluate(tmp_path / name, truth).accuracy == 1
        assert evaluate(truth, tmp_path / name).accuracy == 1
    for one, other in (("ids.png", "truth.png"), ("truth.png", "ids.png")):
        with pytest.raises(DataError, match="#"):
            evaluate(tmp_path / one, tmp_path / other)
    likely = store(tmp_path / "p.zarr", np.eye(3, dtype=np.float32)[three].transpose(2, 0, 1), classes)
    assert evaluate(likely, truth).accuracy == 1
    plain = tuple(LabelClass(c, c) for c in colours)
    with pytest.raises(DataError, match="#c80000"):
        evaluate(store(tmp_path / "q.zarr", np.eye(3, dtype=np.float32)[three].transpose(2, 0, 1), plain), truth)


def test_colours_are_shown_as_colours(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    red = np.stack([INSIDE[0] * 200, INSIDE[0] * 0, INSIDE[0] * 0], axis=-1)
    write_files(tmp_path, {"t.png": red, "p.png": INSIDE[0]})
    done = run("evaluate p.png t.png")
    assert "Note: " in done.err and "1 is #c80000" in done.err
    write_files(tmp_path, {"q.png": red})
    rows = [line.split() for line in run("evaluate q.png t.png").out.splitlines()]
    assert ["1", "#c80000", "#c80000", "#c80000"] in [row[:4] for row in rows]
    assert json.loads(run("evaluate p.png t.png --json -q").out)["accuracy"] == 1
