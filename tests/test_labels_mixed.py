"""Labels of several kinds in one set, as after predictions are corrected by hand: one reading, or a question."""

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run
from compared_files import store
from data_sets import write_files, write_palette
from label_files import CLASSES, COLOURS, INSIDE, RGB, SIDE, THREE, TWENTY, Write, check, save, write
from PIL import Image, PngImagePlugin

from tilesegment import DataError, evaluate
from tilesegment.labels.coding import IGNORE, decide
from tilesegment.labels.scanning import Scan
from tilesegment.metadata import LabelClass
from tilesegment.training.data import open_dataset


def grey(outside: int, inside: int) -> Write:
    return lambda path, ids: save(path, np.where(ids, inside, outside).astype(np.uint8))


def predicted(path: Path, ids: np.ndarray) -> None:
    """A mask as `predict` writes it."""
    store(path, ids, CLASSES)


def palette_alone(path: Path, ids: np.ndarray) -> None:
    """A predicted mask after a program that keeps its palette, but not its record."""
    write_palette(path, ids, RGB.tolist())


def in_colours(path: Path, ids: np.ndarray) -> None:
    """A predicted mask after a program that knows no palettes."""
    save(path, RGB[ids])


def other_palette(path: Path, ids: np.ndarray) -> None:
    """A predicted mask whose palette another program has put into another order."""
    predicted(path, ids)
    text = PngImagePlugin.PngInfo()
    with Image.open(path) as picture:
        for key, value in picture.text.items():  # type: ignore[attr-defined]
            text.add_text(key, value)
    turned = Image.fromarray(1 - ids)
    turned.putpalette(RGB[::-1].tobytes())
    turned.save(path, pnginfo=text)


def tiff_again(*, metadata: bool) -> Write:
    """A predicted TIFF, written by a program that keeps its palette and, or not, its record."""

    def again(path: Path, ids: np.ndarray) -> None:
        predicted(path, 1 - ids)
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            kept = {"metadata": None, "description": page.description} if metadata else {}
            options = {"photometric": "palette", "colormap": page.colormap, **kept}
        tifffile.imwrite(path, ids, **options)

    return again


def corrected_zarr(path: Path, ids: np.ndarray) -> None:
    """Blocks of background alone are dropped by zarr."""
    predicted(path, ids)
    array = zarr.open_array(path / "0")
    array[:] = 0
    array[:] = ids


def with_alpha(path: Path, ids: np.ndarray) -> None:
    Image.fromarray(np.stack([ids * np.uint8(255), np.full_like(ids, 255)], axis=-1), "LA").save(path)


MIXED: dict[str, tuple[Write, str]] = {
    "predicted PNG": (predicted, ".png"),
    "predicted TIFF": (predicted, ".tif"),
    "predicted Zarr": (predicted, ".zarr"),
    "palette alone": (palette_alone, ".png"),
    "another palette": (other_palette, ".png"),
    "colours alone": (in_colours, ".png"),
    "colours in a TIFF": (in_colours, ".tif"),
    "TIFF as of ImageJ": (tiff_again(metadata=False), ".tif"),
    "TIFF with its metadata": (tiff_again(metadata=True), ".tif"),
    "Zarr": (corrected_zarr, ".zarr"),
    "grey RGB": (lambda path, ids: save(path, np.stack([ids * 255] * 3, axis=-1)), ".png"),
    "grey with alpha": (with_alpha, ".png"),
}


@pytest.mark.parametrize("kind", MIXED)
def test_corrected_masks_among_the_original_labels(kind: str, tmp_path: Path) -> None:
    mask, suffix = MIXED[kind]
    write(tmp_path / "t", grey(0, 255), mask, grey(0, 255), suffixes=(".png", suffix, ".png"))
    check(tmp_path / "t", [0, 255], *INSIDE)
    notes = open_dataset(tmp_path / "t").notes
    assert any("0 is 0, " in note and " is 255" in note for note in notes) == (not kind.startswith("grey"))
    write(tmp_path / "p", *[grey(0, 1)] * 3)
    found = evaluate(tmp_path / "p" / "labels", tmp_path / "t" / "labels")
    assert (found.accuracy, len(found.classes)) == (1, 2)


def test_an_erased_zarr_mask_is_background(tmp_path: Path) -> None:
    def erased(path: Path, ids: np.ndarray) -> None:
        predicted(path, ids)
        zarr.open_array(path / "0")[:] = 0

    check(write(tmp_path, grey(0, 255), erased, suffixes=(".png", ".zarr")), [0, 255], INSIDE[0], INSIDE[1] * 0)


