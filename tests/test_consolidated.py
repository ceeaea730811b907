"""Masks in images whose metadata is consolidated: whoever opens the image sees them."""

import errno
import json
import multiprocessing
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from command_line import Run
from conftest import noise
from ome_zarr_files import axes_of, consolidate, consolidated, means, transformations, write_image

from tilesegment.files import in_turn

FORMATS = pytest.mark.parametrize("version", ["0.4", "0.5"])
PREDICT = "predict {} -m toy.safetensors --tile 88 -o {}"


def image_in(path: Path, version: str) -> Path:
    described = [transformations([n, n]) for n in (1, 2)]
    image = write_image(path, means(noise((64, 80)), 2), version, axes=axes_of("yx"), described=described)
    consolidate(image)
    return image


@FORMATS
def test_a_mask_is_seen_in_its_image(version: str, folder: Path, run: Run) -> None:
    image = image_in(folder / "a.zarr", version)
    before = [consolidated(image)[level][...] for level in "01"]
    for name in ("x", "y"):
        done = run(PREDICT.format(image, f"{image}/labels/{name}"))
        assert done.code == 0, done.err
        group = consolidated(image)
        assert sorted(key for key, _ in group["labels"].groups()) == ["x", "y"][: 1 + (name == "y")]
        for level in "01":
            stored = zarr.open_array(image / "labels" / name / level, mode="r")
            np.testing.assert_array_equal(group[f"labels/{name}/{level}"][...], stored[...])
        attributes: dict[str, Any] = dict(group[f"labels/{name}"].attrs)
        assert "image-label" in attributes.get("ome", attributes)
    labels: dict[str, Any] = dict(consolidated(image)["labels"].attrs)
    assert labels.get("ome", labels)["labels"] == ["x", "y"]
    for level, pixels in zip("01", before, strict=True):
        np.testing.assert_array_equal(consolidated(image)[level][...], pixels)


@FORMATS
def test_in_every_group_around_it(version: str, folder: Path, run: Run) -> None:
    """The labels may have copies of their own, and the image may lie in a larger store."""
    zarr.open_group(folder / "store.zarr", mode="w", zarr_format=2 if version == "0.4" else 3)
    image = image_in(folder / "store.zarr" / "0", version)
    assert run(PREDICT.format(image, f"{image}/labels/x")).code == 0
    for group in (image / "labels", image, folder / "store.zarr"):
        consolidate(group)
    assert run(PREDICT.format(image, f"{image}/labels/y")).code == 0
    for path, name in ((folder / "store.zarr", "0/labels"), (image, "labels")):
        assert sorted(key for key, _ in consolidated(path)[name].groups()) == ["x", "y"]
    # of v3 the list of labels is written into the same file, which then has no copies
    assert sorted(key for key, _ in zarr.open_group(image / "labels", mode="r").groups()) == ["x", "y"]


@FORMATS
def test_a_mask_that_is_replaced(version: str, folder: Path, run: Run) -> None:
    image = image_in(folder / "a.zarr", version)
    out = f"{image}/labels/x"
    assert run(PREDICT.format(image, out)).code == 0
    assert run(PREDICT.format(image, f"{out} --threshold 0.4 --overwrite")).code == 0
    decided: Any = consolidated(image)["labels/x"].attrs["tilesegment"]
    assert decided["fingerprint"]["threshold"] == 0.4


@FORMATS
def test_what_a_killed_run_left_undone_is_done_by_the_next(version: str, folder: Path, run: Run) -> None:
    image = image_in(folder / "a.zarr", version)
    name = ".zmetadata" if version == "0.4" else "zarr.json"
    before = (image / name).read_bytes()
    assert run(PREDICT.format(image, f"{image}/labels/x")).code == 0
    after = (image / name).read_bytes()
    (image / name).write_bytes(before)
    done = run(PREDICT.format(image, f"{image}/labels/x --json"))
    assert (done.code, json.loads(done.out)["blocks"]) == (0, 0)
    assert json.loads((image / name).read_bytes()) == json.loads(after)


@FORMATS
def test_a_store_without_copies_stays_without(version: str, folder: Path, run: Run) -> None:
    image = write_image(folder / "a.zarr", [noise((64, 80))], version, axes=axes_of("yx"))
    assert run(PREDICT.format(image, f"{image}/labels/x")).code == 0
    assert not list(image.rglob(".zmetadata"))
    assert not [path for path in image.rglob("zarr.json") if "consolidated_metadata" in json.loads(path.read_text())]


def test_copies_that_cannot_be_replaced_are_named(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The image may be read-only but for its labels: the mask is stored, and the next run says the same."""
    image = image_in(folder / "a.zarr", "0.4")

    def refuse(path: Path, document: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tilesegment.ome_zarr.labels.write_json", refuse)
    for _ in range(2):
        done = run(PREDICT.format(image, f"{image}/labels/x"))
        assert done.code == 1
        assert ".zmetadata" in done.err
        assert zarr.open_group(image / "labels/x", mode="r", use_consolidated=False)["0"].shape == (64, 80)


def _count(file: Path) -> None:
    """Adds to a number in a file, which is replaced each time."""
    for _ in range(40):
        with in_turn(file):
            file.with_name("new").write_text(str(int(file.read_text()) + 1))
            os.replace(file.with_name("new"), file)


def test_processes_take_turns_though_the_locked_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    others = [context.Process(target=_count, args=(tmp_path / "count",)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert (tmp_path / "count").read_text() == "120"
