"""Training at one pixel size on images of several: what is read, what is said, what the model knows."""

import json
from fractions import Fraction
from math import ceil, floor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from annotation_files import geojson, write_json
from command_line import Run
from conftest import noise
from data_sets import cells, write_pairs, write_stack
from hypothesis import example, given, settings
from hypothesis import strategies as st
from toy_training import TOY, same, stop_after, toy_run, weights

import tilesegment
from tilesegment import DataError, PlanError, Region
from tilesegment.images import ResampledSource, open_image
from tilesegment.labels.annotations import open_annotation
from tilesegment.labels.label import Label
from tilesegment.labels.resampled import at_centres, resampled_shape
from tilesegment.metadata import PixelSize
from tilesegment.training.data import open_dataset, reading, summary
from tilesegment.training.run import train


def write_image(path: Path, pixels: np.ndarray, um: float | tuple[float, float] | None) -> None:
    """A TIFF whose pixels have a side of `um` (y, x) micrometres."""
    path.parent.mkdir(parents=True, exist_ok=True)
    y, x = um if isinstance(um, tuple) else (um, um)
    said: dict[str, Any] = {} if x is None or y is None else {"resolution": (1e4 / x, 1e4 / y)}
    tifffile.imwrite(path, pixels, tile=(64, 64), **said, **({"resolutionunit": "CENTIMETER"} if said else {}))


def scanners(folder: Path, *sizes: float | tuple[float, float] | None, side: int = 120) -> Path:
    """A data set of one image from each scanner, of classes 0 and 255."""
    for number, um in enumerate(sizes):
        image, inside = cells(side + number, side, number)
        write_image(folder / "images" / f"{number}.tif", image, um)
        write_image(folder / "labels" / f"{number}.tif", np.where(inside, 255, 0).astype(np.uint8), None)
    return folder


def sampled(label: np.ndarray, shape: tuple[int, int], step: tuple[float, float]) -> np.ndarray:
    """By the definition, pixel by pixel in fractions."""
    rows, columns = (
        [min(floor(Fraction(2 * i + 1, 2) * Fraction(s).limit_denominator(10_000)), side - 1) for i in range(n)]
        for n, s, side in zip(shape, step, label.shape, strict=True)
    )
    return label[np.ix_(rows, columns)]


# labels


@given(*[st.integers(1, 60)] * 2, *[st.integers(1, 400)] * 2, *[st.floats(0, 1)] * 4)
@example(60, 60, 160, 25, 0.1, 0.7, 0.3, 0.9)
@example(1, 1, 400, 1, 0, 1, 0, 1)
def test_a_label_pixel_is_the_one_at_its_centre(
    height: int, width: int, over: int, more: int, top: float, bottom: float, left: float, right: float
) -> None:
    """Whatever part is read at once, and only pixels whose centre lies in the image."""
    pixels = np.arange(1, height * width + 1).reshape(height, width)
    scale = (over / 25, more / 25)
    shape = resampled_shape(pixels.shape, scale)
    for side, n, step in zip(pixels.shape, shape, (Fraction(over, 25), Fraction(more, 25)), strict=True):
        assert n == max(ceil(side / step - Fraction(1, 2)), 1), "centres within the image"
    label = at_centres(Label(pixels.shape, 1, "grey", lambda r, z: pixels[r.slices]), shape, scale)
    whole = label.read(Region.of_shape(shape), 0)
    np.testing.assert_array_equal(whole, sampled(pixels, shape, scale))
    y0, x0 = int(min(top, bottom) * (shape[0] - 1)), int(min(left, right) * (shape[1] - 1))
    part = Region(y0, x0, ceil(max(top, bottom) * shape[0]) or 1, ceil(max(left, right) * shape[1]) or 1)
    np.testing.assert_array_equal(label.read(part, 0), whole[part.slices])