def test_predicted_masks_alone_keep_their_ids_and_names(tmp_path: Path) -> None:
    write(tmp_path, predicted, predicted, predicted, suffixes=(".png", ".tif", ".zarr"))
    check(tmp_path, [0, 1], *INSIDE)
    assert [one.name for one in open_dataset(tmp_path).classes] == ["outside", "inside"]


def test_masks_beside_labels_in_colours(tmp_path: Path) -> None:
    """The model has learnt from colours: these are the values of its classes."""
    coloured = tuple(LabelClass(c, c, int(c[1:], 16)) for c in ("#0000ff", "#ff0000"))
    rgb = np.array([one.rgb for one in coloured], np.uint8)
    write(
        tmp_path,
        lambda path, ids: save(path, rgb[ids]),
        lambda path, ids: store(path, ids, coloured),
        lambda path, ids: write_palette(path, ids, rgb.tolist()),
    )
    check(tmp_path, [0x0000FF, 0xFF0000], *INSIDE)


def test_a_pixel_corrected_to_not_labelled(tmp_path: Path) -> None:
    def spoilt(path: Path, ids: np.ndarray) -> None:
        predicted(path, ids)
        with Image.open(path) as picture:
            indices, entries = np.array(picture), picture.getpalette("RGB")
        indices[:5] = 200
        turned = Image.fromarray(indices)
        turned.putpalette(entries + [0] * (768 - len(entries)))
        turned.save(path)

    expected = np.where(np.arange(SIDE)[:, None] < 5, IGNORE, INSIDE[1])
    check(write(tmp_path, grey(0, 255), spoilt), [0, 255], INSIDE[0], expected, ignore=200)


def test_a_palette_in_another_order_is_scored_by_its_colours(tmp_path: Path) -> None:
    write(tmp_path / "t", lambda path, ids: write_palette(path, 1 - ids, RGB[::-1].tolist()), palette_alone)
    write(tmp_path / "p", predicted, predicted)
    found = evaluate(tmp_path / "p" / "labels", tmp_path / "t" / "labels")
    assert (found.accuracy, len(found.classes)) == (1, 2)
    assert any("colours" in note for note in found.notes)


# --- what cannot be told is asked


def void(path: Path, ids: np.ndarray) -> None:
    """255 in a few rows; as a TIFF 65535."""
    stored = ids.astype(np.uint16 if path.suffix == ".tif" else np.uint8)
    stored[:6] = np.iinfo(stored.dtype).max
    save(path, stored)


DOUBT: dict[str, tuple[tuple[Write, ...], str, str]] = {
    "two scales": ((grey(0, 1), grey(0, 255), grey(0, 1)), ".png", "0, 1 in 0 but 0, 255 in 1"),
    "a void": ((void, grey(0, 1)), ".png", "0, 1, 255"),
    "a void in 16 bits": ((void, grey(0, 1)), ".tif", "0, 1, 65535"),
}


@pytest.mark.parametrize("kind", DOUBT)
def test_a_doubtful_reading_is_asked_about(
    kind: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    labels, suffix, values = DOUBT[kind]
    write(tmp_path / "d", *labels, suffixes=(suffix,))
    write(tmp_path / "p", *[grey(0, 1)] * len(labels))
    for command in (
        "train d --steps 1 --base 2 --depth 1 --tile 32 --device cpu --out r",
        "evaluate p/labels d/labels",
    ):
        done = run(command)
        assert (done.code, done.err.count("\n")) == (1, 1)
        assert "--ignore" in done.err and "--classes" in done.err and values in done.err
    assert not (tmp_path / "r").exists()


def test_names_settle_two_scales(tmp_path: Path) -> None:
    write(tmp_path, grey(0, 1), grey(0, 255))
    check(tmp_path, [0, 255], *INSIDE[:2], classes=["outside", "inside"])
    data = open_dataset(tmp_path, ["outside", "inside"])
    assert len(open_dataset(tmp_path, ["a", "b", "c"]).classes) == 3
    write(tmp_path / "p", grey(0, 1), grey(0, 1))
    found = evaluate(tmp_path / "p" / "labels", tmp_path / "labels", classes=["outside", "inside"])
    assert found.accuracy == 1 and found.notes == data.notes and len(data.notes) == 1


def test_names_or_ignore_settle_a_void(tmp_path: Path) -> None:
    write(tmp_path, void, grey(0, 1))
    for options in ({"ignore": 255}, {"classes": ["outside", "inside"]}):
        data = open_dataset(tmp_path, **options)  # type: ignore[arg-type]
        assert (data.ignore, len(data.classes)) == (255, 2)
        assert (data.sections[0].label[:6] == IGNORE).all()
    assert len(open_dataset(tmp_path, ["a", "b", "c"]).classes) == 3
    write(tmp_path / "sure", np.array([0, 1, 2, 255], np.uint8)[TWENTY % 4])
    with pytest.raises(DataError, match=r"3 different names, .* 0, 1, 2 \(255"):
        open_dataset(tmp_path / "sure", ["a", "b", "c", "d"])


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
        ([{1}, {0, 255}], 2, [0, 255], None),
    ],
)
def test_what_files_share(files: list[set[int]], names: int | None, values: list[int], ignore: int | None) -> None:
    scans = [Scan(str(n), "grey", one) for n, one in enumerate(files)]
    coding = decide(scans, None if names is None else [str(n) for n in range(names)])
    assert (list(coding.values), coding.ignore) == (values, ignore)
    if names is not None:
        with pytest.raises(DataError, match="--classes"):
            decide(scans)


