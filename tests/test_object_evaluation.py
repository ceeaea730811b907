"""`evaluate` of objects: files of every kind, by blocks, and what their values stand for."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from compared_files import CLASSES, noisy, save, store
from compared_objects import GUESS, KINDS, TRUTH, as_geojson, nuclei
from conftest import data_folder
from data_sets import write_files
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from scipy import ndimage

from tilesegment import evaluate
from tilesegment.errors import TilesegmentError
from tilesegment.masks.reader import recorded_classes
from tilesegment.metadata import LabelClass
from tilesegment.objects.find import find_objects
from tilesegment.scoring import ObjectScore, object_scores
from tilesegment.scoring import instances as reading
from tilesegment.scoring.objects import pooled, tally
from tilesegment.scoring.overlaps import overlaps


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_every_kind_have_the_scores_of_their_ids(kind: str, tmp_path: Path) -> None:
    wanted = object_scores(TRUTH, GUESS)
    assert wanted.at[0].found > 20 and wanted.at[0].made_up > 0 and wanted.at[0].missed > 0
    (tmp_path / "p").mkdir()
    prediction, truth = KINDS[kind](tmp_path / "p", GUESS), save(tmp_path / "t.png", TRUTH)
    for objects in (None, True):
        found = evaluate(prediction, truth, objects=objects)
        assert (found.objects, found.kind, found.cells) == (wanted, "objects", None)
    (image,) = found.images
    assert (image.name, image.shape, image.objects) == ("t", TRUTH.shape, wanted)
    assert evaluate(truth, prediction).objects == object_scores(GUESS, TRUTH)
    both = np.count_nonzero((TRUTH > 0) & (GUESS > 0))
    assert found.confusion[1][1] == both and sum(map(sum, found.confusion)) == TRUTH.size
    assert found.classes[1].dice == pytest.approx(wanted.dice)
    told = json.loads(json.dumps(asdict(found)))
    assert told["objects"]["at"][0]["found"] == told["images"][0]["objects"]["at"][0]["found"] == wanted.at[0].found


def test_planes_are_scored_alone_and_pooled(tmp_path: Path) -> None:
    truths = np.stack([TRUTH, nuclei(70, 90, 1), 0 * TRUTH, nuclei(70, 90, 3, 5)])
    guesses = np.stack([GUESS, np.roll(truths[1], 1, 0), nuclei(70, 90, 2, 3), truths[3]])
    by_plane = evaluate(save(tmp_path / "p.tif", guesses), save(tmp_path / "t.tif", truths))
    for n, (guess, truth) in enumerate(zip(guesses, truths, strict=True)):
        write_files(tmp_path, {f"p/{n}_mask.png": guess, f"t/{n}.png": truth})
    by_file = evaluate(tmp_path / "p", tmp_path / "t")
    wanted = pooled([tally(overlaps(t, g)) for t, g in zip(truths, guesses, strict=True)])
    assert by_plane.objects == by_file.objects == wanted
    assert [one.objects for one in by_plane.images] == [
        object_scores(*one) for one in zip(truths, guesses, strict=True)
    ]
    assert [one.name for one in by_plane.images] == ["t[0]", "t[1]", "t[2]", "t[3]"]


@pytest.mark.parametrize("block", [1000, 32, 7])
@pytest.mark.parametrize("kind", ["Zarr", "GeoJSON"])
def test_blocks_do_not_change_the_scores(
    block: int, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tilesegment.labels.label.BLOCK", block)
    seen: list[float] = []
    prediction, truth = KINDS[kind](tmp_path, GUESS), save(tmp_path / "t.tif", TRUTH)
    found = evaluate(prediction, truth, report=lambda done, name: seen.append(done))
    assert found.objects == object_scores(TRUTH, GUESS)
    assert len(seen) == -(-70 // block) * -(-90 // block) and seen == sorted(seen) and seen[-1] == pytest.approx(1)


# --- what files hold


def test_regions_of_classes_are_the_objects_of_a_mask(tmp_path: Path) -> None:
    classes = (*CLASSES, LabelClass("other", "#56b4e9", 2))
    ids = (TRUTH % 3).astype(np.uint8)
    truth, wanted = save(tmp_path / "t.png", TRUTH), np.zeros(ids.shape, int)
    for value in (1, 2):
        pieces = ndimage.label(ids == value)[0]
        wanted[pieces > 0] = pieces[pieces > 0] + 1000 * value
    masks = {
        "ours": (store(tmp_path / "m.zarr", ids, classes), "regions of inside, other"),
        "a PNG of noise": (save(tmp_path / "m.png", ids), ""),
    }
    for path, note in masks.values():
        found = evaluate(path, truth, objects=True)
        assert found.objects == object_scores(TRUTH, wanted)
        assert any(note in one for one in found.notes)
        # the option is named where the files leave it open
        with pytest.raises(TilesegmentError, match="--objects"):
            evaluate(path, truth)
    two = save(tmp_path / "two.tif", (TRUTH > 0).astype(np.uint8) * 255)
    found = evaluate(two, truth, objects=True)
    assert found.objects == object_scores(TRUTH, ndimage.label(TRUTH > 0)[0])
    assert "one value besides 0: 255" in found.notes[0] and "4-connected" in found.notes[0]
    assert evaluate(two, save(tmp_path / "three.tif", (TRUTH > 0).astype(np.uint8))).kind == "classes"


@pytest.mark.parametrize("kind", ["ours", "a PNG", "a TIFF with a void"])
def test_regions_of_large_masks_are_numbered_on_the_disk(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, truth = (TRUTH % 3).astype(np.uint8), save(tmp_path / "t.png", TRUTH)
    classes = (*CLASSES, LabelClass("other", "#56b4e9", 2))
    if kind == "a TIFF with a void":
        ids[:9] = 255
        mask, options = save(tmp_path / "m.tif", ids), {"ignore": 255}
        pair = truth, mask
    else:
        mask, options = store(tmp_path / "m.zarr", ids, classes), dict[str, int]()
        pair = (mask if kind == "ours" else save(tmp_path / "m.png", ids)), truth
    found = evaluate(*pair, objects=True, **options)  # type: ignore[arg-type]
    monkeypatch.setattr(reading, "LARGEST", TRUTH.size - 1)
    large = evaluate(*pair, objects=True, **options, figure=tmp_path / "f.png")  # type: ignore[arg-type]
    assert large.objects == found.objects and large.notes == found.notes


def test_the_roles_of_classes_decide_as_in_the_command_objects(tmp_path: Path) -> None:
    cores = ndimage.binary_erosion(TRUTH > 0)
    mask = np.where(cores, 1, np.where(TRUTH > 0, 2, 0)).astype(np.uint8)
    classes = (
        LabelClass("background", "#000000", 0),
        LabelClass("core", "#e69f00", 1, role="object"),
        LabelClass("rim", "#56b4e9", 2, role="border"),
    )
    path = store(tmp_path / "m.zarr", mask, classes)
    find_objects(path, tmp_path / "ids.zarr")
    truth = save(tmp_path / "t.png", TRUTH)
    found = evaluate(path, truth, objects=True)
    by_itself = evaluate(tmp_path / "ids.zarr", truth)
    assert found.objects == by_itself.objects and found.objects is not None
    assert found.notes == (
        "the prediction holds classes: its objects are the 4-connected regions of core, and rim is given back to them",
    )
    assert found.confusion[1][1] > 0.9 * np.count_nonzero(TRUTH)


def test_a_mask_that_another_program_recoloured(tmp_path: Path) -> None:
    mask = store(tmp_path / "m.png", (TRUTH > 0).astype(np.uint8))
    wanted = object_scores(TRUTH, ndimage.label(TRUTH > 0)[0])
    truth = save(tmp_path / "t.png", TRUTH)
    assert evaluate(mask, truth, objects=True).objects == wanted
    with Image.open(mask) as picture:
        info = PngInfo()
        for key, text in picture.text.items():  # type: ignore[attr-defined]
            info.add_text(key, text)
        picture.convert("RGB").save(tmp_path / "rgb.png", pnginfo=info)
        palette = picture.getpalette()
        assert palette is not None
        turned = Image.fromarray(1 - np.asarray(picture))
        turned.putpalette([*palette[3:6], *palette[:3]])
        turned.save(tmp_path / "turned.png", pnginfo=info)
    for name in ("rgb", "turned"):
        assert recorded_classes(tmp_path / f"{name}.png", probabilities=False) == CLASSES
        assert evaluate(tmp_path / f"{name}.png", truth, objects=True).objects == wanted


def test_few_ids_are_read_as_ids_with_a_note(tmp_path: Path) -> None:
    few = np.where(TRUTH <= 3, TRUTH, 0)
    found = evaluate(save(tmp_path / "p.png", few), save(tmp_path / "t.png", np.roll(few, 1)), objects=True)
    assert found.objects is not None and found.objects.truth == np.unique(few).size - 1
    assert found.notes == (
        "the values of the prediction are read as ids of objects",
        "the values of the truth are read as ids of objects",
    )
    none = save(tmp_path / "none.png", np.zeros_like(few))
    found = evaluate(none, save(tmp_path / "t.png", TRUTH))
    assert found.objects == object_scores(TRUTH, 0 * TRUTH)
    found = evaluate(none, save(tmp_path / "other.png", np.zeros_like(few)), objects=True)
    assert found.objects == object_scores(0 * TRUTH, 0 * TRUTH)


def test_ignored_pixels_of_ids_and_of_regions(tmp_path: Path) -> None:
    truth, guess = TRUTH.astype(np.int32), (GUESS > 0).astype(np.uint8)
    truth[:20] = 99
    for value, pixels in ((99, truth), (-1, np.where(truth == 99, -1, truth))):
        path = save(tmp_path / "t.tif", pixels.astype(np.int32))
        found = evaluate(save(tmp_path / "p.tif", GUESS), path, ignore=value)
        assert found.objects == object_scores(truth, GUESS, 99) and found.ignored == 20 * 90
        found = evaluate(save(tmp_path / "g.tif", guess), path, ignore=value, objects=True)
        assert found.objects == object_scores(truth, ndimage.label(guess)[0], 99)
    mask = np.where(truth == 99, 255, truth > 0).astype(np.uint8)
    found = evaluate(save(tmp_path / "p.tif", GUESS), save(tmp_path / "m.tif", mask), ignore=255, objects=True)
    pieces = np.where(mask == 255, -1, ndimage.label(mask == 1)[0])
    assert found.objects == object_scores(pieces, GUESS, -1)
    with pytest.raises(TilesegmentError, match="ignored value 99"):
        evaluate(tmp_path / "p.tif", save(tmp_path / "a.tif", np.full_like(TRUTH, 99)), ignore=99, objects=True)


def test_outlines_that_overlap_or_hold_no_pixel_are_told(tmp_path: Path) -> None:
    def square(y: float, x: float, side: float) -> dict[str, object]:
        ring = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
        return {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": [ring]}}

    features = [square(2, 2, 8), square(5, 5, 8), square(30, 30, 0.3), square(500, 20, 9), square(40, 40, 5)]
    path = tmp_path / "t.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    drawn = np.zeros(TRUTH.shape, np.uint8)
    drawn[2:10, 2:10], drawn[5:13, 5:13], drawn[40:45, 40:45] = 1, 2, 5
    found = evaluate(save(tmp_path / "p.png", drawn), path)
    assert found.objects is not None and found.objects.at[2].ap == 1
    assert found.notes[-2:] == (
        f"{path}: outlines overlap; 25 pixels are counted for the later one",
        f"{path}: 2 of 5 outlines hold no pixel of their own and are left out",
    )


def test_two_files_of_outlines_and_folders_of_them(tmp_path: Path) -> None:
    for part in ("p", "t"):
        (tmp_path / part).mkdir()
    for n in range(3):
        as_geojson(tmp_path / "p" / f"{n}_pred.geojson", np.roll(TRUTH, n, 0))
        as_geojson(tmp_path / "t" / f"{n}.geojson", TRUTH)
    found = evaluate(tmp_path / "p", tmp_path / "t")
    assert [one.name for one in found.images] == ["0", "1", "2"]
    assert [one.objects for one in found.images] == [object_scores(TRUTH, np.roll(TRUTH, n, 0)) for n in range(3)]
    image = save(tmp_path / "i.png", np.zeros((99, 111), np.uint8))
    one = evaluate(
        tmp_path / "p" / "1_pred.geojson", tmp_path / "t" / "1.geojson", image=image, figure=tmp_path / "f.png"
    )
    assert one.pixels == 99 * 111
    # beside images, outlines are no labels
    for n in range(3):
        save(tmp_path / "t" / f"{n}.png", TRUTH)
    assert evaluate(tmp_path / "p", tmp_path / "t").objects == found.objects


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": True, "instances": True}, "--instances .*--objects"),
        ({"objects": True, "cells": True}, "--cells .*--objects"),
        ({"objects": True, "classes": ("a", "b")}, "--classes .*--objects"),
        ({"objects": False}, "--objects"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, object], message: str, tmp_path: Path) -> None:
    prediction, truth = save(tmp_path / "p.png", GUESS), save(tmp_path / "t.png", TRUTH)
    with pytest.raises(TilesegmentError, match=message):
        evaluate(prediction, truth, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objects": False}, "--no-objects"),
        ({"instances": True}, "--instances"),
        ({"cells": True}, "--cells"),
        ({"ignore": 255}, "--ignore"),
    ],
)
def test_outlines_are_objects_and_nothing_else(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    prediction, truth = save(tmp_path / "p.png", GUESS), as_geojson(tmp_path / "t.geojson", TRUTH)
    with pytest.raises(TilesegmentError, match=message):
        evaluate(prediction, truth, **options)


def test_what_holds_no_objects_is_refused(tmp_path: Path) -> None:
    truth, likely = save(tmp_path / "t.png", TRUTH), noisy(TRUTH > 0)
    probabilities = store(tmp_path / "p.zarr", np.stack([1 - likely, likely]))
    grey = np.random.default_rng(0).integers(0, 200, TRUTH.shape, np.uint8)
    for path, message in (
        (probabilities, "probabilities"),
        (save(tmp_path / "p.tif", likely), "not whole"),
        (save(tmp_path / "grey.png", grey), "values in .* pieces each"),
        (save(tmp_path / "small.png", GUESS[:-1]), "69 x 90"),
        (save(tmp_path / "negative.tif", np.where(GUESS == 7, -7, GUESS).astype(np.int16)), "holds -7"),
        (tmp_path / "nothing.geojson", "does not exist"),
    ):
        with pytest.raises(TilesegmentError, match=message) as caught:
            evaluate(path, truth, objects=True)
        assert "\n" not in str(caught.value)


def test_real_nuclei(tmp_path: Path) -> None:
    folder = data_folder("nuclei-fluo")
    for part in ("t", "p"):
        (tmp_path / part).mkdir()
    for path in sorted((folder / "labels").iterdir())[:5]:
        (tmp_path / "t" / path.name).symlink_to(path)
        with Image.open(path) as picture:
            tifffile.imwrite(tmp_path / "p" / f"{path.stem}.tif", np.array(picture).astype(np.uint32) * 3)
    found = evaluate(tmp_path / "p", tmp_path / "t")
    assert isinstance(found.objects, ObjectScore)
    assert (found.objects.mean_ap, found.objects.pq, found.objects.aji, found.objects.dice) == (1, 1, 1, 1)
    assert found.objects.truth > 100


@pytest.mark.parametrize("suffix", ["geojson", "geojson.gz"])
def test_what_the_command_objects_writes_is_read_back_exactly(suffix: str, tmp_path: Path) -> None:
    stack = np.stack([TRUTH, 0 * TRUTH, GUESS]).astype(np.uint32)
    stack[0, 20:40, 20:40][stack[0, 20:40, 20:40] == 0] = 2000  # with holes
    path = save(tmp_path / "ids.tif", stack)
    find_objects(path, tmp_path / f"cells.{suffix}", tmp_path / "cells.zarr")
    for other in (path, tmp_path / "cells.zarr"):
        found = evaluate(tmp_path / f"cells.{suffix}", other)
        assert found.objects is not None and found.objects.at[2].found == found.objects.truth > 60
        assert (found.objects.pq, found.objects.mean_ap, found.accuracy) == (1, 1, 1)
        assert not any("outlines" in note for note in found.notes)