def test_a_label_is_read_in_bands(monkeypatch: pytest.MonkeyPatch) -> None:
    """However much smaller it becomes, few of its pixels are in memory."""
    from tilesegment.labels import resampled

    monkeypatch.setattr(resampled, "READ", 4000)
    pixels, most = np.arange(900 * 640).reshape(900, 640), []

    def read(region: Region, z: int) -> np.ndarray:
        most.append(region.area)
        return pixels[region.slices]

    shape = resampled_shape(pixels.shape, (9.5, 8.0))
    label = at_centres(Label(pixels.shape, 1, "grey", read), shape, (9.5, 8.0))
    np.testing.assert_array_equal(label.read(Region.of_shape(shape), 0), sampled(pixels, shape, (9.5, 8.0)))
    assert len(most) > 90 and max(most) <= 9.5 * 640


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 60)] * 4), min_size=1, max_size=5), *[st.integers(3, 400)] * 2)
@example([(0, 0, 60, 60)], 40, 50)
@example([(2, 4, 30, 32), (4, 4, 60, 8)], 200, 160)
def test_outlines_are_drawn_anew_and_equal_their_image_sampled(
    tmp_path_factory: pytest.TempPathFactory, boxes: list[tuple[int, int, int, int]], over: int, more: int
) -> None:
    """A centre lies in a square if the pixel below it does."""
    boxes = [(min(a, c), min(b, d), max(a, c) + 1, max(b, d) + 1) for a, b, c, d in boxes]
    path = write_json(tmp_path_factory.mktemp("o") / "o.geojson", geojson(tuple(boxes), (None,) * len(boxes)))
    scale, stored = (over / 25, more / 25), (61, 64)
    shape = resampled_shape(stored, scale)
    with open_annotation(path, None, stored, 1, "image") as as_drawn:
        ids = as_drawn.read(Region.of_shape(stored), 0)
    with open_annotation(path, None, stored, 1, "image", (shape, scale)) as label:
        assert label.shape == shape
        np.testing.assert_array_equal(label.read(Region.of_shape(shape), 0), sampled(ids, shape, scale))


# data sets


def test_images_of_different_scanners_become_one_size(tmp_path: Path) -> None:
    sizes: list[Any] = [0.25, 0.5, 0.365, (0.3, 0.7), 0.498]
    folder = scanners(tmp_path / "d", *sizes)
    data = open_dataset(folder, mpp=0.5)
    assert data.pixel_size == PixelSize(0.5, 0.5)
    for number, (section, um) in enumerate(zip(data.sections, sizes, strict=True)):
        step = tuple(round(0.5 / side, 9) for side in (um if isinstance(um, tuple) else (um, um)))
        with open_image(folder / "images" / f"{number}.tif") as source:
            pixels = source.read(Region.of_shape(source.shape))
            if um not in (0.5, 0.498):  # within 2 % it is read as it is, as in prediction
                resampled = ResampledSource(source, (step[0], step[1]))
                pixels = resampled.read(Region.of_shape(resampled.levels[1].shape), 1)
        height, width = section.label.shape
        np.testing.assert_array_equal(section.image, pixels[:, :height, :width])
        assert all(0 <= full - side <= 1 for full, side in zip(pixels.shape[1:], (height, width), strict=True))
        label = tifffile.imread(folder / "labels" / f"{number}.tif") > 0
        step = (1.0, 1.0) if um == 0.498 else step
        np.testing.assert_array_equal(section.label, sampled(label, (height, width), (step[0], step[1])))
    table = [" ".join(line.split()) for line in summary(data, ()).splitlines()]
    assert table[4:10] == [
        "pixel size 0.5 x 0.5 micrometres (y, x), to which images are brought:",
        "0.25 um, factor 2, resampled: 0",
        "0.5 um, factor 1, level 0 as it is: 1",
        "0.365 um, factor 1.37, resampled: 2",
        "0.3 x 0.7 um, factor 1.667 x 0.7143, resampled: 3",
        "0.498 um, factor 1, level 0 as it is: 4",
    ]


def test_without_a_size_to_train_at_the_table_says_what_there_is(tmp_path: Path) -> None:
    data = open_dataset(scanners(tmp_path / "d", 0.25, 1.0, None))
    assert (data.pixel_size, data.sections[0].label.shape) == (None, (120, 120))
    table = " ".join(summary(data, ()).split())
    assert "pixel size of several sizes: 0.25 um: 0 1 um: 1 unknown: 2 " in table
    assert "images have pixels of 0.25 to 1 um, so that the same object is of several sizes: --mpp 1 brings" in table
    assert open_dataset(write_pairs(tmp_path / "bare", 2), source_mpp=0.5).pixel_size == PixelSize(0.5, 0.5)