# --- predictions are read by the truth


def test_a_truth_saved_as_jpeg_is_refused(tmp_path: Path) -> None:
    write(tmp_path, grey(0, 255), suffixes=(".jpg",))
    save(tmp_path / "p.png", INSIDE[0])
    with pytest.raises(DataError, match="JPEG"):
        evaluate(tmp_path / "p.png", tmp_path / "labels" / "0.jpg")


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


def test_greys_and_colours_of_two_classes_are_scored(tmp_path: Path) -> None:
    for name, one in {"rgb": MIXED["grey RGB"][0], "colours": in_colours, "palette": palette_alone}.items():
        one(tmp_path / f"{name}.png", INSIDE[0])
    for pair in (("palette", "colours"), ("colours", "rgb"), ("rgb", "palette")):
        assert evaluate(*(tmp_path / f"{name}.png" for name in pair)).accuracy == 1


def test_the_order_of_colours_says_nothing_about_classes(tmp_path: Path) -> None:
    classes = tuple(LabelClass(c, c, int(c[1:], 16)) for c in ("#c80000", "#0000ff", "#00ff00"))
    write_files(tmp_path, {"truth.png": COLOURS[THREE], "ids.png": THREE, "same.png": COLOURS[THREE]})
    write_palette(tmp_path / "palette.png", THREE, COLOURS.tolist())
    store(tmp_path / "mask.png", THREE, classes)
    truth = tmp_path / "truth.png"
    for name in ("same.png", "palette.png", "mask.png"):
        assert evaluate(tmp_path / name, truth).accuracy == 1
        assert evaluate(truth, tmp_path / name).accuracy == 1
    for one, other in (("ids.png", "truth.png"), ("truth.png", "ids.png")):
        with pytest.raises(DataError, match="#"):
            evaluate(tmp_path / one, tmp_path / other)
        assert len(evaluate(tmp_path / one, tmp_path / other, classes=["a", "b", "c"]).classes) == 3
    likely = np.eye(3, dtype=np.float32)[THREE].transpose(2, 0, 1)
    assert evaluate(store(tmp_path / "p.zarr", likely, classes), truth).accuracy == 1
    drawn = tuple(LabelClass(one.name, one.colour) for one in classes)
    assert evaluate(store(tmp_path / "q.zarr", likely, drawn), truth).accuracy == 1
    others = tuple(LabelClass(str(n), f"#00000{n}") for n in range(3))
    with pytest.raises(DataError, match="#c80000"):
        evaluate(store(tmp_path / "r.zarr", likely, others), truth)


def test_the_command_says_how_labels_are_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "t", grey(0, 255), predicted)
    write(tmp_path / "p", grey(0, 1), grey(0, 1))
    done = run("evaluate p/labels t/labels --json")
    assert (done.code, json.loads(done.out)["accuracy"]) == (0, 1)
    assert "Note: 1 (mask)" in done.err and "0 is 0, 1 is 255" in done.err
    red = np.stack([INSIDE[0] * 200, INSIDE[0] * 0, INSIDE[0] * 0], axis=-1)
    write_files(tmp_path, {"t.png": red, "p.png": INSIDE[0], "q.png": red})
    done = run("evaluate p.png t.png")
    assert "Note: " in done.err and "1 is #c80000" in done.err
    rows = [line.split() for line in run("evaluate q.png t.png").out.splitlines()]
    assert ["1", "#c80000", "#c80000", "#c80000"] in [row[:4] for row in rows]
