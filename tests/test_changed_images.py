"""A changed image must not keep its old mask, and a copy of an image is no other image."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import tifffile
import zarr
from command_line import Run, contents
from conftest import noise
from image_files import ome_zarr
from mask_files import mask_of

from tilesegment.images.identity import identity

PREDICT = "predict {} -m toy.safetensors --tile 88 --device cpu --out {}"


@pytest.fixture(autouse=True)
def here(folder: Path) -> None:
    """A working folder with models."""


def overwrite(store: str) -> None:
    """Other pixels in a Zarr array, through the array itself."""
    array = zarr.open_array(store, mode="r+")
    array[:] = 255 - np.asarray(array[:])


def save_zarr(**options: object) -> None:
    zarr.create_array("i.zarr", data=noise((130, 150)), chunks=(64, 64), **options)


@pytest.mark.parametrize("compressors", [None, "auto"])
@pytest.mark.parametrize(("zarr_format", "sharded"), [(2, False), (3, False), (3, True)])
def test_all_chunks_of_a_zarr(compressors: str | None, zarr_format: int, sharded: bool, run: Run) -> None:
    more = {"shards": (128, 128)} if sharded else {}
    save_zarr(zarr_format=zarr_format, compressors=compressors, **more)
    assert run(PREDICT.format("i.zarr", "m.zarr")).code == 0
    before = contents(Path("m.zarr"))
    overwrite("i.zarr")
    found = run(PREDICT.format("i.zarr", "m.zarr"))
    assert found.code == 1
    assert "content: " in found.err
    assert "--overwrite" in found.err
    assert contents(Path("m.zarr")) == before
    assert run(PREDICT.format("i.zarr", "m.zarr --overwrite")).code == 0
    run(PREDICT.format("i.zarr", "fresh.zarr"))
    np.testing.assert_array_equal(mask_of("m.zarr"), mask_of("fresh.zarr"))


@pytest.mark.parametrize("mask", ["m.zarr", "m.tif", "m.png"])
def test_one_pixel_of_an_uncompressed_image_of_one_size(mask: str, run: Run) -> None:
    pixels = noise((130, 150))
    save_zarr(compressors=None)
    tifffile.imwrite("i.tif", pixels)
    for image in ("i.zarr", "i.tif"):
        assert run(PREDICT.format(image, f"{image}.{mask}")).code == 0
    pixels[70, 80] ^= 255
    zarr.open_array("i.zarr", mode="r+")[70, 80] = pixels[70, 80]
    tifffile.imwrite("i.tif", pixels)
    for image in ("i.zarr", "i.tif"):
        assert run(PREDICT.format(image, f"{image}.{mask}")).code == 1


def test_a_mask_in_progress_and_a_level_of_an_ome_zarr(run: Run, small_blocks: None) -> None:
    ome_zarr("0.4", "cyx", 0.5)(Path(), noise((1, 130, 150)))
    assert run(PREDICT.format("image.zarr", "m.zarr --part 1/2")).code == 0
    overwrite("image.zarr/0")
    found = run(PREDICT.format("image.zarr", "m.zarr"))
    assert found.code == 1
    assert "begun with other settings (content: " in found.err


@pytest.mark.parametrize("copy", [shutil.copy, shutil.copy2])
def test_a_copy_goes_on_whatever_its_times(copy: object, run: Run) -> None:
    save_zarr()
    run(PREDICT.format("i.zarr", "m.zarr"))
    shutil.copytree("i.zarr", "elsewhere/i.zarr", copy_function=copy)
    for file in Path("elsewhere").rglob("*"):
        os.utime(file, (1, 1))
    found = run(PREDICT.format("elsewhere/i.zarr", "m.zarr --json"))
    assert json.loads(found.out)["blocks"] == 0
    assert "Note" not in found.err, "all of it was read, so nothing is in doubt"


def test_labels_and_consolidated_metadata_change_no_image(run: Run) -> None:
    image = ome_zarr("0.5", "cyx", 0.5)(Path(), noise((1, 130, 150)))
    before = identity(image)
    assert run(PREDICT.format("image.zarr", "image.zarr/labels/a")).code == 0
    document = json.loads((image / "zarr.json").read_text())
    (image / "zarr.json").write_text(json.dumps(document | {"consolidated_metadata": {"metadata": {"a": 1}}}))
    assert identity(image).digest == before.digest
    found = run(PREDICT.format("image.zarr", "image.zarr/labels/a --json"))
    assert json.loads(found.out)["blocks"] == 0


@pytest.mark.slow
def test_of_a_large_image_what_is_not_read_is_said(run: Run) -> None:
    """Of more than 64 MiB samples are compared."""
    zarr.create_array("i.zarr", data=np.zeros((8192, 8320), np.uint8), chunks=(8192, 8320), compressors=None)
    line = PREDICT.format("i.zarr", "m.zarr --roi 0:64,0:64")
    run(line)
    assert "Note" not in run(line).err
    with open("i.zarr/c/0/0", "r+b") as file:
        file.seek(5000)  # between the samples
        file.write(b"1")
    found = run(line)
    assert found.code == 0
    assert "Note: files of " in found.err
    assert "--overwrite" in found.err
    with open("i.zarr/c/0/0", "r+b") as file:
        file.write(b"1")
    assert run(line).code == 1