def test_one_size_for_all_images_replaces_what_their_files_say(tmp_path: Path) -> None:
    wrong = open_dataset(scanners(tmp_path / "wrong", 0.25, 0.25), source_mpp=0.5, mpp=1)
    assert [one.size for one in wrong.read_as] == [PixelSize(0.5, 0.5)] * 2
    assert any("says that its pixels are 0.25 um: 0.5 are taken" in note for note in wrong.notes)
    right = open_dataset(scanners(tmp_path / "right", 0.25, None), source_mpp=0.25, mpp=0.5)
    assert [one.label.shape for one in right.sections] == [(60, 60)] * 2


@pytest.mark.parametrize("sizes", [(0.25, 1.0), (0.25, None)])
def test_one_size_for_images_of_several_is_refused(tmp_path: Path, sizes: tuple[float | None, ...]) -> None:
    with pytest.raises(DataError, match=r"--source-mpp 0\.5 counts for all .* several sizes \(0: 0\.25, 1: "):
        open_dataset(scanners(tmp_path / "d", *sizes), source_mpp=0.5)


def test_what_the_labels_mean_is_decided_by_their_files(tmp_path: Path) -> None:
    """A class that is lost at the wanted size is a class all the same, and ids stay whole."""
    folder = scanners(tmp_path / "d", 0.25, 0.25)
    label = np.zeros((120, 120), np.uint8)
    label[:60], label[3, 2::4] = 100, 200
    write_image(folder / "labels" / "0.tif", label, None)
    data = open_dataset(folder, mpp=0.5)
    assert [one.value for one in data.classes] == [0, 100, 200, 255]
    assert "class value 200 has 0 % of the labelled pixels" in " ".join(data.warnings)
    ids = np.repeat(np.repeat(np.arange(1, 65).reshape(8, 8), 15, 0), 15, 1).astype(np.uint16)
    for number in range(2):
        write_image(folder / "labels" / f"{number}.tif", np.pad(ids, ((0, number), (0, 0))), None)
    objects = open_dataset(folder, mpp=0.365).sections[0].objects
    assert objects is not None
    np.testing.assert_array_equal(objects, sampled(ids, objects.shape, (0.365 / 0.25,) * 2))


def test_outlines_and_their_regions_are_of_the_wanted_size(tmp_path: Path) -> None:
    boxes = ((2, 2, 12, 12), (2, 12, 12, 22), (30, 40, 50, 60))
    document = geojson(boxes, (None,) * 3)
    region = geojson(((0, 0, 60, 62),), ("Region*",))["features"][0]
    region["properties"]["objectType"] = "annotation"
    write_image(tmp_path / "a.tif", noise((64, 64)), 0.25)
    write_json(tmp_path / "a.geojson", {**document, "features": [*document["features"], region]})
    (section,) = open_dataset(tmp_path, mpp=0.5).sections
    objects = section.objects
    assert objects is not None and objects.shape == (32, 32)
    for number, (y0, x0, y1, x1) in enumerate(boxes, 1):
        assert (objects[y0 // 2 : y1 // 2, x0 // 2 : x1 // 2] == number).all()
    assert np.count_nonzero(objects) == 25 + 25 + 100
    assert (section.label[30:] == 255).all() and (section.label[:, 31:] == 255).all() and section.label[29, 30] == 0


def test_of_a_large_image_labelled_parts_alone_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WHOLE", 100 * 100)
    monkeypatch.setattr(reading, "GRID", 16)
    image, label = noise((400, 600)), np.full((400, 600), 9, np.uint8)
    label[100:160, 200:300] = np.arange(100) // 50
    write_image(tmp_path / "images" / "a.tif", image, 0.4)
    write_image(tmp_path / "labels" / "a.tif", label, None)
    (part,) = open_dataset(tmp_path, ignore=9, mpp=0.6).sections
    assert part.name == "a@48,112"
    monkeypatch.setattr(reading, "WHOLE", 10**9)
    (whole,) = open_dataset(tmp_path, ignore=9, mpp=0.6).sections
    assert whole.label.shape == (267, 400)
    height, width = part.label.shape
    there = (slice(48, 48 + height), slice(112, 112 + width))
    np.testing.assert_array_equal(part.image, whole.image[:, *there])
    np.testing.assert_array_equal(part.label, whole.label[there])
    assert np.count_nonzero(whole.label != 255) == np.count_nonzero(part.label != 255) > 0


def test_stacks_and_files_for_each_channel_are_brought_to_the_size(tmp_path: Path) -> None:
    planes = open_dataset(write_stack(tmp_path / "stack", 3), source_mpp=0.2, mpp=0.3).sections
    assert [(one.name, one.label.shape) for one in planes] == [(f"volume[{n}]", (40, 40)) for n in range(3)]
    for channel in range(2):
        write_image(tmp_path / "c" / "images" / f"case_000{channel}.tif", noise((60, 80), channel), 0.5)
    write_image(tmp_path / "c" / "labels" / "case.tif", noise((60, 80)) // 128, None)
    (section,) = open_dataset(tmp_path / "c", mpp=1).sections
    assert (section.image.shape, section.label.shape) == ((2, 30, 40), (30, 40))


# what cannot be


@pytest.mark.parametrize(
    ("sizes", "chosen", "named"),
    [
        ((0.5, None), {"mpp": 0.5}, "image 1 does not say .*--source-mpp MICRONS.* or leave --mpp out"),
        ((0.5,), {"mpp": 500.0}, "a pixel would span 1000 of those of level 0; allowed: 1/16 to 16"),
        ((0.5,), {"mpp": 0.01}, "a pixel would span 0.02 of those"),
        ((None,), {"mpp": 0.5, "source_mpp": 100.0}, "a pixel would span 0.005"),
    ],
)
def test_sizes_that_cannot_be_are_refused(
    sizes: tuple[float | None, ...], chosen: dict[str, float], named: str, tmp_path: Path
) -> None:
    with pytest.raises((DataError, PlanError), match=named):
        open_dataset(scanners(tmp_path / "d", *sizes), **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("given", ["--mpp 0", "--mpp -1", "--mpp nan", "--mpp inf", "--source-mpp 0"])
def test_numbers_that_are_no_size_are_refused_before_data_are_read(given: str, folder: Path, run: Run) -> None:
    (folder / "data").mkdir()  # which holds nothing that could be read
    found = run(f"train data --steps 1 {given}")
    assert (found.code, found.err.count("\n")) == (1, 1), found.err
    assert f"{given.split()[0]} is {float(given.split()[1])}; allowed: 1e-06 to 1e+06" in found.err


# runs


def test_the_model_knows_the_size_it_was_trained_at(tmp_path: Path) -> None:
    """The run is the same as one on images that were resampled before, and goes on as it began."""
    data = scanners(tmp_path / "d", 0.25, 0.5, 0.25, side=160)
    run = toy_run(data, tmp_path / "once", mpp=0.5)
    header = tilesegment.describe(run.model)
    assert header["pixel_size_um"] == [0.5, 0.5]
    assert header["training"]["settings"]["mpp"] == 0.5
    assert "0.25 um, factor 2, resampled: 0, 2" in (tmp_path / "once" / "report.html").read_text()
    for section in open_dataset(data, mpp=0.5).sections:
        write_image(tmp_path / "e" / "images" / f"{section.name}.tif", section.image[0], 0.5)
        write_image(tmp_path / "e" / "labels" / f"{section.name}.tif", section.label * np.uint8(255), None)
    before = toy_run(tmp_path / "e", tmp_path / "before")
    assert same(weights(run.model), weights(before.model))
    assert run.scores is not None and run.scores == before.scores, "scored at that size, too"
    with pytest.raises(KeyboardInterrupt):
        train(data, tmp_path / "stopped", mpp=0.5, steps=3, **TOY, report=stop_after(2))
    with pytest.raises(PlanError, match=r"begun with --mpp 0\.5, not 0\.25"):
        train(data, tmp_path / "stopped", resume=True, mpp=0.25)
    resumed = train(data, tmp_path / "stopped", resume=True)
    assert same(weights(resumed.model), weights(run.model))
    again = train(data, tmp_path / "again", config=tmp_path / "once" / "config.json")
    assert same(weights(again.model), weights(run.model))
    assert json.loads((tmp_path / "again" / "config.json").read_text())["settings"]["mpp"] == 0.5


def test_a_given_size_reaches_the_model_where_files_say_none(tmp_path: Path) -> None:
    run = toy_run(write_pairs(tmp_path / "d", 2), tmp_path / "r", source_mpp=0.25, steps=1)
    assert tilesegment.describe(run.model)["pixel_size_um"] == [0.25, 0.25]
